#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promotion by force takes the disks away from a primary that writes as fast as it can: it hears of it each time, though
much that it has sent is never read; over TLS, too.  One that stands still hears of it when it goes on, and the promoted node
says that nobody has confirmed.
usage: tests/scenario/forced.py BUILD_DIR [SEED]"""
import errno
import os
import random
import signal
import tempfile
import threading

import nbd

from group import MIB, SECONDS, Group, main, need, ok, until

SIZE = 8 * MIB
ROUNDS = 4
KEYS = "epoch-ms = 10\nheartbeat-ms = 50\npeer-timeout-ms = 2000\n"


class Flood(threading.Thread):
    """Writes without a pause until an error."""

    def __init__(self, g, seed):
        super().__init__(daemon=True)
        self.nbd = g.connect("alpha")
        self.rng = random.Random(seed)
        self.data = self.rng.randbytes(64 * 1024)
        self.error, self.count = None, 0

    def run(self):
        try:
            while True:
                self.nbd.pwrite(self.data, self.rng.randrange((SIZE - len(self.data)) // 4096) * 4096)
                self.count += 1
        except nbd.Error as e:
            self.error = e


class Pair(Group):
    """Protected, with a flood of writes."""

    def begin(self, rng):
        self.init("alpha", "beta")
        self.start("beta", "secondary")
        self.start("alpha", "primary")
        self.until_state("alpha", "protected")
        self.clients = [Flood(self, rng.random()) for _ in range(4)]
        for c in self.clients:
            c.start()
        until("writes", lambda: all(c.count > 40 for c in self.clients))

    def superseded(self):
        until("alpha to hear of the promotion", lambda: "was promoted (generation" in self.status("alpha")["reason"])
        for c in self.clients:
            c.join(SECONDS)
            need(c.error and c.error.errnum == errno.ESHUTDOWN, "a superseded primary answers a write with", c.error)
        need(self.status("beta")["role"] == "primary", "beta is not promoted")

    def confirmed(self):
        return "has not confirmed" not in self.log("beta")


def with_pair(build, rng, fn, more=""):
    g = Pair(build, keys=KEYS, size=SIZE, node_keys={"beta": more})
    failed = True
    try:
        g.begin(rng)
        fn(g)
        failed = False
    finally:
        g.close(failed)


def heard(g):
    g.cli("promote", "--force", node="beta")
    g.superseded()
    until("the journal's drain", lambda: "the journal is drained" in g.log("beta"))  # the link is closed before
    need(g.confirmed(), "beta does not take alpha's end of the link for a confirmation")


def frozen(g):
    g.procs["alpha"].send_signal(signal.SIGSTOP)
    try:
        g.cli("promote", "--force", node="beta")
        until("a warning", lambda: not g.confirmed())
    finally:
        g.procs["alpha"].send_signal(signal.SIGCONT)
    g.superseded()


def run(build, seed):
    rng = random.Random(seed)
    for _ in range(ROUNDS):
        with_pair(build, rng, heard)
    ok("a primary that writes hears of a promotion by force")
    with tempfile.TemporaryDirectory() as folder:
        psk = os.path.join(folder, "psk")
        with open(psk, "w", encoding="ascii") as f:
            f.write("tandem:%s\n" % rng.randbytes(32).hex())
        tls = "[security]\ntls-psk = %s\n" % psk
        for _ in range(ROUNDS):
            with_pair(build, rng, heard, tls)
        ok("over TLS, too")
        for more in ("", tls):
            with_pair(build, rng, frozen, more)
    ok("one that stands still hears of it when it goes on; nobody takes it for having confirmed")


main(run)
