/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The link side of the replica: received bytes to changes and epochs. */
#include "core/replica_internal.h"

#include <errno.h>
#include <string.h>

#include "core/pages.h"
#include "util/bytes.h"
#include "util/crc.h"
#include "util/fault.h"

/* Bytes asked for at once: they are summed while a cache holds them.  Of a record that is larger,
 * not beyond its end: what is behind it would have to move to the next chunk. */
#define REPLICA_RX_STEP (RECORD_MAX_PAYLOAD / 4)

bool replica_rx_buffer(struct replica *r, uint8_t **ret_buf, size_t *ret_len)
{
	size_t have, want = REPLICA_RX_STEP;

	r->lent = false;
	if (r->mode == REPLICA_FAILED || replica_settle(r) < 0)
		return false;
	if ((!replica_to_images(r) && replica_space_low(r)) || replica_memory_full(r))
		return false;
	/* Records put in from this side may have filled the chunk. */
	if (r->filling && r->rx_len >= replica_chunk_room(r->filling) && replica_chunk_close(r) < 0)
		return false;
	while (r->staged + (r->filling ? 0 : JOURNAL_CHUNK_MAX) > r->cfg.staging_limit)
		if (!replica_evict(r))
			return false;
	if (replica_filling_get(r) < 0)
		return false;
	have = r->rx_len - r->rx_at;
	if (r->rx_need > want)
		want = min_u64(want, r->rx_need - have);
	*ret_buf = r->filling->buf + r->rx_len;
	*ret_len = min_u64(want, replica_chunk_room(r->filling) - r->rx_len);
	r->lent = true;
	return true;
}

bool replica_rx_stuck(const struct replica *r)
{
	const struct replica_chunk *c = r->write_first;
	const struct replica_epoch *e = r->open_first;

	while (e && e->merged)
		e = e->next;
	/* Nothing is on its way to the disk or to the images that would free space in the end. */
	return r->mode == REPLICA_READY && replica_space_low(r) && !r->batch_out &&
	       !r->done_first && !r->tail_out && !replica_tail_due(r) &&
	       (!c || c->state == REPLICA_CHUNK_WAITING) && e && !e->sealed;
}

/* Whether the committed state is this epoch's and there is nothing beyond it. */
static bool replica_stands_at(const struct replica *r, uint64_t epoch)
{
	struct replica_status st;

	replica_get_status(r, &st);
	return st.mode == REPLICA_READY && !st.staging && st.committed == epoch &&
	       st.pending_epochs == 0 && st.pending_changes == 0;
}

void replica_thaw(struct replica *r)
{
	if (!r->frozen)
		return;
	r->frozen = false;
	replica_frozen(r);
	r->ops->freeze(r->ctx, 0);
}

static const char *replica_check_seal(
	const struct replica *r, const struct record *rec, const struct replica_epoch *e)
{
	bool mine = e && e->number == rec->epoch, merge = rec->flags & RECORD_FLAG_MERGE;

	if (r->mode == REPLICA_EMPTY || replica_to_images(r))
		return "seal without a committed state";
	if (r->staging)
		return "seal in a sync";
	if (merge && (!r->cfg.image || !r->memory_whole || rec->epoch == r->direct_epoch))
		return "seal with a merge where none can be";
	if (r->cfg.image && !merge && !(mine && replica_memory_has_state(e)))
		return "seal of a checkpoint without device state";
	if (rec->offset != (mine ? replica_epoch_changes(e) : 0) ||
		rec->length != (mine ? replica_epoch_bytes(e) : 0))
		return "seal does not match what came of its epoch";
	return NULL;
}

