#!/bin/sh
# Runs a program as root under Debian's kernel in a virtual machine, and exits
# with its status. The machine has busybox, nft, ip, the netfilter modules (they
# load when asked for), veth, /proc, /sys and writable tmpfs; nothing else.
#
#   tests/qemu/vm.sh [--add FILE]... [--env NAME=VALUE]... [--boot WORDS]
#                    PROGRAM [ARGUMENT...]
#
# PROGRAM and each FILE are copied with the libraries that they need, and are at
# their own absolute paths inside. Needs busybox-static, cpio and, the first time,
# apt-get to fetch linux-image-cloud-amd64 and, where it is not installed,
# qemu-system-x86 (nothing is installed). No KVM is needed. HALFGATE_VM_CACHE says where kernel and images
# are kept, HALFGATE_VM_TIMEOUT after how many seconds it gives up.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${HALFGATE_VM_CACHE:-$here/../../target/vm}
seconds=${HALFGATE_VM_TIMEOUT:-900}

die() {
    echo "vm.sh: $*" >&2
    exit 125
}

usage="usage: vm.sh [--add FILE]... [--env NAME=VALUE]... [--boot WORDS] PROGRAM [ARGUMENT...]"

quote() { printf "'%s' " "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }

added=
environment=
boot=
while [ $# -gt 0 ]; do
    case $1 in
    --add) [ $# -gt 1 ] || die "--add needs a file"; added="$added $2"; shift 2 ;;
    --boot) [ $# -gt 1 ] || die "--boot needs words for the kernel"; boot=$2; shift 2 ;;
    --env) [ $# -gt 1 ] || die "--env needs NAME=VALUE"; environment="$environment export $(quote "$2");"; shift 2 ;;
    --) shift; break ;;
    -*) die "no such option: $1; $usage" ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || die "say which program to run; $usage"

tool() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" || die "$1 was not found: install the package $2"
}
busybox=$(tool busybox busybox-static)
tool cpio cpio >/dev/null
depmod=$(tool depmod kmod)
nft=$(tool nft nftables)
ip=$(tool ip iproute2)
payload=$(command -v "$1") || die "$1 is not a program"
payload=$(readlink -f "$payload")
shift

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

# One of several runs at a time fetches and unpacks; the others wait.
exec 9>"$cache/lock"
flock 9

