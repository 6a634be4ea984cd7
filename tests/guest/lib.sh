# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2034   # the variables are for the scripts that source this file
# Two Tandem nodes on this machine and a real Linux guest on their disks: the steps that ./demo tells about
# and tests/scenario/guest_failover.sh tests. A step returns 0, or non-zero with the reason in $why.
# Before the first step: source this file, then
#   trap rig_cleanup EXIT; trap 'exit 130' INT TERM; rig_new TANDEM-PROGRAM SEED

rig_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rig_disk_size=64M
rig_keep=0        # 1: leave the directory of the run where it is
rig_dir=''        # all files of this run
rig_conf=''       # the group's configuration file
rig_tandem=''     # the program
rig_cuts=0        # cuts that the secondary acknowledged
noted=-1          # the newest record known to be acknowledged by a committed epoch
why=''
declare -A node_pid=()
qemu_pid='' killer_pid=''

rig_fail() { why=$*; return 1; }

# random = a number from $1 to $2, decided by the seed; no $(...), where bash would seed anew.
rig_random() { random=$(($1 + RANDOM % ($2 - $1 + 1))); }

rig_alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }

# rig_until SECONDS COMMAND...: tries until it succeeds or the time is over
rig_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.05
  done
}

rig_gone() { ! rig_alive "$1"; }

# rig_stop PID: asks it to end, then insists
rig_stop() {
  rig_alive "$1" || return 0
  kill -TERM "$1" 2>/dev/null
  rig_until 5 rig_gone "$1" || kill -KILL "$1" 2>/dev/null
  rig_until 5 rig_gone "$1"
}

rig_cleanup() {
  local node
  trap '' INT TERM
  ! rig_alive "$killer_pid" || kill -KILL "$killer_pid" 2>/dev/null
  ! rig_alive "$qemu_pid" || kill -KILL "$qemu_pid" 2>/dev/null
  for node in "${!node_pid[@]}"; do rig_stop "${node_pid[$node]}"; done
  [ "$rig_keep" -eq 1 ] || [ -z "$rig_dir" ] || rm -rf "$rig_dir"
}

# The ends of the logs, for a report of a failure.
rig_logs() {
  local log
  for log in "$rig_dir"/*.log; do
    [ -s "$log" ] || continue
    echo "--- ${log##*/}"
    tail -n 15 "$log" | tr -d '\r'
  done
}

# A loopback port nobody listens on, other than $1; not by the seed, so that two runs do not meet.
rig_port() {
  local port
  while :; do
    port=$((20000 + SRANDOM % 10000))
    [ "$port" != "${1-}" ] || continue
    grep -qi ":$(printf %04X "$port") " /proc/net/tcp /proc/net/tcp6 2>/dev/null || break
  done
  echo "$port"
}

# rig_new TANDEM SEED: disks, directories and the configuration of one run
rig_new() {
  local node port_a port_b
  rig_tandem=$1
  RANDOM=$2
  [ -x "$rig_tandem" ] || { rig_fail "there is no program $rig_tandem: build it first"; return 1; }
  rig_dir=$(mktemp -d "${TMPDIR:-/tmp}/tandem.XXXXXX") || { rig_fail "cannot make a directory for the run"; return 1; }
  rig_conf=$rig_dir/vm1.conf
  port_a=$(rig_port)
  port_b=$(rig_port "$port_a")
  printf '[group]\nname = vm1\nepoch-ms = 50\n' >"$rig_conf"
  for node in alpha:$port_a beta:$port_b; do
    local dir=$rig_dir/${node%:*}
    mkdir -p "$dir/state" "$dir/run"
    truncate -s "$rig_disk_size" "$dir/vda.img" "$dir/vdb.img"
    printf '[node %s]\nlink = 127.0.0.1:%s\nstate-dir = %s\nrun-dir = %s\ndisk.vda = %s\ndisk.vdb = %s\n' \
      "${node%:*}" "${node#*:}" "$dir/state" "$dir/run" "$dir/vda.img" "$dir/vdb.img" >>"$rig_conf"
  done
  PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F "$rig_dir/alpha/vda.img" >"$rig_dir/mkfs.log" 2>&1 ||
    rig_fail "mkfs.ext4 failed on $rig_dir/alpha/vda.img"
}

