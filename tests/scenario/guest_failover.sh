#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A real Linux guest writes to the disks of a primary that is killed at a random moment; the secondary takes
# over. What ./demo --disks shows, as a test.
# usage: tests/scenario/guest_failover.sh BUILD_DIR [SEED]    (output in the manner of TAP)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../guest/scenario.sh
. "$here/../guest/scenario.sh" 1 "$@"
seed=${2:-$seed}

plan=11

start_both() {
  rig_start beta secondary
  rig_start alpha primary
  rig_wait_state alpha protected 60
}
boot_and_record() { rig_boot alpha record && rig_wait_recording; }
goes_on() {
  noted=-1
  rig_go_on beta 2 && noted=$went_on && rig_check beta && rig_fsck_clean && rig_same_cut && rig_none_lost
}

scenario_plan "$plan"
scenario_guest
step "a group with disks on both nodes" rig_new "$1/tandem" "$seed"
step "tandem init on both nodes" rig_init
step "the group is protected" start_both
step "the guest boots and writes" boot_and_record
step "cuts are acknowledged until alpha is killed" rig_cut_until_crash :
echo "# alpha is dead after $rig_cuts cuts; record $noted acknowledged, the guest had synced ${written:-none}"
step "beta is promoted" rig_promote
step "the guest boots from beta's disks" rig_check beta
echo "# vda has $records_vda records, vdb $records_vdb"
step "the file system is clean" rig_fsck_clean
step "both disks stand at the same cut" rig_same_cut
step "no acknowledged record is lost" rig_none_lost
step "the guest goes on writing on beta, and nothing of it is lost" goes_on
# for tests/decode/recorded.sh
[ -z "${TANDEM_RECORD:-}" ] || for n in alpha beta; do cp "$rig_dir/$n/state/journal" "$TANDEM_RECORD/$n.journal"; done
