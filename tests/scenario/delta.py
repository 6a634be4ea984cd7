#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""delta-cache: what is sent of a page that was sent before is the difference, and nothing where it is the same; zero pages,
abandoned checkpoints, a submit that fails in the middle, a second session.  After each step the secondary compares its memory
with the primary's (digests).  When it is found to be different, what is submitted comes whole, and puts it right.
The guest is made up: docs/examples/vmm.py.
usage: tests/scenario/delta.py BUILD_DIR [SEED]"""
import ctypes
import os
import random
import struct
import sys

from group import MIB, Group, main, need, ok, until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "examples"))
import vmm  # noqa: E402  pylint: disable=wrong-import-position

PAGE = vmm.PAGE
RAM = 5 * MIB  # two blocks of a comparison
KEYS = "heartbeat-ms = 50\npeer-timeout-ms = 3000\njournal-size = 64M\n[guest]\nmemory = 5M\ndelta-cache = 8M\n"
BLOCK = 4 * MIB  # of a digest


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


XXH = ctypes.CDLL("libxxhash.so.0")
XXH.XXH3_128bits.restype = Hash128


def digest(data):
    h = XXH.XXH3_128bits(bytes(data), ctypes.c_size_t(len(data)))
    return struct.pack(">QQ", h.high, h.low)


class Guest:
    def __init__(self, g, rng):
        self.g, self.rng = g, rng
        self.ram = bytearray(RAM)
        self.control = None

    def session(self):
        """All of the memory, and the first checkpoint."""
        self.control = vmm.Control(self.g.path("alpha", "run"))
        until("a session", lambda: vmm.ready(self.control))
        self.control.call("events", enable=True)
        need(self.checkpoint(range(RAM // PAGE))[1:] == (0, 0), "the first checkpoint has differences")

    def put(self, page, data, at=0):
        self.ram[page * PAGE + at:page * PAGE + at + len(data)] = data

    def fill(self, page):
        self.put(page, self.rng.randbytes(PAGE))

    def submit(self, epoch, pages, **more):
        """zero, equal and delta of the answer, in pages."""
        pages = list(pages)
        fd = os.memfd_create("checkpoint")
        os.write(fd, vmm.run_table([(p * PAGE, PAGE, 24 * len(pages) + i * PAGE) for i, p in enumerate(pages)]))
        for p in pages[:more.pop("present", len(pages))]:
            os.write(fd, self.ram[p * PAGE:(p + 1) * PAGE])
        digests = b"".join(digest(self.ram[at:at + BLOCK]) for at in range(0, RAM, BLOCK)) + digest(vmm.BASE_STATE)
        fds = [fd]
        if more.pop("state", True):
            at = os.fstat(fd).st_size
            os.write(fd, vmm.BASE_STATE + digests)
            more.update(state_bytes=len(vmm.BASE_STATE), state_data=at, digests=len(digests) // 16,
                        digest_data=at + len(vmm.BASE_STATE))
        try:
            got = self.control.call("submit", fds, epoch=epoch, runs=len(pages), **more)
        finally:
            os.close(fd)
        return tuple(got[k] // PAGE for k in ("zero", "equal", "delta"))

    def cut(self):
        self.control.call("checkpoint-begin")
        return self.control.call("cut")["epoch"]

    def compared(self, epoch):
        def event():
            for e in self.control.poll_events():
                if e["event"] == "CHECKPOINT_COMPARED" and e["data"]["epoch"] == epoch:
                    return e["data"]
            return None
        return until("the comparison of epoch %d" % epoch, event)["differ"]

    def checkpoint(self, pages, differ=0):
        epoch = self.cut()
        got = self.submit(epoch, pages)
        self.control.call("seal", epoch=epoch, wait="committed")
        found = self.compared(epoch)
        need((found > 0) == bool(differ), "epoch", epoch, "differs in", found, "bytes")
        return got


def damage(g, at):
    """A byte of the secondary's memory."""
    control = vmm.Control(g.path("beta", "run"))
    control.call("query-memory")
    fd = control.fd()
    os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 0xff]), at)
    os.close(fd)


