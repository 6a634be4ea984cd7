/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulated primary: guests' writers as the replicator has them (range lock, then a place in
 * the stream, copy and publish, local image, range unlock, reply), cuts, and the sender's side of
 * the link. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

static void writer_start(struct sim *s, void *arg);

static void writer_reply(struct sim *s, void *arg)
{
	struct writer *w = arg;

	rangelock_del(&s->p.ranges[w->vol], &w->range, writer_granted);
	w->busy = false;
	if (s->broken != BREAK_NOT_LOOSE)
		dirtymap_mark_loose(&s->p.map[w->vol], w->rec.offset, w->rec.length);
	if (s->broken == BREAK_LATE_CHANGE && w->id % 16 == 0 && primary_replicating(&s->p.core)) {
		w->slot = primary_change(&s->p.core, &w->rec, s->now);
		if (w->slot) {
			if (w->rec.payload)
				memcpy(w->slot + RECORD_HEADER_SIZE, w->data, w->rec.payload);
			queue_publish(w->slot, &w->rec);
		}
	}
	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, s->plan.think), writer_start, w);
}

static void writer_local(struct sim *s, void *arg)
{
	struct writer *w = arg;

	if (w->slot) {
		if (w->rec.payload)
			memcpy(w->slot + RECORD_HEADER_SIZE, w->data, w->rec.payload);
		queue_publish(w->slot, &w->rec);
		s->p.publishing--;
	}
	disk_write(&s->p.image[w->vol], w->rec.offset, w->data, w->rec.length, writer_reply, w);
}

/* The range is held: the place in the stream decides the order of overlapping changes. */
static void writer_change(struct sim *s, void *arg)
{
	struct writer *w = arg;
	bool late = s->broken == BREAK_LATE_CHANGE && w->id % 16 == 0;
	bool drop = s->broken == BREAK_DROP_CHANGE && w->id % 50 == 49;

	w->slot = NULL;
	if (primary_replicating(&s->p.core) && !late && !drop) {
		w->slot = primary_change(&s->p.core, &w->rec, s->now);
		if (!w->slot) {
			s->stats->queue_full++;
			sim_after(s, SIM_PRIMARY, sim_delay(s, 50 * SIM_US, SIM_MS), writer_change,
				w);
			return;
		}
		s->p.publishing++;
		dirtymap_sent(&s->p.windows, w->vol, w->rec.offset, w->rec.length);
	} else if (!late && !drop) {
		dirtymap_mark(&s->p.map[w->vol], DIRTYMAP_WANTED, w->rec.offset, w->rec.length);
	}
	oracle_change(s, w->vol, w->rec.offset, w->rec.length, w->rec.payload ? w->data : NULL);
	sim_trace(s, "write %llu: %s volume %u [%llu, +%llu) epoch %llu%s",
		(unsigned long long)w->id, record_type_name(w->rec.type), w->vol,
		(unsigned long long)w->rec.offset, (unsigned long long)w->rec.length,
		(unsigned long long)w->rec.epoch, w->slot ? "" : " solo");
	primary_try_cut(s, false);
	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, 50 * SIM_US), writer_local, w);
}

void writer_granted(struct rangelock_entry *e)
{
	struct writer *w = e->owner;

	if (w == &w->s->p.sync.range)
		sim_after(w->s, SIM_PRIMARY, 0, sync_granted, NULL);
	else if (w->s->broken != BREAK_LOCAL_ORDER)
		sim_after(w->s, SIM_PRIMARY, sim_delay(w->s, 0, 20 * SIM_US), writer_change, w);
}

