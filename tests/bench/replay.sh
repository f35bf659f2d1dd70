#!/usr/bin/env bash
# How many packets a second `halfgate replay` takes on one core, from a warm
# cache: of its processor time, user and system, so that a machine with other
# work tells nearly the same. Without a capture it makes one (tests/bench/make_capture.rs).
#
#   tests/bench/replay.sh [--runs N] [--packets N] [--connections N] [--snaplen N] [CAPTURE]
set -euo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../packaging/common.sh"
cd "$here"

runs=5 packets=3000000 connections=1000 snaplen=262144 capture=''
while [ $# -gt 0 ]; do
    case $1 in
        --runs | --packets | --connections | --snaplen)
            case ${2:-} in '' | *[!0-9]*) die "$1 takes a number." ;; esac
            declare "${1#--}=$2"
            shift 2
            ;;
        -*) die "it takes --runs, --packets, --connections, --snaplen and a capture; not '$1'." ;;
        *) capture=$1 && shift ;;
    esac
done
find_cargo
cargo build --quiet --release --bin halfgate --example make_capture
if [ -z "$capture" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    capture=$folder/bench.pcap
    target/release/examples/make_capture "$capture" "$packets" "$connections" "$snaplen"
fi
[ -r "$capture" ] || die "there is no capture '$capture'."
cat "$capture" >/dev/null

core=$(taskset -cp $$ | sed 's/.*[: ,-]//')
TIMEFORMAT='%U %S'
for ((run = 1; run <= runs; run++)); do
    log=$(mktemp)
    seconds=$({ time taskset -c "$core" target/release/halfgate replay "$capture" >"$log" || true; } 2>&1 | tail -n1)
    counted=$(tail -n1 "$log" | sed -n 's/.* connections, \([0-9]*\) packets.*/\1/p')
    rm -f "$log"
    [ -n "$counted" ] || die "the replay of '$capture' failed."
    awk -v packets="$counted" -v times="$seconds" 'BEGIN {
        split(times, part, " ")
        cpu = part[1] + part[2]
        printf "%d packets, %.2f s of one core: %.2f million packets a second\n", packets, cpu, packets / cpu / 1e6
    }'
done
