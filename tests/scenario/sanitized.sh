#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs a scenario whose nodes have an instrumented plugin: nbdkit, which loads it, gets the sanitizer's library preloaded.
# Any report of any node is a failure, whatever the scenario says.
# usage: tests/scenario/sanitized.sh address|thread BUILD_DIR SCENARIO [ARGUMENT]...    (BUILD_DIR is given to it first)
set -u
[ $# -ge 3 ] || { sed -n 's/^# usage/usage/p' "$0" >&2; exit 2; }
case $1 in
address) library=libasan.so ;;
thread) library=libtsan.so ;;
*) echo "$0: unknown sanitizer $1" >&2; exit 2 ;;
esac
build=$(realpath "$2")
scenario=$3
shift 3
dir=$(mktemp -d "${TMPDIR:-/tmp}/tandem-sanitized.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/bin" "$dir/reports"
# plain_strerror.c says why it is there
cat >"$dir/bin/nbdkit" <<W
#!/bin/sh
case "\$*" in
*nbdkit-tandem-plugin.so*)
  LD_PRELOAD=$build/tests/crash/tandem-plain-strerror.so:$(realpath "$(gcc -print-file-name=$library)")
  export LD_PRELOAD
  ;;
esac
exec $(command -v nbdkit) "\$@"
W
chmod +x "$dir/bin/nbdkit"
export TSAN_OPTIONS="log_path=$dir/reports/tsan exitcode=0"
export ASAN_OPTIONS="log_path=$dir/reports/asan detect_leaks=1 verify_asan_link_order=0"
export UBSAN_OPTIONS="log_path=$dir/reports/ubsan print_stacktrace=1"
PATH=$dir/bin:$PATH "$scenario" "$build" "$@"
rc=$?
for report in "$dir"/reports/*; do
  [ -s "$report" ] || continue
  echo "not ok - a sanitizer reports ($(basename "$report")):"
  head -n 60 "$report"
  [ -z "${TANDEM_TEST_LOGS:-}" ] || { mkdir -p "$TANDEM_TEST_LOGS" && cp "$report" "$TANDEM_TEST_LOGS"; }
  rc=1
done
exit $rc
