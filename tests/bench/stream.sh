#!/bin/sh
# Side by side: one iperf3 TCP stream through the floor (floor.c) and through
# any other consumer of a queue, in network namespaces, with the same GSO and
# copy range, in alternating runs. Prints every run, the medians and the ratio.
#
#   stream.sh [OPTIONS] [-- CONSUMER...]
#
#   --runs N      runs of each (5)
#   --seconds N   length of a run (3)
#   --range N     octets copied of each packet (128)
#   --batch N     the floor's packets per system call (1)
#   --no-gso      segments, not whole GSO packets
#   --own-rules   CONSUMER diverts the packets itself, as `halfgate run` does
#
# CONSUMER runs in the gateway, as `CONSUMER...` with {queue}, {range} and
# {gso} (empty, or --no-gso) replaced. Without one the floor is measured alone,
# and `none` means no queue at all. Needs root, iproute2, iptables, iperf3, cc.
set -eu

runs=5 seconds=3 range=128 batch=1 gso='' own_rules='' queue=77
usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d'; exit 2; }
number() { case $1 in '' | *[!0-9]* | 0) echo "stream.sh: $2 needs a number, not '$1'" >&2; exit 2 ;; esac; }
while [ $# -gt 0 ]; do
    case $1 in
    --runs) number "${2-}" "$1"; runs=$2; shift 2 ;;
    --seconds) number "${2-}" "$1"; seconds=$2; shift 2 ;;
    --range) number "${2-}" "$1"; range=$2; shift 2 ;;
    --batch) number "${2-}" "$1"; batch=$2; shift 2 ;;
    --no-gso) gso=--no-gso; shift ;;
    --own-rules) own_rules=yes; shift ;;
    --) shift; break ;;
    *) usage ;;
    esac
done
[ "$(id -u)" = 0 ] || { echo "stream.sh: run it as root, it makes network namespaces" >&2; exit 1; }
for tool in ip iptables-nft iperf3 cc; do
    command -v $tool >/dev/null || { echo "stream.sh: $tool is missing" >&2; exit 1; }
done

here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
client=hgb$$c gateway=hgb$$g server=hgb$$s
iperf='' consumer=''
cleanup() {
    trap - EXIT INT TERM
    [ -z "$consumer" ] || kill "$consumer" 2>/dev/null || true
    [ -z "$iperf" ] || kill "$iperf" 2>/dev/null || true
    for namespace in $client $gateway $server; do ip netns delete "$namespace" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
# Not for what runs on: the shell would be its parent, and be killed instead.
inside() { ip netns exec "$@"; }

cc -O2 -o "$scratch/floor" "$here/floor.c"
for namespace in $client $gateway $server; do
    ip netns add "$namespace"
    ip -n "$namespace" link set lo up
done
ip -n $client link add c0 type veth peer name g0 netns $gateway
ip -n $server link add s0 type veth peer name g1 netns $gateway
ip -n $client address add 10.92.1.2/24 dev c0
ip -n $gateway address add 10.92.1.1/24 dev g0
ip -n $gateway address add 10.92.2.1/24 dev g1
ip -n $server address add 10.92.2.2/24 dev s0
ip -n $client link set c0 up
ip -n $gateway link set g0 up
ip -n $gateway link set g1 up
ip -n $server link set s0 up
ip -n $client route add default via 10.92.1.1
ip -n $server route add default via 10.92.2.1
inside $gateway sysctl -qw net.ipv4.ip_forward=1
ip netns exec $server iperf3 --server >"$scratch/server" 2>&1 </dev/null &
iperf=$!

# Until a condition holds, at most ten seconds.
await() {
    tries=0
    until eval "$2"; do
        tries=$((tries + 1))
        [ $tries -le 200 ] || { echo "stream.sh: $1" >&2; cat "$scratch/consumer" >&2; exit 1; }
        sleep 0.05
    done
}
has_queue() { [ -n "$(inside $gateway cat /proc/net/netfilter/nfnetlink_queue)" ]; }
divert() { inside $gateway iptables-nft -t mangle "$1" FORWARD -j NFQUEUE --queue-num $queue; }

# One run, its bits per second on stdout. $1: yes to divert; then the consumer.
run() {
    diverted=$1
    shift
    consumer=
    if [ $# -gt 0 ]; then
        : >"$scratch/consumer"
        ip netns exec $gateway "$@" >"$scratch/consumer" 2>&1 </dev/null &
        consumer=$!
        await "the consumer opened no queue" has_queue
    fi
    [ -z "$diverted" ] || divert -A
    # shellcheck disable=SC2016 # await evaluates it, again and again
    await "no connection from client to server" \
        'inside $client iperf3 --client 10.92.2.2 --time $seconds --json >"$scratch/result" 2>/dev/null'
    [ -z "$diverted" ] || divert -D
    cpu=
    if [ -n "$consumer" ]; then
        cpu=$(awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); printf "cpu %.2f s ", ($12 + $13) / hz }' \
            "/proc/$consumer/stat")
        kill "$consumer"
        wait "$consumer" 2>/dev/null || true
        consumer=
    fi
    sed -n '/"sum_received"/,/}/s/.*"bits_per_second":[[:space:]]*\([0-9.e+]*\).*/\1/p' "$scratch/result"
}
# `run` in a subshell would lose what it has started; its output goes by a file.
measure() {
    name=$1
    shift
    run "$@" >"$scratch/rate"
    rate=$(awk '{ printf "%.3f", $1 / 1e9 }' "$scratch/rate")
    [ -n "$rate" ] || { echo "stream.sh: iperf3 gave no result" >&2; cat "$scratch/result" >&2; exit 1; }
    echo "$rate" >>"$scratch/$name.rates"
    printf '%-9s %8s Gbit/s  %s%s\n' "$name" "$rate" "$cpu" "$(tail -n 1 "$scratch/consumer")"
}
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

echo "one TCP stream, range $range, gso $([ -z "$gso" ] && echo on || echo off), floor's batch $batch, $runs runs of $seconds s"
round=0
while [ $round -lt "$runs" ]; do
    round=$((round + 1))
    # shellcheck disable=SC2086 # gso is one word or none
    measure floor yes "$scratch/floor" $queue --range "$range" --batch "$batch" $gso
    if [ "${1-}" = none ]; then
        echo 'no queue' >"$scratch/consumer"
        measure consumer ''
    elif [ $# -gt 0 ]; then
        # The words with the places filled in, none of them split.
        ( for word; do
            [ "$word" != '{gso}' ] || { [ -z "$gso" ] || echo "$gso"; continue; }
            echo "$word" | sed "s/{queue}/$queue/g; s/{range}/$range/g"
        done ) >"$scratch/words"
        diverted=yes
        [ -z "$own_rules" ] || diverted=
        IFS='
'
        set -f
        # shellcheck disable=SC2046 # the words, one a line
        measure consumer "$diverted" $(cat "$scratch/words")
        set +f
        unset IFS
    fi
done
floor=$(median "$scratch/floor.rates")
echo "median floor    $floor Gbit/s"
if [ $# -gt 0 ]; then
    other=$(median "$scratch/consumer.rates")
    echo "median consumer $other Gbit/s"
    awk "BEGIN { printf \"ratio %.2f\\n\", $other / $floor }"
fi
