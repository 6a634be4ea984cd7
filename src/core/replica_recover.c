/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Recovery: the epochs that are committed and not applied, from the journal. */
#include "core/replica_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "util/bytes.h"

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
	c->mapped = r->cfg.ring != NULL;
	if (c->mapped)
		c->buf = r->cfg.ring + jc->pos % r->durable.ring_size;
	c->size = jc->len;
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
		e->merged = rec->flags & RECORD_FLAG_MERGE;
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

	e->synced |= rec->flags & RECORD_FLAG_SYNC;
	return replica_epoch_add(e, &ch);
}

/* Whether the tail behind the last COMMIT is that of an interrupted staged sync: then it stays.
 * Else a SEAL in it must not be seen by the next COMMIT, so the tail goes. */
static bool replica_recover_keeps(const struct replica *r, uint64_t expected)
{
	bool synced = false;

	for (const struct replica_epoch *e = r->open_first; e; e = e->next) {
		if (e->number <= r->committed || (e->sealed && !(e->merged && e->synced)))
			return false;
		synced |= e->synced;
	}
	return synced && r->cfg.keep && expected && r->committed >= expected;
}

/* What is not committed: kept, or dropped. */
static void replica_recover_open(struct replica *r, bool keeps)
{
	while (r->open_first) {
		struct replica_epoch *e = r->open_first;

		r->open_first = e->next;
		if (keeps && e->synced)
			replica_kept_add(r, e);
		else
			replica_epoch_drop(r, e);
	}
}

/* The metadata knows no committed state (a full sync in place did not end): what the journal holds
 * belongs to images that are gone. */
static void replica_recover_nothing(struct replica *r)
{
	while (r->done_first) {
		struct replica_epoch *e = r->done_first;

		r->done_first = e->next;
		replica_epoch_drop(r, e);
	}
	r->done_last = NULL;
	for (struct replica_chunk *c = r->log_first; c; c = c->next)
		c->commit = 0;
	r->committed = 0;
}

int replica_recover(struct replica *r, uint64_t incarnation, journal_read_fn read_fn, void *ctx,
	const char **ret_why)
{
	struct replica_recovery rec = {r, read_fn, ctx};
	uint8_t *buf = malloc(JOURNAL_CHUNK_MAX);
	uint64_t expected = r->committed;
	struct replica_chunk **at = &r->log_first;
	struct journal_end end;
	bool keeps;
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
	keeps = replica_recover_keeps(r, expected);
	replica_recover_open(r, keeps);
	if (keeps) {
		end.pos = end.scanned;
		end.chain = end.scanned_chain;
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
	/* Sealed epochs that were dropped may stand before the last COMMIT, and a DISCARD of them
	 * in the tail that is dropped: the next COMMIT must not take them along. */
	r->discard_due = !keeps;
	replica_kept_fit(r);
	if (expected == 0)
		replica_recover_nothing(r);
	/* Epochs that changed no disk: the journal need not have kept their SEALs, and there is
	 * nothing to apply that would let it forget their COMMIT. */
	if (!r->done_first)
		r->applied = max_u64(r->applied, r->committed);
	r->received = r->committed;
	r->seen = max_u64(r->seen, max_u64(r->committed, r->applied));
	r->flush_want = r->flush_sent = r->committed;
	*ret_why = "the journal ends before the committed epoch that the metadata names: "
		   "the disk lost flushed writes";
	if (r->committed < expected)
		return -EBADMSG;
	*ret_why = end.why;
	replica_log_trim(r);
	return 0;
}
