/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest on the simulated primary, and its controller: a program that writes to RAM beside the
 * disks' writers, checkpoints (cut, copy, submit in pieces while the guest runs, seal), rounds
 * before a cut, checkpoints that fail; and on the secondary the memory thread and what must be true
 * of RAM image and state: those of exactly one cut, the one that the disks stand at (I2). */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "core/compress.h"
#include "core/pages.h"
#include "util/bytes.h"

#define GUEST_BASE 16u /* bytes of state that are sent once per session */

struct sim_job {
	struct sim_job *next;
	uint64_t epoch;
	bool seal, merge; /* neither: a round before the cut */
	size_t n, at;
	uint64_t *pages;
	uint8_t *data;
	uint8_t *state; /* NULL = none, or sent */
	size_t state_off, state_len;
};

static uint64_t guest_pages(const struct sim *s)
{
	return s->plan.memory / PAGES_PAGE;
}

static void guest_state(uint8_t *to, size_t len, uint64_t epoch)
{
	for (size_t i = 0; i < len; i++)
		to[i] = (uint8_t)(i < GUEST_BASE ? i : i * epoch);
	put_le64(to + GUEST_BASE, epoch);
}

/* --- the program --- */

static void guest_write(struct sim *s, void *arg)
{
	struct sim_guest *g = &s->p.guest;
	uint64_t page;
	uint8_t *at;

	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, s->plan.think), guest_write, arg);
	if (!s->guests)
		return;
	page = sim_rng(s, sim_chance(s, 70) ? min_u64(8, guest_pages(s)) : guest_pages(s));
	at = g->ram + page * PAGES_PAGE;
	if (sim_chance(s, 15))
		memset(at, 0, PAGES_PAGE);
	else if (sim_chance(s, 50))
		memset(at, (int)(1 + sim_rng(s, 255)), PAGES_PAGE);
	else
		for (unsigned i = 0; i < PAGES_PAGE; i += 8)
			put_le64(at + i, sim_rng(s, UINT64_MAX));
	g->dirty[page] = true;
}

/* --- jobs --- */

static void guest_job_free(struct sim_job *j)
{
	free(j->pages);
	free(j->data);
	free(j->state);
	free(j);
}

void guest_lost(struct sim *s)
{
	struct sim_guest *g = &s->p.guest;

	while (g->jobs) {
		struct sim_job *j = g->jobs;

		g->jobs = j->next;
		guest_job_free(j);
	}
	g->whole_sent = g->base_sent = false;
	if (g->known && s->broken != BREAK_DELTA_FORGET)
		memset(g->known, 0, guest_pages(s));
}

/* Copies pages: all, or dirty ones (percent of them); clear: they are clean then. */
static struct sim_job *guest_job(struct sim *s, bool all, unsigned percent, bool clear)
{
	struct sim_guest *g = &s->p.guest;
	struct sim_job *j = calloc(1, sizeof(*j)), **end = &g->jobs;

	if (!j || !(j->pages = malloc(guest_pages(s) * sizeof(*j->pages))) ||
		!(j->data = malloc(s->plan.memory)))
		abort();
	for (uint64_t p = 0; p < guest_pages(s); p++) {
		const uint8_t *at = g->ram + p * PAGES_PAGE;

		/* What is zero may be left out of the whole. */
		if (all ? bytes_all_zero(at, PAGES_PAGE) && sim_chance(s, 50)
			: !g->dirty[p] || !sim_chance(s, percent))
			continue;
		memcpy(j->data + j->n * PAGES_PAGE, at, PAGES_PAGE);
		j->pages[j->n++] = p;
		if (clear)
			g->dirty[p] = false;
	}
	if (all)
		memset(g->dirty, 0, guest_pages(s));
	while (*end)
		end = &(*end)->next;
	*end = j;
	return j;
}

/* --- the submitter --- */

static bool guest_put(
	struct sim *s, struct record *rec, uint8_t *payload, uint32_t table, uint32_t data)
{
	static uint8_t packed[RECORD_MAX_PAYLOAD];
	unsigned flag = sim_chance(s, 50)   ? 0
			: sim_chance(s, 50) ? RECORD_FLAG_LZ4
					    : RECORD_FLAG_ZSTD;
	size_t n = 0;
	uint8_t *slot;

