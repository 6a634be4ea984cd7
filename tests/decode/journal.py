# SPDX-License-Identifier: LGPL-2.1-or-later
"""A journal file against docs/journal.md."""
import struct
from dataclasses import dataclass

import records
from crc32c import crc32c
from records import COMMIT, DISCARD, FLAG_MERGE, FLAG_SYNC, JOURNAL, SEAL, Violation

HEADER_MAGIC = 0x314C4E524A444E54
CHUNK_MAGIC = 0x4B434454
BLOCK = 4096
RING_OFFSET = 1 << 20
SEGMENT = 4 << 20
CHUNK_HEADER = 64
CHUNK_MAX = (1 << 20) + (256 << 10)
SKIP = 1
MASK = (1 << 64) - 1


def mix(v):
    """The finalizer of SplitMix64."""
    v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9 & MASK
    v = (v ^ v >> 27) * 0x94D049BB133111EB & MASK
    return v ^ v >> 31


def sum_of(own, crcs):
    """Of a chunk with this own value, whose records' headers have these CRCs."""
    for crc in crcs:
        own = mix(own ^ crc)
    return own or 1


def own_value(chain, position, incarnation):
    return mix(chain ^ mix(position ^ mix(incarnation)))


@dataclass
class Header:
    slot: int
    serial: int
    ring: int
    tail: int
    chain: int
    applied: int
    incarnation: int
    group: bytes


@dataclass
class Chunk:
    position: int
    flags: int
    used: int
    length: int
    incarnation: int
    chain: int
    own: int
    sum: int


def parse_header(data, slot):
    """The slot's header; Violation says why it is none."""
    at = slot * BLOCK
    block = bytes(data[at:at + BLOCK])
    if len(block) < BLOCK:
        raise Violation(at, "the file ends within a header slot")
    (magic, version, compat, serial, ring, segment, reserved, tail, chain, applied, incarnation,
     group) = struct.unpack("<QIIQQIIQQQQ16s", block[:88])
    if magic != HEADER_MAGIC:
        raise Violation(at, "magic of header slot %d" % slot)
    if struct.unpack("<I", block[4092:])[0] != crc32c(block[:4092]):
        raise Violation(at, "CRC of header slot %d" % slot)
    if compat > 2 or version < 2:
        raise Violation(at, "versions %d..%d do not hold 2" % (compat, version))
    if segment != SEGMENT:
        raise Violation(at + 32, "segments of %d bytes" % segment)
    if ring % SEGMENT or ring < 4 * SEGMENT:
        raise Violation(at + 24, "ring of %d bytes" % ring)
    if tail % BLOCK:
        raise Violation(at + 40, "tail at %d" % tail)
    if reserved or any(block[88:4092]):
        raise Violation(at, "reserved field of header slot %d is not zero" % slot)
    return Header(slot, serial, ring, tail, chain, applied, incarnation, group)


def parse_chunk(block, at):
    """The chunk header in the block that stands at byte `at` of the file."""
    (magic, flags, position, used, length, incarnation, chain, own, total, zero,
     crc) = struct.unpack("<IIQIIQQQQII", bytes(block[:CHUNK_HEADER]))
    if magic != CHUNK_MAGIC:
        raise Violation(at, "no chunk")
    if crc != crc32c(block[:60]):
        raise Violation(at, "CRC of the chunk's header")
    if zero:
        raise Violation(at, "reserved field of the chunk is not zero")
    if flags & ~SKIP:
        raise Violation(at, "unknown flags 0x%x of the chunk" % flags)
    if own != own_value(chain, position, incarnation):
        raise Violation(at, "own value of the chunk")
    if length % BLOCK or not BLOCK <= length <= CHUNK_MAX or position % BLOCK:
        raise Violation(at, "chunk of %d bytes at position %d" % (length, position))
    if not CHUNK_HEADER <= used <= length:
        raise Violation(at, "chunk of %d bytes of which %d are used" % (length, used))
    if flags & SKIP and (length != BLOCK or used != CHUNK_HEADER):
        raise Violation(at, "SKIP chunk that is more than a header")
    if position % SEGMENT + length > SEGMENT:
        raise Violation(at, "chunk across the end of a segment")
    return Chunk(position, flags, used, length, incarnation, chain, own, total)


