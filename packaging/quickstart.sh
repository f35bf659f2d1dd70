#!/usr/bin/env bash
# Shows halfgate at work: installs what it needs (Debian packages), builds it,
# and runs the lab: three network namespaces, real traffic, the firewall in the
# middle. This machine's own network and firewall are not touched.
#
#   sudo packaging/quickstart.sh [OPTIONS OF halfgate lab, as --keep]
set -euo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ "$(id -u)" = 0 ] || die "network namespaces need root: run it with sudo."
[ "$(uname -s)" = Linux ] || die "halfgate is for Linux."

mapfile -t packages < <(missing_packages nft=nftables iptables=iptables ip=iproute2 sysctl=procps cc=gcc)
# gcc alone may come without the C library's headers that linking needs.
if [ ! -e /usr/include/stdio.h ]; then packages+=(libc6-dev); fi
if [ ! -e /etc/ssl/certs/ca-certificates.crt ] && command -v apt-get >/dev/null; then packages+=(ca-certificates); fi
install_packages "${packages[@]}"
find_cargo
build_release
say "halfgate lab $*"
exec "$binary" lab "$@"
