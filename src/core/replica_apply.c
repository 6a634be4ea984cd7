/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From committed epochs to batches for the images, and recovery of the epochs from the journal. */
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
	return piece;
}

bool replica_batch_take(struct replica *r, uint64_t max_bytes, struct replica_batch *ret_batch)
{
	struct replica_batch b = {0};
	struct replica_epoch **end = &r->applying;
	size_t cap = 0;

	if (r->batch_out || r->mode == REPLICA_FAILED)
		return false;
	if (r->done_first) {
		while (r->done_first &&
			(b.bytes == 0 || b.bytes + r->done_first->bytes <= max_bytes)) {
			struct replica_epoch *e = r->done_first;

			r->done_first = e->next;
			if (!r->done_first)
				r->done_last = NULL;
			e->next = NULL;
			*end = e;
			end = &e->next;
			b.bytes += e->bytes;
			b.epoch = e->number;
		}
	} else if (r->mode == REPLICA_DIRECT && (r->direct_first || r->direct_ended)) {
		r->applying = replica_direct_piece(r);
		if (!r->applying)
			return false;
		b.direct = true;
		b.final = r->direct_ended;
		b.epoch = r->direct_epoch;
		b.bytes = r->applying->bytes;
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

bool replica_batch_done(
	struct replica *r, struct replica_batch *b, struct journal_header *ret_header)
{
	struct replica_epoch *e = r->applying;

	r->applying = NULL;
	r->batch_out = false;
	replica_batch_free(r, b);
	while (e) {
		struct replica_epoch *next = e->next;

		replica_epoch_drop(r, e);
		e = next;
	}
	if (b->direct) {
		/* Closed chunks without changes left go; those of an ended session too. */
		struct replica_chunk **at = &r->direct_first;

		r->direct_last = NULL;
		while (*at) {
			struct replica_chunk *c = *at;

			if (c->changes == 0 && c->pins == 0) {
				*at = c->next;
				replica_chunk_free(r, c);
			} else {
				r->direct_last = c;
				at = &c->next;
			}
		}
		return false;
	}
	r->applied = max_u64(r->applied, b->epoch);
	replica_log_trim(r);
	*ret_header = r->durable;
	ret_header->serial++;
	ret_header->applied = r->applied;
	ret_header->incarnation = r->incarnation;
	ret_header->tail = r->log_first ? r->log_first->head.pos : r->head;
	ret_header->tail_chain = r->log_first ? r->log_first->head.chain : r->chain;
	return true;
}

void replica_tail_durable(struct replica *r, const struct journal_header *h)
{
	r->durable = *h;
	replica_log_kick(r);
}

void replica_direct_committed(struct replica *r, uint64_t epoch)
{
	struct record ack = {.type = RECORD_ACK_COMMITTED,
		.epoch = epoch,
		.offset = r->session_changes,
		.length = r->session_bytes};

	while (r->open_first && r->open_first->number <= epoch) {
		struct replica_epoch *e = r->open_first;

		r->open_first = e->next;
		replica_epoch_drop(r, e);
	}
	r->mode = REPLICA_READY;
	r->direct_ended = false;
	r->committed = r->applied = r->received = max_u64(r->received, epoch);
	if (r->session)
		r->ops->send(r->ctx, &ack);
	r->ops->changed(r->ctx);
}

/* --- recovery --- */

struct replica_recovery {
	struct replica *r;
	journal_read_fn read_fn;
	void *read_ctx;
};

static int replica_recover_read(void *ctx, uint64_t pos, void *buf, size_t len)
{
	struct replica_recovery *rec = ctx;

	return rec->read_fn(rec->read_ctx, pos, buf, len);
}

static struct replica_chunk *replica_recover_chunk(
	struct replica *r, const struct journal_chunk *jc)
{
	struct replica_chunk *c = r->log_last;

	if (c && c->head.pos == jc->pos)
		return c;
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->head = *jc;
	c->state = REPLICA_CHUNK_WRITTEN;
	if (r->log_last)
		r->log_last->next = c;
	else
		r->log_first = c;
	r->log_last = c;
	return c;
}

static void replica_recover_commit(struct replica *r, uint64_t epoch)
{
	struct replica_epoch **at = &r->open_first;

	while (*at && (*at)->number <= epoch) {
		struct replica_epoch *e = *at;

		*at = e->next;
		e->next = NULL;
		if (!e->sealed || e->number <= r->applied) {
			replica_epoch_drop(r, e);
			continue;
		}
		if (r->done_last)
			r->done_last->next = e;
		else
			r->done_first = e;
		r->done_last = e;
	}
	r->committed = max_u64(r->committed, epoch);
}

static int replica_recover_record(
	void *ctx, const struct record *rec, uint64_t payload_pos, const struct journal_chunk *jc)
{
	struct replica *r = ((struct replica_recovery *)ctx)->r;
	struct replica_chunk *c = replica_recover_chunk(r, jc);
	struct replica_epoch *e;

	if (!c)
		return -ENOMEM;
	if (rec->type == RECORD_COMMIT) {
		c->commit = rec->epoch;
		replica_recover_commit(r, rec->epoch);
		return 0;
	}
	if (rec->type == RECORD_DISCARD) {
		while ((e = r->open_first)) {
			r->open_first = e->next;
			replica_epoch_drop(r, e);
		}
		return 0;
	}
	e = replica_epoch_get(r, rec->epoch);
	if (!e)
		return -ENOMEM;
	if (rec->type == RECORD_SEAL) {
		e->sealed = true;
		return 0;
	}
	if (rec->volume >= r->cfg.volumes || rec->offset + rec->length > r->cfg.sizes[rec->volume])
		return -EBADMSG;

	struct replica_change ch = {.off = rec->offset,
		.len = rec->length,
		.chunk = c,
		.at = (uint32_t)(payload_pos - jc->pos),
		.volume = (uint16_t)rec->volume,
		.type_flags = rec->type == RECORD_ZERO
				      ? (uint16_t)(1 | (rec->flags & RECORD_FLAG_UNMAP ? 2 : 0))
				      : 0};

	return replica_epoch_add(e, &ch);
}

int replica_recover(struct replica *r, uint64_t incarnation, journal_read_fn read_fn, void *ctx,
	const char **ret_why)
{
	struct replica_recovery rec = {r, read_fn, ctx};
	uint8_t *buf = malloc(JOURNAL_CHUNK_MAX);
	uint64_t expected = r->committed;
	struct replica_chunk **at = &r->log_first;
	struct journal_end end;
	int err;

	*ret_why = "out of memory";
	if (!buf)
		return -ENOMEM;
	r->committed = r->applied;
	err = journal_scan(
		&r->durable, replica_recover_read, replica_recover_record, &rec, buf, &end);
	free(buf);
	*ret_why = "cannot read the journal";
	if (err < 0)
		return err;
	while (r->open_first) {
		struct replica_epoch *e = r->open_first;

		r->open_first = e->next;
		replica_epoch_drop(r, e);
	}
	/* Chunks of the dropped tail. */
	r->log_last = NULL;
	while (*at && (*at)->head.pos < end.pos) {
		r->log_last = *at;
		at = &(*at)->next;
	}
	while (*at) {
		struct replica_chunk *c = *at;

		*at = c->next;
		free(c);
	}
	r->head = end.pos;
	r->chain = end.chain;
	r->incarnation = incarnation;
	r->received = r->committed;
	r->seen = max_u64(r->seen, r->committed);
	r->flush_want = r->flush_sent = r->committed;
	*ret_why = "the journal ends before the committed epoch that the metadata names: "
		   "the disk lost flushed writes";
	if (r->committed < expected)
		return -EBADMSG;
	*ret_why = end.why;
	if (r->committed)
		r->mode = REPLICA_READY;
	replica_log_trim(r);
	return 0;
}
