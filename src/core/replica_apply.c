/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From committed epochs, or pieces of a full sync, to batches for the images. */
#include "core/replica_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "util/bytes.h"

static bool replica_batch_pin(struct replica_batch *b, size_t *cap, struct replica_chunk *c)
{
	/* Changes of one chunk stand together: looking at the newest few is enough to keep the
	 * list short; a chunk pinned twice is unpinned twice. */
	if (b->npinned && b->pinned[b->npinned - 1] == c)
		return true;
	if (b->npinned == *cap) {
		size_t n = *cap ? *cap * 2 : 16;
		struct replica_chunk **p = realloc(b->pinned, n * sizeof(*p));

		if (!p)
			return false;
		b->pinned = p;
		*cap = n;
	}
	b->pinned[b->npinned++] = c;
	c->pins++;
	return true;
}

static bool replica_batch_add(struct replica_batch *b, size_t *cap, const struct replica_change *ch)
{
	uint64_t source = IMAP_ZERO;

	if (!b->maps[ch->volume])
		b->maps[ch->volume] = imap_new();
	if (!b->maps[ch->volume])
		return false;
	if (!(ch->type_flags & 1)) {
		if (ch->chunk->buf) {
			if (!replica_batch_pin(b, cap, ch->chunk))
				return false;
			source = (uint64_t)(uintptr_t)(ch->chunk->buf + ch->at);
		} else {
			source = REPLICA_SOURCE_JOURNAL | (ch->chunk->head.pos + ch->at);
		}
	}
	return imap_insert(b->maps[ch->volume], ch->off, ch->len, source,
		       ch->type_flags & 2 ? 1 : 0) == 0;
}

static void replica_batch_free(struct replica *r, struct replica_batch *b)
{
	for (size_t i = 0; i < b->npinned; i++)
		b->pinned[i]->pins--;
	free(b->pinned);
	b->pinned = NULL;
	b->npinned = 0;
	for (unsigned i = 0; i < RECORD_MAX_VOLUMES; i++)
		b->maps[i] = imap_free(b->maps[i]);
	(void)r;
}

/* The changes of a full sync that stand in closed chunks become an epoch of their own. */
static struct replica_epoch *replica_direct_piece(struct replica *r)
{
	struct replica_epoch *e = r->open_first, *piece;
	size_t n;

	piece = calloc(1, sizeof(*piece));
	if (!piece)
		return NULL;
	piece->number = r->direct_epoch;
	if (!e || e->number != r->direct_epoch)
		return piece;
	for (n = e->count; n > 0 && e->changes[n - 1].chunk == r->filling; n--)
		;
	piece->changes = malloc((n ? n : 1) * sizeof(*piece->changes));
	if (!piece->changes) {
		free(piece);
		return NULL;
	}
	for (size_t i = 0; i < n; i++) {
		piece->changes[i] = e->changes[i];
		piece->bytes += e->changes[i].len;
	}
	piece->count = piece->capacity = n;
	for (size_t i = n; i < e->count; i++)
		e->changes[i - n] = e->changes[i];
	e->count -= n;
	e->bytes -= piece->bytes;
	e->taken_changes += n;
	e->taken_bytes += piece->bytes;
	return piece;
}

/* What older sessions have on its way to be committed goes to the images first. */
static bool replica_direct_ready(const struct replica *r)
{
	return r->mode == REPLICA_DIRECT && !r->direct_final && !r->direct_held &&
	       !r->direct_broken && !(r->open_first && r->open_first->commit_placed) &&
	       (r->direct_first || r->direct_sealed);
}

void replica_frozen(struct replica *r)
{
	r->freeze = 0;
	if (r->done_first)
		r->ops->apply_ready(r->ctx);
}

bool replica_batch_take(struct replica *r, uint64_t max_bytes, struct replica_batch *ret_batch)
{
	struct replica_batch b = {0};
	struct replica_epoch **end = &r->applying;
	bool merged = false;
	size_t cap = 0;

	if (r->batch_out || r->mode == REPLICA_FAILED)
		return false;
	if (r->done_first) {
		while (r->done_first && (!r->freeze || r->done_first->number <= r->freeze) &&
			(b.bytes == 0 || merged || b.bytes + r->done_first->bytes <= max_bytes)) {
			struct replica_epoch *e = r->done_first;

			merged = e->merged;

			r->done_first = e->next;
			if (!r->done_first)
				r->done_last = NULL;
			e->next = NULL;
			*end = e;
			end = &e->next;
			b.bytes += e->bytes;
			b.epoch = e->number;
		}
		if (!r->applying)
			return false;
	} else if (replica_direct_ready(r)) {
		r->applying = replica_direct_piece(r);
		if (!r->applying)
			return false;
		b.direct = true;
		b.final = r->direct_sealed;
		r->direct_taken += r->applying->count;
		b.changes = r->direct_taken;
		b.session = r->sessions;
		b.epoch = r->direct_epoch;
		b.bytes = r->applying->bytes;
		b.cloned = r->direct_cloned;
		r->batch_direct = true;
		r->direct_touched |= !b.cloned;
		r->direct_final = b.final;
	} else if (replica_tail_due(r)) {
		b.epoch = r->applied; /* nothing to write; the header frees the space */
	} else {
		return false;
	}
	r->batch_out = true;
	for (struct replica_epoch *e = r->applying; e; e = e->next) {
		for (size_t i = 0; i < e->count; i++) {
			if (!replica_batch_add(&b, &cap, &e->changes[i])) {
				replica_batch_free(r, &b);
				replica_fail(r, -ENOMEM, "out of memory");
				return false;
			}
		}
	}
	*ret_batch = b;
	return true;
}

