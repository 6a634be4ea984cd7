/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a seed does: sizes, policy, faults; and its run from the first event to the last check. */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"
#include "util/file.h"

#define QUEUES 3u
#define PATIENCE (20000 * SIM_MS) /* virtual; whatever is not quiet by then is stuck */

/* Mapping costs more than a short run: done once per size. */
static const uint64_t queue_sizes[QUEUES] = {2 * RECORD_MAX_PAYLOAD + 65536 + 32768,
	4 * RECORD_MAX_PAYLOAD + 65536 + 32768, 8 * RECORD_MAX_PAYLOAD + 65536 + 32768};
static void *queue_rings[QUEUES];

void sim_plan_deinit(void)
{
	for (unsigned i = 0; i < QUEUES; i++)
		if (queue_rings[i])
			file_unmap_mirrored(queue_rings[i], queue_sizes[i]);
}

static void plan_make(struct sim *s)
{
	struct sim_plan *p = &s->plan;
	unsigned queue = (unsigned)sim_rng(s, QUEUES);

	p->volumes = 1 + (unsigned)sim_rng(s, SIM_VOLUMES);
	for (unsigned v = 0; v < p->volumes; v++)
		p->size[v] = (32 + sim_rng(s, 97)) * 2 * SIM_SECTOR;
	p->writers = 1 + (unsigned)sim_rng(s, SIM_WRITERS);
	p->queue_size = queue_sizes[queue];
	if (!queue_rings[queue] && file_map_mirrored(p->queue_size, &queue_rings[queue]) < 0)
		abort();
	s->p.ring = queue_rings[queue];
	memset(s->p.ring, 0, p->queue_size);
	p->ring_size = JOURNAL_MIN_RING + sim_rng(s, sim_chance(s, 40) ? 10 : 3) * JOURNAL_SEGMENT;
	p->staging_limit = (3 + sim_rng(s, 10)) * JOURNAL_CHUNK_MAX;
	p->max_write = min_u64(sim_chance(s, 70) ? 8192 : 32768, RECORD_MAX_PAYLOAD);
	p->batch_bytes = 1 + sim_rng(s, 4 * RECORD_MAX_PAYLOAD);
	p->cut_interval = (1 + sim_rng(s, 20)) * SIM_MS;
	p->think = (100 + sim_rng(s, 2500)) * SIM_US;
	p->duration = (100 + sim_rng(s, 200)) * SIM_MS;
	p->zero_percent = (unsigned)sim_rng(s, 30);
	p->manual = sim_chance(s, 25);
	p->ack_when_sealed = sim_chance(s, 4);
	p->kill_only = sim_chance(s, 10);
	p->break_mean = sim_chance(s, 60) ? 20 + (unsigned)sim_rng(s, 200) : 0;
	p->crash_s_mean = sim_chance(s, 70) ? 20 + (unsigned)sim_rng(s, 150) : 0;
	p->crash_p_mean = sim_chance(s, 30) ? 40 + (unsigned)sim_rng(s, 200) : 0;
	p->flip_mean = sim_chance(s, 15) ? 20 + (unsigned)sim_rng(s, 100) : 0;
	p->error_mean = sim_chance(s, 8) ? 50 + (unsigned)sim_rng(s, 200) : 0;
	p->goodbye_mean = sim_chance(s, 10) ? 50 + (unsigned)sim_rng(s, 200) : 0;
	if (sim_chance(s, 35))
		p->memory = (8 + sim_rng(s, 57)) * 4096;
	p->promote_at = sim_chance(s, 30) ? p->duration / 4 + sim_rng(s, p->duration * 3 / 4) : 0;
	p->mapped = s->broken != BREAK_LOST_CHUNK && sim_chance(s, 40);
	s->stats->mapped += p->mapped;
}

/* --- faults --- */

static void fault_break(struct sim *s, void *arg);
static void fault_crash_s(struct sim *s, void *arg);
static void fault_crash_p(struct sim *s, void *arg);
static void fault_flip(struct sim *s, void *arg);
static void fault_error(struct sim *s, void *arg);
static void fault_goodbye(struct sim *s, void *arg);

static void fault_again(struct sim *s, unsigned mean, sim_fn fn)
{
	if (mean && !s->calm)
		sim_after(s, SIM_WORLD, (1 + sim_rng(s, 2 * mean)) * SIM_MS, fn, NULL);
}

static void fault_break(struct sim *s, void *arg)
{
	(void)arg;
	if (s->calm)
		return;
	link_break(s);
	fault_again(s, s->plan.break_mean, fault_break);
}

