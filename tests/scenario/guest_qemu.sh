#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A scenario with another QEMU than the installed one: $TANDEM_TEST_QEMU, else Debian's backport (tests/guest/setup_qemu.sh).
# Skipped, with the reason, where that cannot be had.
# usage: tests/scenario/guest_qemu.sh SCENARIO ARGUMENT...
set -u
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n 's/^# usage/usage/p' "$0" >&2; exit 2; }
if [ -z "${TANDEM_TEST_QEMU:-}" ]; then
  TANDEM_TEST_QEMU=$("$here/../guest/setup_qemu.sh")
  rc=$?
  [ $rc -eq 0 ] || { echo "$TANDEM_TEST_QEMU"; exit $rc; }
  export TANDEM_TEST_QEMU
fi
read -ra qemu <<<"$TANDEM_TEST_QEMU"
version=$("${qemu[@]}" --version | head -n 1) || { echo "$TANDEM_TEST_QEMU does not run"; exit 1; }
echo "# $version"
exec "$@"
