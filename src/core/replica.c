/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The secondary's state machine: its life, its epochs, control and questions. */
#include "core/replica_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

struct replica *replica_new(const struct replica_config *cfg, const struct journal_header *h,
	uint64_t committed, const struct replica_ops *ops, void *ctx)
{
	struct replica *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->cfg = *cfg;
	r->ops = ops;
	r->ctx = ctx;
	r->mode = committed ? REPLICA_READY : REPLICA_EMPTY;
	r->durable = *h;
	r->head = h->tail;
	r->chain = h->tail_chain;
	r->seen = r->received = r->committed = committed;
	r->applied = h->applied;
	if (replica_memory_init(r) < 0)
		return replica_free(r);
	return r;
}

void replica_epoch_free(struct replica_epoch *e)
{
	free(e->changes);
	free(e);
}

static void replica_epochs_free(struct replica *r, struct replica_epoch *e)
{
	while (e) {
		struct replica_epoch *next = e->next;

		if (e->memory)
			replica_memory_commit(r, e); /* freed with what waits */
		replica_epoch_free(e);
		e = next;
	}
}

static void replica_chunks_free(struct replica *r, struct replica_chunk *c)
{
	while (c) {
		struct replica_chunk *next = c->next;

		replica_chunk_free(r, c);
		c = next;
	}
}

struct replica *replica_free(struct replica *r)
{
	if (!r)
		return NULL;
	replica_index_end(r);
	replica_epochs_free(r, r->open_first);
	replica_epochs_free(r, r->kept);
	replica_epochs_free(r, r->done_first);
	replica_epochs_free(r, r->applying);
	replica_memory_deinit(r);
	replica_chunks_free(r, r->log_first);
	replica_chunks_free(r, r->direct_first);
	if (r->filling)
		replica_chunk_free(r, r->filling);
	replica_spare_trim(r, 0);
	free(r);
	return NULL;
}

/* The epoch with this number among those that are not committed, made where it is missing. */
struct replica_epoch *replica_epoch_get(struct replica *r, uint64_t number)
{
	struct replica_epoch **at = &r->open_first, *e;

	while (*at && (*at)->number < number)
		at = &(*at)->next;
	if (*at && (*at)->number == number)
		return *at;
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	e->number = number;
	e->next = *at;
	*at = e;
	r->seen = max_u64(r->seen, number);
	return e;
}

int replica_epoch_add(struct replica_epoch *e, const struct replica_change *change)
{
	if (e->count == e->capacity) {
		size_t n = e->capacity ? e->capacity * 2 : 64;
		struct replica_change *p = realloc(e->changes, n * sizeof(*p));

		if (!p)
			return -ENOMEM;
		e->changes = p;
		e->capacity = n;
	}
	e->changes[e->count++] = *change;
	e->bytes += change->len;
	change->chunk->changes++;
	return 0;
}

/* Unlinked already: the journal may forget its records. */
void replica_epoch_drop(struct replica *r, struct replica_epoch *e)
{
	replica_memory_drop(r, e);
	for (size_t i = 0; i < e->count; i++)
		e->changes[i].chunk->changes--;
	replica_epoch_free(e);
}

/* Drops the epochs that match; *ret_epochs, *ret_bytes may be NULL. */
static void replica_drop_open(
	struct replica *r, bool unsealed_only, uint64_t *ret_epochs, uint64_t *ret_bytes)
{
	struct replica_epoch **at = &r->open_first;
	uint64_t epochs = 0, bytes = 0;
	bool sealed = false;

