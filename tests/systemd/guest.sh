#!/bin/bash
# Runs inside the machine that run.sh boots, as a service, once for each boot:
# an ssh client in the world, a host in the LAN, the gateway between them.
set -u
cd /root/test || exit 1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
results=/root/results
log=$(mktemp)
before_log=$(mktemp)

# One thing to look at: what should be true, and the command that tells. What
# the one before it said is in $before_log.
look() {
    local what=$1 begin
    shift
    begin=$SECONDS
    mv "$log" "$before_log"
    if "$@" >"$log" 2>&1; then
        printf 'ok    %s (%s s)\n' "$what" $((SECONDS - begin))
        echo right >>$results
    else
        echo "WRONG $what"
        echo wrong >>$results
        {
            echo "\$ $*"
            cat "$log"
            journalctl -q -b -n 8 -o short-monotonic -u 'halfgate*' | cut -c -200
        } | sed 's/^/      /'
    fi
}
no() { ! "$@"; }
# Until a condition holds, at most $1 seconds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}

# ---- the ground

lan_host=10.20.0.2 world_host=203.0.113.2 other_world_host=203.0.113.3
ground() {
    local name
    for name in lan world; do ip netns add $name; done
    ip link add lan0 type veth peer name eth0 netns lan
    ip link add wan0 type veth peer name eth0 netns world
    for name in lan world; do
        ip -n $name link set lo up
        ip -n $name link set eth0 up
    done
    ip link set lan0 up
    ip link set wan0 up
    ip address add 10.20.0.1/24 dev lan0
    ip address add 203.0.113.1/24 dev wan0
    ip -n lan address add $lan_host/24 dev eth0
    ip -n world address add $world_host/24 dev eth0
    ip -n world address add $other_world_host/24 dev eth0
    ip -n lan route add default via 10.20.0.1
    ip -n world route add default via 203.0.113.1
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    for name in lan world; do
        ip netns exec $name nc -lk 80 </dev/null >/dev/null 2>&1 &
        within 20 listens $name
    done
}
listens() { ip netns exec "$1" ss -Hltn sport = :80 | grep -q .; }
out_of_the_lan() { ip netns exec lan nc -z -w 3 $world_host 80; }
into_the_lan() { ip netns exec world nc -z -w "${1:-2}" $lan_host 80; }
from_the_world() {
    local from=$1
    shift
    ip netns exec world ssh -q -o BatchMode=yes -o ConnectTimeout=5 -o StrictHostKeyChecking=no \
        -o UserKnownHostsFile=/dev/null -b "$from" root@203.0.113.1 "$@"
}

# ---- what is looked at

has_table() { nft list table inet halfgate; }
is_static() { has_table | grep -q drop && ! has_table | grep -q queue && ! iptables-save -t mangle | grep -q NFQUEUE; }
is_active() { systemctl is-active halfgate.service; }
main_process() { systemctl show -P MainPID halfgate.service; }
restarted() { [ "$(main_process)" != 0 ] && [ "$(main_process)" != "$1" ] && [ "$(systemctl is-active halfgate.service)" = active ]; }
status_of() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$(main_process)/status"; }
is() { [ "$1" = "$2" ] || { echo "it is '$1', not '$2'"; return 1; }; }
keeps_saved_timer() { halfgate timers --json | grep '"half_closed"' | grep -q '"9m"'; }
settings() { sysctl -a -r 'net.netfilter.nf_conntrack_(max|acct|tcp_|udp_|icmp|generic)' 2>/dev/null | grep -v count; }
nothing_in_the_kernel() {
    no nft list table inet halfgate && ! iptables-save | grep -i halfgate && ! ip6tables-save | grep -i halfgate
}
nothing_on_the_disk() {
    local left
    left=$(find / -xdev \( -path /root -o -path /proc -o -path /sys -o -path /var/log -o -path /tmp \) -prune -o -iname '*halfgate*' -print
        find /run /etc/systemd -iname '*halfgate*')
    # systemd keeps what it counted of a unit's run until the next boot.
    left=$(printf '%s' "$left" | grep -v -e '^/run/systemd/' -e '^/sys/')
    [ -z "$left" ] || { echo "$left"; return 1; }
}
no_complaint() { no grep -q . <(journalctl -q -b -u halfgate.service -u halfgate-static.service -p err -o cat | tee /dev/stderr); }

