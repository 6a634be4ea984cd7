# SPDX-License-Identifier: LGPL-2.1-or-later
"""One record at a time, as docs/stream.md ("Record", "Types", "HELLO") has it.

Written from the document, not from the C code, so that the two check each other."""
import struct
from dataclasses import dataclass

import memory
from crc32c import crc32c

MAGIC = 0x43524454
HEADER = 64
MAX_PAYLOAD = 1 << 20
MAX_NUMBER = 1 << 62
OPTIONAL = 0x8000
FLAG_SYNC, FLAG_UNMAP, FLAG_MERGE, FLAG_FROZEN, FLAG_HELD = 1, 2, 16, 32, 64
KIND_DISK, KIND_MEMORY, KIND_STATE = 1, 2, 3

(HELLO, WRITE, ZERO, SEAL, SYNC_BEGIN, SYNC_END, ACK_RECEIVED, ACK_COMMITTED, HEARTBEAT,
 GOODBYE, PAGES, STATE) = range(1, 13)
MAP, MAP_END, ACK_SYNCED, DIGEST, DIFFER = 13, 14, 15, 16, 17
CHECK, CHECKED = 18, 19
GROW, GROWN = 20, 21
FREEZE, THAW, FROZEN, STANDBY = 22, 23, 24, 25
CHECK_BLOCK = 4 << 20
COMMIT, DISCARD = 256, 257

PRIMARY, SECONDARY, JOURNAL = "primary", "secondary", "journal"
_P, _S, _J = {PRIMARY}, {SECONDARY}, {JOURNAL}


class Violation(Exception):
    """The bytes at `position` are not what the documents allow."""

    def __init__(self, position, reason):
        super().__init__("at byte %d: %s" % (position, reason))
        self.position = position
        self.reason = reason


class Cut(Violation):
    """The bytes end within a record."""


@dataclass
class Rule:
    """What a type may carry; `fields` are those with a meaning."""
    name: str
    places: set
    fields: frozenset = frozenset()
    flags: int = 0
    max_payload: int = 0


RULES = {
    HELLO: Rule("HELLO", _P | _S, max_payload=512 + 64 * 96),
    WRITE: Rule("WRITE", _P | _J, frozenset(("volume", "epoch", "offset", "length")), FLAG_SYNC,
                MAX_PAYLOAD),
    ZERO: Rule("ZERO", _P | _J, frozenset(("volume", "epoch", "offset", "length")),
               FLAG_SYNC | FLAG_UNMAP),
    SEAL: Rule("SEAL", _P | _J, frozenset(("epoch", "offset", "length")), FLAG_MERGE),
    SYNC_BEGIN: Rule("SYNC_BEGIN", _P, frozenset(("epoch", "offset", "length"))),
    SYNC_END: Rule("SYNC_END", _P, frozenset(("epoch", "offset", "length"))),
    ACK_RECEIVED: Rule("ACK_RECEIVED", _S, frozenset(("epoch", "offset", "length"))),
    ACK_COMMITTED: Rule("ACK_COMMITTED", _S, frozenset(("epoch", "offset", "length"))),
    HEARTBEAT: Rule("HEARTBEAT", _P | _S),
    GOODBYE: Rule("GOODBYE", _P | _S, frozenset(("offset", "length")), max_payload=512),
    PAGES: Rule("PAGES", _P, frozenset(("volume", "epoch", "offset", "length")),
                memory.FLAG_LZ4 | memory.FLAG_ZSTD, MAX_PAYLOAD),
    STATE: Rule("STATE", _P, frozenset(("volume", "epoch", "offset", "length")),
                memory.FLAG_LZ4 | memory.FLAG_ZSTD, MAX_PAYLOAD),
    MAP: Rule("MAP", _S, frozenset(("volume", "offset", "length")), FLAG_HELD, 8 + 8 * 1024),
    MAP_END: Rule("MAP_END", _S, frozenset(("length",))),
    ACK_SYNCED: Rule("ACK_SYNCED", _S, frozenset(("offset",))),
    DIGEST: Rule("DIGEST", _P, frozenset(("volume", "epoch", "offset", "length")), FLAG_FROZEN | FLAG_HELD, 8 + 16 * 64),
    DIFFER: Rule("DIFFER", _S, frozenset(("volume", "offset", "length")), max_payload=16),
    CHECK: Rule("CHECK", _P, frozenset(("volume", "epoch", "offset", "length")), max_payload=1024 * 16),
    CHECKED: Rule("CHECKED", _S, frozenset(("epoch", "offset", "length")), max_payload=256 * 24),
    GROW: Rule("GROW", _P, frozenset(("volume", "length"))),
    GROWN: Rule("GROWN", _S, frozenset(("volume", "length"))),
    FREEZE: Rule("FREEZE", _P, frozenset(("epoch",))),
    THAW: Rule("THAW", _P),
    FROZEN: Rule("FROZEN", _S, frozenset(("epoch", "offset"))),
    STANDBY: Rule("STANDBY", _S, frozenset(), 0, 512),
    COMMIT: Rule("COMMIT", _J, frozenset(("epoch", "offset", "length"))),
    DISCARD: Rule("DISCARD", _J),
}


