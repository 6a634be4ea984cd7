/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The link side of the replica: received bytes to changes and epochs; and the local writer, whose
 * changes take the same way. */
#include "core/replica_internal.h"

#include <errno.h>
#include <string.h>

#include "util/bytes.h"
#include "util/crc.h"

#define REPLICA_RX_STEP (256u << 10) /* bytes asked for at once, unless a record needs more */

bool replica_rx_buffer(struct replica *r, uint8_t **ret_buf, size_t *ret_len)
{
	size_t have, want = REPLICA_RX_STEP;

	if (r->mode == REPLICA_FAILED)
		return false;
	if (!r->filling) {
		while (r->staged + JOURNAL_CHUNK_MAX > r->cfg.staging_limit)
			if (!replica_evict(r))
				return false;
		if (replica_filling_get(r) < 0)
			return false;
	}
	have = r->rx_len - r->rx_at;
	if (r->rx_need > have + want)
		want = r->rx_need - have;
	*ret_buf = r->filling->buf + r->rx_len;
	*ret_len = min_u64(want, REPLICA_CHUNK_ROOM - r->rx_len);
	return true;
}

bool replica_rx_stuck(const struct replica *r)
{
	const struct replica_chunk *c = r->write_first;

	return c && c->state == REPLICA_CHUNK_WAITING && !r->batch_out && !r->done_first &&
	       !r->flushing && r->open_first && !r->open_first->sealed && r->log_first &&
	       r->log_first->head.pos == r->durable.tail;
}

/* Checks that do not depend on the record alone.  NULL = fine. */
static const char *replica_check_context(const struct replica *r, const struct record *rec)
{
	const struct replica_epoch *e = r->open_first;

	if (rec->epoch && rec->epoch <= r->received && rec->type != RECORD_HEARTBEAT)
		return "record of an epoch that is closed";
	switch (rec->type) {
	case RECORD_WRITE:
	case RECORD_ZERO:
		if (rec->volume >= r->cfg.volumes)
			return "no such volume";
		if (rec->offset + rec->length > r->cfg.sizes[rec->volume])
			return "beyond the end of the volume";
		if (r->mode == REPLICA_EMPTY)
			return "change without a full sync before it";
		return NULL;
	case RECORD_SEAL:
		while (e && e->number < rec->epoch) {
			if (!e->sealed)
				return "seal out of order";
			e = e->next;
		}
		if (r->mode != REPLICA_READY)
			return "seal without a committed state";
		if (rec->offset != (e && e->number == rec->epoch ? e->count : 0) ||
			rec->length != (e && e->number == rec->epoch ? e->bytes : 0))
			return "seal does not match what came of its epoch";
		return NULL;
	case RECORD_SYNC_BEGIN:
		return r->mode == REPLICA_DIRECT ? "sync begun twice" : NULL;
	case RECORD_SYNC_END:
		return r->mode != REPLICA_DIRECT || rec->epoch != r->direct_epoch
			       ? "end of a sync that was not begun"
			       : NULL;
	case RECORD_HELLO:
		return "second hello";
	default:
		return NULL;
	}
}

static int replica_take_change(struct replica *r, const struct record *rec, uint32_t at)
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

	if (!e || replica_epoch_add(e, &change) < 0)
		return -ENOMEM;
	r->session_changes++;
	r->session_bytes += rec->length;
	if (r->mode == REPLICA_DIRECT)
		r->sync_done += rec->flags & RECORD_FLAG_SYNC ? rec->length : 0;
	return 0;
}

static int replica_take_seal(struct replica *r, const struct record *rec)
{
	struct replica_epoch *e = replica_epoch_get(r, rec->epoch);
	struct record ack = {.type = RECORD_ACK_COMMITTED,
		.epoch = rec->epoch,
		.offset = r->session_changes,
		.length = r->session_bytes};

	if (!e)
		return -ENOMEM;
	e->sealed = true;
	e->total_changes = r->session_changes;
	e->total_bytes = r->session_bytes;
	r->received = rec->epoch;
	if (r->cfg.ack_when_sealed && !r->cfg.manual && r->session)
		r->ops->send(r->ctx, &ack);
	return replica_commit_next(r);
}

static void replica_sync_begin(struct replica *r, const struct record *rec)
{
	/* From here on the images are nobody's consistent state. */
	r->mode = REPLICA_DIRECT;
	r->direct_epoch = rec->epoch;
	r->sync_total = rec->length;
	r->sync_done = 0;
	r->direct_ended = false;
	r->ops->changed(r->ctx);
}

