/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Before a sync: which of the blocks that the dirty map wants differ at all?  Guests write on,
 * without the peer; a block that is written to after its digest was made stays wanted, whatever the
 * answer.
 *
 * An answer "equal" is about the secondary's committed state, which nothing but this connection
 * changes: so it is as good as a durable acknowledgement of the block.  Where an interrupted sync
 * has left something over it, the block stays in the map as HELD until that is committed. */
#include <errno.h>
#include <stdlib.h>

#include "replicator/compare.h"
#include "replicator/pace.h"
#include "replicator/sender_internal.h"
#include "replicator/volume.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"

#define COMPARE_AHEAD 8u /* digests without an answer */

struct sender_comparison {
	struct sender *s;
	enum dirtymap_layer layer;
	bool held;
	uint8_t *buf; /* RECORD_MAX_PAYLOAD */
	struct pace pace;
	unsigned asked;
	uint64_t blocks, equal;
};

/* One answer. */
static int sender_compare_hear(struct sender_comparison *c, struct error *err)
{
	struct node *n = c->s->n;
	const uint8_t *payload;
	struct record rec;
	struct digest d;
	const char *why;
	uint64_t differ;
	int r;

	do
		r = sender_next(c->s, &rec, &payload, err);
	while (r == 0 && rec.type == RECORD_HEARTBEAT);
	if (r < 0)
		return r;
	why = rec.type != RECORD_DIFFER || rec.volume >= n->nvolumes
		      ? "no answer to digests where one was expected"
		      : digest_take_answer(&rec, payload, &d, &differ);
	if (!why && (d.off + d.len > n->maps[d.volume]->size ||
			    d.block != dirtymap_block(n->maps[d.volume])))
		why = "answer to digests that were not sent";
	if (why)
		return error_set(err, ERROR_PEER, -EPROTO, "the peer sends garbage: %s", why);
	pthread_mutex_lock(&n->lock);
	for (unsigned i = 0; i < d.count; i++) {
		struct dirtymap *m = n->maps[d.volume];
		uint64_t off = d.off + (uint64_t)i * d.block, len = min_u64(d.block, m->size - off);

		c->blocks++;
		if (differ >> i & 1 || !dirtymap_test(m, DIRTYMAP_ASKED, off, 1))
			continue;
		dirtymap_clear(m, DIRTYMAP_WANTED, off, len);
		c->equal++;
	}
	pthread_mutex_unlock(&n->lock);
	c->asked--;
	return 0;
}

/* Digests of a run, which is at most DIGEST_BLOCKS blocks long. */
static int sender_compare_read(
	struct sender_comparison *c, struct volume *v, struct digest *d, struct error *err)
{
	struct node *n = c->s->n;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < d->len; at += RECORD_MAX_PAYLOAD) {
		uint64_t len = min_u64(RECORD_MAX_PAYLOAD, d->len - at), off = d->off + at;
		struct rangelock_entry range;

		pace_begin(&c->pace);
		pthread_mutex_lock(&n->lock);
		volume_lock_range(v, &range, off, len);
		dirtymap_mark(&v->map.map, DIRTYMAP_ASKED, off, len);
		pthread_mutex_unlock(&n->lock);
		r = backing_pread(v->backing, c->buf, (uint32_t)len, off);
		pthread_mutex_lock(&n->lock);
		volume_unlock_range(v, &range);
		pthread_mutex_unlock(&n->lock);
		if (r == 0)
			r = compare_digest(d, (unsigned)(at / d->block), c->buf, len);
		pace_end(&c->pace, len);
		while (r == 0 && !sender_told_to_stop(c->s) && pace_sleep(&c->pace))
			;
	}
	return r < 0 ? error_code(err, r, "disk %s: cannot compare it", v->name) : 0;
}

static int sender_compare_volume(struct sender_comparison *c, struct volume *v, struct error *err)
{
	struct dirtymap_run run = {0};
	struct node *n = c->s->n;
	struct digest d = {.volume = v->index,
		.block = (uint32_t)dirtymap_block(&v->map.map),
		.held = c->held};

	for (;;) {
		uint8_t payload[RECORD_MAX_DIGEST];
		struct record rec;
		bool any;
		int r;

		pthread_mutex_lock(&n->lock);
		any = dirtymap_next(&v->map.map, c->layer, run.off + run.len,
			(uint64_t)DIGEST_BLOCKS * d.block, &run);
		pthread_mutex_unlock(&n->lock);
		if (!any)
			return 0;
		if (sender_told_to_stop(c->s))
			return error_set(err, ERROR_PEER, -ECANCELED, "told to stop");
		d.off = run.off;
		d.len = run.len;
		d.count = (unsigned)((run.len + d.block - 1) / d.block);
		r = sender_compare_read(c, v, &d, err);
		if (r < 0)
			return r;
		digest_put(&d, &rec, payload);
		c->asked++;
		(void)link_put_data(
			&c->s->link, &rec, payload); /* fits: COMPARE_AHEAD of them do */
		r = link_write(&c->s->link, clock_ns());
		if (r < 0 && r != -EAGAIN)
			return sender_lost(c->s, err, r);
		while (r >= -EAGAIN && c->asked >= COMPARE_AHEAD) {
			r = sender_compare_hear(c, err);
			if (r < 0)
				return r;
		}
	}
}

int sender_compare(struct sender *s, enum dirtymap_layer layer, bool held, struct error *err)
{
	struct sender_comparison c = {
		.s = s, .layer = layer, .held = held, .buf = malloc(RECORD_MAX_PAYLOAD)};
	struct node *n = s->n;
	int r = c.buf ? 0 : error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");

	pace_init(&c.pace, n, 0);
	for (unsigned i = 0; i < n->nvolumes && r == 0; i++)
		r = sender_compare_volume(&c, &n->volumes[i], err);
	while (r == 0 && c.asked)
		r = sender_compare_hear(&c, err);
	pthread_mutex_lock(&n->lock);
	for (unsigned i = 0; i < n->nvolumes; i++)
		dirtymap_clear_all(n->maps[i], DIRTYMAP_ASKED);
	pthread_mutex_unlock(&n->lock);
	free(c.buf);
	if (r == 0)
		log_info("digests: %llu of %llu blocks that may differ are equal",
			(unsigned long long)c.equal, (unsigned long long)c.blocks);
	return r;
}