static void writer_start(struct sim *s, void *arg)
{
	struct writer *w = arg;
	uint64_t size, sectors;
	bool zero;

	if (!s->guests)
		return;
	w->busy = true;
	w->vol = (unsigned)sim_rng(s, s->plan.volumes);
	size = s->plan.size[w->vol] / SIM_SECTOR;
	sectors = 1 + sim_rng(s, sim_chance(s, 70) ? 8 : s->plan.max_write / SIM_SECTOR);
	sectors = min_u64(sectors, size);
	zero = sim_chance(s, s->plan.zero_percent);
	if (zero && sim_chance(s, 20))
		sectors = 1 + sim_rng(s, min_u64(size, s->plan.max_write / SIM_SECTOR));
	w->id = ++s->p.ids;
	w->rec = (struct record){.type = zero ? RECORD_ZERO : RECORD_WRITE,
		.flags = zero && sim_chance(s, 50) ? RECORD_FLAG_UNMAP : 0,
		.volume = w->vol,
		/* Half of all go to a small region, so that they overlap. */
		.offset = sim_rng(s, sim_chance(s, 50) ? min_u64(32, size - sectors + 1)
						       : size - sectors + 1) *
			  SIM_SECTOR,
		.length = sectors * SIM_SECTOR,
		.payload = zero ? 0 : (uint32_t)(sectors * SIM_SECTOR)};
	if (zero)
		memset(w->data, 0, w->rec.length);
	else
		sim_pattern(w->data, w->rec.offset, w->rec.length, w->id);
	s->stats->writes += !zero;
	s->stats->zeros += zero;
	if (rangelock_add(&s->p.ranges[w->vol], &w->range, w->rec.offset, w->rec.length) ||
		s->broken == BREAK_LOCAL_ORDER)
		writer_change(s, w);
}

static void primary_flushed(struct sim *s, void *arg)
{
	unsigned v = (unsigned)(uintptr_t)arg;

	s->p.flushing[v] = false;
	dirtymap_flush_end(&s->p.map[v], true);
}

static void primary_flush(struct sim *s, unsigned v)
{
	if (s->p.flushing[v])
		return;
	s->p.flushing[v] = dirtymap_flush_begin(&s->p.map[v]);
	disk_flush(&s->p.image[v], primary_flushed, (void *)(uintptr_t)v);
}

/* --- the link thread --- */

void primary_try_cut(struct sim *s, bool now)
{
	struct primary *p = &s->p.core;
	uint64_t epoch;

	if (!now && !primary_cut_due(p, s->now, s->plan.cut_interval))
		return;
	if (primary_cut(p, s->now, &epoch) == 0) {
		sim_trace(s, "cut: epoch %llu", (unsigned long long)epoch);
		oracle_cut(s, epoch);
	}
}

static void primary_tick(struct sim *s, void *arg)
{
	struct primary *p = &s->p.core;
	const uint8_t *data;
	uint64_t n;
	bool more;

	sim_after(s, SIM_PRIMARY, sim_delay(s, 50 * SIM_US, 500 * SIM_US), primary_tick, arg);
	if (s->guests && sim_chance(s, 2))
		primary_flush(s, (unsigned)sim_rng(s, s->plan.volumes));
	if (!s->link.p_up)
		return;
	if (!s->plan.memory)
		primary_try_cut(s, primary_replicating(p) && s->guests && sim_chance(s, 1));
	if (sim_chance(s, 2))
		(void)primary_say(p, RECORD_HEARTBEAT, 0, 0, NULL);
	if (sim_chance(s, 1))
		(void)primary_say(p, RECORD_OPTIONAL | 77, 1, 2, "of a newer version");
	n = min_u64(queue_ready(&p->queue, &data, &more), link_room(s));
	if (n && sim_chance(s, 50))
		n = 1 + sim_rng(s, n);
	if (n) {
		link_send(s, data, n);
		queue_consume(&p->queue, n);
	}
}

void primary_node_goodbye(struct sim *s, void *arg)
{
	(void)arg;
	if (s->p.alive && s->link.p_up && primary_replicating(&s->p.core))
		(void)primary_say(
			&s->p.core, RECORD_GOODBYE, RECORD_GOODBYE_SHUTDOWN, 0, "going away");
}

void primary_node_ack(struct sim *s, const struct record *rec)
{
	struct primary *p = &s->p.core;
	struct primary_pending q;
	const char *why;

	if (!primary_replicating(p))
		return;
	why = primary_ack(p, rec);
	if (why)
		sim_fail(s, "the primary refuses an acknowledgement: %s", why);
	dirtymap_acknowledged(&s->p.windows, p->settled, p->total_changes);
	if (rec->type == RECORD_ACK_COMMITTED)
		dirtymap_held_committed(&s->p.windows);
	if (rec->type == RECORD_ACK_COMMITTED && !s->plan.ack_when_sealed &&
		rec->epoch > s->oracle.promise && !s->sec.marking && s->oracle.promise)
		sim_fail(s, "I7: epoch %llu is acknowledged, but only %llu is committed",
			(unsigned long long)rec->epoch, (unsigned long long)s->oracle.promise);
	primary_get_pending(p, s->now, &q);
	if (q.got_changes > p->total_changes || q.done_changes < q.got_changes)
		sim_fail(s, "pending: %llu changes not received, %llu not committed",
			(unsigned long long)q.got_changes, (unsigned long long)q.done_changes);
	sim_trace(s, "primary: %s epoch %llu, %llu changes", record_type_name(rec->type),
		(unsigned long long)rec->epoch, (unsigned long long)rec->offset);
}

