/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Little-endian fields at any alignment, and rounding.  All formats of Tandem are little-endian. */
#ifndef TANDEM_UTIL_BYTES_H
#define TANDEM_UTIL_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void put_le16(void *p, uint16_t v)
{
	v = htole16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put_le32(void *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put_le64(void *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
}

static inline uint16_t get_le16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return le16toh(v);
}

static inline uint32_t get_le32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static inline uint64_t get_le64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* align must be a power of two. */
static inline uint64_t round_up(uint64_t v, uint64_t align)
{
	return (v + align - 1) & ~(align - 1);
}

static inline uint64_t round_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* to ^= from; len: a multiple of 8. */
static inline void bytes_xor(void *to, const void *from, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t a, b;

		memcpy(&a, (char *)to + i, 8);
		memcpy(&b, (const char *)from + i, 8);
		a ^= b;
		memcpy((char *)to + i, &a, 8);
	}
}

static inline bool bytes_all_zero(const void *buf, size_t len)
{
	const unsigned char *p = buf;

	/* Overlapping memcmp: the first 16 bytes by hand, the rest against themselves. */
	for (size_t i = 0; i < 16; i++) {
		if (i == len)
			return true;
		if (p[i])
			return false;
	}
	return len == 16 || memcmp(p, p + 16, len - 16) == 0;
}

#endif