/* One whole, valid record at rx_at.  *ret_keep: it stays in the chunk. */
static int replica_take(struct replica *r, const struct record *rec, size_t size, bool *ret_keep,
	unsigned *ret_goodbye)
{
	*ret_keep = true;
	switch (rec->type) {
	case RECORD_WRITE:
	case RECORD_ZERO:
		if (replica_take_change(r, rec, r->rx_at) < 0)
			return -ENOMEM;
		break;
	case RECORD_SEAL:
		r->rx_at += (uint32_t)size;
		r->filling->head.used = r->rx_at;
		return replica_take_seal(r, rec);
	case RECORD_SYNC_BEGIN:
		replica_sync_begin(r, rec);
		*ret_keep = false;
		return 0;
	case RECORD_SYNC_END:
		*ret_keep = false;
		r->direct_ended = true;
		r->received = rec->epoch;
		return 0;
	case RECORD_GOODBYE:
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

int replica_rx_done(struct replica *r, size_t n, unsigned *ret_goodbye, const char **ret_why)
{
	*ret_goodbye = 0;
	r->rx_len += (uint32_t)n;
	r->rx_need = 0;
	while (r->filling && r->rx_at < r->rx_len) {
		uint8_t *at = r->filling->buf + r->rx_at;
		enum record_verdict v;
		struct record rec;
		bool keep = false;
		size_t size;
		int err;

		v = record_check(at, r->rx_len - r->rx_at, RECORD_FROM_PRIMARY, true, r->rx_seq,
			&rec, &size, ret_why);
		if (v == RECORD_BAD)
			return -EPROTO;
		if (v == RECORD_SHORT) {
			r->rx_need = size;
			break;
		}
		if (v == RECORD_OK) {
			*ret_why = replica_check_context(r, &rec);
			if (*ret_why)
				return -EPROTO;
			err = replica_take(r, &rec, size, &keep, ret_goodbye);
			if (err < 0)
				return err;
		}
		r->rx_seq++;
		if (!keep) {
			memmove(at, at + size, r->rx_len - r->rx_at - size);
			r->rx_len -= (uint32_t)size;
		}
		if (r->direct_ended && r->mode == REPLICA_DIRECT) {
			err = replica_chunk_close(r);
			if (err < 0)
				return err;
			r->ops->apply_ready(r->ctx);
		}
	}
	if (r->filling && (r->filling->head.used >= REPLICA_CHUNK_CLOSE ||
				  r->rx_at + r->rx_need > REPLICA_CHUNK_ROOM ||
				  r->rx_len == REPLICA_CHUNK_ROOM))
		return replica_chunk_close(r);
	return 0;
}

void replica_rx_idle(struct replica *r)
{
	struct record ack = {.type = RECORD_ACK_RECEIVED,
		.offset = r->session_changes,
		.length = r->session_bytes};

	/* Images of a full sync need not wait for a full chunk. */
	if (r->mode == REPLICA_DIRECT)
		(void)replica_chunk_close(r); /* no memory: the chunk stays as it is */
	if (r->session && r->acked_changes != r->session_changes) {
		r->acked_changes = r->session_changes;
		r->ops->send(r->ctx, &ack);
	}
}

int replica_local_change(struct replica *r, unsigned volume, uint64_t off, uint64_t len,
	const uint8_t *payload, bool unmap)
{
	struct record rec = {
		.type = payload ? RECORD_WRITE : RECORD_ZERO,
		.flags = !payload && unmap ? RECORD_FLAG_UNMAP : 0,
		.volume = volume,
		.payload = payload ? (uint32_t)len : 0,
		.epoch = max_u64(r->received, r->committed) + 1,
		.offset = off,
		.length = len,
	};
	size_t size = record_size(rec.payload);
	uint8_t *at;
	size_t room;
	int err;

	if (r->mode != REPLICA_READY)
		return -EIO;
	if (r->filling && r->rx_at + size > REPLICA_CHUNK_ROOM) {
		err = replica_chunk_close(r);
		if (err < 0)
			return err;
	}
	if (!replica_rx_buffer(r, &at, &room))
		return -EAGAIN;
	if (payload) {
		memcpy(at + RECORD_HEADER_SIZE, payload, len);
		memset(at + RECORD_HEADER_SIZE + len, 0, size - RECORD_HEADER_SIZE - len);
		rec.payload_crc = crc32c(at + RECORD_HEADER_SIZE, len);
	}
	record_put_header(at, &rec);
	err = replica_take_change(r, &rec, r->rx_at);
	if (err < 0)
		return err;
	r->rx_at = r->rx_len = r->filling->head.used = r->rx_at + (uint32_t)size;
	return r->filling->head.used >= REPLICA_CHUNK_CLOSE ? replica_chunk_close(r) : 0;
}

int replica_local_cut(struct replica *r, uint64_t *ret_epoch)
{
	uint64_t number = max_u64(r->received, r->committed) + 1;
	struct replica_epoch *e;
	struct record seal = {.type = RECORD_SEAL, .epoch = number};
	uint8_t *at;
	size_t room;
	int err;

	if (r->mode != REPLICA_READY)
		return -EIO;
	if (!replica_rx_buffer(r, &at, &room))
		return -EAGAIN;
	e = replica_epoch_get(r, number);
	if (!e)
		return -ENOMEM;
	seal.offset = e->count;
	seal.length = e->bytes;
	err = replica_insert_record(r, &seal);
	if (err < 0)
		return err;
	*ret_epoch = number;
	return replica_take_seal(r, &seal);
}
