#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stream decoder: good samples pass, and each single thing that is wrong is refused by name."""
import struct
import unittest

import memory
import records
import samples
import stream
from crc32c import crc32c
from records import (ACK_COMMITTED, ACK_RECEIVED, COMMIT, GOODBYE, HEARTBEAT, HELLO, MAP_END,
                     OPTIONAL, SEAL, SYNC_BEGIN, SYNC_END, Violation)
from samples import GUEST, SIZE, hello_payload, plain, write, zero

# Index of the items of samples.primary() and samples.secondary() that the tables below spoil.
P = dict(hello=0, begin=1, sync_write=2, sync_zero=3, guest_write=4, sync_end=6, write=7, zero=8,
         heartbeat=9, seal12=10, seal13=11, write14=12, unknown=14, seal14=16, goodbye=17)
S = dict(hello=0, map=1, map_end=2, synced=3, received1=4, committed1=5, checked=7, received2=8,
         committed2=9, goodbye=13)


class Base(unittest.TestCase):
    def refuse(self, data, reason, **options):
        with self.assertRaises(Violation, msg=reason) as caught:
            stream.check(data, **options)
        self.assertIn(reason, caught.exception.reason)
        return caught.exception


class Good(Base):
    def test_crc(self):
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)
        self.assertEqual(crc32c(b""), 0)
        self.assertEqual(crc32c(bytes(32)), 0x8A9136AA)  # RFC 3720, B.4
        self.assertEqual(crc32c(b"\xff" * 32), 0x62A8AB43)

    def test_pair(self):
        p = stream.check(samples.join(samples.primary()))
        s = stream.check(samples.join(samples.secondary()))
        self.assertEqual((p.count, s.count), (18, 14))
        stream.check_pair(p, s)

    def test_cut_anywhere(self):
        data = samples.join(samples.primary())
        for n in list(range(1, 700)) + list(range(700, len(data), 97)):
            try:
                stream.check(data[:n])
            except records.Cut:
                stream.check(data[:n], cut=True)

    def test_refusing_secondary(self):
        done = stream.check(samples.join([plain(GOODBYE, payload=b"no", offset=2)]))
        self.assertTrue(done.ended)

    def test_largest(self):
        items = samples.primary()[:P["write"]] + [
            write(12, 0, SIZE), plain(SEAL, epoch=12, offset=1, length=SIZE)]
        stream.check(samples.join(items))


