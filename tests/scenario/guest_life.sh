#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What else happens to a protected guest: planned moves, ends of each process, reset, power-off, an orderly stop; and
# what is refused before it runs.
# usage: tests/scenario/guest_life.sh BUILD_DIR [SEED]    (output in the manner of TAP)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../guest/scenario.sh
. "$here/../guest/scenario.sh" 1 "$@"
seed=${2:-$seed}
vm_mode=agree-raw
vm_args='-qmp unix:qmp.sock,server=on,wait=off'

fresh_group() {
  scenario_again
  vm_new "$build/tandem" "$seed" && rig_init
}
protected() {
  vm_start beta standby
  vm_start alpha run
  vm_goes_on alpha 3 120 && rig_wait_state alpha protected 60
}
log_has() { grep -q "$2" "$rig_dir/$1.log"; }
ended() { rig_until "$2" rig_gone "${node_pid[$1]}" || { rig_fail "node $1 has not ended"; return 1; }; }
# child_of NODE NAME: the process id
child_of() { pgrep -P "${node_pid[$1]}" -x "$2" | head -n 1; }

# waits NODE: a QEMU is ready there, which is $waiting
is_ready() {
  printf '{"execute":"query-guest"}\n' | timeout 5 socat -t 1 - "UNIX-CONNECT:$rig_dir/$1/run/agent.sock" 2>>"$rig_dir/commands.log" |
    grep -q '"ready": *true' && waiting=$(child_of "$1" qemu-system-x86) && [ -n "$waiting" ]
}
waits() { rig_until 60 is_ready "$1" || rig_fail "no QEMU waits on $1: $(tail -n 1 "$rig_dir/$1.log")"; }
is_used() { [ "$(child_of "$1" qemu-system-x86)" = "$waiting" ] || rig_fail "the guest on $1 does not run in the QEMU that waited"; }

ahead() { # the QEMU that waits on $2 has touched no page of the RAM image, and has changed nothing in it
  waits "$2" || return 1
  awk '/tandem-ram/ { found = 1; next } found == 1 && /^Rss:/ { rss = $2; found = 2 } END { exit !(found == 2 && rss == 0) }' \
    "/proc/$waiting/smaps" || { rig_fail "QEMU on $2 has pages of the guest's RAM: $(grep -A 3 tandem-ram "/proc/$waiting/smaps")"; return 1; }
  rig_run "$1" verify >>"$rig_dir/commands.log" || rig_fail "memory differs, or cannot be compared: $(rig_reason)"
}

another_waits() { # the one on $1 dies
  local before
  waits "$1" && before=$waiting && kill -KILL "$waiting" || return 1
  other() { is_ready "$1" && [ "$waiting" != "$2" ]; }
  rig_until 60 other "$1" "$before" || { rig_fail "nobody takes the place of the QEMU that was killed"; return 1; }
  log_has "$1" 'no QEMU is ready for a promotion: it has ended: signal 9' || rig_fail "its log does not say why"
}

disk_grows() { # on both nodes; the QEMU that waits on $2 has the former size, and gives way to another one
  local before node
  rig_wait_state "$1" protected 60 && waits "$2" && before=$waiting || return 1
  for node in "$1" "$2"; do truncate -s 80M "$rig_dir/$node/vda.img" || return 1; done
  rig_run "$1" grow >>"$rig_dir/commands.log" || { rig_fail "grow: exit code $?"; return 1; }
  other() { is_ready "$1" && [ "$waiting" != "$2" ]; }
  rig_until 60 other "$2" "$before" || { rig_fail "the QEMU that waits still has the former size"; return 1; }
  rig_run "$2" status --json | grep -q '"size": *83886080' || rig_fail "the disk on $2 has not grown"
}

