#!/usr/bin/env bash
# Honest clients amid attacks, behind each way of protection: prints the table of
# docs/PERFORMANCE.md. Installs what is needed (Suricata 7 from Debian's backports).
#
#   sudo tests/bench/attack.sh [--seconds 20] [--attacks NAMES] [--against NAMES] [--rate N] [--limit N]
set -euo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../packaging/common.sh"
cd "$here"
# shellcheck source=tests/bench/suricata.sh
. tests/bench/suricata.sh

[ "$(id -u)" = 0 ] || die "run it as root: it makes network namespaces."
mapfile -t missing < <(missing_packages ip=iproute2 nft=nftables iptables-nft=iptables nginx=nginx-light)
install_packages "${missing[@]}"
install_suricata
find_cargo
cargo build --quiet --release --bin halfgate
cargo build --quiet --release --example attack_bench
ulimit -n "$(ulimit -Hn)"
exec target/release/examples/attack_bench "$@"
