#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The device models that a guest may use: each is protected, its side is killed, and the guest goes on at the other side from
# memory, device state and disks of one instant. For the disks' controllers the guest is bootsector.S, which works them through
# the firmware's drivers; UEFI with its variables in a disk of the group, and network, VGA and tablet, have Linux (agree.c). What
# QEMU itself cannot migrate, and memory that is not replicated, is refused at the start, with the reason.
# usage: tests/scenario/guest_devices.sh BUILD_DIR [SEED]    (output in the manner of TAP)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../guest/scenario.sh
. "$here/../guest/scenario.sh" 1 "$@"
seed=${2:-$seed}

# controllers: name|machine and devices
boot_cases=(
  'IDE|-M pc -device ide-hd,drive=vda,bootindex=0 -device ide-hd,drive=vdb'
  'AHCI|-M q35 -device ide-hd,drive=vda,bus=ide.0,bootindex=0 -device ide-hd,drive=vdb,bus=ide.1'
  'virtio-blk|-M pc -device virtio-blk-pci,drive=vda,bootindex=0 -device virtio-blk-pci,drive=vdb'
  'virtio-scsi|-M q35 -device virtio-scsi-pci -device scsi-hd,drive=vda,bootindex=0 -device scsi-hd,drive=vdb'
  'USB storage|-M q35 -device qemu-xhci -device usb-storage,drive=vda,bootindex=0 -device usb-storage,drive=vdb'
)
# what must be refused: name|words of the reason|machine and devices
refused_cases=(
  'NVMe|nvme|-M q35 -device nvme,drive=vda,serial=a -device nvme,drive=vdb,serial=b'
  'virtio-balloon|balloon|-M q35 -device virtio-balloon-pci'
  'a memory backend that is not used|pc.ram|-M pc -object memory-backend-ram,id=more,size=64M'
)
linux_cases=(
  'virtio-net, VGA, USB tablet|-M pc -vga std -usb -device usb-tablet -device virtio-net-pci'
  'UEFI|uefi'
  'two NUMA nodes|-smp 2 -object memory-backend-ram,id=ram-b,size=64M -object memory-backend-memfd,id=ram-a,size=128M,prealloc=on -numa node,nodeid=0,memdev=ram-b,cpus=0 -numa node,nodeid=1,memdev=ram-a,cpus=1'
  'a memory backend of its own|-M pc,memory-backend=mine -object {\"qom-type\":\"memory-backend-memfd\",\"id\":\"mine\",\"size\":201326592}'
)
scenario_plan "$((${#boot_cases[@]} + ${#refused_cases[@]} + ${#linux_cases[@]}))"

# fail_over NAME: alpha runs and is killed; beta goes on
fail_over() {
  vm_start beta standby
  vm_start alpha run
  vm_goes_on alpha 3 120 || bad "$1: the guest runs"
  rig_wait_state alpha protected 60 && vm_note alpha || bad "$1: the guest is protected"
  vm_kill alpha && vm_promote beta && vm_same_guest beta && vm_goes_on beta 8 60 || bad "$1: the guest goes on"
  ok "$1: it had said $last_seq, $noted was committed, it went on with $seq"
}

for c in "${boot_cases[@]}"; do
  IFS='|' read -r name devices <<<"$c"
  vm_boot_new "$build/tandem" "$seed" "$devices" || bad "$name: a group"
  fail_over "$name"
  scenario_again
done

for c in "${refused_cases[@]}"; do
  IFS='|' read -r name words devices <<<"$c"
  vm_boot_new "$build/tandem" "$seed" "$devices" || bad "$name: a group"
  vm_start alpha run
  wait_end() { rig_until 30 rig_gone "${node_pid[alpha]}"; }
  wait_end || bad "$name: refused at the start"
  grep -qi "$words" "$rig_dir/alpha.log" || { why="its reason does not name it: $(tail -n 1 "$rig_dir/alpha.log")"; bad "$name: refused with the reason"; }
  ! grep -q '^@@ up' "$rig_dir/alpha/console" 2>/dev/null || bad "$name: the guest did not run"
  ok "$name is refused: $(grep -i "$words" "$rig_dir/alpha.log" | tail -n 1)"
  unset 'node_pid[alpha]'
  scenario_again
done

scenario_guest
rig_disk_size=64M vm_mode=agree-raw vm_load=none
for c in "${linux_cases[@]}"; do
  IFS='|' read -r name vm_args <<<"$c"
  rig_disk_size=64M
  if [ "$vm_args" = uefi ]; then
    code=/usr/share/OVMF/OVMF_CODE_4M.fd vars=/usr/share/OVMF/OVMF_VARS_4M.fd
    vm_args="-M q35,pflash0=code,pflash1=vars -blockdev driver=file,node-name=code,filename=$code,read-only=on"
    vm_new "$build/tandem" "$seed" || bad "$name: a group"
    for node in alpha beta; do
      cp "$vars" "$rig_dir/$node/vars.img"
      sed -i "s|^disk.vdb = $rig_dir/$node/vdb.img|&\ndisk.vars = $rig_dir/$node/vars.img|" "$rig_conf"
    done
  else
    vm_new "$build/tandem" "$seed" || bad "$name: a group"
  fi
  rig_init || bad "$name: tandem init"
  fail_over "$name"
  scenario_again
done
