#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A link that is slower than the guest dirties its memory: checkpoints go on, the guest is slowed and says so in status and log, and is
# released when the link is fast again; it is let go of, or ended, with its agent; and where nobody wants that, it is not slowed.
# usage: tests/scenario/guest_slow.sh BUILD_DIR [SEED]    (output in the manner of TAP)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../guest/scenario.sh
. "$here/../guest/scenario.sh" 1 "$@"
seed=${2:-$seed}
vm_mode=agree-raw
vm_load=mem # up to 60 MB/s of 16 MiB that do not compress
slow=1000000 # bytes a second

# alpha meets beta by way of the proxy
slow_group() {
  local port
  scenario_again
  vm_keys=$1
  vm_new "$build/tandem" "$seed" && rig_init || return 1
  port=$(sed -n '/^\[node beta\]/,/^\[/s/^link = 127.0.0.1://p' "$rig_conf")
  echo 0 >"$rig_dir/rate"
  python3 "$here/../guest/slow_link.py" "$port" "$rig_dir/rate" >"$rig_dir/port" 2>>"$rig_dir/proxy.log" &
  killer_pid=$! # rig_cleanup ends it
  disown "$!"
  rig_until 20 test -s "$rig_dir/port" || { rig_fail "the proxy does not start"; return 1; }
  slow_conf=$rig_dir/slow.conf
  sed "s/^link = 127.0.0.1:$port\$/link = 127.0.0.1:$(cat "$rig_dir/port")/" "$rig_conf" >"$slow_conf"
  fast_conf=$rig_conf
  vm_start beta standby
  rig_conf=$slow_conf
  vm_start alpha run
  rig_conf=$fast_conf
  vm_goes_on alpha 3 120 && rig_wait_state alpha protected 60
}

guest_of() { rig_run "$1" status --json 2>/dev/null | jq -r ".guest[\"$2\"]"; }
slowed() { local p; p=$(guest_of alpha slowed); [[ $p =~ ^[0-9]+$ ]] && [ "$p" -gt 0 ]; }
not_slowed() { [ "$(guest_of alpha slowed)" = 0 ]; }
log_has() { grep -q "$2" "$rig_dir/$1.log"; }
child_of() { pgrep -P "${node_pid[$1]}" -x "$2" | head -n 1; }
stands() { [ "$(awk '{ print $3 }' "/proc/$1/stat" 2>/dev/null)" = T ]; }

narrow() { # the link
  local qemu
  qemu=$(child_of alpha qemu-system-x86)
  echo "$slow" >"$rig_dir/rate"
  rig_until 90 slowed || { rig_fail "the guest is not slowed: $(guest_of alpha lag-ms) ms, $(tail -n 1 "$rig_dir/alpha.log")"; return 1; }
  rig_until 30 stands "$qemu" || { rig_fail "QEMU is never seen stopped"; return 1; }
  log_has alpha 'the guest is slowed: its newest committed checkpoint is [0-9]* ms old' || { rig_fail "the log does not say so"; return 1; }
  rig_run alpha status | grep -q '^  guest .*slowed by [0-9]* %' || rig_fail "status says: $(rig_run alpha status | grep '^  guest')"
}
still_protected() { # checkpoints commit, and the guest goes on
  local lines
  lines=$(vm_lines alpha)
  vm_seq "$rig_dir/alpha/console" && open=$(rig_run alpha status --json | jq -r .epoch.open)
  rig_until 120 vm_committed_beyond alpha "${open:-0}" || { rig_fail "no checkpoint is committed any more"; return 1; }
  vm_goes_on alpha "$((lines + 1))" 60
}
widened() {
  echo 0 >"$rig_dir/rate"
  rig_until 120 not_slowed || { rig_fail "the guest stays slowed by $(guest_of alpha slowed) %"; return 1; }
  log_has alpha 'the guest runs at full speed again' || { rig_fail "the log does not say so"; return 1; }
  vm_goes_on alpha "$(($(vm_lines alpha) + 3))" 60 && rig_run alpha verify >>"$rig_dir/commands.log" || rig_fail "${why:-$(rig_reason)}"
}
agent_dies() { # alone, while its guest stands: nothing of it is left, and the guest goes on at the other side
  local qemu agent=${node_pid[alpha]}
  narrow || return 1
  qemu=$(child_of alpha qemu-system-x86)
  rig_until 30 stands "$qemu"
  kill -KILL "$agent"
  rig_until 20 rig_gone "$qemu" || { rig_fail "QEMU has outlived its agent"; return 1; }
  unset "node_pid[alpha]"
  cp "$rig_dir/alpha/console" "$rig_dir/last-console"
  echo 0 >"$rig_dir/rate"
  alone() { rig_run beta status --json | jq -e '.link.connected == false' >/dev/null; }
  rig_until 30 alone || { rig_fail "beta does not notice"; return 1; }
  vm_promote beta && vm_goes_on beta 3 60
}
not_wanted() {
  slow_group 'max-lag-ms = 0' || return 1
  echo "$slow" >"$rig_dir/rate"
  late() { local l; l=$(guest_of alpha lag-ms); [[ $l =~ ^[0-9]+$ ]] && [ "$l" -gt 5000 ]; }
  rig_until 120 late || { rig_fail "no checkpoint is late: $(guest_of alpha lag-ms) ms"; return 1; }
  not_slowed && ! log_has alpha 'the guest is slowed' || rig_fail "it is slowed"
}

scenario_guest
scenario_plan 6
step "a guest is protected over a link without a limit" slow_group 'max-lag-ms = 1000'
step "the link is too slow: the guest is slowed, status and log say so" narrow
step "checkpoints are committed all the same, and the guest goes on" still_protected
step "the link is fast again: so is the guest; both sides are equal" widened
step "the agent is killed while its guest stands: QEMU ends, the other side goes on" agent_dies
step "max-lag-ms = 0: the checkpoints are late, and the guest is not slowed" not_wanted
