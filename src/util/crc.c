/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C by isa-l; its entry point takes and returns the inverted register. */
#include "util/crc.h"

#include <limits.h>
#include <isa-l/crc.h>
#include <string.h>

uint32_t crc32c(const void *buf, size_t len)
{
	return crc32c_extend(0, buf, len);
}

uint32_t crc32c_extend(uint32_t crc, const void *buf, size_t len)
{
	const unsigned char *p = buf;

	crc = ~crc;
	while (len > 0) {
		size_t n = len > (INT_MAX & ~63) ? (INT_MAX & ~63) : len;

		/* isa-l reads the buffer only; its prototype lacks the const. */
		crc = crc32_iscsi((unsigned char *)(uintptr_t)p, (int)n, crc);
		p += n;
		len -= n;
	}
	return ~crc;
}

#define CRC_COPY_PIECE 16384u /* the copy is still in the first-level cache when it is summed */

uint32_t crc32c_copy(void *dst, const void *src, size_t len)
{
	const unsigned char *from = src;
	unsigned char *to = dst;
	uint32_t crc = 0xffffffffu;

	while (len > 0) {
		size_t n = len > CRC_COPY_PIECE ? CRC_COPY_PIECE : len;

		memcpy(to, from, n);
		crc = crc32_iscsi(to, (int)n, crc);
		to += n;
		from += n;
		len -= n;
	}
	return ~crc;
}