@dataclass
class Record:
    position: int
    type: int
    flags: int
    volume: int
    epoch: int
    offset: int
    length: int
    seq: int
    payload: bytes
    size: int  # of header, payload and padding
    runs: list = None  # PAGES
    state: bytes = None  # STATE, unpacked

    @property
    def known(self):
        return self.type in RULES

    @property
    def is_change(self):
        return self.type in (WRITE, ZERO, PAGES, STATE)

    @property
    def is_memory(self):
        return self.type in (PAGES, STATE)

    def __str__(self):
        name = RULES[self.type].name if self.known else "type 0x%x" % self.type
        text = "%d: %s seq=%d" % (self.position, name, self.seq)
        if self.flags & FLAG_SYNC:
            text += " SYNC"
        if self.flags & FLAG_UNMAP:
            text += " UNMAP"
        if self.flags & FLAG_MERGE:
            text += " MERGE"
        if self.flags & FLAG_FROZEN:
            text += " FROZEN"
        if self.flags & FLAG_HELD:
            text += " HELD"
        for field in ("volume", "epoch", "offset", "length"):
            if not self.known or field in RULES[self.type].fields:
                text += " %s=%d" % (field, getattr(self, field))
        return text + (" payload=%d" % len(self.payload) if self.payload else "")


def _check_ranges(rec):
    """The reason why a CHECKED is none, or None."""
    if len(rec.payload) % 24:
        return "CHECKED with %d bytes of ranges" % len(rec.payload)
    ranges = [struct.unpack_from("<IIQQ", rec.payload, at) for at in range(0, len(rec.payload), 24)]
    named = sum(r[3] for r in ranges)
    if any(r[1] or r[0] >= 64 or r[3] == 0 or r[2] > MAX_NUMBER for r in ranges):
        return "CHECKED with a range that cannot be"
    if rec.length > rec.offset or named > rec.length or (named == 0) != (rec.length == 0):
        return "CHECKED: %d of %d bytes differ, %d are named" % (rec.length, rec.offset, named)
    return None