/* Checks that do not depend on the record alone.  NULL = fine. */
static const char *replica_check_context(
	const struct replica *r, const struct record *rec, const uint8_t *payload)
{
	const struct replica_epoch *e = r->open_first;

	if (r->severed && rec->type != RECORD_GOODBYE)
		return "epochs of this connection were discarded";
	if (rec->epoch && rec->epoch <= r->received)
		return "record of an epoch that is closed";
	if (rec->epoch && rec->epoch <= r->session_floor)
		return "record of an epoch of a former connection";
	switch (rec->type) {
	case RECORD_WRITE:
	case RECORD_ZERO:
		if (rec->volume >= (r->cfg.image ? r->cfg.memory : r->cfg.volumes))
			return "no such disk";
		if (rec->offset + rec->length > r->cfg.sizes[rec->volume])
			return "beyond the end of the volume";
		if (r->mode == REPLICA_EMPTY)
			return "change without a full sync before it";
		if ((replica_to_images(r) || r->staging) && rec->epoch != r->direct_epoch)
			return "change of another epoch in a full sync";
		if (r->mode == REPLICA_DIRECT && r->direct_ended && rec->epoch == r->direct_epoch)
			return "change of a disk behind the end of its sync";
		return NULL;
	case RECORD_PAGES:
	case RECORD_STATE:
		return replica_memory_check(r, rec, payload);
	case RECORD_CHECK:
		return replica_memory_check_digests(r, rec);
	case RECORD_SEAL:
		while (e && e->number < rec->epoch) {
			if (!e->sealed)
				return "seal out of order";
			e = e->next;
		}
		return replica_check_seal(r, rec, e);
	case RECORD_DIGEST:
		if (!r->ops->digest || r->mode != REPLICA_READY || r->staging ||
			((rec->flags & RECORD_FLAG_FROZEN) && (!r->frozen || !rec->epoch)) ||
			((rec->flags & RECORD_FLAG_HELD) && (!r->kept || rec->epoch)) ||
			(!rec->epoch && (r->session_changes || r->staged_epoch > r->session_floor)))
			return "digests where none can be";
		if (rec->volume >= (r->cfg.image ? r->cfg.memory : r->cfg.volumes))
			return "no such disk";
		return rec->offset + rec->length > r->cfg.sizes[rec->volume]
			       ? "beyond the end of the volume"
			       : NULL;
	case RECORD_GROW:
		if (!r->ops->grow || r->mode != REPLICA_READY || r->staging)
			return "growth of a disk where none can be";
		return rec->volume >= (r->cfg.image ? r->cfg.memory : r->cfg.volumes)
			       ? "no such disk"
			       : NULL;
	case RECORD_FREEZE:
		return !r->ops->freeze || r->mode != REPLICA_READY || r->staging || r->frozen ||
				       !r->memory_whole
			       ? "freeze where none can be"
			       : NULL;
	case RECORD_SYNC_BEGIN:
		if (rec->offset >= RECORD_SYNC_KINDS)
			return "unknown kind of sync";
		if (rec->offset != RECORD_SYNC_IN_PLACE && r->mode != REPLICA_READY)
			return "sync that keeps a committed state where there is none";
		if (rec->offset == RECORD_SYNC_RESUMED && !r->kept)
			return "sync that goes on from nothing";
		return r->mode == REPLICA_DIRECT || r->staging || r->session_changes
			       ? "sync is not the first of the connection"
			       : NULL;
	case RECORD_SYNC_END:
		if (!(replica_to_images(r) || r->staging) || rec->epoch != r->direct_epoch)
			return "end of a sync that was not begun";
		return rec->offset != r->session_changes || rec->length != r->session_bytes
			       ? "end of sync does not match what came of it"
			       : NULL;
	case RECORD_HELLO:
		return "second hello";
	default:
		return NULL;
	}
}