	if (flag && data)
		n = compress_pack(&s->p.guest.compress, flag, payload + table, data, packed + table,
			sizeof(packed) - table);
	if (n) {
		memcpy(packed, payload, table);
		payload = packed;
		rec->flags = (uint16_t)flag;
	}
	rec->payload = table + (n ? (uint32_t)n : data);
	slot = primary_memory(&s->p.core, rec, s->now);
	if (!slot)
		return false;
	memcpy(slot + RECORD_HEADER_SIZE, payload, rec->payload);
	queue_publish(slot, rec);
	return true;
}

/* Data of a page, at to: whole, or what it differs in from what the stream has said of it. */
static bool guest_page_data(struct sim *s, uint64_t page, const uint8_t *from, uint8_t *to)
{
	const struct sim_guest *g = &s->p.guest;
	const uint8_t *was = s->broken == BREAK_DELTA_NEWEST ? g->ram : g->sent;

	memcpy(to, from, PAGES_PAGE);
	if (!primary_memory_whole(&s->p.core) || !g->known[page] || sim_chance(s, 30))
		return false;
	bytes_xor(to, was + page * PAGES_PAGE, PAGES_PAGE);
	return true;
}

/* They are in the stream. */
static void guest_pages_sent(struct sim *s, const struct sim_job *j, size_t k)
{
	struct sim_guest *g = &s->p.guest;

	for (size_t i = j->at; i < j->at + k; i++) {
		memcpy(g->sent + j->pages[i] * PAGES_PAGE, j->data + i * PAGES_PAGE, PAGES_PAGE);
		g->known[j->pages[i]] = primary_memory_whole(&s->p.core);
	}
}

static bool guest_put_pages(struct sim *s, struct sim_job *j)
{
	static uint8_t payload[RECORD_MAX_PAYLOAD];
	size_t most = min_u64(PAGES_MAX_DATA / PAGES_PAGE, 8),
	       k = min_u64(j->n - j->at, 1 + sim_rng(s, most));
	struct record rec = {.type = RECORD_PAGES, .volume = s->plan.volumes};
	uint32_t table, data = 0;

	rec.offset = k;
	rec.length = k * PAGES_PAGE;
	table = (uint32_t)k * PAGES_RUN;
	for (size_t i = 0; i < k; i++) {
		const uint8_t *from = j->data + (j->at + i) * PAGES_PAGE;
		struct pages_run run = {
			.offset = j->pages[j->at + i] * PAGES_PAGE, .length = PAGES_PAGE};

		if (s->broken == BREAK_MEMORY_LATE)
			from = s->p.guest.ram + run.offset;
		run.zero = bytes_all_zero(from, PAGES_PAGE);
		if (!run.zero) {
			run.delta = guest_page_data(
				s, j->pages[j->at + i], from, payload + table + data);
			s->stats->deltas += run.delta;
			data += PAGES_PAGE;
		}
		pages_put_run(payload, (unsigned)i, &run);
	}
	if (s->broken == BREAK_MEMORY_DROP && j->seal && sim_chance(s, 20)) {
		j->at += k;
		return true;
	}
	if (!guest_put(s, &rec, payload, table, data))
		return false;
	guest_pages_sent(s, j, k);
	j->at += k;
	s->stats->pages += k;
	return true;
}

static bool guest_put_state(struct sim *s, struct sim_job *j)
{
	struct record rec = {.type = RECORD_STATE,
		.volume = s->plan.volumes + 1,
		.offset = j->state_off,
		.length = min_u64(j->state_len - j->state_off, 1 + sim_rng(s, 8192))};

	if (!guest_put(s, &rec, j->state + j->state_off, 0, (uint32_t)rec.length))
		return false;
	j->state_off += rec.length;
	if (j->state_off == j->state_len) {
		free(j->state);
		j->state = NULL;
	}
	return true;
}

