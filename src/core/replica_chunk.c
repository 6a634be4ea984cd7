/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Chunk buffers: where received bytes stand.  Two kinds:
 *
 *   staged   memory of the node; written to the journal when the chunk is closed, and bounded by
 *            staging_limit: what exceeds it is evicted and stands in the journal only
 *   mapped   the chunk's place in the ring itself, where that is mapped (a journal in memory):
 *            what is received there needs no write, and stays readable as long as the log has it
 *
 * A mapped chunk is the next of the log from the moment it is made, so there is one at most that is
 * not closed, the filling one, and nothing is placed before it. */
#include "core/replica_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

/* A mapped chunk gets at least that much of a segment, else it begins at the next one. */
#define REPLICA_MAPPED_MIN (JOURNAL_SEGMENT / 64)

static uint8_t *replica_spare_take(struct replica *r)
{
	struct replica_spare *s = r->spare;

	if (s) {
		r->spare = s->next;
		r->spares--;
	}
	return (uint8_t *)s;
}

void replica_spare_trim(struct replica *r, unsigned left)
{
	while (r->spares > left)
		free(replica_spare_take(r));
}

static struct replica_chunk *replica_chunk_staged(struct replica *r)
{
	struct replica_chunk *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	while (r->staged + JOURNAL_CHUNK_MAX > r->cfg.staging_limit && replica_evict(r))
		;
	c->buf = replica_spare_take(r);
	if (!c->buf)
		c->buf = aligned_alloc(JOURNAL_BLOCK, JOURNAL_CHUNK_MAX);
	if (!c->buf) {
		free(c);
		return NULL;
	}
	r->staged += JOURNAL_CHUNK_MAX;
	c->size = JOURNAL_CHUNK_MAX;
	c->head.used = JOURNAL_CHUNK_HEADER;
	return c;
}

uint64_t replica_place_behind(uint64_t head, uint64_t need)
{
	uint64_t rest = JOURNAL_SEGMENT - head % JOURNAL_SEGMENT;

	return rest < need ? head + rest : head;
}

/* Makes the place at pos the buffer of c, if the ring is mapped and that part of it is free. */
static bool replica_chunk_map(const struct replica *r, struct replica_chunk *c, uint64_t pos)
{
	uint64_t size = min_u64(JOURNAL_CHUNK_MAX, JOURNAL_SEGMENT - pos % JOURNAL_SEGMENT);

	if (!r->cfg.ring || replica_to_images(r) ||
		pos + size - r->durable.tail > r->durable.ring_size)
		return false;
	c->head.pos = pos;
	c->head.used = JOURNAL_CHUNK_HEADER;
	c->buf = r->cfg.ring + pos % r->durable.ring_size;
	c->size = (uint32_t)size;
	c->mapped = true;
	return true;
}

struct replica_chunk *replica_chunk_new(
	struct replica *r, uint64_t head, size_t need, struct replica_chunk **ret_skip)
{
	uint64_t pos = replica_place_behind(head, max_u64(need, REPLICA_MAPPED_MIN));
	struct replica_chunk *c, *skip = NULL;

	*ret_skip = NULL;
	if (!r->cfg.ring || replica_to_images(r))
		return replica_chunk_staged(r);
	c = calloc(1, sizeof(*c));
	if (c && pos != head)
		skip = calloc(1, sizeof(*skip));
	if (!c || (pos != head && !skip)) {
		free(c);
		return NULL;
	}
	if (replica_chunk_map(r, c, pos)) {
		if (skip)
			(void)replica_chunk_map(r, skip, head); /* before it: there is room */
		*ret_skip = skip;
		return c;
	}
	free(skip);
	free(c);
	return replica_chunk_staged(r);
}

struct replica_chunk *replica_chunk_skip(struct replica *r)
{
	struct replica_chunk *skip = calloc(1, sizeof(*skip));

	if (skip && replica_chunk_map(r, skip, r->head))
		return skip;
	free(skip);
	return replica_chunk_staged(r);
}

