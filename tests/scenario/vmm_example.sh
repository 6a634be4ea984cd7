#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# docs/examples/vmm.py, the controller of a made-up machine: checkpoints of RAM, disk and state; the primary's
# side killed at a random moment; RAM, disk and state of the promoted side agree, with each way of compression, pages whole or
# as differences;
# abandoned checkpoints; the same after the link was lost and made again, and in the middle of that; a secondary that lost its memory.
# usage: tests/scenario/vmm_example.sh BUILD_DIR [ROUNDS]
set -u
tandem=$(realpath "$1/tandem")
rounds=${2:-3}
vmm="/usr/bin/python3 $(dirname "$(realpath "$0")")/../../docs/examples/vmm.py"
dir=$(mktemp -d "${TMPDIR:-/tmp}/tandem.XXXXXX")
pids=()
cleanup() {
  kill -KILL "${pids[@]}" 2>/dev/null
  for p in "${pids[@]}"; do wait "$p" 2>/dev/null; done
  rm -rf "$dir"
}
trap cleanup EXIT
fail() { echo "not ok - $*"; tail -n 20 "$dir"/*.log; exit 1; }
ok() { echo "ok - $*"; }
until_state() { # NODE STATE: at most 20 seconds
  for _ in $(seq 200); do
    json=$("$tandem" status "$conf" --node "$1" --json 2>/dev/null) && [ "$(jq -r .state <<<"$json")" = "$2" ] && return
    sleep 0.1
  done
  fail "node $1 did not become $2"
}
# until_line N FILE PATTERN: at least N lines match; at most 60 seconds
until_line() {
  for _ in $(seq 600); do
    [ "$(grep -c "$3" "$2" 2>/dev/null)" -ge "$1" ] && return
    sleep 0.1
  done
  fail "no \"$3\" in $2"
}
shown() { grep -o 'committed [0-9]*' "$1" | tail -n 1 | cut -d' ' -f2; }

start() { # NODE ROLE
  "$tandem" "$2" "$conf" --node "$1" --guest >>"$dir/$1.log" 2>&1 &
  pids+=($!)
  eval "$1=$!"
}

# fresh COMPRESSION STAGING [DELTA]: new nodes; a cache of pages sent last that is smaller than the memory, or DELTA
fresh() {
  [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null
  for p in "${pids[@]}"; do wait "$p" 2>/dev/null; done
  pids=()
  rm -rf "$dir"/alpha "$dir"/beta "$dir"/*.log
  mkdir "$dir/alpha" "$dir/beta"
  truncate -s 8M "$dir/alpha/vda.img" "$dir/beta/vda.img"
  port=$((20000 + RANDOM % 10000))
  conf=$dir/g.conf
  cat >"$conf" <<C
[group]
name = g
journal-size = 64M
queue-limit = 8M
staging-limit = $2
compression = $1
[node alpha]
link = 127.0.0.1:$port
state-dir = $dir/alpha/state
run-dir = $dir/alpha/run
disk.vda = $dir/alpha/vda.img
[node beta]
link = 127.0.0.1:$((port + 1))
state-dir = $dir/beta/state
run-dir = $dir/beta/run
disk.vda = $dir/beta/vda.img
[guest]
memory = 24M
delta-cache = ${3:-4M}
C
  for n in alpha beta; do "$tandem" init "$conf" --node $n || fail "init on $n"; done
  start beta secondary
  start alpha primary
  until_state alpha syncing
}

machine() { # ARGUMENTS...: the machine on the primary
  $vmm run "$dir/alpha/run" "$@" >"$dir/run.log" 2>&1 &
  pids+=($!)
  run=$!
}
takeover() { $vmm takeover "$dir/beta/run" "$@" >"$dir/takeover.log" 2>&1 || fail "takeover ($compression): $(cat "$dir/takeover.log")"; }

compressions=(lz4 zstd none)
for round in $(seq "$rounds"); do
  compression=${compressions[round % 3]}
  fresh "$compression" 16M $((round % 2 * 32))M
  machine --checkpoint-every 20
  until_line 3 "$dir/run.log" committed
  sleep "0.$((RANDOM % 10))" # the random moment of the kill
  kill -KILL "$alpha"
  wait "$run"
  step=$(shown "$dir/run.log")
  takeover --at-least "$step"
  ok "$compression: primary killed after step $step was shown: $(grep agree "$dir/takeover.log")"
done

fresh lz4 16M
machine --steps 1500 --checkpoint-every 15 --abandon-every 4
wait "$run" || fail "the machine did not end: $(tail -n 3 "$dir/run.log")"
until_state alpha protected
takeover_step=$(shown "$dir/run.log")
# the last epoch has been committed, so exactly that step is there
kill -KILL "$alpha"
takeover --at-least "$takeover_step"
ok "every fourth checkpoint abandoned: $(grep agree "$dir/takeover.log")"

fresh zstd 16M
machine --checkpoint-every 10
until_line 2 "$dir/run.log" committed
"$tandem" disconnect "$conf" --node alpha
until_line 1 "$dir/run.log" "secondary is gone"
"$tandem" connect "$conf" --node alpha
until_line 2 "$dir/run.log" "sent all memory"
n=$(grep -c committed "$dir/run.log")
until_line $((n + 3)) "$dir/run.log" committed
kill -KILL "$alpha"
wait "$run"
takeover --at-least "$(shown "$dir/run.log")"
ok "after a second session: $(grep agree "$dir/takeover.log")"

# The primary is lost in the middle of the next session's sync: the checkpoint of the one before is still there.
fresh lz4 16M
machine --checkpoint-every 10
until_line 5 "$dir/run.log" committed
kill -STOP "$run" # no checkpoint of the second session
"$tandem" disconnect "$conf" --node alpha >/dev/null
"$tandem" connect "$conf" --node alpha >/dev/null
for _ in $(seq 200); do
  [ "$("$tandem" status "$conf" --node alpha --json | jq '.checkpoint.session == 2 and .checkpoint["disks-in-sync"]')" = true ] && break
  sleep 0.1
done
[ "$("$tandem" status "$conf" --node alpha --json | jq -r .state)" = syncing ] || fail "a session without a checkpoint is not syncing"
kill -KILL "$alpha"
step=$(shown "$dir/run.log")
kill -KILL "$run"
wait "$run" 2>/dev/null
takeover --at-least "$step"
ok "lost while the next session synced: $(grep agree "$dir/takeover.log")"

fresh lz4 16M
machine --steps 300
wait "$run"
kill -KILL "$alpha"
kill -KILL "$beta"
wait "$beta" 2>/dev/null
start beta secondary
until_state beta standby
$vmm takeover "$dir/beta/run" >"$dir/takeover.log" 2>&1
[ $? -eq 4 ] || fail "a promotion without memory is not refused"
grep -q "no memory of the guest" "$dir/takeover.log" || fail "the refusal does not say why"
takeover --disks-only
ok "a restarted secondary has no memory: refused, disks-only promotes"
echo "all good"
