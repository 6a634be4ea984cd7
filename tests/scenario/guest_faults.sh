#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every fault point (docs/testing.md) once: one side of a protected guest dies there, agent, replicator and QEMU at once.
#   the primary's side   the standby is promoted: the guest goes on from memory, device state and disks of one instant, not older
#                        than what was committed
#   the standby's side   the guest goes on unprotected; the standby starts again, knows what it had acknowledged, protects
#                        the guest, and takes it over in the case that follows
#   both                 of the standby's disks nothing is missing that was committed, and they are of one instant
#   a promotion          the same, for a standby that dies while it is promoted, after the primary did
# The guest is bootsector.S, which compares memory and disks before each of its steps.
# CAPTURE: as in [guest], default fifo; an empty SEED is a random one; only points that match PATTERN; output in the manner of TAP.
# usage: tests/scenario/guest_faults.sh BUILD_DIR [PATTERN [SEED [CAPTURE]]]
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../guest/scenario.sh
. "$here/../guest/scenario.sh" 3 "$@"
pattern=${2:-*} seed=${3:-$seed} capture=${4:-fifo}

# NAME:COUNT:MS as in TANDEM_FAULT. With a delay the thread stands while the link goes on: what was sent has arrived.
primary_points=(agent-begin agent-stop agent-cut-sent agent-scan agent-copy agent-cut agent-state agent-cont agent-submit agent-seal
  primary-cut primary-submit:1:30 primary-submitted:1:30 primary-seal primary-seal:1:60 primary-committed agent-round:1:30)
standby_points=(standby-pages standby-state standby-seal standby-commit standby-flushed standby-applying:2 standby-applied)
both_points=(standby-seal standby-commit standby-flushed)
promote_points=(promote-discard promote-memory promote-metadata promote-writable resume-begin resume-qemu resume-loaded resume-cont)
other_points=(grow-map grow-header grow-metadata grow-answered grow-copied # grow.py has a side die there
  clone-made clone-kept clone-noted clone-disk clone-header clone-done) # clones.py

# --- the list: here, in the program and in the document ---

here_points() { printf '%s\n' "${primary_points[@]%%:*}" "${standby_points[@]%%:*}" "${promote_points[@]}" "${other_points[@]}" | sort -u; }
coded_points() { sed -n 's/^\tX([A-Z_]*, "\([a-z-]*\)").*/\1/p' "$here/../../src/util/fault.h" | sort; }
told_points() { sed -n 's/^| `\([a-z]*-[a-z-]*\)` |.*/\1/p' "$here/../../docs/testing.md" | sort; }
[ "$(here_points)" = "$(coded_points)" ] && [ "$(here_points)" = "$(told_points)" ] || {
  why="the lists of fault points differ: $(diff <(here_points) <(coded_points); diff <(here_points) <(told_points))"
  bad "the list of fault points"
}

# wanted POINT...: fills points with those that match the pattern
wanted() {
  local p
  points=()
  for p in "$@"; do
    # shellcheck disable=SC2254
    case ${p%%:*} in $pattern) points+=("$p") ;; esac
  done
}

# --- steps ---

start() { TANDEM_FAULT=@$rig_dir/$1/fault vm_start "$1" "$2"; }
side_gone() { local p; for p in $side; do rig_gone "$p" || return 1; done; }
reached() { grep -c "fault point ${2%%:*}: this side is killed" "$rig_dir/$1.log"; }

# arm NODE POINT: from now on its passings count
arm() {
  armed_before=$(reached "$1" "$2")
  side="${node_pid[$1]} $(pgrep -P "${node_pid[$1]}" | tr '\n' ' ')"
  printf '%s\n' "$2" >"$rig_dir/$1/fault.new" && mv "$rig_dir/$1/fault.new" "$rig_dir/$1/fault"
}

# has_died NODE POINT: there, and as a whole
has_died() {
  rig_until 20 side_gone
  rm -f "$rig_dir/$1/fault"
  [ "$(reached "$1" "$2")" -eq $((armed_before + 1)) ] || { rig_fail "the point was not reached"; return 1; }
  side_gone || { rig_fail "a process of $1 has survived"; return 1; }
  unset "node_pid[$1]"
  cp "$rig_dir/$1/console" "$rig_dir/last-console" 2>/dev/null || : >"$rig_dir/last-console"
}

