#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read-only connections to a secondary: each shows one committed cut, from its first byte read to its last, while the
primary is written to, epochs commit, connections come and go, and through a promotion and the writes after it.
commit-policy = manual: nothing commits but by command; discard closes the link until connect.
usage: tests/scenario/committed_views.py BUILD_DIR [SEED]"""
import random
import threading

import nbd

from group import MIB, Group, Writer, differ, main, nbd_errno, need, ok, read_all, until

SIZE = 24 * MIB


class Reader(threading.Thread):
    """Reads all of its connection again and again, in another order each time: it must not change."""

    def __init__(self, handle, seed):
        super().__init__(daemon=True)
        self.nbd, self.rng = handle, random.Random(seed)
        self.first, self.error, self.rounds, self.ending = None, None, 0, False

    def run(self):
        try:
            while not self.ending:
                data = bytearray(SIZE)
                offsets = list(range(0, SIZE, MIB // 2))
                self.rng.shuffle(offsets)
                for off in offsets:
                    data[off:off + MIB // 2] = self.nbd.pread(MIB // 2, off)
                if self.first is None:
                    self.first = bytes(data)
                where = differ(bytes(data), self.first)
                need(not where, "a read-only connection has changed:", where)
                self.rounds += 1
        except Exception as e:  # pylint: disable=broad-except
            self.error = e

    def stop(self):
        self.ending = True
        self.join()
        need(not self.error, "a reader:", self.error)


class Cuts:
    """The content of every cut, to find the one that a connection shows."""

    def __init__(self):
        self.contents = {}

    def add(self, epoch, content):
        self.contents[epoch] = bytes(content)

    def which(self, content, where):
        found = [e for e, c in self.contents.items() if c == content]
        need(found, where, "shows no cut")
        return max(found)


def views(build, seed):
    g = Group(build, "epoch-ms = 0\njournal-size = 64M\nheartbeat-ms = 50\npeer-timeout-ms = 500\n", size=SIZE)
    rng, cuts, readers, failed = random.Random(seed), Cuts(), [], True
    try:
        g.init("alpha", "beta")
        g.start("beta", "secondary")
        g.start("alpha", "primary")
        g.until_state("alpha", "protected")
        w = Writer(g.uri("alpha"), SIZE, seed)
        cuts.add(0, w.content)
        w.start()

        def cut():
            with w.lock:
                epoch = g.ask("alpha", "cut")["epoch"]
                cuts.add(epoch, w.content)
            return epoch

        for i in range(40):
            w.wait_writes(rng.randrange(5, 60), 30)
            epoch = cut()
            until("epoch %d commits" % epoch, lambda: g.status("beta")["epoch"]["committed"] >= epoch)
            if i % 2 == 0:
                committed = g.status("beta")["epoch"]["committed"]
                export = rng.choice(("vda", "vda@committed"))
                need(nbd_errno(g.connect, "beta", "vdb") != 0, "a disk that there is not")
                r = Reader(g.connect("beta", export), seed + i)
                r.at_least = committed
                need(r.nbd.is_read_only(), "the export of a secondary can be written")
                r.start()
                readers.append(r)
            if len(readers) > 6:
                r = readers.pop(rng.randrange(len(readers)))
                until("a reader has read all twice", lambda: r.error or r.rounds >= 2)
                r.stop()
                shown = cuts.which(r.first, "a connection")
                need(shown >= r.at_least, "a connection shows epoch", shown, "when", r.at_least, "was committed")
                r.nbd.shutdown()
        ok("read-only connections that come and go under load: each shows one committed cut, not older than its begin")
        w.stop()
        need(not w.error, "writer", w.error)
        last = cut()
        g.ask("alpha", "cut", wait="committed")
        g.kill("alpha")
        g.ask("beta", "promote")
        content = cuts.contents[last]
        need(not differ(g.read("beta"), content), "the promoted disk")
        need(nbd_errno(g.connect, "beta", "vda@committed") != 0, "a promoted node has no secondary's committed state")
        w = Writer(g.uri("beta"), SIZE, seed + 1000, content)
        w.start()
        w.wait_writes(200, 0)
        before = [r.rounds for r in readers]
        until("the readers read all again", lambda: all(r.error or r.rounds >= n + 2 for r, n in zip(readers, before)))
        w.wait_writes(200, 0)
        w.stop()
        for r in readers:
            r.stop()
            cuts.which(r.first, "a connection that lived through the promotion")
            need(not differ(read_all(r.nbd), r.first), "at the end")
        need(not differ(g.read("beta"), bytes(w.content)), "the promoted disk after writes")
        ok("%d of them live through the promotion and the writes after it" % len(readers))
        failed = False
    finally:
        g.close(failed)


def manual(build, seed):
    g = Group(build, "epoch-ms = 0\ncommit-policy = manual\njournal-size = 64M\n", size=SIZE)
    rng, failed = random.Random(seed), True
    try:
        g.init("alpha", "beta")
        g.start("beta", "secondary")
        g.start("alpha", "primary")
        g.until_state("alpha", "protected")
        w = Writer(g.uri("alpha"), SIZE, seed)
        w.start()
        committed, sealed = (g.status("beta")["epoch"]["committed"], bytes(SIZE)), []
        for i in range(24):
            w.wait_writes(rng.randrange(5, 60), 10)
            with w.lock:
                epoch = g.ask("alpha", "cut")["epoch"]
                sealed.append((epoch, bytes(w.content)))
            until("epoch %d is there" % epoch, lambda: g.status("beta")["epoch"]["received"] >= epoch)
            need(g.status("beta")["epoch"]["committed"] == committed[0], "an epoch committed by itself")
            choice = rng.randrange(5)
            if choice == 0:  # the newest
                g.cli("commit", node="beta")
                committed, sealed = sealed[-1], []
            elif choice == 1:  # one of them
                k = rng.randrange(len(sealed))
                g.cli("commit", "--epoch", str(sealed[k][0]), node="beta")
                committed, sealed = sealed[k], sealed[k + 1:]
            elif choice == 2 and i > 5:
                answer = g.ask("beta", "discard")
                need(answer["committed"] == committed[0] and answer["epochs"] >= len(sealed), "discard", answer)
                until("the link is closed", lambda: g.status("alpha")["state"] == "solo")
                if rng.randrange(2):
                    g.kill("beta")
                    g.start("beta", "secondary")
                    need(not differ(g.read("beta"), committed[1]), "after discard and SIGKILL")
                need(not differ(g.read("beta"), committed[1]), "after discard")
                code, _ = g.cli("commit", "--epoch", str(epoch), node="beta", check=False)
                need(code == 4, "commit of a discarded epoch exits with", code)
                g.ask("beta", "connect")
                g.ask("alpha", "connect")
                until("the sync is over", lambda: synced(g))
                with w.lock:
                    epoch = g.ask("alpha", "cut")["epoch"]
                    content = bytes(w.content)
                until("the cut is there", lambda: g.status("beta")["epoch"]["received"] >= epoch)
                g.ask("beta", "commit", epoch=epoch)
                committed, sealed = (epoch, content), []
            need(not differ(g.read("beta"), committed[1]), "the committed state at step", i)
        w.stop()
        need(not w.error, "writer", w.error)
        ok("commit-policy = manual: by command, one epoch or several, and discards; nothing commits by itself")
        failed = False
    finally:
        g.close(failed)


def synced(g):
    """A sync that is staged is an epoch, and waits for the controller's word too; one in place does not."""
    epoch = g.status("beta")["epoch"]
    if epoch["received"] > epoch["committed"]:
        g.cli("commit", node="beta", check=False)
    return g.status("alpha")["state"] == "protected" and g.status("beta")["state"] == "standby"


