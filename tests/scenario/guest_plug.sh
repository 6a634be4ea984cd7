#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A device is plugged into a protected guest, or out, by somebody else: a checkpoint with it could not be resumed on the standby.
# Protection ends, with the reason, while the guest runs on, and begins anew when the device is gone; the standby can be promoted
# to the last checkpoint before. A link that was closed by command meanwhile stays so. Memory cannot be plugged in.
# usage: tests/scenario/guest_plug.sh BUILD_DIR [SEED]    (output in the manner of TAP)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../guest/scenario.sh
. "$here/../guest/scenario.sh" 1 "$@"
seed=${2:-$seed}
vm_mode=agree-raw
vm_args='-M pc -usb -device usb-tablet -qmp unix:qmp.sock,server=on,wait=off'

# qmp COMMAND ARGUMENTS: of alpha's user, to his QEMU; its answer is said
qmp() {
  printf '{"execute":"qmp_capabilities"}\n{"execute":"%s","arguments":{%s},"id":1}\n' "$1" "$2" |
    timeout 10 socat -t 2 - "UNIX-CONNECT:$rig_dir/alpha/qmp.sock" | tee -a "$rig_dir/commands.log" | grep '"id": 1'
}
done_by_qmp() {
  local said
  said=$(qmp "$@")
  grep -q '"return"' <<<"$said" || rig_fail "QEMU refuses $1: $said"
}

protected() {
  vm_new "$build/tandem" "$seed" && rig_init || return 1
  vm_start beta standby
  vm_start alpha run
  vm_goes_on alpha 3 120 && rig_wait_state alpha protected 60
}

reason() { rig_run alpha status --json 2>/dev/null | jq -r '.reason'; }
says_why() { [ "$(rig_state alpha)" = solo ] && reason | grep -q "$1"; }
# unprotected WORDS: it is said, and the guest goes on
unprotected() {
  rig_until 30 says_why "$1" || { rig_fail "alpha is $(rig_state alpha), and says: $(reason)"; return 1; }
  vm_goes_on alpha "$(($(vm_lines alpha) + 3))" 60
}

mouse_in() {
  rig_wait_state alpha protected 60 && done_by_qmp device_add '"driver":"usb-mouse","id":"plugged"' &&
    unprotected 'device usb-mouse, id "plugged", was plugged in while the guest runs'
}
mouse_out() { done_by_qmp device_del '"id":"plugged"'; }
again() {
  rig_wait_state alpha protected 60 && vm_note alpha && vm_goes_on alpha "$(($(vm_lines alpha) + 3))" 60
}
undone() { mouse_out && again; }
insisted() {
  rig_run alpha connect >>"$rig_dir/commands.log" || { rig_fail "connect: $(rig_reason)"; return 1; }
  unprotected 'device usb-mouse' && ! rig_run alpha status --json | jq -e '.state == "protected"' >/dev/null
}
by_command() { # the device is taken out again; what the administrator closed stays closed
  rig_run alpha disconnect >>"$rig_dir/commands.log" && mouse_out || return 1
  seen() { grep -q 'as its command line says again' <(tail -n "+$1" "$rig_dir/alpha.log"); }
  rig_until 20 seen "$log_at" || { rig_fail "nobody saw that it is gone"; return 1; }
  says_why 'disconnected by command' || { rig_fail "alpha is $(rig_state alpha), and says: $(reason)"; return 1; }
  rig_run alpha connect >>"$rig_dir/commands.log" && again
}
keyboard_out() { # a device of the command line; in again, it is at another port. The standby goes on from what was before
  vm_note alpha && done_by_qmp device_del '"id":"mine"' && unprotected 'device usb-kbd, id "mine", was plugged out while the guest runs' &&
    done_by_qmp device_add '"driver":"usb-kbd","id":"mine"' && rig_run alpha connect >>"$rig_dir/commands.log" &&
    unprotected 'device usb-kbd, id "mine", was plugged out' || return 1
  vm_kill alpha && vm_promote beta && vm_same_guest beta && vm_goes_on beta 5 60
}
no_memory() {
  done_by_qmp object-add '"qom-type":"memory-backend-ram","id":"more","size":134217728' || return 1
  qmp device_add '"driver":"pc-dimm","memdev":"more","id":"dimm"' | grep -q '"error"' || { rig_fail "QEMU takes a pc-dimm"; return 1; }
  again
}
disk_in() { # and the standby goes on from what was before
  vm_note alpha && done_by_qmp blockdev-add '"driver":"null-co","node-name":"foreign","size":1048576' &&
    done_by_qmp device_add '"driver":"virtio-blk-pci","drive":"foreign","id":"disk"' &&
    unprotected 'device virtio-blk-pci, id "disk", was plugged in' || return 1
  vm_kill alpha && vm_promote beta && vm_same_guest beta && vm_goes_on beta 5 60
}

scenario_plan
scenario_guest
vm_args+=' -device usb-kbd,id=mine'
step "a guest is protected" protected
step "a USB device is plugged in: protection ends, with the reason" mouse_in
log_at=$(($(wc -l <"$rig_dir/alpha.log") + 1))
step "and plugged out: it begins again" undone
step "once more" mouse_in
step "the link is made again by hand: it ends again" insisted
log_at=$(($(wc -l <"$rig_dir/alpha.log") + 1))
step "a link that was closed by command meanwhile stays closed" by_command
step "memory cannot be plugged in: protection goes on" no_memory
step "a disk is plugged in: the standby goes on from the checkpoint before" disk_in
scenario_again
step "another guest" protected
step "a device of the command line is plugged out, and in again: the standby goes on from before" keyboard_out
echo "1..$count"