protected() { rig_wait_state "$from" protected 60 && vm_note "$from"; }

swap() { local node=$from; from=$to to=$node; }

# taken_over [alone]: from has died; the guest goes on at the other side, and from becomes its standby
taken_over() {
  vm_promote "$to" && vm_same_guest "$to" || return 1
  # Where it had run alone, what it wrote then is to be given up.
  [ "${1:-}" != alone ] || rig_run "$from" resolve --keep "$to" --yes >>"$rig_dir/commands.log" ||
    { rig_fail "tandem resolve failed: $(rig_reason)"; return 1; }
  start "$from" standby
  swap
  vm_goes_on "$from" 3 60
}

primary_dies() {
  protected || return 1
  if [[ $1 == agent-round* ]]; then # a second session, while the standby holds the checkpoint of the first
    rig_run "$from" disconnect >>"$rig_dir/commands.log" && arm "$from" "$1" && rig_run "$from" connect >>"$rig_dir/commands.log" ||
      { rig_fail "no new session: $(rig_reason)"; return 1; }
    has_died "$from" "$1" && taken_over alone
  else
    arm "$from" "$1"
    has_died "$from" "$1" && taken_over
  fi
}

knows() { local c; c=$(vm_committed "$to"); [[ $c =~ ^[0-9]+$ ]]; }

standby_dies() {
  local acknowledged
  protected || return 1
  arm "$to" "$1"
  has_died "$to" "$1" && rig_wait_state "$from" solo 10 || return 1
  acknowledged=$(vm_committed "$from")
  vm_goes_on "$from" $(($(vm_lines "$from") + 2)) 30 || return 1
  start "$to" standby
  rig_until 20 knows || { rig_fail "the standby does not come back"; return 1; }
  [ "$(vm_committed "$to")" -ge "$acknowledged" ] ||
    { rig_fail "epoch $acknowledged was acknowledged, the standby came back with $(vm_committed "$to")"; return 1; }
  protected
}

# sequence FILE: the guest's newest number on that disk; each of the 1024 sectors holds the newest number that belongs there
sequence() {
  python3 - "$1" <<'END'
import struct, sys
with open(sys.argv[1], 'rb') as f:
    f.seek(64 * 512)
    found = [struct.unpack('<128I', f.read(512)) for _ in range(1024)]
assert all(len(set(s)) == 1 for s in found), 'a sector is torn'
last = max(s[0] for s in found)
for i, s in enumerate(found):
    want = last - (last - i) % 1024
    assert s[0] == max(want, 0), f'sector {i} holds {s[0]}, not {want}; the newest is {last}'
print(last)
END
}

# disks_hold primary|secondary [alone]: what `to` has on its disks, and that it can serve it. Then the guest boots from them.
disks_hold() {
  local name a b
  rig_start "$to" "$1"
  knows || rig_until 20 knows || { rig_fail "$to does not start as the $1: $(tail -n 1 "$rig_dir/$to.log")"; return 1; }
  [ "$1" = primary ] || rig_run "$to" promote >>"$rig_dir/commands.log" || { rig_fail "tandem promote failed: $(rig_reason)"; return 1; }
  for name in vda vdb; do
    nbdcopy "nbd+unix:///$name?socket=$rig_dir/$to/run/nbd.sock" "$rig_dir/$name.copy" || { rig_fail "$name cannot be read"; return 1; }
  done
  a=$(sequence "$rig_dir/vda.copy" 2>"$rig_dir/sequence.log") && b=$(sequence "$rig_dir/vdb.copy" 2>"$rig_dir/sequence.log") ||
    { rig_fail "$(tail -n 1 "$rig_dir/sequence.log")"; return 1; }
  held="vda $a, vdb $b"
  [ "$a" -eq "$b" ] || [ "$a" -eq $((b + 1)) ] || { rig_fail "the disks are not of one instant: $held"; return 1; }
  [ "$b" -ge "$noted" ] || { rig_fail "$noted was in a committed checkpoint, the disks hold $held"; return 1; }
  # The guest begins with 1 again.
  for name in vda vdb; do
    qemu-io -f raw -c 'write -z 32k 512k' -c flush "nbd+unix:///$name?socket=$rig_dir/$to/run/nbd.sock" >"$rig_dir/qemu-io.log" 2>&1 ||
      { rig_fail "$name cannot be written"; return 1; }
  done
  rig_stop "${node_pid[$to]}"
  rm -f "$rig_dir/$to/console"
  # Between the two deaths it may have written alone (then it has something to give up) or not.
  [ "${2:-}" != alone ] || rig_run "$from" resolve --keep "$to" --yes >>"$rig_dir/commands.log" || :
  start "$from" standby
  start "$to" run
  swap
  vm_goes_on "$from" 1 60
}

