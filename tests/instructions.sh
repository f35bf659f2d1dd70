#!/usr/bin/env bash
# Counts the instructions of the packet path under valgrind's callgrind, and
# compares them with tests/instructions.tsv: more than 3 % above the record is a
# slow-down, and fails; more than 3 % below it fails too, so that the record
# follows and what was won is kept. Counts are the same on an idle and on a busy
# machine. No network, no root.
#
#     tests/instructions.sh                  compare
#     tests/instructions.sh --update         write the record anew
#     tests/instructions.sh --profile CASE   which functions they are spent in
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

record=tests/instructions.tsv
tolerance=3
build=${CARGO_TARGET_DIR:-$PWD/target}
program=$build/release/examples/instructions
machine=$(uname -m)

command -v valgrind >/dev/null || { echo "valgrind is needed: apt-get install valgrind" >&2; exit 1; }
cargo build --quiet --locked --release --example instructions
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# Instructions of one case and how often it ran. The environment is empty and the C
# library's copying the plain one, so that neither moves the figures between machines.
count() {
    local times
    times=$(env -i GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-ERMS,-FSRM,-Prefer_No_VZEROUPPER \
        valgrind --quiet --tool=callgrind --callgrind-out-file="$out/$1" --collect-atstart=no \
        '--toggle-collect=*counted_*' "$program" "$1" 2>"$out/$1.log") || { cat "$out/$1.log" >&2; return 1; }
    awk -v times="$times" '/^(summary|totals):/ { n = $2 } END { if (n < 1) exit 1; printf "%.0f\n", n / times }' "$out/$1"
}

if [ "${1:-}" = --profile ] && [ $# -eq 2 ]; then
    count "$2" >/dev/null
    callgrind_annotate --auto=no --inclusive=yes --threshold=99 "$out/$2"
    exit
fi
case $# in
0) update=false ;;
1) [ "$1" = --update ] || { echo "--update, --profile CASE, or nothing" >&2; exit 2; }; update=true ;;
*) echo "--update, --profile CASE, or nothing" >&2; exit 2 ;;
esac

recorded() { awk -F '\t' -v key="$machine" -v name="$1" '$1 == key && $2 == name { print $3 }' "$record"; }

failed=0
new=$out/new
if [ -e "$record" ]; then awk -F '\t' -v key="$machine" '/^#/ || $1 != key' "$record" >"$new"; fi
while IFS= read -r name; do
    now=$(count "$name")
    printf '%s\t%s\t%s\n' "$machine" "$name" "$now" >>"$new"
    if $update; then
        printf '%-24s %6d\n' "$name" "$now"
        continue
    fi
    before=$(recorded "$name")
    if [ -z "$before" ]; then
        printf '%-24s %6d  FAIL: %s has no record for %s\n' "$name" "$now" "$record" "$machine"
        failed=1
    elif [ $((now * 100)) -gt $((before * (100 + tolerance))) ]; then
        printf '%-24s %6d  FAIL: the record is %d; it has become slower\n' "$name" "$now" "$before"
        failed=1
    elif [ $((now * 100)) -lt $((before * (100 - tolerance))) ]; then
        printf '%-24s %6d  FAIL: the record is %d; it has become faster, so lower the record\n' "$name" "$now" "$before"
        failed=1
    else
        printf '%-24s %6d  ok: the record is %d\n' "$name" "$now" "$before"
    fi
done < <("$program")
if $update; then
    cp "$new" "$record"
elif [ "$failed" -ne 0 ]; then
    echo "where they go: tests/instructions.sh --profile CASE; if it is meant: tests/instructions.sh --update, and say why in the commit"
fi
exit "$failed"
