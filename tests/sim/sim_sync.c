/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sync of the simulated primary: what its dirty map wants, in pieces that are read and put into
 * the stream under their range lock, while guests write.  Zeroes go as ZERO without payload. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

static void sync_next(struct sim *s, void *arg);

static bool sync_stale(struct sim *s, void *arg)
{
	return (unsigned)(uintptr_t)arg != s->p.session;
}

static void *sync_stamp(struct sim *s)
{
	return (void *)(uintptr_t)s->p.session;
}

static void sync_release(struct sim *s)
{
	struct sim_sync *y = &s->p.sync;

	y->running = false;
	if (s->broken != BREAK_SYNC_UNLOCKED)
		rangelock_del(&s->p.ranges[y->vol], &y->range.range, writer_granted);
}

/* Runs of zero and of data, each one record. */
static void sync_put(struct sim *s, void *arg)
{
	struct sim_sync *y = &s->p.sync;

	if (sync_stale(s, arg)) {
		sync_release(s);
		if (primary_replicating(&s->p.core))
			sync_begin(s); /* of the session that has begun meanwhile */
		return;
	}
	while (y->at < y->len) {
		uint64_t end = y->at;
		bool zero = false;
		struct record rec;
		uint8_t *slot;

		while (end < y->len) {
			uint64_t n = min_u64(4096, y->len - end);
			bool z = bytes_all_zero(y->buf + end, n);

			if (end > y->at && z != zero)
				break;
			zero = z;
			end += n;
		}
		rec = (struct record){.type = zero ? RECORD_ZERO : RECORD_WRITE,
			.flags = RECORD_FLAG_SYNC | (zero ? RECORD_FLAG_UNMAP : 0),
			.volume = y->vol,
			.offset = y->off + y->at,
			.length = end - y->at,
			.payload = zero ? 0 : (uint32_t)(end - y->at)};
		slot = primary_change(&s->p.core, &rec, s->now);
		if (!slot) {
			sim_after(s, SIM_PRIMARY, sim_delay(s, 50 * SIM_US, SIM_MS), sync_put, arg);
			return;
		}
		dirtymap_sent(&s->p.windows, y->vol, rec.offset, rec.length);
		if (!zero)
			memcpy(slot + RECORD_HEADER_SIZE, y->buf + y->at, rec.payload);
		queue_publish(slot, &rec);
		y->at = end;
	}
	dirtymap_clear(&s->p.map[y->vol], DIRTYMAP_WANTED, y->off, y->len);
	sync_release(s);
	y->off += y->len;
	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, 200 * SIM_US), sync_next, arg);
}

static void sync_read(struct sim *s, void *arg)
{
	struct sim_sync *y = &s->p.sync;

	disk_read(&s->p.image[y->vol], y->off, y->buf, y->len);
	y->at = 0;
	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, 200 * SIM_US), sync_put, arg);
}

void sync_granted(struct sim *s, void *arg)
{
	(void)arg;
	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, 200 * SIM_US), sync_read,
		(void *)(uintptr_t)s->p.sync.range.id);
}

static void sync_end(struct sim *s, void *arg)
{
	uint64_t epoch = s->p.core.open;

	if (sync_stale(s, arg))
		return;
	if (primary_sync_end(&s->p.core, s->now) < 0) {
		sim_after(s, SIM_PRIMARY, SIM_MS, sync_end, arg);
		return;
	}
	sim_trace(s, "sync: ends as epoch %llu", (unsigned long long)epoch);
	s->stats->sync_ends++;
	if (!s->plan.memory)
		oracle_cut(s, epoch);
}

static void sync_next(struct sim *s, void *arg)
{
	struct sim_sync *y = &s->p.sync;
	struct dirtymap_run run;

	if (sync_stale(s, arg) || y->running)
		return;
	while (y->vol < s->plan.volumes &&
		!dirtymap_next(&s->p.map[y->vol], DIRTYMAP_WANTED, y->off,
			min_u64(RECORD_MAX_PAYLOAD, (1 + sim_rng(s, 32)) * SIM_SECTOR * 8), &run)) {
		y->vol++;
		y->off = 0;
	}
	if (y->vol == s->plan.volumes) {
		sync_end(s, arg);
		return;
	}
	y->off = run.off;
	y->len = run.len;
	y->running = true;
	y->range.s = s;
	y->range.range.owner = &y->range;
	y->range.id = s->p.session;
	if (s->broken == BREAK_SYNC_UNLOCKED ||
		rangelock_add(&s->p.ranges[y->vol], &y->range.range, y->off, y->len))
		sync_granted(s, NULL);
}

void sync_begin(struct sim *s)
{
	struct sim_sync *y = &s->p.sync;

	if (y->running)
		return; /* the last piece of the former session lets go first */
	s->stats->syncs++;
	y->vol = 0;
	y->off = 0;
	if (!y->buf && !(y->buf = malloc(RECORD_MAX_PAYLOAD)))
		abort();
	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, SIM_MS), sync_next, sync_stamp(s));
}
