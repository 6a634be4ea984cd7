#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Boots the test guest on stock QEMU, without KVM. This process becomes QEMU, so to kill one is to kill the
# other. It ends by itself after "check"; "record" goes on until it is killed.
# usage: tests/guest/boot.sh --mode record|check --vda DISK --vdb DISK
#                            [--serial FILE] [--pidfile FILE] [--cache DIR]
# DISK is an NBD URI (nbd+unix:///vda?socket=PATH) or a raw file. The guest's console goes to standard
# output, or to FILE. DIR is what setup.sh filled.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
usage() { sed -n '/^# usage/,/^# output/s/^# //p' "$0" >&2; exit 2; }

mode='' vda='' vdb='' serial='' pidfile='' cache=${TANDEM_GUEST_CACHE:-$here/../../build/guest}
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
  --mode) mode=$2 ;;
  --vda) vda=$2 ;;
  --vdb) vdb=$2 ;;
  --serial) serial=$2 ;;
  --pidfile) pidfile=$2 ;;
  --cache) cache=$2 ;;
  *) usage ;;
  esac
  shift 2
done
case $mode in record | check) ;; *) usage ;; esac
[ -n "$vda" ] && [ -n "$vdb" ] || usage
[ -s "$cache/vmlinuz" ] && [ -s "$cache/initrd.img" ] || { echo "$0: run tests/guest/setup.sh first" >&2; exit 1; }

# A comma inside a value is written twice in QEMU's options.
disk() { echo "if=none,id=$1,format=raw,cache.direct=on,discard=unmap,file=${2//,/,,}"; }

args=(-accel tcg -m 256 -nodefaults -no-user-config -nographic -no-reboot
  -kernel "$cache/vmlinuz" -initrd "$cache/initrd.img"
  -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check rcupdate.rcu_expedited=1 random.trust_cpu=on tandem.mode=$mode"
  -drive "$(disk vda "$vda")" -device virtio-blk-pci,drive=vda
  -drive "$(disk vdb "$vdb")" -device virtio-blk-pci,drive=vdb)
if [ -n "$serial" ]; then
  args+=(-serial "file:${serial//,/,,}")
else
  args+=(-chardev "stdio,id=out,signal=off" -serial chardev:out)
fi
[ -z "$pidfile" ] || args+=(-pidfile "$pidfile")
read -ra qemu <<<"${TANDEM_TEST_QEMU:-qemu-system-x86_64}"
exec "${qemu[@]}" "${args[@]}" </dev/null
