/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sync of a session: every block that the dirty map wants goes into the stream, while guests
 * write. A full sync is one whose map says "all".
 *
 * Each piece is read and put into the stream under its range lock, so that it cannot be older than
 * a write that stands before it. What reads as zeroes is sent as ZERO without payload. The sync
 * leaves the larger part of the queue to the guests, and gives way to them (pace.h). */
#include <errno.h>
#include <stdlib.h>

#include "replicator/pace.h"
#include "replicator/sender_internal.h"
#include "replicator/volume.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/log.h"

#define SYNC_PIECE (1u << 20)    /* bytes read at once; a whole number of the dirty map's blocks */
#define SYNC_WINDOW (1ull << 30) /* a hole is looked for that far ahead */
#define SYNC_ZERO_UNIT 65536u    /* zeroes are detected in such blocks */

struct sync {
	struct sender *s;
	uint64_t session;
	uint16_t flags; /* of its records: RECORD_FLAG_SYNC, or none (sync_new_part) */
	uint64_t epoch; /* of the newest record */
	uint64_t *done; /* (L) bytes so far */
	uint8_t *buf;
	struct pace pace;
	uint64_t window_began; /* ns */
	uint64_t window_bytes; /* read since window_began, for the rate */
	uint64_t data_end; /* of the volume: up to there is data, from where it was looked for */
};

/* First extent of a range. */
struct sync_extent {
	uint64_t len;
	bool zero, any;
};

static int sync_first_extent(void *ctx, uint64_t off, uint64_t len, bool zero)
{
	struct sync_extent *e = ctx;

	if (e->any)
		return -ECANCELED; /* only the first one is wanted */
	*e = (struct sync_extent){.len = len, .zero = zero, .any = true};
	return 0;
}

/* (L) */
static bool sync_goes_on(const struct sync *y)
{
	return !y->s->sync_stop && sender_session_id(y->s) == y->session;
}

/* (L) Waits for room that a sync may take; false = stop. */
static bool sync_wait_room(struct sync *y)
{
	struct sender *s = y->s;
	uint64_t share = min_u64(s->core.queue.size / 4, 16u << 20);

	while (sync_goes_on(y) && queue_used(&s->core.queue) + SYNC_PIECE > share)
		pthread_cond_wait(&s->room, &s->n->lock);
	return sync_goes_on(y);
}

/* One record, in pieces of one kind; false = stop. */
static bool sync_put(
	struct sync *y, struct volume *v, uint64_t off, uint64_t len, const uint8_t *payload)
{
	struct record rec = {.type = payload ? RECORD_WRITE : RECORD_ZERO,
		.flags = y->flags | (payload ? 0 : RECORD_FLAG_UNMAP),
		.volume = v->index,
		.offset = off,
		.length = len,
		.payload = payload ? (uint32_t)len : 0};
	struct sender *s = y->s;
	uint8_t *slot = NULL;

	pthread_mutex_lock(&s->n->lock);
	if (sync_goes_on(y))
		slot = sender_change(s, &rec);
	y->epoch = slot ? rec.epoch : y->epoch;
	if (slot)
		dirtymap_sent(&s->n->windows, v->index, off, len);
	if (slot && payload)
		s->sync_sent += len;
	pthread_mutex_unlock(&s->n->lock);
	if (!slot)
		return false;
	sender_publish(s, slot, &rec, payload);
	return true;
}

/* A piece in the buffer, as runs of zero and of data. */
static bool sync_put_piece(struct sync *y, struct volume *v, uint64_t off, uint32_t len)
{
	uint32_t at = 0;

	while (at < len) {
		uint32_t end = at;
		bool zero = false;

		while (end < len) {
			uint32_t n = (uint32_t)min_u64(SYNC_ZERO_UNIT, len - end);
			bool z = bytes_all_zero(y->buf + end, n);

			if (end > at && z != zero)
				break;
			zero = z;
			end += n;
		}
		if (!sync_put(y, v, off + at, end - at, zero ? NULL : y->buf + at))
			return false;
		at = end;
	}
	return true;
}

