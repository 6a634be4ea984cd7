#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# bench/sync in small: every copy equals its source (the bench compares), and its output is whole.  No time is judged here.
# usage: tests/scenario/bench_sync.sh BUILD_DIR
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/tandem.XXXXXX")
trap 'rm -rf "$dir"' EXIT
"$here/bench/sync" --build "$1" --repeats 1 --size 64M --seconds 1 --image-dir "$dir" --json "$dir/out.json" >"$dir/out.txt" ||
  { echo "not ok - bench/sync failed"; cat "$dir/out.txt"; exit 1; }
cat "$dir/out.txt"
python3 - "$dir" <<'P' || { echo "not ok - the output is not whole"; exit 1; }
import json, sys

text = open(f"{sys.argv[1]}/out.txt", encoding="utf-8").read()
out = json.load(open(f"{sys.argv[1]}/out.json", encoding="utf-8"))
f = out["figures"]
size = 64 << 20
for kind in ("random", "sparse"):
    for tool in ("tandem", "nbdcopy", "qemu-img"):
        assert f[kind][tool]["seconds"] > 0 and f[kind][tool]["mb_s"] > 0 and tool in text, (kind, tool)
assert size <= f["random"]["tandem"]["link_bytes"] <= 1.01 * size
# holes are not sent, whatever the time
assert 0 < f["sparse"]["data_bytes"] < size / 10
assert f["sparse"]["tandem"]["link_bytes"] <= 1.01 * f["sparse"]["data_bytes"] + 65536, f["sparse"]["tandem"]
assert f["resync"]["seconds"] > 0 and f["resync"]["link_bytes"] > size // 200
for load in ("steady", "paced"):
    for kind in ("without", "during"):
        assert f["guest"][load][kind]["iops"] > 0 and f["guest"][load][kind]["mean_us"] > 0, load
    assert f["guest"][load]["during"]["runs"][0]["resync_s"] > 0 and f["guest"][load]["ratio"] > 0, load
assert len(out["bars"]) == 7 and text.count("met   ") + text.count("MISSED") == 7
P
[ -z "$(find "$dir" -name 'tandem-bench.*')" ] || { echo "not ok - it leaves files behind"; exit 1; }
echo "ok - copies are equal, holes do not cross the link, the table and the JSON are whole"