/* One step of the first job; false = it must wait. */
static bool guest_step(struct sim *s)
{
	struct sim_guest *g = &s->p.guest;
	struct sim_job *j = g->jobs;

	if (j->at < j->n)
		return guest_put_pages(s, j);
	if (j->state)
		return guest_put_state(s, j);
	if (j->seal) {
		int r = primary_checkpoint_seal(&s->p.core, j->epoch, j->merge, s->now);

		if (r == -11 /* EAGAIN */)
			return false;
		if (r < 0)
			sim_fail(
				s, "seal of epoch %llu: error %d", (unsigned long long)j->epoch, r);
		sim_trace(s, "guest: epoch %llu is sealed%s", (unsigned long long)j->epoch,
			j->merge ? ", merged" : "");
	}
	g->jobs = j->next;
	guest_job_free(j);
	return true;
}

static void guest_submit(struct sim *s, void *arg)
{
	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, 100 * SIM_US), guest_submit, arg);
	if (s->link.p_up && primary_replicating(&s->p.core) && s->p.guest.jobs)
		(void)guest_step(s);
}

/* --- checkpoints --- */

static void guest_checkpoint(struct sim *s)
{
	struct sim_guest *g = &s->p.guest;
	struct primary *p = &s->p.core;
	bool first = p->sync_epoch == p->open, fail = !first && !s->calm && sim_chance(s, 10);
	struct sim_job *j;
	uint64_t epoch;

	if (primary_checkpoint_cut(p, s->now, &epoch) < 0)
		return;
	/* The guest stands here: RAM and the ordered changes of the disks are of one instant. */
	if (!fail)
		oracle_cut(s, epoch);
	sim_trace(s, "guest: cut %llu%s", (unsigned long long)epoch, fail ? ", which fails" : "");
	s->stats->abandoned += fail;
	j = guest_job(s, false, fail ? 50 : 100, !fail);
	j->epoch = epoch;
	j->seal = true;
	j->merge = fail;
	if (fail && sim_chance(s, 50))
		return;
	j->state_len = GUEST_BASE + 8 + sim_rng(s, 6000);
	j->state = malloc(j->state_len);
	if (!j->state)
		abort();
	guest_state(j->state, j->state_len, epoch);
	j->state_off = g->base_sent && sim_chance(s, 70) ? GUEST_BASE : 0;
	g->base_sent = true;
}

static void guest_tick(struct sim *s, void *arg)
{
	struct sim_guest *g = &s->p.guest;
	struct primary *p = &s->p.core;

	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, s->plan.cut_interval), guest_tick, arg);
	if (!s->link.p_up || !primary_replicating(p))
		return;
	if (!g->whole_sent) {
		(void)guest_job(s, true, 100, true);
		g->whole_sent = true;
	} else if (p->cuts_count == 0 && !g->jobs && sim_chance(s, 20)) {
		(void)guest_job(s, false, 50, true);
	} else if (s->guests || guest_busy(s)) {
		guest_checkpoint(s);
	}
}

bool guest_busy(const struct sim *s)
{
	const struct sim_guest *g = &s->p.guest;
	const struct primary *p = &s->p.core;

	for (uint64_t i = 0; i < guest_pages(s); i++)
		if (g->dirty[i])
			return true;
	return g->jobs || p->cuts_count || p->changes || p->state != PRIMARY_PROTECTED;
}

void guest_start(struct sim *s)
{
	struct sim_guest *g = &s->p.guest;

	if (!s->plan.memory)
		return;
	if (!g->ram)
		g->ram = malloc(s->plan.memory);
	if (!g->dirty)
		g->dirty = malloc(guest_pages(s));
	if (!g->sent)
		g->sent = malloc(s->plan.memory);
	if (!g->known)
		g->known = calloc(guest_pages(s), sizeof(*g->known));
	if (!g->ram || !g->dirty || !g->sent || !g->known)
		abort();
	/* It boots: RAM is what it is. */
	memset(g->ram, 0, s->plan.memory);
	memset(g->dirty, 0, guest_pages(s));
	guest_lost(s);
	s->p.core.guest = true;
	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, SIM_MS), guest_write, NULL);
	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, SIM_MS), guest_tick, NULL);
	sim_after(s, SIM_PRIMARY, sim_delay(s, 0, SIM_MS), guest_submit, NULL);
}