int replica_take_change(struct replica *r, const struct record *rec, uint32_t at)
{
	struct replica_epoch *e = replica_epoch_get(r, rec->epoch);
	struct replica_change change = {
		.off = rec->offset,
		.len = rec->length,
		.chunk = r->filling,
		.at = at + RECORD_HEADER_SIZE,
		.volume = (uint16_t)rec->volume,
		.type_flags = rec->type == RECORD_ZERO
				      ? (uint16_t)(1 | (rec->flags & RECORD_FLAG_UNMAP ? 2 : 0))
				      : 0,
	};

	if (!e || replica_epoch_add(e, &change) < 0 || replica_index_add(r, e) < 0)
		return -ENOMEM;
	r->session_changes++;
	r->session_bytes += rec->length;
	if (r->mode == REPLICA_DIRECT || r->staging)
		r->sync_done += rec->flags & RECORD_FLAG_SYNC ? rec->length : 0;
	return 0;
}

/* Nothing of it may follow. */
static void replica_close_epoch(struct replica *r, struct replica_epoch *e)
{
	e->sealed = true;
	r->closed_changes += replica_epoch_changes(e);
	r->closed_bytes += replica_epoch_bytes(e);
	e->total_changes = r->closed_changes;
	e->total_bytes = r->closed_bytes;
	r->received = e->number;
}

/* A full sync has come whole, with a guest's first checkpoint if there is one. */
static void replica_direct_whole(struct replica *r, struct replica_epoch *e)
{
	r->sync_changes = e->total_changes = r->closed_changes;
	r->sync_bytes = e->total_bytes = r->closed_bytes;
	r->direct_sealed = true;
	r->ops->apply_ready(r->ctx);
}

int replica_take_seal(struct replica *r, const struct record *rec)
{
	struct replica_epoch *e = replica_epoch_get(r, rec->epoch);
	bool merge = rec->flags & RECORD_FLAG_MERGE;
	struct record ack = {.type = RECORD_ACK_COMMITTED, .epoch = rec->epoch};

	if (!e || replica_memory_seal(r, e, merge) < 0)
		return -ENOMEM;
	replica_close_epoch(r, e);
	e->merged = merge;
	if (merge && rec->epoch == r->freeze) /* it will never be a state of its own */
		replica_thaw(r);
	if (rec->epoch == r->staged_epoch) /* no controller decides about a sync */
		r->commit_allowed = max_u64(r->commit_allowed, rec->epoch);
	if (r->mode == REPLICA_DIRECT && rec->epoch == r->direct_epoch) {
		replica_direct_whole(r, e);
		return 0;
	}
	ack.offset = e->total_changes;
	ack.length = e->total_bytes;
	if (replica_acks_seals(r) && r->session && r->mode == REPLICA_READY && !merge)
		r->ops->send(r->ctx, &ack);
	/* Placed when all that was received is looked at: one COMMIT for many small epochs. */
	r->commit_due = true;
	return 0;
}

static int replica_sync_begin(struct replica *r, const struct record *rec)
{
	r->direct_epoch = rec->epoch;
	r->sync_total = rec->length;
	r->sync_done = r->direct_taken = r->staged_epoch = 0;
	if (rec->offset == RECORD_SYNC_RESUMED) {
		uint64_t span;

		replica_kept_get(r, &r->sync_done, &span);
		r->sync_total += r->sync_done;
		if (replica_kept_resume(r) < 0)
			return -ENOMEM;
	}
	(void)replica_kept_drop(r);
	if (rec->offset == RECORD_SYNC_STAGED || rec->offset == RECORD_SYNC_RESUMED) {
		r->staging = true;
		r->staged_epoch = rec->epoch;
		r->ops->changed(r->ctx);
		return 0;
	}
	/* What stands in the chunk is of former sessions and for the journal. */
	if (replica_chunk_close(r) < 0 || replica_filling_stage(r) < 0)
		return -ENOMEM;
	r->mode = REPLICA_DIRECT;
	r->direct_ended = r->direct_final = r->direct_sealed = false;
	r->direct_cloned = rec->offset == RECORD_SYNC_CLONED;
	r->ops->changed(r->ctx);
	return 0;
}

