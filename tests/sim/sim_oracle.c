/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The oracle: the changes in the order of the stream, and a copy of all volumes at every cut.  What
 * the secondary shows must equal one of these copies, bit by bit, the same one on all volumes (I1,
 * I2, I6), and none older than what was said to be committed (I7). */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

/* Content of a write: a period that is prime, so that misplaced bytes show, and in every sector
 * which write it was. */
void sim_pattern(uint8_t *buf, uint64_t off, uint64_t len, uint64_t id)
{
	static uint8_t table[251 + 4096];
	uint64_t phase = (off + id * 7) % 251;

	if (!table[0])
		for (size_t i = 0; i < sizeof(table); i++)
			table[i] = (uint8_t)(i % 251 + 1);
	for (uint64_t at = 0; at < len;) {
		uint64_t n = min_u64(len - at, 4096);

		memcpy(buf + at, table + (phase + at) % 251, n);
		at += n;
	}
	for (uint64_t at = 0; at + 8 <= len; at += SIM_SECTOR)
		put_le64(buf + at, id);
}

void oracle_init(struct sim *s)
{
	struct oracle *o = &s->oracle;

	memset(o, 0, sizeof(*o));
	for (unsigned v = 0; v < s->plan.volumes; v++)
		o->base[v + 1] = o->base[v] + s->plan.size[v];
	o->total = o->base[s->plan.volumes];
	o->logical = calloc(1, o->total);
	if (!o->logical)
		abort();
}

void oracle_free(struct sim *s)
{
	struct oracle *o = &s->oracle;

	for (size_t i = 0; i < o->ncuts; i++)
		free(o->cuts[i].data);
	for (size_t i = 0; i < o->nspare; i++)
		free(o->spare[i]);
	free(o->cuts);
	free(o->spare);
	free(o->logical);
	memset(o, 0, sizeof(*o));
}

void oracle_change(struct sim *s, unsigned vol, uint64_t off, uint64_t len, const uint8_t *data)
{
	uint8_t *at = s->oracle.logical + s->oracle.base[vol] + off;

	if (data)
		memcpy(at, data, len);
	else
		memset(at, 0, len);
}

static void oracle_remove(struct oracle *o, size_t i)
{
	o->spare[o->nspare++] = o->cuts[i].data;
	memmove(o->cuts + i, o->cuts + i + 1, (--o->ncuts - i) * sizeof(*o->cuts));
}

void oracle_cut(struct sim *s, uint64_t epoch)
{
	struct oracle *o = &s->oracle;
	uint8_t *data;

	/* A number may come again when nothing of the former epoch has survived on either side. */
	oracle_drop_after(s, epoch - 1);
	if (epoch <= o->promise)
		sim_fail(s, "epoch %llu is cut although %llu is committed",
			(unsigned long long)epoch, (unsigned long long)o->promise);
	if (o->ncuts == o->capacity) {
		o->capacity = o->capacity ? o->capacity * 2 : 64;
		o->cuts = realloc(o->cuts, o->capacity * sizeof(*o->cuts));
		o->spare = realloc(o->spare, o->capacity * sizeof(*o->spare));
		if (!o->cuts || !o->spare)
			abort();
	}
	data = o->nspare ? o->spare[--o->nspare] : malloc(o->total + s->plan.memory);
	if (!data)
		abort();
	memcpy(data, o->logical, o->total);
	if (s->plan.memory)
		memcpy(data + o->total, s->p.guest.ram, s->plan.memory);
	o->cuts[o->ncuts++] = (struct oracle_cut){epoch, data};
	o->last_cut = epoch;
	s->stats->cuts++;
}

static const struct oracle_cut *oracle_find(const struct oracle *o, uint64_t epoch)
{
	for (size_t i = o->ncuts; i-- > 0;)
		if (o->cuts[i].epoch == epoch)
			return &o->cuts[i];
	return NULL;
}

const uint8_t *oracle_memory(struct sim *s, uint64_t epoch)
{
	const struct oracle_cut *c = oracle_find(&s->oracle, epoch);

	return c ? c->data + s->oracle.total : NULL;
}

