#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest runs PostgreSQL under pgbench; the whole side where it runs is killed at a random moment, the other one is
# promoted, and pgbench goes on there in the middle of its transactions, several times. The server never stopped: the same
# postmaster, no word of recovery in its log; balances and history agree after each round, and pg_amcheck finds nothing
# in the end.
# usage: tests/scenario/guest_postgres.sh BUILD_DIR [FAILOVERS] [SEED]    (default 5; output in the manner of TAP)
set -u
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=../guest/scenario.sh
. "$here/../guest/scenario.sh" 2 "$@"
failovers=${2:-5} seed=${3:-$seed}

# What the guest says of itself, of all its incarnations: the number of the newest round, the server's process, errors.
said() { cat "$rig_dir/$1/console" 2>/dev/null | tr -d '\r'; }
rounds() { said "$1" | grep -c '^@@ round '; }
has_rounds() { [ "$(rounds "$1")" -ge "$2" ] || said "$1" | grep -q '^@@ error' || ! rig_alive "${node_pid[$1]}"; }
# goes_on NODE ROUNDS SECONDS
goes_on() {
  rig_until "$3" has_rounds "$1" "$2"
  ! said "$1" | grep '^@@ error' >"$rig_dir/guest-error" || { rig_fail "the guest says: $(head -n 1 "$rig_dir/guest-error")"; return 1; }
  [ "$(rounds "$1")" -ge "$2" ] || rig_fail "$1: pgbench made $(rounds "$1") rounds in $3 seconds: $(tail -n 1 "$rig_dir/$1.log")"
}
newest_round() { said "$1" | sed -n 's/^@@ round \([0-9]*\) .*/\1/p' | tail -n 1; }
has_ended() { said "$1" | grep -q '^@@ end' || ! rig_alive "${node_pid[$1]}"; }

"$here/../guest/setup.sh" && "$here/../guest/setup_postgres.sh" || { echo "Bail out! the test guest cannot be made"; exit 1; }
cache=$(cd "${TANDEM_GUEST_CACHE:-$here/../../build/guest}" && pwd)
scenario_plan "$((failovers + 2))"
rig_disk_size=768M
vm_memory=256M
vm_mode=root
vm_group_keys='epoch-ms = 100'
vm_args='-chardev socket,id=console,path=console.sock,server=on,wait=off,logfile=console -M q35'
vm_new "$build/tandem" "$seed" || bad "a group"
sed -i 's/-serial file:console/-serial chardev:console/' "$rig_conf"
cp --sparse=always "$cache/postgres.img" "$rig_dir/alpha/vda.img" || bad "the guest's disk"
rig_init || bad "tandem init"
vm_start beta standby
vm_start alpha run
goes_on alpha 1 180 || bad "PostgreSQL runs in the guest"
server=$(said alpha | sed -n 's/^@@ server //p')
ok "PostgreSQL runs in the guest, server process $server"

from=alpha to=beta
for _ in $(seq "$failovers"); do
  rig_wait_state "$from" protected 120 || bad "the guest is protected on $from"
  before=$(newest_round "$from")
  rig_random 500 3500
  sleep "$((random / 1000)).$(printf %03d $((random % 1000)))"
  vm_kill "$from" || bad "$from is killed"
  rig_run "$to" promote >>"$rig_dir/commands.log" || { why=$(rig_reason); bad "promote $to"; }
  goes_on "$to" 2 60 || bad "pgbench goes on after the failover from $from to $to"
  ! said "$to" | grep -q '^@@ up ' || { why="the guest has booted on $to"; bad "the guest was not booted"; }
  first=$(said "$to" | sed -n 's/^@@ round \([0-9]*\) .*/\1/p' | head -n 1)
  [ "$first" -gt "${before:-0}" ] || { why="round $before was said before the kill, now $first"; bad "no round twice"; }
  ok "failover from $from to $to: round $before was done, $to went on with round $first"
  vm_start "$from" standby
  node=$from from=$to to=$node
done

# The guest looks at itself for the last time.
printf 'end\n' | timeout 10 socat -u - "UNIX-CONNECT:$rig_dir/$from/console.sock"
rig_until 120 has_ended "$from"
said "$from" >"$rig_dir/verdict"
grep -qx '@@ logged 0' "$rig_dir/verdict" && grep -q '^@@ amcheck rc=0' "$rig_dir/verdict" && grep -qx '@@ agree t' "$rig_dir/verdict" ||
  { why="the guest says: $(grep -E '^@@ (error|logged|amcheck|agree)' "$rig_dir/verdict" | tr '\n' ' ')"; bad "the last check"; }
ok "the server never stopped and logged no error; pg_amcheck is clean; balances and history agree"
