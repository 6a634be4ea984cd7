#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A staged sync that is interrupted goes on from there: by a lost link, by SIGKILL of the primary, of the secondary, and of
both; with guest writes before it goes on.  Hardly more bytes cross the link than without, and the secondary is its old
state until the sync commits, also when it is promoted in the middle.
The first sync, which is in place, goes on from what was durable.
usage: tests/scenario/interrupted.py BUILD_DIR [SEED]"""
import os
import random
import shutil
import sys

from group import MIB, SECONDS, Group, differ, main, need, ok, until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crash"))
from proxy import Proxy  # noqa: E402

SIZE = 64 * MIB
KEYS = "epoch-ms = 20\nheartbeat-ms = 50\npeer-timeout-ms = 60000\njournal-size = 192M\n"


class Pair(Group):
    """alpha, the primary, reaches beta through a proxy."""

    def __init__(self, build, seed, keys="", size=SIZE):
        super().__init__(build, keys=KEYS + keys, size=size)
        self.rng = random.Random(seed)
        self.content = bytearray(size)
        self.proxy = Proxy()
        with open(self.conf, encoding="ascii") as f:
            text = f.read()
        self.proxy.target = int(text.split("[node beta]")[1].split("127.0.0.1:")[1].split()[0])
        self.confs = {"beta": self.conf, "alpha": self.path("alpha.conf")}
        with open(self.confs["alpha"], "w", encoding="ascii") as f:
            f.write(text.replace(":%d" % self.proxy.target, ":%d" % self.proxy.port))
        self.init("alpha", "beta")

    def start(self, node, role, *arguments):
        self.conf = self.confs[node]
        super().start(node, role, *arguments)

    def sent(self):
        """Bytes that have gone to the secondary since the start."""
        return self.proxy.total[Proxy.TO_TARGET]

    def write(self, off, length):
        h = self.connect("alpha")
        for at in range(off, off + length, MIB):
            data = self.rng.randbytes(min(MIB, off + length - at))
            h.pwrite(data, at)
            self.content[at:at + len(data)] = data
        h.shutdown()

    def equal(self, where):
        self.until_state("alpha", "protected")
        self.ask("alpha", "cut", wait="committed")
        for node in ("alpha", "beta"):
            d = differ(self.read(node), bytes(self.content))
            need(not d, where, ": the disk of", node, "is not what was written:", d)
        until("no dirty block", lambda: all(self.status(n)["disks"]["vda"]["dirty"] == 0 for n in ("alpha", "beta")))

    def all_differs(self):
        """Solo, everything is written anew.  What the secondary holds meanwhile."""
        self.ask("alpha", "disconnect")
        held = self.read("beta")
        self.write(0, SIZE)
        return held

    def connect_and_stall(self, count):
        """In the middle of a sync: the stream stands still, and both sides know of no reason."""
        self.proxy.stall_after(Proxy.TO_TARGET, count)
        self.ask("alpha", "connect")
        need(self.proxy.wait_stall(Proxy.TO_TARGET, SECONDS), "timeout:", count, "bytes of the sync")

    def go_on(self):
        self.proxy.stall(Proxy.TO_TARGET, False)

    def sync_seen(self, node):
        return until("a sync on " + node, lambda: self.status(node).get("sync"))

    def journaled(self, count):
        """So many bytes of the sync that stalls are on their way to beta's journal; what a kill then loses is little."""
        until("bytes in the journal", lambda: self.status("beta")["journal"]["used"] >= count)

    def went_on(self, part, where):
        for node in ("alpha", "beta"):
            sync = self.sync_seen(node)
            need(sync["done"] >= sync["total"] * part, where, ": on", node, "the sync begins at", sync)
        reason = self.status("alpha")["reason"]
        need("goes on where one was interrupted" in reason, where, ":", reason)

    def old_state(self, held, where):
        d = differ(self.read("beta"), held)
        need(not d, where, ": the secondary is not its last committed state:", d)


def by_link(g):
    g.proxy.shut_now()
    g.go_on()
    until("the link's end", lambda: not any(g.status(n)["link"]["connected"] for n in ("alpha", "beta")))
    g.ask("alpha", "disconnect")
    g.proxy.open()


def by_primary(g):
    g.kill("alpha")
    g.go_on()
    until("the link's end", lambda: not g.status("beta")["link"]["connected"])
    g.proxy.shut_now()  # no session that nobody asked for
    g.start("alpha", "primary")
    g.ask("alpha", "disconnect")
    g.proxy.open()


