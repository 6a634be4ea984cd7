#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest keeps one sequence in memory, on two disks, and in a second process behind a pipe; the whole side where it runs
# (agent, replicator, QEMU) is killed at a random moment, the other one is promoted, and the guest goes on there: all
# places agree as at one instant (agree.c looks before each of its steps). The killed side comes back as the standby,
# and so on. Under disk load, memory load, both and none; with 1 and 2 vCPUs; ext4 and raw; each way of capture; pages whole and
# as differences to what was sent last.
# usage: tests/scenario/guest_agree.sh BUILD_DIR [FAILOVERS] [SEED]    (default 32; output in the manner of TAP)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../guest/scenario.sh
. "$here/../guest/scenario.sh" 2 "$@"
failovers=${2:-32} seed=${3:-$seed}

# vCPUs, mode, load, QEMU's arguments, keys of [guest]
cases=(
  '1|agree-raw|both|-M pc|'
  '2|agree|disk|-M q35|delta-cache = 64M'
  '1|agree-raw|mem|-M q35 -vga std -usb -device usb-tablet|delta-cache = 2M'
  '2|agree|both|-M q35|capture = migrate'
)
[ "$failovers" -ge "${#cases[@]}" ] || cases=("${cases[@]:0:$failovers}")
each=$(((failovers + ${#cases[@]} - 1) / ${#cases[@]}))

one_failover() { # from $1 to $2
  local ms
  rig_wait_state "$1" protected 60 && vm_note "$1" || return 1
  rig_random 0 1500
  ms=$random
  sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))"
  [ -z "$(vm_error "$1")" ] || { rig_fail "on $1 the guest says: $(vm_error "$1")"; return 1; }
  vm_kill "$1" && vm_promote "$2" && vm_same_guest "$2" && vm_goes_on "$2" 8 60 || return 1
  vm_start "$1" standby
}

scenario_plan "$((each * ${#cases[@]}))"
scenario_guest
for c in "${cases[@]}"; do
  IFS='|' read -r vm_smp vm_mode vm_load vm_args vm_keys <<<"$c"
  name="$vm_smp vCPUs, $vm_mode, load $vm_load, $vm_args $vm_keys"
  vm_new "$build/tandem" "$seed" && rig_init || bad "$name: a group"
  vm_start beta standby
  vm_start alpha run
  vm_goes_on alpha 3 120 || bad "$name: the guest boots"
  from=alpha to=beta
  for _ in $(seq "$each"); do
    one_failover "$from" "$to" || bad "$name: failover from $from to $to"
    count=$((count + 1))
    echo "ok $count - $name: $from to $to; it had said $last_seq (up $last_up), $noted was committed, and went on with $seq (up $up)"
    node=$from from=$to to=$node
  done
  scenario_again
  seed=$(((seed + 1) % 32768))
done
