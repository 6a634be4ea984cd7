/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who a node's data is, and the one table that decides what two nodes do when they meet
 * (docs/identity.md lists its rows; a test checks both against each other).  Pure.
 *
 * A generation is a line of history: a number that grows and a random id.  A node's *line* is its
 * current generation, then its history, newest first.  What two lines have in common decides; what
 * stands above it is a node's *own*.  Invariants that the transitions below keep:
 *  - two nodes hold one generation only if one of them took it over, whole, from the other;
 *  - a primary that is written to while it may share its generation begins a new one first;
 *  - a generation that nobody wrote to (unwritten) is nobody's own: an idle promotion is no
 *    split brain;
 *  - base: the dirty map covers every difference to each state of the line from base on;
 *  - the map is the business of its owner: nothing here ever clears a bit.
 *
 * Every transition is made durable, as a whole, before what it stands for happens. */
#ifndef TANDEM_CORE_IDENTITY_H
#define TANDEM_CORE_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/record.h"
#include "util/uuid.h"

#ifndef IDENTITY_HISTORY     /* tests fill a shorter one */
#define IDENTITY_HISTORY 16u /* former generations that are kept */
#endif
#define IDENTITY_NAME 64u     /* bytes, with at least one zero */
#define IDENTITY_KIND_DISK 1u /* of a volume */
#define IDENTITY_KIND_MEMORY 2u
#define IDENTITY_KIND_STATE 3u

struct identity_generation {
	uint64_t number; /* 0 = none, and then id is 0 too */
	uint64_t id;     /* random, never 0 */
};

struct identity_volume {
	uint32_t kind;
	uint64_t size;    /* bytes */
	struct uuid uuid; /* zero = none yet */
	char name[IDENTITY_NAME];
};

enum identity_role { IDENTITY_NO_ROLE = 0, IDENTITY_PRIMARY = 1, IDENTITY_SECONDARY = 2 };

/* What a sync brings, noted when a primary is accepted: it holds as soon as an epoch above floor is
 * committed.  Nothing of the session commits before its sync has, and all of former sessions is at
 * most floor. */
struct identity_next {
	struct identity_generation generation; /* none = nothing is under way */
	struct identity_generation history[IDENTITY_HISTORY];
	uint32_t nhistory, unwritten_history;
	uint64_t floor; /* epoch */
	bool full;      /* every block comes */
};

struct identity {
	enum identity_role role;  /* of the last run; in a HELLO: now */
	char name[IDENTITY_NAME]; /* of the group; not in the metadata file */
	struct uuid group;        /* zero = none yet */
	uint32_t volumes;
	struct identity_volume volume[RECORD_MAX_VOLUMES];

	struct identity_generation current, base;
	struct identity_generation history[IDENTITY_HISTORY]; /* newest first */
	uint32_t nhistory;
	uint32_t unwritten_history; /* bit i: history[i] was never written to */
	uint64_t top;               /* highest number ever heard of */

	bool consistent; /* the volumes hold a state that can be used */
	bool syncing;    /* a sync in place has begun to change them; base: of what */
	bool unwritten;  /* nothing was written under the current generation */
	bool yielded;    /* the operator has given this node's own data up */
	bool tracked;    /* there is a valid dirty map; not in the metadata file */

	/* only a node's own business, not in a HELLO */
	bool shared;     /* the peer may hold the current generation */
	bool superseded; /* the peer was promoted while this primary lived */
	bool clean;      /* the last run ended in order */
	struct identity_next next;
};

enum identity_action {
	IDENTITY_SYNC_NONE,        /* equal, up to the united maps */
	IDENTITY_SYNC_INCREMENTAL, /* the united maps */
	IDENTITY_SYNC_FULL,
	IDENTITY_REFUSE_ROLE,
	IDENTITY_REFUSE_UNRELATED,
	IDENTITY_REFUSE_LAYOUT,
	IDENTITY_REFUSE_SMALLER,
	IDENTITY_REFUSE_INCONSISTENT_PRIMARY,
	IDENTITY_REFUSE_SECONDARY_NEWER,
	IDENTITY_REFUSE_SPLIT_BRAIN,
	IDENTITY_REFUSE_UNKNOWN, /* no row fits: stop */
};

