#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# bench/checkpoint in small: it protects, measures and fails over a guest, and its output is whole.  No time is judged here.
# usage: tests/scenario/bench_checkpoint.sh BUILD_DIR
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/tandem.XXXXXX")
trap 'rm -rf "$dir"' EXIT
"$here/bench/checkpoint" --build "$1" --ram 192M,256M --seconds 1 --naive 1 --image-dir "$dir" --json "$dir/out.json" \
  --svg "$dir/out.svg" >"$dir/out.txt" || { echo "not ok - bench/checkpoint failed"; cat "$dir/out.txt"; exit 1; }
cat "$dir/out.txt"
python3 - "$dir" <<'P' || { echo "not ok - the output is not whole"; exit 1; }
import json, sys, xml.etree.ElementTree

text = open(f"{sys.argv[1]}/out.txt", encoding="utf-8").read()
out = json.load(open(f"{sys.argv[1]}/out.json", encoding="utf-8"))
for ram, size in (("192M", 192 << 20), ("256M", 256 << 20)):
    f = out["figures"][ram]
    for name in ("idle", "memory 20 MB/s"):
        t = f["tandem"]["loads"][name]
        for p in (t["pause_us"], f["floor"]["loads"][name]["pause_us"]):
            assert 0 < p["p50"] <= p["p90"] <= p["p99"] <= p["max"], (name, p)
        assert t["count"] > 0 and t["bytes"] > 0 and sum(part["p50"] for part in t["parts_us"].values()) > 0, t
        assert name in text
    # the writer's pages are in the checkpoints
    assert f["tandem"]["loads"]["memory 20 MB/s"]["pages"] > f["tandem"]["loads"]["idle"]["pages"]
    # all of the RAM is looked at by the naive way, and what the guest has used crosses
    assert 16 << 20 < f["floor"]["naive"]["bytes"] < 2 * size
    assert f["tandem"]["promotion_ms"] > 0 and f["tandem"]["switchover_ms"] > 0
assert len(out["bars"]) == 1 and text.count("met   ") + text.count("MISSED") == 1
svg = xml.etree.ElementTree.parse(f"{sys.argv[1]}/out.svg").getroot()
assert sum(e.tag.endswith("circle") for e in svg) == 2 * 4, "two dots for each load"
P
[ -z "$(find "$dir" -name 'tandem-bench.*')" ] || { echo "not ok - it leaves files behind"; exit 1; }
echo "ok - guests are protected, measured and taken over, the table, the JSON and the plot are whole"
