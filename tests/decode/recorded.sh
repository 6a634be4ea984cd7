#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs a test with all links of its nodes recorded, then checks every recording, and every journal that the test has
# copied to $TANDEM_RECORD/NAME.journal, against docs/stream.md and docs/journal.md.  The test's exit code, or 1.
# usage: tests/decode/recorded.sh COMMAND...
set -u
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n 's/^# usage/usage/p' "$0" >&2; exit 2; }
TANDEM_RECORD=$(mktemp -d "${TMPDIR:-/tmp}/tandem-record.XXXXXX") || exit 1
export TANDEM_RECORD
"$@"
rc=$?
if [ $rc -eq 0 ]; then
  PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$here/tandem_decode.py" folder --cut "$TANDEM_RECORD" || rc=1
fi
if [ $rc -ne 0 ] && [ $rc -ne 77 ] && [ -n "${TANDEM_TEST_LOGS:-}" ]; then
  mkdir -p "$TANDEM_TEST_LOGS" && mv "$TANDEM_RECORD" "$TANDEM_TEST_LOGS/records"
else
  rm -rf "$TANDEM_RECORD"
fi
exit $rc
