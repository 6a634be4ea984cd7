# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154
# ./demo --disks: a group of disks without the guest's memory. Sourced by demo, with a new rig at hand;
# tests/scenario/guest_failover.sh is the same as a test.

title "Two nodes, alpha and beta, with two disks each, vda and vdb"
say "alpha's vda holds a fresh ext4 file system; beta's disks are blank."
rig_init || stop "$why"
rig_start beta secondary
rig_start alpha primary
say "alpha is the primary, beta the secondary. alpha copies its disks to beta ..."
rig_wait_state alpha protected 60 || stop "$why"
say "The group is protected: from now on every 50 ms of writes reach beta as one whole, or not at all."

title "A real Linux guest starts on alpha's disks"
rig_boot alpha record
rig_wait_recording || stop "$why"
say "It runs Linux $(cat "${TANDEM_GUEST_CACHE:-build/guest}/version") on stock QEMU. It writes numbered records, each first to a file on"
say "vda, then to the raw disk vdb, and waits each time until the disk says that it is safe."
tell() { say "  the guest has written record $noted; it is in an epoch that beta has committed"; }
rig_cut_until_crash tell || stop "$why"

title "alpha loses power"
say "alpha and its QEMU were killed (SIGKILL), at a random moment, without any warning."
say "The guest had written record ${written:-?}. Record $noted and all before it were acknowledged by beta"
say "and must not be lost; those after it may be."

title "beta takes over"
rig_promote || stop "$why"
say "beta is promoted: its disks can be written, at the last committed epoch."
rig_check beta || stop "$why"
rig_fsck_clean || stop "$why"
say "  OK  the file system on vda is clean (e2fsck finds nothing to repair)"
rig_same_cut || stop "$why"
say "  OK  both disks stand at the same moment: $records_vda records on vda, $records_vdb on vdb"
rig_none_lost || stop "$why"
say "  OK  none of the $((noted + 1)) acknowledged records is lost"

title "Life goes on"
rig_go_on beta 3 || stop "$why"
say "The guest booted from beta's disks and wrote on, from record $records_vdb to record $went_on."
noted=$went_on
rig_check beta && rig_fsck_clean && rig_same_cut && rig_none_lost || stop "$why"
say "  OK  all of these are on both disks, and the file system is clean"