def by_secondary(g):
    g.kill("beta")
    g.ask("alpha", "disconnect")
    g.go_on()
    g.start("beta", "secondary")


def by_both(g):
    g.kill("beta")
    g.kill("alpha")
    g.go_on()
    g.proxy.shut_now()  # no session that nobody asked for
    g.start("beta", "secondary")
    g.start("alpha", "primary")
    g.ask("alpha", "disconnect")
    g.proxy.open()


def interrupted(g, what, kinds):
    """Once for each kind, the second one in the sync that goes on from the first."""
    held = g.all_differs()
    before = g.sent()
    for i, kind in enumerate(kinds):
        g.connect_and_stall(SIZE // 2 // len(kinds))
        g.journaled(SIZE // 2 // len(kinds) * 2 // 3)
        if i:
            g.went_on(i / len(kinds) / 3, what)
        g.old_state(held, what)
        kind(g)
        g.old_state(held, what)
        # where it had come, and where it had not
        g.write(g.rng.randrange(SIZE // 16) // 512 * 512, 300 * 1024)
        g.write(SIZE - MIB - g.rng.randrange(SIZE // 16) // 512 * 512, 300 * 1024)
    g.connect_and_stall(MIB)
    g.went_on(1 / 6, what)
    g.go_on()
    g.until_state("alpha", "protected")
    total = g.sent() - before
    need(total < SIZE * 1.3, what, ":", total, "bytes for a disk of", SIZE)
    g.equal(what)
    print("   %s: %.3f x the disk's bytes" % (what, total / SIZE))


def first(build, seed):
    """A first sync, in place: what was durable need not come again, by both nodes' maps.  (To a primary that was killed all regions
    of this small disk are hot, and the secondary's map reaches its file some seconds later: such an end costs more.  What is on
    its way comes again, so the queue is small against the disk.)"""
    g = Pair(build, seed, "queue-limit = 8M\nstaging-limit = 16M\n", 4 * SIZE)
    failed = True
    try:
        g.start("alpha", "primary")
        g.ask("alpha", "disconnect")
        g.write(0, g.size)
        g.start("beta", "secondary")
        g.connect_and_stall(g.size * 3 // 4)
        for node in ("alpha", "beta"):
            until("parts of it to be durable", lambda: g.status(node)["disks"]["vda"]["dirty"] <= g.size * 3 // 5)
        by_link(g)
        g.write(g.rng.randrange(g.size // 16) // 512 * 512, 300 * 1024)
        before = g.sent()
        g.ask("alpha", "connect")
        g.equal("first sync")
        total = g.sent() - before
        need(total < g.size * 4 // 5, "first sync:", total, "bytes in its second part, for a disk of", g.size)
        print("   first sync: its second part is %.3f x the disk's bytes" % (total / g.size))
        failed = False
    finally:
        g.close(failed)
    ok("an interrupted first sync goes on from what was durable")


def promoted(g):
    """The sync that had gone on is interrupted for good."""
    held = g.all_differs()
    g.connect_and_stall(SIZE // 4)
    g.journaled(SIZE // 6)
    g.old_state(held, "promoted in the middle, before")
    by_secondary(g)
    g.connect_and_stall(SIZE // 4)
    g.went_on(1 / 12, "promoted in the middle")
    g.kill("alpha")
    g.go_on()
    until("the link's end", lambda: not g.status("beta")["link"]["connected"])
    g.ask("beta", "promote")
    g.old_state(held, "promoted in the middle")
    g.end("beta")
    g.start("beta", "primary")
    g.old_state(held, "promoted in the middle, started again")


def run(build, seed):
    first(build, seed)
    g = Pair(build, seed)
    failed = True
    try:
        g.start("beta", "secondary")
        g.start("alpha", "primary")
        g.until_state("alpha", "protected")
        g.write(0, SIZE)
        g.equal("first sync")
        interrupted(g, "a lost link", [by_link])
        interrupted(g, "the primary killed", [by_primary])
        interrupted(g, "the secondary killed", [by_secondary])
        interrupted(g, "both killed", [by_both])
        interrupted(g, "one after the other", [by_secondary, by_link, by_primary])
        ok("an interrupted staged sync goes on from there, whoever was killed")
        promoted(g)
        ok("promoted in the middle of a sync that had gone on: exactly the last committed state")
        for node in ("alpha", "beta"):
            if os.environ.get("TANDEM_RECORD"):
                shutil.copy(g.path(node, "state", "journal"), os.path.join(os.environ["TANDEM_RECORD"], node + ".journal"))
        failed = False
    finally:
        g.close(failed)


main(run)