class Bits(Base):
    def test_any_byte(self):
        """One bit of every byte flipped, a different one each: always refused."""
        for data in (samples.join(samples.primary()), samples.join(samples.secondary())):
            for at in range(len(data)):
                spoilt = bytearray(data)
                spoilt[at] ^= 1 << (at * 5 + at // 8) % 8
                with self.assertRaises(Violation, msg="byte %d" % at):
                    stream.check(bytes(spoilt))

    def test_any_bit_of_headers(self):
        data = samples.join(samples.secondary()[:2])
        at = len(data) - 64
        for bit in range(512):
            spoilt = bytearray(data)
            spoilt[at + bit // 8] ^= 1 << bit % 8
            with self.assertRaises(Violation, msg="bit %d" % bit):
                stream.check(bytes(spoilt))


# (index, fields of the record that change, reason); CRCs are right unless they are what changes.
PRIMARY_FIELDS = [
    ("heartbeat", dict(magic=0x43524455), "magic"),
    ("heartbeat", dict(header_crc=1), "header CRC"),
    ("heartbeat", dict(reserved=1 << 63), "reserved field"),
    ("heartbeat", dict(kind=99), "unknown mandatory type 99"),
    ("heartbeat", dict(kind=0), "unknown mandatory type 0"),
    ("heartbeat", dict(kind=COMMIT, epoch=12), "COMMIT does not come from the primary"),
    ("heartbeat", dict(kind=ACK_RECEIVED), "ACK_RECEIVED does not come from the primary"),
    ("heartbeat", dict(kind=ACK_COMMITTED, epoch=12), "does not come from the primary"),
    ("heartbeat", dict(flags=1), "unknown flags"),
    ("heartbeat", dict(volume=1), "HEARTBEAT has no volume"),
    ("heartbeat", dict(epoch=12), "HEARTBEAT has no epoch"),
    ("heartbeat", dict(offset=1), "HEARTBEAT has no offset"),
    ("heartbeat", dict(length=1), "HEARTBEAT has no length"),
    ("heartbeat", dict(payload=b"x"), "payload of 1 bytes in a HEARTBEAT"),
    ("heartbeat", dict(payload_crc=1), "payload CRC"),
    ("heartbeat", dict(seq=0), "seq 0, expected 9"),
    ("heartbeat", dict(seq=10), "seq 10, expected 9"),
    ("write", dict(payload_crc=1), "payload CRC"),
    ("write", dict(padding=b"\0\0\0\0\0\0\1"), "padding is not zero"),
    ("write", dict(padding=b""), "padding is not zero"),
    ("write", dict(flags=4), "unknown flags"),
    ("write", dict(flags=2), "unknown flags"),
    ("write", dict(flags=1), "data of a sync outside of one"),
    ("write", dict(epoch=0), "WRITE without an epoch"),
    ("write", dict(epoch=11), "epoch 11 is closed"),
    ("write", dict(epoch=10), "epoch 10 is closed"),
    ("write", dict(volume=64), "volume 64"),
    ("write", dict(volume=2), "no volume 2"),
    ("write", dict(length=1000), "WRITE of length 1000 with 1001 bytes"),
    ("write", dict(length=0), "length 0"),
    ("write", dict(payload=b"", length=0), "length 0"),
    ("write", dict(payload_len=(1 << 20) + 1), "payload of 1048577 bytes"),
    ("write", dict(offset=SIZE - 1000), "beyond the end"),
    ("write", dict(offset=(1 << 62) + 1), "offset"),
    ("zero", dict(length=0), "length 0"),
    ("zero", dict(length=(1 << 62) + 1), "length"),
    ("zero", dict(length=1 << 62, offset=1 << 62), "beyond the end"),
    ("zero", dict(offset=SIZE - 511), "beyond the end"),
    ("zero", dict(payload=b"x" * 8), "payload of 8 bytes in a ZERO"),
    ("zero", dict(flags=4), "unknown flags"),
    ("zero", dict(epoch=13), "there were 1 and 1001"),
    ("seal12", dict(offset=1), "SEAL of 1 changes and 1513 bytes, there were 2 and 1513"),
    ("seal12", dict(length=1512), "there were 2 and 1513"),
    ("seal12", dict(epoch=13), "epoch 13 closes before 12"),
    ("seal12", dict(epoch=11), "epoch 11 is closed"),
    ("seal12", dict(epoch=0), "SEAL without an epoch"),
    ("seal12", dict(kind=SYNC_END), "SYNC_END without its SYNC_BEGIN"),
    ("seal12", dict(volume=1), "SEAL has no volume"),
    ("seal13", dict(epoch=12), "epoch 12 is closed"),
    ("seal14", dict(epoch=15, offset=1, length=8), "epoch 15 closes before 14"),
    ("begin", dict(epoch=10), "epoch 10 is closed"),
    ("begin", dict(offset=4), "SYNC_BEGIN of kind 4"),
    ("begin", dict(kind=SEAL, length=0), "epoch 11 is closed"),
    ("sync_write", dict(epoch=12), "within the sync of epoch 11"),
    ("guest_write", dict(epoch=12), "within the sync of epoch 11"),
    ("sync_end", dict(offset=3), "SYNC_END of 3 changes"),
    ("sync_end", dict(epoch=12), "SYNC_END without its SYNC_BEGIN"),
    ("sync_end", dict(kind=SEAL), "SEAL within a sync"),
    ("sync_end", dict(kind=SYNC_BEGIN, offset=0), "SYNC_BEGIN within a sync"),
    ("unknown", dict(payload_crc=1), "payload CRC"),
    ("unknown", dict(padding=b"\1\0\0"), "padding is not zero"),
    ("unknown", dict(reserved=1), "reserved field"),
    ("unknown", dict(kind=77), "unknown mandatory type 77"),
    ("unknown", dict(payload_len=1 << 21), "payload of 2097152 bytes"),
    ("goodbye", dict(offset=0), "GOODBYE for reason 0"),
    ("goodbye", dict(offset=8), "GOODBYE for reason 8"),
    ("goodbye", dict(payload=b"\xff\xfe"), "not UTF-8"),
    ("goodbye", dict(payload=b"x" * 513), "payload of 513 bytes in a GOODBYE"),
    ("hello", dict(seq=1), "seq 1, expected 0"),
    ("hello", dict(kind=HEARTBEAT, payload=b""), "the first record is no HELLO"),
    ("hello", dict(epoch=1), "HELLO has no epoch"),
]

SECONDARY_FIELDS = [
    ("map", dict(volume=2), "no volume 2"),
    ("map", dict(length=SIZE - 1), "MAP of 1048575 bytes at 0"),
    ("map", dict(offset=4096), "MAP of 1048576 bytes at 4096"),
    ("map", dict(payload=b"\0\x10\0\0\0\0\0\0"), "MAP with 8 bytes"),
    ("map", dict(payload=b"\0\x18\0\0\0\0\0\0" + b"\1" * 32), "blocks of 6144 bytes"),
    ("map", dict(payload=b"\0\x10\0\0\1\0\0\0" + b"\1" * 32), "MAP with blocks"),
    ("map", dict(payload=b"\0\x10\0\0\0\0\0\0" + bytes(32)), "MAP without a block"),
    ("map", dict(epoch=1), "MAP has no epoch"),
    ("map_end", dict(offset=1), "MAP_END has no offset"),
    ("map_end", dict(length=4096), "MAP_END with 4096 bytes held without a MAP"),
    ("map_end", dict(kind=HEARTBEAT), "ACK_SYNCED before MAP_END"),
    ("synced", dict(kind=MAP_END, offset=0), "MAP_END behind MAP_END"),
    ("synced", dict(epoch=11), "ACK_SYNCED has no epoch"),
    ("synced", dict(offset=0, kind=SYNC_BEGIN, epoch=1), "does not come from the secondary"),
    ("checked", dict(length=4095), "4095 of 8388608 bytes differ, 4096 are named"),
    ("checked", dict(offset=4000), "4096 of 4000 bytes differ"),
    ("checked", dict(payload=b""), "4096 of 8388608 bytes differ, 0 are named"),
    ("checked", dict(payload=bytes(25)), "25 bytes of ranges"),
    ("checked", dict(payload=bytes(24)), "a range that cannot be"),
    ("received2", dict(offset=2), "ACK_RECEIVED goes back"),
    ("received2", dict(length=0), "ACK_RECEIVED goes back"),
    ("received2", dict(epoch=8), "ACK_RECEIVED goes back"),
    ("committed2", dict(epoch=10), "ACK_COMMITTED goes back"),
    ("committed2", dict(offset=3), "ACK_COMMITTED goes back"),
    ("committed2", dict(length=1), "ACK_COMMITTED goes back"),
    ("committed2", dict(epoch=9), "before the connection"),
    ("committed2", dict(epoch=0), "ACK_COMMITTED without an epoch"),
    ("committed2", dict(kind=SEAL), "SEAL does not come from the secondary"),
    ("committed2", dict(kind=records.WRITE, payload=b"x", offset=0, length=1),
     "WRITE does not come from the secondary"),
    ("goodbye", dict(kind=HELLO, payload=hello_payload(2), offset=0, length=0), "second HELLO"),
]

# What the payload of a HELLO may not be.
HELLO_FIELDS = [
    (dict(role=3), "role 3"), (dict(role=0), "role 0"),
    (dict(version=1, compat=1), "versions"), (dict(compat=3, version=3), "versions"),
    (dict(count=0), "0 volumes"), (dict(count=65), "65 volumes"),
    (dict(count=1), "HELLO of 704 bytes for 1 volumes"),
    (dict(flags=64), "unknown flags"), (dict(flags=32), "a primary offers clones"),
    (dict(reserved=b"\0" * 79 + b"\1"), "reserved field"),
    (dict(idle=4), "reserved field"), (dict(current=(3, 0)), "generation 3 with id 0"),
    (dict(base=(0, 5)), "generation 0 with id 5"), (dict(top=2), "highest generation 2"),
    (dict(nhistory=17), "history of 17"), (dict(nhistory=1), "generation 1 in place 1"),
    (dict(nhistory=3), "generation 0 in place 2"),
    (dict(history=((3, 9),)), "generation 3 in place 0"),
    (dict(history=((2, 9), (2, 8))), "generation 2 in place 1"),
    (dict(journal=1), "a primary has no journal"), (dict(seen=1), "a primary has no journal"),
    (dict(current=((1 << 62) + 1, 7), top=(1 << 62) + 1), "generation 4611686018427387905"),
    (dict(committed=(1 << 62) + 1), "out of range"),
    (dict(name=b""), "the group's name"), (dict(name=b"vm\0x"), "the group's name"),
    (dict(name=b"x" * 64), "the group's name"),
    (dict(volumes=((b"vda", SIZE, 4, 0), (b"vdb", SIZE))), "volume of kind 4"),
    (dict(volumes=((b"vda", SIZE, 1, 1), (b"vdb", SIZE))), "reserved 1"),
    (dict(volumes=((b"vda", SIZE), (b"vda", SIZE))), "two volumes of one name"),
    (dict(volumes=((b"vda", SIZE), (b"", SIZE))), "a volume's name"),
    (dict(volumes=((b"vda", (1 << 62) + 1), (b"vdb", SIZE))), "size out of range"),
    (dict(role=2, committed=11), "above the newest ever seen"),
]


def spoil(items, index, change):
    kind, fields = items[index]
    fields = {**fields, **change}
    return items[:index] + [(fields.pop("kind", kind), fields)] + items[index + 1:]


class Digests(Base):
    """Asked before the sync, answered in order."""

    @staticmethod
    def items():
        p, s = samples.primary(), samples.secondary()
        fields = dict(volume=1, offset=SIZE - 8192, length=8192)
        p.insert(1, (records.DIGEST, dict(payload=struct.pack("<II", 4096, 0) + bytes(32), **fields)))
        s.insert(S["synced"], (records.DIFFER, dict(payload=struct.pack("<IIQ", 4096, 0, 2), **fields)))
        return p, s

    def test_good(self):
        p, s = self.items()
        stream.check_pair(stream.check(samples.join(p)), stream.check(samples.join(s)))

    def test_of_a_verify(self):
        """With an epoch: of the open one, once the sync has ended."""
        p, _ = self.items()
        kind, fields = p.pop(1)
        at = [i for i, item in enumerate(p) if item[0] == records.SEAL][-1]
        number = p[at][1]["epoch"]
        p.insert(at, (kind, dict(fields, epoch=number)))
        stream.check(samples.join(p))
        self.refuse(samples.join(spoil(p, at, dict(epoch=0))), "DIGEST without an epoch behind SYNC_BEGIN")
        self.refuse(samples.join(p[:at] + [p[at + 1], p[at]] + p[at + 2:]), "epoch %d is closed" % number)
        begin = [item[0] for item in p].index(records.SYNC_BEGIN)
        early = p[:at] + p[at + 1:]
        early.insert(begin + 1, (kind, dict(fields, epoch=p[begin][1]["epoch"])))
        self.refuse(samples.join(early), "DIGEST within a sync")

    def test_bad(self):
        p, s = self.items()
        for change, reason in (
                (dict(offset=SIZE), "DIGEST of 8192 bytes"), (dict(offset=512), "DIGEST of 8192 bytes"),
                (dict(length=4096), "DIGEST of 1 blocks with 40 bytes"), (dict(volume=2), "for no disk"),
                (dict(payload=bytes(40)), "blocks of 0 bytes"), (dict(epoch=1 << 40), "DIGEST before SYNC_BEGIN")):
            self.refuse(samples.join(spoil(p, 1, change)), reason)
        self.refuse(samples.join(p[:1] + p[2:3] + p[1:2]), "behind SYNC_BEGIN")
        at = S["synced"]
        self.refuse(samples.join(spoil(s, at, dict(payload=struct.pack("<IIQ", 4096, 0, 4)))), "behind its end")
        self.refuse(samples.join(spoil(s, at, dict(length=4096, payload=bytes(16)))), "blocks of 0 bytes")
        other = stream.check(samples.join(spoil(s, at, dict(volume=0))))
        with self.assertRaises(Violation):
            stream.check_pair(stream.check(samples.join(p)), other)


class Clones(Base):
    """A sync into clones of the secondary's disks: only where they were offered, and nothing of it counts before it commits."""

    def pair(self, kind, flags, synced):
        p, s = samples.primary(), samples.secondary()
        p[1] = (p[1][0], dict(p[1][1], offset=kind))
        s[0] = plain(HELLO, payload=samples.hello_payload(2, flags=flags))
        if not synced:
            del s[S["synced"]]
        stream.check_pair(stream.check(samples.join(p)), stream.check(samples.join(s)))

    def test_pair(self):
        self.pair(2, 1 | 16 | 32, False)
        self.pair(1, 1 | 16, False)
        self.pair(0, 1 | 16 | 32, True)
        for args, reason in (((2, 1 | 16, False), "not offered"), ((2, 1 | 16 | 32, True), "ACK_SYNCED of a sync"),
                             ((1, 1 | 16, True), "ACK_SYNCED of a sync"), ((1, 16, False), "where there is none")):
            with self.assertRaises(Violation) as caught:
                self.pair(*args)
            self.assertIn(reason, caught.exception.reason)


class Growth(Base):
    """A disk that becomes larger: changes reach so far behind the GROW, and not before."""

    @staticmethod
    def items():
        p, s = samples.primary(), samples.secondary()
        at = [i for i, item in enumerate(p) if item[0] == records.SEAL][-1]
        number = p[at][1]["epoch"]
        have = dict(p[at][1])
        p[at] = (records.SEAL, dict(have, offset=have["offset"] + 1, length=have["length"] + 4096))
        p.insert(at, samples.write(number, SIZE, 4096, volume=1))
        p.insert(at, (records.GROW, dict(volume=1, length=SIZE + 4096)))
        return p, s, at

    def test_good(self):
        p, s, _ = self.items()
        s = s[:S["synced"]] + [(records.GROWN, dict(volume=1, length=SIZE + 8192))]
        stream.check_pair(stream.check(samples.join(p)), stream.check(samples.join(s)))
        with self.assertRaises(Violation):
            stream.check_pair(stream.check(samples.join(samples.primary())), stream.check(samples.join(s)))

    def test_bad(self):
        p, _, at = self.items()
        self.refuse(samples.join(p[:at] + p[at + 1:]), "beyond the end")
        self.refuse(samples.join(spoil(p, at, dict(length=SIZE - 1))), "GROW to")
        self.refuse(samples.join(spoil(p, at, dict(length=SIZE + 4095))), "beyond the end")
        self.refuse(samples.join(spoil(p, at, dict(volume=2))), "no disk 2")
        self.refuse(samples.join(spoil(p, at, dict(offset=512))), "GROW has no offset")
        self.refuse(samples.join(p[:1] + [p[at]] + p[1:at] + p[at + 1:]), "GROW before the end of the sync")


class Fields(Base):
    def test_primary(self):
        for name, change, reason in PRIMARY_FIELDS:
            with self.subTest(name=name, change=change):
                self.refuse(samples.join(spoil(samples.primary(), P[name], change)), reason)

    def test_secondary(self):
        for name, change, reason in SECONDARY_FIELDS:
            with self.subTest(name=name, change=change):
                self.refuse(samples.join(spoil(samples.secondary(), S[name], change)), reason)

    def test_hello(self):
        for change, reason in HELLO_FIELDS:
            with self.subTest(change=change):
                change = dict(change)
                body = hello_payload(change.pop("role", 1), **change)
                self.refuse(samples.join([plain(HELLO, payload=body)]), reason)
        for length in (0, 15, 16, 511, 512, 703, 705):
            body = (hello_payload(1) + b"\0")[:length]
            self.refuse(samples.join([plain(HELLO, payload=body)]), "HELLO of")

    def test_unknown_flags_of_optional_types_are_fine(self):
        items = samples.primary()[:P["goodbye"]] + [plain(OPTIONAL | 2, flags=0xFFFF, volume=77)]
        stream.check(samples.join(items))


class Order(Base):
    def test_left_out(self):
        """Each record but the harmless ones is missed, with its number or without."""
        items = samples.primary()
        harmless = {P["heartbeat"], P["seal13"], P["unknown"], P["goodbye"], 13, P["seal14"]}
        for i in range(len(items)):
            rest = items[:i] + items[i + 1:]
            numbered = [(k, {**f, "seq": n}) for n, (k, f) in enumerate(items)]
            if i < len(items) - 1:
                self.refuse(samples.join(numbered[:i] + numbered[i + 1:]), "seq")
            if i in harmless:
                stream.check(samples.join(rest))
            else:
                with self.assertRaises(Violation, msg="without %d" % i):
                    stream.check(samples.join(rest))

    def test_doubled(self):
        items = samples.primary()
        for i in range(len(items)):
            if i not in (P["heartbeat"], P["unknown"], 13):
                with self.assertRaises(Violation, msg="twice %d" % i):
                    stream.check(samples.join(items[:i + 1] + items[i:]))

    def test_inserted(self):
        items = samples.primary()
        for at, item, reason in (
                (P["seal13"], write(12, 0, 10), "epoch 12 is closed"),
                (P["goodbye"], zero(14, 0, 10), "epoch 14 is closed"),
                (P["write"], plain(SEAL, epoch=11, offset=0, length=0), "epoch 11 is closed"),
                (P["write14"] + 1, plain(SYNC_BEGIN, epoch=16), "SYNC_BEGIN with an open epoch"),
                (P["goodbye"] + 1, plain(HEARTBEAT), "after the GOODBYE"),
                (P["write"], plain(HELLO, payload=hello_payload(1)), "second HELLO"),
                (P["sync_write"], plain(SEAL, epoch=11, offset=0, length=0), "SEAL within")):
            with self.subTest(reason=reason):
                self.refuse(samples.join(items[:at] + [item] + items[at:]), reason)

    def test_empty(self):
        self.refuse(b"", "within a header")
        self.assertEqual(stream.check(b"", cut=True).count, 0)


class Guest(Base):
    """Memory and state of a guest."""
    G = dict(sync_pages=4, sync_end=5, lz4=7, state11=8, seal11=9, pages12=10, merge=12, zstd=13,
             state13=15, check_ram=16, check_state=17, seal13=18)

    def test_good(self):
        done = stream.check(samples.join(samples.guest()))
        self.assertEqual(sorted(done.totals), [11, 13])
        self.assertEqual(done.totals[13][0], 5 + 2 + 3)
        data = memory.lz4_block(samples.LZ4_HELLO, 65536)
        self.assertEqual((data[:10], data[-5:], len(data)), (b"hellohello", b"hello", 65536))

    def spoiled(self, name, reason, flags=None, payload=None, **change):
        items = samples.guest()
        kind, fields = items[self.G[name]]
        fields = dict(fields, **change)
        if payload is not None:
            fields["payload"] = payload(fields["payload"])
        if flags is not None:
            fields["flags"] = flags
        items[self.G[name]] = kind, fields
        self.refuse(samples.join(items), reason)

    def test_fields(self):
        run = lambda *words: (lambda p: struct.pack("<%dQ" % len(words), *words) + p[8 * len(words):])
        for args in (
                ("lz4", "two kinds of compression", 12), ("lz4", "bytes of data, expected", 0),
                ("lz4", "zstd", 8), ("zstd", "LZ4", 4), ("state13", "expected 4096", 0),
                ("merge", "without STATE", 0),
                ("seal11", "MERGE where none can be", records.FLAG_MERGE),
                ("sync_pages", "unknown flags", 1)):
            with self.subTest(args=args):
                self.spoiled(args[0], args[1], flags=args[2])
        for name, reason, change in (
                ("lz4", "of kind 3", dict(volume=2)), ("state11", "of kind 1", dict(volume=0)),
                ("lz4", "runs of 65536 bytes", dict(length=4096)),
                ("lz4", "0 runs", dict(offset=0)), ("lz4", "257 runs", dict(offset=257)),
                ("lz4", "before the seal of 11", dict(epoch=12)),
                ("pages12", "is closed", dict(epoch=11)),
                ("state13", "the blob has 3000", dict(offset=3001)),
                ("seal13", "there were 3", dict(offset=2)),
                ("sync_end", "there were 3", dict(offset=2)),
                ("check_ram", "CHECK of volume 0", dict(volume=0)),
                ("check_ram", "which has no memory yet", dict(epoch=15)),
                ("check_ram", "CHECK of 1048576 bytes at 4096", dict(offset=4096)),
                ("check_ram", "at 0 with 16", dict(length=(4 << 20) + 1)),
                ("check_state", "CHECK out of order", dict(volume=1, length=4096)),
                ("zstd", "bytes in a PAGES of", dict(length=4096))):
            with self.subTest(reason=reason, change=change):
                self.spoiled(name, reason, **change)
        for payload, reason in (
                (run(4095, 65536), "run of"), (run(65536, 65535), "run of"), (run(65536, 0), "run of"),
                (run(SIZE, 65536), "beyond the end"), (run(1 << 63, 65536), "run of"),
                (lambda p: p[:15], "payload of 15"), (lambda p: p[:-1], "LZ4"),
                (lambda p: p + b"x", "LZ4")):
            with self.subTest(reason=reason):
                self.spoiled("lz4", reason, payload=payload)

    def frozen(self):
        """The disks of 13 are kept and compared."""
        items = samples.guest()
        digest = struct.pack("<II", 4096, 0) + bytes(32)
        items.insert(self.G["zstd"], (records.FREEZE, dict(epoch=13)))
        items[-1:-1] = [(records.DIGEST, dict(volume=0, offset=0, length=8192, epoch=14, flags=records.FLAG_FROZEN, payload=digest)),
                        (records.DIGEST, dict(volume=0, offset=8192, length=8192, epoch=14, flags=records.FLAG_FROZEN, payload=digest)),
                        (records.THAW, {})]
        return items

    def test_frozen(self):
        items = self.frozen()
        primary = stream.check(samples.join(items))
        secondary = stream.Stream()
        secondary.hello = primary.hello.__class__(**dict(vars(primary.hello), role=records.SECONDARY, seen=10, committed=10))
        secondary.freezes = [(13, 1)]
        secondary.digests = primary.digests[:]
        stream.check_pair(primary, secondary)
        secondary.digests = primary.digests[1:]
        with self.assertRaisesRegex(records.Violation, "in its place"):
            stream.check_pair(primary, secondary)
        secondary.freezes.append((13, 0))  # then it need not answer
        stream.check_pair(primary, secondary)
        secondary.freezes[0] = (12, 1)
        with self.assertRaisesRegex(records.Violation, "FROZEN of epoch 12"):
            stream.check_pair(primary, secondary)
        at = self.G["zstd"]
        self.refuse(samples.join(items[:at] + items[at:at + 1] * 2 + items[at + 1:]), "FREEZE where none can be")
        self.refuse(samples.join(spoil(items, at, dict(epoch=12))), "epoch 12 is closed")
        self.refuse(samples.join(items[:at] + items[at + 1:]), "DIGEST of frozen disks")
        early = samples.guest()
        early.insert(2, (records.FREEZE, dict(epoch=11)))
        self.refuse(samples.join(early), "FREEZE where none can be")

    def test_zero_run_has_no_data(self):
        items = samples.guest()
        items[self.G["sync_pages"]] = samples.pages(11, [(0, SIZE, "zero")], bytes(4096))
        self.refuse(samples.join(items), "4096 bytes of data, expected 0")

    def test_disks_in_order(self):
        items = samples.guest()
        items.insert(self.G["state13"], write(13, 0, 10))
        self.refuse(samples.join(items), "of epoch 13 after 14")
        items = samples.guest()
        items.insert(self.G["lz4"], write(11, 0, 10))
        self.refuse(samples.join(items), "of epoch 11 after")

    def test_no_guest(self):
        items = samples.guest()
        items[0] = plain(HELLO, payload=hello_payload(1, GUEST[:1] + ((b"b", SIZE, 1, 0),)))
        self.refuse(samples.join(items), "of kind 1")


class Pair(Base):
    def refuse_pair(self, secondary, reason):
        p = stream.check(samples.join(samples.primary()))
        s = stream.check(samples.join(secondary))
        with self.assertRaises(Violation) as caught:
            stream.check_pair(p, s)
        self.assertIn(reason, caught.exception.reason)

    def test_acknowledgements(self):
        items = samples.secondary()
        n = len(items) - 1
        last = items[n - 1][1]
        for change, reason in (
                (dict(epoch=15), "epoch 15, which was not sealed"),
                (dict(offset=last["offset"] + 1), "counts 9 changes"),
                (dict(length=last["length"] + 1), "counts 8 changes")):
            self.refuse_pair(spoil(items, n - 1, change), reason)
        self.refuse_pair(spoil(items, n - 2, dict(offset=10)), "more than was sent")
        self.refuse_pair(spoil(items, S["synced"], dict(offset=10)), "more than was sent")
        self.refuse_pair(spoil(items, n - 2, dict(length=3 * SIZE)), "more than was sent")

    def test_hellos(self):
        items = samples.secondary()
        for change, reason in (
                (dict(volumes=((b"vda", SIZE), (b"vdc", SIZE))), "volumes do not match"),
                (dict(volumes=((b"vda", SIZE), (b"vdb", SIZE - 1))), "volumes do not match"),
                (dict(volumes=((b"vda", SIZE),)), "groups do not match"),
                (dict(name=b"vm2"), "groups do not match"),
                (dict(seen=11), "not above what the secondary has seen")):
            with self.subTest(change=change):
                self.refuse_pair(
                    [plain(HELLO, payload=hello_payload(2, **change))] + items[1:], reason)
        self.refuse_pair(samples.primary(), "both are of a primary")


if __name__ == "__main__":
    unittest.main()
