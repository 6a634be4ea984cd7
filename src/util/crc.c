/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C by isa-l; its entry point takes and returns the inverted register. */
#include "util/crc.h"

#include <limits.h>
#include <isa-l/crc.h>

uint32_t crc32c(const void *buf, size_t len)
{
	const unsigned char *p = buf;
	uint32_t crc = 0xffffffffu;

	while (len > 0) {
		size_t n = len > (INT_MAX & ~63) ? (INT_MAX & ~63) : len;

		/* isa-l reads the buffer only; its prototype lacks the const. */
		crc = crc32_iscsi((unsigned char *)(uintptr_t)p, (int)n, crc);
		p += n;
		len -= n;
	}
	return ~crc;
}
