#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Power cuts of a node's storage: every write that was not made durable is kept, lost or torn.

A real node runs under load with storage_log.c loaded, which notes every write, flush and send in one order.  From the
log, states of its folder are made up that a power cut at some place could have left: what a flush covered is there; of
each sector (512 bytes) that was written since, the oldest content, the newest or one in between.  A real node is then
started on each.

Secondary (I1, I2, I7): it must come up at a committed epoch not older than the newest acknowledgement that had been
sent, with each disk bit by bit as the stream has it there.  Some of these recoveries are logged and cut again.
Primary (I5): each sector of a client's region must hold what was completed before the last flush, or with FUA, or
something that was written to it later.
Both at one moment (I3): started again in their roles they come together, and are equal at the next cut.

Output in the manner of TAP."""
import argparse
import hashlib
import itertools
import os
import random
import shutil
import struct
import sys
import tempfile
import time

import oracle
from load import FLUSH, Load
from node import Failure, Node, Pair, Refused

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "decode"))

import journal  # noqa: E402
import recordings  # noqa: E402
from crc32c import crc32c  # noqa: E402
from records import Violation  # noqa: E402

SECTOR = 512
SIZES = [3 << 20, (2 << 20) + 1536]
FILE, WRITE, WRITTEN, FLUSHING, FLUSHED, SIZE, SEND = range(1, 8)
HEAD = struct.Struct("<IIQQQQQ")


class Event:
    __slots__ = ("kind", "file", "id", "off", "data", "ns")

    def __init__(self, kind, file, number, off, data, ns):
        self.kind, self.file, self.id, self.off, self.data, self.ns = kind, file, number, off, data, ns


class Log:
    """The events, in order; files by their path below the node's folder."""

    def __init__(self, path, folder):
        self.names = {}
        self.events = []
        with open(path, "rb") as file:
            data = file.read()
        at = 0
        while at + HEAD.size <= len(data):
            kind, number, ident, off, length, follows, ns = HEAD.unpack_from(data, at)
            at += HEAD.size
            if at + follows > len(data):
                break
            body = data[at:at + follows]
            at += follows
            if kind == FILE:
                self.names[number] = os.path.relpath(body.decode(), folder)
                continue
            if kind == SIZE:
                body = length
            self.events.append(Event(kind, number, ident, off, body, ns))


