#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# `tandem verify` of a running guest: memory, device state and disks are equal on both nodes, at one checkpoint, under memory and
# disk load, with each way of capture and of tracking; one byte that is changed in the secondary's RAM image, or in its image
# of a disk, is found, named, and put right.
# usage: tests/scenario/guest_verify.sh BUILD_DIR [SEED [TIMES]]    (output in the manner of TAP)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../guest/scenario.sh
. "$here/../guest/scenario.sh" 2 "$@"
seed=${2:-$seed} times=${3:-3}
vm_mode=agree-raw

protected() {
  scenario_again
  vm_new "$build/tandem" "$seed" && rig_init || return 1
  vm_start beta standby
  vm_start alpha run
  vm_goes_on alpha 3 120 && rig_wait_state alpha protected 60
}

# No run of the guest may stop for it.
clean() {
  local i lines
  for ((i = 0; i < times; i++)); do
    lines=$(vm_lines alpha)
    said=$(rig_run alpha verify) || { rig_fail "verify: $said $(rig_reason)"; return 1; }
    [ "$(sed -n '$=' <<<"$said")" = 2 ] && grep -q '^the disks (128.0 MiB) are equal' <<<"$said" ||
      { rig_fail "not all was compared: $said"; return 1; }
    vm_goes_on alpha "$((lines + 2))" 30 || return 1
  done
}

# image OFFSET: turns over the bits of one byte of the RAM image that beta's replicator holds
damage() {
  python3 - "$rig_dir/beta/run/control.sock" "$1" <<'END'
import json, os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
got, fds = b'', []
s.sendall(b'{"execute": "query-memory"}\n')
while got.count(b'\n') < 2:
    data, more, _, _ = socket.recv_fds(s, 65536, 1)
    got, fds = got + data, fds + more
assert json.loads(got.splitlines()[1])['return']['size'] > int(sys.argv[2])
byte = os.pread(fds[0], 1, int(sys.argv[2]))
os.pwrite(fds[0], bytes([byte[0] ^ 255]), int(sys.argv[2]))
END
}

# The kernel's own code: the guest does not write it. In a block of 4 MiB, whose range must be named.
found() {
  local at=$((0x1100000)) code
  damage "$at" || { rig_fail "the image cannot be reached"; return 1; }
  said=$(rig_run alpha verify)
  code=$?
  [ "$code" -eq 10 ] || { rig_fail "verify ends with $code and says: $said"; return 1; }
  [ "$said" = "memory differs: bytes $((at / 4194304 * 4194304)) to $(((at / 4194304 + 1) * 4194304 - 1))
the disks (128.0 MiB) are equal on both nodes" ] || { rig_fail "verify says: $said"; return 1; }
  grep -q 'memory differs from the primary' "$rig_dir/beta.log" || rig_fail "beta has not logged it"
}

# found_on_disk MIB [OFFSET]: there, where the guest does not write and nothing is on its way to the image; with a byte of memory
found_on_disk() {
  local at=$(($1 * 1048576)) code
  printf x | dd of="$rig_dir/beta/vdb.img" bs=1 seek=$((at + 4711)) conv=notrunc status=none
  [ -z "${2:-}" ] || damage "$2" || { rig_fail "the image cannot be reached"; return 1; }
  said=$(rig_run alpha verify --repair)
  code=$?
  [ "$code" -eq 10 ] || { rig_fail "verify ends with $code and says: $said"; return 1; }
  [ "$(tail -n 1 <<<"$said")" = "disk vdb differs: offset $at, length 65536" ] &&
    [ "$(grep -c '^memory differs' <<<"$said")" -eq $(($# - 1)) ] || rig_fail "verify says: $said"
}

refused() {
  rig_run beta verify >>"$rig_dir/commands.log" && { rig_fail "verify on the standby did something"; return 1; }
  rig_reason | grep -q 'is not protected here' || rig_fail "it says: $(rig_reason)"
}

scenario_guest
for way in "fifo uffd" "migrate uffd" "fifo shadow" "migrate soft-dirty"; do
  read -r capture tracking <<<"$way"
  vm_keys=$(printf 'capture = %s\ntracking = %s' "$capture" "$tracking")
  if ! protected; then
    if grep -q "tracking.*$tracking.*\(not\|lack\|cannot\)" "$rig_dir/alpha.log"; then
      count=$((count + 1))
      echo "ok $count - $way # SKIP $(grep -m 1 "$tracking" "$rig_dir/alpha.log")"
      continue
    fi
    step "$way: the guest is protected" false
  fi
  step "$way: equal, $times times under load" clean
  echo "# $said"
  step "$way: one byte of the secondary's memory is found" found
  step "$way: and is put right" clean
  step "$way: one byte of the secondary's disk is found" found_on_disk 62
  step "$way: one of its disk and one of its memory" found_on_disk 60 $((0x1100000))
  step "$way: and are put right" clean
done
step "the standby has nothing to compare" refused
echo "1..$count"
