/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Recovery from an arbitrary journal: journal_header_decode, journal_scan, and replica_recover with
 * what it leads to.  Input: the first 88 bytes of a header, then chunks one behind the other (the
 * gap that a SKIP chunk leaves in the ring is not in the input). */
#include <errno.h>
#include <string.h>

#include "core/journal.h"
#include "core/replica.h"
#include "fuzz.h"
#include "util/bytes.h"
#include "util/crc.h"

#define FUZZ_HEADER 88u
#define FUZZ_VOLUME (1ull << 40)

struct fuzz_log {
	const uint8_t *data;
	size_t size;
	bool repair;
	uint64_t chain; /* expected of the chunk that is repaired next */
	uint64_t base;  /* log position of data[at] */
	size_t at;
	uint8_t *chunk;             /* the one at base, JOURNAL_CHUNK_MAX bytes */
	uint64_t records, last_pos; /* reported */
};

/* Makes the chunk in l->chunk follow the one before it. */
static void fuzz_repair_chunk(struct fuzz_log *l, uint64_t pos)
{
	struct journal_chunk c = {
		.flags = get_le32(l->chunk + 4) & JOURNAL_CHUNK_SKIP,
		.pos = pos,
		.used = get_le32(l->chunk + 16),
		.len = (uint32_t)round_down(get_le32(l->chunk + 20), JOURNAL_BLOCK),
		.incarnation = get_le64(l->chunk + 24),
		.chain = l->chain,
	};
	size_t at = JOURNAL_CHUNK_HEADER, n;

	if (c.len == 0 || c.len > JOURNAL_CHUNK_MAX)
		c.len = JOURNAL_BLOCK;
	if (c.used < JOURNAL_CHUNK_HEADER || c.used > c.len)
		c.used = c.len;
	c.own = journal_chunk_own(&c);
	l->chain = c.own;
	while ((n = fuzz_repair_record(l->chunk + at, c.used - at)) > 0)
		at += n;
	journal_chunk_encode(l->chunk, &c);
}

static int fuzz_read(void *ctx, uint64_t pos, void *buf, size_t len)
{
	struct fuzz_log *l = ctx;

	FUZZ_REQUIRE(len <= JOURNAL_CHUNK_MAX);
	FUZZ_REQUIRE(pos % JOURNAL_SEGMENT + len <= JOURNAL_SEGMENT);
	if (pos == l->base || pos - l->base >= get_le32(l->chunk + 20)) {
		/* The head of the next chunk: everything before it has been read. */
		size_t have;

		if (pos != l->base)
			l->at += (size_t)min_u64(get_le32(l->chunk + 20), l->size - l->at);
		have = (size_t)min_u64(l->size - l->at, JOURNAL_CHUNK_MAX);
		memset(l->chunk, 0, JOURNAL_CHUNK_MAX);
		memcpy(l->chunk, l->data + l->at, have);
		l->base = pos;
		if (l->repair && have >= JOURNAL_BLOCK)
			fuzz_repair_chunk(l, pos);
	}
	if (pos - l->base + len > JOURNAL_CHUNK_MAX)
		return -EIO; /* of a chunk that is dropped, asked for again */
	memcpy(buf, l->chunk + (pos - l->base), len);
	return 0;
}

static void fuzz_rewind(struct fuzz_log *l, const struct journal_header *h)
{
	l->chain = h->tail_chain;
	l->base = h->tail;
	l->at = FUZZ_HEADER;
	l->records = l->last_pos = 0;
}

static int fuzz_record(void *ctx, const struct record *rec, uint64_t payload_pos,
	const struct journal_chunk *chunk)
{
	struct fuzz_log *s = ctx;

	FUZZ_REQUIRE(s->records == 0 || payload_pos != s->last_pos);
	FUZZ_REQUIRE(payload_pos >= chunk->pos + JOURNAL_CHUNK_HEADER + RECORD_HEADER_SIZE);
	FUZZ_REQUIRE(payload_pos + rec->payload <= chunk->pos + chunk->used);
	FUZZ_REQUIRE(chunk->used <= chunk->len && chunk->len <= JOURNAL_CHUNK_MAX);
	s->last_pos = payload_pos;
	s->records++;
	return 0;
}

static void fuzz_nothing(void *ctx)
{
}

static void fuzz_no_write(void *ctx, struct replica_chunk *c)
{
}

static void fuzz_no_send(void *ctx, const struct record *rec)
{
}

static void fuzz_recover(struct fuzz_log *l, const struct journal_header *h)
{
	static const struct replica_ops ops = {.chunk_write = fuzz_no_write,
		.journal_flush = fuzz_nothing,
		.send = fuzz_no_send,
		.apply_ready = fuzz_nothing,
		.changed = fuzz_nothing};
	struct replica_config cfg = {.volumes = 2,
		.sizes = {FUZZ_VOLUME, FUZZ_VOLUME},
		.staging_limit = 4 * JOURNAL_CHUNK_MAX};
	struct replica *r = replica_new(&cfg, h, 1, &ops, NULL);
	struct journal_header next;
	struct replica_batch b;
	const char *why = NULL;
	struct imap *m = imap_new();

	FUZZ_REQUIRE(r && m);
	fuzz_rewind(l, h);
	if (replica_recover(r, 0x1234, fuzz_read, l, &why) < 0) {
		FUZZ_REQUIRE(why);
	} else {
		FUZZ_REQUIRE(replica_read_map(r, 0, true, m) == 0);
		while (replica_batch_take(r, 1u << 20, &b))
			if (replica_batch_done(r, &b, &next))
				replica_tail_durable(r, &next);
		replica_session_begin(r);
		replica_session_end(r);
	}
	imap_free(m);
	replica_free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t block[JOURNAL_BLOCK] = {0}, *scratch;
	struct fuzz_log l = {.data = data, .size = size};
	struct journal_header h;
	struct journal_end end;

	memcpy(block, data, min_u64(size, sizeof(block)));
	(void)journal_header_decode(block, &h);
	if (size < FUZZ_HEADER)
		return 0;
	memset(block + FUZZ_HEADER, 0, sizeof(block) - FUZZ_HEADER);
	put_le32(block + JOURNAL_BLOCK - 4, crc32c(block, JOURNAL_BLOCK - 4));
	if (journal_header_decode(block, &h))
		return 0;
	FUZZ_REQUIRE(h.ring_size >= JOURNAL_MIN_RING && h.ring_size % JOURNAL_SEGMENT == 0);
	l.chunk = malloc(JOURNAL_CHUNK_MAX);
	scratch = malloc(JOURNAL_CHUNK_MAX);
	for (int repair = 0; repair < 2; repair++) {
		l.repair = repair;
		fuzz_rewind(&l, &h);
		if (journal_scan(&h, fuzz_read, fuzz_record, &l, scratch, &end) == 0) {
			FUZZ_REQUIRE(end.why);
			FUZZ_REQUIRE(end.pos - h.tail <= end.scanned - h.tail);
		}
		fuzz_recover(&l, &h);
	}
	free(l.chunk);
	free(scratch);
	return 0;
}