/* It is carried out, or given up. */
static void replica_batch_end(struct replica *r, struct replica_batch *b)
{
	struct replica_epoch *e = r->applying;

	r->applying = NULL;
	r->batch_out = r->batch_direct = false;
	replica_batch_free(r, b);
	while (e) {
		struct replica_epoch *next = e->next;

		replica_index_applied(r, e);
		replica_epoch_drop(r, e);
		e = next;
	}
}

void replica_clone_failed(struct replica *r, struct replica_batch *b)
{
	replica_batch_end(r, b);
	replica_direct_trim(r);
	if (r->mode != REPLICA_DIRECT || b->session != r->sessions)
		return;
	r->direct_broken = r->severed = true;
	if (!r->session) /* else the receiver may hold a buffer of it */
		replica_session_end(r);
}

bool replica_cloning(const struct replica *r)
{
	return r->mode == REPLICA_DIRECT && r->direct_cloned;
}

bool replica_batch_done(
	struct replica *r, struct replica_batch *b, struct journal_header *ret_header)
{
	replica_batch_end(r, b);
	if (b->direct) {
		replica_direct_trim(r);
		if (!b->final)
			return false;
	}
	r->applied = max_u64(r->applied, b->epoch);
	replica_log_trim(r);
	/* Only a few at a time: the caller's lock is held. */
	if (!r->done_first && r->spares > REPLICA_SPARE_MAX)
		replica_spare_trim(
			r, r->spares - (unsigned)min_u64(8, r->spares - REPLICA_SPARE_MAX));
	*ret_header = r->durable;
	ret_header->serial++;
	ret_header->applied = r->applied;
	ret_header->incarnation = r->incarnation;
	ret_header->tail = r->log_first ? r->log_first->head.pos : r->head;
	ret_header->tail_chain = r->log_first ? r->log_first->head.chain : r->chain;
	r->tail_out = true;
	return true;
}

void replica_tail_durable(struct replica *r, const struct journal_header *h)
{
	r->durable = *h;
	r->tail_out = false;
	replica_log_kick(r);
}

void replica_direct_durable(struct replica *r, const struct replica_batch *b)
{
	struct record ack = {.type = RECORD_ACK_SYNCED, .offset = b->changes};

	if (replica_direct_current(r, b))
		r->ops->send(r->ctx, &ack);
}

bool replica_direct_current(const struct replica *r, const struct replica_batch *b)
{
	return b->direct && r->session && r->mode == REPLICA_DIRECT && b->session == r->sessions;
}

void replica_direct_committed(struct replica *r, uint64_t epoch)
{
	struct record ack = {.type = RECORD_ACK_COMMITTED,
		.epoch = epoch,
		.offset = r->sync_changes,
		.length = r->sync_bytes};
	struct replica_epoch *newest = NULL;
	bool current = r->mode == REPLICA_DIRECT && r->direct_final && epoch == r->direct_epoch;

	if (r->mode == REPLICA_FAILED)
		return;
	r->direct_touched = false;
	r->committed = max_u64(r->committed, epoch);
	r->received = max_u64(r->received, epoch);
	/* Else its session has ended meanwhile: the state is good all the same. */
	if (current || r->mode == REPLICA_EMPTY) {
		r->mode = REPLICA_READY;
		r->direct_ended = r->direct_final = r->direct_sealed = false;
	}
	if (current) {
		while (r->open_first && r->open_first->number <= epoch) {
			struct replica_epoch *e = r->open_first;

			r->open_first = e->next;
			replica_memory_commit(r, e);
			replica_epoch_drop(r, e);
		}
		if (r->session)
			r->ops->send(r->ctx, &ack);
	}
	for (struct replica_epoch *e = r->open_first; e && e->sealed; e = e->next)
		newest = e->merged ? newest : e;
	if (current && newest && r->session && replica_acks_seals(r)) {
		ack.epoch = newest->number;
		ack.offset = newest->total_changes;
		ack.length = newest->total_bytes;
		r->ops->send(r->ctx, &ack);
	}
	r->ops->changed(r->ctx);
	if (replica_commit_next(r) < 0)
		replica_fail(r, -ENOMEM, "out of memory");
}