void guest_free(struct sim *s)
{
	guest_lost(s);
	compress_deinit(&s->p.guest.compress);
	free(s->p.guest.ram);
	free(s->p.guest.dirty);
	free(s->p.guest.sent);
	free(s->p.guest.known);
	free(s->sec.memory);
	free(s->sec.second);
}

/* --- the secondary's memory thread --- */

void memory_zeroed(void *ctx, uint64_t off, uint64_t len)
{
	struct sim *s = ctx;

	memset(s->sec.memory + off, 0, len);
}

void memory_check(struct sim *s, const char *where)
{
	struct sim_secondary *sec = &s->sec;
	struct replica_status st;
	const uint8_t *want, *state;
	uint8_t *expect;
	size_t len;

	if (!s->plan.memory || !sec->alive || sec->job_out)
		return;
	replica_get_status(sec->r, &st);
	if (!st.memory_epoch)
		return;
	s->stats->memory_checks++;
	want = oracle_memory(s, st.memory_epoch);
	if (!want) {
		sim_fail(s, "I1, %s: memory of epoch %llu, which was never cut", where,
			(unsigned long long)st.memory_epoch);
		return;
	}
	for (uint64_t p = 0; p < guest_pages(s); p++)
		if (memcmp(want + p * PAGES_PAGE, sec->memory + p * PAGES_PAGE, PAGES_PAGE) != 0) {
			sim_fail(s, "I2, %s: page %llu of the memory is not that of epoch %llu",
				where, (unsigned long long)p, (unsigned long long)st.memory_epoch);
			return;
		}
	state = replica_state(sec->r, &len);
	expect = malloc(len);
	if (!expect)
		abort();
	if (len >= GUEST_BASE + 8)
		guest_state(expect, len, st.memory_epoch);
	if (len < GUEST_BASE + 8 || memcmp(expect, state, len) != 0)
		sim_fail(s, "I2, %s: the state is not that of epoch %llu", where,
			(unsigned long long)st.memory_epoch);
	free(expect);
}

static void memory_done(struct sim *s, void *arg)
{
	struct sim_secondary *sec = &s->sec;

	(void)arg;
	if (!sec->job_out)
		return; /* a promotion was faster */
	replica_memory_apply(sec->r, &sec->job, memory_zeroed, s);
	if (sec->job.release)
		memset(sec->second, 0xa5, s->plan.memory); /* nobody may read it again */
	sec->job_out = false;
	replica_memory_done(sec->r, &sec->job);
	sim_trace(s, "memory: of epoch %llu", (unsigned long long)sec->job.epoch);
	memory_check(s, "memory applied");
	memory_kick(s, NULL);
	secondary_kick(s);
}

void memory_kick(struct sim *s, void *arg)
{
	struct sim_secondary *sec = &s->sec;

	(void)arg;
	if (!sec->r || sec->job_out || !replica_memory_take(sec->r, &sec->job))
		return;
	sec->job_out = true;
	sim_after(s, SIM_SECONDARY, sim_delay(s, 0, 2 * SIM_MS), memory_done, NULL);
}

void memory_start(struct sim *s)
{
	struct sim_secondary *sec = &s->sec;

	if (!s->plan.memory)
		return;
	if (!sec->memory)
		sec->memory = malloc(s->plan.memory);
	if (!sec->second)
		sec->second = malloc(s->plan.memory);
	if (!sec->memory || !sec->second)
		abort();
	sec->job_out = false;
	memset(sec->memory, 0, s->plan.memory);
	memset(sec->second, 0x5a, s->plan.memory);
}

/* The guest is resumed here: memory and state must be those of the disks. */
void memory_promote(struct sim *s)
{
	struct sim_secondary *sec = &s->sec;
	struct replica_status st;

	if (!s->plan.memory)
		return;
	memory_kick(s, NULL);
	while (sec->job_out && !s->failed)
		memory_done(s, NULL); /* which takes the next one */
	replica_get_status(sec->r, &st);
	if (st.memory_epoch && st.memory_epoch != st.committed)
		sim_fail(s, "I2: promoted with disks of epoch %llu and memory of %llu",
			(unsigned long long)st.committed, (unsigned long long)st.memory_epoch);
	s->stats->resumed += st.memory_epoch != 0;
	memory_check(s, "promotion");
}
