#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the oracles of the crash tests must notice, and what they must not take for an error."""
import os
import random
import sys
import unittest

import oracle
from load import FLUSH, Op, WRITE, content
from node import Failure
from power import Disk, Event, FLUSHED, FLUSHING, WRITE as LOG_WRITE, WRITTEN, check_flushed

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "decode"))

import samples  # noqa: E402
from records import SEAL, SYNC_BEGIN, SYNC_END  # noqa: E402
from records import WRITE as REC_WRITE, ZERO  # noqa: E402

REGION = 4096


class FakeWalker:
    def __init__(self, number):
        self.name = "walker%d" % number
        self.region = (number * REGION, REGION)
        self.log = []

    def write(self, number, disk, offset, issued, completed, fua=False):
        op = Op(WRITE, disk, self.region[0] + offset, bytes(content(number, self.region[0] + offset, 512)), fua)
        op.issued, op.completed = issued, completed
        self.log.append(op)
        return op


class FakeLoad:
    def __init__(self, walkers, cuts=()):
        self.walkers = self.clients = walkers
        self.cuts = list(cuts)


def state(ops):
    images = [bytearray(2 * REGION), bytearray(2 * REGION)]
    for op in ops:
        images[op.disk][op.offset:op.offset + 512] = op.data
    return images


class Walkers(unittest.TestCase):
    """Two clients, two disks; a1 and a2 one after the other, b1 after a1 and before a2 ended."""

    def setUp(self):
        a, b = FakeWalker(0), FakeWalker(1)
        self.a1 = a.write(1, 0, 0, 1, 2)
        self.a2 = a.write(2, 1, 512, 3, 6)
        self.b1 = b.write(3, 1, 0, 4, 5)
        self.load = FakeLoad([a, b])

    def check(self, ops, acknowledged=0):
        return oracle.check_walkers(self.load, state([]), state(ops), acknowledged)

    def test_every_legal_state(self):
        for ops in ([], [self.a1], [self.a1, self.a2], [self.a1, self.b1], [self.a1, self.a2, self.b1]):
            self.check(ops)

    def test_b_without_a(self):
        with self.assertRaisesRegex(Failure, "is missing, one that was issued"):
            self.check([self.b1])  # on another disk than a1

    def test_no_prefix(self):
        with self.assertRaisesRegex(Failure, "no prefix"):
            self.check([self.a2])
        torn = state([self.a1])
        torn[0][100] ^= 1
        with self.assertRaisesRegex(Failure, "no prefix"):
            oracle.check_walkers(self.load, state([]), torn, 0)

    def test_acknowledged_cut(self):
        self.load.cuts = [(2.5, 7), (9, 8)]
        self.check([self.a1], 7)
        with self.assertRaisesRegex(Failure, "the cut asked for"):
            self.check([], 7)
        self.check([], 6)  # epoch 7 is not acknowledged

    def test_flushed(self):
        def flush(issued, completed):
            op = Op(FLUSH, 0)
            op.issued, op.completed = issued, completed
            self.load.walkers[1].log.append(op)

        def check(ops):
            oracle.check_walkers(self.load, state([]), state(ops), 0, flushed=True)
        check([])
        flush(2.5, None)  # never answered
        check([])
        flush(2.5, 2.7)
        check([self.a1])
        with self.assertRaisesRegex(Failure, "the flush asked for"):
            check([])
        self.b1.fua = True  # issued at 4, when a2 is under way
        check([self.a1, self.b1])
        with self.assertRaisesRegex(Failure, "with FUA"):
            check([self.a1])

    def test_torn(self):
        walker = FakeWalker(0)
        walker.region = (0, 3 * REGION)
        first, last = Op(WRITE, 0, 100, b"a" * 512), Op(WRITE, 0, 3000, b"b" * 5000)
        first.issued, first.completed, last.issued = 1, 2, 3
        walker.log = [first, last]
        before, after = [bytearray(3 * REGION)], bytearray(3 * REGION)
        after[100:612] = first.data
        after[3000:4096] = last.data[:1096]

        def check(**more):
            oracle.check_walkers(FakeLoad([walker]), before, [after], 0, **more)
        check(flushed=True)
        with self.assertRaisesRegex(Failure, "no prefix"):
            check()
        last.completed = 4
        with self.assertRaisesRegex(Failure, "no prefix.* nearest to it is that after 1: 1096 bytes of disk 0 differ, from 3000 to 4095"):
            check(flushed=True)
        last.completed, after[3500] = None, 0
        with self.assertRaisesRegex(Failure, "no prefix"):
            check(flushed=True)
        after[3500], after[200] = last.data[0], 0  # of one that was answered
        with self.assertRaisesRegex(Failure, "no prefix"):
            check(flushed=True)

    def test_unanswered_may_be_there_or_not(self):
        self.a2.completed = None
        self.check([self.a1])
        self.check([self.a1, self.a2, self.b1])


