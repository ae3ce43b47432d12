#!/usr/bin/env bash
# Takes each step that the promises rest on (src/proof.rs) out of a build, and wants the tests to fail without it.
set -eu
cd "$(dirname "$0")/.."

# Which tests guard a step; the whole suite would notice too, and take an hour.
declare -A guards=(
    [nothing]="reorder:: trust:: errors::a_piece disk:: routes::a_module_damaged draft:: record:: signature::"
    [sync]="reorder::"
    [verify_manifest]="trust::"
    [verify_layer]="trust::"
    [verify_read_back]="errors::a_piece"
    [verify_load]="trust:: disk::"
    [verify_piece]="routes::a_module_damaged trust::"
    [verify_spilled]="draft::"
    [verify_record]="record::"
    [verify_signature]="signature::"
)
steps=$(sed -n 's/^ *(Step::[A-Za-z]*, "\([a-z_]*\)"),$/\1/p' src/proof.rs)
[ "$(wc -w <<<"$steps")" -ge 10 ] || {
    echo "the steps cannot be read from src/proof.rs" >&2
    exit 1
}
unnoticed=
# First nothing is left out: what is red then proves nothing.
for step in nothing $steps; do
    filter=${guards[$step]:-${guards[${step%%_*}]:?no tests are named for $step}}
    # A folder of its own: what is built without a step must never be taken for larder.
    # shellcheck disable=SC2086
    if LARDER_WITHOUT=$step cargo test --quiet --locked --target-dir target/without -- $filter >"target/without.log" 2>&1; then
        [ "$step" = nothing ] || unnoticed="$unnoticed $step"
        echo "without $step: the tests are green"
    elif [ "$step" != nothing ] && grep -qE '^test result: FAILED' target/without.log; then
        echo "without $step: noticed by $(grep -cE '^    [a-z_]+::' target/without.log) tests"
    else
        echo "without $step: it cannot be built, or is red as it is" >&2
        tail -n 20 target/without.log >&2
        exit 1
    fi
done
[ -z "$unnoticed" ] || {
    echo "nothing notices that this is left out:$unnoticed" >&2
    exit 1
}