/* (L) What guests write meanwhile is staged on the secondary too, so the journal must have room for
 * it: a sync that gives way to them for ever would fill it, and begin again. */
static bool sync_in_a_hurry(const struct sync *y)
{
	const struct sender *s = y->s;
	uint64_t all = atomic_load_explicit(&s->core.queue.head, memory_order_relaxed);

	return y->flags & RECORD_FLAG_SYNC && all > 2 * s->sync_sent;
}

/* A piece was read: rests as the limit and the guests ask for; keeps the shown rate. */
static void sync_pace(struct sync *y, uint64_t bytes)
{
	pthread_mutex_t *lock = &y->s->n->lock;
	uint64_t now = clock_ns();
	bool on;

	pace_end(&y->pace, bytes);
	y->window_bytes += bytes;
	do {
		pthread_mutex_lock(lock);
		on = sync_goes_on(y);
		if (sync_in_a_hurry(y))
			y->pace.rest = 0;
		if (on && now - y->window_began >= NS_PER_S / 2) {
			y->s->sync_rate = y->window_bytes * NS_PER_S / (now - y->window_began);
			y->window_began = now;
			y->window_bytes = 0;
		}
		pthread_mutex_unlock(lock);
	} while (on && pace_sleep(&y->pace));
}

/* (L) The blocks of [off, off+len) stand in the stream.  Not if the session has ended meanwhile:
 * then what was on its way is wanted again. */
static void sync_taken(struct sync *y, struct volume *v, uint64_t off, uint64_t len)
{
	if (sync_goes_on(y))
		dirtymap_clear(&v->map.map, DIRTYMAP_WANTED, off, len);
	*y->done += len;
}

/* Bytes of [off, off+len), whole blocks of the dirty map, that the extents say read as zeroes;
 * their range is held.  *ret_data: how far data goes where they do not. */
static int sync_zeroes(
	struct volume *v, uint64_t off, uint64_t len, uint64_t *ret_zero, uint64_t *ret_data)
{
	uint64_t block = dirtymap_block(&v->map.map);
	struct sync_extent e = {0};
	int r = 0;

	if (backing_get_info(v->backing)->can_extents)
		r = backing_extents(v->backing, off, len, sync_first_extent, &e);
	if (r < 0 && r != -ECANCELED)
		return r;
	*ret_zero = !e.any || !e.zero ? 0 : e.len == len ? len : round_down(e.len, block);
	*ret_data = e.any && !e.zero ? min_u64(round_up(e.len, block), len) : min_u64(len, block);
	if (!e.any)
		*ret_data = len;
	return 0;
}

/* Looks for a hole at the beginning of a run of wanted blocks, and sends it: *ret_len bytes, 0 =
 * data begins there.  0, -ECANCELED (stop), or an error. */
static int sync_hole(
	struct sync *y, struct volume *v, const struct dirtymap_run *run, uint64_t *ret_len)
{
	uint64_t zero = 0, data = 0;
	struct rangelock_entry range;
	struct node *n = y->s->n;
	bool more = true;
	int r;

	/* Without this nobody could say that it is one still when it is sent. */
	pthread_mutex_lock(&n->lock);
	volume_lock_range(v, &range, run->off, run->len);
	pthread_mutex_unlock(&n->lock);
	r = sync_zeroes(v, run->off, run->len, &zero, &data);
	if (r == 0 && zero)
		more = sync_put(y, v, run->off, zero, NULL);
	pthread_mutex_lock(&n->lock);
	if (r == 0 && zero && more)
		sync_taken(y, v, run->off, zero);
	volume_unlock_range(v, &range);
	pthread_mutex_unlock(&n->lock);
	*ret_len = zero;
	y->data_end = run->off + (zero ? 0 : data);
	return r < 0 ? r : more ? 0 : -ECANCELED;
}

