# shellcheck shell=bash
# What the scripts here share: words for the reader, and a cargo that can build
# this tree. Sourced, not run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '==> %s\n' "$*"; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# The packages of which none of the commands is there. Each argument is
# command=package.
missing_packages() {
    local pair
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || printf '%s\n' "${pair#*=}"
    done | sort -u
}

# Installs packages with apt-get; says what to do where there is none. Nothing
# that is installed is taken away for them.
install_packages() {
    local log
    [ $# -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "please install these packages first: $*"
    say "installing $*"
    log=$(mktemp)
    if ! apt_get install --no-remove --no-install-recommends "$@" >"$log" 2>&1; then
        update_lists
        if ! apt_get install --no-remove --no-install-recommends "$@" >"$log" 2>&1; then
            cat "$log" >&2
            rm -f "$log"
            die "apt-get could not install: $*"
        fi
    fi
    rm -f "$log"
}

# It neither asks nor waits for an answer.
apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -y "$@" </dev/null; }

# Once is enough for each run.
lists_are_new=no
update_lists() {
    [ "$lists_are_new" = no ] || return 0
    apt_get update >/dev/null || die "apt-get update failed: is the network up?"
    lists_are_new=yes
}

# The Rust version that this tree is built with.
wanted_rust() { sed -n 's/^channel *= *"\(.*\)"/\1/p' "$here/rust-toolchain.toml"; }

# Whether version $1 is at least $2.
at_least() { [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

# The version of cargo that this tree would be built with; nothing if there is
# none, or if rustup has not got the toolchain yet.
cargo_version() { (cd "$here" && cargo --version 2>/dev/null | cut -d' ' -f2) || true; }

# The version that apt would install of a package, without Debian's additions.
candidate() {
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([0-9][0-9.]*\).*/\1/p'
}

# The packages that bring a cargo new enough. A stable Debian's own is old, but
# for building browsers it gets a newer one as a security update (cargo-web).
cargo_packages() {
    if at_least "$(candidate cargo)" "$1"; then
        echo cargo rustc
    elif at_least "$(candidate cargo-web)" "$1"; then
        echo cargo-web rustc-web
    elif [ -n "$(candidate rustup)" ]; then
        echo rustup
    fi
}

# Finds a cargo that can build this tree, also the one of the person behind
# sudo; else installs one.
find_cargo() {
    local wanted home packages
    wanted=$(wanted_rust)
    for home in "${CARGO_HOME:-}" "${HOME:-/root}/.cargo" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)/.cargo"; do
        if [ -n "$home" ] && [ -x "$home/bin/cargo" ]; then
            PATH=$home/bin:$PATH
            # rustup keeps its toolchains beside, and root may have none.
            [ -d "${HOME:-/root}/.rustup" ] || export RUSTUP_HOME="${RUSTUP_HOME:-${home%/.cargo}/.rustup}"
            break
        fi
    done
    if at_least "$(cargo_version)" "$wanted"; then return; fi
    if ! command -v rustup >/dev/null; then
        command -v apt-get >/dev/null || die "Rust $wanted is needed to build halfgate: install it with rustup, then run this again."
        packages=$(cargo_packages "$wanted")
        if [ -z "$packages" ]; then
            update_lists
            packages=$(cargo_packages "$wanted")
        fi
        [ -n "$packages" ] ||
            die "Rust $wanted is needed to build halfgate, and apt has none so new. Debian's security updates do (cargo-web): add them to apt's sources; or use rustup. Then run this again."
        say "this system has $(cargo --version 2>/dev/null || echo no cargo), and $wanted is needed"
        # shellcheck disable=SC2086 # several packages
        (install_packages $packages) ||
            die "if an older cargo is in the way, remove it (apt-get remove cargo rustc), or install Rust $wanted with rustup."
        hash -r
    fi
    if command -v rustup >/dev/null && ! at_least "$(cargo_version)" "$wanted"; then
        say "getting Rust $wanted with rustup"
        rustup toolchain install "$wanted" --profile minimal --component rustfmt --component clippy ||
            die "rustup could not get Rust $wanted."
    fi
    at_least "$(cargo_version)" "$wanted" ||
        die "Rust $wanted is needed to build halfgate, and cargo here is $(cargo --version 2>/dev/null || echo missing): update it with rustup, then run this again."
}

# Sees to it that the cargo that was found has `cargo fmt` and `cargo clippy`.
find_cargo_style() {
    local missing=()
    (cd "$here" && cargo fmt --version >/dev/null 2>&1) || missing+=(fmt)
    (cd "$here" && cargo clippy --version >/dev/null 2>&1) || missing+=(clippy)
    [ ${#missing[@]} -gt 0 ] || return 0
    if command -v rustup >/dev/null; then
        (cd "$here" && rustup component add rustfmt clippy) || die "rustup could not get rustfmt and clippy."
    elif dpkg-query -W cargo-web >/dev/null 2>&1; then
        install_packages rustfmt-web rust-web-clippy
    else
        install_packages rustfmt rust-clippy
    fi
}

# Builds the release binary and says where it is.
build_release() {
    say "building halfgate (the first time takes a few minutes)"
    (cd "$here" && cargo build --release --locked --bin halfgate) || die "the build failed; the errors are above."
    binary=${CARGO_TARGET_DIR:-$here/target}/release/halfgate
    [ -x "$binary" ] || die "the build left no $binary."
}
