# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2034,SC2154   # the variables are for the scripts that source this file
# A guest that runs on from its checkpoints: the steps that ./demo tells about and tests/scenario/guest_*.sh test.
# Beside lib.sh, which is sourced first. A step returns 0, or non-zero with the reason in $why. The guest is agree.c; its
# console is CONSOLE of the node where it runs, one file per incarnation.

vm_qemu=${TANDEM_TEST_QEMU:-qemu-system-x86_64} # with arguments, if need be; of the user's choice
vm_accel=${TANDEM_TEST_ACCEL:-tcg} # of bootsector.S; "kvm,kernel-irqchip=split" where KVM works
vm_memory=192M
vm_smp=1
vm_mode=agree       # of init: agree (ext4 and raw), agree-raw
vm_load=both        # of agree.c
vm_args=''          # QEMU's further arguments
vm_keys=''          # further lines of [guest]
vm_group_keys='epoch-ms = 50\nsync-min-rate = 0' # the guest does not rest, and a verify that gives way to it takes minutes

# vm_new TANDEM SEED: as rig_new, with a guest in the configuration
vm_new() {
  local cache=${TANDEM_GUEST_CACHE:-$rig_here/../../build/guest}
  rig_new "$@" || return 1
  cache=$(cd "$cache" && pwd) || return 1
  sed -i "s/^epoch-ms = .*/$vm_group_keys/" "$rig_conf"
  cat >>"$rig_conf" <<END
[guest]
memory = $vm_memory
$vm_keys
qemu = $vm_qemu -accel tcg -smp $vm_smp -nodefaults -no-user-config -display none
  -kernel '$cache/vmlinuz' -initrd '$cache/initrd.img' -serial file:console $vm_args
  -append 'console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check rcupdate.rcu_expedited=1 random.trust_cpu=on tandem.mode=$vm_mode tandem.load=$vm_load'
END
}

# vm_boot_new TANDEM SEED DEVICES: a group for bootsector.S, which stands at the beginning of its first disk
vm_boot_new() {
  rig_disk_size=8M
  rig_new "$1" "$2" || return 1
  sed -i "s/^epoch-ms = .*/$vm_group_keys/" "$rig_conf"
  gcc -m32 -c -o "$rig_dir/boot.o" "$rig_here/bootsector.S" &&
    ld -m elf_i386 -Ttext 0x7c00 -e start --oformat binary -o "$rig_dir/boot.bin" "$rig_dir/boot.o" ||
    { rig_fail "the boot sector cannot be made"; return 1; }
  truncate -s 0 "$rig_dir/alpha/vda.img"
  cp "$rig_dir/boot.bin" "$rig_dir/alpha/vda.img" && truncate -s 8M "$rig_dir/alpha/vda.img"
  cat >>"$rig_conf" <<END
[guest]
memory = 64M
$vm_keys
qemu = $vm_qemu -accel $vm_accel -nodefaults -no-user-config -display none -serial file:console $3
END
  rig_init
}

# vm_start NODE run|standby: the console is in the node's directory
vm_start() {
  rm -f "$rig_dir/$1/console"
  (cd "$rig_dir/$1" && exec "$rig_tandem" "$2" "$rig_conf" --node "$1") >>"$rig_dir/$1.log" 2>&1 </dev/null &
  node_pid[$1]=$!
  disown "$!"
}

# vm_kill NODE: everything of it at once, agent, replicator and QEMU
vm_kill() {
  local pid=${node_pid[$1]}
  # shellcheck disable=SC2046
  kill -KILL $(pgrep -P "$pid") "$pid" 2>/dev/null
  rig_until 10 rig_gone "$pid" || { rig_fail "node $1 outlived SIGKILL"; return 1; }
  unset "node_pid[$1]"
  cp "$rig_dir/$1/console" "$rig_dir/last-console" 2>/dev/null || : >"$rig_dir/last-console"
}

