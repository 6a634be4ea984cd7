#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""tandem verify: no false alarm while writers write to both disks; bytes changed in the secondary's image behind its back
are found, each named by disk and range; --repair makes both sides equal, compared whole; one is cancelled.
usage: tests/scenario/verify.py BUILD_DIR [SEED]"""
import os
import random
import re
import subprocess

from group import MIB, Group, Writer, differ, main, need, ok, until

SIZE = 64 * MIB
WRITTEN = 48 * MIB  # writers stay below; behind it lies data that nobody writes to
BLOCK = 65536
DIFFER = 10  # exit code
KEYS = "epoch-ms = 20\nheartbeat-ms = 50\npeer-timeout-ms = 3000\njournal-size = 256M\nsync-min-rate = 64M\n"


def verify(g, *args, node="alpha"):
    p = subprocess.run([g.tandem, "verify", g.conf, "--node", node, *args], text=True, check=False,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ranges = [(d, int(o), int(n)) for d, o, n in re.findall(r"^disk (\w+) differs: offset (\d+), length (\d+)$", p.stdout, re.M)]
    return p.returncode, ranges, p.stdout + p.stderr


def flip(g, disk, off):
    fd = os.open(g.image("beta", disk), os.O_RDWR)
    try:
        byte = os.pread(fd, 1, off)
        os.pwrite(fd, bytes([byte[0] ^ 0xff]), off)
    finally:
        os.close(fd)


def scenario(build, seed):
    rng = random.Random(seed)
    g = Group(build, keys=KEYS, disks=("vda", "vdb"), size=SIZE)
    failed = True
    try:
        g.init("alpha", "beta")
        g.start("beta", "secondary")
        g.start("alpha", "primary")
        g.until_state("alpha", "protected")
        need(g.ask("alpha", "query-verify")["state"] == "none", "a verify that nobody asked for")
        quiet = rng.randbytes(SIZE - WRITTEN)
        content = {}
        for disk in ("vda", "vdb"):
            h = g.connect("alpha", disk)
            for off in range(0, len(quiet), MIB):
                h.pwrite(quiet[off:off + MIB], WRITTEN + off)
            h.shutdown()
            content[disk] = bytes(WRITTEN) + quiet
        writers = {d: Writer(g.uri("alpha", d), WRITTEN, rng.random()) for d in content}
        for w in writers.values():
            w.start()
            w.wait_writes(50, beyond=10 ** 9)
        for i in range(5):
            before = sum(w.count for w in writers.values())
            code, ranges, text = verify(g)
            need(code == 0 and not ranges, "a false alarm in round", i, ": exit code", code, text)
            need(sum(w.count for w in writers.values()) > before, "nobody wrote meanwhile")
        need(g.ask("alpha", "query-verify")["differ"] == 0, "a false alarm")
        ok("five times, with writers on both disks: no false alarm")

        p = subprocess.Popen([g.tandem, "verify", g.conf, "--node", "alpha"], text=True, stderr=subprocess.PIPE)
        until("a verify", lambda: g.ask("alpha", "query-verify")["state"] == "running" and g.ask("alpha", "query-verify")["done"])
        shown = g.cli("status", node="alpha")
        need(re.search(r"^  verify +\S+ \S+ of 128\.0 MiB \(", shown, re.M), "status does not show it:", shown)
        subprocess.run([g.tandem, "verify", g.conf, "--node", "alpha", "--cancel"], check=True)
        text = p.communicate()[1]
        last = g.ask("alpha", "query-verify")
        need(p.returncode == 7 and "verify ended early: it was cancelled" in text, "the exit code is", p.returncode, text)
        need(last["state"] == "failed" and last["done"] < last["total"], "it was not cancelled:", last)
        code, _, text = verify(g)
        need(code == 0 and g.status("alpha")["state"] == "protected", "after a cancelled one:", code, text)
        need("verify" not in g.status("alpha"), "status shows one that is over")
        code, _, text = verify(g, "--cancel")
        need(code == 4 and "none is under way" in text, "one that is over was cancelled:", code, text)
        ok("cancelled, and the next one is not disturbed")

        wrong = [("vda", WRITTEN + 5 * BLOCK + 4711), ("vda", WRITTEN + 6 * BLOCK), ("vdb", SIZE - 1)]
        for disk, off in wrong:
            flip(g, disk, off)
        expected = [("vda", WRITTEN + 5 * BLOCK, 2 * BLOCK), ("vdb", SIZE - BLOCK, BLOCK)]
        code, ranges, text = verify(g)
        need(code == DIFFER, "differences: exit code", code, text)
        need(ranges == expected, "found", ranges, "instead of", expected)
        ok("flipped bytes on the secondary: each found and named, exit code 10")

        code, ranges, text = verify(g, "--repair")
        need(code == DIFFER and ranges == expected, "with --repair: exit code", code, text)
        for w in writers.values():
            w.stop()
            need(not w.error, "a writer failed:", w.error)
            w.nbd.shutdown()
        g.ask("alpha", "cut", wait="committed")
        code, ranges, text = verify(g)
        need(code == 0 and not ranges, "after the repair: exit code", code, text)
        last = g.ask("alpha", "query-verify")
        need(last["state"] == "done" and last["done"] == last["total"] == 2 * SIZE and last["unsettled"] == 0,
             "at rest everything is compared, not", last)
        for disk, w in writers.items():
            want = bytes(w.content) + quiet
            for node in ("alpha", "beta"):
                d = differ(g.read(node, disk), want)
                need(not d, disk, "of", node, "is not what was written:", d)
        ok("--repair: both sides are equal, compared whole")

        flip(g, "vdb", WRITTEN)
        need(verify(g)[0] == DIFFER, "not found")
        need(g.status("alpha")["disks"]["vdb"]["dirty"] >= BLOCK, "what differs is not dirty")
        g.kill("alpha")
        g.start("alpha", "primary")
        g.until_state("alpha", "protected")
        need(verify(g)[0] == 0, "the mark did not survive a crash of the primary")
        ok("a difference is dirty, also after a crash of the primary: the next sync copies it")

        code, _, text = verify(g, node="beta")
        need(code == 4, "on the secondary: exit code", code, text)
        g.kill("beta")
        until("the link's end", lambda: g.status("alpha")["state"] == "solo")
        code, _, text = verify(g)
        need(code == 4, "without a secondary: exit code", code, text)
        ok("on a secondary, and without one: refused")
        failed = False
    finally:
        g.close(failed)


main(scenario)