switch_over() { # from $1 to $2: the guest says every number once: nothing is said twice or lost but by the serial line
  rig_wait_state "$1" protected 60 && waits "$2" && vm_note "$1" || return 1
  : >"$rig_dir/$2/console"
  rig_run "$1" switchover >>"$rig_dir/commands.log" || { rig_fail "switchover: $(rig_reason)"; return 1; }
  cp "$rig_dir/$1/console" "$rig_dir/last-console"
  vm_goes_on "$2" 1 30 && vm_same_guest "$2" || return 1
  [ "$seq" -gt "$last_seq" ] || { rig_fail "it had said $last_seq before the move, and $seq after it"; return 1; }
  is_used "$2" && vm_goes_on "$2" 5 60
}

parted() { # by command on $1; $2 must not take that for the end of the guest
  rig_run "$1" disconnect >>"$rig_dir/commands.log" || { rig_fail "disconnect: $(rig_reason)"; return 1; }
  rig_until 20 log_has "$2" 'it was disconnected by command' || { rig_fail "its log does not say why"; return 1; }
  vm_goes_on "$1" "$(($(vm_lines "$1") + 3))" 60 && rig_run "$1" connect >>"$rig_dir/commands.log" && rig_wait_state "$1" protected 60
}

replicator_dies() {
  local old
  old=$(child_of "$1" nbdkit)
  vm_note "$1" && kill -KILL "$old" || return 1
  rig_until 20 log_has "$1" 'the replicator has ended (signal 9); starting it again' || { rig_fail "nobody noticed"; return 1; }
  rig_wait_state "$1" protected 60 && vm_seq "$rig_dir/$1/console" && noted=$seq || return 1
  vm_goes_on "$1" "$(($(vm_lines "$1") + 8))" 60
}

reset_machine() {
  local lines
  lines=$(vm_lines "$1")
  printf '{"execute":"qmp_capabilities"}\n{"execute":"system_reset"}\n' |
    timeout 5 socat -t 1 - "UNIX-CONNECT:$rig_dir/$1/qmp.sock" >>"$rig_dir/commands.log"
  rig_until 20 log_has "$1" 'the guest was reset' || { rig_fail "the reset was not seen"; return 1; }
  booted_twice() { [ "$(grep -c '^@@ up ' "$rig_dir/$1/console")" -ge "$2" ]; }
  rig_until 120 booted_twice "$1" "$2" || { rig_fail "the guest did not boot again"; return 1; }
  vm_goes_on "$1" "$((lines + 5))" 120 && rig_wait_state "$1" protected 60
}
fail_over() {
  waits "$2" && vm_note "$1" && vm_kill "$1" && vm_promote "$2" && vm_same_guest "$2" && is_used "$2" && vm_goes_on "$2" 5 60
}

qemu_dies() {
  local qemu
  vm_note "$1" || return 1
  qemu=$(child_of "$1" qemu-system-x86)
  cp "$rig_dir/$1/console" "$rig_dir/last-console"
  kill -KILL "$qemu"
  ended "$1" 20 && unset "node_pid[$1]" || return 1
  log_has "$1" 'QEMU has ended: signal 9' || { rig_fail "its log does not say why"; return 1; }
  vm_promote "$2" && vm_same_guest "$2" && vm_goes_on "$2" 5 60
}

forced() { # $2 is promoted while $1 runs the guest: it must not go on in two places
  rig_wait_state "$1" protected 60 && vm_note "$1" || return 1
  : >"$rig_dir/$2/console"
  rig_run "$2" promote --force >>"$rig_dir/commands.log" || { rig_fail "promote --force: $(rig_reason)"; return 1; }
  ended "$1" 20 && unset "node_pid[$1]" || return 1
  cp "$rig_dir/$1/console" "$rig_dir/last-console"
  log_has "$1" 'was promoted by force: the guest was stopped here' || { rig_fail "its log does not say why"; return 1; }
  vm_goes_on "$2" 1 30 && vm_same_guest "$2" && vm_goes_on "$2" 5 60
}

standby_comes_back() {
  vm_start "$1" standby
  rig_wait_state "$2" protected 60
}
standby_dies() { # the guest on $2 does not care
  vm_kill "$1"
  rig_wait_state "$2" solo 30 && vm_goes_on "$2" "$(($(vm_lines "$2") + 5))" 60 || return 1
  standby_comes_back "$1" "$2"
}

