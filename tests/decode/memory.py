# SPDX-License-Identifier: LGPL-2.1-or-later
"""PAGES and STATE, as docs/stream.md ("PAGES and STATE") has them.

LZ4 blocks are decoded here, from the format's description; zstd by its library."""
import ctypes
import struct
from dataclasses import dataclass

PAGE, MAX_RUNS, RUN = 4096, 256, 16
MAX_DATA = (1 << 20) - PAGE
FLAG_LZ4, FLAG_ZSTD = 4, 8


class Bad(Exception):
    """Why it is not what the document allows."""


@dataclass
class Run:
    offset: int
    length: int
    data: bytes  # None: zero
    delta: bool = False  # the data is the XOR with what the pages were


def lz4_block(src, want):
    """Decodes one LZ4 block that must give exactly `want` bytes."""
    out, at = bytearray(), 0

    def length(value):
        """A length of 15 goes on in further bytes, up to one that is not 255."""
        nonlocal at
        more = 255 if value == 15 else 0
        while more == 255:
            more = src[at]
            at += 1
            value += more
        return value

    try:
        while True:
            token = src[at]
            at += 1
            literals = length(token >> 4)
            if at + literals > len(src):
                raise Bad("LZ4: literals beyond the end")
            out += src[at:at + literals]
            at += literals
            if at == len(src):
                break
            back = src[at] | src[at + 1] << 8
            at += 2
            match = length(token & 15) + 4
            if not 0 < back <= len(out):
                raise Bad("LZ4: a match before the beginning")
            if len(out) + match > want:
                raise Bad("LZ4: more than expected")
            while match > 0:  # a match may reach into what it writes
                piece = out[len(out) - back:len(out) - back + match]
                out += piece
                match -= len(piece)
    except IndexError:
        raise Bad("LZ4: it ends within a sequence") from None
    if len(out) != want:
        raise Bad("LZ4: %d bytes, expected %d" % (len(out), want))
    return bytes(out)


def _zstd():
    lib = ctypes.CDLL("libzstd.so.1")
    for name in ("ZSTD_decompress", "ZSTD_findFrameCompressedSize", "ZSTD_compress"):
        getattr(lib, name).restype = ctypes.c_size_t
    lib.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    return lib


def zstd_frame(src, want):
    """Decodes one zstd frame that names `want` as its content size and gives it."""
    lib, length, out = _zstd(), ctypes.c_size_t(len(src)), ctypes.create_string_buffer(want)
    if lib.ZSTD_findFrameCompressedSize(src, length) != len(src):
        raise Bad("zstd: not one frame")
    if lib.ZSTD_getFrameContentSize(src, length) != want:
        raise Bad("zstd: the content size is not %d" % want)
    if lib.ZSTD_decompress(out, ctypes.c_size_t(want), src, length) != want:
        raise Bad("zstd: damaged")
    return out.raw


def zstd_compress(data):
    """For samples: one frame that names its size."""
    out = ctypes.create_string_buffer(len(data) + 1024)
    n = _zstd().ZSTD_compress(out, ctypes.c_size_t(len(out)), data, ctypes.c_size_t(len(data)), 1)
    return out.raw[:n]


def _unpack(flags, src, want):
    if flags & FLAG_LZ4 and flags & FLAG_ZSTD:
        raise Bad("two kinds of compression")
    if not flags & (FLAG_LZ4 | FLAG_ZSTD):
        if len(src) != want:
            raise Bad("%d bytes of data, expected %d" % (len(src), want))
        return src
    if not 0 < len(src) < want:
        raise Bad("%d bytes of compressed data for %d" % (len(src), want))
    return lz4_block(src, want) if flags & FLAG_LZ4 else zstd_frame(src, want)


def parse_pages(flags, count, total, payload):
    """The runs of a PAGES record with these fields."""
    if not 1 <= count <= MAX_RUNS:
        raise Bad("%d runs" % count)
    if len(payload) < count * RUN:
        raise Bad("payload of %d bytes for %d runs" % (len(payload), count))
    runs = []
    for i in range(count):
        offset, length = struct.unpack_from("<QQ", payload, i * RUN)
        zero, delta, length = length >> 63, length >> 62 & 1, length & (1 << 62) - 1
        if zero and delta:
            raise Bad("run at %d that is zero and a difference" % offset)
        if not 0 < length <= 1 << 62 or offset > 1 << 62 or length % PAGE or offset % PAGE:
            raise Bad("run of %d bytes at %d" % (length, offset))
        runs.append((offset, length, zero, delta))
    if sum(run[1] for run in runs) != total:
        raise Bad("runs of %d bytes in a PAGES of %d" % (sum(run[1] for run in runs), total))
    want = sum(length for _, length, zero, _ in runs if not zero)
    if want > MAX_DATA:
        raise Bad("%d bytes of data in one PAGES" % want)
    data = _unpack(flags, payload[count * RUN:], want)
    done, at = [], 0
    for offset, length, zero, delta in runs:
        done.append(Run(offset, length, None if zero else data[at:at + length], bool(delta)))
        at += 0 if zero else length
    return done


def parse_state(flags, length, payload):
    """The bytes of a STATE record with these fields."""
    if not 0 < length <= 1 << 20:
        raise Bad("STATE of %d bytes" % length)
    return _unpack(flags, payload, length)