# vm_seq FILE: fills seq, up, pid with the guest's newest whole line
vm_seq() {
  local line
  seq='' up='' pid=''
  line=$(tail -c 4096 "$1" 2>/dev/null | tr -d '\r' | sed -n '/^@@ seq [0-9]* up [0-9.]* pid [0-9]*$/p' | tail -n 1)
  read -r _ _ seq _ up _ pid <<<"$line"
  [ -n "$seq" ]
}

# What the guest says of itself when memory, disks and processes do not fit together.
vm_error() { sed -n 's/^\(@@ error.*\)\r*$/\1/p' "$rig_dir/$1/console" 2>/dev/null | head -n 1; }

vm_lines() { local n; n=$(grep -c '^@@ seq ' "$rig_dir/$1/console" 2>/dev/null); echo "${n:-0}"; }
vm_has_lines() { [ "$(vm_lines "$1")" -ge "$2" ] || [ -n "$(vm_error "$1")" ] || ! rig_alive "${node_pid[$1]}"; }

# vm_goes_on NODE LINES SECONDS: the guest has said that much since it runs there
vm_goes_on() {
  rig_until "$3" vm_has_lines "$1" "$2"
  [ -z "$(vm_error "$1")" ] || { rig_fail "on $1 the guest says: $(vm_error "$1")"; return 1; }
  [ "$(vm_lines "$1")" -ge "$2" ] || rig_fail "on $1 the guest says nothing: $(tail -n 1 "$rig_dir/$1.log")"
}

vm_committed() { rig_run "$1" status --json 2>/dev/null | jq -r '.epoch.committed' 2>/dev/null; }
vm_committed_beyond() { local c; c=$(vm_committed "$1"); [[ $c =~ ^[0-9]+$ ]] && [ "$c" -gt "$2" ]; }

# vm_note NODE: what the guest has said by now is in a committed checkpoint when this returns
vm_note() {
  local open
  vm_seq "$rig_dir/$1/console" || { rig_fail "the guest on $1 is silent"; return 1; }
  noted=$seq noted_up=$up noted_pid=$pid
  open=$(rig_run "$1" status --json 2>/dev/null | jq -r '.epoch.open')
  rig_until 30 vm_committed_beyond "$1" "${open:-0}" || rig_fail "no checkpoint is committed any more on $1"
}

vm_is_running_on() { grep -q '^tandem\[.*the guest goes on from checkpoint' "$rig_dir/$1.log" && [ -s "$rig_dir/$1/console" ]; }

# vm_promote NODE: and the guest is there
vm_promote() {
  : >"$rig_dir/$1/console" # of an earlier life there; a QEMU that is ready has it open
  rig_run "$1" promote >>"$rig_dir/commands.log" || { rig_fail "tandem promote failed: $(rig_reason)"; return 1; }
  vm_goes_on "$1" 1 30
}

# vm_same_guest NODE: its first words on NODE follow from what it said before, which nothing but the same memory can say
vm_same_guest() {
  local first
  vm_seq "$rig_dir/last-console"
  last_seq=$seq last_up=$up
  first=$(tr -d '\r' <"$rig_dir/$1/console" | sed -n '/^@@ seq /p' | head -n 1)
  read -r _ _ seq _ up _ pid <<<"$first"
  [ "$pid" = "$noted_pid" ] || { rig_fail "process $noted_pid of the guest is now $pid"; return 1; }
  [ "$seq" -gt "$noted" ] || { rig_fail "the guest goes on with $seq, but $noted was in a committed checkpoint"; return 1; }
  [ "${up%.*}" -ge "${noted_up%.*}" ] && [ "${up%.*}" -le "$((${last_up%.*} + 30))" ] ||
    { rig_fail "the guest's uptime was $last_up and is now $up"; return 1; }
  ! grep -q '^@@ up ' "$rig_dir/$1/console" || rig_fail "the guest has booted on $1"
}