static void fault_crash_s(struct sim *s, void *arg)
{
	(void)arg;
	if (s->calm)
		return;
	if (s->sec.alive) {
		secondary_crash(s, !s->plan.kill_only && sim_chance(s, 70));
		sim_after(s, SIM_WORLD, sim_delay(s, SIM_MS, 10 * SIM_MS), secondary_start, NULL);
	}
	fault_again(s, s->plan.crash_s_mean, fault_crash_s);
}

static void fault_start_p(struct sim *s, void *arg)
{
	(void)arg;
	if (!s->p.alive && !s->plan.promote_at)
		primary_node_start(s);
}

static void fault_crash_p(struct sim *s, void *arg)
{
	(void)arg;
	if (s->calm)
		return;
	/* A primary that comes back after a promotion is not core's matter. */
	if (s->p.alive && !s->plan.promote_at) {
		primary_node_crash(s);
		sim_after(s, SIM_WORLD, sim_delay(s, SIM_MS, 10 * SIM_MS), fault_start_p, NULL);
	}
	fault_again(s, s->plan.crash_p_mean, fault_crash_p);
}

static void fault_flip(struct sim *s, void *arg)
{
	(void)arg;
	s->link.flip_next = !s->calm;
	fault_again(s, s->plan.flip_mean, fault_flip);
}

static void fault_error(struct sim *s, void *arg)
{
	(void)arg;
	s->sec.error_next = s->sec.alive && !s->calm;
	fault_again(s, s->plan.error_mean, fault_error);
}

static void fault_goodbye(struct sim *s, void *arg)
{
	if (!s->calm)
		primary_node_goodbye(s, arg);
	fault_again(s, s->plan.goodbye_mean, fault_goodbye);
}

/* A node whose journal failed is started again by somebody. */
static void fault_repair(struct sim *s, void *arg)
{
	struct replica_status st;

	sim_after(s, SIM_WORLD, 5 * SIM_MS, fault_repair, arg);
	if (!s->sec.alive)
		return;
	replica_get_status(s->sec.r, &st);
	if (st.mode != REPLICA_FAILED)
		return;
	s->stats->errors++;
	secondary_crash(s, false);
	sim_after(s, SIM_WORLD, SIM_MS, secondary_start, NULL);
}

/* --- a run --- */

static void run_setup(struct sim *s)
{
	struct sim_secondary *sec = &s->sec;
	struct journal_header h = {.serial = 2, /* in slot 0: slots are written in turn */
		.ring_size = s->plan.ring_size,
		.tail = sim_rng(s, 2) * sim_rng(s, 1 << 20) * JOURNAL_BLOCK,
		.tail_chain = sim_rng(s, UINT64_MAX)};

	oracle_init(s);
	disk_init(&sec->journal, s, SIM_SECONDARY, "journal",
		JOURNAL_RING_OFFSET + s->plan.ring_size);
	disk_init(&sec->meta, s, SIM_SECONDARY, "metadata", 2 * SIM_SECTOR);
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		struct disk *a = &s->p.image[v], *b = &sec->image[v];

		disk_init(a, s, SIM_PRIMARY, "primary", s->plan.size[v]);
		disk_init(b, s, SIM_SECONDARY, "secondary", s->plan.size[v]);
		disk_init(&sec->clone[v], s, SIM_SECONDARY, "clone", s->plan.size[v]);
		/* Holes on the primary, other data on the secondary. */
		for (uint64_t at = 0; at < a->size; at += 8192) {
			uint64_t n = min_u64(8192, a->size - at);

			if (sim_chance(s, 50))
				sim_pattern(a->cache + at, at, n, 1ull << 48);
			sim_pattern(b->cache + at, at, n, 1ull << 49);
		}
		memcpy(a->stable, a->cache, a->size);
		memcpy(b->stable, b->cache, b->size);
		b->slow = a->slow = (50 + sim_rng(s, 1000)) * SIM_US;
	}
	if (s->plan.mapped)
		sec->journal.map_off = JOURNAL_RING_OFFSET;
	sec->journal.slow = (20 + sim_rng(s, 800)) * SIM_US;
	journal_header_encode(sec->journal.stable, &h);
	memcpy(sec->journal.cache, sec->journal.stable, JOURNAL_BLOCK);
	s->link.cut = true;
	s->link.s_sock = malloc(SIM_SOCKET);
	if (!s->link.s_sock)
		abort();
	secondary_start(s, NULL);
	primary_node_init(s);
	primary_node_start(s);
	sim_after(s, SIM_WORLD, 0, link_try_connect, NULL);
	sim_after(s, SIM_WORLD, 0, fault_repair, NULL);
	fault_again(s, s->plan.break_mean, fault_break);
	fault_again(s, s->plan.crash_s_mean, fault_crash_s);
	fault_again(s, s->plan.crash_p_mean, fault_crash_p);
	fault_again(s, s->plan.flip_mean, fault_flip);
	fault_again(s, s->plan.error_mean, fault_error);
	fault_again(s, s->plan.goodbye_mean, fault_goodbye);
	if (s->plan.promote_at)
		sim_after(s, SIM_WORLD, s->plan.promote_at, secondary_promote, NULL);
}