class Stream(unittest.TestCase):
    def stream(self):
        return samples.join([
            samples.plain(SYNC_BEGIN, epoch=1, length=4096),
            samples.plain(REC_WRITE, epoch=1, flags=1, offset=0, length=8, payload=b"old data"),
            samples.plain(SYNC_END, epoch=1, offset=1, length=8),
            samples.plain(REC_WRITE, epoch=2, offset=4, length=4, payload=b"DATA"),
            samples.plain(ZERO, epoch=2, offset=0, length=2),
            samples.plain(SEAL, epoch=2, offset=2, length=6)])

    def test_images_at_each_end(self):
        line = oracle.Line([b"old data" + bytes(8)])
        seen = []
        line.replay(self.stream(), lambda epoch, images: seen.append((epoch, bytes(images[0]))))
        self.assertEqual(seen, [(1, b"old data" + bytes(8)), (2, b"\0\0d DATA" + bytes(8))])

    def test_sync_with_other_data(self):
        with self.assertRaisesRegex(Failure, "other data"):
            oracle.Line([b"old_data" + bytes(8)]).replay(self.stream(), lambda *_: None)
        oracle.Line([b"old_data" + bytes(8)]).replay(self.stream(), lambda *_: None, learn=True)


class Power(unittest.TestCase):
    """What may be left of two writes to one sector and one to the next."""

    def disk(self, flushed_before_second):
        d = Disk(bytes(1024))
        events = [Event(LOG_WRITE, 0, 1, 0, b"a" * 512, 0), Event(WRITTEN, 0, 1, 0, b"", 0)]
        flush = [Event(FLUSHING, 0, 9, 0, b"", 0), Event(FLUSHED, 0, 9, 0, b"", 0)]
        second = [Event(LOG_WRITE, 0, 2, 0, b"b" * 1024, 0), Event(WRITTEN, 0, 2, 0, b"", 0)]
        for e in events + (flush + second if flushed_before_second else second):
            d.take(e)
        return d

    def states(self, disk):
        r = random.Random(1)
        return {bytes(disk.survive(r, mode))[::512] for mode in ("kept", "lost", "torn", "some", "order")
                for _ in range(50)}

    def test_states(self):
        self.assertEqual(self.states(self.disk(False)), {b"\0\0", b"a\0", b"bb", b"b\0", b"\0b", b"ab"})
        self.assertEqual(self.states(self.disk(True)), {b"a\0", b"bb", b"b\0", b"ab"})

    def test_flush_that_has_not_ended_promises_nothing(self):
        d = Disk(bytes(512))
        d.take(Event(LOG_WRITE, 0, 1, 0, b"a" * 512, 0))
        d.take(Event(FLUSHING, 0, 2, 0, b"", 0))  # the write had not ended when it began
        d.take(Event(WRITTEN, 0, 1, 0, b"", 0))
        d.take(Event(FLUSHED, 0, 2, 0, b"", 0))
        self.assertIn(bytes(1), {bytes(d.survive(random.Random(1), "lost"))[:1]})

    def test_promise_of_flush_and_fua(self):
        w = FakeWalker(0)
        first = w.write(1, 0, 0, 1, 2)
        flush = Op(FLUSH, 0)
        flush.issued, flush.completed = 3, 4
        w.log.append(flush)
        second = w.write(2, 0, 0, 5, 6)
        fua = w.write(3, 0, 512, 7, 8, fua=True)
        self.assertEqual(check_flushed(w, state([first, fua]), 9), 2)
        check_flushed(w, state([first, second, fua]), 9)
        check_flushed(w, state([]), 3.5)  # before the flush was answered
        for ops in ([fua], [first]):
            with self.assertRaisesRegex(Failure, "since the last flush"):
                check_flushed(w, state(ops), 9)


if __name__ == "__main__":
    unittest.main()
