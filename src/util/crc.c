/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C by isa-l; its entry point takes and returns the inverted register. */
#include "util/crc.h"

#include <limits.h>
#include <isa-l/crc.h>
#include <string.h>

#include "util/copy.h"

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

#define CRC_COPY_PIECE 16384u /* what is copied is summed while it is in the nearest cache */
/* A copy of that size would push its source out of the caches. */
#define CRC_COPY_PAST (64u << 10)

static uint32_t crc_copy_near(
	unsigned char *to, const unsigned char *from, size_t len, uint32_t crc)
{
	for (size_t n; len > 0; to += n, from += n, len -= n) {
		n = len > CRC_COPY_PIECE ? CRC_COPY_PIECE : len;
		memcpy(to, from, n);
		crc = crc32_iscsi(to, (int)n, crc);
	}
	return crc;
}

/* Whole lines of the target; the source is summed, and is then read from the cache. */
static uint32_t crc_copy_past(
	unsigned char *to, const unsigned char *from, size_t len, uint32_t crc)
{
	for (size_t n; len > 0; to += n, from += n, len -= n) {
		n = len > CRC_COPY_PIECE ? CRC_COPY_PIECE : len;
		crc = crc32_iscsi((unsigned char *)(uintptr_t)from, (int)n, crc);
		copy_past(to, from, n);
	}
	copy_past_end();
	return crc;
}

uint32_t crc32c_copy(void *dst, const void *src, size_t len)
{
	const unsigned char *from = src;
	unsigned char *to = dst;
	uint32_t crc = 0xffffffffu;

	if (len >= CRC_COPY_PAST) {
		size_t lead = -(uintptr_t)to % COPY_LINE;
		size_t lines = (len - lead) & ~(size_t)(COPY_LINE - 1);

		crc = crc_copy_near(to, from, lead, crc);
		crc = crc_copy_past(to + lead, from + lead, lines, crc);
		to += lead + lines;
		from += lead + lines;
		len -= lead + lines;
	}
	return ~crc_copy_near(to, from, len, crc);
}
