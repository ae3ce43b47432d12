# make run    build and start larder with its defaults
# make test   install what the tests need, then format, lints and all tests
# make faults the long form of what make test has of faults, fuzzing, and each step of the protocol left out: hours
# make deb    the Debian package, in target/debian
# make demo   the whole way on this machine, without the internet
# make image  the container image larder:<version>, with buildah, podman or docker; see deploy/image.sh
# make bench  larder beside nginx and others: a table and a picture in target/bench.md and .svg; ROWS=hits,miss for a part
# make steps  each step of a hit and of a miss by itself: times and allocations
# make instructions  the hit path in instructions, which other work on this machine does not change
# make peers  the same faults for larder, nginx and a pull-through registry: a table in target/peers.md

.PHONY: run test faults deb demo image bench steps instructions peers

# Kernels of arm64 have pages of 4, 16 or 64 KiB, and the allocator is made for one size: it works with smaller ones.
ifeq ($(shell uname -m),aarch64)
export JEMALLOC_SYS_WITH_LG_PAGE = 16
endif

run:
	@tests/needs.sh build
	cargo run --release --locked -- $(ARGS)

# Most tests wait for something most of the time.
test: export RUST_TEST_THREADS ?= $(shell n=$$(nproc); [ $$n -gt 4 ] && echo 8 || expr 2 \* $$n)
test:
	@tests/needs.sh test
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings
	cargo test --locked
	cargo test --locked --lib --features interleave interleave

faults:
	@tests/needs.sh test
	@tests/needs.sh fuzz
	@tests/needs.sh cosign
	LARDER_FAULTS=long cargo test --locked
	LARDER_FAULTS=long cargo test --locked --lib --features interleave interleave
	tests/without.sh
	tests/fuzz/run.sh 60

deb:
	@tests/needs.sh deb
	cargo build --release --locked
	deploy/debian/package.sh target/release/larder target/debian

demo:
	@tests/needs.sh demo
	cargo build --release --locked
	deploy/demo.sh target/release/larder

image:
	@deploy/image.sh $(IMAGE_FLAGS)

bench:
	@tests/needs.sh bench
	cargo build --release --locked
	benches/table.py target/release/larder '$(ROWS)'

# With ARGS a part: make steps ARGS=hit
steps:
	@tests/needs.sh build
	cargo bench --locked --bench steps -- $(ARGS)

instructions:
	@tests/needs.sh instructions
	cargo build --profile profiling --locked
	benches/instructions.sh target/profiling/larder

peers:
	@tests/needs.sh peers
	cargo build --release --locked
	tests/peers.sh target/release/larder >target/peers.md
	@cat target/peers.md
