#!/usr/bin/env bash
# The whole suite: style, licences, every test, real hosts in network
# namespaces, the lab. Installs what it needs (Debian packages) and ends with
# one line: `N passed, N failed`.
#
#   sudo tests/run.sh [--captures DIR]
#
# DIR: captures with known outcomes (expected.tsv, floods.tsv) to replay as well.
set -uo pipefail
# shellcheck source=packaging/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../packaging/common.sh"

[ "$(id -u)" = 0 ] || die "network namespaces need root: run it with sudo."
if [ "${1:-}" = --captures ]; then
    [ -e "${2:-}/expected.tsv" ] || die "--captures needs a folder with expected.tsv."
    HALFGATE_CAPTURES=$(realpath "$2") && export HALFGATE_CAPTURES
    shift 2
fi
[ $# -eq 0 ] || die "it takes no argument but --captures DIR."
cd "$here" || exit 1

mapfile -t packages < <(missing_packages \
    nft=nftables iptables=iptables ip=iproute2 conntrack=conntrack ping=iputils-ping traceroute=traceroute \
    tcpdump=tcpdump hping3=hping3 nmap=nmap iperf3=iperf3 curl=curl unshare=util-linux sysctl=procps cc=gcc \
    shellcheck=shellcheck systemd-analyze=systemd busybox=busybox-static \
    cpio=cpio depmod=kmod strip=binutils valgrind=valgrind nginx=nginx-light wrk=wrk)
if [ ! -e /usr/include/stdio.h ]; then packages+=(libc6-dev); fi
if [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then packages+=(ca-certificates); fi
install_packages "${packages[@]}"
find_cargo
find_cargo_style
if ! cargo deny --version >/dev/null 2>&1; then
    say "building cargo-deny (once; ten minutes)"
    cargo install --quiet --locked --version '^0.20' cargo-deny ||
        say "cargo-deny could not be installed; its stage will fail"
    PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
fi

built=${CARGO_TARGET_DIR:-$here/target}/debug
logs=$(mktemp -d) || die "could not make a directory for the logs."
running=''
# No stage outlives the suite, nor an hour's quarter.
trap 'rm -rf "$logs"' EXIT
trap 'if [ -n "$running" ]; then kill -TERM -- "-$running"; fi; exit 130' INT TERM
most_seconds=900
passed=0 failed=0 failures=()

# One stage: name, command. What it says is shown only if it fails. Tests that
# cargo counts are counted one by one, any other stage as one.
stage() {
    local name=$1 log=$logs/log begin=$SECONDS status=0 good bad guard
    shift
    printf '%-44s' "$name"
    # In process groups of their own, so that what they started ends with them.
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    running=$!
    { sleep "$most_seconds"; kill -TERM -- "-$running"; sleep 10; kill -KILL -- "-$running"; } >/dev/null 2>&1 &
    guard=$!
    set +m
    wait "$running" || status=$?
    kill -TERM -- "-$guard" 2>/dev/null
    wait "$guard" 2>/dev/null
    kill -KILL -- "-$running" 2>/dev/null
    running=''
    if [ $((SECONDS - begin)) -ge "$most_seconds" ]; then echo "it was stopped after $most_seconds s" >>"$log"; fi
    good=$(sed -n 's/^test result: .* \([0-9]*\) passed; .*/\1/p' "$log" | paste -sd+ | sum_of)
    bad=$(sed -n 's/^test result: .* \([0-9]*\) failed; .*/\1/p' "$log" | paste -sd+ | sum_of)
    if [ "$status" -eq 0 ] && [ $((good + bad)) -eq 0 ]; then good=1; fi
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    passed=$((passed + good)) failed=$((failed + bad))
    if [ "$bad" -eq 0 ]; then
        printf 'ok    %5d passed  %4d s\n' "$good" $((SECONDS - begin))
    else
        failures+=("$name")
        printf 'FAIL  %5d failed  %4d s\n' "$bad" $((SECONDS - begin))
        sed 's/^/    /' "$log"
    fi
}

# The value of a sum on standard input; of nothing, 0.
sum_of() {
    local sum
    read -r sum || true
    printf '%d\n' $((${sum:-0}))
}

scripts() {
    local files=(.ci/run)
    while IFS= read -r file; do files+=("$file"); done < <(find packaging tests -name '*.sh' | sort)
    shellcheck -x "${files[@]}"
}

documentation() { RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked; }

# Every file of the tree, and what is in it.
tree() {
    find . \( -path ./target -o -path ./.git \) -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 cksum
}
# Proptest's and insta's findings, profiles, forgotten scratch files.
untouched() { diff "$logs/tree" <(tree); }

build() { cargo test --locked --no-run --all-targets; }
# The test targets as cargo just built them: none can be forgotten.
targets() {
    cargo test --locked --no-run 2>&1 </dev/null | sed -n 's|^ *Executable tests/.*/\([^/]*\)-[0-9a-f]*)$|\1|p'
}

# The units as installed, but with the program that was just built.
units() {
    local unit
    mkdir -p "$logs/units" || return 1
    for unit in packaging/*.service; do
        sed "s|/usr/local/sbin/halfgate|$built/halfgate|" "$unit" >"$logs/units/${unit##*/}" || return 1
    done
    systemd-analyze verify --man=no "$logs"/units/*.service
}

installing() { tests/install.sh "$built/halfgate"; }

rule_files() {
    "$built/halfgate" check rules/*.yaml && "$built/halfgate" test rules/*.yaml
}

# That it runs and measures; the figures of a loaded machine prove nothing.
bench() {
    "$built/examples/attack_bench" --halfgate "$built/halfgate" --seconds 1 --rate 500 \
        --attacks nothing,spoofed-syns --against none,drop || return 1
    evict_curve || return 1
    "$built/examples/gateway_bench" --halfgate "$built/halfgate" --runs 1 --seconds 1 \
        --only tcp1,entry,full-udp,connections,verdicts,latency,flood,workers,stall --connections 2000
}

# Nobody gets in past a limit that is a quarter of a round trip's SYNs, most past eight.
evict_curve() {
    local curve
    curve=$("$built/examples/attack_bench" --halfgate "$built/halfgate" --seconds 1 --rate 1000 \
        --evict-curve --round-trips 0.25,8) || return 1
    printf '%s\n' "$curve"
    [ "$(awk -F'[(%]' '/^\| [0-9]/ { print $2 < 50 ? "few" : "most" }' <<<"$curve" | xargs)" = "few most" ]
}

lab() { "$built/halfgate" lab; }

tree >"$logs/tree"

say "style"
stage 'cargo fmt' cargo fmt --check
stage 'clippy' cargo clippy --locked --all-targets --all-features -- -D warnings
stage 'documentation' documentation
stage 'shellcheck' scripts
stage 'licences, bans, sources' cargo deny check licenses bans sources

say "tests"
stage 'build' build
stage 'unit tests' cargo test --locked --no-fail-fast --lib --bins --examples
mapfile -t names < <(targets)
for name in "${names[@]}"; do
    threads=$(nproc)
    # Each test of the gateway waits most of its time: more of them than cores.
    if [ "$name" = gateway ]; then threads=6; fi
    # Ten thousand stories: the packet path is worth optimising for them.
    profile=()
    if [ "$name" = simulation ]; then profile=(--profile simulation); fi
    stage "tests/$name" cargo test --locked "${profile[@]}" --test "$name" -- --test-threads "$threads"
done
stage 'documentation tests' cargo test --locked --doc

say "the whole"
stage 'rule files' rule_files
stage 'systemd units' units
stage 'install and uninstall' installing
stage 'halfgate lab' lab
stage 'instructions of the packet path' tests/instructions.sh
stage 'benchmark (smoke)' bench
stage 'the tree is as it was' untouched

if [ ${#failures[@]} -gt 0 ]; then printf 'failed: %s\n' "${failures[@]}"; fi
printf 'took %d s\n' "$SECONDS"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
