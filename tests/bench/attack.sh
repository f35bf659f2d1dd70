#!/usr/bin/env bash
# Honest clients amid attacks, behind each way of protection: prints the table of
# docs/PERFORMANCE.md. Installs what is needed (Suricata 7 from Debian's backports).
#
#   sudo tests/bench/attack.sh [--seconds 20] [--attacks NAMES] [--against NAMES] [--rate N] [--limit N]
#   sudo tests/bench/attack.sh --evict-curve [--seconds 5] [--rate 10000] [--round-trips 0.25,0.5,1,2,4,8]
set -euo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../packaging/common.sh"
cd "$here"
# shellcheck source=tests/bench/suricata.sh
. tests/bench/suricata.sh

[ "$(id -u)" = 0 ] || die "run it as root: it makes network namespaces."
mapfile -t missing < <(missing_packages ip=iproute2 nft=nftables iptables-nft=iptables nginx=nginx-light)
install_packages "${missing[@]}"
# The curve asks nobody else.
case " $* " in *" --evict-curve "*) ;; *) install_suricata ;; esac
find_cargo
cargo build --quiet --release --bin halfgate
cargo build --quiet --release --example attack_bench
ulimit -n "$(ulimit -Hn)"
exec target/release/examples/attack_bench "$@"
