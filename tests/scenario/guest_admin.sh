#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What an administrator gets wrong, or does by hand: a QEMU that is not there or does not start, two agents of one node, a
# configuration of the standby that is not the primary's, QEMU's monitor on the terminal, a terminal that goes away.
# usage: tests/scenario/guest_admin.sh BUILD_DIR [SEED]    (output in the manner of TAP)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../guest/scenario.sh
. "$here/../guest/scenario.sh" 1 "$@"
seed=${2:-$seed}
vm_group_keys='epoch-ms = 40'
devices='-M pc -device virtio-blk-pci,drive=vda,bootindex=0 -device virtio-blk-pci,drive=vdb'

# fresh DEVICES
fresh() { scenario_again; vm_boot_new "$build/tandem" "$seed" "$1"; }
log_has() { grep -q "$2" "$rig_dir/$1.log"; }
says() { rig_until 60 log_has "$1" "$2" || rig_fail "$1 does not say \"$2\": $(tail -n 1 "$rig_dir/$1.log")"; }
ended() { rig_until 30 rig_gone "${node_pid[$1]}" || { rig_fail "node $1 has not ended"; return 1; }; }

# refused CODE WORDS: `tandem run` on alpha ends with this exit code, says so, and leaves nothing behind
refused() {
  local code
  (cd "$rig_dir/alpha" && exec timeout 60 "$rig_tandem" run "$rig_conf" --node alpha) >>"$rig_dir/alpha.log" 2>&1 </dev/null
  code=$?
  [ "$code" -eq "$1" ] || { rig_fail "exit code $code, not $1: $(tail -n 1 "$rig_dir/alpha.log")"; return 1; }
  log_has alpha "$2" || { rig_fail "it does not say \"$2\": $(tail -n 1 "$rig_dir/alpha.log")"; return 1; }
}
no_qemu() { vm_qemu=no-such-qemu fresh "$devices" && refused 5 '^no-such-qemu: cannot be run' && log_has alpha 'no-such-qemu did not start'; }
no_start() { fresh "$devices -nonsense" && refused 5 'nonsense: invalid option' && log_has alpha 'did not start (its own message is above)'; }

# foreign_disk ARGUMENTS: of alpha's QEMU, beside the group's
foreign_disk() { fresh "$devices $1" && truncate -s 1M "$rig_dir/alpha/cd.img"; }
direct() { foreign_disk "$1" && refused 4 'disk cd.img is read past the page cache (cache=none)'; }
cached() { foreign_disk "$1" && runs_alone; }

runs_alone() {
  vm_start alpha run
  vm_goes_on alpha 2 60
}
twice() { refused 9 'an agent of node alpha runs already' && vm_goes_on alpha "$(($(vm_lines alpha) + 2))" 60; }

