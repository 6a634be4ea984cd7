/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Committed memory and device state of a guest, epoch by epoch, into the image: jobs that the
 * caller carries out outside its lock; and how much of it waits. */
#include <stdlib.h>
#include <string.h>

#include "core/replica_memory.h"
#include "util/bytes.h"
#include "util/fault.h"

bool replica_memory_take(struct replica *r, struct replica_memory_job *ret_job)
{
	struct replica_memory *m = r->memory_first;

	if (r->memory_out || (!m && !r->second_dirty))
		return false;
	*ret_job = (struct replica_memory_job){.m = m,
		.epoch = m ? m->epoch : 0,
		.release = m ? m->place == REPLICA_MEMORY_SECOND : true,
		.checks = m ? m->checks : NULL,
		.state = m ? m->state : NULL,
		.state_len = m ? m->state_len : 0};
	r->memory_out = true;
	return true;
}

/* A kind: what is to be done with a page. */
enum { OVERLAY_KEEP, OVERLAY_ZERO, OVERLAY_COPY, OVERLAY_DELTA };

static int replica_memory_kind(
	const struct replica *r, const struct replica_memory *m, uint64_t page)
{
	if (!replica_memory_bit(r->present, page))
		return m->whole ? OVERLAY_ZERO : OVERLAY_KEEP;
	if (replica_memory_bit(r->zeroed, page))
		return OVERLAY_ZERO;
	return replica_memory_bit(r->deltas, page) ? OVERLAY_DELTA : OVERLAY_COPY;
}

/* The second image over the image, in runs of one kind. */
static void replica_memory_overlay(struct replica *r, const struct replica_memory *m,
	void (*zero_fn)(void *ctx, uint64_t off, uint64_t len), void *ctx)
{
	uint64_t pages = r->cfg.sizes[r->cfg.memory] / PAGES_PAGE;

	for (uint64_t p = 0, end; p < pages; p = end) {
		int kind = replica_memory_kind(r, m, p);
		uint64_t off = p * PAGES_PAGE, len;

		for (end = p + 1; end < pages && replica_memory_kind(r, m, end) == kind; end++)
			;
		len = (end - p) * PAGES_PAGE;
		if (kind == OVERLAY_ZERO)
			zero_fn(ctx, off, len);
		else if (kind == OVERLAY_COPY)
			memcpy(r->cfg.image + off, r->cfg.second + off, len);
		else if (kind == OVERLAY_DELTA)
			bytes_xor(r->cfg.image + off, r->cfg.second + off, len);
	}
}

void replica_memory_apply(struct replica *r, const struct replica_memory_job *job,
	void (*zero_fn)(void *ctx, uint64_t off, uint64_t len), void *ctx)
{
	struct replica_memory *m = job->m;

	if (!m)
		return;
	if (m->place == REPLICA_MEMORY_SECOND)
		replica_memory_overlay(r, m, zero_fn, ctx);
	for (struct replica_block *b = m->first; b; b = b->next) {
		const uint8_t *data = b->bytes + (size_t)b->runs * PAGES_RUN;

		for (unsigned i = 0; i < b->runs; i++) {
			struct pages_run run = pages_get_run(b->bytes, i);

			if (run.zero) {
				zero_fn(ctx, run.offset, run.length);
				continue;
			}
			if (run.delta)
				bytes_xor(r->cfg.image + run.offset, data, run.length);
			else
				memcpy(r->cfg.image + run.offset, data, run.length);
			data += run.length;
			fault_point(FAULT_STANDBY_APPLYING);
		}
	}
}

void replica_memory_done(struct replica *r, struct replica_memory_job *job)
{
	struct replica_memory *m = job->m;

	r->memory_out = false;
	if (!m) {
		r->second_dirty = r->second_busy = false;
	} else {
		r->memory_first = m->next;
		if (!r->memory_first)
			r->memory_last = NULL;
		free(r->state);
		r->state = m->state;
		r->state_len = m->state_len;
		m->state = NULL;
		r->memory_epoch = m->epoch;
		replica_memory_leave_second(r, m);
		replica_memory_free(r, m);
	}
	r->ops->changed(r->ctx);
}

bool replica_memory_idle(const struct replica *r)
{
	if (r->memory_first || r->memory_out || r->second_dirty)
		return false;
	if (r->mode == REPLICA_FAILED)
		return true;
	for (const struct replica_epoch *e = r->open_first; e; e = e->next)
		if (e->memory && (e->commit_placed || (e->sealed && r->commit_due)))
			return false;
	/* A new session would build on a state that is about to be replaced. */
	if (r->batch_direct && r->direct_cloned)
		return false;
	return !((r->cfg.image || r->direct_cloned) && r->mode == REPLICA_DIRECT &&
		 r->direct_sealed);
}

bool replica_memory_full(const struct replica *r)
{
	bool moving = r->memory_first || r->memory_out || r->second_dirty;

	/* A session whose memory goes to the second image: what it held for epochs that this
	 * session's beginning has dropped is freed first, else the new content would be. */
	if (r->second_dirty && r->memory_epoch && !r->memory_whole)
		return true;
	if (r->held <= r->cfg.staging_limit)
		return false;
	for (const struct replica_epoch *e = r->open_first; e && !moving; e = e->next)
		moving = e->sealed && e->memory;
	return moving;
}

const uint8_t *replica_state(const struct replica *r, size_t *ret_len)
{
	*ret_len = r->state_len;
	return r->memory_epoch ? r->state : NULL;
}
