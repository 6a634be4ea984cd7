#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes the corpus beside it, from the samples of tests/decode.  usage: make_corpus.py [DIRECTORY]

The files are committed; a test makes them again and compares."""
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "decode"))

import records  # noqa: E402
import samples  # noqa: E402
from samples import LIFE2, plain, write, zero  # noqa: E402

READY, MANUAL, EARLY, LATE, EVENTS, REPAIR, EPOCHS, EDGE = (1 << i for i in range(8))


GUEST_SEED = 1 << 47 | 1


def options(flags, staging=2, piece=3, seed=1, again=0):
    return struct.pack("<BB", flags, staging | piece << 4 | again << 7) + seed.to_bytes(6, "little")


def after_hello(items):
    """What follows the HELLO: the receive path begins there, with seq 1."""
    return samples.join(items[1:], 1)


def many_epochs(count, size):
    items = []
    for epoch in range(11, 11 + count):
        items += [write(epoch, epoch * 512 % 100000, size, seed=epoch),
                  zero(epoch, 0, 4096, volume=1, flags=2),
                  plain(records.SEAL, epoch=epoch, offset=2, length=size + 4096)]
    return samples.join(items, 1)


def large_record(length):
    """Zeroes but for the first bytes: large to receive, small in git."""
    data = b"large" + bytes(length - 5)
    return samples.join([(records.WRITE, dict(payload=data, epoch=11, offset=0, length=length)),
                         plain(records.SEAL, epoch=11, offset=1, length=length)], 1)


def journal_input(file, incarnation=None):
    out = bytes(file.bytes[4096:4096 + 88])
    for position, length in file.spots[:-1]:
        at = file.offset(position)
        out += bytes(file.bytes[at:at + length])
    return out


def files():
    stream = after_hello(samples.primary())
    yield "record/primary", samples.join(samples.primary())
    yield "record/secondary", samples.join(samples.secondary())
    yield "record/journal", b"".join(samples.join(i, 5) for i in samples.journal_items()[::2])
    for name, flags in (("empty", 0), ("ready", READY), ("manual", MANUAL), ("early", EARLY),
                        ("late", LATE), ("events", EVENTS | REPAIR | EPOCHS),
                        ("late-events", LATE | EVENTS | REPAIR | EPOCHS),
                        ("manual-late-events", MANUAL | LATE | EVENTS | REPAIR | EPOCHS),
                        ("early-late-events", EARLY | LATE | EVENTS | REPAIR | EPOCHS)):
        yield "replica/sync-" + name, options(flags) + stream
    for name, flags in (("plain", READY), ("manual", READY | MANUAL),
                        ("late", READY | LATE | REPAIR),
                        ("late-events", READY | LATE | EVENTS | REPAIR | EPOCHS),
                        ("manual-late-events",
                         READY | MANUAL | LATE | EVENTS | REPAIR | EPOCHS),
                        ("edge", READY | EDGE),
                        ("edge-late-events", READY | EDGE | LATE | EVENTS | REPAIR | EPOCHS)):
        yield "replica/epochs-" + name, options(flags, piece=4) + many_epochs(20, 700)
    guest = after_hello(samples.guest())
    yield "record/guest", samples.join(samples.guest())
    for name, flags in (("plain", 0), ("ready", READY), ("manual", READY | MANUAL),
                        ("late-events", LATE | EVENTS | REPAIR | EPOCHS),
                        ("ready-late-events", READY | LATE | EVENTS | REPAIR | EPOCHS),
                        ("manual-late-events",
                         READY | MANUAL | LATE | EVENTS | REPAIR | EPOCHS)):
        yield "replica/guest-" + name, options(flags, 0, 4, GUEST_SEED) + guest
        yield "replica/guest-twice-" + name, options(flags | REPAIR, 0, 5, GUEST_SEED) + \
            guest + samples.join(samples.guest()[1:-1], 30) * 3
    # Staged: there is a state all the time, so that it can be frozen.
    frozen = samples.guest()
    frozen[1] = plain(records.SYNC_BEGIN, epoch=11, offset=1, length=samples.SIZE)
    frozen.insert(13, plain(records.FREEZE, epoch=13))
    frozen.pop()  # no GOODBYE: it ends the session, and with it what is frozen
    for name, flags in (("plain", 0), ("manual", MANUAL), ("late-events", LATE | EVENTS | REPAIR | EPOCHS)):
        yield "replica/guest-frozen-" + name, options(READY | flags, 0, 4, GUEST_SEED) + after_hello(frozen)
    # One record that just fits into a chunk's room, and one that is split from its header.
    yield "replica/large", options(READY, piece=7) + large_record(1 << 18)
    yield "replica/large-late", options(READY | LATE | MANUAL | EVENTS, 0, 6) + \
        large_record(1 << 18)
    # Often enough that the journal wraps, and fills where the images are slow.
    wrap = large_record(150000)
    yield "wrap/plain", options(READY | REPAIR | EPOCHS, 6, 6, again=1) + wrap
    yield "wrap/late", options(READY | REPAIR | EPOCHS | LATE, 4, 5, again=1) + wrap
    yield "wrap/events", \
        options(READY | REPAIR | EPOCHS | LATE | EVENTS, 15, 6, again=1) + wrap
    yield "journal/sample", journal_input(samples.journal_file())
    file = samples.JournalFile()
    for epoch in (11, 12, 13):
        file.chunk([write(epoch, 0, 300, seed=epoch), zero(epoch, 4096, 1 << 20),
                    plain(records.SEAL, epoch=epoch, offset=2, length=300 + (1 << 20)),
                    plain(records.COMMIT, epoch=epoch, offset=2, length=2000000, seq=0)])
    file.chunk([write(14, 0, 5)], life=LIFE2)
    file.chunk([], life=LIFE2)
    yield "journal/epochs", journal_input(file)


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "corpus")
    for name, data in files():
        path = os.path.join(target, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


if __name__ == "__main__":
    main()