	while (*at) {
		struct replica_epoch *e = *at;
		/* What was merged goes with the epoch that it was merged into. */
		const struct replica_epoch *with = e;
		bool whole;

		while (with && with->merged)
			with = with->next;
		whole = e->sealed && with && with->sealed;
		bool committing = e->commit_placed ||
				  (r->commit_due && whole &&
					  (!r->cfg.manual || e->number <= r->commit_allowed));

		if (committing || (unsealed_only && whole) ||
			(r->mode == REPLICA_DIRECT && e->number == r->direct_epoch)) {
			at = &e->next;
			continue;
		}
		*at = e->next;
		sealed |= e->sealed;
		epochs++;
		r->discarded = max_u64(r->discarded, e->number);
		bytes += e->bytes + e->memory_bytes;
		replica_epoch_drop(r, e);
	}
	r->discards += epochs;
	if (epochs && replica_index_rebuild(r) < 0)
		replica_fail(r, -ENOMEM, "out of memory");
	/* Recovery drops by itself what has no SEAL; a later COMMIT must not take these along. */
	if (unsealed_only) {
		/* Merged ones without a successor.  A DISCARD now would take along what still waits
		 * for its COMMIT; no COMMIT above them comes before all is dropped. */
		r->merged_dropped |= sealed;
	} else {
		r->discard_due |= sealed || r->merged_dropped;
		r->merged_dropped = false;
	}
	if (!r->lent && replica_settle(r) < 0)
		replica_fail(r, -ENOMEM, "out of memory");
	if (ret_epochs)
		*ret_epochs = epochs;
	if (ret_bytes)
		*ret_bytes = bytes;
	replica_log_trim(r);
}

void replica_direct_trim(struct replica *r)
{
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
}

/* A full sync that will not be finished.  A batch of it may still be out. */
static void replica_direct_cancel(struct replica *r)
{
	struct replica_epoch **at = &r->open_first;

	/* Images that it has not touched are what they were. */
	r->mode = r->committed && !r->direct_touched ? REPLICA_READY : REPLICA_EMPTY;
	while (*at && (*at)->number != r->direct_epoch)
		at = &(*at)->next;
	if (*at) {
		struct replica_epoch *e = *at;

		*at = e->next;
		replica_epoch_drop(r, e);
	}
	if (r->filling && !r->direct_ended) {
		replica_chunk_free(r, r->filling);
		r->filling = NULL;
	}
	r->direct_ended = r->direct_final = r->direct_sealed = r->direct_held = false;
	r->direct_broken = false;
	replica_direct_trim(r);
	r->ops->changed(r->ctx);
	r->ops->apply_ready(r->ctx); /* clones are not needed any more */
}

void replica_session_begin(struct replica *r)
{
	replica_session_end(r);
	if (r->mode == REPLICA_DIRECT)
		replica_direct_cancel(r);
	replica_drop_open(r, false, NULL, NULL);
	r->session = true;
	r->sessions++;
	r->severed = false;
	r->session_floor = max_u64(r->seen, r->received);
	r->rx_seq = 1;
	r->session_changes = r->session_bytes = r->acked_changes = 0;
	r->acked_epoch = r->received;
	r->closed_changes = r->closed_bytes = 0;
	replica_memory_session(r);
}

/* Partial bytes of the link are forgotten; whole records stay where they are. */
void replica_session_end(struct replica *r)
{
	r->session = r->lent = r->staging = false;
	replica_thaw(r);
	r->rx_len = r->rx_at;
	r->rx_need = 0;
	r->rx_sum = (struct record_sum){0};
	replica_kept_take(r);
	replica_drop_open(r, true, NULL, NULL);
	/* A full sync that came whole still commits. */
	if (r->mode == REPLICA_DIRECT && r->direct_broken) {
		replica_direct_cancel(r);
		r->commit_due = false; /* what is sealed behind it builds on it */
		replica_drop_open(r, false, NULL, NULL);
	} else if (r->mode == REPLICA_DIRECT && !r->direct_sealed) {
		replica_direct_cancel(r);
	}
}

int replica_commit(struct replica *r, uint64_t epoch)
{
	struct replica_epoch *e;

	if (epoch <= r->committed)
		return -EALREADY;
	for (e = r->open_first; e && e->number != epoch; e = e->next)
		;
	if (!e || !e->sealed || e->merged)
		return -ENOENT;
	r->commit_allowed = max_u64(r->commit_allowed, epoch);
	if (r->direct_held) {
		r->direct_held = false; /* the oldest epoch: any commit is one of it */
		r->ops->apply_ready(r->ctx);
	}
	return replica_commit_next(r);
}

void replica_discard(struct replica *r, uint64_t *ret_epochs, uint64_t *ret_bytes)
{
	uint64_t epochs, bytes;

	replica_drop_open(r, false, &epochs, &bytes);
	epochs += replica_kept_drop(r);
	if (r->direct_held) {
		r->discarded = max_u64(r->discarded, r->direct_epoch);
		r->discards++;
		epochs++;
		replica_direct_cancel(r);
	}
	/* What follows in this connection builds on what is gone. */
	r->severed |= r->session && epochs > 0;
	if (ret_epochs)
		*ret_epochs = epochs;
	if (ret_bytes)
		*ret_bytes = bytes;
	r->ops->changed(r->ctx);
}

