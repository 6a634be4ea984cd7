#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""SIGKILL of either node or both, and link cuts at any byte, at random points under load; what is recovered is compared
with two oracles (oracle.py).

One chain of failovers per pair: who was promoted is the next primary, who was killed comes back as its secondary.
Pairs run one after the other until the wanted number of points is reached; two of these programs run beside each other
use both processors of a small machine.  Output in the manner of TAP: one line per pair, and a summary.

A failure keeps the pair's directory and names the seed that leads there (the order of threads may differ, the plan does
not)."""
import argparse
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

import oracle
from load import Load
from node import Failure, Pair, Refused

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "decode"))

import journal  # noqa: E402
import recordings  # noqa: E402
from records import Violation  # noqa: E402

POINTS_PER_PAIR = 12
SIZES = [3 << 20, (2 << 20) + 1536]


def sanitizer_env(args):
    """For nodes whose plugin is instrumented: nbdkit, which loads it, is not."""
    name = args.sanitizer
    if not name:
        return {}
    library = subprocess.run(["gcc", "-print-file-name=lib%s.so" % ("tsan" if name == "thread" else "asan")],
                             check=True, capture_output=True, text=True).stdout.strip()
    shim = os.path.realpath(os.path.join(args.build, "tests/crash/tandem-plain-strerror.so"))  # says why
    return {"LD_PRELOAD": "%s:%s" % (shim, os.path.realpath(library)),
            "TSAN_OPTIONS": "halt_on_error=0 second_deadlock_stack=1",
            "ASAN_OPTIONS": "detect_leaks=1 verify_asan_link_order=0",
            "UBSAN_OPTIONS": "print_stacktrace=1"}


def sanitizer_reports(node):
    """The first report in what the node said, or None."""
    with open(node.log, encoding="utf-8", errors="replace") as file:
        text = file.read()
    found = re.search(r"(WARNING: ThreadSanitizer|ERROR: (Address|Leak)Sanitizer|runtime error:)", text)
    return text[max(0, found.start() - 200):found.start() + 5000] if found else None


class Chain:
    def __init__(self, args, seed, directory, deck):
        self.random = random.Random(seed)
        self.deck = deck  # kinds of points
        r = self.random
        self.pair = Pair(directory, os.path.join(directory, "logs"), args.tandem, SIZES,
                         {"epoch-ms": r.choice((1, 5, 20, 50)), "threads": r.choice((4, 16))},
                         {**sanitizer_env(args), **r.choice(({}, {"TANDEM_JOURNAL": "written"}))})
        self.numbers = itertools.count(1)
        self.decoded = recordings.Totals()
        self.done = {}
        self.changes = self.kept = self.cuts = self.journals = 0
        self.primary, self.secondary = self.pair.nodes
        self.line = None

    def begin(self):
        r = self.random
        for node in self.pair.nodes:
            for path in node.images:  # both sides begin with data of their own
                with open(path, "r+b") as file:
                    for _ in range(3):
                        file.seek(r.randrange(0, 1 << 20))
                        file.write(r.randbytes(200000))
            node.init()
        self.secondary.start("secondary")
        images = self.primary.read_images()
        self.primary.start("primary")
        self.pair.protect(self.primary)
        self.serve(images)

    def serve(self, images):
        """self.primary serves, and began with these images."""
        self.line = oracle.Line(images)
        self.base = images
        self.process = self.primary.process.pid

    def crash_journal(self, node, acknowledged):
        """The journal as the crash left it, read by the independent decoder."""
        path = os.path.join(node.state, "journal")
        with open(path, "rb") as file:
            journal.Journal(memoryview(file.read()), crashed=True, committed=acknowledged or None).check()
        self.journals += 1

    def decode(self):
        """Every connection against docs/stream.md; the recordings are not needed any more."""
        recordings.check(self.pair.records, True, self.decoded, remove=True)

    def acknowledged(self):
        """The newest commit that crossed the link in the sessions of this primary."""
        newest = 0
        for _, heard in recordings.sessions(self.pair.records, self.primary.name, self.process):
            newest = max(newest, recordings.newest_commit(recordings.read(heard)))
        for said, _ in recordings.sessions(self.pair.records, self.secondary.name, self.secondary_pid):
            newest = max(newest, recordings.newest_commit(recordings.read(said)))
        return newest

    def replay(self, at_close):
        for i, sent in enumerate(recordings.sent(self.pair.records, self.primary.name, self.process)):
            self.line.replay(sent, at_close, learn=i > 0)

    def promote(self):
        return self.secondary.execute("promote")["epoch"]

    def verify(self, load, committed, acknowledged):
        """The promoted secondary against both oracles; committed None: at whichever epoch it says by its content."""
        if committed is not None and committed < acknowledged:
            raise Failure("recovered at epoch %d, %d was acknowledged" % (committed, acknowledged))
        have = self.secondary.read_disks()
        ends = []

        def at_close(epoch, images):
            if epoch == committed:
                oracle.compare("recovered at epoch %d" % committed, images, have)
                ends.append(epoch)
            elif committed is None and epoch >= acknowledged and images == have:
                ends.append(epoch)

        self.replay(at_close)
        if not ends:
            raise Failure("recovered at epoch %s (%d was acknowledged), which is the end of no epoch in the stream" %
                          (committed, acknowledged))
        present, made = oracle.check_walkers(load, self.base, have, acknowledged)
        self.kept += present
        self.changes += made
        self.cuts += len(load.cuts)
        return have

    def point(self):
        """One crash, its check, and the group protected again."""
        kind = next(self.deck)
        load = Load(self.primary, self.numbers, self.random.random(),
                    pause=self.random.choice((0, 0.001, 0.004)), heavy=self.random.random() < 0.5)
        self.secondary_pid = self.secondary.process.pid
        load.start()
        try:
            getattr(self, kind)(load)
        finally:
            load.stop()
        self.check_sanitizer()
        self.done[kind] = self.done.get(kind, 0) + 1

    def check_sanitizer(self):
        for node in self.pair.nodes:
            report = sanitizer_reports(node)
            if report:
                raise Failure("node %s: %s" % (node.name, report))

    def pause(self, longest=0.25):
        time.sleep(self.random.random() * longest)  # the random point itself

    # --- the kinds of points ---

    def kill_primary(self, load):
        self.pause()
        self.primary.kill()
        load.stop()
        self.take_over(load)

    def take_over(self, load):
        """The primary is dead, the secondary alive; it may still be reading what the primary had sent."""
        self.secondary.wait("without a link", lambda s: not s["link"]["connected"])
        acknowledged = self.acknowledged()
        committed = self.promote()
        self.swap(self.verify(load, committed, acknowledged), solo=False)

    def kill_secondary(self, load, recoveries=0):
        self.pause()
        self.secondary.kill()
        self.pause(0.02)  # solo, for a moment
        self.primary.kill()
        load.stop()
        self.recover(load, recoveries)

    def kill_both(self, load):
        self.pause()
        for node in self.random.sample(self.pair.nodes, 2):
            node.kill()
            self.pause(0.003)
        load.stop()
        self.recover(load, 0)

    def kill_recovery(self, load):
        """The secondary is killed again while it recovers."""
        self.kill_secondary(load, self.random.randint(1, 3))

    def recover(self, load, recoveries):
        """Both are dead."""
        acknowledged = self.acknowledged()
        self.crash_journal(self.secondary, acknowledged)
        for _ in range(recoveries):
            self.secondary.start("secondary", wait=False)
            self.pause(0.15)
            self.secondary.kill()
            self.crash_journal(self.secondary, acknowledged)
        self.secondary.start("secondary")
        status = self.secondary.status()
        if status["epoch"]["committed"] < acknowledged:
            raise Failure("replayed to epoch %d, %d was acknowledged" % (status["epoch"]["committed"], acknowledged))
        committed = self.promote()
        if committed != status["epoch"]["committed"]:
            raise Failure("promoted at epoch %d, but %d was replayed" % (committed, status["epoch"]["committed"]))
        self.swap(self.verify(load, committed, acknowledged), solo=True)

    def kill_promotion(self, load):
        """The secondary is killed while it is promoted; then it is one or the other."""
        self.pause()
        self.primary.kill()
        load.stop()
        self.secondary.wait("without a link", lambda s: not s["link"]["connected"])
        acknowledged = self.acknowledged()
        control = self.secondary.control()
        control.sock.sendall(b'{"execute": "promote"}\n')
        self.pause(0.03)
        self.secondary.kill()
        control.close()
        self.crash_journal(self.secondary, acknowledged)
        self.secondary.start("secondary")
        committed = None
        if self.secondary.status()["state"] == "standby":
            committed = self.promote()
        else:  # it was promoted already: as a secondary it holds nothing that counts
            self.secondary.kill()
            self.secondary.start("primary")
        self.swap(self.verify(load, committed, acknowledged), solo=False)

    def kill_promoted(self, load):
        """Who was promoted is written to at once, while its journal is not in the images yet, and killed: what is there is
        one instant, and nothing is lost that had completed before an answered flush (consistency.md 18: what came after it is
        committed ten times a second, until the journal is drained)."""
        self.pause()
        self.primary.kill()
        load.stop()
        self.secondary.wait("without a link", lambda s: not s["link"]["connected"])
        acknowledged = self.acknowledged()
        committed = self.promote()
        have = self.verify(load, committed, acknowledged)
        after = Load(self.secondary, self.numbers, self.random.random(), heavy=False, cutter=False)
        after.start()
        self.pause(0.15)
        self.secondary.kill()
        after.stop()
        self.secondary.start("primary")
        now = self.secondary.read_disks()
        oracle.check_walkers(after, have, now, 0, flushed=True)
        self.swap(now, solo=True)

    def cut_link(self, load):
        """The link breaks in the middle of something; the secondary is promoted while the primary runs solo."""
        self.pause(0.1)
        way = self.pair.proxy_to(self.secondary)
        direction = self.random.choices((way.TO_TARGET, way.FROM_TARGET), (4, 1))[0]
        count = self.random.randrange(0, (1 << 17) if direction == way.TO_TARGET else 512)
        before = way.cut_after(direction, count, self.random.random() < 0.5, True)
        if not way.wait_cut(before, 10):
            raise Failure("the link was not cut")
        self.secondary.wait("without a link", lambda s: not s["link"]["connected"])
        self.pause(0.03)
        load.stop()
        acknowledged = self.acknowledged()
        committed = self.promote()
        have = self.verify(load, committed, acknowledged)
        self.primary.kill()
        way.open()
        self.swap(have, solo=True)

    def cut_and_heal(self, load):
        """The link breaks a few times, also within the sync that follows; at the end both sides are equal."""
        way = self.pair.proxy_to(self.secondary)
        for _ in range(self.random.randint(1, 3)):
            self.pause(0.1)
            direction = self.random.choices((way.TO_TARGET, way.FROM_TARGET), (4, 1))[0]
            count = self.random.randrange(0, (1 << 21) if direction == way.TO_TARGET else 2048)
            before = way.cut_after(direction, count, self.random.random() < 0.5, False)
            self.primary.execute("connect")
            way.wait_cut(before, 0.3)
        if not load.cuts:
            self.pause(0.1)
        load.stop()
        way.cut_no_more()
        committed = self.cut_committed()
        status = self.secondary.status()
        if status["epoch"]["committed"] < committed:
            raise Failure("the cut of epoch %d was acknowledged, the secondary is at %d" %
                          (committed, status["epoch"]["committed"]))
        mine = self.primary.read_disks()
        oracle.compare("the secondary's export at a cut", mine, self.secondary.read_disks())
        ends = []

        def at_close(epoch, images):
            if epoch == committed:
                oracle.compare("the stream at a cut", mine, images)
                ends.append(epoch)

        self.replay(at_close)
        if not ends:
            raise Failure("epoch %d does not end in the stream" % committed)
        self.cuts += len(load.cuts)
        self.restart_primary(mine)

    def cut_committed(self):
        """The epoch of a cut on a link that nobody cuts any more; the node may not have noticed the last time yet."""
        self.pair.protect(self.primary)
        try:
            return self.primary.execute("cut", wait="committed")["epoch"]
        except Refused as refused:
            if "the link was lost" not in str(refused):
                raise
        self.pair.protect(self.primary)
        return self.primary.execute("cut", wait="committed")["epoch"]

    # --- between the points ---

    def restart_primary(self, images):
        self.primary.kill()
        self.decode()
        self.primary.start("primary")
        self.pair.protect(self.primary)
        self.serve(images)

    def swap(self, images, solo):
        """The promoted secondary goes on, the former primary becomes its secondary; solo: it may have written what the
        other does not know."""
        self.primary.kill()
        # Else an attempt to connect could become the session, with its recordings removed.
        self.secondary.execute("disconnect")
        self.decode()
        self.primary, self.secondary = self.secondary, self.primary
        if solo:
            self.secondary.init(force=True)
        self.secondary.start("secondary")
        self.pair.protect(self.primary)
        self.serve(images)

    def end(self):
        """Everything in order, and the recordings and the journal of an orderly end."""
        codes = self.primary.stop(), self.secondary.stop()
        self.check_sanitizer()
        if codes != (0, 0):
            raise Failure("at an orderly end the nodes exit with %d and %d" % codes)
        self.decode()
        with open(os.path.join(self.secondary.state, "journal"), "rb") as file:
            journal.Journal(memoryview(file.read())).check()
        self.journals += 1


# how often each comes
KINDS = {"kill_primary": 4, "kill_secondary": 4, "kill_both": 2, "kill_recovery": 2, "kill_promotion": 2,
         "kill_promoted": 2, "cut_link": 4, "cut_and_heal": 2}


def kinds(seed):
    """Each as often as KINDS says, in a random order: also a short run has most of them."""
    r = random.Random(seed)
    while True:
        cards = [k for k, n in KINDS.items() for _ in range(n)]
        r.shuffle(cards)
        yield from cards


def run_pair(args, seed, points, deck):
    directory = tempfile.mkdtemp(prefix="tandem-crash.", dir=args.directory)
    chain = None
    try:
        chain = Chain(args, seed, directory, deck)
        chain.begin()
        for _ in range(points):
            chain.point()
        chain.end()
    except BaseException:
        if chain:
            chain.pair.close()
            print("# points before: %s" % chain.done)
        print("# seed %d; kept: %s" % (seed, directory))
        for node in chain.pair.nodes if chain else ():
            print("# %s: %s" % (node.name, node.last_words().replace("\n", "\n#   ")))
        raise
    chain.pair.close()
    shutil.rmtree(directory)
    return chain


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("build", help="build directory")
    parser.add_argument("--points", type=int, default=100, help="crash points in all (default 100)")
    parser.add_argument("--seed", type=int, default=None, help="of the plan (default: random, and shown)")
    parser.add_argument("--only", choices=list(KINDS), action="append", help="only points of this kind")
    parser.add_argument("--sanitizer", choices=("address", "thread"), help="the build is instrumented with it")
    parser.add_argument("--directory", default="/dev/shm", help="for images, journals, recordings (default /dev/shm)")
    args = parser.parse_args()
    args.tandem = os.path.realpath(os.path.join(args.build, "tandem"))
    if args.only:
        for kind in KINDS:
            KINDS[kind] = 1 if kind in args.only else 0
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 31)
    print("# seed %d" % seed, flush=True)
    total, left, number, deck = {}, args.points, 0, kinds(seed)
    sums = [0] * 7
    began = time.monotonic()
    while left > 0:
        points = min(left, POINTS_PER_PAIR)
        number += 1
        try:
            chain = run_pair(args, seed + number - 1, points, deck)
        except (Failure, Violation, Refused) as e:
            print("not ok %d - %s" % (number, e))
            return 1
        print("ok %d - %d points" % (number, points), flush=True)
        for kind, n in chain.done.items():
            total[kind] = total.get(kind, 0) + n
        d = chain.decoded
        sums = [a + b for a, b in zip(sums, (chain.changes, chain.kept, chain.cuts, d.streams, d.records, d.bytes,
                                             chain.journals))]
        left -= points
    print("1..%d" % number)
    print("# %d points in %.0f s: %s" % (args.points, time.monotonic() - began,
                                         ", ".join("%d %s" % (n, k) for k, n in sorted(total.items()))))
    print("# %d changes of single writers, of which %d were recovered, %d acknowledged cuts; %d recordings of %d records, %d bytes, and "
          "%d journals decoded" % tuple(sums))
    return 0


if __name__ == "__main__":
    sys.exit(main())