# rig_run NODE COMMAND [ARGUMENT...]: one tandem command that ends by itself
rig_run() {
  local node=$1 command=$2
  shift 2
  timeout 30 "$rig_tandem" "$command" "$rig_conf" --node "$node" "$@" 2>>"$rig_dir/commands.log" </dev/null
}

# What the last command that failed said.
rig_reason() { tail -n 1 "$rig_dir/commands.log" 2>/dev/null | grep . || echo "it gave no reason"; }

rig_init() {
  local node
  for node in alpha beta; do
    rig_run "$node" init >>"$rig_dir/commands.log" ||
      { rig_fail "tandem init failed on $node: $(rig_reason)"; return 1; }
  done
}

# rig_start NODE primary|secondary
rig_start() {
  "$rig_tandem" "$2" "$rig_conf" --node "$1" >"$rig_dir/$1.log" 2>&1 </dev/null &
  node_pid[$1]=$!
  disown "$!"
}

rig_state() { rig_run "$1" status --json 2>/dev/null | jq -r '.state' 2>/dev/null; }

# rig_nodes_alive: whether all nodes that were started still run
rig_nodes_alive() {
  local node
  for node in "${!node_pid[@]}"; do
    rig_alive "${node_pid[$node]}" || { rig_fail "node $node has ended: $(tail -n 1 "$rig_dir/$node.log")"; return 1; }
  done
}

# Also true when there is nothing left to wait for.
rig_state_is() { [ "$(rig_state "$1")" = "$2" ] || ! rig_nodes_alive; }

# rig_wait_state NODE STATE SECONDS
rig_wait_state() {
  rig_until "$3" rig_state_is "$1" "$2" ||
    { rig_fail "node $1 is \"$(rig_state "$1")\", not \"$2\", after $3 seconds"; return 1; }
  rig_nodes_alive
}

# rig_boot NODE record|check: the guest's console is $console
rig_boot() {
  local socket=$rig_dir/$1/run/nbd.sock
  console=$rig_dir/guest-$1-$2.log
  rm -f "$console"
  "$rig_here/boot.sh" --mode "$2" --serial "$console" --vda "nbd+unix:///vda?socket=$socket" \
    --vdb "nbd+unix:///vdb?socket=$socket" >"$rig_dir/qemu-$1-$2.log" 2>&1 &
  qemu_pid=$!
  disown "$qemu_pid"
}

# The newest "@@ synced N" that has arrived whole, or nothing.
rig_synced() { tail -c 4096 "$console" 2>/dev/null | sed -n 's/^@@ synced \([0-9]*\)\r$/\1/p' | tail -n 1; }

# rig_console WORD: the rest of the newest line "@@ WORD ..."
rig_console() { sed -n "s/^@@ $1 \(.*\)\r\$/\1/p" "$console" 2>/dev/null | tail -n 1; }

rig_has_synced() { [ -n "$(rig_synced)" ] || ! rig_alive "$qemu_pid"; }

# Waits until the guest has begun to write.
rig_wait_recording() {
  rig_until 60 rig_has_synced
  [ -n "$(rig_synced)" ] && rig_alive "$qemu_pid" ||
    rig_fail "the guest writes no records: $(rig_console error) $(tail -n 1 "${console/guest-/qemu-}" 2>/dev/null)"
}

# One cut; when its epoch is committed, what the guest had synced before it is safe: that is noted.
rig_cut() {
  local seen
  seen=$(rig_synced)
  rig_run alpha cut --wait >>"$rig_dir/commands.log" || return 1
  rig_cuts=$((rig_cuts + 1))
  noted=${seen:-$noted}
}

