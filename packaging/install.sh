#!/usr/bin/env bash
# Puts halfgate on this gateway as a systemd service, or takes it away again.
#
#   sudo packaging/install.sh --wan eth0 --lan eth1
#
# Makes a first rule file with `halfgate init` unless /etc/halfgate/rules.yaml
# exists, checks it, looks that the ssh session this runs in stays possible,
# and only then enables the service. Run it again to update the binary.
set -euo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<USAGE
usage: install.sh --wan IF --lan IF [--lan IF]...   install, or update
       install.sh --uninstall [--purge]             remove; --purge: the rule files too

  --wan IF        interface to the Internet (default: that of the default route)
  --lan IF        interface to the own network; may be given several times
  --binary FILE   a halfgate that is already built
  --prefix DIR    where the binary goes: DIR/sbin (default /usr/local)
  --destdir DIR   put the files below DIR and touch nothing of this system
USAGE
}

wan='' binary='' prefix=/usr/local destdir='' action=install purge=no
lan=()
while [ $# -gt 0 ]; do
    case $1 in
    --wan | --lan | --binary | --prefix | --destdir)
        [ $# -ge 2 ] || die "$1 needs a value; see --help"
        case $1 in
        --wan) wan=$2 ;;
        --lan) lan+=("$2") ;;
        --binary) binary=$2 ;;
        --prefix) prefix=$2 ;;
        --destdir) destdir=${2%/} ;;
        esac
        shift 2
        ;;
    --uninstall) action=uninstall; shift ;;
    --purge) purge=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "no such option: $1" ;;
    esac
done
[ "$purge" = no ] || [ "$action" = uninstall ] || die "--purge goes with --uninstall."
[ -n "$destdir" ] || [ "$(id -u)" = 0 ] || die "installing needs root: run it with sudo."

# On this system, not below a --destdir.
live() { [ -z "$destdir" ]; }
systemd() { live && [ -d /run/systemd/system ]; }

sbin=$destdir$prefix/sbin
etc=$destdir/etc/halfgate
state=$destdir/var/lib/halfgate
units=$destdir/etc/systemd/system
rules=$etc/rules.yaml
# As the service sees them.
installed=$prefix/sbin/halfgate
[ -z "$destdir" ] || installed=$sbin/halfgate

uninstall() {
    if systemd; then
        say "stopping the service"
        systemctl disable --now halfgate.service halfgate-static.service >/dev/null 2>&1 || true
    fi
    if live && [ -x "$installed" ]; then
        say "removing its table from the kernel"
        "$installed" unload || die "could not unload the table; look at \`nft list tables\`."
    fi
    say "removing files"
    rm -f "$sbin/halfgate" "$units/halfgate.service" "$units/halfgate-static.service"
    rm -rf "$state" "$destdir/run/halfgate"
    if [ "$purge" = yes ]; then rm -rf "$etc"; elif [ -d "$etc" ]; then say "$etc stays (--purge removes it)"; fi
    if systemd; then systemctl daemon-reload; fi
    if live && getent group halfgate >/dev/null; then groupdel halfgate; fi
    say "halfgate is gone"
}

# The ssh session that this runs in, as SSH_CONNECTION has it: client address
# and port, own address and port. sudo strips the variable, but an ancestor of
# this process still has it. Else any session that sshd has open.
ssh_session() {
    if [ -n "${SSH_CONNECTION:-}" ]; then
        printf '%s\n' "$SSH_CONNECTION"
        return
    fi
    local pid=$PPID found
    while [ "${pid:-0}" -gt 1 ]; do
        found=$(tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | sed -n 's/^SSH_CONNECTION=//p' | head -n1) || true
        if [ -n "$found" ]; then
            printf '%s\n' "$found"
            return
        fi
        pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) || true
    done
    ss -Htnp state established 2>/dev/null | awk '/"sshd/ {
        here = $3; there = $4
        match(here, /:[0-9]+$/); hp = substr(here, RSTART + 1); ha = substr(here, 1, RSTART - 1)
        match(there, /:[0-9]+$/); tp = substr(there, RSTART + 1); ta = substr(there, 1, RSTART - 1)
        gsub(/[][]|%.*|::ffff:/, "", ha); gsub(/[][]|%.*|::ffff:/, "", ta)
        print ta, tp, ha, hp; exit }'
}