def requests(build, seed):
    """Flags, sizes and refusals of a primary's export."""
    g = Group(build, size=SIZE)
    failed = True
    try:
        g.init("alpha")
        g.start("alpha", "primary")
        a, b = g.connect("alpha"), g.connect("alpha")
        need(a.can_multi_conn() and a.can_fua() and a.can_trim() and a.can_zero() and a.can_fast_zero() and
             not a.is_read_only(), "flags of a primary")
        need([a.get_block_size(i) for i in (nbd.SIZE_MINIMUM, nbd.SIZE_MAXIMUM)] == [1, 32 * MIB], "block sizes")
        a.pwrite(b"a" * 8192, 0)
        b.flush()  # of what the other connection wrote
        e = nbd_errno(b.zero, MIB, 0, nbd.CMD_FLAG_FAST_ZERO)
        need(b.pread(8192, 0) in ((bytes(8192), b"a" * 8192)[e != 0],), "a fast zero that answers", e)
        found = []
        a.pwrite(b"b" * 65536, MIB)
        b.trim(32768, MIB)
        need(a.pread(65536, MIB) == bytes(32768) + b"b" * 32768, "a trim reads as zeroes")
        b.block_status(SIZE, 0, lambda _m, _o, x, _r: found.extend(x) or 0)
        need(sum(found[0::2]) == SIZE and nbd.STATE_HOLE | nbd.STATE_ZERO in found[1::2], "extents", found)
        need(nbd_errno(a.pwrite, b"x" * 512, SIZE - 256) != 0, "a write beyond the end")
        ok("a primary's export: flags, block sizes, extents, trim, fast zero, flush across connections")
        failed = False
    finally:
        g.close(failed)


def run(build, seed):
    requests(build, seed)
    manual(build, seed)
    views(build, seed)


main(run)