def _check_rule(rec, rule, place):
    """The reason why the fields break the rule of the type, or None."""
    if place not in rule.places:
        return "%s does not come from the %s" % (rule.name, place)
    if rec.flags & ~rule.flags:
        return "unknown flags 0x%x" % rec.flags
    if len(rec.payload) > rule.max_payload:
        return "payload of %d bytes in a %s" % (len(rec.payload), rule.name)
    for field in ("volume", "epoch", "offset", "length"):
        if field not in rule.fields and getattr(rec, field):
            return "%s has no %s" % (rule.name, field)
    if "epoch" in rule.fields and rec.epoch == 0 and rec.type not in (ACK_RECEIVED, DIGEST):
        return "%s without an epoch" % rule.name
    if "volume" in rule.fields:
        if rec.volume >= 64:
            return "volume %d" % rec.volume
        if not 1 <= rec.length <= MAX_NUMBER:
            return "length %d" % rec.length
        if rec.offset > MAX_NUMBER:
            return "offset %d" % rec.offset
    if rec.type == CHECK and (rec.offset % CHECK_BLOCK or
                              len(rec.payload) != (rec.length + CHECK_BLOCK - 1) // CHECK_BLOCK * 16):
        return "CHECK of %d bytes at %d with %d bytes of digests" % (rec.length, rec.offset, len(rec.payload))
    if rec.type == CHECKED:
        return _check_ranges(rec)
    if rec.type == WRITE and rec.length != len(rec.payload):
        return "WRITE of length %d with %d bytes" % (rec.length, len(rec.payload))
    return None


def parse(data, position, place, seq=None):
    """The record at `position` of `data`; place says who wrote it, seq what its number must be."""
    header = data[position:position + HEADER]
    if len(header) < HEADER:
        raise Cut(position, "the bytes end within a header")
    (magic, kind, flags, volume, length, epoch, offset, extent, number, payload_crc, reserved,
     header_crc) = struct.unpack("<IHHIIQQQQIQI", header)
    if magic != MAGIC:
        raise Violation(position, "magic is 0x%08x" % magic)
    if header_crc != crc32c(header[:60]):
        raise Violation(position, "header CRC")
    if reserved:
        raise Violation(position, "reserved field is not zero")
    rule = RULES.get(kind)
    if not rule and not kind & OPTIONAL:
        raise Violation(position, "unknown mandatory type %d" % kind)
    if length > MAX_PAYLOAD:
        raise Violation(position, "payload of %d bytes" % length)
    if seq is not None and number != seq:
        raise Violation(position, "seq %d, expected %d" % (number, seq))
    padded = (length + 7) // 8 * 8
    body = bytes(data[position + HEADER:position + HEADER + padded])
    if len(body) < padded:
        raise Cut(position, "the bytes end within a payload")
    rec = Record(position, kind, flags, volume, epoch, offset, extent, number, body[:length],
                 HEADER + padded)
    reason = _check_rule(rec, rule, place) if rule else None
    if reason:
        raise Violation(position, reason)
    if payload_crc != (crc32c(rec.payload) if length else 0):
        raise Violation(position, "payload CRC")
    if any(body[length:]):
        raise Violation(position, "padding is not zero")
    try:
        if kind == PAGES:
            rec.runs = memory.parse_pages(flags, offset, extent, rec.payload)
        elif kind == STATE:
            rec.state = memory.parse_state(flags, extent, rec.payload)
    except memory.Bad as bad:
        raise Violation(position, str(bad)) from None
    return rec


@dataclass
class Hello:
    role: str
    group: bytes
    current: tuple  # (number, id)
    base: tuple
    history: list
    top: int
    committed: int
    journal: int
    seen: int
    flags: set
    heartbeat_ms: int
    name: str
    volumes: list  # of (name, size, uuid, kind)


HELLO_FIXED, HELLO_VOLUME, HELLO_HISTORY = 512, 96, 16
HELLO_FLAGS = ("consistent", "syncing", "unwritten", "yielded", "tracked", "clones")


def _generation(body, at, position):
    number, ident = struct.unpack_from("<QQ", body, at)
    if number > MAX_NUMBER or (number == 0) != (ident == 0):
        raise Violation(position + at, "generation %d with id %x" % (number, ident))
    return number, ident


def _parse_name(field, position, what):
    name = field.rstrip(b"\0")
    if not name or len(name) == len(field) or b"\0" in name:
        raise Violation(position, "%s is not a zero-padded name" % what)
    return name


def parse_hello(rec):
    """The payload of a HELLO."""
    body, at = rec.payload, rec.position + HEADER
    if len(body) < 16:
        raise Violation(at, "HELLO of %d bytes" % len(body))
    version, compat, role, count, = struct.unpack_from("<4I", body)
    if not compat <= 2 <= version:
        raise Violation(at, "versions %d..%d do not hold 2" % (compat, version))
    if len(body) < HELLO_FIXED:
        raise Violation(at, "HELLO of %d bytes" % len(body))
    (group, top, committed, journal, seen, flags, heartbeat, nhistory, idle,
     name) = struct.unpack_from("<16s32x4Q4I64s", body, 16)
    if role not in (1, 2):
        raise Violation(at + 8, "role %d" % role)
    if not 1 <= count <= 64:
        raise Violation(at + 12, "%d volumes" % count)
    if len(body) != HELLO_FIXED + HELLO_VOLUME * count:
        raise Violation(at + 12, "HELLO of %d bytes for %d volumes" % (len(body), count))
    if flags >> len(HELLO_FLAGS):
        raise Violation(at + 96, "unknown flags 0x%x" % flags)
    if idle >> nhistory or any(body[432:HELLO_FIXED]):
        raise Violation(at + 432, "reserved field is not zero")
    current, base = _generation(body, 32, at), _generation(body, 48, at)
    if nhistory > HELLO_HISTORY:
        raise Violation(at + 104, "history of %d" % nhistory)
    history = [_generation(body, 176 + 16 * i, at) for i in range(HELLO_HISTORY)]
    above = current[0] or MAX_NUMBER + 1
    for i, (number, _) in enumerate(history):
        if i < nhistory and not 0 < number < above or i >= nhistory and number:
            raise Violation(at + 176 + 16 * i, "generation %d in place %d of the history" %
                            (number, i))
        above = number
    if top > MAX_NUMBER or top < max(current[0], base[0]):
        raise Violation(at + 64, "highest generation %d below the current one or the base" % top)
    if role == 1 and (journal or seen):
        raise Violation(at + 80, "a primary has no journal and no newest epoch seen")
    if role == 1 and flags >> HELLO_FLAGS.index("clones") & 1:
        raise Violation(at + 96, "a primary offers clones")
    for field, number in ((72, committed), (88, seen)):
        if number > MAX_NUMBER:
            raise Violation(at + field, "number out of range")
    if role == 2 and seen < committed:
        raise Violation(at + 88, "committed an epoch above the newest ever seen")
    group_name = _parse_name(name, at + 112, "the group's name")
    volumes = []
    for i in range(count):
        where = HELLO_FIXED + HELLO_VOLUME * i
        kind, zero, size, uuid, label = struct.unpack_from("<IIQ16s64s", body, where)
        where += at
        if kind not in (1, 2, 3) or zero:
            raise Violation(where, "volume of kind %d, reserved %d" % (kind, zero))
        if size > MAX_NUMBER:
            raise Violation(where + 8, "size out of range")
        label = _parse_name(label, where + 32, "a volume's name")
        if label in [v[0] for v in volumes]:
            raise Violation(where + 32, "two volumes of one name")
        volumes.append((label, size, uuid, kind))
    return Hello(PRIMARY if role == 1 else SECONDARY, group, current, base, history[:nhistory], top,
                 committed, journal, seen,
                 {f for i, f in enumerate(HELLO_FLAGS) if flags >> i & 1}, heartbeat,
                 group_name.decode("utf-8", "replace"), volumes)