# Refuses to go on if a new ssh connection like the one in use would not pass.
ssh_stays_possible() {
    local session there here_address here_port in_if packet said
    session=$(ssh_session) || true
    [ -n "$session" ] || return 0
    read -r there _ here_address here_port <<<"$session"
    in_if=$(ip -o route get "$there" 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p') || true
    case $there in
    *:*) packet="tcp [$there]:50000 > [$here_address]:$here_port S" ;;
    *) packet="tcp $there:50000 > $here_address:$here_port S" ;;
    esac
    say "looking whether ssh from $there stays possible"
    # `lo` is never diverted, and a hook that is not covered lets all pass.
    [ "$in_if" != lo ] || return 0
    grep -Eq '^hooks:.*input' "$rules" || return 0
    said=$("$installed" explain "$packet" --in "$in_if" --rules "$rules" --json) ||
        die "could not judge \"$packet\"; nothing was enabled."
    case $said in
    *'"verdict":"accept"'* | *'"action":"accept"'*) ;;
    *) die "$rules would lock out ssh from $there on $in_if ($said); add a rule that lets it in, then run this again. Nothing was enabled." ;;
    esac
}

default_route_interface() { ip -o route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n1; }

first_rules() {
    local session arguments interface
    [ -n "$wan" ] || wan=$(default_route_interface)
    [ -n "$wan" ] || die "which interface leads to the Internet? There is no default route; say --wan IF."
    [ "${#lan[@]}" -gt 0 ] || die "which interface leads to your own network? Say --lan IF (there are: $(ip -br link | cut -d' ' -f1 | cut -d@ -f1 | grep -vx -e lo -e "$wan" | xargs))."
    for interface in "$wan" "${lan[@]}"; do
        live || break
        ip link show "$interface" >/dev/null 2>&1 || say "note: $interface does not exist now; the rules wait for it"
    done
    arguments=(--wan "$wan")
    for interface in "${lan[@]}"; do arguments+=(--lan "$interface"); done
    session=$(ssh_session) || true
    say "writing a first rule file: $rules"
    SSH_CONNECTION=$session "$installed" init "${arguments[@]}" >"$rules.new" ||
        die "halfgate init failed; nothing was enabled."
    chmod 0640 "$rules.new"
    mv "$rules.new" "$rules"
}

install_all() {
    if [ -z "$binary" ]; then
        find_cargo
        build_release
    fi
    [ -x "$binary" ] || die "$binary is not a program."
    if live; then
        mapfile -t packages < <(missing_packages nft=nftables iptables=iptables ip=iproute2)
        install_packages "${packages[@]}"
        if ! getent group halfgate >/dev/null; then
            say "making the group halfgate: its members may use the control socket"
            groupadd --system halfgate
        fi
    fi
    say "installing $installed"
    install -d -m 0755 "$sbin" "$units"
    install -m 0755 "$binary" "$sbin/halfgate.new"
    mv "$sbin/halfgate.new" "$sbin/halfgate"
    install -d -m 0750 "$etc" "$state"
    if live; then chgrp halfgate "$etc" "$state"; fi
    if [ -e "$rules" ]; then say "keeping $rules"; else first_rules; fi
    if live; then chgrp halfgate "$rules"; fi
    say "checking $rules"
    "$installed" check "$rules" || die "correct $rules, then run this again. Nothing was enabled."
    if live; then ssh_stays_possible; fi
    local unit
    for unit in halfgate.service halfgate-static.service; do
        sed "s|/usr/local/sbin/halfgate|$prefix/sbin/halfgate|" "$here/packaging/$unit" >"$units/$unit"
        chmod 0644 "$units/$unit"
    done
    if systemd; then
        say "enabling and starting the service"
        systemctl daemon-reload
        systemctl enable halfgate-static.service halfgate.service >/dev/null 2>&1
        if ! systemctl restart halfgate.service || ! "$installed" status >/dev/null; then
            systemctl disable --now halfgate.service halfgate-static.service >/dev/null 2>&1 || true
            "$installed" unload || true
            die "the service did not start, and was disabled again: journalctl -u halfgate"
        fi
        "$installed" status
    elif live; then
        say "no systemd here: start it with \`halfgate run $rules\`"
    fi
    say "done: edit $rules, then \`halfgate reload --confirm 60s\` and \`halfgate confirm\`"
}

case $action in
install) install_all ;;
uninstall) uninstall ;;
esac