/* Reads a piece and sends it; as sync_hole. */
static int sync_data(struct sync *y, struct volume *v, uint64_t off, uint64_t len)
{
	struct rangelock_entry range;
	struct node *n = y->s->n;
	bool more = true;
	int r;

	pace_begin(&y->pace);
	/* A small range, so that guests wait as little as possible. */
	pthread_mutex_lock(&n->lock);
	volume_lock_range(v, &range, off, len);
	pthread_mutex_unlock(&n->lock);
	r = backing_pread(v->backing, y->buf, (uint32_t)len, off);
	if (r == 0)
		more = sync_put_piece(y, v, off, (uint32_t)len);
	pthread_mutex_lock(&n->lock);
	if (r == 0 && more)
		sync_taken(y, v, off, len);
	volume_unlock_range(v, &range);
	pthread_mutex_unlock(&n->lock);
	if (r == 0 && more)
		sync_pace(y, len);
	return r < 0 ? r : more ? 0 : -ECANCELED;
}

/* One step at the beginning of a run of wanted blocks: *ret_len bytes are in the stream then.  0,
 * -ECANCELED (stop), or an error. */
static int sync_step(
	struct sync *y, struct volume *v, const struct dirtymap_run *run, uint64_t *ret_len)
{
	bool room;
	int r;

	pthread_mutex_lock(&y->s->n->lock);
	room = sync_wait_room(y);
	pthread_mutex_unlock(&y->s->n->lock);
	if (!room)
		return -ECANCELED;
	/* What was data when its extent was looked at is read, whatever it has become. */
	if (run->off >= y->data_end) {
		r = sync_hole(y, v, run, ret_len);
		if (r < 0 || *ret_len)
			return r;
	}
	*ret_len = min_u64(SYNC_PIECE, min_u64(run->len, y->data_end - run->off));
	return sync_data(y, v, run->off, *ret_len);
}

/* The next run of blocks that the peer lacks. */
static bool sync_next(struct volume *v, uint64_t from, struct dirtymap_run *ret_run)
{
	bool any;

	pthread_mutex_lock(&v->node->lock);
	any = dirtymap_next(&v->map.map, DIRTYMAP_WANTED, from, SYNC_WINDOW, ret_run);
	pthread_mutex_unlock(&v->node->lock);
	return any;
}

static int sync_volume(struct sync *y, struct volume *v, uint64_t off)
{
	struct dirtymap_run run;

	y->data_end = 0;
	while (sync_next(v, off, &run)) {
		uint64_t len = 0;
		int r = sync_step(y, v, &run, &len);

		if (r < 0) {
			if (r != -ECANCELED)
				log_error("disk %s: cannot read it for the sync at byte %llu: "
					  "error %d",
					v->name, (unsigned long long)run.off, -r);
			return r;
		}
		off = run.off + len;
	}
	return 0;
}

struct sync_size {
	uint64_t bytes, limit;
};

static int sync_add_data(void *ctx, uint64_t off, uint64_t len, bool zero)
{
	struct sync_size *d = ctx;

	/* Zeroes are a header; data may be cut into records of one block of zero detection. */
	d->bytes +=
		zero ? RECORD_HEADER_SIZE : len + len / SYNC_ZERO_UNIT * RECORD_HEADER_SIZE + 4096;
	return d->bytes > d->limit ? -ECANCELED : 0;
}

uint64_t sync_estimate(struct node *n, uint64_t limit)
{
	struct sync_size d = {.limit = limit};
	int r = 0;

	for (unsigned i = 0; i < n->nvolumes && r == 0; i++) {
		struct volume *v = &n->volumes[i];
		struct dirtymap_run run = {0};

		while (r == 0 && sync_next(v, run.off + run.len, &run)) {
			if (backing_get_info(v->backing)->can_extents)
				r = backing_extents(
					v->backing, run.off, run.len, sync_add_data, &d);
			else
				r = sync_add_data(&d, run.off, run.len, false);
		}
	}
	/* An error will be met again, and reported, by the sync. */
	return d.bytes;
}