# While it goes on, the table must never be missing, nor must anyone get in.
watch_begin() {
    rm -f /tmp/gaps
    while sleep 0.1; do nft list table inet halfgate >/dev/null 2>&1 || echo 'the table was missing' >>/tmp/gaps; done &
    watcher=$!
    while sleep 0.1; do into_the_lan 1 >/dev/null 2>&1 && echo 'somebody got in' >>/tmp/gaps; done &
    intruder=$!
}
watch_end() {
    kill $watcher $intruder
    wait $watcher $intruder 2>/dev/null
    [ ! -e /tmp/gaps ] || { sort /tmp/gaps | uniq -c; return 1; }
}

# ---- the first boot: install, use

first_boot() {
    ground
    modprobe nf_conntrack
    settings >/root/settings
    look "without halfgate the gateway is open" into_the_lan
    within 30 from_the_world $world_host true
    look "install.sh runs in an ssh session from the world" \
        from_the_world $world_host '/root/test/packaging/install.sh --binary /root/test/halfgate --wan wan0 --lan lan0 && echo the session lives on'
    look "and the session survives it" grep 'the session lives on' "$before_log"
    look "the rule file has a rule for that session" grep -q "from: \"$world_host\"" /etc/halfgate/rules.yaml
    look "another ssh session from there gets in" from_the_world $world_host true
    look "ssh from elsewhere does not" no from_the_world $other_world_host true
    look "both units are active" systemctl is-active halfgate.service halfgate-static.service
    look "both units are enabled" systemctl is-enabled halfgate.service halfgate-static.service
    look "halfgate status answers" halfgate status
    look "without a warning" no grep '^warning:' "$before_log"
    look "the diversion is nftables' own" grep "diversion nftables" <(halfgate status)
    look "from the LAN one gets out" out_of_the_lan
    look "from the world nobody gets in" no into_the_lan

    look "it has two capabilities" is "$(status_of CapEff)/$(status_of CapBnd)" 0000000000003000/0000000000003000
    look "it can't get more, and its system calls are filtered" is "$(status_of NoNewPrivs)/$(status_of Seccomp)" 1/2
    look "systemd finds it little exposed" systemd-analyze security --no-pager --threshold=35 halfgate.service
    look "its directories have their modes" is \
        "$(stat -c %a:%U:%G /run/halfgate /run/halfgate/control.sock /var/lib/halfgate /etc/halfgate /etc/halfgate/rules.yaml | xargs)" \
        '750:root:halfgate 660:root:halfgate 750:root:halfgate 750:root:halfgate 640:root:halfgate'
    useradd --no-create-home --groups halfgate member
    useradd --no-create-home stranger
    look "a member of the group may ask" setpriv --reuid member --regid member --init-groups halfgate status
    look "a stranger may not" no setpriv --reuid stranger --regid stranger --init-groups halfgate status

    look "reload" systemctl reload halfgate.service
    cp /etc/halfgate/rules.yaml /root/rules.yaml
    echo 'nonsense: [' >>/etc/halfgate/rules.yaml
    look "a reload of a broken file fails" no systemctl reload halfgate.service
    look "and changes nothing" out_of_the_lan
    look "an update with a broken file fails" no packaging/install.sh --binary /root/test/halfgate
    look "and changes nothing" is_active
    cp /root/rules.yaml /etc/halfgate/rules.yaml
    look "a timer is set and saved" halfgate timers set half_closed 9m --save

    local before
    watch_begin
    before=$(main_process)
    look "restart" systemctl restart halfgate.service
    look "it is another process" restarted "$before"
    look "the saved timer is there again" keeps_saved_timer
    before=$(main_process)
    kill -KILL "$before"
    look "killed, it is started again" within 60 restarted "$before"
    look "and works" within 10 out_of_the_lan
    look "stop" systemctl stop halfgate.service
    look "stopped, the static table holds" is_static
    look "and nobody gets out" no out_of_the_lan
    look "start" systemctl start halfgate.service
    look "started, it works" out_of_the_lan
    mkdir -p /run/systemd/system/halfgate.service.d
    printf '[Service]\nWatchdogSec=5s\nWatchdogSignal=KILL\n' >/run/systemd/system/halfgate.service.d/hurry.conf
    systemctl daemon-reload
    systemctl restart halfgate.service
    before=$(main_process)
    sleep 6
    look "the watchdog is content with it" is "$(main_process)" "$before"
    kill -STOP "$before"
    look "frozen, it is replaced" within 60 restarted "$before"
    rm -r /run/systemd/system/halfgate.service.d
    systemctl daemon-reload
    look "all that time it was closed" watch_end
    look "an ssh session from there gets in as ever" from_the_world $world_host true

    # What is there between the static unit and the daemon at the next boot, and
    # then without nftables' queue statement.
    printf '[Unit]\nDefaultDependencies=no\nAfter=halfgate-static.service\nBefore=halfgate.service network-pre.target\n[Service]\nType=oneshot\nExecStart=/bin/sh -c "nft list ruleset >/root/at-boot; ip -br link >/root/links-at-boot"\n[Install]\nRequiredBy=halfgate.service\n' \
        >/etc/systemd/system/between.service
    systemctl -q enable between.service
    echo 'install nft_queue /bin/false' >/etc/modprobe.d/test.conf
    sync
    systemctl reboot
}

