/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Digests of blocks in the stream (docs/stream.md, DIGEST and DIFFER): before a sync the primary
 * asks which of the blocks that it wants to send differ at all; a verify asks about all of them.
 * Pure; the digests themselves are the caller's. */
#ifndef TANDEM_CORE_DIGEST_H
#define TANDEM_CORE_DIGEST_H

#include "core/record.h"

#define DIGEST_SIZE 16u   /* bytes of one */
#define DIGEST_BLOCKS 64u /* in one record */

struct digest {
	uint64_t off, len; /* bytes; the last block may be short */
	uint64_t epoch;    /* as of the record */
	uint32_t volume, block;
	unsigned count;
	bool frozen; /* of the disks as of a FREEZE */
	bool held;   /* ... with what an interrupted sync has left */
	uint8_t sum[DIGEST_BLOCKS][DIGEST_SIZE];
};

/* Fills rec (but seq and CRC) and payload (RECORD_MAX_DIGEST bytes). */
void digest_put(const struct digest *d, struct record *rec, uint8_t *payload);
/* NULL, or what is wrong. */
const char *digest_take(const struct record *rec, const uint8_t *payload, struct digest *ret_d);
/* The answer: a bit per block, 1 = it differs. */
void digest_put_answer(
	const struct digest *d, uint64_t differ, struct record *rec, uint8_t *payload);
const char *digest_take_answer(const struct record *rec, const uint8_t *payload,
	struct digest *ret_d, uint64_t *ret_differ);

#endif