static void replica_chunk_drop_buffer(struct replica *r, struct replica_chunk *c)
{
	struct replica_spare *s;

	if (c->buf && !c->mapped) {
		s = (struct replica_spare *)(void *)c->buf;
		s->next = r->spare;
		r->spare = s;
		r->spares++;
		r->staged -= JOURNAL_CHUNK_MAX;
	}
	c->buf = NULL;
}

void replica_chunk_free(struct replica *r, struct replica_chunk *c)
{
	if (!c)
		return;
	replica_chunk_drop_buffer(r, c);
	free(c);
}

/* Frees the newest buffer that only saves a read from the journal; false = there is none.  The
 * images take the oldest first: those stay in memory until then, and a backlog of any length is
 * read back in part only. */
bool replica_evict(struct replica *r)
{
	struct replica_chunk *newest = NULL;

	for (struct replica_chunk *c = r->log_first; c && c != r->write_first; c = c->next)
		if (c->buf && !c->mapped && c->pins == 0)
			newest = c;
	if (newest)
		replica_chunk_drop_buffer(r, newest);
	return newest != NULL;
}

int replica_filling_get(struct replica *r)
{
	struct replica_chunk *skip;

	if (r->filling)
		return 0;
	r->filling = replica_chunk_new(
		r, r->head, JOURNAL_CHUNK_HEADER + r->rx_size + 2 * RECORD_HEADER_SIZE, &skip);
	if (!r->filling)
		return -ENOMEM;
	r->rx_at = r->rx_len = JOURNAL_CHUNK_HEADER;
	r->rx_sum = (struct record_sum){0};
	if (skip)
		replica_log_skip(r, skip);
	return 0;
}

/* What was received moves to another buffer; nothing whole is in the chunk. */
static void replica_filling_move(
	struct replica *r, struct replica_chunk *to, struct replica_chunk *skip)
{
	struct replica_chunk *c = r->filling;

	memcpy(to->buf + JOURNAL_CHUNK_HEADER, c->buf + r->rx_at, r->rx_len - r->rx_at);
	r->rx_len = JOURNAL_CHUNK_HEADER + r->rx_len - r->rx_at;
	r->rx_at = JOURNAL_CHUNK_HEADER;
	r->filling = to;
	/* The skip stands where they stood. */
	replica_chunk_free(r, c);
	if (skip)
		replica_log_skip(r, skip);
}

int replica_filling_fit(struct replica *r, size_t need)
{
	struct replica_chunk *c = r->filling, *to, *skip;

	need += JOURNAL_CHUNK_HEADER + 2 * RECORD_HEADER_SIZE;
	if (!c || c->head.used != JOURNAL_CHUNK_HEADER || c->size >= need)
		return 0;
	to = replica_chunk_new(r, r->head, need, &skip);
	if (!to)
		return -ENOMEM;
	replica_filling_move(r, to, skip);
	return 0;
}

int replica_filling_stage(struct replica *r)
{
	struct replica_chunk *to;

	if (!r->filling || !r->filling->mapped)
		return 0;
	to = replica_chunk_staged(r);
	if (!to)
		return -ENOMEM;
	replica_filling_move(r, to, NULL);
	return 0;
}

int replica_insert_record(struct replica *r, const struct record *rec)
{
	uint8_t *at;

	/* The space that is left free behind it is for two; a third needs another chunk. */
	if (r->filling && r->rx_len + 2 * RECORD_HEADER_SIZE > r->filling->size &&
		replica_chunk_close(r) < 0)
		return -ENOMEM;
	if (replica_filling_get(r) < 0)
		return -ENOMEM;
	/* What was received behind it moves up by one header. */
	at = r->filling->buf + r->rx_at;
	memmove(at + RECORD_HEADER_SIZE, at, r->rx_len - r->rx_at);
	record_put_header(at, rec);
	r->rx_at += RECORD_HEADER_SIZE;
	r->rx_len += RECORD_HEADER_SIZE;
	r->filling->head.used = r->rx_at;
	return 0;
}
