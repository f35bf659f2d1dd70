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

# Installs packages with apt-get; says what to do where there is none.
install_packages() {
    [ $# -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "please install these packages first: $*"
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 && return
    apt-get update >/dev/null || die "apt-get update failed: is the network up?"
    apt-get install -y --no-install-recommends "$@" >/dev/null || die "apt-get could not install: $*"
}

# The Rust version that this tree is built with.
wanted_rust() { sed -n 's/^channel *= *"\(.*\)"/\1/p' "$here/rust-toolchain.toml"; }

# Finds cargo, also the one of the person behind sudo, and looks that it is new
# enough or can become so by itself (rustup).
find_cargo() {
    local wanted home version
    wanted=$(wanted_rust)
    for home in "${CARGO_HOME:-}" "${HOME:-/root}/.cargo" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)/.cargo"; do
        if [ -n "$home" ] && [ -x "$home/bin/cargo" ]; then
            PATH=$home/bin:$PATH
            # rustup keeps its toolchains beside, and root may have none.
            [ -d "${HOME:-/root}/.rustup" ] || export RUSTUP_HOME="${RUSTUP_HOME:-${home%/.cargo}/.rustup}"
            break
        fi
    done
    if ! command -v cargo >/dev/null && [ -n "$(apt-cache search --names-only '^rustup$' 2>/dev/null)" ]; then
        install_packages rustup
    fi
    command -v cargo >/dev/null ||
        die "Rust $wanted is needed to build halfgate, and there is no cargo: install it with rustup (https://rustup.rs), then run this again."
    version=$(cd "$here" && cargo --version 2>/dev/null | cut -d' ' -f2) || true
    [ -n "$version" ] ||
        die "cargo is there, but can't get Rust $wanted: run \`rustup toolchain install $wanted\`, then run this again."
    [ "$(printf '%s\n%s\n' "$wanted" "$version" | sort -V | head -n1)" = "$wanted" ] ||
        die "Rust $wanted is needed to build halfgate, and cargo here is $version: update it with rustup (https://rustup.rs), then run this again."
}

# Builds the release binary and says where it is.
build_release() {
    say "building halfgate (the first time takes a few minutes)"
    (cd "$here" && cargo build --release --locked --bin halfgate) || die "the build failed; the errors are above."
    binary=${CARGO_TARGET_DIR:-$here/target}/release/halfgate
    [ -x "$binary" ] || die "the build left no $binary."
}