class Journal:
    """Walks over the log of one file."""

    def __init__(self, data, crashed=False, committed=None, dump=None):
        self.data = data
        self.crashed = crashed  # torn headers and a torn tail are fine
        self.expected = committed  # by the metadata; None = not known
        self.dump = dump
        self.header = None
        self.open = {}  # epoch -> [changes, bytes, sealed, has data of a sync]
        self.merged = set()  # sealed with MERGE
        self.committed = 0
        self.chunks = 0
        self.records = 0
        self.end = 0
        self.why = ""

    def _choose_header(self):
        valid, reasons = [], []
        for slot in (0, 1):
            try:
                valid.append(parse_header(self.data, slot))
            except Violation as v:
                reasons.append(v)
        # A file that was only just created has one header; the other slot is all zero then.
        for v in reasons:
            slot = v.position // BLOCK
            torn = any(self.data[slot * BLOCK:(slot + 1) * BLOCK])
            if not valid or (torn and not self.crashed):
                raise v
        if len(valid) == 2 and valid[0].serial == valid[1].serial:
            raise Violation(16, "two headers of one serial")
        if len(valid) == 2 and valid[0].ring != valid[1].ring:
            raise Violation(24, "two headers of different rings")
        self.header = max(valid, key=lambda h: h.serial)
        if len(self.data) != RING_OFFSET + self.header.ring:
            raise Violation(len(self.data), "file of %d bytes for a ring of %d" %
                            (len(self.data), self.header.ring))

    def _at(self, position):
        return RING_OFFSET + position % self.header.ring

    def _parse_records(self, chunk):
        at = self._at(chunk.position)
        body = self.data[at:at + chunk.length]
        recs, offset = [], CHUNK_HEADER
        while offset < chunk.used:
            try:
                rec = records.parse(body[:chunk.used], offset, JOURNAL)
            except Violation as v:
                raise Violation(at + v.position, v.reason) from None
            if rec.type in (COMMIT, DISCARD) and rec.seq:
                raise Violation(at + offset, "seq %d in a record of the journal" % rec.seq)
            rec.position += at
            recs.append(rec)
            offset += rec.size
        if any(body[chunk.used:]):
            raise Violation(at + chunk.used, "the rest of the chunk is not zero")
        crcs = [int.from_bytes(body[r.position - at + 60:r.position - at + 64], "little") for r in recs]
        if chunk.sum != sum_of(chunk.own, crcs):
            raise Violation(at + 48, "sum of the chunk's records")
        return recs

    def _take_commit(self, rec):
        if rec.epoch <= self.committed:
            raise Violation(rec.position, "COMMIT of epoch %d after %d" %
                            (rec.epoch, self.committed))
        if rec.epoch <= self.header.applied:
            mine = (0, 0, True)  # its beginning may stand before the tail
        else:
            mine = self.open.get(rec.epoch)
        if mine and not mine[2]:
            raise Violation(rec.position, "COMMIT of epoch %d without its SEAL" % rec.epoch)
        if mine and (rec.offset < mine[0] or rec.length < mine[1]):
            raise Violation(rec.position, "COMMIT counts less than its epoch")
        if not mine and self.header.tail == 0:
            raise Violation(rec.position, "COMMIT of epoch %d, of which nothing is there" %
                            rec.epoch)
        self.open = {e: v for e, v in self.open.items() if e > rec.epoch}
        self.committed = rec.epoch

    def _take(self, rec):
        if not rec.known:
            raise Violation(rec.position, "unknown type in a journal")
        if rec.type == COMMIT:
            self._take_commit(rec)
            return
        if rec.type == DISCARD:
            self.open.clear()
            return
        if rec.epoch <= self.committed:
            raise Violation(rec.position, "epoch %d is committed" % rec.epoch)
        epoch = self.open.setdefault(rec.epoch, [0, 0, False, False])
        if epoch[2]:
            raise Violation(rec.position, "epoch %d is sealed" % rec.epoch)
        if rec.type == SEAL:
            if rec.epoch > self.header.applied and (rec.offset, rec.length) != tuple(epoch[:2]):
                raise Violation(rec.position, "SEAL of %d changes and %d bytes, there were %d "
                                "and %d" % (rec.offset, rec.length, epoch[0], epoch[1]))
            epoch[2] = True
            self.merged |= {rec.epoch} if rec.flags & FLAG_MERGE else set()
        else:
            epoch[0] += 1
            epoch[1] += rec.length
            epoch[3] |= bool(rec.flags & FLAG_SYNC)

    def _check_end(self, position, chain, last, violation):
        """What stands where the log ends must be a rest of an older lap or of a dropped tail."""
        life = (last or self.header).incarnation
        limit = self.header.tail + self.header.ring
        end = position
        while position < limit:
            at = self._at(position)
            found = None
            try:
                found = parse_chunk(self.data[at:at + BLOCK], at)
            except Violation as v:
                if position == end and v.reason != "no chunk":
                    raise violation from None
            if position == end and found and (found.position, found.chain) == (position, chain):
                raise violation
            if found and found.position == position and found.incarnation == life:
                if position == end:
                    raise violation
                raise Violation(at, "a chunk behind the end of the log (%s)" % violation)
            position += BLOCK

    def _hold(self, at):
        """A new life begins behind a chunk without COMMIT: what is open is of interrupted staged syncs."""
        if not any(epoch[3] for epoch in self.open.values()):
            raise Violation(at, "a new life begins behind a chunk without COMMIT")
        for number, epoch in self.open.items():
            if epoch[2] and not (epoch[3] and number in self.merged):
                raise Violation(at, "a new life begins behind epoch %d, sealed and without COMMIT" % number)
        self.open = {number: epoch for number, epoch in self.open.items() if epoch[3]}

    def check(self):
        self._choose_header()
        position, chain = self.header.tail, self.header.chain
        last, had_commit = None, True
        while position - self.header.tail < self.header.ring:
            at = self._at(position)
            try:
                chunk = parse_chunk(self.data[at:at + BLOCK], at)
                if chunk.position != position or chunk.chain != chain:
                    raise Violation(at, "chunk of another lap or life")
                recs = self._parse_records(chunk)
            except Violation as v:
                self.why = str(v)
                if not self.crashed:
                    self._check_end(position, chain, last, v)
                break
            if last and chunk.incarnation != last.incarnation and not had_commit:
                self._hold(at)
            self.chunks += 1
            if self.dump:
                self.dump("%d: CHUNK position=%d length=%d used=%d incarnation=%x%s" %
                          (at, position, chunk.length, chunk.used, chunk.incarnation,
                           " SKIP" if chunk.flags & SKIP else ""))
            for rec in recs:
                self.records += 1
                if self.dump:
                    self.dump("  %s" % rec)
                self._take(rec)
            had_commit = any(rec.type == COMMIT for rec in recs)
            position += SEGMENT - position % SEGMENT if chunk.flags & SKIP else chunk.length
            chain, last = chunk.own, chunk
        self.end = position
        newest = max(self.committed, self.header.applied)
        if self.expected is not None and newest < self.expected:
            raise Violation(self._at(position), "the log ends at epoch %d, committed was %d (%s)" %
                            (newest, self.expected, self.why))
        return self

    def summary(self):
        return ("journal: ring %d, tail %d, applied %d, %d chunks, %d records, committed %d, "
                "end %d" % (self.header.ring, self.header.tail, self.header.applied, self.chunks,
                            self.records, max(self.committed, self.header.applied), self.end))
