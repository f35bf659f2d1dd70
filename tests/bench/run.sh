#!/usr/bin/env bash
# halfgate beside its references, row by row of docs/PERFORMANCE.md: installs what is
# needed, builds, measures in network namespaces of its own.
#
#   sudo tests/bench/run.sh [--only NAMES] [--runs 5] [--seconds 3] [--write] [--floor PROGRAM]
#   tests/bench/run.sh --list
set -euo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../packaging/common.sh"
cd "$here"
# shellcheck source=tests/bench/suricata.sh
. tests/bench/suricata.sh

mapfile -t missing < <(missing_packages ip=iproute2 nft=nftables iptables-nft=iptables iperf3=iperf3 cc=gcc wrk=wrk nginx=nginx-light)
if [ ! -e /usr/include/stdio.h ]; then missing+=(libc6-dev); fi
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" != 0 ]; then die "run it as root: it installs ${missing[*]}."; fi
# Standard output is the table's.
{
    install_packages "${missing[@]}"
    # Not for those who want other measurements.
    if [[ ! " $* " =~ --(only|list|help) || " $* " == *suricata* ]]; then install_suricata; fi
    find_cargo
    cargo build --quiet --release --bin halfgate
    cargo build --quiet --release --example gateway_bench
} >&2
ulimit -n "$(ulimit -Hn)"
target/release/examples/gateway_bench "$@" &
bench=$!
# Also when it is interrupted, and ends without a chance to clean up.
cleanup() {
    kill "$bench" 2>/dev/null || return 0
    wait "$bench" 2>/dev/null || true
    local space
    for space in /run/netns/halfgate-"$bench"-*; do
        if [ -e "$space" ]; then ip netns delete "${space##*/}"; fi
    done
    rm -rf "${TMPDIR:-/tmp}"/halfgate-bench-"$bench"-*
}
trap cleanup EXIT
trap 'exit 130' INT TERM
wait "$bench"