if [ ! -e "$cache/kernel/done" ]; then
    rm -rf "$cache/kernel"
    mkdir -p "$cache/kernel"
    image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$image" ] || die "apt does not know linux-image-cloud-amd64: run apt-get update"
    (cd "$cache/kernel" && apt-get -qq -o APT::Sandbox::User=root download "$image" && dpkg-deb -x ./*.deb . && rm ./*.deb) ||
        die "$image could not be fetched"
    "$depmod" -b "$cache/kernel" "$(ls "$cache/kernel/lib/modules")"
    touch "$cache/kernel/done"
fi
release=$(ls "$cache/kernel/lib/modules")

# Not every machine can have it installed: its packages and those of another release's
# qemu-utils, say, exclude each other. So it is unpacked with all that it needs, as if
# nothing were installed, its C library and that one's loader among it.
if ! qemu=$(PATH=$PATH:/usr/sbin:/sbin command -v qemu-system-x86_64); then
    qemu=$cache/qemu/run
    if [ ! -e "$qemu" ]; then
        rm -rf "$cache/qemu"
        mkdir -p "$cache/qemu/root"
        packages=$(apt-get -s -o Dir::State::status=/dev/null --no-install-recommends install qemu-system-x86 |
            sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p')
        [ -n "$packages" ] || die "apt can't tell what qemu-system-x86 needs: run apt-get update"
        # shellcheck disable=SC2086
        (cd "$cache/qemu" && apt-get -qq -o APT::Sandbox::User=root download $packages &&
            for package in ./*.deb; do dpkg-deb -x "$package" root && rm "$package" || exit 1; done) ||
            die "qemu-system-x86 could not be fetched"
        root=$cache/qemu/root
        libraries=lib/x86_64-linux-gnu
        loader=$(find "$root" -type f -name ld-linux-x86-64.so.2)
        {
            echo '#!/bin/sh'
            echo "QEMU_MODULE_DIR='$root/usr/$libraries/qemu' exec '$loader' \\"
            echo "    --library-path '$root/usr/$libraries:$root/$libraries' '$root/usr/bin/qemu-system-x86_64' \\"
            echo "    -L '$root/usr/share/qemu' -L '$root/usr/share/seabios' \"\$@\""
        } >"$cache/qemu/new"
        chmod +x "$cache/qemu/new"
        mv "$cache/qemu/new" "$qemu"
    fi
fi

# A file and the libraries it needs, at their own paths.
copy() {
    mkdir -p "$1$(dirname "$2")"
    cp -L "$2" "$1$2"
    # Not a dynamic program: nothing more to take along.
    ldd "$2" 2>/dev/null | sed -n 's/^.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p' | while read -r library; do
        [ -e "$1$library" ] || { mkdir -p "$1$(dirname "$library")"; cp -L "$library" "$1$library"; }
    done
}

if [ ! -e "$cache/base.cpio.gz" ] || [ -n "$(find "$0" -newer "$cache/base.cpio.gz")" ]; then
    base=$cache/base
    rm -rf "$base"
    mkdir -p "$base"/bin "$base"/sbin "$base"/usr/bin "$base"/usr/sbin "$base"/etc "$base"/proc "$base"/sys \
        "$base"/dev "$base"/run "$base"/tmp "$base"/var "$base"/root
    ln -s /run "$base/var/run"
    cp -L "$busybox" "$base/bin/busybox"
    for applet in $("$base/bin/busybox" --list); do
        case $applet in
        ip | busybox) ;;
        *) ln -s /bin/busybox "$base/bin/$applet" ;;
        esac
    done
    # Where the kernel looks for it.
    ln -s /bin/busybox "$base/sbin/modprobe"
    # A script must find the real ip, not an applet of the same name.
    rm "$base/bin/sh"
    copy "$base" /bin/sh
    copy "$base" "$nft"
    copy "$base" "$ip"
    [ -e "$base/usr/sbin/nft" ] || ln -s "$nft" "$base/usr/sbin/nft"
    [ -e "$base/bin/ip" ] || ln -s "$ip" "$base/bin/ip"
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$base/etc/passwd"
    printf 'root:x:0:\n' >"$base/etc/group"
    printf '127.0.0.1 localhost\n::1 localhost\n' >"$base/etc/hosts"

    # The netfilter modules and what they depend on.
    modules=lib/modules/$release
    mkdir -p "$base/$modules"
    (
        cd "$cache/kernel/$modules"
        cp modules.alias modules.builtin modules.dep modules.softdep modules.order "$base/$modules/"
        for wanted in kernel/net/netfilter/*.ko kernel/net/ipv4/netfilter/*.ko kernel/net/ipv6/netfilter/*.ko \
            kernel/drivers/net/veth.ko kernel/drivers/net/dummy.ko; do
            echo "$wanted"
            sed -n "s|^$wanted: *||p" modules.dep | tr ' ' '\n'
        done | sort -u | while read -r module; do
            if [ -n "$module" ]; then
                mkdir -p "$base/$modules/$(dirname "$module")"
                cp "$module" "$base/$modules/$module"
            fi
        done
    )
    cat >"$base/init" <<'INIT'
#!/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/netns
ip link set lo up
# Several programs at once may be the first to ask for them, and this modprobe
# does not let the second one wait.
for module in nf_tables nf_conntrack_netlink nfnetlink_queue veth; do modprobe "$module"; done
cd /tmp
# The kernel talks on ttyS1, so that its words do not mix with the program's.
stty -F /dev/ttyS0 raw -echo
sh /payload.sh </dev/null >/dev/ttyS0 2>&1
status=$?
printf '\nhalfgate-vm status %s\n' "$status" >/dev/ttyS1
reboot -f
INIT
    chmod +x "$base/init"
    (cd "$base" && find . | cpio --quiet -o -H newc | gzip -1) >"$cache/base.cpio.gz.new"
    mv "$cache/base.cpio.gz.new" "$cache/base.cpio.gz"
    rm -rf "$base"
fi
flock -u 9

work=$(mktemp -d "${TMPDIR:-/tmp}/halfgate-vm.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

mkdir "$work/root"
for file in "$payload" $added; do
    file=$(readlink -f "$file")
    copy "$work/root" "$file"
    # Debug information only costs memory and time in there.
    strip -g "$work/root$file" 2>/dev/null || true
done
{
    echo "$environment"
    quote "$payload"
    for argument in "$@"; do quote "$argument"; done
    echo
} >"$work/root/payload.sh"
{
    cat "$cache/base.cpio.gz"
    (cd "$work/root" && find . | cpio --quiet -o -H newc | gzip -1)
} >"$work/initramfs"

: >"$work/status"
# TCG runs anywhere; both serial lines are the machine's only way out.
ended=0
timeout --foreground "$seconds" "$qemu" -accel tcg -machine q35 -cpu max -smp 2 -m 1024 -nodefaults -no-reboot -display none \
    -kernel "$cache/kernel/boot/vmlinuz-$release" -initrd "$work/initramfs" \
    -append "console=ttyS1 quiet loglevel=3 panic=-1 mitigations=off random.trust_cpu=on $boot" \
    -serial stdio -serial "file:$work/status" </dev/null || ended=$?
[ "$ended" -ne 124 ] || die "it did not end within $seconds s"
status=$(sed -n 's/^halfgate-vm status \([0-9]*\).*/\1/p' "$work/status")
if [ -z "$status" ]; then
    tail -n 40 "$work/status" >&2
    die "the machine ended without a status (qemu: $ended)"
fi
exit "$status"
