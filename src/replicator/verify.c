/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The verify thread of a primary: digests of each range of each disk go through the stream, the
 * secondary compares.
 *
 * No false alarm: a range is read, and the digests get their place in the stream, while its range
 * lock is held, so every change before them is in what was read.  The secondary compares once its
 * images hold all that came before.  What they hold beyond that came, so it was sent, behind the
 * digests and before the answer: verify_changed has seen it, and the answer about those blocks is
 * void; they are asked about again.  The layer ASKED of the dirty map holds what is still to be
 * compared.
 *
 * Memory: VERIFY_AHEAD questions and at most VERIFY_RANGES ranges.  Guests that write to the range
 * wait for one read of at most 1 MiB. */
#include "replicator/verify_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "replicator/compare.h"
#include "replicator/volume.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"

/* --- the guests' and the link's side --- */

void verify_changed(struct sender *s, unsigned volume, uint64_t off, uint64_t len)
{
	struct verify *y = s->verify;

	if (!y || !y->running || y->guest)
		return;
	for (unsigned i = y->heard; i < y->asked; i++) {
		struct verify_question *q = &y->questions[(y->first + i) % VERIFY_AHEAD];

		if (q->volume != volume || off >= q->off + q->len || off + len <= q->off)
			continue;
		for (unsigned b = 0; b < q->count; b++) {
			uint64_t at = q->off + (uint64_t)b * q->block;

			if (off < at + q->block && off + len > at)
				q->written |= 1ull << b;
		}
	}
}

const char *verify_answered(struct sender *s, const struct record *rec, const uint8_t *payload)
{
	struct verify_question *q;
	struct node *n = s->n;
	struct verify *y;
	struct digest d;
	uint64_t differ;
	const char *why = digest_take_answer(rec, payload, &d, &differ);

	if (why)
		return why;
	pthread_mutex_lock(&n->lock);
	y = s->verify;
	why = "answer to digests that were not sent";
	if (y && y->session == s->session && y->heard < y->asked) {
		q = &y->questions[(y->first + y->heard) % VERIFY_AHEAD];
		if (q->volume == d.volume && q->off == d.off && q->len == d.len &&
			q->block == d.block) {
			q->differ = differ;
			y->heard++;
			why = NULL;
			node_changed(n);
		}
	}
	pthread_mutex_unlock(&n->lock);
	return why;
}

/* --- the thread --- */

bool verify_goes_on(const struct verify *y)
{
	return sender_session_id(y->s) == y->session && !y->failure[0];
}

bool verify_wanted(const struct verify *y)
{
	return verify_goes_on(y) && !y->cancelled;
}

/* An ordinary change of the stream: what the disk holds, read and placed under its range lock. */
static int verify_repair(struct verify *y, struct volume *v, uint64_t off, uint64_t len)
{
	struct record rec = {.type = RECORD_WRITE,
		.volume = v->index,
		.offset = off,
		.length = len,
		.payload = (uint32_t)len};
	struct node *n = y->s->n;
	struct rangelock_entry range;
	uint8_t *slot = NULL;
	bool entered;
	int r;

	pthread_mutex_lock(&n->lock);
	volume_lock_range(v, &range, off, len);
	pthread_mutex_unlock(&n->lock);
	r = backing_pread(v->backing, y->buf, (uint32_t)len, off);
	pthread_mutex_lock(&n->lock);
	if (r == 0)
		r = mapfile_enter(&v->map, off, len);
	entered = r == 0;
	if (r == 0 && verify_goes_on(y))
		slot = sender_change(y->s, &rec);
	if (slot) {
		verify_changed(y->s, v->index, off, len);
		dirtymap_sent(&n->windows, v->index, off, len);
		dirtymap_clear(&v->map.map, DIRTYMAP_WANTED, off, len);
		y->repairs = rec.epoch;
		y->repaired += len;
	} else if (entered) {
		dirtymap_mark_alone(&v->map.map, off, len);
		r = -ECANCELED;
	}
	pthread_mutex_unlock(&n->lock);
	if (slot)
		sender_publish(y->s, slot, &rec, y->buf);
	pthread_mutex_lock(&n->lock);
	if (entered)
		mapfile_leave(&v->map, off, len);
	volume_unlock_range(v, &range);
	pthread_mutex_unlock(&n->lock);
	return r;
}

