#!/bin/sh
# Feeds every target for SECONDS each, and ends with the first input that breaks a promise: `run.sh SECONDS [TARGET…]`.
#
# The corpus in git is where each begins; what is found on the way is kept in target/fuzz/corpus and used again.
# Stable Rust does: without a sanitizer, coverage needs no flag of the nightly one.
set -eu
seconds=${1:?how many seconds each target is run}
shift
cd "$(dirname "$0")/../.."

VERSION=0.13.2
MOST_BYTES=4096     # of an input
MOST_MEGABYTES=512  # of a process, whoever takes them
LONGEST=10          # seconds for one input

tests/needs.sh fuzz
tools=$PWD/target/cargo-fuzz
if [ ! -x "$tools/bin/cargo-fuzz" ]; then
    echo "building cargo-fuzz $VERSION into target/cargo-fuzz"
    cargo install --quiet --locked --root "$tools" cargo-fuzz --version $VERSION
fi
PATH=$tools/bin:$PATH
fuzz() {
    command=$1
    shift
    cargo fuzz "$command" --fuzz-dir tests/fuzz --sanitizer none --target-dir target/fuzz "$@"
}
fuzz build
# Looking up the names for a backtrace takes longer than an input may.
export RUST_BACKTRACE=0
programs=target/fuzz/$(rustc -vV | sed -n 's/^host: //p')/release

# shellcheck disable=SC2046
[ $# -gt 0 ] || set -- $(cargo fuzz list --fuzz-dir tests/fuzz)
for target in "$@"; do
    found=target/fuzz/found/$target
    kept=target/fuzz/corpus/$target
    mkdir -p "$found" "$kept"
    log=target/fuzz/$target.log
    if "$programs/$target" "$kept" "tests/fuzz/corpus/$target" -artifact_prefix="$found/" \
        -max_total_time="$seconds" -max_len=$MOST_BYTES -rss_limit_mb=$MOST_MEGABYTES -timeout=$LONGEST \
        -print_final_stats=1 >"$log" 2>&1; then
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, nothing found"
    else
        grep -v '^#' "$log" | tail -n 40
        echo "$target: a promise is broken; the input is in $found" >&2
        exit 1
    fi
done