void oracle_promise(struct sim *s, uint64_t epoch)
{
	struct oracle *o = &s->oracle;
	uint64_t keep;

	if (epoch <= o->promise)
		return;
	if (!oracle_find(o, epoch))
		sim_fail(s, "I1: epoch %llu is said to be committed, but was never cut",
			(unsigned long long)epoch);
	o->promise = epoch;
	keep = epoch;
	if (s->plan.memory && s->sec.r) { /* memory may still stand at an older one */
		struct replica_status st;

		replica_get_status(s->sec.r, &st);
		keep = min_u64(keep, st.memory_epoch);
	}
	while (o->ncuts && o->cuts[0].epoch < keep)
		oracle_remove(o, 0);
}

bool oracle_rebase(struct sim *s, uint64_t epoch)
{
	const struct oracle_cut *c = oracle_find(&s->oracle, epoch);

	if (c)
		memcpy(s->oracle.logical, c->data, s->oracle.total);
	return c != NULL;
}

void oracle_drop_after(struct sim *s, uint64_t epoch)
{
	struct oracle *o = &s->oracle;

	while (o->ncuts && o->cuts[o->ncuts - 1].epoch > epoch)
		oracle_remove(o, o->ncuts - 1);
	o->last_cut = o->ncuts ? o->cuts[o->ncuts - 1].epoch : 0;
}

uint64_t oracle_match(struct sim *s, const uint8_t *data)
{
	struct oracle *o = &s->oracle;

	for (size_t i = o->ncuts; i-- > 0;)
		if (memcmp(o->cuts[i].data, data, o->total) == 0)
			return o->cuts[i].epoch;
	return SIM_CUT_NONE;
}

/* Says where the first difference is and which writes the sectors are of. */
static void oracle_report(
	struct sim *s, const uint8_t *want, const uint8_t *got, const char *what, const char *where)
{
	struct oracle *o = &s->oracle;
	uint64_t at = 0, sector, first, match;
	unsigned vol = 0, differ = 0;

	while (want[at] == got[at])
		at++;
	first = at;
	while (vol + 1 < s->plan.volumes && o->base[vol + 1] <= first)
		vol++;
	for (; at < o->total; at += SIM_SECTOR)
		differ += memcmp(want + round_down(at, SIM_SECTOR),
				  got + round_down(at, SIM_SECTOR), SIM_SECTOR) != 0;
	sector = round_down(first, SIM_SECTOR);
	match = oracle_match(s, got);
	sim_fail(s,
		"I1/I2/I6, %s: not the state of %s: volume %u byte %llu differs (%u sectors in "
		"all): expected write %llu, found %llu; %s%lld",
		where, what, vol, (unsigned long long)(first - o->base[vol]), differ,
		(unsigned long long)get_le64(want + sector),
		(unsigned long long)get_le64(got + sector),
		match == SIM_CUT_NONE ? "equals no cut " : "equals cut ", (long long)match);
}

void oracle_check(struct sim *s, const uint8_t *data, uint64_t epoch, const char *where)
{
	struct oracle *o = &s->oracle;
	const struct oracle_cut *c = oracle_find(o, epoch);
	char what[64];

	if (epoch < o->promise)
		return sim_fail(s, "I7, %s: epoch %llu found, but %llu was said to be committed",
			where, (unsigned long long)epoch, (unsigned long long)o->promise);
	if (!c)
		return sim_fail(s, "I1, %s: epoch %llu found, which was never cut or was discarded",
			where, (unsigned long long)epoch);
	if (memcmp(c->data, data, o->total) == 0)
		return;
	snprintf(what, sizeof(what), "epoch %llu", (unsigned long long)epoch);
	oracle_report(s, c->data, data, what, where);
}

void oracle_check_logical(struct sim *s, const uint8_t *data, const char *where)
{
	if (memcmp(s->oracle.logical, data, s->oracle.total) != 0)
		oracle_report(s, s->oracle.logical, data, "the ordered changes", where);
}
