# SPDX-License-Identifier: LGPL-2.1-or-later
"""CRC-32C (RFC 3720, appendix B.4): by the table, and faster by a library where there is one."""
import ctypes
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


def crc32c_by_table(data):
    """Eight bytes a step."""
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


def _load():
    """The library's function, if it computes what the table does."""
    try:
        update = ctypes.CDLL("libisal.so.2").crc32_iscsi
    except (OSError, AttributeError):
        return None
    update.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_uint)
    update.restype = ctypes.c_uint

    def crc32c_by_library(data):
        data = bytes(data)
        return update(data, len(data), 0xFFFFFFFF) ^ 0xFFFFFFFF

    sample = bytes(i * i % 251 for i in range(4099))
    for n in (0, 1, 7, 8, 60, 4092, 4099):
        if crc32c_by_library(sample[:n]) != crc32c_by_table(sample[:n]):
            return None
    return crc32c_by_library


crc32c = _load() or crc32c_by_table
"""The checksum of a bytes-like object."""