/* A new node: everything is wanted. */
void primary_node_init(struct sim *s)
{
	s->p.windows = (struct dirtymap_windows){.maps = s->p.maps, .count = s->plan.volumes};
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		if (dirtymap_init(&s->p.map[v], s->plan.size[v], DIRTYMAP_MIN_BLOCK) < 0)
			abort();
		s->p.maps[v] = &s->p.map[v];
		dirtymap_mark_all(&s->p.map[v], DIRTYMAP_WANTED);
	}
}

/* Digests of what the secondary holds of an interrupted sync: what is equal need not come again. */
static void primary_held(struct sim *s)
{
	const uint8_t *theirs = check_held(s);
	struct imap *m = imap_new();
	struct imap_range g;

	for (unsigned v = 0; v < s->plan.volumes; v++) {
		struct dirtymap *map = &s->p.map[v];
		uint8_t ours[DIRTYMAP_MIN_BLOCK];
		struct dirtymap_run run = {0};

		if (!m || replica_kept_map(s->sec.r, v, m) < 0)
			abort();
		for (uint64_t at = 0; imap_find(m, at, &g); at = g.end) {
			dirtymap_mark(map, DIRTYMAP_HELD, g.start, g.end - g.start);
			dirtymap_mark(map, DIRTYMAP_WANTED, g.start, g.end - g.start);
		}
		while (dirtymap_next(map, DIRTYMAP_HELD, run.off + run.len, 1, &run)) {
			struct rangelock_entry e;
			/* Else a guest's write is under way, which is not in the map any more. */
			bool still = rangelock_add(&s->p.ranges[v], &e, run.off, run.len);

			rangelock_del(&s->p.ranges[v], &e, writer_granted);
			disk_read(&s->p.image[v], run.off, ours, run.len);
			if (!still ||
				(memcmp(ours, theirs + s->oracle.base[v] + run.off, run.len) &&
					s->broken != BREAK_HELD_UNASKED))
				continue;
			dirtymap_clear(map, DIRTYMAP_WANTED, run.off, run.len);
			s->stats->held++;
		}
	}
	imap_free(m);
}

static enum record_sync primary_choose(
	struct sim *s, const struct replica_status *st, uint64_t wanted)
{
	/* In place although there is a state: [unsafe]. */
	if (st->mode != REPLICA_READY || sim_chance(s, st->kept ? 15 : 30))
		return RECORD_SYNC_IN_PLACE;
	if (st->kept && !sim_chance(s, 25) &&
		wanted + st->kept_span + st->journal_size / 2 < st->journal_size)
		return RECORD_SYNC_RESUMED;
	if (wanted + st->journal_size / 2 < st->journal_size)
		return RECORD_SYNC_STAGED;
	return sim_chance(s, 60) ? RECORD_SYNC_CLONED : RECORD_SYNC_IN_PLACE;
}