# standby_with FROM TO: beta's own configuration, in which TO stands in the place of FROM
standby_with() {
  sed "s/$1/$2/" "$rig_conf" >"$rig_dir/beta.conf"
  ! cmp -s "$rig_conf" "$rig_dir/beta.conf" || { rig_fail "\"$1\" does not stand in the configuration"; return 1; }
  (cd "$rig_dir/beta" && exec "$rig_tandem" standby "$rig_dir/beta.conf" --node beta) >>"$rig_dir/beta.log" 2>&1 </dev/null &
  node_pid[beta]=$!
  disown "$!"
}
standby_ends() {
  rig_stop "${node_pid[beta]}"
  unset "node_pid[beta]"
  vm_goes_on alpha "$(($(vm_lines alpha) + 2))" 60
}
told_memory() {
  standby_with '^memory = 64M' 'memory = 128M' && says alpha "the guests' memory differs" && says beta "the guests' memory differs" && standby_ends
}
told_alpha() { "$rig_tandem" status "$rig_conf" --node alpha | grep -q 'standby.*has no QEMU that could take the guest: vCPUs: the guest has 1'; }
told_cpus() {
  standby_with '-M pc' '-M pc -smp 2' && says beta 'no QEMU is ready for a promotion: vCPUs: the guest has 1, \[guest\] qemu gives it 2' &&
    { "$rig_tandem" status "$rig_conf" --node beta | grep -q 'guest.*no QEMU is ready for a promotion: vCPUs: the guest has 1' ||
      rig_fail "status of beta does not say it"; } &&
    { rig_until 10 told_alpha || rig_fail "alpha's status does not say it"; } &&
    { ! rig_run alpha switchover >>"$rig_dir/commands.log" || rig_fail "the guest was handed over to it"; } &&
    { rig_reason | grep -q 'the standby has no QEMU that could take the guest: vCPUs' || rig_fail "switchover says: $(rig_reason)"; } &&
    vm_goes_on alpha "$(($(vm_lines alpha) + 3))" 60 && standby_ends
}
told_division() {
  standby_with '-M pc' '-M pc,memory-backend=m -object memory-backend-ram,id=m,size=64M' &&
    says beta "no QEMU is ready for a promotion: the guest's memory is not divided as" && standby_ends
}
told_devices() {
  standby_with '-M pc' '-M pc -device virtio-rng-pci' && says beta "no QEMU is ready for a promotion: the guest's devices are not those" && standby_ends
}
nothing_lost() { # with the configuration as it should be
  vm_start beta standby
  rig_wait_state alpha protected 60 && says beta 'QEMU is ready for a promotion' && vm_note alpha && vm_kill alpha && vm_promote beta && vm_same_guest beta
}

terminal() { # QEMU's monitor on it: nothing stops QEMU
  fresh "$devices -monitor stdio" || return 1
  vm_start beta standby
  (cd "$rig_dir/alpha" && exec python3 -c 'import pty, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL) # nohup ignores it, and so would the agent
pty.spawn(sys.argv[1:])' "$rig_tandem" run "$rig_conf" --node alpha) >>"$rig_dir/alpha.log" 2>&1 </dev/null &
  node_pid[alpha]=$!
  disown "$!"
  vm_goes_on alpha 3 60 && rig_wait_state alpha protected 60 && vm_note alpha
}
hang_up() { # what it has said then is in the last checkpoint
  local agent
  agent=$(pgrep -P "${node_pid[alpha]}") && kill -KILL "${node_pid[alpha]}" && rig_until 30 rig_gone "$agent" || { rig_fail "the agent has not ended"; return 1; }
  unset "node_pid[alpha]"
  cp "$rig_dir/alpha/console" "$rig_dir/last-console"
  vm_seq "$rig_dir/last-console"
  noted=$seq
  vm_promote beta && vm_same_guest beta && [ "$seq" -gt "$noted" ]
}

scenario_plan 14
step "a QEMU that is not there is named" no_qemu
step "one that does not start, too" no_start
step "a CD that is read past the page cache is refused" direct '-drive if=none,id=cd,media=cdrom,format=raw,file=cd.img,cache=none -device ide-cd,drive=cd'
step "also where its format's node does not know" direct \
  '-blockdev driver=file,node-name=f,filename=cd.img,read-only=on,cache.direct=on -blockdev driver=raw,node-name=cd,file=f,read-only=on -device ide-cd,drive=cd'
step "an ordinary CD is not" cached '-drive if=none,id=cd,media=cdrom,format=raw,file=cd.img -device ide-cd,drive=cd'
step "a guest runs alone" eval 'fresh "$devices" && runs_alone'
step "a second agent of this node is refused, the guest runs on" twice
step "a standby with another size of memory is refused, on both sides" told_memory
step "one with another number of vCPUs says so before a promotion" told_cpus
step "one with another device, too" told_devices
step "one whose memory is divided in another way, too" told_division
step "and nothing was lost by that: failover" nothing_lost
step "QEMU's monitor on a terminal does not stop QEMU" terminal
step "a terminal that is gone ends the guest in order" hang_up
