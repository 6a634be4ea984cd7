/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Chunks: placing in the ring, writing in order, committing, forgetting. */
#include "core/replica_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

static void replica_log_append(struct replica *r, struct replica_chunk *c)
{
	c->next = NULL;
	if (r->log_last)
		r->log_last->next = c;
	else
		r->log_first = c;
	r->log_last = c;
	if (!r->write_first)
		r->write_first = c;
}

/* Gives the chunk its place behind the head. */
static void replica_place(struct replica *r, struct replica_chunk *c)
{
	c->head.len = (uint32_t)round_up(c->head.used, JOURNAL_BLOCK);
	c->head.pos = r->head;
	c->head.incarnation = r->incarnation;
	c->head.chain = r->chain;
	c->head.own = journal_chunk_own(&c->head);
	journal_chunk_encode(c->buf, &c->head);
	r->chain = c->head.own;
	r->head += c->head.flags & JOURNAL_CHUNK_SKIP ? JOURNAL_SEGMENT - r->head % JOURNAL_SEGMENT
						      : c->head.len;
	c->state = REPLICA_CHUNK_WAITING;
	replica_log_append(r, c);
}

static void replica_flush_start(struct replica *r)
{
	if (r->flushing || r->flush_want <= r->flush_sent || r->mode == REPLICA_FAILED)
		return;
	r->flushing = true;
	r->flush_sent = r->flush_want;
	r->ops->journal_flush(r->ctx);
}

/* What is written in the order of the log; a COMMIT among it asks for a flush. */
static void replica_log_advance(struct replica *r)
{
	while (r->write_first && r->write_first->state == REPLICA_CHUNK_WRITTEN) {
		r->flush_want = max_u64(r->flush_want, r->write_first->commit);
		r->write_first = r->write_first->next;
	}
	replica_flush_start(r);
	replica_log_trim(r);
}

/* Starts the writes for which there is room, in order.  A mapped chunk stands where it belongs. */
void replica_log_kick(struct replica *r)
{
	bool mapped = false;

	for (struct replica_chunk *c = r->write_first; c; c = c->next) {
		uint64_t end = c->head.pos + c->head.len;

		if (c->state != REPLICA_CHUNK_WAITING)
			continue;
		if (r->mode == REPLICA_FAILED || end - r->durable.tail > r->durable.ring_size)
			break;
		c->state = c->mapped ? REPLICA_CHUNK_WRITTEN : REPLICA_CHUNK_WRITING;
		mapped |= c->mapped;
		if (!c->mapped)
			r->ops->chunk_write(r->ctx, c);
	}
	if (mapped)
		replica_log_advance(r);
}

void replica_log_skip(struct replica *r, struct replica_chunk *skip)
{
	skip->head.flags = JOURNAL_CHUNK_SKIP;
	skip->head.used = JOURNAL_CHUNK_HEADER;
	replica_place(r, skip);
}

/* The chunk in which what was received behind the whole records goes on, and what is skipped before
 * it. */
struct replica_chunk_pair {
	struct replica_chunk *chunk, *skip;
};

/* All memory first, so that nothing has changed when there is none. */
static int replica_chunk_prepare(struct replica *r, const struct replica_chunk *c,
	struct replica_chunk **ret_skip, struct replica_chunk_pair *ret_next)
{
	uint32_t len = (uint32_t)round_up(c->head.used, JOURNAL_BLOCK);
	uint64_t pos = c->mapped ? c->head.pos : replica_place_behind(r->head, len);
	struct replica_chunk *skip = NULL;
	uint32_t rest = r->rx_len - r->rx_at;

	*ret_next = (struct replica_chunk_pair){NULL, NULL};
	if (!replica_to_images(r) && pos != r->head) {
		skip = replica_chunk_skip(r);
		if (!skip)
			return -ENOMEM;
	}
	if (rest > 0) {
		ret_next->chunk = replica_chunk_new(r, pos + len,
			JOURNAL_CHUNK_HEADER + max_u64(rest, r->rx_need) + 2 * RECORD_HEADER_SIZE,
			&ret_next->skip);
		if (!ret_next->chunk) {
			replica_chunk_free(r, skip);
			return -ENOMEM;
		}
	}
	*ret_skip = skip;
	return 0;
}

static void replica_direct_append(struct replica *r, struct replica_chunk *c)
{
	c->state = REPLICA_CHUNK_WRITTEN;
	c->next = NULL;
	if (r->direct_last)
		r->direct_last->next = c;
	else
		r->direct_first = c;
	r->direct_last = c;
	r->ops->apply_ready(r->ctx);
}

