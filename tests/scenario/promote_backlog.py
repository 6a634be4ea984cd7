#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promotion of a secondary whose disk is slow and whose journal is long: it serves at once, exactly the last committed
epoch; what its guest writes then is never overwritten by what is older; SIGKILL in the middle of the drain leaves a
prefix of the guest's writes that holds all that was flushed; replication goes on after the drain.
usage: tests/scenario/promote_backlog.py BUILD_DIR [SEED]"""
import os
import random

from group import MIB, Group, Writer, differ, main, need, ok, pattern, until

SIZE = 64 * MIB
BACKLOG = 1200  # scattered writes


class SlowDisk:
    """nbdkit with its delay filter over an image: each write takes a while, reads do not.  It is killed with the node,
    as the host's power would: requests of a dead node must not reach the image later."""

    def __init__(self, g, image, delay="250ms"):
        self.g, self.image, self.delay = g, image, delay
        self.socket = g.path("slow.sock")
        self.start()

    def start(self, delay=None):
        self.process = self.g.daemon("nbdkit", "-f", "-t", "64", "-U", self.socket, "--filter=delay", "file", self.image,
                                     "wdelay=" + (delay or self.delay), name="slow")
        until("the slow disk", lambda: os.path.exists(self.socket))

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.g.others.remove(self.process)
        os.unlink(self.socket)


def apply_op(content, op):
    off, data = op
    content[off:off + len(data)] = data