both_die() {
  protected || return 1
  arm "$to" "$1"
  has_died "$to" "$1" && vm_kill "$from" && disks_hold secondary alone
}

promotion_dies() {
  protected && vm_kill "$from" || return 1
  arm "$to" "$1"
  rig_run "$to" promote >>"$rig_dir/commands.log" # answered or not
  has_died "$to" "$1" || return 1
  case $1 in
  promote-discard | promote-memory) disks_hold secondary ;;
  *) disks_hold primary ;;
  esac
}

# stays_closed: the administrator's `disconnect` in the middle of checkpoints, one of which it may make fail, is not undone
stays_closed() {
  local said i
  for i in {1..12}; do
    protected || return 1
    rig_random 0 40
    printf -v random 0.%03d "$random"
    sleep "$random"
    rig_run "$from" disconnect >>"$rig_dir/commands.log" || { rig_fail "tandem disconnect failed: $(rig_reason)"; return 1; }
    vm_goes_on "$from" $(($(vm_lines "$from") + 3)) 30 || return 1
    said=$(rig_run "$from" status --json | jq -c '[.state, .link.connected]')
    [ "$said" = '["solo",false]' ] || { rig_fail "disconnected $i times, and then $said"; return 1; }
    rig_run "$from" connect >>"$rig_dir/commands.log" || { rig_fail "tandem connect failed: $(rig_reason)"; return 1; }
  done
}

# --- all of them ---

wanted "${standby_points[@]}"; standby_points=("${points[@]}")
wanted "${primary_points[@]}"; primary_points=("${points[@]}")
wanted "${both_points[@]}"; both_points=("${points[@]}")
wanted "${promote_points[@]}"; promote_points=("${points[@]}")
total=$((${#standby_points[@]} + ${#primary_points[@]} + ${#both_points[@]} + ${#promote_points[@]}))
[ "$total" -gt 0 ] || { echo "Bail out! no fault point matches $pattern"; exit 1; }
scenario_plan "$((total + 2))"
vm_group_keys='epoch-ms = 40' vm_keys="capture = $capture"
vm_boot_new "$build/tandem" "$seed" '-M pc -device virtio-blk-pci,drive=vda,bootindex=0 -device virtio-blk-pci,drive=vdb' || bad "a group"
! TANDEM_FAULT=agent-nowhere "$rig_tandem" status "$rig_conf" --node alpha 2>"$rig_dir/refused.log" &&
  grep -q 'no fault point "agent-nowhere"' "$rig_dir/refused.log" || { why=$(cat "$rig_dir/refused.log"); bad "an unknown point is refused"; }
ok "an unknown point is refused"
start beta standby
start alpha run
from=alpha to=beta
vm_goes_on alpha 1 60 || bad "the guest boots"
stays_closed || bad "a link closed by command stays closed"
ok "a link closed by command stays closed"
while [ ${#standby_points[@]} -gt 0 ] || [ ${#primary_points[@]} -gt 0 ]; do
  p=${standby_points[0]:-}
  if [ -n "$p" ]; then
    standby_dies "$p" || bad "the standby dies at $p"
    ok "the standby dies at $p: the guest goes on, and is protected again"
    standby_points=("${standby_points[@]:1}")
  fi
  p=${primary_points[0]:-}
  if [ -n "$p" ]; then
    primary_dies "$p" || bad "the primary dies at $p"
    ok "the primary dies at $p: the guest had said $last_seq, $noted was committed, it went on with $seq"
    primary_points=("${primary_points[@]:1}")
  fi
done
for p in "${both_points[@]}"; do
  both_die "$p" || bad "the standby dies at $p, and the primary with it"
  ok "the standby dies at $p, and the primary with it: $noted was committed, the disks hold $held"
done
for p in "${promote_points[@]}"; do
  promotion_dies "$p" || bad "the promoted side dies at $p"
  ok "the promoted side dies at $p: $noted was committed, the disks hold $held"
done