/* What keeps the world from being quiet; NULL = nothing, both sides are equal. */
static const char *run_busy(struct sim *s)
{
	struct replica_status st;

	if (!s->sec.alive || s->sec.applying)
		return "the secondary works";
	replica_get_status(s->sec.r, &st);
	if (s->sec.promoted && st.mode == REPLICA_EMPTY)
		return NULL;
	if (s->sec.local_dirty && !local_cut(s))
		return "the promoted node cannot cut";
	if (st.mode != REPLICA_READY)
		return "the secondary has no committed state";
	if (!s->sec.promoted) {
		struct primary_pending q;

		if (!s->p.alive || s->p.core.state != PRIMARY_PROTECTED)
			return "the primary is not protected";
		for (unsigned i = 0; i < s->plan.writers; i++)
			if (s->p.writers[i].busy)
				return "a writer has no reply";
		if (s->plan.memory && guest_busy(s))
			return "the guest's last checkpoint is not made";
		if (!s->plan.memory)
			primary_try_cut(s, s->p.core.changes > 0);
		primary_get_pending(&s->p.core, s->now, &q);
		if (q.done_changes || q.done_bytes || q.done_epochs || q.got_epochs)
			return "changes are pending";
	}
	if (st.committed != s->oracle.last_cut)
		return "the last cut is not committed";
	if (s->plan.memory && !s->sec.promoted && st.memory_epoch != st.committed)
		return "the memory is not applied";
	if (st.unapplied || st.applied != st.committed)
		return "epochs are not applied";
	if (st.pending_epochs)
		return "epochs are pending";
	if (st.journal_used > JOURNAL_SEGMENT)
		return "the journal's space is not free";
	return NULL;
}

static void run_final_checks(struct sim *s)
{
	struct replica_status st;
	uint8_t *data = malloc(s->oracle.total);

	replica_get_status(s->sec.r, &st);
	if (!data || st.mode != REPLICA_READY) {
		free(data);
		return;
	}
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_read(&s->sec.image[v], 0, data + s->oracle.base[v], s->plan.size[v]);
	oracle_check_logical(s, data, "the secondary's images at the end");
	for (unsigned v = 0; v < s->plan.volumes && !s->sec.promoted; v++)
		disk_read(&s->p.image[v], 0, data + s->oracle.base[v], s->plan.size[v]);
	oracle_check_logical(s, data, "the primary's images at the end");
	memory_check(s, "the end");
	check_shadow(s, 0, "the end");
	free(data);
}

static void run_quiet(struct sim *s)
{
	const char *busy = "nothing happens";
	uint64_t end = s->now + PATIENCE;

	s->guests = false;
	while (!s->failed && busy && s->now < end && sim_step(s))
		busy = run_busy(s);
	if (!s->failed && busy) {
		struct replica_status st = {0};

		if (s->sec.r)
			replica_get_status(s->sec.r, &st);
		sim_fail(s,
			"stuck: %s (mode %d, open %llu, received %llu, committed %llu, applied "
			"%llu, unapplied %llu, pending %llu, journal %llu/%llu, staged %llu)",
			busy, (int)st.mode, (unsigned long long)st.open,
			(unsigned long long)st.received, (unsigned long long)st.committed,
			(unsigned long long)st.applied, (unsigned long long)st.unapplied,
			(unsigned long long)st.pending_epochs, (unsigned long long)st.journal_used,
			(unsigned long long)st.journal_size, (unsigned long long)st.staged);
	}
}

bool sim_run(
	uint64_t seed, enum sim_break broken, bool verbose, bool quiet, struct sim_stats *stats)
{
	struct sim *s = calloc(1, sizeof(*s));
	bool ok;

	if (!s)
		abort();
	s->seed = seed;
	s->rng = sim_mix(seed + 1);
	s->broken = broken;
	s->verbose = verbose;
	s->quiet = quiet;
	s->stats = stats;
	stats->seeds++;
	s->guests = true;
	plan_make(s);
	run_setup(s);
	while (!s->failed && s->now < s->plan.duration && sim_step(s))
		;
	s->calm = true;
	sim_trace(s, "no more faults");
	for (uint64_t end = s->now + 50 * SIM_MS; !s->failed && s->now < end && sim_step(s);)
		;
	if (!s->failed)
		run_quiet(s);
	if (!s->failed)
		run_final_checks(s);
	ok = !s->failed;
	secondary_free(s);
	primary_node_free(s);
	link_free(s);
	oracle_free(s);
	sim_events_free(s);
	free(s->sec.local_data);
	free(s);
	return ok;
}
