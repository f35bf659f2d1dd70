#!/usr/bin/env bash
# packaging/install.sh on a real systemd: boots this Debian's like in a virtual
# machine (systemd as process 1, Debian's own kernel), installs halfgate over an
# ssh session there, and looks (guest.sh). The machine is booted twice.
#
#   sudo tests/systemd/run.sh HALFGATE
#
# Needs debootstrap, qemu-system-x86 and e2fsprogs; the first time it makes the
# machine's disk, later it is taken from HALFGATE_VM_CACHE (target/vm).
# HALFGATE_VM_TIMEOUT: after how many seconds it gives up. HALFGATE_VM_ACCEL: kvm
# is faster, where there is one (tcg).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
seconds=${HALFGATE_VM_TIMEOUT:-600}

die() {
    echo "tests/systemd/run.sh: $*" >&2
    exit 1
}

binary=$(realpath "${1:?which halfgate?}")
[ "$(id -u)" = 0 ] || die "debootstrap needs root: run it with sudo."
[ "$(uname -m)" = x86_64 ] || die "the machine is an x86_64 one."
PATH=$PATH:/usr/sbin:/sbin
bash -c '. "$0"/packaging/common.sh; mapfile -t p < <(missing_packages "$@"); install_packages "${p[@]}"' "$top" \
    debootstrap=debootstrap qemu-system-x86_64=qemu-system-x86 mke2fs=e2fsprogs ssh-keygen=openssh-client tar=tar
for tool in debootstrap qemu-system-x86_64 mke2fs tar; do
    command -v $tool >/dev/null || die "$tool was not found."
done
# The same release as here: the program that was built here must run there.
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "${ID:-} ${VERSION_CODENAME:-}")
case $suite in
"debian "?*) suite=${suite#debian } ;;
*) die "this is for Debian; here is ${suite:-something without a name}." ;;
esac

mkdir -p "${HALFGATE_VM_CACHE:-$top/target/vm}"
cache=$(cd "${HALFGATE_VM_CACHE:-$top/target/vm}" && pwd)
disk=$cache/$suite
work=$(mktemp -d "${TMPDIR:-/tmp}/halfgate-systemd.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

packages=linux-image-cloud-amd64,systemd-sysv,udev,kmod,nftables,iptables,iproute2,procps,openssh-server,openssh-client,netcat-openbsd

make_disk() {
    local root=$work/root
    echo "making the machine's disk (once; some minutes)"
    debootstrap --variant=minbase --include="$packages" "$suite" "$root" >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        die "debootstrap failed."
    }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    echo gateway >"$root/etc/hostname"
    echo '127.0.0.1 localhost gateway' >"$root/etc/hosts"
    # It talks to nobody but itself: a key without a passphrase.
    mkdir -p "$root/root/.ssh"
    chmod 0700 "$root/root/.ssh"
    ssh-keygen -q -t ed25519 -N '' -C 'test machine' -f "$root/root/.ssh/id_ed25519" 2>/dev/null ||
        chroot "$root" ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
    cp "$root/root/.ssh/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
    printf '[Unit]\nDescription=the test\nAfter=ssh.service halfgate.service\n[Service]\nType=simple\n%s\n%s\n%s\n%s\n[Install]\nWantedBy=multi-user.target\n' \
        'ExecStartPre=/bin/sh -c "mkdir -p /root/test && tar -xf /dev/vdb -C /root/test"' \
        'ExecStart=/root/test/guest.sh' 'StandardOutput=file:/dev/ttyS1' 'StandardError=file:/dev/ttyS1' \
        >"$root/etc/systemd/system/the-test.service"
    chroot "$root" systemctl -q enable the-test.service
    chroot "$root" systemctl -q mask getty@tty1.service serial-getty@ttyS0.service apt-daily.timer \
        apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-timesyncd.service
    rm -rf "$disk.new"
    mkdir "$disk.new"
    cp -L "$root"/boot/vmlinuz-* "$disk.new/kernel"
    cp -L "$root"/boot/initrd.img-* "$disk.new/initrd"
    mke2fs -q -t ext4 -d "$root" "$disk.new/disk" 1500M
    mv "$disk.new" "$disk"
    rm -rf "$root"
}

# One of several runs at a time makes it; the others wait.
exec 9>"$cache/lock-$suite"
flock 9
# A disk that was made in another way is not this one's.
recipe=$(declare -f make_disk | cat - <(echo "$packages"))
if [ "$(cat "$disk/recipe" 2>/dev/null)" != "$recipe" ]; then
    rm -rf "$disk"
    make_disk
    echo "$recipe" >"$disk/recipe"
fi
flock -u 9

mkdir "$work/payload"
cp -r "$top/packaging" "$here/guest.sh" "$work/payload/"
cp "$top/rust-toolchain.toml" "$work/payload/"
strip -g -o "$work/payload/halfgate" "$binary" 2>/dev/null || cp "$binary" "$work/payload/halfgate"
tar -C "$work/payload" -cf "$work/payload.tar" .

# TCG runs anywhere. Writes go beside the disk and are thrown away.
machine=''
start() {
    : >"$work/console"
    TMPDIR=$work timeout "$seconds" qemu-system-x86_64 -machine "q35,accel=${HALFGATE_VM_ACCEL:-tcg}" -cpu max -smp 2 \
        -m 1024 -nodefaults -display none -snapshot -kernel "$disk/kernel" -initrd "$disk/initrd" \
        -append "root=/dev/vda rw console=ttyS0 loglevel=6 mitigations=off random.trust_cpu=on systemd.show_status=0" \
        -drive "file=$disk/disk,format=raw,if=virtio" \
        -drive "file=$work/payload.tar,format=raw,if=virtio" \
        -serial "file:$work/console" -serial "file:$work/said" </dev/null 2>"$work/qemu" &
    machine=$!
}
stop() {
    [ -z "$machine" ] || kill "$machine" 2>/dev/null || true
    wait
    rm -rf "$work"
}
trap stop EXIT
start
# Two emulated processors on a busy host may miss each other before the kernel's
# first word; that is no word about halfgate.
for (( waited = 0; waited < 60; waited++ )); do
    if [ -s "$work/console" ] || ! kill -0 "$machine" 2>/dev/null; then break; fi
    sleep 1
done
if [ ! -s "$work/console" ] && kill -0 "$machine" 2>/dev/null; then
    echo "the machine did not begin to boot: once more"
    kill "$machine"
    wait "$machine" || true
    start
fi
ended=0
wait "$machine" || ended=$?
machine=''
cat "$work/said"
if [ "$ended" -ne 0 ] || ! grep -q '^the end: ' "$work/said"; then
    tail -n 40 "$work/qemu" "$work/console" >&2
    [ "$ended" -ne 124 ] || die "it did not end within $seconds s."
    die "the machine ended without a result (qemu: $ended)."
fi
grep -q '^the end: [0-9]* right, 0 wrong' "$work/said"
