/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulated applier: batches to the images, their flush, the journal's header, the metadata of
 * a full sync; one step after the other as the replicator's thread does it. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

static void apply_take(struct sim *s, void *arg);

void meta_encode(const struct sim_meta *m, uint8_t *buf)
{
	memset(buf, 0, SIM_SECTOR);
	put_le64(buf, m->serial);
	put_le64(buf + 8, m->committed);
	buf[16] = m->consistent;
	put_le64(buf + 24, m->cloned);
}

void meta_write(struct sim *s, const struct sim_meta *m, sim_fn fn)
{
	uint8_t buf[SIM_SECTOR];
	uint64_t serial = s->sec.meta_now.serial + 1;

	s->sec.meta_now = *m;
	s->sec.meta_now.serial = serial;
	meta_encode(&s->sec.meta_now, buf);
	disk_write(
		&s->sec.meta, s->sec.meta_now.serial % 2 * SIM_SECTOR, buf, sizeof(buf), fn, NULL);
}

void apply_kick(struct sim *s)
{
	if (s->sec.applying || s->sec.apply_scheduled)
		return;
	s->sec.apply_scheduled = true;
	sim_after(s, SIM_SECONDARY, sim_delay(s, 0, 500 * SIM_US), apply_take, NULL);
}

static void apply_end(struct sim *s, void *arg)
{
	s->sec.applying = false;
	secondary_kick(s);
	apply_take(s, arg);
}

/* --- metadata of a full sync --- */

static void apply_committed(struct sim *s, void *arg)
{
	uint64_t epoch = s->sec.meta_now.committed;

	s->sec.replacing = false;
	sim_trace(s, "apply: full sync committed as epoch %llu", (unsigned long long)epoch);
	replica_direct_committed(s->sec.r, epoch);
	s->stats->commits++;
	apply_end(s, arg);
}

static void apply_commit_flush(struct sim *s, void *arg)
{
	disk_flush(&s->sec.meta, apply_committed, arg);
}

/* --- after the writes --- */

static void apply_tail_durable(struct sim *s, void *arg)
{
	struct sim_meta m = {.consistent = true, .committed = s->sec.batch.epoch};

	if (s->sec.header_due) {
		s->sec.header_due = false;
		replica_tail_durable(s->sec.r, &s->sec.header);
		secondary_kick(s);
	}
	if (s->sec.batch.final)
		meta_write(s, &m, apply_commit_flush);
	else
		apply_end(s, arg);
}

static void apply_header_flush(struct sim *s, void *arg)
{
	if (s->broken == BREAK_HEADER_EARLY)
		apply_tail_durable(s, arg);
	else
		disk_flush(&s->sec.journal, apply_tail_durable, arg);
}

void apply_flushed(struct sim *s, void *arg)
{
	struct sim_secondary *sec = &s->sec;
	struct replica_batch b = sec->batch;
	uint8_t buf[JOURNAL_BLOCK];

	if (--sec->pending > 0)
		return;
	if (b.cloned && b.final && !sec->replacing) {
		clones_replace(s);
		return;
	}
	sec->batch_out = false;
	sec->header_due = replica_batch_done(sec->r, &sec->batch, &sec->header);
	if (b.direct && !b.cloned && !b.final && s->broken != BREAK_SYNC_NO_FLUSH) {
		replica_direct_durable(sec->r, &b);
		s->stats->synced++;
	}
	sec->batch = (struct replica_batch){.final = b.final, .epoch = b.epoch};
	s->stats->applied++;
	sim_trace(s, "apply: batch up to epoch %llu done%s", (unsigned long long)b.epoch,
		b.direct ? " (full sync)" : "");
	secondary_kick(s);
	if (!sec->header_due) {
		apply_tail_durable(s, arg);
		return;
	}
	journal_header_encode(buf, &sec->header);
	sim_trace(s, "apply: header %llu, tail %llu, applied %llu",
		(unsigned long long)sec->header.serial, (unsigned long long)sec->header.tail,
		(unsigned long long)sec->header.applied);
	disk_write(&sec->journal, sec->header.serial % 2 * JOURNAL_BLOCK, buf, sizeof(buf),
		apply_header_flush, NULL);
}

