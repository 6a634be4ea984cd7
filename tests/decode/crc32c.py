# SPDX-License-Identifier: LGPL-2.1-or-later
"""CRC-32C (RFC 3720, appendix B.4), eight bytes a step."""
import struct

_POLYNOMIAL = 0x82F63B78


def _make_tables():
    first = []
    for i in range(256):
        c = i
        for _ in range(8):
            c = c >> 1 ^ (_POLYNOMIAL if c & 1 else 0)
        first.append(c)
    tables = [first]
    for _ in range(7):
        last = tables[-1]
        tables.append([first[c & 255] ^ c >> 8 for c in last])
    return tables


_TABLES = _make_tables()


def crc32c(data):
    """The checksum of a bytes-like object."""
    t0, t1, t2, t3, t4, t5, t6, t7 = _TABLES
    crc = 0xFFFFFFFF
    data = bytes(data)
    whole = len(data) & ~7
    for word, in struct.iter_unpack("<Q", data[:whole]):
        word ^= crc
        crc = (t7[word & 255] ^ t6[word >> 8 & 255] ^ t5[word >> 16 & 255] ^ t4[word >> 24 & 255]
               ^ t3[word >> 32 & 255] ^ t2[word >> 40 & 255] ^ t1[word >> 48 & 255]
               ^ t0[word >> 56])
    for byte in data[whole:]:
        crc = t0[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
