/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What replica_memory.c (memory and state as they come) and replica_memory_apply.c (from the commit
 * into the image) share. */
#ifndef TANDEM_CORE_REPLICA_MEMORY_H
#define TANDEM_CORE_REPLICA_MEMORY_H

#include "core/pages.h"
#include "core/replica_internal.h"

struct replica_block {
	struct replica_block *next;
	uint32_t size, runs; /* bytes of data; entries */
	uint8_t bytes[];     /* run table, then data */
};

enum replica_memory_place { REPLICA_MEMORY_BLOCKS, REPLICA_MEMORY_SECOND, REPLICA_MEMORY_IMAGE };

struct replica_memory {
	struct replica_memory *next;
	uint64_t epoch;
	enum replica_memory_place place;
	bool whole; /* what it does not name is zero */
	struct replica_block *first, *last;
	uint64_t held;
	bool has_state;
	uint8_t *state;
	size_t state_len;
	struct memcheck *checks; /* digests of what it is to be, as they came */
};

static inline size_t replica_memory_words(const struct replica *r)
{
	return (r->cfg.sizes[r->cfg.memory] / PAGES_PAGE + 63) / 64;
}

static inline bool replica_memory_bit(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> page % 64 & 1;
}

/* It no longer has the second image. */
void replica_memory_leave_second(struct replica *r, struct replica_memory *m);
void replica_memory_free(struct replica *r, struct replica_memory *m);

#endif