void replica_fail(struct replica *r, int err, const char *why)
{
	if (r->mode == REPLICA_FAILED)
		return;
	r->mode = REPLICA_FAILED;
	r->error = err;
	r->why = why;
	r->ops->changed(r->ctx);
}

const char *replica_failure(const struct replica *r, int *ret_err)
{
	*ret_err = r->error;
	return r->mode == REPLICA_FAILED ? r->why : NULL;
}

/* Durable (or as good as the [unsafe] mode wants): the epochs up to this one go to the images. */
void replica_mark_committed(struct replica *r, uint64_t epoch)
{
	while (r->open_first && r->open_first->number <= epoch) {
		struct replica_epoch *e = r->open_first;
		struct record ack = {.type = RECORD_ACK_COMMITTED,
			.epoch = e->number,
			.offset = e->total_changes,
			.length = e->total_bytes};

		r->open_first = e->next;
		e->next = NULL;
		replica_memory_commit(r, e);
		if (r->done_last)
			r->done_last->next = e;
		else
			r->done_first = e;
		r->done_last = e;
		r->committed = e->number;
		if (r->session && e->number > r->session_floor && !replica_acks_seals(r) &&
			(!r->open_first || r->open_first->number > epoch))
			r->ops->send(r->ctx, &ack);
	}
	r->ops->changed(r->ctx);
	r->ops->apply_ready(r->ctx);
}

void replica_get_status(const struct replica *r, struct replica_status *ret_status)
{
	struct replica_status s = {
		.mode = r->mode,
		.open = r->seen,
		.received = r->received,
		.committed = r->committed,
		.applied = r->applied,
		.staged = r->staged,
		.journal_size = r->durable.ring_size,
		.journal_used = r->head - r->durable.tail,
		.sync_done = r->sync_done,
		.sync_total = r->sync_total,
		.staging = r->session && r->staged_epoch > r->committed,
		.cloned = replica_cloning(r) || (r->batch_direct && r->direct_cloned),
		.log_head = r->head,
		.log_tail = r->durable.tail,
		.memory_epoch = r->memory_epoch,
		.held = r->held,
		.error = r->error,
		.why = r->why,
	};

	for (const struct replica_epoch *e = r->open_first; e; e = e->next) {
		s.pending_epochs++;
		s.pending_changes += e->count + e->memory_changes;
		s.pending_bytes += e->bytes + e->memory_bytes;
	}
	for (const struct replica_epoch *e = r->applying; e; e = e->next)
		s.unapplied++;
	for (const struct replica_epoch *e = r->done_first; e; e = e->next) {
		s.unapplied++;
		s.unapplied_bytes += e->bytes;
	}
	replica_kept_get(r, &s.kept, &s.kept_span);
	*ret_status = s;
}

uint64_t replica_discards(const struct replica *r, uint64_t *ret_newest)
{
	*ret_newest = r->discarded;
	return r->discards;
}

int replica_map_epochs(const struct replica_epoch *e, unsigned volume, struct imap *m)
{
	for (; e; e = e->next) {
		for (size_t i = 0; i < e->count; i++) {
			const struct replica_change *ch = &e->changes[i];
			uint64_t source =
				ch->type_flags & 1
					? IMAP_ZERO
					: REPLICA_SOURCE_JOURNAL | (ch->chunk->head.pos + ch->at);

			if (ch->volume == volume &&
				imap_insert(m, ch->off, ch->len, source, e->number))
				return -ENOMEM;
		}
	}
	return 0;
}

int replica_read_map(struct replica *r, unsigned volume, bool open, struct imap *m)
{
	imap_clear(m);
	/* A change has its log position once its chunk is placed. */
	if (open && (r->lent || replica_to_images(r)))
		return -EBUSY;
	if (open && replica_chunk_close(r) < 0)
		return -ENOMEM;
	if ((!r->batch_direct && replica_map_epochs(r->applying, volume, m) < 0) ||
		replica_map_epochs(r->done_first, volume, m) < 0)
		return -ENOMEM;
	return open ? replica_map_epochs(r->open_first, volume, m) : 0;
}