def write(h, rng, content, ops, places):
    """One write, half of the time to a place that the backlog has too; read back at once."""
    off = rng.choice(places) if rng.random() < 0.5 else rng.randrange(SIZE // 4096) * 4096
    length = rng.choice((512, 4096, 8192))
    off = min(off + rng.choice((0, 512)), SIZE - length)
    data = bytes(length) if rng.random() < 0.1 else pattern(len(ops) + 100000, off, length)
    if any(data):
        h.pwrite(data, off)
    else:
        h.zero(length, off)
    ops.append((off, data))
    apply_op(content, ops[-1])
    around = max(off - 4096, 0), min(off + length + 4096, SIZE)
    need(h.pread(around[1] - around[0], around[0]) == content[around[0]:around[1]], "a read after a write at", off)


def must_be_draining(g, where):
    journal = g.status("beta").get("journal")
    need(journal and journal["unapplied"] > 0, where, ": the drain has ended already:", journal)


def make_backlog(g, seed):
    """(content of the last committed epoch, places that the journal holds)"""
    rng = random.Random(seed)
    h = g.connect("alpha")
    content, places = bytearray(SIZE), []
    for i in range(BACKLOG):
        off = rng.randrange(SIZE // 8192) * 8192
        data = pattern(i + 1, off, 4096)
        h.pwrite(data, off)
        apply_op(content, (off, data))
        places.append(off)
        if i % 100 == 0:
            g.ask("alpha", "cut", wait="committed")
    g.ask("alpha", "cut", wait="committed")
    epoch = g.status("beta")["epoch"]["committed"]
    h.pwrite(b"\xee" * 65536, 0)  # of no epoch that commits
    return content, places, epoch


def check_prefix(g, base, ops, flushed, where):
    """The disk holds the first k of the writes, k at least flushed."""
    found, content = g.read("beta"), bytearray(base)
    for k in range(len(ops) + 1):
        if k >= flushed and content == found:
            return k, content
        if k < len(ops):
            apply_op(content, ops[k])
    raise AssertionError("%s: the disk is no prefix of the writes that holds the flushed ones; at the flush %s" %
                         (where, differ(found, content)))


def start_group(g, seed):
    """(slow disk, content of the last committed epoch, places, epoch); alpha is killed."""
    slow = SlowDisk(g, g.image("beta"))
    with open(g.conf, encoding="ascii") as f:
        text = f.read().replace("disk.vda = " + g.image("beta"), "disk.vda = nbd+unix:///?socket=" + slow.socket)
    with open(g.conf, "w", encoding="ascii") as f:
        f.write(text)
    g.init("alpha", "beta")
    g.start("beta", "secondary")
    g.start("alpha", "primary")
    g.until_state("alpha", "protected")
    content, places, epoch = make_backlog(g, seed)
    need(g.status("beta")["journal"]["unapplied"] > 0, "there is no backlog")
    g.kill("alpha")
    return slow, content, places, epoch


def new_group(build):
    return Group(build, "epoch-ms = 0\njournal-size = 160M\nheartbeat-ms = 50\npeer-timeout-ms = 500\n", size=SIZE)


def promote_and_serve(build, seed):
    g, failed = new_group(build), True
    try:
        slow, content, places, epoch = start_group(g, seed)
        old = g.status("beta")["journal"]["unapplied"]
        need(old > 0, "there is no backlog")
        with g.control("beta") as c:
            answer = c.execute("promote")
            status = c.execute("query-status")
        need(status["journal"]["unapplied"] > 0, "promote waited for the drain", status["journal"])
        need(answer["epoch"] == epoch and status["epoch"]["committed"] == epoch and status["generation"] == 2 and
             status["role"] == "primary" and status["state"] == "solo", "after the promotion", answer, status)
        need(not differ(g.read("beta"), bytes(content)), "what the promoted node serves")
        must_be_draining(g, "after reading all")
        ok("promote answers while the journal is being drained (%d epochs); reads are right at once" % old)

        rng, ops, base = random.Random(seed + 1), [], bytes(content)
        h = g.connect("beta")
        for _ in range(150):
            write(h, rng, content, ops, places)
        h.flush()
        flushed = len(ops)
        need(not differ(g.read("beta"), bytes(content)), "after writes")
        must_be_draining(g, "before SIGKILL")
        for _ in range(60):
            write(h, rng, content, ops, places)
        g.kill("beta")
        slow.kill()
        slow.start()
        g.start("beta", "primary")
        must_be_draining(g, "after the restart")
        dirty = g.status("beta")["disks"]["vda"]["dirty"]
        need(dirty > 0, "what the guest wrote is not dirty:", dirty)
        k, content = check_prefix(g, base, ops, flushed, "SIGKILL in the drain")
        ok("SIGKILL in the middle of the drain: %d of %d writes are there, %d were flushed" % (k, len(ops), flushed))

        ops, base = [], bytes(content)
        h = g.connect("beta")
        for _ in range(100):
            write(h, rng, content, ops, places)
        must_be_draining(g, "before SIGTERM")
        g.end("beta")
        slow.kill()
        slow.start()
        g.start("beta", "primary")
        must_be_draining(g, "after SIGTERM")
        need(not differ(g.read("beta"), bytes(content)), "an orderly end in the drain keeps every write")
        ok("SIGTERM in the middle of the drain keeps what was not flushed too")

        # the same again, but the drain goes on to its end under a writer
        g.end("beta")
        slow.kill()
        slow.start("5ms")
        g.start("beta", "primary")
        w = Writer(g.uri("beta"), SIZE, seed + 2, content)
        w.allowed = 1 << 62
        w.start()
        until("the drain ends", lambda: w.error or "journal" not in g.status("beta"))
        w.wait_writes(200, 0)
        w.stop()
        need(not w.error, "a write failed:", w.error)
        content = w.content
        need(not differ(g.read("beta"), bytes(content)), "after the drain")
        s = g.status("beta")
        need(s["state"] == "solo" and s["epoch"]["committed"] >= epoch, "after the drain", s)
        g.start("alpha", "secondary")
        g.until_state("beta", "protected")
        h = g.connect("beta")
        for _ in range(50):
            write(h, rng, content, [], places)
        g.ask("beta", "cut", wait="committed")
        need(not differ(g.read("alpha"), bytes(content)), "the new secondary at a cut")
        ok("the drain ends under a writer; then the old primary is its secondary, and equal at a cut")
        g.end("beta")
        slow.kill()
        with open(g.image("beta"), "rb") as f:
            need(not differ(f.read(), bytes(content)), "the image itself")
        failed = False
    finally:
        g.close(failed)


def start_as_secondary(build, seed):
    g, failed = new_group(build), True
    try:
        slow, content, places, _epoch = start_group(g, seed)
        g.ask("beta", "promote")
        rng, h = random.Random(seed), g.connect("beta")
        for _ in range(100):
            write(h, rng, content, [], places)
        h.flush()
        must_be_draining(g, "before SIGKILL")
        g.kill("beta")
        slow.kill()
        slow.start("5ms")
        g.start("beta", "secondary")
        g.end("beta")
        slow.kill()
        with open(g.image("beta"), "rb") as f:
            need(not differ(f.read(), bytes(content)), "the image")
        ok("a node that was killed in its drain and starts as the secondary has all of its journal on its disk")
        failed = False
    finally:
        g.close(failed)


def run(build, seed):
    promote_and_serve(build, seed)
    start_as_secondary(build, seed)


main(run)
