#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""SIGKILL at random moments of a secondary with ingest = nbd, while a client writes and a controller cuts, commits and
discards.  After each: the committed state is that of one cut, of the newest commit that was answered or of a later one;
before the first commit there is none.  At the end, a promotion, and SIGKILL of the promoted node.
usage: tests/scenario/ingest_kill.py BUILD_DIR [SEED]"""
import random
import threading
import time

import nbd

from group import MIB, Group, Refused, Writer, differ, main, nbd_errno, need, ok, until

SIZE = 20 * MIB
ROUNDS = 14


class Controller(threading.Thread):
    """Cuts, commits, discards, until the node is gone."""

    def __init__(self, g, w, seed, committed):
        super().__init__(daemon=True)
        self.g, self.w, self.rng = g, w, random.Random(seed)
        self.cuts = dict([committed])  # content by epoch: what may be the committed state after a crash
        self.answered = committed[0]
        self.commits = self.discards = 0
        self.error = None

    def step(self, c):
        choice = self.rng.randrange(10)
        if choice < 5:
            with self.w.lock:
                epoch = c.execute("cut")["epoch"]
                self.cuts[epoch] = bytes(self.w.content)
        elif choice < 9:
            sealed = [e for e in self.cuts if e > self.answered]
            if sealed:
                epoch = self.rng.choice(sealed)
                c.execute("commit", epoch=epoch)
                self.answered = epoch
                self.commits += 1
        elif self.answered:
            with self.w.lock:
                # The newest commit is answered: nothing is on its way that could still be committed.
                c.execute("discard")
                self.w.content[:] = self.cuts[self.answered]
                self.cuts = {self.answered: self.cuts[self.answered]}
                self.discards += 1
        time.sleep(self.rng.random() * 0.01)

    def run(self):
        try:
            with self.g.control("beta") as c:
                while True:
                    self.step(c)
        except (ConnectionError, OSError):
            pass  # the node was killed
        except Refused as e:
            self.error = e


def found(g, controller):
    """(epoch, content) of the committed state after a restart."""
    s = g.status("beta")
    if not controller.answered and s["state"] == "stopped":
        need(nbd_errno(g.connect, "beta", "vda@committed") != 0, "a committed state that nobody committed")
        return 0, None
    epoch = s["epoch"]["committed"]
    need(s["state"] == "standby" and epoch >= controller.answered, "after SIGKILL", s, "answered", controller.answered)
    need(epoch in controller.cuts, "epoch", epoch, "was never cut, or was discarded")
    content = g.read("beta", "vda@committed")
    where = differ(content, controller.cuts[epoch])
    need(not where, "the committed state is not that of cut", epoch, ":", where)
    return epoch, content


def run(build, seed):
    g = Group(build, "epoch-ms = 0\njournal-size = 64M\npeer-timeout-ms = 60000\n", size=SIZE,
              node_keys={"beta": "ingest = nbd\n"})
    rng, failed = random.Random(seed), True
    state, commits, discards, fills = (0, None), 0, 0, 0
    try:
        g.init("beta")
        for i in range(ROUNDS):
            g.start("beta", "secondary")
            if state[1] is None:
                fills += 1
                w = Writer(g.uri("beta"), SIZE, seed + i)
                w.nbd.zero(SIZE, 0)  # what an interrupted fill has left
                state = 0, bytes(SIZE)
            else:
                w = Writer(g.uri("beta"), SIZE, seed + i, state[1])
            w.allowed = 1 << 62
            c = Controller(g, w, seed + i, state)
            w.start()
            c.start()
            # the first rounds end early: in the fill, before and around the first commit
            end = time.monotonic() + rng.random() * (0.03 if i < 4 else 0.6)
            while time.monotonic() < end and not w.error and not c.error:
                time.sleep(0.002)
            need(not w.error and not c.error, "before SIGKILL:", w.error, c.error)
            g.kill("beta")
            c.join()
            w.stop()
            need(isinstance(w.error, (nbd.Error, type(None))) and not c.error, "after SIGKILL", w.error, c.error)
            commits, discards = commits + c.commits, discards + c.discards
            g.start("beta", "secondary")
            state = found(g, c)
            g.kill("beta")
        need(state[1] is not None, "no round had a commit")
        ok("%d times SIGKILL (%d fills, %d commits, %d discards): always one cut, never older than the newest answered" %
           (ROUNDS, fills, commits, discards))
        g.start("beta", "secondary")
        w = Writer(g.uri("beta"), SIZE, seed + 100, state[1])
        w.start()
        w.wait_writes(50, 0)
        g.ask("beta", "promote")
        until("the old client is refused", lambda: nbd_errno(w.nbd.pread, 512, 0) != 0)
        w.stop()
        w = Writer(g.uri("beta"), SIZE, seed + 101, state[1])
        w.start()
        w.wait_writes(100, 0)
        w.nbd.flush()
        content = bytes(w.content)
        w.stop()
        g.kill("beta")
        g.start("beta", "primary")
        need(not differ(g.read("beta"), content), "the promoted node after SIGKILL")
        ok("the promoted node has all that was flushed after SIGKILL")
        failed = False
    finally:
        g.close(failed)


main(run)
