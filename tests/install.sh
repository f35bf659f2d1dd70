#!/usr/bin/env bash
# packaging/install.sh below a --destdir: install, keep what a person edited,
# update, uninstall, purge. Touches nothing of this system.
#
#   tests/install.sh HALFGATE
set -euo pipefail

binary=$(realpath "${1:?which halfgate?}")
install=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/packaging/install.sh
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

fail() {
    echo "tests/install.sh: $*" >&2
    find "$root" >&2
    exit 1
}
there() { [ -e "$root$1" ] || fail "$1 is missing"; }
gone() { [ ! -e "$root$1" ] || fail "$1 is still there"; }
run() { "$install" --destdir "$root" "$@"; }

run --binary "$binary" --wan wan0 --lan lan0
there /usr/local/sbin/halfgate
there /etc/systemd/system/halfgate.service
there /etc/systemd/system/halfgate-static.service
there /etc/halfgate/rules.yaml
there /var/lib/halfgate
grep -q wan0 "$root/etc/halfgate/rules.yaml" || fail "the rule file does not know wan0"
grep -q lan0 "$root/etc/halfgate/rules.yaml" || fail "the rule file does not know lan0"
[ "$(stat -c %a "$root/etc/halfgate/rules.yaml")" = 640 ] || fail "anyone may read the rule file"
"$root/usr/local/sbin/halfgate" check "$root/etc/halfgate/rules.yaml"

echo '# edited by a person' >>"$root/etc/halfgate/rules.yaml"
run --binary "$binary" --prefix /usr
grep -q 'edited by a person' "$root/etc/halfgate/rules.yaml" || fail "an update overwrote the rule file"
there /usr/sbin/halfgate
grep -q 'ExecStart=/usr/sbin/halfgate' "$root/etc/systemd/system/halfgate.service" || fail "the unit has another prefix"

echo 'nonsense: [' >>"$root/etc/halfgate/rules.yaml"
if run --binary "$binary" 2>/dev/null; then fail "a broken rule file was accepted"; fi

run --prefix /usr --uninstall
gone /usr/sbin/halfgate
gone /etc/systemd/system/halfgate.service
gone /var/lib/halfgate
there /etc/halfgate/rules.yaml
run --uninstall --purge
gone /usr/local/sbin/halfgate
gone /etc/halfgate

if run --binary "$binary" --purge 2>/dev/null; then fail "--purge without --uninstall was accepted"; fi
if run --binary /nonexistent 2>/dev/null; then fail "a binary that is not there was accepted"; fi
echo "install.sh: all is well"
