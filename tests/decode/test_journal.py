#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The journal decoder, and the program around both: good files pass, single faults are refused."""
import contextlib
import io
import os
import tempfile
import unittest

import journal
import samples
import tandem_decode
from journal import BLOCK, RING_OFFSET, SEGMENT, SKIP
from records import (ACK_COMMITTED, COMMIT, DISCARD, FLAG_MERGE, FLAG_SYNC, HEARTBEAT, HELLO, OPTIONAL, SEAL, Violation)
from samples import LIFE2, JournalFile, plain, write, zero


class Base(unittest.TestCase):
    def good(self, file, **options):
        return journal.Journal(bytes(file.bytes), **options).check()

    def refuse(self, file, reason, **options):
        with self.assertRaises(Violation, msg=reason) as caught:
            self.good(file, **options)
        self.assertIn(reason, caught.exception.reason)


class Good(Base):
    def test_sample(self):
        for file in (samples.journal_file(), samples.journal_file(0)):
            done = self.good(file, committed=14)
            self.assertEqual((done.chunks, done.records, done.committed), (5, 12, 14))

    def test_empty(self):
        self.assertEqual(self.good(JournalFile()).chunks, 0)
        self.assertEqual(self.good(JournalFile(tail=5 * SEGMENT + BLOCK)).chunks, 0)

    def test_one_header(self):
        file = JournalFile()
        file.bytes[BLOCK:2 * BLOCK] = bytes(BLOCK)
        self.good(file)

    def test_whole_ring(self):
        file = JournalFile(tail=SEGMENT)
        for _ in range(4):
            for i in range(4):
                file.chunk([plain(SEAL, epoch=file.position // BLOCK + 11, offset=0, length=0)],
                           length=SEGMENT // 4)
        self.assertEqual(self.good(file).why, "")

    def test_rest_of_applied_epoch_at_tail(self):
        file = JournalFile(tail=SEGMENT, applied=12)
        file.chunk([write(12, 0, 10), plain(SEAL, epoch=12, offset=5, length=500),
                    plain(COMMIT, epoch=12, offset=5, length=500, seq=0),
                    plain(COMMIT, epoch=13, offset=5, length=500, seq=0)])
        self.good(file, committed=13)


class Header(Base):
    def test_fields(self):
        for change, reason in (
                (dict(magic=1), "magic of header slot"), (dict(compat=3, version=3), "versions"),
                (dict(version=1, compat=1), "versions"), (dict(ring=3 * SEGMENT), "ring of"),
                (dict(ring=4 * SEGMENT + BLOCK), "ring of"), (dict(segment=1 << 20), "segments"),
                (dict(tail=100), "tail at 100"), (dict(reserved=1), "reserved field"),
                (dict(rest=b"\0" * 4003 + b"\1"), "reserved field"), (dict(spoil_crc=1), "CRC")):
            for slot in (0, 1):
                file = samples.journal_file()
                file.header(slot, **{"serial": 6 + slot, **change})
                with self.subTest(slot=slot, change=change):
                    self.refuse(file, reason)
                    self.good(file, crashed=True)  # the other slot counts
                    file.header(1 - slot, **change)
                    self.refuse(file, reason, crashed=True)

    def test_any_bit(self):
        file = samples.journal_file()
        for bit in list(range(88 * 8)) + list(range(4088 * 8, 4096 * 8, 3)):
            file.bytes[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(Violation, msg="bit %d" % bit):
                journal.Journal(bytes(file.bytes[:2 * BLOCK]))._choose_header()
            file.bytes[bit // 8] ^= 1 << bit % 8

    def test_both(self):
        file = samples.journal_file()
        file.header(0, serial=7)
        self.refuse(file, "two headers of one serial")
        file.header(0, serial=6, ring=5 * SEGMENT)
        self.refuse(file, "different rings")

    def test_length_of_file(self):
        file = samples.journal_file()
        del file.bytes[-BLOCK:]
        self.refuse(file, "file of")
        del file.bytes[BLOCK + 100:]
        self.refuse(file, "ends within a header slot")


class Chunks(Base):
    CASES = (
        (dict(magic=1), None), (dict(crc=1), "CRC of the chunk"), (dict(flags=2), "unknown flags"),
        (dict(zero=1), "reserved field of the chunk"), (dict(own=1), "own value"),
        (dict(sum=1), "sum of the chunk's records"),
        (dict(chain=1), "another lap or life"), (dict(used=63), "63 are used"),
        (dict(used=4097), "4097 are used"), (dict(length=0), "chunk of 0 bytes"),
        (dict(length=5000), "chunk of 5000 bytes"),
        (dict(length=journal.CHUNK_MAX + BLOCK), "chunk of 1314816 bytes"),
        (dict(flags=SKIP), "more than a header"), (dict(used=100), "within a header"),
        (dict(used=64), "the rest of the chunk is not zero"),
        (dict(junk=b"\1"), "the rest of the chunk is not zero"),
    )

    def test_fields(self):
        commit = [plain(SEAL, epoch=11, offset=0, length=0),
                  plain(COMMIT, epoch=11, offset=0, length=0, seq=0)]
        for change, reason in self.CASES:
            with self.subTest(change=change):
                file = JournalFile()
                file.chunk(commit, **change)
                if reason:
                    self.refuse(file, reason)
                # A torn tail is an end; what the metadata knows to be committed is not.
                self.good(file, crashed=True)
                self.refuse(file, "the log ends at epoch 10, committed was 11", crashed=True,
                            committed=11)

    def test_any_byte(self):
        """In the sample: every byte of the last chunks, one bit each, loses the commit or more."""
        file = samples.journal_file()
        for position, length in file.spots[3:5]:
            at = file.offset(position)
            used = 70680 if length > BLOCK else 128
            for i in list(range(200)) + list(range(200, used, 1009)) + [used, length - 1]:
                if i >= length:
                    continue
                file.bytes[at + i] ^= 1 << i % 8
                with self.assertRaises(Violation, msg="byte %d of %d" % (i, position)):
                    self.good(file, committed=14)
                if i > 3:  # with another magic it may be the rest of an older lap
                    with self.assertRaises(Violation, msg="byte %d of %d" % (i, position)):
                        self.good(file)
                file.bytes[at + i] ^= 1 << i % 8

    def test_lost_between(self):
        """A chunk of this life stands behind a place where there is none."""
        file = samples.journal_file()
        position, length = file.spots[3]
        at = file.offset(position)
        file.bytes[at:at + length] = bytes(length)
        # Of the second life nothing is before it, so that it might be a dropped tail; but not so:
        self.good(file)
        self.refuse(file, "the log ends at epoch 11", committed=14)
        file = JournalFile()
        for epoch in (11, 12, 13):
            file.chunk([plain(SEAL, epoch=epoch, offset=0, length=0)])
        at = file.offset(file.spots[1][0])
        file.bytes[at:at + BLOCK] = bytes(BLOCK)
        self.refuse(file, "a chunk behind the end of the log")
        self.good(file, crashed=True)

    def test_segment_end(self):
        file = JournalFile(tail=SEGMENT - BLOCK)
        file.chunk([zero(11, 0, 1)], length=2 * BLOCK)
        self.refuse(file, "across the end of a segment")

    def test_new_life_without_commit(self):
        file = JournalFile()
        file.chunk([write(11, 0, 10)])
        file.chunk([write(12, 0, 10)], life=LIFE2)
        self.refuse(file, "a new life begins behind a chunk without COMMIT")

    def test_held(self):
        """An interrupted staged sync stays at a start of the node, and is the beginning of the next one, or dropped."""
        held = write(11, 0, 10, flags=FLAG_SYNC)
        merge = plain(SEAL, epoch=11, offset=1, length=10, flags=FLAG_MERGE)
        rest = [write(13, 10, 10, flags=FLAG_SYNC), plain(SEAL, epoch=13, offset=1, length=10),
                plain(COMMIT, epoch=13, offset=1, length=10, seq=0)]
        for second in ([merge] + rest, [plain(DISCARD, seq=0)] + rest):
            file = JournalFile()
            file.chunk([held, write(12, 0, 10)])
            file.chunk(second, life=LIFE2)
            self.good(file)
        file = JournalFile()
        file.chunk([held, plain(SEAL, epoch=11, offset=1, length=10)])
        file.chunk(rest, life=LIFE2)
        self.refuse(file, "a new life begins behind epoch 11, sealed and without COMMIT")


class Records(Base):
    def test_order(self):
        commit = plain(COMMIT, epoch=11, offset=1, length=10, seq=0)
        seal = plain(SEAL, epoch=11, offset=1, length=10)
        change = write(11, 0, 10)
        for items, reason in (
                ([commit], "of which nothing is there"),
                ([change, commit], "without its SEAL"),
                ([change, seal, change, commit], "epoch 11 is sealed"),
                ([change, seal, seal, commit], "epoch 11 is sealed"),
                ([change, change, seal], "there were 2 and 20"),
                ([seal], "there were 0 and 0"),
                ([change, seal, commit, commit], "COMMIT of epoch 11 after 11"),
                ([change, seal, commit, change], "epoch 11 is committed"),
                ([change, seal, commit, write(10, 0, 1)], "epoch 10 is committed"),
                ([change, seal, plain(DISCARD, seq=0), commit], "of which nothing is there"),
                ([change, seal, plain(COMMIT, epoch=11, offset=0, length=10, seq=0)], "less"),
                ([change, seal, plain(COMMIT, epoch=11, offset=1, length=9, seq=0)], "less"),
                ([change, seal, plain(COMMIT, epoch=11, offset=1, length=10, seq=4)], "seq 4"),
                ([plain(DISCARD, epoch=1, seq=0)], "DISCARD has no epoch"),
                ([plain(DISCARD, seq=1)], "seq 1 in a record of the journal"),
                ([plain(HEARTBEAT)], "HEARTBEAT does not come from the journal"),
                ([plain(ACK_COMMITTED, epoch=11)], "ACK_COMMITTED does not come from"),
                ([plain(HELLO, payload=samples.hello_payload(1))], "HELLO does not come from"),
                ([plain(OPTIONAL | 5)], "unknown type in a journal"),
                ([plain(99)], "unknown mandatory type 99")):
            with self.subTest(reason=reason):
                file = JournalFile()
                file.chunk(items)
                self.refuse(file, reason)
        file = JournalFile()
        file.chunk([change, seal, commit])
        self.good(file, committed=11)


class Program(unittest.TestCase):
    def run_main(self, *args):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = tandem_decode.main(args)
        return code, out.getvalue(), err.getvalue()

    def test_files(self):
        with tempfile.TemporaryDirectory() as directory:
            paths = {}
            for name, data in (("p", samples.join(samples.primary())),
                               ("s", samples.join(samples.secondary())), ("empty", b""),
                               ("cut", samples.join(samples.primary())[:-1]),
                               ("j", bytes(samples.journal_file().bytes))):
                paths[name] = os.path.join(directory, name)
                with open(paths[name], "wb") as file:
                    file.write(data)
            code, out, err = self.run_main("stream", paths["p"], paths["s"])
            self.assertEqual((code, err, len(out.splitlines())), (0, "", 2))
            code, out, err = self.run_main("pair", paths["p"], paths["s"], "--dump")
            self.assertEqual((code, err, len(out.splitlines())), (0, "", 34))
            code, out, err = self.run_main("pair", paths["s"], paths["p"])
            self.assertEqual(code, 1)
            code, out, err = self.run_main("stream", paths["p"], paths["cut"])
            self.assertEqual(code, 1)
            self.assertEqual(err, "%s: at byte 7048: the bytes end within a payload\n" %
                             paths["cut"])
            self.assertEqual(self.run_main("stream", "--cut", paths["cut"], paths["empty"])[0], 0)
            self.assertEqual(self.run_main("stream", paths["empty"])[0], 1)
            code, out, err = self.run_main("journal", "--dump", "--committed=14", paths["j"])
            self.assertEqual((code, err, len(out.splitlines())), (0, "", 18))
            self.assertEqual(self.run_main("journal", "--committed=15", paths["j"])[0], 1)
            self.assertEqual(self.run_main("journal", paths["p"])[0], 1)
            self.assertEqual(self.run_main("journal", os.path.join(directory, "absent"))[0], 1)


if __name__ == "__main__":
    unittest.main()
