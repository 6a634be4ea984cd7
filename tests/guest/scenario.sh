# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2034   # the variables are for the scripts that source this file
# What every tests/scenario/guest_*.sh on two nodes begins with: the steps of lib.sh and vm.sh, a rig that goes with the script,
# and the lines of its report. Source it as
#   . "$here/../guest/scenario.sh" MOST "$@"
# where at most MOST arguments may follow BUILD_DIR; fills build, and decides on a seed where none is given.

scenario_most=$1
shift
[ $# -ge 1 ] && [ $# -le $((1 + scenario_most)) ] || { sed -n 's/^# usage/usage/p' "$0" >&2; exit 2; }
build=$(cd "$1" && pwd) || exit 2
seed=$((RANDOM % 32768))
. "${BASH_SOURCE[0]%/*}/lib.sh"
. "${BASH_SOURCE[0]%/*}/vm.sh"
count=0

scenario_traps() {
  trap rig_cleanup EXIT
  trap 'exit 130' INT TERM
}
scenario_traps

# Ends what runs; the next rig_new begins anew.
scenario_again() {
  rig_cleanup
  scenario_traps
  node_pid=()
}

# The first line of the report. $1: how many results; nothing where that is told at the end
scenario_plan() {
  [ -z "${1:-}" ] || echo "1..$1"
  echo "# seed $seed"
}

scenario_guest() { "$here/../guest/setup.sh" || { echo "Bail out! the test guest cannot be made"; exit 1; }; }

ok() { count=$((count + 1)); echo "ok $count - $1"; }

# What comes after a failure could tell nothing: it ends the test.
bad() {
  local node
  echo "not ok $((count + 1)) - $1"
  echo "# ${why:-}"
  echo "# seed $seed"
  rig_logs | sed 's/^/# /'
  for node in alpha beta; do tail -n 6 "$rig_dir/$node/console" 2>/dev/null | tr -d '\r' | sed "s/^/# $node: /"; done
  exit 1
}

# step NAME COMMAND...
step() {
  local name=$1
  shift
  "$@" || bad "$name"
  ok "$name"
}