class Disk:
    """One file: what is durable, and the writes that are not, in order."""

    def __init__(self, data):
        self.durable = bytearray(data)
        self.pending = []  # [event, written]
        self.flushes = {}  # id -> those writes that it covers

    def _apply(self, image, off, data):
        if off + len(data) > len(image):
            image.extend(bytes(off + len(data) - len(image)))
        image[off:off + len(data)] = data

    def take(self, e):
        if e.kind == WRITE:
            self.pending.append([e, False])
        elif e.kind == WRITTEN:
            for p in self.pending:
                if p[0].id == e.id:
                    p[1] = True
        elif e.kind == FLUSHING:
            self.flushes[e.id] = [p for p in self.pending if p[1]]
        elif e.kind == FLUSHED:
            # In order; a younger write of the same sector that is not covered may be lost.
            covered = self.flushes.pop(e.id)
            marks = {id(p) for p in covered}
            for p in self.pending:
                if id(p) in marks:
                    self._apply(self.durable, p[0].off, p[0].data)
            self.pending = [p for p in self.pending if id(p) not in marks]
        elif e.kind == SIZE:
            if e.data > len(self.durable):
                self.durable.extend(bytes(e.data - len(self.durable)))
            else:
                del self.durable[e.data:]

    def survive(self, r, mode):
        """What is there after a power cut; `mode` decides over each write that is not durable."""
        image = bytearray(self.durable)
        last = {}  # sector -> index of the newest write of it that was kept
        cut = r.randrange(len(self.pending) + 1)
        for i, (e, _) in enumerate(self.pending):
            first, end = e.off // SECTOR, -(-(e.off + len(e.data)) // SECTOR)
            if mode == "lost" or (mode == "order" and i > cut):
                continue
            if mode == "kept" or (mode == "order" and i < cut) or (mode == "some" and r.random() < 0.5):
                kept = range(first, end)
            elif mode == "some":
                continue
            elif mode == "order":  # the one at the place: torn
                kept = range(first, r.randrange(first, end + 1))
            else:  # torn
                kept = [s for s in range(first, end) if r.random() < 0.5]
            for s in kept:
                last[s] = i
        for i, (e, _) in enumerate(self.pending):
            end = e.off + len(e.data)
            if end > len(image):
                image.extend(bytes(end - len(image)))
            for s in range(e.off // SECTOR, -(-end // SECTOR)):
                if last.get(s, -1) >= i:
                    a, b = max(e.off, s * SECTOR), min(end, (s + 1) * SECTOR)
                    image[a:b] = e.data[a - e.off:b - e.off]
        return image


KINDS = ("both", "secondary", "secondary", "primary")
MODES = ("kept", "lost", "torn", "torn", "some", "order")


class Cuts:
    """Walks along a log; at chosen places states of the folder are written out."""

    def __init__(self, log, initial, acknowledged=0, secondary=True):
        self.log = log
        self.secondary = secondary
        self.disks = {number: Disk(initial.get(name, b"")) for number, name in log.names.items()}
        self.initial = initial
        self.sent = {}  # socket -> bytes that were not looked at yet
        self.acknowledged = acknowledged
        self.at = 0

    def go(self, place):
        while self.at < place:
            e = self.log.events[self.at]
            self.at += 1
            if e.kind == SEND:
                if self.secondary:
                    self._send(e)
            else:
                self.disks[e.file].take(e)

    def _send(self, e):
        data = self.sent.get(e.file, b"") + e.data
        at = 0
        for rec in recordings.walk(data, recordings.SECONDARY):
            at = rec.position + rec.size
            if rec.type == recordings.ACK_COMMITTED:
                self.acknowledged = max(self.acknowledged, rec.epoch)
        self.sent[e.file] = data[at:]

    def write_out(self, r, folder):
        modes = [r.choice(MODES)] * 64 if r.random() < 0.5 else [r.choice(MODES) for _ in range(64)]
        for name, data in self.initial.items():
            if name not in self.log.names.values():
                _write(os.path.join(folder, name), data)
        for number, disk in self.disks.items():
            _write(os.path.join(folder, self.log.names[number]), disk.survive(r, modes[number % 64]))


def _sealed(data):
    """A seal that does not name its image's inode: that of a cut is a copy, on the machine itself it would be the same file."""
    if len(data) != 4096 or struct.unpack_from("<I", data, 4092)[0] != crc32c(bytes(data[:4092])):
        return data
    unnamed = bytes(data[:32]) + bytes(32) + bytes(data[64:4092])
    return unnamed + struct.pack("<I", crc32c(unnamed))


def _write(path, data):
    """Sparse: most of a journal is zero."""
    if path.endswith(".seal"):
        data = _sealed(data)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    step, zero = 1 << 16, bytes(1 << 16)
    with open(path, "wb") as file:
        file.truncate(len(data))
        for at in range(0, len(data), step):
            piece = data[at:at + step]
            if piece != zero[:len(piece)]:
                os.pwrite(file.fileno(), piece, at)


def read_folder(folder):
    """Files that count: the images and what is in the state-dir."""
    found = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            relative = os.path.relpath(path, folder)
            if not relative.startswith("run") and name not in ("lock", "group.conf"):
                with open(path, "rb") as file:
                    found[relative] = file.read()
    return found


def places(r, log, count):
    """Where the power goes: anywhere, and around what was told to the peer and what was made durable."""
    n = len(log.events)
    marks = [i for i, e in enumerate(log.events) if e.kind in (SEND, FLUSHED, FLUSHING)]
    chosen = {r.randrange(n + 1) for _ in range(count // 2)}
    while len(chosen) < min(count, n) and marks:
        chosen.add(min(n, max(0, r.choice(marks) + r.randint(-1, 2))))
    return sorted(chosen)


class Run:
    """One logged run of a pair, and the cuts of it."""

    def __init__(self, args, seed, directory):
        self.args = args
        self.random = random.Random(seed)
        self.directory = directory
        self.preload = os.path.realpath(os.path.join(args.build, "tests/crash/tandem-storage-log.so"))
        self.pair = Pair(os.path.join(directory, "pair"), os.path.join(directory, "logs"), args.tandem, SIZES,
                         {"epoch-ms": self.random.choice((2, 10, 30))})
        self.primary, self.secondary = self.pair.nodes
        self.serial = itertools.count(1)
        self.refused = self.recovered = self.again = 0
        self.wanted = {}  # epoch -> [(hash of the disks, description)]
        self.journals = 0

    def log_env(self, node, name):
        path = os.path.join(self.directory, name)
        return {"LD_PRELOAD": self.preload, "TANDEM_STORAGE_LOG": path, "TANDEM_JOURNAL": "written",
                "TANDEM_STORAGE_DIR": os.path.realpath(node.dir)}, path

    def scratch(self):
        """A node like the secondary, in a folder of its own."""
        number = next(self.serial)
        node = Node(self.pair, self.secondary.name, [])
        node.dir = os.path.join(self.directory, "cut%d" % number)
        node.state, node.run = os.path.join(node.dir, "state"), os.path.join(node.dir, "run")
        node.conf = os.path.join(node.dir, "group.conf")
        node.log = os.path.join(self.directory, "logs", "cut%d.log" % number)
        node.images = [os.path.join(node.dir, os.path.basename(p)) for p in self.secondary.images]
        node.backings = node.images
        os.makedirs(node.dir)
        return node

    def write_conf(self, node):
        with open(self.secondary.conf, encoding="ascii") as file:
            text = file.read()
        with open(node.conf, "w", encoding="ascii") as file:
            file.write(text.replace(self.secondary.dir + "/", node.dir + "/"))

    def recover(self, cuts, r, what, again):
        """One power cut of the secondary: a node on what is left.  Returns nothing; failures are raised."""
        node = self.scratch()
        cuts.write_out(r, node.dir)
        self.write_conf(node)
        try:
            if os.path.exists(os.path.join(node.state, "journal")):
                with open(os.path.join(node.state, "journal"), "rb") as file:
                    journal.Journal(memoryview(file.read()), crashed=True,
                                    committed=cuts.acknowledged if not self.in_place(cuts) else None).check()
                self.journals += 1
            if again:
                self.recover_twice(cuts, r, what, node)
            node.start("secondary")
            status = node.status()
            if status["state"] != "standby":
                self.refuse(cuts, what, status)
                return
            committed = node.execute("promote")["epoch"]
            if committed < cuts.acknowledged:
                raise Failure("%s: recovered at epoch %d, %d was acknowledged" % (what, committed, cuts.acknowledged))
            have = node.read_disks()
            self.recovered += 1
            self.wanted.setdefault(committed, []).append((_digest(have), what))
        except (Failure, Violation, Refused) as e:
            raise Failure("%s (folder %s): %s" % (what, node.dir, e)) from None
        finally:
            node.kill()
        shutil.rmtree(node.dir)

    def recover_twice(self, cuts, r, what, node):
        """The recovery itself loses its power at some place."""
        initial = read_folder(node.dir)
        env, path = self.log_env(node, "again%d.log" % next(self.serial))
        node.start("secondary", env)
        try:
            status = node.status()
            if status["state"] == "standby":
                node.execute("promote")  # everything is in the images then
        finally:
            node.kill()
        log = Log(path, os.path.realpath(node.dir))
        os.unlink(path)
        inner = Cuts(log, initial, cuts.acknowledged)
        if status["state"] == "standby":
            # up to the promotion's own metadata: from there on it is no secondary any more
            meta = [i for i, e in enumerate(log.events) if e.kind == WRITE and log.names[e.file].endswith("group.meta")]
            inner.go(r.randrange(min(meta, default=len(log.events)) + 1))
        else:
            inner.go(r.randrange(len(log.events) + 1))
        shutil.rmtree(node.dir)
        os.makedirs(node.dir)
        inner.write_out(r, node.dir)
        self.write_conf(node)
        self.again += 1

    def in_place(self, cuts):
        """Whether a full sync in place may have been under way: then there is nothing to promote."""
        return cuts.in_place

    def refuse(self, cuts, what, status):
        if not self.in_place(cuts):
            raise Failure("%s: it is %s (%s), epoch %d was acknowledged" %
                          (what, status["state"], status["reason"], cuts.acknowledged))
        self.refused += 1

    def check_wanted(self, sessions):
        """Each recovered state must be the stream's at that epoch."""
        line = oracle.Line(self.images)
        found = set()

        def at_close(epoch, images):
            if epoch in self.wanted:
                found.add(epoch)
                digest = _digest(images)
                for have, what in self.wanted[epoch]:
                    if have != digest:
                        raise Failure("%s: recovered at epoch %d with other content than the stream's" % (what, epoch))

        for i, sent in enumerate(sessions):
            line.replay(sent, at_close, learn=i > 0)
        missing = set(self.wanted) - found
        if missing:
            raise Failure("%s: recovered at epoch %d, which ends in no stream" %
                          (self.wanted[min(missing)][0][1], min(missing)))

    def secondary_run(self):
        r = self.random
        for node in self.pair.nodes:
            node.init()
        for path in self.primary.images:
            with open(path, "r+b") as file:
                file.seek(r.randrange(0, 1 << 20))
                file.write(r.randbytes(300000))
        initial = read_folder(self.secondary.dir)
        env, path = self.log_env(self.secondary, "storage.log")
        self.secondary.start("secondary", env)
        self.images = self.primary.read_images()
        self.primary.start("primary")
        process = self.primary.process.pid
        self.pair.protect(self.primary)
        load = Load(self.primary, itertools.count(1), r.random(), pause=0.001, heavy=r.random() < 0.5)
        load.start()
        time.sleep(self.args.seconds)
        if r.random() < 0.5:  # a second session, with its sync
            self.pair.proxy_to(self.secondary).shut_now()
            self.pair.proxy_to(self.secondary).open()
            self.pair.protect(self.primary)
            time.sleep(self.args.seconds / 2)
        load.stop()
        self.secondary.kill()
        self.primary.kill()
        log = Log(path, os.path.realpath(self.secondary.dir))
        os.unlink(path)
        sessions = list(recordings.sent(self.pair.records, self.primary.name, process))
        cuts = Cuts(log, initial)
        syncs = sync_times(log)
        chosen = places(r, log, self.args.cuts)
        for i, place in enumerate(chosen):
            cuts.go(place)
            cuts.in_place = any(a <= place <= b for a, b in syncs)
            self.recover(cuts, r, "power cut at event %d of %d" % (place, len(log.events)), i % 4 == 3)
        self.check_wanted(sessions)
        recordings.check(self.pair.records, True)
        return log

    def primary_run(self):
        """I5 on the primary's own disks."""
        r = self.random
        for node in self.pair.nodes:
            node.init()
        initial = read_folder(self.primary.dir)
        env, path = self.log_env(self.primary, "storage.log")
        self.secondary.start("secondary")
        self.primary.start("primary", env)
        self.pair.protect(self.primary)
        load = Load(self.primary, itertools.count(1), r.random(), pause=0.001, heavy=False)
        load.start()
        time.sleep(self.args.seconds)
        load.stop()
        self.primary.kill()
        self.secondary.kill()
        log = Log(path, os.path.realpath(self.primary.dir))
        os.unlink(path)
        cuts = Cuts(log, initial, secondary=False)
        names = [os.path.basename(p) for p in self.primary.images]
        flushes = 0
        for place in places(r, log, self.args.cuts):
            cuts.go(place)
            when = log.events[place].ns / 1e9 if place < len(log.events) else time.monotonic()
            for _ in range(4):
                mode = r.choice(MODES)
                images = [None] * len(names)
                for number, disk in cuts.disks.items():
                    if log.names[number] in names:
                        images[names.index(log.names[number])] = disk.survive(r, mode)
                for walker in load.walkers:
                    flushes += check_flushed(walker, images, when)
                self.recovered += 1
        if not flushes:
            raise Failure("no flush had completed at any place")
        self.flushed = flushes
        return log


    def both_run(self):
        """Both nodes lose their power at one moment; then the group is brought together again (I3)."""
        r = self.random
        logs = {}
        initial = {}
        for node in self.pair.nodes:
            node.init()
            initial[node] = read_folder(node.dir)
        for node, role in ((self.secondary, "secondary"), (self.primary, "primary")):
            env, logs[node] = self.log_env(node, node.name + "-storage.log")
            node.start(role, env)
        self.pair.protect(self.primary)
        load = Load(self.primary, itertools.count(1), r.random(), pause=0.001, heavy=r.random() < 0.5)
        load.start()
        time.sleep(self.args.seconds)
        self.pair.proxy_to(self.secondary).shut_now()
        time.sleep(self.args.seconds * r.random() / 2)  # solo
        self.pair.proxy_to(self.secondary).open()
        self.pair.protect(self.primary)
        time.sleep(self.args.seconds / 2)
        load.stop()
        for node in self.pair.nodes:
            node.kill()
        cuts = {}
        for node in self.pair.nodes:
            log = Log(logs[node], os.path.realpath(node.dir))
            os.unlink(logs[node])
            cuts[node] = Cuts(log, initial[node], secondary=False)
        mine = cuts[self.primary].log
        self.partial = 0
        for place in places(r, mine, max(2, self.args.cuts // 3)):
            when = mine.events[min(place, len(mine.events) - 1)].ns
            cuts[self.primary].go(place)
            theirs = cuts[self.secondary].log.events
            cuts[self.secondary].go(next((i for i, e in enumerate(theirs) if e.ns > when), len(theirs)))
            self.meet_again(cuts, r, "power cut of both at event %d of %d of the primary" % (place, len(mine.events)))
        return mine

    def meet_again(self, cuts, r, what):
        number = next(self.serial)
        directory = os.path.join(self.directory, "both%d" % number)
        pair = Pair(directory, os.path.join(self.directory, "logs", "both%d" % number), self.args.tandem, SIZES,
                    self.pair.group)
        for old, new in zip(self.pair.nodes, pair.nodes):
            cuts[old].write_out(r, new.dir)
            pair.write_conf(new)
        primary, secondary = pair.nodes
        try:
            secondary.start("secondary")
            primary.start("primary")
            pair.protect(primary)
            primary.execute("cut", wait="committed")
            oracle.compare("the secondary", primary.read_disks(), secondary.read_disks())
            self.recovered += 1
            with open(primary.log, encoding="utf-8", errors="replace") as file:
                self.partial += "what has changed since" in file.read()
        except (Failure, Refused) as e:
            raise Failure("%s (folder %s): %s" % (what, directory, e)) from None
        finally:
            pair.close()
        shutil.rmtree(directory)


def check_flushed(walker, images, when):
    """I5 for one client's regions, if the power went at `when`.  Returns how many sectors had a promise to keep."""
    start, size = walker.region
    promised = 0
    for disk, image in enumerate(images):
        ops = [op for op in walker.log if op.disk == disk and op.issued < when]
        flushed = max((op.issued for op in ops if op.kind == FLUSH and op.completed and op.completed < when), default=0)
        states = {}  # sector -> [contents that it may have], the first being promised
        current = bytearray(size)
        for op in ops:
            if not op.change:
                continue
            at = op.offset - start
            current[at:at + len(op.data)] = op.data
            durable = op.completed and (op.completed < flushed or (op.fua and op.completed < when))
            for s in range(at // SECTOR, -(-(at + len(op.data)) // SECTOR)):
                content = bytes(current[s * SECTOR:(s + 1) * SECTOR])
                if durable:
                    states[s] = [True, content]
                else:
                    states.setdefault(s, [False, bytes(SECTOR)]).append(content)
        for s, (promise, *allowed) in states.items():
            promised += promise
            a = start + s * SECTOR
            have = bytes(image[a:a + SECTOR])
            if have not in [c[:len(have)] for c in allowed]:
                raise Failure("%s: sector %d of disk %d holds nothing that was written to it since the last flush" %
                              (walker.name, a // SECTOR, disk))
    return promised


def sync_times(log):
    """Places between which the secondary notes that it holds no committed state: by its metadata (docs/metadata.md)."""
    found, begin = [], 0
    for i, e in enumerate(log.events):
        if e.kind == WRITE and log.names[e.file].endswith("group.meta"):
            consistent = struct.unpack_from("<I", e.data, 84)[0] & 1
            if not consistent and begin is None:
                begin = i
            elif consistent and begin is not None:
                begin_at, begin = begin, None
                # durable only with its flush
                end = next((j for j in range(i, len(log.events)) if log.events[j].kind == FLUSHED and
                            log.events[j].file == e.file), len(log.events))
                found.append((begin_at, end))
    if begin is not None:
        found.append((begin, len(log.events)))
    return found


def _digest(images):
    return b"".join(hashlib.blake2b(i, digest_size=16).digest() for i in images)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("build", help="build directory")
    parser.add_argument("--runs", type=int, default=4, help="logged runs (default 4: two of the secondary, one of "
                        "the primary, one of both)")
    parser.add_argument("--cuts", type=int, default=40, help="power cuts of each (default 40)")
    parser.add_argument("--seconds", type=float, default=0.4, help="of load in each (default 0.4)")
    parser.add_argument("--seed", type=int, default=None, help="of the plan (default: random, and shown)")
    parser.add_argument("--directory", default="/dev/shm", help="for all files (default /dev/shm)")
    args = parser.parse_args()
    args.tandem = os.path.realpath(os.path.join(args.build, "tandem"))
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 31)
    print("# seed %d" % seed, flush=True)
    for number in range(1, args.runs + 1):
        directory = tempfile.mkdtemp(prefix="tandem-power.", dir=args.directory)
        run = Run(args, seed + number - 1, directory)
        kind = KINDS[number % len(KINDS)]
        try:
            log = getattr(run, kind + "_run")()
        except (Failure, Violation, Refused) as e:
            print("not ok %d - %s" % (number, e))
            print("# seed %d; kept: %s" % (seed + number - 1, directory))
            return 1
        finally:
            run.pair.close()
        shutil.rmtree(directory)
        kinds = [sum(e.kind == k for e in log.events) for k in (WRITE, FLUSHED, SEND)]
        if kind == "both":
            print("ok %d - both: %d times equal again, after a sync of what may differ %d times (log: %d writes, %d "
                  "flushes, %d sends)" % ((number, run.recovered, run.partial) + tuple(kinds)), flush=True)
        elif kind == "primary":
            print("ok %d - primary: %d states, %d promised sectors (log: %d writes, %d flushes, %d sends)" %
                  ((number, run.recovered, run.flushed) + tuple(kinds)), flush=True)
        else:
            print("ok %d - secondary: %d recoveries at %d epochs, %d of them cut again, %d within a sync; %d journals "
                  "decoded (log: %d writes, %d flushes, %d sends)" %
                  ((number, run.recovered, len(run.wanted), run.again, run.refused, run.journals) + tuple(kinds)),
                  flush=True)
    print("1..%d" % args.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