/* (L) */
static bool sync_wanted(struct node *n)
{
	for (unsigned i = 0; i < n->nvolumes; i++)
		if (n->maps[i]->wanted)
			return true;
	return false;
}

/* Everything that is wanted, until nothing is: a local write that failed may want a block again.
 * Then the end of the sync stands in the stream before any later change can. */
static int sync_all(struct sync *y)
{
	struct sender *s = y->s;
	struct node *n = s->n;
	bool ended = false;
	int r = 0;

	while (!ended) {
		for (unsigned i = 0; r == 0 && i < n->nvolumes; i++)
			r = sync_volume(y, &n->volumes[i], 0);
		if (r < 0)
			return r;
		pthread_mutex_lock(&n->lock);
		while (!s->sync_stop && primary_replicating(&s->core) && !sync_wanted(n)) {
			s->sync_ended = primary_sync_end(&s->core, clock_ns()) == 0;
			if (s->sync_ended)
				break;
			pthread_cond_wait(&s->room, &n->lock);
		}
		ended = s->sync_ended || s->sync_stop || !primary_replicating(&s->core);
		pthread_mutex_unlock(&n->lock);
	}
	return 0;
}

static void *sync_main(void *arg)
{
	struct sender *s = arg;
	struct sync y = {.s = s, .flags = RECORD_FLAG_SYNC, .done = &s->sync_done};
	int r = 0;

	(void)pthread_setname_np(pthread_self(), "tandem-sync");
	pthread_mutex_lock(&s->n->lock);
	y.session = s->session;
	pthread_mutex_unlock(&s->n->lock);
	y.buf = malloc(SYNC_PIECE);
	pace_init(&y.pace, s->n, s->n->conf->sync_rate);
	y.window_began = clock_ns();
	if (!y.buf)
		r = -ENOMEM;
	if (r == 0)
		r = sync_all(&y);
	free(y.buf);
	pthread_mutex_lock(&s->n->lock);
	s->sync_ended = true;
	s->sync_error = r == -ECANCELED ? 0 : r;
	pthread_mutex_unlock(&s->n->lock);
	wake_up(&s->wake);
	return NULL;
}

int sync_new_part(struct sender *s, uint64_t session, struct volume *v, uint64_t from,
	uint64_t *done, uint64_t *ret_epoch)
{
	struct sync y = {.s = s, .session = session, .done = done, .buf = malloc(SYNC_PIECE)};
	int r;

	if (!y.buf)
		return -ENOMEM;
	pace_init(&y.pace, s->n, s->n->conf->sync_rate);
	y.window_began = clock_ns();
	r = sync_volume(&y, v, from);
	free(y.buf);
	*ret_epoch = y.epoch;
	return r;
}

int sync_start(struct sender *s)
{
	int r;

	/* Held until the thread is noted: writers look at sync_ended, the thread at sync_stop. */
	pthread_mutex_lock(&s->n->lock);
	s->sync_stop = s->sync_ended = false;
	s->sync_error = 0;
	r = pthread_create(&s->sync_thread, NULL, sync_main, s);
	s->sync_running = r == 0;
	pthread_mutex_unlock(&s->n->lock);
	return -r;
}

void sync_stop(struct sender *s)
{
	if (!s->sync_running)
		return;
	pthread_mutex_lock(&s->n->lock);
	s->sync_stop = true;
	pthread_cond_broadcast(&s->room);
	pthread_mutex_unlock(&s->n->lock);
	pthread_join(s->sync_thread, NULL);
	pthread_mutex_lock(&s->n->lock);
	s->sync_running = false;
	pthread_mutex_unlock(&s->n->lock);
}