/* The chunks up to here are for the images, the next ones for the journal. */
static int replica_sync_end(struct replica *r, const struct record *rec)
{
	struct replica_epoch *e = replica_epoch_get(r, rec->epoch);

	if (!e || replica_chunk_close(r) < 0)
		return -ENOMEM;
	r->direct_ended = true;
	if (r->cfg.image) {
		r->ops->apply_ready(r->ctx); /* its memory and SEAL follow */
		return 0;
	}
	replica_close_epoch(r, e);
	replica_direct_whole(r, e);
	return 0;
}

/* In the journal a SEAL counts what is in the journal. */
static void replica_journal_seal(struct replica *r, const struct record *rec, uint8_t *at)
{
	const struct replica_epoch *e = r->open_first;
	struct record seal = *rec;

	while (e && e->number < rec->epoch)
		e = e->next;
	if (!e || e->number != rec->epoch || !e->memory_changes)
		return;
	seal.offset = e->count;
	seal.length = e->bytes;
	record_put_header(at, &seal);
}

/* The end of a staged sync is the SEAL of its epoch, unless a guest's memory and SEAL follow. */
static int replica_staged_end(
	struct replica *r, const struct record *rec, size_t size, bool *ret_keep)
{
	struct record seal = *rec;

	r->staging = false;
	*ret_keep = !r->cfg.image;
	if (r->cfg.image)
		return 0;
	seal.type = RECORD_SEAL;
	record_put_header(r->filling->buf + r->rx_at, &seal);
	r->rx_at += (uint32_t)size;
	r->filling->head.used = r->rx_at;
	return replica_take_seal(r, &seal);
}

/* The newest epoch of which something came: with it, all that came is in the images. */
static uint64_t replica_newest(const struct replica *r)
{
	const struct replica_epoch *e = r->open_first;

	while (e && e->next)
		e = e->next;
	return e ? max_u64(e->number, r->committed) : r->committed;
}

/* One whole, valid record at rx_at.  *ret_keep: it stays in the chunk. */
static int replica_take(struct replica *r, const struct record *rec, size_t size, bool *ret_keep,
	unsigned *ret_goodbye)
{
	uint8_t *at = r->filling->buf + r->rx_at;
	struct record asked = *rec;
	int e;

	*ret_keep = true;
	switch (rec->type) {
	case RECORD_WRITE:
	case RECORD_ZERO:
		if (replica_take_change(r, rec, r->rx_at) < 0)
			return -ENOMEM;
		break;
	case RECORD_PAGES:
	case RECORD_STATE:
		*ret_keep = false;
		e = replica_memory_change(r, rec, at + RECORD_HEADER_SIZE);
		if (rec->type == RECORD_PAGES)
			fault_point(FAULT_STANDBY_PAGES);
		else
			fault_point(FAULT_STANDBY_STATE);
		return e;
	case RECORD_CHECK:
		*ret_keep = false;
		return replica_memory_digests(r, rec, at + RECORD_HEADER_SIZE);
	case RECORD_SEAL:
		replica_journal_seal(r, rec, at);
		r->rx_at += (uint32_t)size;
		r->filling->head.used = r->rx_at;
		e = replica_take_seal(r, rec);
		fault_point(FAULT_STANDBY_SEAL);
		return e;
	case RECORD_SYNC_BEGIN:
		*ret_keep = false;
		return replica_sync_begin(r, rec);
	case RECORD_SYNC_END:
		if (r->staging)
			return replica_staged_end(r, rec, size, ret_keep);
		*ret_keep = false;
		return replica_sync_end(r, rec);
	case RECORD_DIGEST:
		*ret_keep = false;
		asked.epoch = rec->epoch ? replica_newest(r) : 0;
		return r->ops->digest(r->ctx, &asked, at + RECORD_HEADER_SIZE) ? 0 : -EPROTO;
	case RECORD_GROW:
		*ret_keep = false;
		return r->ops->grow(r->ctx, rec->volume, rec->length) ? 0 : -EPROTO;
	case RECORD_FREEZE:
		*ret_keep = false;
		r->frozen = true;
		r->freeze = rec->epoch;
		r->ops->freeze(r->ctx, rec->epoch);
		return 0;
	case RECORD_THAW:
		*ret_keep = false;
		replica_thaw(r);
		return 0;
	case RECORD_GOODBYE:
		if (rec->offset == RECORD_GOODBYE_HANDOVER && !replica_stands_at(r, rec->length))
			return -EPROTO;
		*ret_goodbye = (unsigned)rec->offset;
		*ret_keep = false;
		return 0;
	default:
		*ret_keep = false;
		return 0;
	}
	r->rx_at += (uint32_t)size;
	r->filling->head.used = r->rx_at;
	return 0;
}

