/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulated secondary: receives, carries out what the replica asks for, crashes and starts
 * again. */
#include "sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

/* --- the replica's actions, carried out later --- */

static void secondary_chunk_done(struct sim *s, void *arg)
{
	struct replica_chunk *c = arg;
	uint64_t off = journal_file_offset(s->plan.ring_size, c->head.pos);
	int err = 0;

	if (s->broken != BREAK_LOST_CHUNK &&
		memcmp(s->sec.journal.cache + off, c->buf, c->head.len) != 0)
		sim_fail(s, "a chunk was changed while it was written");
	if (s->sec.error_next) {
		s->sec.error_next = false;
		err = -EIO;
		sim_trace(s, "secondary: a write to the journal fails");
	}
	sim_trace(s, "journal: chunk at %llu written", (unsigned long long)c->head.pos);
	replica_chunk_written(s->sec.r, c, err);
	secondary_kick(s);
}

static void secondary_chunk_begin(struct sim *s, void *arg)
{
	struct replica_chunk *c = arg;
	struct disk *d = &s->sec.journal;
	uint64_t off = journal_file_offset(s->plan.ring_size, c->head.pos);

	s->stats->wraps += off == JOURNAL_RING_OFFSET && c->head.pos != 0;
	if (s->broken == BREAK_LOST_CHUNK && sim_chance(s, 2)) {
		sim_after(s, SIM_SECONDARY, 100 * SIM_US, secondary_chunk_done, c);
		return;
	}
	disk_write(d, off, c->buf, c->head.len, secondary_chunk_done, c);
}

static void op_chunk_write(void *ctx, struct replica_chunk *c)
{
	struct sim *s = ctx;

	sim_after(s, SIM_SECONDARY, sim_delay(s, 0, 200 * SIM_US), secondary_chunk_begin, c);
}

static void secondary_flush_done(struct sim *s, void *arg)
{
	(void)arg;
	sim_trace(s, "journal: flushed");
	replica_flushed(s->sec.r, 0);
	secondary_kick(s);
}

static void secondary_flush_begin(struct sim *s, void *arg)
{
	if (s->broken == BREAK_ACK_EARLY)
		secondary_flush_done(s, arg);
	else
		disk_flush(&s->sec.journal, secondary_flush_done, arg);
}

static void op_journal_flush(void *ctx)
{
	struct sim *s = ctx;

	sim_after(s, SIM_SECONDARY, sim_delay(s, 0, 100 * SIM_US), secondary_flush_begin, NULL);
}

static void op_send(void *ctx, const struct record *rec)
{
	link_send_ack(ctx, rec);
}

static void op_apply_ready(void *ctx)
{
	apply_kick(ctx);
}

static void op_memory_ready(void *ctx)
{
	struct sim *s = ctx;

	sim_after(s, SIM_SECONDARY, sim_delay(s, 0, 300 * SIM_US), memory_kick, NULL);
}

static void op_changed(void *ctx)
{
	struct sim *s = ctx;
	struct replica_status st;

	if (!s->sec.r)
		return; /* it is being made */
	replica_get_status(s->sec.r, &st);
	if (st.mode == REPLICA_READY)
		oracle_promise(s, st.committed);
}

const struct replica_ops secondary_ops = {
	.chunk_write = op_chunk_write,
	.journal_flush = op_journal_flush,
	.send = op_send,
	.apply_ready = op_apply_ready,
	.memory_ready = op_memory_ready,
	.memory_zero = memory_zeroed,
	.changed = op_changed,
};

/* --- the link --- */

static void secondary_rx_later(struct sim *s, uint64_t delay)
{
	if (s->sec.rx_scheduled)
		return;
	s->sec.rx_scheduled = true;
	sim_after(s, SIM_SECONDARY, delay, secondary_rx, &s->sec);
}

void secondary_session(struct sim *s)
{
	s->sec.session++;
	s->sec.lent = s->sec.discarded = false;
	replica_session_begin(s->sec.r);
}

void secondary_lost(struct sim *s)
{
	sim_trace(s, "secondary: the link is lost");
	s->sec.session++;
	s->sec.lent = false;
	replica_session_end(s->sec.r);
}