int replica_chunk_close(struct replica *r)
{
	struct replica_chunk *c = r->filling, *skip;
	uint32_t rest = r->rx_len - r->rx_at;
	struct replica_chunk_pair next;

	if (!c || c->head.used == JOURNAL_CHUNK_HEADER)
		return 0;
	if (replica_chunk_prepare(r, c, &skip, &next) < 0)
		return -ENOMEM;
	/* Before anything is placed: that zeroes what is behind the whole records.  Of two mapped
	 * chunks the places overlap as long as the first is not cut to its length. */
	if (rest > 0)
		memmove(next.chunk->buf + JOURNAL_CHUNK_HEADER, c->buf + r->rx_at, rest);
	r->filling = next.chunk;
	r->rx_at = JOURNAL_CHUNK_HEADER;
	r->rx_len = JOURNAL_CHUNK_HEADER + rest;
	if (replica_to_images(r)) {
		replica_direct_append(r, c);
		return 0;
	}
	if (skip)
		replica_log_skip(r, skip);
	replica_place(r, c);
	if (next.skip)
		replica_log_skip(r, next.skip);
	replica_log_kick(r);
	return 0;
}

/* COMMIT of every sealed epoch that may go, as one record of the newest, in the chunk that is
 * closed with it: one write, one flush. */
int replica_commit_next(struct replica *r)
{
	struct replica_epoch *newest = NULL;

	r->commit_due = r->lent;
	if (r->mode != REPLICA_READY || r->lent)
		return 0;
	for (struct replica_epoch *e = r->open_first; e && e->sealed; e = e->next) {
		if (r->cfg.manual && e->number > r->commit_allowed)
			break;
		if (!e->commit_placed && !e->merged)
			newest = e;
	}
	if (!newest)
		return 0;
	struct record rec = {.type = RECORD_COMMIT,
		.epoch = newest->number,
		.offset = newest->total_changes,
		.length = newest->total_bytes};

	if (replica_insert_record(r, &rec) < 0)
		return -ENOMEM;
	r->filling->commit = newest->number;
	for (struct replica_epoch *e = r->open_first; e != newest->next; e = e->next)
		e->commit_placed = true;
	return replica_chunk_close(r);
}

int replica_settle(struct replica *r)
{
	struct record discard = {.type = RECORD_DISCARD};

	/* COMMIT first: what was to be committed before a discard is not part of it. */
	if (r->commit_due && replica_commit_next(r) < 0)
		return -ENOMEM;
	if (r->discard_due && replica_insert_record(r, &discard) < 0)
		return -ENOMEM;
	r->discard_due = false;
	return 0;
}

bool replica_space_low(const struct replica *r)
{
	return r->head - r->durable.tail + REPLICA_JOURNAL_ROOM > r->durable.ring_size;
}

static uint64_t replica_tail(const struct replica *r)
{
	return r->log_first ? r->log_first->head.pos : r->head;
}

bool replica_tail_due(const struct replica *r)
{
	return !r->tail_out && replica_tail(r) - r->durable.tail >= JOURNAL_SEGMENT;
}

void replica_chunk_written(struct replica *r, struct replica_chunk *c, int err)
{
	if (err < 0) {
		replica_fail(r, err, "cannot write the journal");
		return;
	}
	c->state = REPLICA_CHUNK_WRITTEN;
	replica_log_advance(r);
}

void replica_flushed(struct replica *r, int err)
{
	r->flushing = false;
	if (err < 0) {
		replica_fail(r, err, "cannot flush the journal");
		return;
	}
	if (r->mode == REPLICA_FAILED)
		return; /* whatever it was, nothing is promised any more */
	if (r->flush_sent > r->committed)
		replica_mark_committed(r, r->flush_sent);
	replica_flush_start(r);
}

/* Forgets the chunks at the old end that nothing needs.  A chunk with a COMMIT is needed until that
 * epoch is applied: recovery must find it, or not need it. */
void replica_log_trim(struct replica *r)
{
	while (r->log_first && r->log_first != r->write_first) {
		struct replica_chunk *c = r->log_first;

		if (c->changes || c->pins || c->commit > r->applied || c->commit > r->committed)
			break;
		r->log_first = c->next;
		if (!r->log_first)
			r->log_last = NULL;
		replica_chunk_free(r, c);
	}
	if (!r->batch_out && replica_tail_due(r))
		r->ops->apply_ready(r->ctx);
}

struct replica_chunk *replica_chunk_pin(struct replica *r, uint64_t pos)
{
	for (struct replica_chunk *c = r->log_first; c && c->head.pos <= pos; c = c->next) {
		if (pos < c->head.pos + c->head.len) {
			if (!c->buf)
				return NULL;
			c->pins++;
			return c;
		}
	}
	return NULL;
}

bool replica_written(const struct replica *r, uint64_t pos)
{
	return pos < (r->write_first ? r->write_first->head.pos : r->head);
}

void replica_chunk_unpin(struct replica *r, struct replica_chunk *c)
{
	c->pins--;
	replica_log_trim(r);
}
