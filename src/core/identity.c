/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Generations: how they begin, are taken over, and end. */
#include "core/identity.h"

#include <string.h>

#include "util/bytes.h"

const char *identity_refuse_primary(const struct identity *id)
{
	if (id->superseded)
		return "the other node was promoted while this one was the primary: start this one "
		       "with tandem secondary; if the other node's data is lost or not wanted, run "
		       "tandem resolve CONF --keep with this node's name first";
	if (id->yielded)
		return "this node's data was given up with tandem resolve: start it with tandem "
		       "secondary, or take that back with tandem resolve CONF --keep and this "
		       "node's name";
	if (id->role == IDENTITY_SECONDARY)
		return "this node was the secondary: start it with tandem secondary and use tandem "
		       "promote";
	if (!identity_is_none(&id->next.generation))
		return "a sync of this node's disks was under way: start it with tandem secondary, "
		       "which finds out whether it was committed";
	if (!id->consistent && !identity_is_none(&id->base))
		return "this node's disks hold a part of a sync only: start it with tandem "
		       "secondary";
	return NULL;
}

const char *identity_refuse_promotion(const struct identity *id)
{
	if (id->syncing)
		return "the disks hold a part of a sync only: until it is committed there is no "
		       "state to promote";
	if (!id->consistent)
		return "there is no committed state to promote: no full sync was committed yet";
	return NULL;
}

/* The current generation becomes history; where that is full, the oldest goes, but never the base:
 * the peer may still stand there. */
static void identity_push(struct identity *id)
{
	const struct identity_generation last = id->history[IDENTITY_HISTORY - 1];
	const uint32_t last_unwritten = id->unwritten_history & 1u << (IDENTITY_HISTORY - 1);
	bool full = id->nhistory == IDENTITY_HISTORY;

	id->unwritten_history = (id->unwritten_history << 1 | (id->unwritten ? 1u : 0)) &
				((1u << IDENTITY_HISTORY) - 1);
	memmove(id->history + 1, id->history, (IDENTITY_HISTORY - 1) * sizeof(id->history[0]));
	id->history[0] = id->current;
	if (!full) {
		id->nhistory++;
	} else if (identity_same(&last, &id->base)) {
		id->history[IDENTITY_HISTORY - 1] = last;
		id->unwritten_history &= (1u << (IDENTITY_HISTORY - 1)) - 1;
		id->unwritten_history |= last_unwritten;
	}
}

static void identity_mint(struct identity *id, uint64_t fresh)
{
	/* One that nobody wrote to and nobody else has is as if it had never been. */
	if (!identity_is_none(&id->current) && (!id->unwritten || id->shared))
		identity_push(id);
	id->top = max_u64(id->top, id->current.number) + 1;
	id->current = (struct identity_generation){id->top, fresh};
	id->shared = false;
}

void identity_start_primary(struct identity *id, uint64_t fresh)
{
	if (identity_is_none(&id->current))
		identity_mint(id, fresh);
	id->role = IDENTITY_PRIMARY;
	id->consistent = true;
	id->clean = false;
}

void identity_write(struct identity *id, bool alone, uint64_t fresh)
{
	if (alone && id->shared)
		identity_mint(id, fresh);
	id->unwritten = false;
}

bool identity_reconnect_due(const struct identity *id, const struct identity_decision *how)
{
	return identity_same(&id->current, &how->common);
}

void identity_reconnect(struct identity *id, uint64_t fresh)
{
	identity_mint(id, fresh);
	id->unwritten = true;
}

void identity_session(struct identity *id, const struct identity *peer, bool full)
{
	id->shared = true;
	id->top = max_u64(id->top, peer->top);
	if (full)
		id->base = id->current;
}

void identity_synced(struct identity *id)
{
	id->base = id->current;
	id->unwritten = false;
}

void identity_supersede(struct identity *id, uint64_t number)
{
	id->superseded = true;
	id->top = max_u64(id->top, number);
}

void identity_stop(struct identity *id)
{
	id->clean = true;
}

void identity_accept(struct identity *id, const struct identity *primary, bool full, uint64_t floor)
{
	struct identity_next *n = &id->next;

	id->group = primary->group;
	for (uint32_t i = 0; i < id->volumes; i++)
		id->volume[i].uuid = primary->volume[i].uuid;
	if (id->role == IDENTITY_NO_ROLE)
		id->role = IDENTITY_SECONDARY;
	id->top = max_u64(id->top, primary->top);
	n->generation = primary->current;
	memcpy(n->history, primary->history, sizeof(n->history));
	n->nhistory = primary->nhistory;
	n->unwritten_history = primary->unwritten_history;
	n->floor = floor;
	n->full = full;
}

