#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Coming back into sync: after a lost link, a restart and a crash of either side, after failovers; each time only what
may differ is copied, the secondary keeps its last committed state until the copy commits, and is equal to the primary
at a cut afterwards.
usage: tests/scenario/resync.py BUILD_DIR [SEED]"""
import os
import random
import re
import subprocess
import sys

from group import MIB, Group, Writer, differ, main, need, ok, until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "decode"))
from crc32c import crc32c  # noqa: E402

SIZE = 192 * MIB
KEYS = "sync-min-rate = 0\nepoch-ms = 20\nheartbeat-ms = 50\npeer-timeout-ms = 1500\n"
OTHER = {"alpha": "beta", "beta": "alpha"}


class Pair(Group):
    """Two nodes with random writes; knows what the primary's disk holds, and how much the last sync sent."""

    def __init__(self, build, seed, keys="journal-size = 320M\n"):
        super().__init__(build, keys=KEYS + keys, size=SIZE)
        self.rng = random.Random(seed)
        self.content = bytearray(SIZE)
        self.primary = "alpha"
        self.writer = None
        self.init("alpha", "beta")

    def cli(self, *args, node, check=True):
        """As of the rig, with the words of `tandem meta`."""
        if not args[0].startswith("meta-"):
            return super().cli(*args, node=node, check=check)
        p = subprocess.run([self.tandem, "meta", args[0][5:], self.conf, "--node", node], text=True, check=False,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if not check:
            return p.returncode, p.stderr
        need(p.returncode == 0, "tandem", *args, "on", node, "exits with", p.returncode, p.stderr)
        return p.stdout

    @property
    def secondary(self):
        return OTHER[self.primary]

    def up(self):
        self.start(self.secondary, "secondary")
        self.start(self.primary, "primary")
        self.until_state(self.primary, "protected")

    def write(self, count=60, beyond=0):
        """That many random writes are done; with beyond, that many more follow by themselves."""
        if not self.writer:
            self.writer = Writer(self.uri(self.primary), SIZE, self.rng.random(), self.content)
            self.content = self.writer.content
            self.writer.start()
        self.writer.wait_writes(count, beyond)

    def pause(self):
        if self.writer:
            self.writer.stop()
            self.writer.nbd.shutdown()
            self.writer = None

    def equal(self, where):
        """At a cut both sides hold what the guest wrote."""
        self.pause()
        self.ask(self.primary, "cut", wait="committed")
        for node in (self.primary, self.secondary):
            d = differ(self.read(node), bytes(self.content))
            need(not d, where, ": the disk of", node, "is not what was written:", d)
        for node in (self.primary, self.secondary):
            need(until("no dirty block on " + node, lambda n=node: self.status(n)["disks"]["vda"]["dirty"] == 0) or True)

    def syncs(self, node):
        """(kind, staged, bytes) of each sync that this node began as the primary."""
        return [(kind, bool(staged), int(n)) for kind, staged, n in re.findall(
            r"is up, (\w+) sync(, staged[^,]*)? of (\d+) bytes begins", self.log(node))]

    def need_incremental(self, where, limit, node=None):
        kind, staged, size = self.syncs(node or self.primary)[-1]
        need(kind == "incremental" and staged, where, ": the sync was", kind, "staged" if staged else "in place")
        need(size <= limit, where, ": the sync went through", size, "bytes, more than", limit)

    def fail_over(self):
        """The primary dies, the other takes over exactly what is committed."""
        old = self.primary
        self.pause()
        self.kill(old)
        until("the link's end", lambda: not self.status(self.secondary)["link"]["connected"])
        self.ask(self.secondary, "promote")
        self.primary = OTHER[old]
        self.content = bytearray(self.read(self.primary))
        return old


def lost_link(g):
    """Written to while the link is down; then while the resync runs."""
    before = self_dirty(g, g.primary)
    need(before == 0, "dirty while protected and idle:", before)
    g.ask(g.primary, "disconnect")
    g.write(40)
    g.pause()
    dirty = self_dirty(g, g.primary)
    need(0 < dirty < SIZE, "dirty after writes alone:", dirty)
    held = g.read(g.secondary)
    g.ask(g.primary, "connect")
    g.write(40, beyond=10)
    g.until_state(g.primary, "protected")
    g.need_incremental("lost link", dirty)
    need(differ(g.read(g.secondary), held), "nothing came over")
    g.equal("lost link")
    ok("a lost link: only what was written meanwhile is copied, with writes going on")


def self_dirty(g, node):
    return g.status(node)["disks"]["vda"]["dirty"]


def idle_link_loss(g):
    g.ask(g.primary, "disconnect")
    g.ask(g.primary, "connect")
    g.until_state(g.primary, "protected")
    kind, _, size = g.syncs(g.primary)[-1]
    need(kind == "incremental" and size == 0, "an idle link loss copies", size, "bytes")
    g.equal("idle link loss")
    ok("a lost link without a write: nothing is copied")


def restarts(g):
    """Orderly restarts of either side, and of both, with writes alone in between."""
    g.end(g.secondary)
    g.until_state(g.primary, "solo")
    g.write(30)
    g.pause()
    dirty = self_dirty(g, g.primary)
    g.start(g.secondary, "secondary")
    g.until_state(g.primary, "protected")
    g.need_incremental("secondary restarted", dirty)
    g.equal("secondary restarted")
    g.end(g.secondary)
    g.until_state(g.primary, "solo")
    g.write(30)
    g.pause()
    dirty = self_dirty(g, g.primary)
    g.end(g.primary)
    g.up()
    g.need_incremental("both restarted", dirty)
    g.equal("both restarted")
    ok("orderly restarts of the secondary, and of both: the map is exact over them")


def crashes(g):
    """SIGKILL: the map is what the file says, united with the hot regions."""
    g.write(30, beyond=1000)
    g.kill(g.secondary)
    g.write(30)
    g.pause()
    g.start(g.secondary, "secondary")
    g.until_state(g.primary, "protected")
    g.need_incremental("secondary crashed", SIZE)
    g.equal("secondary crashed")
    g.write(30, beyond=1000)
    g.writer.ending = True
    g.kill(g.primary)
    g.writer.join()
    g.writer = None
    g.start(g.primary, "primary")
    g.content = bytearray(g.read(g.primary))
    g.until_state(g.primary, "protected")
    g.need_incremental("primary crashed", SIZE)
    g.equal("primary crashed")
    g.write(30, beyond=1000)
    g.writer.ending = True
    g.kill(g.secondary)
    g.kill(g.primary)
    g.writer.join()
    g.writer = None
    g.start(g.secondary, "secondary")
    g.start(g.primary, "primary")
    g.content = bytearray(g.read(g.primary))
    g.until_state(g.primary, "protected")
    g.need_incremental("both crashed", SIZE)
    g.equal("both crashed")
    ok("crashes of the secondary, of the primary, of both: united with the hot regions, nothing is missed")


def there_and_back(g):
    """Fail over and back, unchanged and with writes on both sides; three failovers in a row."""
    old = g.fail_over()
    g.start(old, "secondary")
    g.until_state(g.primary, "protected")
    g.need_incremental("failover, unchanged", SIZE)
    g.equal("failover, unchanged")
    for i in range(3):
        g.write(20, beyond=200)
        g.writer.ending = True
        g.writer.join()
        g.ask(g.primary, "disconnect")  # what the old primary writes from here on is lost with it
        old = g.fail_over()
        g.write(20)
        g.pause()
        g.start(old, "secondary")
        g.until_state(g.primary, "protected")
        g.need_incremental("failover %d" % (i + 1), SIZE)
        g.equal("failover %d" % (i + 1))
    ok("fail over and back, unchanged and with writes, three in a row: the old primary rolls back what was not committed")


def staged(g, seed):
    """The secondary stays what it was until the resync commits: promoted in the middle it is exactly that."""
    rng = random.Random(seed)
    held = g.read(g.secondary)
    g.ask(g.primary, "disconnect")
    g.write(150)
    g.pause()
    with open(g.conf, encoding="ascii") as f:
        text = f.read()
    for where in ("secondary restarts", "primary restarts", "promoted"):
        # slow enough to be met in the middle
        with open(g.conf, "w", encoding="ascii") as f:
            f.write(text.replace("epoch-ms", "sync-rate = 256K\nepoch-ms"))
        g.end(g.primary)
        with open(g.conf, "w", encoding="ascii") as f:
            f.write(text.replace("epoch-ms", "sync-rate = 256K\nepoch-ms"))
        g.start(g.primary, "primary")
        until("the resync", lambda: (lambda s: s.get("sync") and s["sync"]["done"] > 0)(g.status(g.primary)))
        st = until("the resync, seen by the secondary", lambda: (lambda s: s if s.get("sync") else None)(g.status(g.secondary)))
        need(st["state"] == "standby", "the secondary of a staged sync is", st["state"])
        d = differ(g.read(g.secondary), held)
        need(not d, "during a staged sync the secondary's export is not its last state:", d)
        if where == "secondary restarts":
            g.kill(g.secondary)
            g.start(g.secondary, "secondary")
        elif where == "promoted":
            g.kill(g.primary)
            until("the link's end", lambda: not g.status(g.secondary)["link"]["connected"])
            g.ask(g.secondary, "promote")
            d = differ(g.read(g.secondary), held)
            need(not d, "promoted in the middle of a staged sync, it is not its last state:", d)
    with open(g.conf, "w", encoding="ascii") as f:
        f.write(text)
    old, g.primary = g.primary, g.secondary
    g.content = bytearray(held)
    g.write(20 + rng.randrange(20))
    g.pause()
    # what the old primary wrote alone would be lost: an operator says that it may be
    g.start(old, "secondary")
    until("split brain is reported", lambda: "split brain" in g.status(g.primary)["reason"])
    g.end(old)
    g.cli("resolve", "--keep", g.primary, "--yes", node=old)
    g.start(old, "secondary")
    g.ask(g.primary, "connect")
    g.until_state(g.primary, "protected")
    g.need_incremental("failover in the middle of a resync", SIZE)
    g.equal("failover in the middle of a resync")
    ok("a staged resync: interrupted at both ends, exported and promoted in the middle, the last state stays")


def metadata(g):
    """tandem meta; and what happens to maps that are missing, damaged, or of a newer version."""
    node, other = g.secondary, g.primary
    shown = g.cli("meta-show", node=other)
    need("generation" in shown and "hot regions" in shown, "meta show beside a running node:", shown)
    code, text = g.cli("meta-check", node=other, check=False)
    need(code == 9, "meta check of a running node exits with", code, text)
    g.end(node)
    need("is valid" in g.cli("meta-check", node=node), "meta check")
    path = g.path(node, "state", "vda.map")
    with open(path, "rb") as f:
        good = f.read()
    page = 4 * 4096  # both copies of the only page
    for what, spoil, code, kind in (
            ("missing", None, 6, "full"),
            ("a damaged header", lambda d: bytes(8) + d[8:4096] + bytes(8) + d[4104:], 6, "full"),
            ("a damaged page", lambda d: d[:page + 100] + b"xx" + d[page + 102:page + 4196] + b"xx" + d[page + 4198:],
             6, "incremental")):
        if spoil:
            with open(path, "wb") as f:
                f.write(spoil(good))
        else:
            os.unlink(path)
        got, text = g.cli("meta-check", node=node, check=False)
        need(got == code and "vda.map" in text, "meta check of", what, ":", got, text)
        g.start(node, "secondary")
        g.until_state(g.primary, "protected")
        need(g.syncs(g.primary)[-1][0] == kind, what, ": the sync was", g.syncs(g.primary)[-1])
        g.equal(what)
        g.end(node)
        with open(path, "rb") as f:
            good = f.read()
        need("0 of" in g.cli("meta-check", node=node), "the map is good again")
    newer = bytearray(good)
    for slot in (0, 4096):
        newer[slot + 12] = 9
        newer[slot + 4092:slot + 4096] = crc32c(bytes(newer[slot:slot + 4092])).to_bytes(4, "little")
    with open(path, "wb") as f:
        f.write(newer)
    code, text = g.cli("secondary", node=node, check=False)
    need(code != 0, "a map of a newer version is taken")
    with open(path, "wb") as f:
        f.write(good)
    g.start(node, "secondary")
    g.until_state(g.primary, "protected")
    g.equal("after all")
    ok("maps that are missing or damaged: a full sync, explained; of a newer version: refused; tandem meta tells")


def digests(build, seed):
    """Most of the hot regions of a crash are equal: by digests they are found to be, and the rest fits into a journal
    that all of them would not fit into; with guests writing meanwhile."""
    g = Pair(build, seed, "journal-size = 64M\nresync = digest\n")
    failed = True
    try:
        g.up()
        h = g.connect("alpha")
        for off in range(0, SIZE, MIB):
            data = random.Random(off + seed).randbytes(MIB)
            h.pwrite(data, off)
            g.content[off:off + MIB] = data
        h.shutdown()
        g.equal("filled")
        g.write(100, beyond=1000)
        g.writer.ending = True
        g.kill("alpha")
        g.writer.join()
        g.writer = None
        g.start("alpha", "primary")
        g.content = bytearray(g.read("alpha"))
        g.write(60, beyond=60)
        g.until_state("alpha", "protected")
        compared = re.findall(r"digests: (\d+) of (\d+) blocks", g.log("alpha"))
        need(compared and int(compared[-1][0]) > int(compared[-1][1]) / 2 > 500, "digests:", compared)
        g.need_incremental("compared", SIZE / 2)
        g.equal("compared")
        g.ask("alpha", "disconnect")
        g.write(30)
        g.pause()
        h = g.connect("alpha")
        h.pwrite(bytes(g.content[100 * MIB:104 * MIB]), 100 * MIB)  # what is there already
        h.shutdown()
        g.ask("alpha", "connect")
        g.until_state("alpha", "protected")
        compared = re.findall(r"digests: (\d+) of (\d+) blocks", g.log("alpha"))
        need(int(compared[-1][0]) >= 30, "what was written again is not found to be equal:", compared)
        g.equal("compared after a lost link")
        failed = False
    finally:
        g.close(failed)
    ok("digests: equal blocks of hot regions are not copied, with guests writing meanwhile; the rest fits")


def run(build, seed):
    digests(build, seed)
    g = Pair(build, seed)
    failed = True
    try:
        g.up()
        need(g.syncs("alpha")[-1][0] == "full", "the first sync is", g.syncs("alpha"))
        g.write(40)
        g.equal("first sync")
        ok("the first sync is a full one")
        lost_link(g)
        idle_link_loss(g)
        restarts(g)
        crashes(g)
        metadata(g)
        staged(g, seed)
        there_and_back(g)
        failed = False
    finally:
        g.close(failed)


main(run)
