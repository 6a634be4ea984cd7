#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# bench/disk in small: its output is whole and well-formed, as a table and as JSON.  No time is judged here.
# usage: tests/scenario/bench_disk.sh BUILD_DIR
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/tandem.XXXXXX")
trap 'rm -rf "$dir"' EXIT
"$here/bench/disk" --build "$1" --runtime 0.2 --slices 1 --repeats 2 --size 64M --image-dir "$dir" --json "$dir/out.json" \
  >"$dir/out.txt" || { echo "not ok - bench/disk failed"; cat "$dir/out.txt"; exit 1; }
cat "$dir/out.txt"
python3 - "$dir" <<'P' || { echo "not ok - the output is not whole"; exit 1; }
import json, sys

text = open(f"{sys.argv[1]}/out.txt", encoding="utf-8").read()
out = json.load(open(f"{sys.argv[1]}/out.json", encoding="utf-8"))
workloads = ["randwrite-4k-qd1", "randwrite-4k-qd32", "seqwrite-1m-qd8", "randrw-70-30-4k-qd16", "write-flush-4k-qd1"]
assert list(out["workloads"]) == workloads, list(out["workloads"])
for name, sides in out["workloads"].items():
    assert name in text, name
    assert set(sides) == {"nbdkit", "tandem"}, sides.keys()
    assert set(sides["tandem"]["cpu_us_by_process"]) == {"primary", "secondary"}
    for side in sides.values():
        assert len(side["runs"]) == 2
        for figure in ("iops", "mb_s", "lat_us", "p99_us"):
            assert side[figure] > 0, (name, figure)
        assert all(r["requests"] > 0 for r in side["runs"])
assert len(out["bars"]) == 6
for bar in out["bars"]:
    assert bar["met"] in (True, False) and bar["measured"] >= 0 and bar["name"] in text, bar
assert text.count("met   ") + text.count("MISSED") == 6
assert out["machine"]["cpus"] > 0
P
[ -z "$(find "$dir" -name 'tandem-bench.*')" ] || { echo "not ok - it leaves files behind"; exit 1; }
echo "ok - the table and the JSON are whole, nothing is left behind"