stop_in_order() { # all that it has said is in the last checkpoint
  rig_wait_state "$1" protected 60 && vm_note "$1" || return 1
  kill -TERM "${node_pid[$1]}"
  ended "$1" 20 && unset "node_pid[$1]" || return 1
  cp "$rig_dir/$1/console" "$rig_dir/last-console"
  vm_seq "$rig_dir/last-console"
  noted=$seq
  vm_promote "$2" && vm_same_guest "$2" && vm_goes_on "$2" 5 60
}

told_before() { # the standby's QEMU lacks a file that the primary's has
  fresh_group && truncate -s 1M "$rig_dir/alpha/only-here.img" && protected || return 1
  rig_until 60 log_has beta 'no QEMU is ready for a promotion' || { rig_fail "the standby says nothing"; return 1; }
  grep -q 'only-here.img' "$rig_dir/beta.log" || { rig_fail "the reason is not in its log"; return 1; }
  truncate -s 1M "$rig_dir/beta/only-here.img"
  fail_over alpha beta
}

power_off() {
  rig_wait_state alpha protected 60
  ended alpha 120 && log_has alpha 'the guest has ended: it powered off' || rig_fail "$(tail -n 2 "$rig_dir/alpha.log")"
}

refused() { # ARGUMENTS REASON
  vm_args=$1
  fresh_group && truncate -s 1M "$rig_dir/alpha/foreign.img" || return 1
  vm_start alpha run
  ended alpha 60 || return 1
  log_has alpha "$2" || rig_fail "it does not say \"$2\": $(tail -n 1 "$rig_dir/alpha.log")"
}

scenario_plan
scenario_guest
step "a guest is protected" eval 'fresh_group && protected'
step "a QEMU waits on beta, and has not touched memory" ahead alpha beta
step "it is killed, and another one waits" another_waits beta
step "a disk grows, and the QEMU that waits is one that knows" disk_grows alpha beta
step "the link is closed by command, and made again" parted alpha beta
step "switchover to beta" switch_over alpha beta
step "and back" switch_over beta alpha
step "the replicator of the primary is killed: the guest waits for the next one" replicator_dies alpha
step "the standby is killed: the guest goes on alone, and is protected again" standby_dies beta alpha
step "the machine is reset" reset_machine alpha 1
step "failover after a reset" fail_over alpha beta
step "the killed side comes back" standby_comes_back alpha beta
step "QEMU is killed: failover" qemu_dies beta alpha
step "that side comes back" standby_comes_back beta alpha
step "promotion by force stops the guest on the other side" forced alpha beta
step "that side comes back, too" standby_comes_back alpha beta
step "and gets the guest back" switch_over beta alpha
step "SIGTERM: the last checkpoint is what the standby goes on from" stop_in_order alpha beta
step "what QEMU lacks on the standby is told before the promotion" eval \
  'vm_args+=" -blockdev driver=file,node-name=extra,filename=only-here.img,read-only=on"; told_before'
vm_args='-qmp unix:qmp.sock,server=on,wait=off'
step "power-off ends the agent" eval 'vm_mode=off; fresh_group && { vm_start beta standby; vm_start alpha run; power_off; }'
vm_mode=agree-raw
step "a balloon is refused" refused '-device virtio-balloon-pci' 'device virtio-balloon-pci, id "": it drops pages\|device virtio-balloon-pci: it drops pages'
step "a disk that is none of the group's is refused" refused '-drive if=virtio,format=raw,file=foreign.img' 'is none of the group'
step "memory that is not replicated is refused" refused '-object memory-backend-ram,id=more,size=16M' 'memory backends have 16777216 bytes in all'
step "a kernel that lacks the asked tracking is told" eval 'vm_keys="tracking = soft-dirty"; refused "" "tracking = soft-dirty: this kernel cannot\|dirty pages by soft-dirty"'
echo "1..$count"
