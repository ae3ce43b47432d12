# make run    build and start larder with its defaults
# make test   install what the tests need, then format, lints and all tests
# make demo   the whole way on this machine, without the internet
# make bench  the hit path beside nginx

.PHONY: run test demo bench

run:
	@tests/needs.sh build
	cargo run --release --locked -- $(ARGS)

test:
	@tests/needs.sh test
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings
	cargo test --locked

demo:
	@tests/needs.sh demo
	cargo build --release --locked
	deploy/demo.sh target/release/larder

bench:
	@tests/needs.sh bench
	cargo build --release --locked
	benches/hits.sh target/release/larder