/* An old primary is one until the first byte of a sync counts: it may be the only one that has what
 * it wrote, and could not be started as a primary again. */
static void identity_become_secondary(struct identity *id)
{
	id->role = IDENTITY_SECONDARY;
	id->superseded = id->clean = false;
}

bool identity_touch_due(const struct identity *id)
{
	return !id->syncing || (id->next.full && !identity_same(&id->base, &id->next.generation));
}

/* Where a sync of the dirty blocks goes on with a former one, what that one came from is still
 * the oldest that the disks can hold.  A full one begins anew: the primary's map is "all" then. */
void identity_touch(struct identity *id)
{
	if (!identity_touch_due(id))
		return;
	identity_become_secondary(id);
	id->consistent = id->unwritten = id->yielded = false;
	id->syncing = true;
	id->current = (struct identity_generation){0};
	id->base = id->next.generation;
}

bool identity_settle(struct identity *id, uint64_t committed)
{
	struct identity_next *n = &id->next;

	if (identity_is_none(&n->generation) || committed <= n->floor)
		return false;
	id->current = id->base = n->generation;
	memcpy(id->history, n->history, sizeof(id->history));
	id->nhistory = n->nhistory;
	id->unwritten_history = n->unwritten_history;
	id->top = max_u64(id->top, id->current.number);
	id->consistent = id->shared = true;
	id->syncing = id->unwritten = id->yielded = false;
	identity_become_secondary(id);
	*n = (struct identity_next){0};
	return true;
}

bool identity_load(struct identity *id, uint64_t committed)
{
	if (identity_is_none(&id->next.generation))
		return false;
	if (!identity_settle(id, committed))
		id->next = (struct identity_next){0};
	return true;
}

void identity_promote(struct identity *id, uint64_t fresh)
{
	identity_mint(id, fresh);
	id->unwritten = true;
	id->role = IDENTITY_PRIMARY;
	id->superseded = id->yielded = id->clean = false;
	id->next = (struct identity_next){0};
}

void identity_changed(struct identity *id, uint64_t fresh)
{
	if (id->role == IDENTITY_PRIMARY)
		identity_write(id, true, fresh);
	else
		id->consistent = false;
	/* What its journal holds of a sync is for disks that are no more. */
	id->next = (struct identity_next){0};
	id->clean = false;
}

void identity_name(struct identity *id, const struct uuid *group, const struct uuid *volumes)
{
	if (uuid_is_zero(&id->group))
		id->group = *group;
	for (uint32_t i = 0; i < id->volumes; i++)
		if (uuid_is_zero(&id->volume[i].uuid))
			id->volume[i].uuid = volumes[i];
}

bool identity_fill_due(const struct identity *id)
{
	return id->consistent || !identity_is_none(&id->current) || id->syncing;
}

/* As new, whatever was there: the dirty map does not know what is written now. */
void identity_fill(struct identity *id)
{
	id->consistent = id->unwritten = id->yielded = id->syncing = id->shared = false;
	id->superseded = id->clean = false;
	id->role = IDENTITY_SECONDARY;
	id->top = max_u64(id->top, id->current.number);
	id->current = id->base = (struct identity_generation){0};
	id->nhistory = 0;
	memset(id->history, 0, sizeof(id->history));
	id->next = (struct identity_next){0};
}

bool identity_ingest_due(const struct identity *id)
{
	return identity_is_none(&id->current) || id->shared || id->unwritten ||
	       id->role != IDENTITY_SECONDARY || !identity_is_none(&id->next.generation);
}

/* base: the map of this node covers nothing of it, and no other node has it. */
void identity_ingest(struct identity *id, uint64_t fresh)
{
	if (identity_is_none(&id->current) || id->shared)
		identity_mint(id, fresh);
	id->base = id->current;
	id->consistent = true;
	id->unwritten = id->yielded = id->syncing = id->superseded = id->clean = false;
	id->role = IDENTITY_SECONDARY;
	id->next = (struct identity_next){0};
}

void identity_yield(struct identity *id)
{
	id->yielded = true;
}

void identity_keep(struct identity *id)
{
	id->yielded = id->superseded = false;
}