static void secondary_protocol_error(struct sim *s, const char *why)
{
	sim_trace(s, "secondary: protocol error: %s", why);
	if (!s->link.flip && !s->sec.discarded)
		sim_fail(s, "protocol error in a healthy stream: %s", why);
	s->stats->flips_seen += s->link.flip != 0;
	s->link.flip = 0;
	link_close_s(s);
}

/* What was received into the replica's buffer. */
static void secondary_rx_done(struct sim *s, void *arg)
{
	struct sim_secondary *sec = &s->sec;
	unsigned goodbye;
	const char *why = NULL;
	size_t n;
	int r;

	if (!sec->lent || (unsigned)(uintptr_t)arg != sec->session)
		return;
	n = min_u64(s->link.s_have, sec->lent_len);
	if (n && sim_chance(s, 60))
		n = 1 + sim_rng(s, n);
	memcpy(sec->lent_buf, s->link.s_sock, n);
	memmove(s->link.s_sock, s->link.s_sock + n, s->link.s_have - n);
	s->link.s_have -= n;
	s->link.taken += n;
	sec->lent = false;
	r = replica_rx_done(sec->r, n, &goodbye, &why);
	if (r == -EPROTO) {
		secondary_protocol_error(s, why);
		return;
	}
	if (r < 0)
		sim_fail(s, "replica_rx_done: error %d", r);
	if (s->link.flip && s->link.taken > s->link.flip + RECORD_MAX_SIZE)
		sim_fail(s, "a damaged record was taken: byte %llu of %llu",
			(unsigned long long)s->link.flip - 1, (unsigned long long)s->link.taken);
	if (goodbye) {
		s->stats->goodbyes++;
		link_close_s(s);
		return;
	}
	if (s->link.s_have)
		secondary_rx_later(s, sim_delay(s, 0, 20 * SIM_US));
	else
		replica_rx_idle(sec->r);
}

void secondary_rx(struct sim *s, void *arg)
{
	struct sim_secondary *sec = &s->sec;

	if (arg == sec)
		sec->rx_scheduled = false;
	if (!sec->alive || !s->link.s_up || sec->lent)
		return;
	if (!replica_rx_buffer(sec->r, &sec->lent_buf, &sec->lent_len)) {
		struct replica_status st;

		replica_get_status(sec->r, &st);
		s->stats->rx_wait++;
		/* A staged sync, with what guests write meanwhile, may be too large. */
		if (replica_rx_stuck(sec->r) && st.staging) {
			s->stats->too_big++;
			link_close_s(s);
			return;
		}
		if (replica_rx_stuck(sec->r) && st.mode != REPLICA_FAILED)
			sim_fail(s,
				"the replica says that it is stuck (journal %llu of %llu, primary: "
				"open %llu with %llu, %u cuts)",
				(unsigned long long)st.journal_used,
				(unsigned long long)st.journal_size,
				(unsigned long long)s->p.core.open,
				(unsigned long long)s->p.core.open_space, s->p.core.cuts_count);
		return;
	}
	if (sec->lent_len == 0) {
		sim_fail(s, "a receive buffer of no bytes");
		return;
	}
	sec->lent = true;
	/* Receiving happens outside the lock: other calls come in between. */
	sim_after(s, SIM_SECONDARY, sim_chance(s, 80) ? 0 : sim_delay(s, 0, 100 * SIM_US),
		secondary_rx_done, (void *)(uintptr_t)sec->session);
}

void secondary_kick(struct sim *s)
{
	if (s->sec.alive && s->link.s_up && s->link.s_have && !s->sec.lent)
		secondary_rx_later(s, 0);
}

/* --- life --- */

void secondary_config(const struct sim *s, struct replica_config *cfg)
{
	*cfg = (struct replica_config){
		.volumes = s->plan.volumes,
		.staging_limit = s->plan.staging_limit,
		.manual = s->plan.manual,
		.ack_when_sealed = s->plan.ack_when_sealed,
		.keep = !s->sec.promoted,
	};
	if (s->plan.mapped)
		cfg->ring = s->sec.journal.cache + JOURNAL_RING_OFFSET;
	for (unsigned v = 0; v < s->plan.volumes; v++)
		cfg->sizes[v] = s->plan.size[v];
	if (s->plan.memory) {
		cfg->memory = cfg->volumes++;
		cfg->state = cfg->volumes++;
		cfg->sizes[cfg->memory] = s->plan.memory;
		cfg->sizes[cfg->state] = 1 << 20;
		cfg->image = s->sec.memory;
		cfg->second = s->sec.second;
	}
}

