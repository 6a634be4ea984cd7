/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Digests of a guest's memory and device state at one checkpoint (docs/stream.md, CHECK and
 * CHECKED): XXH3-128 of each MEMCHECK_BLOCK bytes.  Pure. */
#ifndef TANDEM_CORE_MEMCHECK_H
#define TANDEM_CORE_MEMCHECK_H

#include <stddef.h>

#include "core/record.h"

#define MEMCHECK_BLOCK (4u << 20)
#define MEMCHECK_DIGEST 16u
#define MEMCHECK_RECORD 1024u /* digests in one record at most */
#define MEMCHECK_RANGES 256u  /* ranges in an answer; what is beyond is counted only */
#define MEMCHECK_RANGE 24u    /* bytes of one */

/* Digests that so many bytes have. */
static inline uint64_t memcheck_blocks(uint64_t bytes)
{
	return bytes / MEMCHECK_BLOCK + (bytes % MEMCHECK_BLOCK != 0);
}

/* Of len bytes that stand in two pieces (more_len 0: in one). */
void memcheck_digest(const void *data, size_t len, const void *more, size_t more_len,
	uint8_t ret_digest[MEMCHECK_DIGEST]);

/* The primary's digests of a part of a volume, as they came. */
struct memcheck {
	struct memcheck *next;
	uint32_t volume;
	uint64_t offset, length;
	uint8_t digests[];
};

/* What a comparison found. */
struct memcheck_result {
	uint64_t epoch, bytes, differ; /* compared; of those in blocks that differ */
	unsigned nranges;
	struct memcheck_range {
		uint32_t volume;
		uint64_t offset, length;
	} ranges[MEMCHECK_RANGES];
};

void memcheck_add(struct memcheck_result *res, uint32_t volume, uint64_t offset, uint64_t length);

/* Whether a CHECK is sound in itself; NULL = it is. */
const char *memcheck_check_record(const struct record *rec);
/* A CHECKED: fills rec (but seq and CRC) and payload (MEMCHECK_RANGES * MEMCHECK_RANGE bytes). */
void memcheck_put_result(const struct memcheck_result *res, struct record *rec, uint8_t *payload);
/* NULL, or what is wrong. */
const char *memcheck_take_result(
	const struct record *rec, const uint8_t *payload, struct memcheck_result *ret_res);

#endif
