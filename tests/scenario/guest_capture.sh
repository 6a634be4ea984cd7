#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Checkpoints of a running guest without replication: RAM by each way of dirty tracking, device state by each way of
# capture, on several machines; a second QEMU goes on from the last one (tests/guest/capture.c).
# usage: tests/scenario/guest_capture.sh BUILD_DIR [COUNT]    (checkpoints each, default 40; output in the manner of TAP)
set -u
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n 's/^# usage/usage/p' "$0" >&2; exit 2; }
build=$(cd "$1" && pwd) count=${2:-40}
cache=${TANDEM_GUEST_CACHE:-$here/../../build/guest}
dir=$(mktemp -d "${TMPDIR:-/tmp}/tandem.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

# capture, tracking, load, QEMU's further arguments, what the first line must say
cases=(
  'fifo|uffd|both|-M pc -smp 1|capture fifo, tracking uffd, machine pc-i440fx-'
  'auto|auto|both|-M q35 -smp 2|capture fifo'
  'migrate|uffd|both|-M q35 -smp 2|capture migrate, tracking uffd, machine pc-q35-'
  'auto|shadow|disk|-M q35 -smp 1 -vga std -usb -device usb-tablet -device virtio-net-pci|capture migrate: the machine has other RAM that may change: '
  'auto|uffd|disk|-M q35 -smp 1 -device virtio-scsi-pci -device scsi-hd,drive=vda -device scsi-hd,drive=vdb|capture fifo'
  'auto|soft-dirty|mem|-M pc -smp 1|capture fifo, tracking soft-dirty'
)
failed=0 n=0
echo "1..${#cases[@]}"
"$here/../guest/setup.sh" || { echo "Bail out! the test guest cannot be made"; exit 1; }
for c in "${cases[@]}"; do
  IFS='|' read -r capture tracking load args says <<<"$c"
  n=$((n + 1)) name="$capture, $tracking, load $load, $args"
  mkdir -p "$dir/$n"
  timeout 300 "$build/tests/guest/capture" "$cache" "$dir/$n" "$build/src/guest/tandem-preload.so" \
    "$capture" "$tracking" "$load" "$count" "$args" >"$dir/log" 2>&1
  rc=$?
  if [ $rc -eq 77 ]; then
    echo "ok $n - $name # SKIP $(tail -n 1 "$dir/log")"
  elif [ $rc -eq 0 ] && grep -qF "$says" "$dir/log"; then
    echo "ok $n - $name"
    sed 's/^/# /' "$dir/log"
  else
    echo "not ok $n - $name (exit $rc)"
    sed 's/^/# /' "$dir/log"
    tail -n 5 "$dir/$n/a/console" "$dir/$n/b/console" 2>/dev/null | tr -d '\r' | sed 's/^/# /'
    failed=1
  fi
  rm -rf "${dir:?}/$n"
done
exit $failed
