/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What interrupted staged syncs have brought: kept in the journal for the next one to go on from.
 *
 * It is never a state of its own, and it need not be of the same primary: the next sync compares or
 * sends every block that it touches, and then it is the beginning of that sync's epoch, as an epoch
 * sealed with MERGE.  Or it is dropped, with a DISCARD that keeps recovery from finding it. */
#include "core/replica_internal.h"

#include <errno.h>

#include "util/bytes.h"

static const struct replica_chunk *replica_kept_begin(const struct replica *r)
{
	for (const struct replica_epoch *e = r->kept; e; e = e->next)
		if (e->count)
			return e->changes[0].chunk;
	return NULL;
}

/* Bytes of the journal from its first change on. */
static uint64_t replica_kept_span(const struct replica *r)
{
	const struct replica_chunk *c = replica_kept_begin(r);

	return c ? r->head - c->head.pos : 0;
}

void replica_kept_get(const struct replica *r, uint64_t *ret_bytes, uint64_t *ret_span)
{
	*ret_bytes = 0;
	for (const struct replica_epoch *e = r->kept; e; e = e->next)
		*ret_bytes += e->bytes;
	*ret_span = replica_kept_span(r);
}

void replica_kept_add(struct replica *r, struct replica_epoch *e)
{
	struct replica_epoch **end = &r->kept;

	while (*end)
		end = &(*end)->next;
	e->next = NULL;
	*end = e;
	/* A guest's memory comes anew with each session. */
	replica_memory_drop(r, e);
	e->memory_changes = e->memory_bytes = 0;
}

/* See replica_space_low and replica_tail_due. */
void replica_kept_fit(struct replica *r)
{
	if (replica_kept_span(r) + REPLICA_JOURNAL_ROOM + 2 * JOURNAL_SEGMENT >
		r->durable.ring_size)
		(void)replica_kept_drop(r);
}

void replica_kept_take(struct replica *r)
{
	struct replica_epoch **at = &r->open_first, *e = r->open_first;

	while (e && e->number != r->staged_epoch)
		e = e->next;
	if (!r->cfg.keep || r->mode != REPLICA_READY || !e || e->sealed)
		return;
	while (*at && (*at)->number <= r->staged_epoch) {
		e = *at;
		if (e->commit_placed) {
			at = &e->next; /* of a former session */
			continue;
		}
		*at = e->next;
		replica_kept_add(r, e);
	}
	/* Its changes get their places, and go to the disk. */
	if (replica_chunk_close(r) < 0 || !replica_kept_begin(r))
		(void)replica_kept_drop(r);
	replica_kept_fit(r);
	r->ops->changed(r->ctx);
}

unsigned replica_kept_drop(struct replica *r)
{
	unsigned n = 0;

	if (!r->kept)
		return 0;
	while (r->kept) {
		struct replica_epoch *e = r->kept;

		r->kept = e->next;
		r->discards++;
		r->discarded = max_u64(r->discarded, e->number);
		replica_epoch_drop(r, e);
		n++;
	}
	r->discard_due = true;
	if (!r->lent && replica_settle(r) < 0)
		replica_fail(r, -ENOMEM, "out of memory");
	replica_log_trim(r);
	r->ops->changed(r->ctx);
	return n;
}

int replica_kept_resume(struct replica *r)
{
	struct replica_epoch **end = &r->open_first;

	for (struct replica_epoch *e = r->kept; e; e = e->next) {
		struct record seal = {.type = RECORD_SEAL,
			.flags = RECORD_FLAG_MERGE,
			.epoch = e->number,
			.offset = e->count,
			.length = e->bytes};

		if (!e->merged && replica_insert_record(r, &seal) < 0)
			return -ENOMEM;
		e->sealed = e->merged = true;
	}
	while (*end)
		end = &(*end)->next;
	*end = r->kept;
	r->kept = NULL;
	return 0;
}

int replica_kept_map(struct replica *r, unsigned volume, struct imap *m)
{
	imap_clear(m);
	/* A change has its log position once its chunk is placed; kept ones have it. */
	return replica_map_epochs(r->kept, volume, m);
}