static void apply_flush(struct sim *s, void *arg)
{
	const struct replica_batch *b = &s->sec.batch;
	bool skip = (b->cloned && (!b->final || s->broken == BREAK_CLONE_EARLY)) ||
		    (s->broken == BREAK_TAIL_EARLY && !s->sec.batch.direct) ||
		    (s->broken == BREAK_SYNC_NO_FLUSH && s->sec.batch.direct) ||
		    (s->broken == BREAK_SYNCED_EARLY && s->sec.batch.direct && !s->sec.batch.final);

	if (--s->sec.pending > 0)
		return;
	s->sec.pending = skip ? 1 : s->plan.volumes;
	if (skip) {
		apply_flushed(s, arg);
		return;
	}
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_flush(b->cloned ? &s->sec.clone[v] : &s->sec.image[v], apply_flushed, arg);
}

/* --- the writes --- */

/* Content of a piece of a batch's range. */
static void apply_content(
	struct sim *s, const struct imap_range *g, uint64_t off, uint8_t *buf, uint64_t len)
{
	uint64_t skip = off - g->start;

	if (g->source == IMAP_ZERO) {
		memset(buf, 0, len);
	} else if (g->source & REPLICA_SOURCE_JOURNAL) {
		uint64_t pos = (g->source & ~REPLICA_SOURCE_JOURNAL) + skip;

		s->stats->from_journal++;
		disk_read(&s->sec.journal, journal_file_offset(s->plan.ring_size, pos), buf, len);
	} else {
		memcpy(buf, (const uint8_t *)(uintptr_t)g->source + skip, len);
	}
}

static void apply_write(struct sim *s, void *arg)
{
	static uint8_t buf[16384];
	struct sim_secondary *sec = &s->sec;

	sec->marking = false;
	if (sec->batch.cloned)
		clones_make(s);
	else if (sec->batch.direct)
		s->oracle.promise = 0; /* in place: until it commits nothing is promised */
	sec->pending = 1;
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		struct imap_range g;

		if (!sec->batch.maps[v])
			continue;
		for (uint64_t at = 0; imap_find(sec->batch.maps[v], at, &g);) {
			for (at = g.start; at < g.end;) {
				uint64_t n = min_u64(g.end - at, sizeof(buf)), to = at;

				if (n > SIM_SECTOR && sim_chance(s, 30))
					n = (1 + sim_rng(s, n / SIM_SECTOR)) * SIM_SECTOR;
				apply_content(s, &g, at, buf, n);
				if (s->broken == BREAK_MISPLACE && to >= SIM_SECTOR &&
					sim_rng(s, 100) == 0)
					to -= SIM_SECTOR;
				sec->pending++;
				disk_write(sec->batch.cloned ? &sec->clone[v] : &sec->image[v], to,
					buf, n, apply_flush, arg);
				at += n;
			}
		}
	}
	apply_flush(s, arg);
}

static void apply_mark_flush(struct sim *s, void *arg)
{
	disk_flush(&s->sec.meta, apply_write, arg);
}

static void apply_noted(struct sim *s, void *arg)
{
	disk_flush(&s->sec.meta, apply_end, arg);
}

static void apply_take(struct sim *s, void *arg)
{
	struct sim_secondary *sec = &s->sec;
	struct replica_status st;

	sec->apply_scheduled = false;
	if (sec->applying)
		return;
	replica_get_status(sec->r, &st);
	if (st.mode == REPLICA_READY && sec->meta_now.consistent &&
		st.committed > sec->meta_now.committed && sim_chance(s, 10)) {
		struct sim_meta m = {.consistent = true, .committed = st.committed};

		sec->applying = true;
		meta_write(s, &m, apply_noted);
		return;
	}
	if (!replica_batch_take(sec->r, s->plan.batch_bytes, &sec->batch))
		return;
	sec->applying = sec->batch_out = true;
	s->stats->direct += sec->batch.direct;
	s->stats->empty_batches += !sec->batch.direct && sec->batch.bytes == 0;
	sim_trace(s, "apply: batch up to epoch %llu, %llu bytes%s%s",
		(unsigned long long)sec->batch.epoch, (unsigned long long)sec->batch.bytes,
		sec->batch.direct ? ", full sync" : "", sec->batch.final ? ", the last" : "");
	if (sec->batch.cloned && clones_fail(s))
		return;
	if (sec->batch.direct && !sec->batch.cloned && sec->meta_now.consistent &&
		s->broken != BREAK_NO_MARK) {
		struct sim_meta m = {.consistent = false, .committed = sec->meta_now.committed};

		sec->marking = true;
		meta_write(s, &m, apply_mark_flush);
		return;
	}
	apply_write(s, arg);
}