/* Every whole record that was received. */
static int replica_parse(struct replica *r, unsigned *ret_goodbye, const char **ret_why)
{
	while (r->filling && r->rx_at < r->rx_len) {
		uint8_t *at = r->filling->buf + r->rx_at;
		enum record_verdict v;
		struct record rec;
		bool keep = false;
		size_t size;
		int err;

		v = record_check_piece(at, r->rx_len - r->rx_at, RECORD_FROM_PRIMARY, true,
			r->rx_seq, &r->rx_sum, &rec, &size, ret_why);
		if (v == RECORD_BAD)
			return -EPROTO;
		if (v == RECORD_SHORT) {
			r->rx_need = size;
			break;
		}
		if (v == RECORD_OK) {
			*ret_why = replica_check_context(r, &rec, at + RECORD_HEADER_SIZE);
			if (*ret_why)
				return -EPROTO;
			*ret_why = "the compressed data is damaged";
			err = replica_take(r, &rec, size, &keep, ret_goodbye);
			if (err < 0)
				return err;
		}
		r->rx_seq++;
		r->rx_size = size;
		if (!keep) {
			at = r->filling->buf + r->rx_at; /* it may stand in another chunk now */
			memmove(at, at + size, r->rx_len - r->rx_at - size);
			r->rx_len -= (uint32_t)size;
		}
	}
	return 0;
}

int replica_rx_done(struct replica *r, size_t n, unsigned *ret_goodbye, const char **ret_why)
{
	int err;

	*ret_goodbye = 0;
	*ret_why = "out of memory";
	if (r->mode == REPLICA_FAILED)
		return 0; /* since the buffer was given out; what came is ignored */
	r->rx_len += (uint32_t)n;
	r->rx_need = 0;
	r->lent = false;
	if (replica_settle(r) < 0)
		return -ENOMEM;
	err = replica_parse(r, ret_goodbye, ret_why);
	/* What was sealed before a bad record commits all the same. */
	if (replica_settle(r) < 0 && err == 0)
		err = -ENOMEM;
	if (err < 0)
		return err;
	if (r->filling && (r->filling->head.used >= REPLICA_CHUNK_CLOSE ||
				  r->rx_at + r->rx_need > replica_chunk_room(r->filling) ||
				  r->rx_len == replica_chunk_room(r->filling)))
		err = replica_chunk_close(r);
	return err < 0 ? err : replica_filling_fit(r, r->rx_need);
}

void replica_rx_idle(struct replica *r)
{
	struct record ack = {.type = RECORD_ACK_RECEIVED,
		.offset = r->session_changes,
		.length = r->session_bytes};

	r->lent = false;
	/* No memory: both are done at the next occasion. */
	(void)replica_settle(r);
	/* Images of a full sync need not wait for a full chunk. */
	if (replica_to_images(r))
		(void)replica_chunk_close(r);
	if (replica_unacknowledged(r)) {
		r->acked_changes = r->session_changes;
		ack.epoch = r->acked_epoch = r->received;
		r->ops->send(r->ctx, &ack);
	}
}

bool replica_unacknowledged(const struct replica *r)
{
	return r->session &&
	       (r->acked_changes != r->session_changes || r->acked_epoch != r->received);
}

void replica_grow(struct replica *r, unsigned volume, uint64_t size)
{
	if (size > r->cfg.sizes[volume])
		r->cfg.sizes[volume] = size;
}
