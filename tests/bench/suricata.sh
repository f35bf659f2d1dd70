# shellcheck shell=bash
# The Suricata that benchmarks compare with. Sourced after packaging/common.sh, not run.

# Debian 12 has Suricata 6; the one to compare with comes from its backports.
install_suricata() {
    local release mirror
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
}
