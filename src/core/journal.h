/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal's format (docs/journal.md): header slots, chunks, positions, and the walk that
 * recovery does.  Pure: bytes in and out; reading is the caller's function. */
#ifndef TANDEM_CORE_JOURNAL_H
#define TANDEM_CORE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/record.h"
#include "util/uuid.h"

#define JOURNAL_BLOCK 4096u /* unit of every write */
#ifdef TANDEM_SMALL_SIZES
#define JOURNAL_RING_OFFSET 8192u
#define JOURNAL_SEGMENT (64u << 10)
#else
#define JOURNAL_RING_OFFSET (1u << 20) /* of the ring in the file */
#define JOURNAL_SEGMENT (4u << 20)
#endif
#define JOURNAL_CHUNK_HEADER 64u
#define JOURNAL_CHUNK_MAX (RECORD_MAX_PAYLOAD + RECORD_MAX_PAYLOAD / 4)
#define JOURNAL_MIN_RING (4ull * JOURNAL_SEGMENT)
#define JOURNAL_CHUNK_SKIP 1u /* flag */

struct journal_header {
	uint64_t serial;
	uint64_t ring_size;
	uint64_t tail;       /* position of the first chunk that recovery reads */
	uint64_t tail_chain; /* chain value expected there */
	uint64_t applied;    /* epoch */
	uint64_t incarnation;
	struct uuid group;
};

struct journal_chunk {
	uint32_t flags;
	uint64_t pos;
	uint32_t used; /* header and records */
	uint32_t len;  /* multiple of JOURNAL_BLOCK */
	uint64_t incarnation;
	uint64_t chain;
	uint64_t own;
	uint64_t sum; /* read: of its records; 0 = written by version 1, which had none */
};

static inline uint64_t journal_file_offset(uint64_t ring_size, uint64_t pos)
{
	return JOURNAL_RING_OFFSET + pos % ring_size;
}

uint64_t journal_chunk_own(const struct journal_chunk *c);

/* buf: JOURNAL_BLOCK bytes. */
void journal_header_encode(uint8_t *buf, const struct journal_header *h);
/* NULL = valid, else why not. */
const char *journal_header_decode(const uint8_t *buf, struct journal_header *ret_header);
/* Fills the chunk's header bytes and zeroes from used to len. */
void journal_chunk_encode(uint8_t *buf, const struct journal_chunk *c);
/* Accepts only what follows chain at pos. */
const char *journal_chunk_decode(
	const uint8_t *buf, uint64_t pos, uint64_t chain, struct journal_chunk *ret_chunk);

/* len bytes of the ring at position pos (never across a segment's end); 0 or negative errno. */
typedef int (*journal_read_fn)(void *ctx, uint64_t pos, void *buf, size_t len);
/* One valid record; payload_pos is the log position of its payload.  Negative errno ends the walk.
 */
typedef int (*journal_record_fn)(void *ctx, const struct record *rec, uint64_t payload_pos,
	const struct journal_chunk *chunk);

struct journal_end {
	uint64_t pos, chain; /* where the next chunk goes: behind the last chunk with a COMMIT */
	uint64_t scanned, scanned_chain; /* end of the valid chunks */
	const char *why;                 /* what ended the walk there */
};

/* Walks from h->tail over every valid chunk.  A chunk is looked at whole before any of its records
 * is reported.  buf: JOURNAL_CHUNK_MAX bytes of scratch. */
int journal_scan(const struct journal_header *h, journal_read_fn read_fn,
	journal_record_fn record_fn, void *ctx, uint8_t *buf, struct journal_end *ret_end);

#endif
