# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clients of a primary: writes, zeroes, trims, flushes, FUA over several connections at the same time.

Every byte tells which write it is of: 512-byte sectors begin with the write's number and the sector's, the rest is a
pattern of prime period that the number shifts.  A `Walker` has a region on every disk to itself and one request in
flight, so what a crash leaves of its regions must be the state after some prefix of its log.  A `Collider` writes to a
region that all of them share, several requests at the same time."""
import random
import struct
import threading
import time

import nbd

PERIOD = 251
_TABLE = bytes(i * 7 % PERIOD for i in range(PERIOD)) * (((2 << 20) + 4 * PERIOD) // PERIOD)
SECTOR = 512

WRITE, ZERO, TRIM, FLUSH = "write", "zero", "trim", "flush"


def content(number, offset, length):
    """What write `number` puts at offset."""
    shift = (offset + number * 97) % PERIOD
    data = bytearray(_TABLE[shift:shift + length])
    first = (offset + SECTOR - 1) // SECTOR * SECTOR
    for at in range(first, offset + length - 15, SECTOR):
        struct.pack_into("<QQ", data, at - offset, number, at // SECTOR)
    return data


class Op:
    __slots__ = ("kind", "disk", "offset", "data", "fua", "issued", "completed", "failed")

    def __init__(self, kind, disk, offset=0, data=b"", fua=False):
        self.kind = kind
        self.disk = disk
        self.offset = offset
        self.data = data  # what it leaves in its range
        self.fua = fua
        self.issued = self.completed = None
        self.failed = False

    @property
    def change(self):
        return self.kind != FLUSH


class Client(threading.Thread):
    """Issues next_op() after next_op() until told to stop or the server is gone."""

    def __init__(self, load, name, seed):
        super().__init__(daemon=True)
        self.load = load
        self.random = random.Random(seed)
        self.log = []
        self.name = name
        self.error = None
        self.handles = [load.node.connect(d) for d in load.node.pair.disks]

    def number(self):
        return next(self.load.numbers)

    def change(self, disk, start, size, longest):
        """A random change in the region."""
        r = self.random
        length = r.randint(1, longest)
        if r.random() < 0.7:
            length = max(SECTOR, length // SECTOR * SECTOR)
            offset = start + r.randrange(0, (size - length) // SECTOR + 1) * SECTOR
        else:
            offset = start + r.randrange(0, size - length + 1)
        kind = r.choices((WRITE, ZERO, TRIM), (90, 5, 5))[0]
        data = bytes(content(self.number(), offset, length)) if kind == WRITE else bytes(length)
        return Op(kind, disk, offset, data, r.random() < 0.1)

    def issue(self, op):
        """Blocks until the answer."""
        h = self.handles[op.disk]
        flags = nbd.CMD_FLAG_FUA if op.fua else 0
        self.log.append(op)
        op.issued = time.monotonic()
        try:
            if op.kind == WRITE:
                h.pwrite(op.data, op.offset, flags)
            elif op.kind == ZERO:
                h.zero(len(op.data), op.offset, flags)
            elif op.kind == TRIM:
                h.trim(len(op.data), op.offset, flags)
            else:
                h.flush()
            op.completed = time.monotonic()
        except nbd.Error as e:
            op.failed = True
            self.error = e
            return False
        return True

    def run(self):
        pause = self.load.pause
        while not self.load.over:
            if not self.issue(self.next_op()):
                return
            if pause:
                self.load.stopped.wait(self.random.random() * pause)


class Walker(Client):
    """Alone in its regions, one request at a time: `region` is (start, size), on every disk."""

    LONGEST = 8192

    def __init__(self, load, name, seed, region):
        super().__init__(load, name, seed)
        self.region = region

    def next_op(self):
        disk = self.random.randrange(len(self.handles))
        if self.random.random() < 0.05:
            return Op(FLUSH, disk)
        return self.change(disk, *self.region, self.LONGEST)


class Collider(Client):
    """Writes where the others do."""

    def next_op(self):
        disk = self.random.randrange(len(self.handles))
        if self.random.random() < 0.02:
            return Op(FLUSH, disk)
        longest = 65536 if self.random.random() < 0.05 else 4096
        return self.change(disk, *self.load.shared, longest)


class Heavy(Client):
    """Long requests, which are several changes each."""

    def next_op(self):
        return self.change(self.random.randrange(len(self.handles)), *self.load.heavy, 1500 << 10)


class Cutter(threading.Thread):
    """Asks for cuts, and notes which are acknowledged."""

    def __init__(self, node, seed):
        super().__init__(daemon=True)
        self.control = node.control()
        self.random = random.Random(seed)
        self.over = threading.Event()
        self.cuts = []  # (time before it was asked for, epoch)
        self.error = None

    def run(self):
        while not self.over.is_set():
            asked = time.monotonic()
            try:
                answer = self.control.execute("cut", wait="committed", timeout_ms=5000)
            except Exception as e:  # the node, or its link, is gone: what is noted counts
                self.error = e
                return
            self.cuts.append((asked, answer["epoch"]))
            self.over.wait(self.random.random() * 0.03)


class Load:
    """The regions: from the end of a disk backwards one for the collisions, then one for the long requests; from its
    beginning those of the walkers."""

    REGION = 48 << 10

    def __init__(self, node, numbers, seed, walkers=4, colliders=3, heavy=True, pause=0.002, cutter=True):
        r = random.Random(seed)
        smallest = min(node.pair.sizes)
        self.node = node
        self.numbers = numbers  # an iterator
        self.pause = pause
        self.over = False
        self.stopped = threading.Event()
        self.shared = (smallest - (128 << 10), 128 << 10)
        self.heavy = (self.shared[0] - (1536 << 10), 1536 << 10)
        self.walkers = [Walker(self, "walker%d" % i, r.random(), (i * self.REGION, self.REGION))
                        for i in range(walkers)]
        assert walkers * self.REGION <= self.heavy[0]
        self.clients = self.walkers + [Collider(self, "collider%d" % i, r.random()) for i in range(colliders)]
        if heavy:
            self.clients.append(Heavy(self, "heavy", r.random()))
        self.cutter = Cutter(node, r.random()) if cutter else None

    def start(self):
        for c in self.clients:
            c.start()
        if self.cutter:
            self.cutter.start()

    def stop(self):
        """Ends when every client has its last answer, or has lost its server."""
        self.over = True
        self.stopped.set()
        if self.cutter:
            self.cutter.over.set()
            self.cutter.join()
        for c in self.clients:
            c.join()
            for h in c.handles:
                try:
                    h.shutdown()
                except nbd.Error:
                    pass

    @property
    def cuts(self):
        return self.cutter.cuts if self.cutter else []

    def count(self):
        return sum(len(c.log) for c in self.clients)
