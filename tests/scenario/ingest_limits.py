#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A secondary with ingest = nbd: what is not committed fills the journal; reads, zeroes, trims, extents, flushes and
several connections; events; restarts before the first commit; promotion fences who wrote to the secondary.
usage: tests/scenario/ingest_limits.py BUILD_DIR [SEED]"""
import errno
import random
import threading

import nbd

from group import MIB, Group, Writer, differ, main, nbd_errno, need, ok, pattern, read_all, until

SIZE = 96 * MIB


def ingest(build, keys):
    g = Group(build, "epoch-ms = 0\n" + keys, size=SIZE, node_keys={"beta": "ingest = nbd\n"})
    g.init("beta")
    g.start("beta", "secondary")
    return g


def first_commit(g, h):
    h.pwrite(pattern(1, 0, MIB), 0)
    g.ask("beta", "cut")
    g.ask("beta", "commit")


def extents(h, count, off):
    found = []
    h.block_status(count, off, lambda _m, _o, e, _r: found.extend(e) or 0)
    return list(zip(found[0::2], found[1::2]))


def full_journal(build, seed):
    g = ingest(build, "journal-size = 64M\npeer-timeout-ms = 600\nheartbeat-ms = 100\n")
    failed = True
    try:
        h = g.connect("beta")
        first_commit(g, h)
        with g.control("beta") as events:
            events.execute("events", enable=True)
            done = 0
            while (e := nbd_errno(h.pwrite, pattern(2, 0, MIB), done)) == 0:
                done += MIB
                need(done < SIZE, "64 MiB took", done)
            need(e == errno.ENOSPC, "a full journal gives errno", e)
            need(done > 30 * MIB, "a journal of 64 MiB took only", done)
            names = []
            until("event JOURNAL_FULL", lambda: names.append((events.wait_event(1) or {}).get("event")) or
                  "JOURNAL_FULL" in names)
        s = g.status("beta")
        need(s["state"] == "standby" and "can only be discarded" in s["reason"], "state", s["state"], s["reason"])
        need(nbd_errno(h.pwrite, b"x" * 4096, 0) == errno.ENOSPC, "and stays so")
        need(nbd_errno(h.flush) == errno.EIO, "a flush after a failed write")
        need(h.pread(MIB, 0) == pattern(2, 0, MIB), "reads go on")
        epoch = g.ask("beta", "cut")["epoch"]
        code, text = g.cli("commit", node="beta", check=False)
        need(code == 4 and "lacks a write" in text, "commit of an epoch that lacks a write:", code, text)
        with g.control("beta") as events:
            events.execute("events", enable=True)
            need(g.ask("beta", "discard")["epochs"] == 1, "discard of the full epoch")
            e = until("event EPOCH_DISCARDED", lambda: next(
                (e for e in [events.wait_event(1)] if e and e["event"] == "EPOCH_DISCARDED"), None))
            need(e["data"]["epoch"] == epoch and e["data"]["epochs"] == 1, "event", e)
        need(h.pread(MIB, 0) == pattern(1, 0, MIB), "the committed content after the discard")
        need(g.status("beta")["reason"] == "", "reason after the discard", g.status("beta")["reason"])
        for _ in range(3):  # several times the journal, in epochs that fit
            for off in range(0, 24 * MIB, MIB):
                h.pwrite(pattern(3, off, MIB), off)
            g.ask("beta", "cut", wait="received")
            g.ask("beta", "commit")
        need(g.read("beta", "vda@committed")[:24 * MIB] ==
             b"".join(pattern(3, off, MIB) for off in range(0, 24 * MIB, MIB)), "after it was full")
        ok("what is not committed fills the journal: ENOSPC, a clear state, no commit of an epoch that lacks a write")
        failed = False
    finally:
        g.close(failed)


def wait_for_commit(build, seed):
    """A writer that has no room goes on when the controller commits."""
    g = ingest(build, "journal-size = 64M\npeer-timeout-ms = 60000\n")
    failed = True
    try:
        h = g.connect("beta")
        first_commit(g, h)
        results = []

        def write():
            for off in range(0, SIZE, MIB):
                results.append(nbd_errno(h.pwrite, pattern(4, off, MIB), off))

        t = threading.Thread(target=write, daemon=True)
        t.start()
        while True:
            until("the journal is full, or all is written",
                  lambda: not t.is_alive() or "fill the journal" in g.status("beta")["reason"])
            g.ask("beta", "cut")
            g.ask("beta", "commit")
            if not t.is_alive():
                break
        need(len(results) == SIZE // MIB and not any(results), "writes", results)
        need(not differ(g.read("beta", "vda@committed"), b"".join(pattern(4, o, MIB) for o in range(0, SIZE, MIB))),
             "content")
        ok("a write that waits for room goes on after a commit")
        failed = False
    finally:
        g.close(failed)


def requests(build, seed):
    g = ingest(build, "journal-size = 64M\n")
    failed = True
    try:
        a, b = g.connect("beta"), g.connect("beta")
        need(a.can_multi_conn() and a.can_flush() and a.can_fua() and a.can_zero() and not a.is_read_only(), "flags")
        need(nbd_errno(g.connect, "beta", "vda@committed") != 0, "a committed state before there is one")
        g.kill("beta")  # before the first commit: nothing is kept
        g.start("beta", "secondary")
        need(g.status("beta")["state"] == "stopped", "after SIGKILL in the fill")
        a, b = g.connect("beta"), g.connect("beta")
        first_commit(g, a)
        for h, off, number in ((a, 3 * MIB, 5), (b, 5 * MIB + 512, 6)):
            h.pwrite(pattern(number, 0, 2 * MIB), off, nbd.CMD_FLAG_FUA)
            need((b if h is a else a).pread(2 * MIB, off) == pattern(number, 0, 2 * MIB), "the other connection sees it")
        a.zero(MIB, 3 * MIB + 4096)
        b.trim(4096, 3 * MIB)
        a.flush()
        want = bytes(4096 + MIB) + pattern(5, 0, 2 * MIB)[4096 + MIB:]
        need(b.pread(2 * MIB, 3 * MIB) == want, "zero and trim")
        e = extents(a, 8 * MIB, 0)
        hole = nbd.STATE_HOLE | nbd.STATE_ZERO
        # never written in the image, zeroed and trimmed in the open epoch: one hole; data of both kinds
        need(e == [(MIB, 0), (3 * MIB + 4096, hole), (MIB - 4096, 0), (512, hole), (2 * MIB, 0), (MIB - 512, hole)],
             "extents", e)
        sizes = a.get_block_size(nbd.SIZE_MINIMUM), a.get_block_size(nbd.SIZE_PREFERRED), a.get_block_size(
            nbd.SIZE_MAXIMUM)
        need(sizes[0] >= 1 and sizes[1] >= 512 and sizes[2] == 32 * MIB, "block sizes", sizes)
        before = read_all(a)
        g.ask("beta", "cut")
        g.ask("beta", "commit")
        g.end("beta")
        g.start("beta", "secondary")
        need(not differ(g.read("beta", "vda@committed"), before), "committed, after an orderly restart")
        ok("reads, zeroes, trims, extents, block sizes and flushes over two connections")
        failed = False
    finally:
        g.close(failed)


def promotion(build, seed):
    g = ingest(build, "journal-size = 64M\n")
    failed = True
    try:
        w = Writer(g.uri("beta"), SIZE, seed)
        w.start()
        w.wait_writes(100, 0)
        with w.lock:
            g.ask("beta", "cut")
            content = bytes(w.content)
        w.wait_writes(50, 0)
        g.ask("beta", "commit")
        snapshot, idle = g.connect("beta", "vda@committed"), g.connect("beta")
        w.wait_writes(50, 1000)
        answer = g.ask("beta", "promote")
        need(answer["generation"] == 2 and answer["discarded"]["epochs"] == 1, "promote", answer)
        until("the old client is refused", lambda: w.error)
        need(w.error.errnum == errno.ESHUTDOWN, "the old client", w.error)
        s = g.status("beta")
        need(s["role"] == "primary" and s["epoch"]["committed"] == answer["epoch"], "status", s)
        for request in ((idle.pwrite, b"x" * 512, 0), (idle.zero, 512, 0), (idle.pread, 512, 0), (idle.flush,)):
            need(nbd_errno(*request) == errno.ESHUTDOWN, "a request of a connection to the secondary")
        need(not differ(g.read("beta"), content), "the promoted disk")
        h = g.connect("beta")
        h.pwrite(pattern(9, 0, MIB), MIB)
        h.flush()
        need(h.pread(MIB, MIB) == pattern(9, 0, MIB), "a write after the promotion")
        need(not differ(read_all(snapshot), content), "a read-only connection from before the promotion")
        g.kill("beta")
        g.start("beta", "primary")
        need(not differ(g.read("beta"), content[:MIB] + pattern(9, 0, MIB) + content[2 * MIB:]), "after SIGKILL")
        ok("promotion: exactly the last commit; who wrote to the secondary is refused; a read-only view stays")
        failed = False
    finally:
        g.close(failed)


def run(build, seed):
    random.seed(seed)
    for test in (requests, full_journal, wait_for_commit, promotion):
        test(build, seed)


main(run)
