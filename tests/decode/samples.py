# SPDX-License-Identifier: LGPL-2.1-or-later
"""Good streams and journals, built by hand from the documents: for the decoder's own tests, and for
the corpus of the fuzzers."""
import struct

import journal
import memory
import records
from crc32c import crc32c

SIZE = 1 << 20  # of each volume
VOLUMES = ((b"vda", SIZE), (b"vdb", SIZE))
HEADER_FIELDS = ("magic", "type", "flags", "volume", "payload_len", "epoch", "offset", "length",
                 "seq", "payload_crc", "reserved", "header_crc")


def record(kind, payload=b"", **fields):
    """The bytes of one record; any header field, and the padding, may be given to spoil it."""
    values = dict(magic=records.MAGIC, type=kind, flags=0, volume=0, payload_len=len(payload),
                  epoch=0, offset=0, length=0, seq=0,
                  payload_crc=crc32c(payload) if payload else 0, reserved=0)
    padding = fields.pop("padding", bytes(-len(payload) % 8))
    values.update(fields)
    head = struct.pack("<IHHIIQQQQIQ", *(values[f] for f in HEADER_FIELDS[:-1]))
    return head + struct.pack("<I", fields.get("header_crc", crc32c(head))) + payload + padding


def hello_payload(role, volumes=VOLUMES, **fields):
    """As docs/stream.md has it: the primary has written since it was alone, the secondary stands at
    the generation before."""
    values = dict(version=2, compat=2, count=len(volumes), group=bytes(range(16)),
                  current=(3, 0x33) if role == 1 else (2, 0x22), base=(2, 0x22), top=3,
                  committed=10 if role == 1 else 9, journal=0 if role == 1 else 64 << 20,
                  seen=0 if role == 1 else 10, flags=1 | 16, heartbeat=500, idle=0, name=b"vm1",
                  history=((2, 0x22), (1, 0x11)) if role == 1 else ((1, 0x11),),
                  reserved=bytes(80))
    values.update(fields)
    v = values
    v.setdefault("nhistory", len(v["history"]))
    body = struct.pack("<4I16s8Q4I64s", v["version"], v["compat"], role, v["count"], v["group"],
                       *v["current"], *v["base"], v["top"], v["committed"], v["journal"],
                       v["seen"], v["flags"], v["heartbeat"], v["nhistory"], v["idle"], v["name"])
    body += b"".join(struct.pack("<QQ", *g) for g in v["history"])
    body += bytes(432 - len(body)) + v["reserved"]
    for name, size, *rest in volumes:
        kind, zero = rest if rest else (1, 0)
        body += struct.pack("<IIQ16s64s", kind, zero, size, b"uuid of " + name[:8].ljust(8), name)
    return body