# Cuts every half second, until alpha and its QEMU are killed together at a moment the seed decides, which
# may be in the middle of a cut. $1: a command to run after each cut.
rig_cut_until_crash() {
  local delay flag=$rig_dir/crashed
  rig_random 2000 6999
  delay=$(printf '%d.%03d' $((random / 1000)) $((random % 1000)))
  (
    trap - EXIT INT TERM
    sleep "$delay"
    : >"$flag"
    kill -KILL "${node_pid[alpha]}" "$qemu_pid"
  ) >/dev/null 2>&1 &
  killer_pid=$!
  disown "$killer_pid"
  while [ ! -e "$flag" ]; do
    rig_alive "${node_pid[alpha]}" || [ -e "$flag" ] ||
      { rig_fail "node alpha ended before it was killed: $(tail -n 1 "$rig_dir/alpha.log")"; return 1; }
    if rig_cut; then
      "$1"
    elif [ ! -e "$flag" ]; then
      rig_fail "tandem cut failed: $(rig_reason)"
      return 1
    fi
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      [ ! -e "$flag" ] || break
      sleep 0.05
    done
  done
  rig_until 5 rig_gone "${node_pid[alpha]}" && rig_until 5 rig_gone "$qemu_pid" ||
    { rig_fail "alpha or its QEMU outlived SIGKILL"; return 1; }
  unset 'node_pid[alpha]'
  qemu_pid='' killer_pid=''
  written=$(rig_synced)
  [ "$noted" -ge 0 ] || rig_fail "no cut was acknowledged before the crash"
}

rig_promote() {
  rig_run beta promote >>"$rig_dir/commands.log" ||
    rig_fail "tandem promote failed: $(rig_reason)"
}

# rig_check NODE: boots the guest to look at the disks; fills fsck_rc, records_vda, records_vdb, records_ok
rig_check() {
  local result
  fsck_rc='' records_vda='' records_vdb='' records_ok=''
  rig_boot "$1" check
  rig_until 90 rig_gone "$qemu_pid" || { rig_fail "the guest did not finish its check in 90 seconds"; return 1; }
  qemu_pid=''
  fsck_rc=$(rig_console fsck)
  fsck_rc=${fsck_rc#rc=}
  result=$(rig_console check)
  if [[ $result =~ ^vda=([0-9]+)\ vdb=([0-9]+)\ ok=([01])\  ]]; then
    records_vda=${BASH_REMATCH[1]} records_vdb=${BASH_REMATCH[2]} records_ok=${BASH_REMATCH[3]}
  else
    rig_fail "the guest could not check its disks: $(rig_console error) $(tail -n 1 "$rig_dir/qemu-$1-check.log")"
  fi
}

# The guest's and our own judgement of the last rig_check.
rig_fsck_clean() {
  [ "$fsck_rc" = 0 ] || rig_fail "e2fsck found damage on vda (exit code ${fsck_rc:-unknown})"
}
rig_same_cut() {
  [ "$records_ok" = 1 ] &&
    { [ "$records_vda" -eq "$records_vdb" ] || [ "$records_vda" -eq $((records_vdb + 1)) ]; } ||
    rig_fail "the disks are not at one cut: $(rig_console check)"
}
# Records count from 0, so N is there if more than N are. A synced record is on both disks.
rig_none_lost() {
  [ "$records_vda" -gt "$noted" ] && [ "$records_vdb" -gt "$noted" ] ||
    rig_fail "record $noted was acknowledged by a committed epoch, but vda has $records_vda records and vdb $records_vdb"
}

# rig_go_on NODE SECONDS: the guest writes on, where the disks ended; fills went_on (the newest record)
rig_go_on() {
  local end start
  rig_boot "$1" record
  rig_wait_recording || return 1
  start=$(rig_console 'recording from')
  [ "$start" = "$records_vdb" ] ||
    { rig_fail "the guest goes on at record ${start:-?}, not at $records_vdb"; return 1; }
  end=$((SECONDS + $2))
  while [ "$SECONDS" -lt "$end" ]; do
    rig_alive "$qemu_pid" || { rig_fail "the guest stopped writing: $(rig_console error)"; return 1; }
    sleep 0.1
  done
  went_on=$(rig_synced)
  rig_stop "$qemu_pid"
  qemu_pid=''
}