def steps(g, guest):
    guest.session()
    for page in range(8):
        guest.fill(page)
    need(guest.checkpoint(range(8)) == (0, 0, 0), "pages that were not sent since the first checkpoint are not whole")
    guest.put(3, b"another", 100)
    guest.put(5, bytes(PAGE))
    need(guest.checkpoint(range(8)) == (1, 6, 1), "one page was changed, and one is zero")
    guest.put(3, b"and another", 200)
    guest.fill(5)
    need(guest.checkpoint(range(8)) == (0, 6, 1), "one page was changed, and one is not zero any more")
    need(guest.checkpoint(range(8)) == (0, 8, 0), "nothing was changed")
    ok("whole, zero, different, equal")

    # Twice in one checkpoint, and in one that is abandoned.
    epoch = guest.cut()
    guest.fill(0)
    guest.submit(epoch, range(2), state=False)
    guest.put(0, b"x", 7)
    need(guest.submit(epoch, range(2), state=False) == (0, 1, 1), "the second piece")
    guest.control.call("abandon", epoch=epoch)
    guest.put(1, b"y", 7)
    need(guest.checkpoint(range(2)) == (0, 1, 1), "after a checkpoint that was abandoned")
    ok("in several pieces, and behind an abandoned checkpoint")

    # The descriptor ends before the data does: what had been read of it was perhaps not sent.
    epoch = guest.cut()
    for page in range(4):
        guest.put(page, b"failed", 300)
    try:
        guest.submit(epoch, range(4), state=False, present=2)
        need(False, "a descriptor that ends early is taken")
    except vmm.Refused as e:
        need(e.kind == "usage", "the error is", e.kind, e)
    guest.control.call("abandon", epoch=epoch)
    need(guest.checkpoint(range(8)) == (0, 0, 0), "after a submit that failed not all pages are whole")
    need(guest.checkpoint(range(8)) == (0, 8, 0), "and then")
    ok("a submit that fails")

    # What is submitted after a comparison that found something comes whole.
    damage(g, 2 * PAGE + 55)
    need(guest.checkpoint(range(8), differ=1) == (0, 8, 0), "nothing was changed but there")
    need(guest.checkpoint(range(8)) == (0, 0, 0), "after a comparison that found something not all pages are whole")
    need(guest.checkpoint(range(8)) == (0, 8, 0), "and then")
    ok("a byte of the secondary's memory that is wrong is found, and put right by submitting its page again")

    guest.g.ask("alpha", "disconnect")
    guest.put(6, b"alone", 9)
    guest.g.ask("alpha", "connect")
    guest.session()
    need(guest.checkpoint(range(8)) == (0, 0, 0), "pages that a former session had sent")
    guest.put(6, b"again", 9)
    need(guest.checkpoint(range(8)) == (0, 7, 1), "and then")
    ok("a second session")

    # Differences to differences, many at a time, into a secondary that takes its time.
    for _ in range(40):
        pages = sorted(guest.rng.sample(range(RAM // PAGE), guest.rng.randrange(1, 400)))
        for page in pages:
            if guest.rng.random() < 0.1:
                guest.put(page, bytes(PAGE))
            else:
                guest.put(page, guest.rng.randbytes(100), guest.rng.randrange(PAGE - 100))
        guest.checkpoint(pages)
    ok("at random")


def run(build, seed):
    g = Group(build, keys=KEYS, size=8 * MIB)
    failed = True
    try:
        g.init("alpha", "beta")
        g.start("beta", "secondary", "--guest")
        g.start("alpha", "primary", "--guest")
        guest = Guest(g, random.Random(seed))
        steps(g, guest)
        g.kill("alpha")
        until("the link's end", lambda: not g.status("beta")["link"]["connected"])
        g.ask("beta", "promote")
        control = vmm.Control(g.path("beta", "run"))
        control.call("query-memory")
        need(os.pread(control.fd(), RAM, 0) == bytes(guest.ram), "the memory of the promoted node is another one")
        ok("promoted: the memory is the primary's")
        failed = False
    finally:
        g.close(failed)


main(run)
