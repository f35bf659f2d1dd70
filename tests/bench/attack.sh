#!/usr/bin/env bash
# Honest clients amid attacks, behind each way of protection: prints the table of
# docs/PERFORMANCE.md. Installs what is needed (Suricata 7 from Debian's backports).
#
#   sudo tests/bench/attack.sh [--seconds 20] [--attacks NAMES] [--against NAMES] [--rate N] [--limit N]
set -euo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../packaging/common.sh"
cd "$here"

[ "$(id -u)" = 0 ] || die "run it as root: it makes network namespaces."
mapfile -t missing < <(missing_packages ip=iproute2 nft=nftables iptables-nft=iptables nginx=nginx-light)
install_packages "${missing[@]}"
# Debian 12 has Suricata 6; the one to compare with comes from its backports.
if ! command -v suricata >/dev/null; then
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [ "$release" = bookworm ] && ! apt-cache policy suricata | grep -q backports; then
        mirror=$(sed -n 's/^URIs: *\([^ ]*\/debian\/\{0,1\}\)$/\1/p; s/^deb \([^ ]*\/debian\/\{0,1\}\) .*/\1/p' \
            /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -n1) || true
        printf 'deb %s bookworm-backports main\n' "${mirror:-http://deb.debian.org/debian}" \
            >/etc/apt/sources.list.d/halfgate-bench-backports.list
        update_lists
        say "installing suricata from bookworm-backports"
        apt_get install --no-install-recommends -t bookworm-backports suricata >/dev/null
    else
        install_packages suricata
    fi
fi
find_cargo
cargo build --quiet --release --bin halfgate
cargo build --quiet --release --example attack_bench
ulimit -n "$(ulimit -Hn)"
exec target/release/examples/attack_bench "$@"
