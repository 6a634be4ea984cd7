#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Overlapping writes of many connections at the same time: one order for the stream, the local image and the secondary.

Rounds of requests that are all in flight at once and fall on the same few kilobytes of both disks; after each round a
cut.  The primary's disk there must be what the stream says at that cut, bit by bit: a pair of writes in the wrong order
shows where no third one covers it, so a round is short.  At the end, and a few times before, the secondary's export
must be equal as well.  The test counts what collided, and fails when that is too little to mean anything."""
import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile

import nbd

import oracle
from load import content
from node import Failure, Pair

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "decode"))

import recordings  # noqa: E402
from records import Violation  # noqa: E402

SIZES = [1 << 20, (1 << 20) - 512]
REGION = 24 << 10  # where all of it happens
CONNECTIONS = 8
PER_CONNECTION = 4
LONGEST = 12288


def requests(r, numbers):
    """One round: (connection, disk, kind, offset, length, number)."""
    made = []
    for c in range(CONNECTIONS):
        for _ in range(PER_CONNECTION):
            length = r.randint(1, LONGEST) if r.random() < 0.3 else r.randint(1, LONGEST // 512) * 512
            offset = r.randrange(0, REGION - length + 1)
            kind = r.choices(("write", "zero", "trim"), (8, 1, 1))[0]
            made.append((c, r.randrange(2), kind, offset, length, next(numbers)))
    r.shuffle(made)
    return made


def collisions(made):
    """Pairs that overlap, of different connections."""
    return sum(1 for a, b in itertools.combinations(made, 2)
               if a[0] != b[0] and a[1] == b[1] and a[3] < b[3] + b[4] and b[3] < a[3] + a[4])


def play(handles, made):
    """All of them in flight, then all answers."""
    waiting = []
    for c, disk, kind, offset, length, number in made:
        h = handles[c][disk]
        if kind == "write":
            waiting.append((h, h.aio_pwrite(nbd.Buffer.from_bytearray(content(number, offset, length)), offset)))
        elif kind == "zero":
            waiting.append((h, h.aio_zero(length, offset)))
        else:
            waiting.append((h, h.aio_trim(length, offset)))
    for h, cookie in waiting:
        while not h.aio_command_completed(cookie):
            h.poll(-1)


def run(pair, rounds, r):
    primary, secondary = pair.nodes
    for node in pair.nodes:
        node.init()
    secondary.start("secondary")
    images = primary.read_images()
    primary.start("primary")
    process = primary.process.pid
    pair.protect(primary)
    handles = [[primary.connect(d) for d in pair.disks] for _ in range(CONNECTIONS)]
    if not all(h.can_multi_conn() for pair_of in handles for h in pair_of):
        raise Failure("an export does not offer multi-conn")
    numbers = itertools.count(1)
    collided = 0
    wanted = {}
    with primary.control() as control:
        for n in range(rounds):
            made = requests(r, numbers)
            collided += collisions(made)
            play(handles, made)
            wait = "committed" if n % 20 == 19 or n == rounds - 1 else "none"
            epoch = control.execute("cut", wait=wait)["epoch"]
            wanted[epoch] = [bytes(handles[0][d].pread(REGION, 0)) for d in range(2)]
            if wait == "committed":
                oracle.compare("the secondary's export after round %d" % n, primary.read_disks(), secondary.read_disks())
    requested = rounds * CONNECTIONS * PER_CONNECTION
    if collided < requested:
        raise Failure("only %d collisions of %d requests" % (collided, requested))
    for per_connection in handles:
        for h in per_connection:
            h.shutdown()
    for node in (primary, secondary):
        node.stop()
    seen = set()

    def at_close(epoch, now):
        if epoch in wanted:
            seen.add(epoch)
            oracle.compare("primary, against the stream, at epoch %d" % epoch, [i[:REGION] for i in now], wanted[epoch])

    line = oracle.Line(images)
    for sent, _ in recordings.sessions(pair.records, primary.name, process):
        line.replay(recordings.read(sent), at_close)
    if seen != set(wanted):
        raise Failure("%d cuts are not in the stream" % len(set(wanted) - seen))
    oracle.compare("the secondary's files, against the stream", line.images, secondary.read_images())
    totals = recordings.check(pair.records, False)
    print("# %d requests of %d connections in %d rounds, %d collisions, %d cuts compared; %s" %
          (requested, CONNECTIONS, rounds, collided, len(seen), totals))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("build", help="build directory")
    parser.add_argument("--rounds", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--directory", default="/dev/shm", help="for all files (default /dev/shm)")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 31)
    print("1..1\n# seed %d" % seed, flush=True)
    directory = tempfile.mkdtemp(prefix="tandem-collide.", dir=args.directory)
    pair = Pair(os.path.join(directory, "pair"), os.path.join(directory, "logs"),
                os.path.realpath(os.path.join(args.build, "tandem")), SIZES)
    try:
        run(pair, args.rounds, random.Random(seed))
    except (Failure, Violation) as e:
        print("not ok 1 - %s\n# kept: %s" % (e, directory))
        return 1
    finally:
        pair.close()
    shutil.rmtree(directory)
    print("ok 1 - colliding writes have one order")
    return 0


if __name__ == "__main__":
    sys.exit(main())