void primary_node_session(struct sim *s, uint64_t floor, const struct replica_status *st)
{
	enum record_sync kind = RECORD_SYNC_IN_PLACE;
	uint64_t wanted = 0;

	s->p.session++;
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		/* [unsafe] commit = received: what was acknowledged may be lost. */
		if (s->plan.ack_when_sealed)
			dirtymap_mark_all(&s->p.map[v], DIRTYMAP_WANTED);
	}
	if (st->kept)
		primary_held(s);
	for (unsigned v = 0; v < s->plan.volumes; v++)
		wanted += dirtymap_wanted_bytes(&s->p.map[v]);
	kind = primary_choose(s, st, wanted);
	if (kind != RECORD_SYNC_RESUMED) {
		dirtymap_lost(&s->p.windows);
		wanted = 0;
		for (unsigned v = 0; v < s->plan.volumes; v++)
			wanted += dirtymap_wanted_bytes(&s->p.map[v]);
		if (kind == RECORD_SYNC_STAGED && wanted + st->journal_size / 2 >= st->journal_size)
			kind = RECORD_SYNC_CLONED;
	}
	if (s->broken == BREAK_HELD_EARLY)
		dirtymap_held_committed(&s->p.windows);
	s->stats->staged += kind == RECORD_SYNC_STAGED || kind == RECORD_SYNC_RESUMED;
	s->stats->gone_on += kind == RECORD_SYNC_RESUMED;
	s->stats->sync_bytes += wanted;
	s->stats->wanted += s->oracle.total;
	sim_trace(s, "sync: %llu bytes, %s", (unsigned long long)wanted, record_sync_name(kind));
	primary_session_begin(&s->p.core, floor, kind, wanted, st->journal_size / 4);
	sync_begin(s);
}

void primary_node_lost(struct sim *s)
{
	sim_trace(s, "primary: the link is lost");
	s->p.session++;
	primary_session_end(&s->p.core);
	guest_lost(s);
	if (s->broken == BREAK_FORGET_SENT)
		for (unsigned v = 0; v < s->plan.volumes; v++) {
			dirtymap_clear_all(&s->p.map[v], DIRTYMAP_SENT0);
			dirtymap_clear_all(&s->p.map[v], DIRTYMAP_SENT1);
		}
	dirtymap_lost(&s->p.windows);
}

/* --- life --- */

void primary_node_start(struct sim *s)
{
	struct sim_primary *p = &s->p;

	p->alive = true;
	p->publishing = 0;
	p->session++;
	primary_init(&p->core, p->ring, s->plan.queue_size);
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		rangelock_init(&p->ranges[v]);
		disk_read(&p->image[v], 0, s->oracle.logical + s->oracle.base[v], s->plan.size[v]);
	}
	for (unsigned i = 0; i < s->plan.writers; i++) {
		struct writer *w = &p->writers[i];

		w->s = s;
		w->range.owner = w;
		w->busy = false;
		if (!w->data && !(w->data = malloc(s->plan.max_write)))
			abort();
		sim_after(s, SIM_PRIMARY, sim_delay(s, 0, SIM_MS), writer_start, w);
	}
	guest_start(s);
	sim_after(s, SIM_PRIMARY, 0, primary_tick, NULL);
	sim_trace(s, "primary: starts");
}

/* What the map file says after a crash is at least what the map said (test_dirtymap_crash.c), with
 * the regions of the writes that were under way. */
static void primary_map_crash(struct sim *s)
{
	struct sim_primary *p = &s->p;

	dirtymap_lost(&p->windows);
	for (unsigned i = 0; i < s->plan.writers; i++) {
		const struct writer *w = &p->writers[i];

		if (w->busy && w->rec.length)
			dirtymap_mark(
				&p->map[w->vol], DIRTYMAP_WANTED, w->rec.offset, w->rec.length);
	}
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		dirtymap_move(&p->map[v], DIRTYMAP_WANTED, DIRTYMAP_LOOSE0);
		dirtymap_move(&p->map[v], DIRTYMAP_WANTED, DIRTYMAP_LOOSE1);
		p->map[v].flushing = p->flushing[v] = false;
		/* Its start flushes what a process left behind. */
		disk_settle(&p->image[v]);
	}
}

void primary_node_crash(struct sim *s)
{
	bool power = !s->plan.kill_only && sim_chance(s, 60);

	sim_trace(s, "primary: crashes (%s)", power ? "power" : "killed");
	s->stats->crashes_p++;
	s->boots[SIM_PRIMARY]++;
	s->p.alive = false;
	s->p.sync.running = false;
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_crash(&s->p.image[v], power);
	primary_map_crash(s);
	link_break(s);
	s->link.p_up = false;
}

void primary_node_free(struct sim *s)
{
	for (unsigned i = 0; i < SIM_WRITERS; i++)
		free(s->p.writers[i].data);
	guest_free(s);
	free(s->p.sync.buf);
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		disk_free(&s->p.image[v]);
		dirtymap_deinit(&s->p.map[v]);
	}
}