def data(length, seed=1):
    return bytes((i * 31 + seed * 17 + i // 251) & 255 for i in range(length))


def write(epoch, offset, length, volume=0, flags=0, seed=1):
    return records.WRITE, dict(payload=data(length, seed), epoch=epoch, offset=offset,
                               length=length, volume=volume, flags=flags)


def zero(epoch, offset, length, volume=0, flags=0):
    return records.ZERO, dict(epoch=epoch, offset=offset, length=length, volume=volume,
                              flags=flags)


def dirty(volume, offset, length, bits=1, block=4096, words=None):
    """A piece of the secondary's dirty map."""
    words = words or (bits.bit_length() + 63) // 64
    return records.MAP, dict(volume=volume, offset=offset, length=length,
                             payload=struct.pack("<II", block, 0) + bits.to_bytes(8 * words, "little"))


def plain(kind, **fields):
    return kind, fields


def primary():
    """A full sync as epoch 11, then epochs 12 (two volumes), 13 (empty) and 14 and 15 mixed."""
    return [
        plain(records.HELLO, payload=hello_payload(1)),
        plain(records.SYNC_BEGIN, epoch=11, length=2 * SIZE),
        write(11, 0, 4096, flags=1),
        zero(11, 4096, SIZE - 4096, flags=3),
        write(11, 512, 100),
        zero(11, 0, SIZE, volume=1, flags=1),
        plain(records.SYNC_END, epoch=11, offset=4, length=4096 + SIZE - 4096 + 100 + SIZE),
        write(12, 8192, 1001, seed=2),
        zero(12, 0, 512, volume=1, flags=2),
        plain(records.HEARTBEAT),
        plain(records.SEAL, epoch=12, offset=2, length=1513),
        plain(records.SEAL, epoch=13, offset=0, length=0),
        write(14, 0, 1, seed=3),
        write(15, 1, 8, seed=4),
        plain(records.OPTIONAL | 77, payload=b"from the future", flags=0x1234, epoch=1, volume=99),
        write(14, SIZE - 16, 16, volume=1, seed=5),
        plain(records.SEAL, epoch=14, offset=2, length=17),
        plain(records.GOODBYE, payload="bis später".encode(), offset=1, length=3),
    ]


def secondary():
    """What the secondary says to it."""
    return [
        plain(records.HELLO, payload=hello_payload(2)),
        dirty(0, 0, SIZE, bits=1 << (SIZE - 1) // 4096 | 1),
        plain(records.MAP_END),
        plain(records.ACK_SYNCED, offset=2),
        plain(records.ACK_RECEIVED, epoch=9, offset=3, length=4096 + SIZE - 4096 + 100),
        plain(records.ACK_COMMITTED, epoch=11, offset=4, length=2 * SIZE + 100),
        plain(records.HEARTBEAT),
        plain(records.CHECKED, epoch=11, offset=8 << 20, length=4096, payload=struct.pack("<IIQQ", 1, 0, 0, 4096)),
        plain(records.ACK_RECEIVED, epoch=12, offset=6, length=2 * SIZE + 1613),
        plain(records.ACK_COMMITTED, epoch=12, offset=6, length=2 * SIZE + 1613),
        plain(records.ACK_COMMITTED, epoch=13, offset=6, length=2 * SIZE + 1613),
        plain(records.ACK_RECEIVED, epoch=14, offset=9, length=2 * SIZE + 1638),
        plain(records.ACK_COMMITTED, epoch=14, offset=8, length=2 * SIZE + 1630),
        plain(records.GOODBYE, offset=3, length=4),
    ]


GUEST = ((b"vda", SIZE, 1, 0), (b"ram", SIZE, 2, 0), (b"state", 256 << 20, 3, 0))
# "hello", a match that reaches into what it writes, and the end: 65,536 bytes in all
LZ4_HELLO = b"\x5fhello\x05\x00" + b"\xff" * 256 + bytes([65536 - 5 - 5 - 4 - 15 - 256 * 255]) + b"\x50hello"


def pages(epoch, runs, data=b"", flags=0, packed=None):
    """runs: of (offset, length), or (offset, length, "zero")."""
    table = b"".join(struct.pack("<QQ", r[0], r[1] | (1 << 63 if len(r) > 2 else 0)) for r in runs)
    return records.PAGES, dict(payload=table + (data if packed is None else packed), epoch=epoch,
                               volume=1, offset=len(runs), length=sum(r[1] for r in runs),
                               flags=flags)


def state(epoch, offset, length, flags=0, packed=None, seed=7):
    return records.STATE, dict(payload=data(length, seed) if packed is None else packed,
                               epoch=epoch, volume=2, offset=offset, length=length, flags=flags)


def guest():
    """A VM group: the first checkpoint (11) with the disk's sync; 12 is abandoned and merged into 13;
    the disk goes on with 13 and 14 while memory is still of an epoch before."""
    whole = data(8192, 9)
    frame = memory.zstd_compress(bytes(4096) + whole[:4096])
    return [
        plain(records.HELLO, payload=hello_payload(1, GUEST)),
        plain(records.SYNC_BEGIN, epoch=11, length=SIZE),
        write(11, 0, 4096, flags=1),
        zero(11, 4096, SIZE - 4096, flags=3),
        pages(11, [(0, 8192), (8192, SIZE - 8192, "zero")], whole),
        plain(records.SYNC_END, epoch=11, offset=3, length=2 * SIZE),
        write(12, 512, 100),
        pages(11, [(65536, 65536)], flags=memory.FLAG_LZ4, packed=LZ4_HELLO),
        state(11, 0, 3000),
        plain(records.SEAL, epoch=11, offset=5, length=2 * SIZE + 65536 + 3000),
        pages(12, [(4096, 4096)], whole[:4096]),
        write(13, 512, 50),
        plain(records.SEAL, epoch=12, offset=2, length=4196, flags=records.FLAG_MERGE),
        pages(13, [(0, 4096), (4096, 4096)], flags=memory.FLAG_ZSTD, packed=frame),
        write(14, 0, 512),
        state(13, 1000, 4096, flags=memory.FLAG_ZSTD, packed=memory.zstd_compress(bytes(4096))),
        plain(records.CHECK, epoch=13, volume=1, length=SIZE, payload=data(16)),
        plain(records.CHECK, epoch=13, volume=2, length=5096, payload=data(16)),
        plain(records.SEAL, epoch=13, offset=3, length=50 + 8192 + 4096),
        plain(records.GOODBYE, offset=1),
    ]


def join(items, first_seq=0):
    """The items as a stream, numbered."""
    out = []
    for i, (kind, fields) in enumerate(items):
        fields = dict(fields)
        fields.setdefault("seq", first_seq + i)
        out.append(record(kind, **fields))
    return b"".join(out)


LIFE1, LIFE2 = 0x1111222233334444, 0x5555666677778888


def header_crcs(body):
    """Of the records in a row."""
    at = 0
    while at + 64 <= len(body):
        payload, = struct.unpack_from("<I", body, at + 12)
        yield struct.unpack_from("<I", body, at + 60)[0]
        at += 64 + (payload + 7) // 8 * 8


class JournalFile:
    """A journal file that grows chunk by chunk, as a secondary writes it."""

    def __init__(self, tail=0, chain=0x77, applied=10, ring=4 * journal.SEGMENT):
        self.ring = ring
        self.tail, self.chain0, self.applied = tail, chain, applied
        self.position, self.chain = tail, chain
        self.spots = []  # (position, length) of each chunk
        self.bytes = bytearray(journal.RING_OFFSET + ring)
        self.header(0, serial=6)
        self.header(1, serial=7)

    def header(self, slot, spoil_crc=0, **fields):
        v = dict(magic=journal.HEADER_MAGIC, version=2, compat=2, serial=1, ring=self.ring,
                 segment=journal.SEGMENT, reserved=0, tail=self.tail, chain=self.chain0,
                 applied=self.applied, incarnation=LIFE1, group=bytes(range(16)), rest=b"")
        v.update(fields)
        body = struct.pack("<QIIQQIIQQQQ16s", *(v[k] for k in (
            "magic", "version", "compat", "serial", "ring", "segment", "reserved", "tail", "chain",
            "applied", "incarnation", "group"))) + v["rest"]
        body += bytes(4092 - len(body))
        self.bytes[slot * 4096:(slot + 1) * 4096] = body + struct.pack(
            "<I", crc32c(body) ^ spoil_crc)

    def offset(self, position):
        return journal.RING_OFFSET + position % self.ring

    def chunk(self, items, life=LIFE1, advance=True, seq=100, junk=b"", **fields):
        body = join(items, seq) if items and not isinstance(items, bytes) else items or b""
        v = dict(magic=journal.CHUNK_MAGIC, flags=0, position=self.position,
                 used=journal.CHUNK_HEADER + len(body), life=life, chain=self.chain, zero=0)
        v["length"] = (v["used"] + 4095) // 4096 * 4096
        v.update(fields)
        v.setdefault("own", journal.own_value(v["chain"], v["position"], v["life"]))
        v.setdefault("sum", journal.sum_of(v["own"], header_crcs(body)))
        head = struct.pack("<IIQIIQQQQI", v["magic"], v["flags"], v["position"], v["used"],
                           v["length"], v["life"], v["chain"], v["own"], v["sum"], v["zero"])
        head += struct.pack("<I", fields.get("crc", crc32c(head)))
        whole = head + body + junk
        whole += bytes(max(v["length"] - len(whole), 0))
        at = self.offset(self.position)
        self.bytes[at:at + len(whole)] = whole
        self.spots.append((self.position, v["length"]))
        if advance:
            skip = v["flags"] & journal.SKIP
            self.position += journal.SEGMENT - self.position % journal.SEGMENT if skip \
                else v["length"]
            self.chain = v["own"]


def journal_items():
    """The records of three chunks: epoch 11 committed, 12 discarded, 13 and 14 committed at once, 15
    left open by a lost connection."""
    own = dict(seq=0)
    return [
        [write(11, 0, 5000), zero(11, 8192, 4096, volume=1),
         plain(records.SEAL, epoch=11, offset=2, length=9096),
         plain(records.COMMIT, epoch=11, offset=2, length=9096, **own)],
        [write(12, 0, 100), plain(records.SEAL, epoch=12, offset=1, length=100),
         plain(records.DISCARD, **own), write(13, 50, 60), write(15, 0, 70000),
         plain(records.SEAL, epoch=13, offset=1, length=60),
         plain(records.SEAL, epoch=14, offset=0, length=0)],
        [plain(records.COMMIT, epoch=14, offset=9, length=99999, **own)],
    ]


def journal_file(rest_position=None, rest_life=LIFE1):
    """A log that wraps around the ring, with a SKIP and a second life; and where it ends, a chunk of
    an older lap (or, with rest_position 0 added to the end, of a dropped tail)."""
    file = JournalFile(tail=4 * journal.SEGMENT - 12288)
    first, second, third = journal_items()
    file.chunk(first[:1])
    file.chunk(None, flags=journal.SKIP)
    file.chunk(first[1:])
    file.chunk(second, life=LIFE2)
    file.chunk(third, life=LIFE2)
    end = file.position
    file.chunk([zero(3, 0, 4096)], life=rest_life, advance=False, chain=0x99,
               position=end - file.ring if rest_position is None else end + rest_position)
    return file
