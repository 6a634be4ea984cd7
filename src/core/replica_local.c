/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The local writer (ingest = nbd; a promoted node whose journal is not drained): its changes take
 * the way of received ones.  An initial fill goes to the images in place, beside the core; the core
 * hears of it when it ends (replica_local_fill_end), and commits it as it commits a full sync. */
#include "core/replica_internal.h"

#include <errno.h>
#include <string.h>

#include "util/bytes.h"
#include "util/crc.h"

/* Changes can go to the journal. */
static bool replica_local_takes(const struct replica *r)
{
	return r->mode == REPLICA_READY || (r->mode == REPLICA_DIRECT && r->direct_ended);
}

/* The epoch that local changes belong to.  Never a number that was seen before: records of a
 * dropped epoch may still stand in the journal. */
static uint64_t replica_local_epoch(const struct replica *r)
{
	const struct replica_epoch *e = r->open_first;

	while (e && e->next)
		e = e->next;
	return e && !e->sealed ? e->number : max_u64(r->seen, r->received) + 1;
}

int replica_local_change(struct replica *r, unsigned volume, uint64_t off, uint64_t len,
	const uint8_t *payload, bool unmap)
{
	struct record rec = {
		.type = payload ? RECORD_WRITE : RECORD_ZERO,
		.flags = !payload && unmap ? RECORD_FLAG_UNMAP : 0,
		.volume = volume,
		.payload = payload ? (uint32_t)len : 0,
		.epoch = replica_local_epoch(r),
		.offset = off,
		.length = len,
	};
	size_t size = record_size(rec.payload);
	uint8_t *at;
	size_t room;
	int err;

	if (!replica_local_takes(r))
		return -EIO;
	if (r->session)
		return -EBUSY;
	r->rx_size = size;
	if (r->filling && r->rx_at + size > replica_chunk_room(r->filling)) {
		err = replica_chunk_close(r);
		if (err == 0)
			err = replica_filling_fit(r, size);
		if (err < 0)
			return err;
	}
	if (!replica_rx_buffer(r, &at, &room))
		return -EAGAIN;
	r->lent = false;
	if (payload) {
		rec.payload_crc = crc32c_copy(at + RECORD_HEADER_SIZE, payload, len);
		memset(at + RECORD_HEADER_SIZE + len, 0, size - RECORD_HEADER_SIZE - len);
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
	uint64_t number = replica_local_epoch(r);
	struct replica_epoch *e;
	struct record seal = {.type = RECORD_SEAL, .epoch = number};
	int err;

	if (!replica_local_takes(r))
		return -EIO;
	if (r->session)
		return -EBUSY;
	if (replica_settle(r) < 0)
		return -ENOMEM;
	/* The end of changes is room to come.  That of none is not: it would go beyond any bound.
	 */
	if (!replica_local_open(r) && (replica_space_low(r) || r->staged > r->cfg.staging_limit))
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
	err = replica_take_seal(r, &seal);
	return err < 0 ? err : replica_settle(r);
}

bool replica_local_open(const struct replica *r)
{
	const struct replica_epoch *e = r->open_first;

	while (e && e->next)
		e = e->next;
	return e && !e->sealed && e->count > 0;
}

bool replica_local_stuck(const struct replica *r)
{
	const struct replica_chunk *c = r->write_first;

	return replica_local_takes(r) && replica_space_low(r) && !r->batch_out && !r->done_first &&
	       !r->tail_out && !replica_tail_due(r) && (!c || c->state == REPLICA_CHUNK_WAITING) &&
	       !(r->open_first && r->open_first->commit_placed) &&
	       !(r->mode == REPLICA_DIRECT && !r->direct_held);
}

int replica_local_fill_end(struct replica *r, uint64_t *ret_epoch)
{
	struct replica_epoch *e;

	if (r->mode != REPLICA_EMPTY)
		return -EIO;
	if (r->session)
		return -EBUSY;
	e = replica_epoch_get(r, replica_local_epoch(r));
	if (!e)
		return -ENOMEM;
	e->sealed = true;
	r->mode = REPLICA_DIRECT;
	r->direct_cloned = false;
	r->direct_epoch = r->received = *ret_epoch = e->number;
	r->direct_ended = r->direct_sealed = r->direct_held = true;
	r->direct_final = false;
	r->sync_done = r->sync_total = 0;
	r->ops->changed(r->ctx);
	return 0;
}