# ---- the second boot: closed from the beginning, then gone

second_boot() {
    look "at boot the static table was there before the daemon" grep -q 'table inet halfgate' /root/at-boot
    look "and dropped" grep -q drop /root/at-boot
    look "and diverted nothing" no grep -q queue /root/at-boot
    look "before any interface was up" no grep -v '^lo ' /root/links-at-boot
    look "no unit failed" is "$(systemctl --failed --plain --no-legend)" ''
    look "the daemon is there" is_active
    ground
    look "the diversion is iptables'" grep -q NFQUEUE <(iptables-save -t mangle)
    look "interfaces that came later are followed" within 10 out_of_the_lan
    look "from the world nobody gets in" no into_the_lan
    look "ssh from where it was installed gets in" within 30 from_the_world $world_host true
    look "the saved timer is there again" keeps_saved_timer
    local before
    before=$(main_process)
    watch_begin
    look "restart" systemctl restart halfgate.service
    kill -KILL "$(main_process)"
    look "killed, it is started again" within 60 restarted "$before"
    look "and works" within 10 out_of_the_lan
    look "stop" systemctl stop halfgate.service
    look "stopped, the static table holds" is_static
    look "start" systemctl start halfgate.service
    look "started, it works" out_of_the_lan
    look "all that time it was closed" watch_end
    look "an update keeps the rules" packaging/install.sh --binary /root/test/halfgate
    look "and works" out_of_the_lan
    look "it complained about nothing" no_complaint

    look "halfgate unload opens the gateway" halfgate unload
    look "the unit takes that for an end" within 10 no is_active
    look "and is not started again" no systemctl is-failed halfgate.service
    look "nothing is in the kernel" nothing_in_the_kernel
    look "it is started again by hand" systemctl start halfgate.service
    look "and works" out_of_the_lan

    systemctl -q disable between.service
    look "--uninstall" packaging/install.sh --uninstall
    look "nothing is in the kernel" nothing_in_the_kernel
    look "the kernel's settings are as before" diff /root/settings <(settings)
    look "the rule file stays" test -e /etc/halfgate/rules.yaml
    look "the group is gone" no getent group halfgate
    look "the gateway is open" into_the_lan
    look "--uninstall --purge" packaging/install.sh --uninstall --purge
    look "nothing is on the disk" nothing_on_the_disk
    # One that it has just stopped may be listed for a while, as not found.
    look "systemd knows no such unit" \
        is "$(systemctl list-units --all --plain --no-legend 'halfgate*' | awk '$2 != "not-found"')" ''
    echo "the end: $(grep -c right $results) right, $(grep -c wrong $results) wrong"
    sync
    systemctl poweroff
}

if [ -e /root/booted ]; then second_boot; else touch /root/booted; first_boot; fi
