/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What else acts on the simulated secondary: the controller of commit-policy manual, promotion, and
 * the guest of the promoted node, whose writes go to the node's own journal. */
#include "sim.h"

#include <errno.h>
#include <stdlib.h>

#include "util/bytes.h"

/* --- the controller --- */

/* What is left after a discard must be a cut; everything after it is gone for good. */
static void local_after_discard(struct sim *s, const char *where)
{
	const uint8_t *data = check_read(s, s->sec.r, true, 0, false);
	uint64_t epoch = data ? oracle_match(s, data) : SIM_CUT_NONE;

	if (epoch == SIM_CUT_NONE) {
		sim_fail(s, "I1, %s: what is left equals no cut", where);
		return;
	}
	oracle_drop_after(s, epoch);
	if (s->sec.promoted) {
		(void)oracle_rebase(s, epoch);
		s->sec.local_dirty = true; /* cuts may be equal: the last one is to be new */
	}
	sim_trace(s, "%s: epoch %llu is left", where, (unsigned long long)epoch);
}

static void controller_close(struct sim *s, void *arg)
{
	if (s->sec.discarded && s->sec.session == (unsigned)(uintptr_t)arg)
		link_close_s(s);
}

static void controller_discard(struct sim *s)
{
	uint64_t epochs, bytes;
	struct replica_status st;

	replica_discard(s->sec.r, &epochs, &bytes);
	if (epochs == 0)
		return;
	sim_trace(s, "controller: discards %llu epochs", (unsigned long long)epochs);
	s->stats->discards++;
	if (s->link.s_up) {
		/* The goodbye takes a moment; what still comes must not be taken. */
		s->sec.discarded = true;
		sim_after(s, SIM_SECONDARY, sim_chance(s, 50) ? 0 : sim_rng(s, 5 * SIM_MS),
			controller_close, (void *)(uintptr_t)s->sec.session);
		return;
	}
	replica_get_status(s->sec.r, &st);
	if (st.mode == REPLICA_READY)
		local_after_discard(s, "discard");
}

static void controller_tick(struct sim *s, void *arg)
{
	const struct oracle *o = &s->oracle;

	sim_after(s, SIM_SECONDARY, sim_delay(s, SIM_MS, s->calm ? 2 * SIM_MS : 15 * SIM_MS),
		controller_tick, arg);
	if (!s->calm && sim_chance(s, 5)) {
		controller_discard(s);
	} else if (o->ncuts) {
		size_t i = s->calm && sim_chance(s, 50) ? o->ncuts - 1 : sim_rng(s, o->ncuts);
		int r = replica_commit(s->sec.r, o->cuts[i].epoch);

		if (r < 0 && r != -ENOENT && r != -EALREADY)
			sim_fail(s, "replica_commit: error %d", r);
	}
}

void controller_start(struct sim *s)
{
	if (s->plan.manual)
		sim_after(s, SIM_SECONDARY, sim_delay(s, 0, 5 * SIM_MS), controller_tick, NULL);
}

/* --- the promoted node --- */

bool local_cut(struct sim *s)
{
	uint64_t epoch;
	int r = replica_local_cut(s->sec.r, &epoch);

	if (r == -EAGAIN || r == -EIO)
		return false;
	if (r < 0)
		sim_fail(s, "replica_local_cut: error %d", r);
	else
		oracle_cut(s, epoch);
	s->sec.local_dirty = false;
	sim_trace(s, "local: cut %llu", (unsigned long long)epoch);
	return r == 0;
}

static void local_tick(struct sim *s, void *arg)
{
	struct sim_secondary *sec = &s->sec;
	bool zero = sim_chance(s, s->plan.zero_percent);
	unsigned v = (unsigned)sim_rng(s, s->plan.volumes);
	uint64_t sectors, off, len;
	int r;

	if (!sec->local || !s->guests)
		return;
	sim_after(s, SIM_SECONDARY, sim_delay(s, 50 * SIM_US, SIM_MS), local_tick, arg);
	if (sim_chance(s, 8)) {
		(void)local_cut(s);
		return;
	}
	sectors = 1 + sim_rng(s, min_u64(s->plan.max_write, s->plan.size[v]) / SIM_SECTOR);
	off = sim_rng(s, s->plan.size[v] / SIM_SECTOR - sectors + 1) * SIM_SECTOR;
	len = sectors * SIM_SECTOR;
	if (!sec->local_data && !(sec->local_data = malloc(s->plan.max_write)))
		abort();
	sim_pattern(sec->local_data, off, len, (1ull << 40) + ++sec->local_ids);
	r = replica_local_change(sec->r, v, off, len, zero ? NULL : sec->local_data, zero);
	if (r == 0) {
		s->stats->local++;
		sec->local_dirty = true;
		oracle_change(s, v, off, len, zero ? NULL : sec->local_data);
		sim_trace(s, "local: %s %llu volume %u [%llu, +%llu)", zero ? "zero" : "write",
			(unsigned long long)sec->local_ids, v, (unsigned long long)off,
			(unsigned long long)len);
	} else if (r != -EAGAIN && r != -EIO) {
		sim_fail(s, "replica_local_change: error %d", r);
	}
}

/* The guest starts on what is left: after a promotion, or when a promoted node starts again. */
void local_start(struct sim *s)
{
	local_after_discard(s, "promotion");
	if (replica_index_begin(s->sec.r) < 0)
		abort();
	s->sec.local = true;
	sim_after(s, SIM_SECONDARY, sim_delay(s, 0, SIM_MS), local_tick, NULL);
}

void secondary_promote(struct sim *s, void *arg)
{
	struct sim_secondary *sec = &s->sec;
	struct replica_status st;
	uint64_t epochs, bytes;

	if (s->p.alive) {
		primary_node_crash(s);
		sim_after(s, SIM_WORLD, sim_rng(s, 10 * SIM_MS), secondary_promote, arg);
		return;
	}
	if (!sec->alive) {
		sim_after(s, SIM_WORLD, SIM_MS, secondary_promote, arg);
		return;
	}
	link_close_s(s);
	replica_get_status(sec->r, &st);
	if (st.mode == REPLICA_DIRECT || st.mode == REPLICA_FAILED || st.cloned ||
		(st.mode == REPLICA_EMPTY && sec->applying)) {
		/* The last batch of a full sync is on its way; or the node is started again. */
		sim_after(s, SIM_WORLD, SIM_MS, secondary_promote, arg);
		return;
	}
	sec->promoted = true;
	replica_discard(sec->r, &epochs, &bytes);
	if (st.mode != REPLICA_READY) {
		if (s->oracle.promise && !sec->marking)
			sim_fail(s, "I7: epoch %llu was committed, but there is nothing to promote",
				(unsigned long long)s->oracle.promise);
		s->stats->unpromotable++;
		sim_trace(s, "promotion: there is no committed state");
		return;
	}
	s->stats->promotions++;
	memory_promote(s);
	sim_trace(s, "promotion: %llu epochs discarded", (unsigned long long)epochs);
	local_start(s);
}