static int secondary_journal_read(void *ctx, uint64_t pos, void *buf, size_t len)
{
	struct sim *s = ctx;

	disk_read(&s->sec.journal, journal_file_offset(s->plan.ring_size, pos), buf, len);
	return 0;
}

/* The tick of a running node: somebody reads, and what a power cut would leave is looked at. */
static void secondary_tick(struct sim *s, void *arg)
{
	sim_after(s, SIM_SECONDARY, sim_delay(s, 2 * SIM_MS, 20 * SIM_MS), secondary_tick, arg);
	if (sim_chance(s, 50))
		check_shadow(s, sim_chance(s, 30) ? 0 : sim_rng(s, UINT64_MAX), "a power cut");
	else
		check_live(s, false, "a reader of the committed state");
	memory_check(s, "a look at the memory");
	if (s->sec.local && sim_chance(s, 50))
		check_live(s, true, "a reader of the promoted node");
}

void secondary_start(struct sim *s, void *arg)
{
	struct sim_secondary *sec = &s->sec;
	struct replica_config cfg;
	struct replica_status st;
	const char *why;
	int err;

	(void)arg;
	/* A process that was killed leaves writes behind that were never flushed: what is read from
	 * here on must stay. */
	disk_settle(&sec->journal);
	disk_settle(&sec->meta);
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_settle(&sec->image[v]);
	if (!check_slots(s, 0, &sec->meta_now, &sec->header)) {
		sim_fail(s, "no valid journal header");
		return;
	}
	clones_resume(s);
	if (sec->marking && !sec->meta_now.consistent)
		s->oracle.promise = 0; /* it died right after the full sync had marked the images */
	sec->marking = false;
	check_shadow(s, 0, "recovery");
	if (s->failed)
		return;
	sec->lent = sec->applying = sec->rx_scheduled = sec->apply_scheduled = false;
	sec->discarded = false;
	memory_start(s);
	secondary_config(s, &cfg);
	sec->r = replica_new(&cfg, &sec->header,
		sec->meta_now.consistent ? sec->meta_now.committed : 0, &secondary_ops, s);
	err = replica_recover(sec->r, sim_rng(s, UINT64_MAX), secondary_journal_read, s, &why);
	if (err < 0) {
		sim_fail(s, "recovery: %s", why);
		return;
	}
	sec->alive = true;
	replica_get_status(sec->r, &st);
	sim_trace(s, "secondary: starts, %s, committed %llu, applied %llu, seen %llu",
		st.mode == REPLICA_READY ? "ready" : "empty", (unsigned long long)st.committed,
		(unsigned long long)st.applied, (unsigned long long)st.open);
	s->stats->recovered += st.unapplied;
	if (st.mode == REPLICA_READY)
		oracle_promise(s, st.committed);
	sim_after(s, SIM_SECONDARY, sim_delay(s, 0, 20 * SIM_MS), secondary_tick, NULL);
	apply_kick(s);
	controller_start(s);
	if (sec->promoted && st.mode == REPLICA_READY)
		local_start(s);
}

void secondary_crash(struct sim *s, bool power)
{
	struct sim_secondary *sec = &s->sec;

	sim_trace(s, "secondary: crashes (%s)", power ? "power" : "killed");
	s->stats->crashes_s++;
	link_break(s);
	s->link.s_up = false;
	s->boots[SIM_SECONDARY]++;
	sec->alive = sec->local = sec->error_next = false;
	sec->session++;
	if (sec->batch_out) {
		struct journal_header h;

		(void)replica_batch_done(sec->r, &sec->batch, &h); /* only to free it */
	}
	sec->applying = sec->batch_out = sec->job_out = false;
	sec->r = replica_free(sec->r);
	disk_crash(&sec->journal, power);
	disk_crash(&sec->meta, power);
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_crash(&sec->image[v], power);
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_crash(&sec->clone[v], power);
}

void secondary_free(struct sim *s)
{
	struct sim_secondary *sec = &s->sec;
	struct journal_header h;

	if (sec->batch_out)
		(void)replica_batch_done(sec->r, &sec->batch, &h);
	sec->r = replica_free(sec->r);
	disk_free(&sec->journal);
	disk_free(&sec->meta);
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_free(&sec->image[v]);
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_free(&sec->clone[v]);
}