struct identity_decision {
	enum identity_action action;
	const char *row;                   /* its name in docs/identity.md */
	struct identity_generation common; /* newest generation of both lines, or none */
	bool keeps_state; /* the secondary has a consistent state that a staged sync can keep until
			   * it commits */
	bool discards;    /* what only the secondary has goes, by its operator's word */
	char text[400];   /* the reason; of a refusal with the command that resolves it */
};

static inline bool identity_refused(const struct identity_decision *d)
{
	return d->action >= IDENTITY_REFUSE_ROLE;
}

/* What a primary and a secondary that meet do.  Both ask with the same two identities (those of the
 * HELLOs), and come to the same decision. */
void identity_decide(const struct identity *primary, const struct identity *secondary,
	struct identity_decision *ret_decision);
const char *identity_action_name(enum identity_action action);
/* The rows of the table, for the test of the document: name and action of row i; false = no more.
 */
bool identity_row(unsigned i, const char **ret_name, enum identity_action *ret_action);

static inline bool identity_same(
	const struct identity_generation *a, const struct identity_generation *b)
{
	return a->number == b->number && a->id == b->id;
}

static inline bool identity_is_none(const struct identity_generation *g)
{
	return g->id == 0;
}

/* NULL, or why this node may not be started as a primary: what the other knows better. */
const char *identity_refuse_primary(const struct identity *id);
/* NULL, or why this secondary may not be promoted. */
const char *identity_refuse_promotion(const struct identity *id);

/* --- transitions; fresh: random, not 0, used for a new generation if one begins --- */

/* Started as a primary: the data it finds is what counts from now on. */
void identity_start_primary(struct identity *id, uint64_t fresh);
/* Whether a guest's write must wait for identity_write; alone: it does not go to a secondary. */
static inline bool identity_write_due(bool unwritten, bool shared, bool alone)
{
	return unwritten || (shared && alone);
}
void identity_write(struct identity *id, bool alone, uint64_t fresh);
/* Whether a primary whose map is not empty must call identity_reconnect, and say who it is anew:
 * the peer holds its generation, but not all of its data, and what is written until the sync is
 * committed has no more protection than what is written alone.  So it gets a generation of its own,
 * unwritten so far. */
bool identity_reconnect_due(const struct identity *id, const struct identity_decision *how);
void identity_reconnect(struct identity *id, uint64_t fresh);
/* Primary, a session begins: from now on the peer may come to hold the current generation. A full
 * sync sets the map to "all" before, and its base is now. */
void identity_session(struct identity *id, const struct identity *peer, bool full);
/* Primary: the sync of the session is committed on the peer. */
void identity_synced(struct identity *id);
/* Primary: the peer was promoted to this generation number. */
void identity_supersede(struct identity *id, uint64_t number);
/* Orderly end. */
void identity_stop(struct identity *id);

/* Secondary: a primary was accepted; floor: the highest epoch number ever seen. */
void identity_accept(
	struct identity *id, const struct identity *primary, bool full, uint64_t floor);
/* Secondary: a sync in place is about to change the first byte of a session. */
bool identity_touch_due(const struct identity *id);
void identity_touch(struct identity *id);
/* Secondary: takes over what the sync has brought, if it is committed; true = something changed. */
bool identity_settle(struct identity *id, uint64_t committed);
/* Secondary, at its start, when its journal was read: the same, and what was not committed is
 * forgotten. */
bool identity_load(struct identity *id, uint64_t committed);
void identity_promote(struct identity *id, uint64_t fresh);

/* The disks of a node that does not run were changed by others, and that is to stay: of a primary,
 * as if it had written alone; a secondary's state is gone.  Its dirty map is void. */
void identity_changed(struct identity *id, uint64_t fresh);

/* Gives group and volumes the names that they lack. */
void identity_name(struct identity *id, const struct uuid *group, const struct uuid *volumes);

/* Secondary with ingest = nbd, no committed state: clients are about to write to the disks. */
bool identity_fill_due(const struct identity *id);
void identity_fill(struct identity *id);
/* Secondary with ingest = nbd: before an epoch commits that came from no primary; of the first
 * fill, with its commit.  Its states are a line of their own. */
bool identity_ingest_due(const struct identity *id);
void identity_ingest(struct identity *id, uint64_t fresh);

/* `tandem resolve`: this node's data goes, or stays. */
void identity_yield(struct identity *id);
void identity_keep(struct identity *id);

#endif