/* (L) */
static void verify_note(struct verify *y, struct volume *v, uint64_t off, uint64_t len)
{
	struct verify_range *last = y->nranges ? &y->ranges[y->nranges - 1] : NULL;

	y->differ += len;
	if (last && last->volume == v->index && last->off + last->len == off)
		last->len += len;
	else if (y->nranges < VERIFY_RANGES)
		y->ranges[y->nranges++] = (struct verify_range){v->index, off, len};
	else
		y->more = true;
}

/* A block that differs. */
static int verify_found(struct verify *y, struct volume *v, uint64_t off, uint64_t len)
{
	struct node *n = y->s->n;
	int r;

	log_warning("disk %s: bytes %llu to %llu differ on the secondary", v->name,
		(unsigned long long)off, (unsigned long long)(off + len - 1));
	pthread_mutex_lock(&n->lock);
	verify_note(y, v, off, len);
	r = y->repair ? 0 : mapfile_enter(&v->map, off, len);
	if (r == 0 && !y->repair) {
		dirtymap_mark_alone(&v->map.map, off, len);
		mapfile_leave(&v->map, off, len);
	}
	pthread_mutex_unlock(&n->lock);
	return r == 0 && y->repair ? verify_repair(y, v, off, len) : r;
}

/* Waits for the answer to the oldest question, and does what it asks for. */
static int verify_hear(struct verify *y)
{
	struct node *n = y->s->n;
	struct verify_question q;
	struct volume *v;
	int r = 0;

	pthread_mutex_lock(&n->lock);
	while (y->heard == 0 && verify_goes_on(y))
		pthread_cond_wait(&n->changed, &n->lock);
	if (y->heard == 0) {
		pthread_mutex_unlock(&n->lock);
		return -ECANCELED;
	}
	q = y->questions[y->first];
	y->first = (y->first + 1) % VERIFY_AHEAD;
	y->asked--;
	y->heard--;
	v = &n->volumes[q.volume];
	for (unsigned i = 0; i < q.count; i++) {
		uint64_t off = q.off + (uint64_t)i * q.block;
		uint64_t len = min_u64(q.block, q.off + q.len - off);

		if (q.written >> i & 1)
			continue;
		dirtymap_clear(&v->map.map, DIRTYMAP_ASKED, off, len);
		y->done += len;
	}
	pthread_mutex_unlock(&n->lock);
	for (unsigned i = 0; i < q.count && r == 0; i++)
		if ((q.differ & ~q.written) >> i & 1)
			r = verify_found(y, v, q.off + (uint64_t)i * q.block,
				min_u64(q.block, q.len - (uint64_t)i * q.block));
	return r;
}

/* Digests of a run, of at most RECORD_MAX_PAYLOAD bytes, at one place in the stream. */
static int verify_ask(struct verify *y, struct volume *v, const struct dirtymap_run *run)
{
	struct digest d = {.volume = v->index,
		.off = run->off,
		.len = run->len,
		.block = (uint32_t)dirtymap_block(&v->map.map),
		.frozen = y->guest};
	struct node *n = y->s->n;
	uint8_t payload[RECORD_MAX_DIGEST];
	struct rangelock_entry range;
	struct record rec;
	uint8_t *slot = NULL;
	int r;

	d.count = (unsigned)((d.len + d.block - 1) / d.block);
	if (y->guest) {
		r = verify_frozen_read(y, v->index, d.off, (uint32_t)d.len);
	} else {
		pthread_mutex_lock(&n->lock);
		volume_lock_range(v, &range, d.off, d.len);
		pthread_mutex_unlock(&n->lock);
		r = backing_pread(v->backing, y->buf, (uint32_t)d.len, d.off);
	}
	if (r == 0)
		r = compare_digest(&d, 0, y->buf, d.len);
	digest_put(&d, &rec, payload);
	pthread_mutex_lock(&n->lock);
	while (r == 0 && verify_wanted(y)) {
		slot = primary_digest(&y->s->core, &rec);
		if (slot)
			break;
		wake_up(&y->s->wake);
		pthread_cond_wait(&y->s->room, &n->lock);
	}
	if (slot) {
		y->questions[(y->first + y->asked++) % VERIFY_AHEAD] =
			(struct verify_question){.off = d.off,
				.len = d.len,
				.volume = d.volume,
				.block = d.block,
				.count = d.count};
		atomic_fetch_add_explicit(&y->s->publishing, 1, memory_order_relaxed);
	} else if (r == 0) {
		r = -ECANCELED;
	}
	if (!y->guest)
		volume_unlock_range(v, &range);
	pthread_mutex_unlock(&n->lock);
	if (slot) {
		sender_publish(y->s, slot, &rec, payload);
		wake_up(&y->s->wake);
	}
	return r;
}

