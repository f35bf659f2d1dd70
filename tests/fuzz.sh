#!/usr/bin/env bash
# The long form of fuzzing: coverage-guided, each target for a while, starting
# from the corpus. What it finds stays in tests/fuzz/artifacts; put it into the
# corpus with its mend, so that the suite replays it (tests/fuzz.rs).
#
#   tests/fuzz.sh [SECONDS [TARGET...]]      30 minutes each without arguments
set -euo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../packaging/common.sh"
cd "$here"

seconds=${1:-1800}
case $seconds in '' | *[!0-9]*) die "it takes a number of seconds, then targets; not '$seconds'." ;; esac
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then mapfile -t targets < <(basename -s .rs tests/fuzz/fuzz_targets/*.rs); fi
find_cargo
cargo fuzz --version >/dev/null 2>&1 || { say "installing cargo-fuzz"; cargo install --locked cargo-fuzz; }
for target in "${targets[@]}"; do
    [ -e "tests/fuzz/fuzz_targets/$target.rs" ] || die "there is no target '$target' in tests/fuzz/fuzz_targets."
    say "$target for $seconds s"
    # What is learned goes into a folder of its own; the corpus in git is for people.
    mkdir -p "tests/fuzz/learned/$target"
    cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz --sanitizer none "$target" \
        "tests/fuzz/learned/$target" "tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -print_final_stats=1
done