/* Gives way to the clients. */
static void verify_rest(struct verify *y, uint64_t bytes)
{
	bool on;

	pace_end(&y->pace, bytes);
	do {
		pthread_mutex_lock(&y->s->n->lock);
		on = verify_wanted(y);
		pthread_mutex_unlock(&y->s->n->lock);
	} while (on && pace_sleep(&y->pace));
}

static int verify_volume(struct verify *y, struct volume *v)
{
	uint64_t most = min_u64(RECORD_MAX_PAYLOAD, DIGEST_BLOCKS * dirtymap_block(&v->map.map));
	struct dirtymap_run run = {0};
	struct node *n = y->s->n;
	int r = 0;

	while (r == 0) {
		bool any;

		pthread_mutex_lock(&n->lock);
		any = dirtymap_next(&v->map.map, DIRTYMAP_ASKED, run.off + run.len, most, &run);
		pthread_mutex_unlock(&n->lock);
		if (!any)
			return 0;
		pace_begin(&y->pace);
		r = verify_ask(y, v, &run);
		if (r == 0)
			verify_rest(y, run.len);
		if (r == 0 && y->asked == VERIFY_AHEAD) /* only this thread changes asked */
			r = verify_hear(y);
	}
	return r;
}

static int verify_passes(struct verify *y)
{
	struct node *n = y->s->n;
	int r = 0;

	for (unsigned pass = 0; pass < VERIFY_PASSES && r == 0 && y->done < y->total; pass++) {
		for (unsigned i = 0; i < n->nvolumes && r == 0; i++)
			r = verify_volume(y, &n->volumes[i]);
		while (r == 0 && y->asked)
			r = verify_hear(y);
	}
	/* What was sent again counts once it is committed. */
	pthread_mutex_lock(&n->lock);
	while (r == 0 && y->repaired && y->s->core.committed < y->repairs) {
		if (verify_wanted(y))
			pthread_cond_wait(&n->changed, &n->lock);
		else
			r = -ECANCELED;
	}
	pthread_mutex_unlock(&n->lock);
	return r;
}

void *verify_main(void *arg)
{
	struct verify *y = arg;
	struct node *n = y->s->n;
	int r;

	(void)pthread_setname_np(pthread_self(), "tandem-verify");
	r = y->guest ? verify_frozen_wait(y) : 0;
	pace_init(&y->pace, n, 0);
	if (r == 0)
		r = verify_passes(y);
	/* The next one must not get the answers of this one. */
	while (r < 0 && y->asked && verify_hear(y) != -ECANCELED)
		;
	pthread_mutex_lock(&n->lock);
	for (unsigned i = 0; i < n->nvolumes; i++)
		dirtymap_clear_all(n->maps[i], DIRTYMAP_ASKED);
	if (y->guest)
		verify_frozen_thaw(y);
	y->running = false;
	y->ended = clock_ns();
	if (r == 0)
		y->unsettled = y->total - y->done;
	else if (!y->failure[0])
		snprintf(y->failure, sizeof(y->failure), "%s",
			r == -ECANCELED ? y->cancelled ? "it was cancelled" : "the link was lost"
			: r == -ESTALE
				? "the disks could not be kept as they were at the checkpoint: "
				  "the log says why"
				: strerror(-r));
	log_info("verify: %llu of %llu bytes compared, %llu differ%s%s",
		(unsigned long long)y->done, (unsigned long long)y->total,
		(unsigned long long)y->differ, r < 0 ? "; ended early: " : "", y->failure);
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	verify_frozen_free(y);
	return NULL;
}
