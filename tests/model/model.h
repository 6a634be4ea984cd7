/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every order of events of two nodes, up to a depth, over the real rules of core/identity.c and
 * core/identity_decide.c.  Disks are a few blocks, of each of which only the version counts: who
 * wrote it over what.  The dirty maps are sets of blocks.
 *
 * Checked in every state that is reached:
 *  - nobody's answered write is overwritten unless the writer's successor has seen it, or the
 *    operator gave it up: "answered" = committed on the secondary and acknowledged, or written
 *    alone, or in a sync that has something to copy;
 *  - a sync that commits leaves both disks equal, whatever it copied;
 *  - a node that is promoted or started as a primary has no block that a sync left half done;
 *  - a split brain is reported only if both sides have something that the other has not seen;
 *  - from there some commands lead to protected. */
#ifndef TANDEM_TESTS_MODEL_H
#define TANDEM_TESTS_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "core/identity.h"

#define MODEL_BLOCKS 2u
#define MODEL_ALL ((1u << MODEL_BLOCKS) - 1)
#define MODEL_VERSIONS 10u
#define MODEL_GARBAGE 255u /* half of a sync */

enum model_run { MODEL_DOWN, MODEL_PRIMARY, MODEL_SECONDARY };

struct model_node {
	struct identity id; /* durable */
	enum model_run run;
	uint8_t content[MODEL_BLOCKS]; /* versions */
	uint8_t map;                   /* blocks; durable, as after the union with hot regions */
	bool epoch;                    /* it holds a committed epoch of a secondary */
	bool beyond; /* an epoch of the last session is committed in the journal (durable) */
};

enum model_link { MODEL_NO_LINK, MODEL_SYNCING, MODEL_SYNC_COMMITTED, MODEL_PROTECTED };

struct model_version {
	uint8_t parent; /* what was there when it was written */
	bool answered;
};

struct model {
	struct model_node node[2];
	struct model_version version[MODEL_VERSIONS];
	uint8_t versions;

	/* the session */
	enum model_link link;
	uint8_t primary; /* which node */
	uint8_t copy;    /* blocks that the sync copies */
	uint8_t window;  /* written since, not committed on the secondary */
	uint8_t acking;  /* committed there, and the primary does not know yet */
	bool in_place;   /* the sync changes the secondary's disk as it goes */
	bool touched;    /* ... and has begun to */
	bool discards;
	bool noted; /* what is written before the sync is committed has a generation of its own */
	uint8_t fresh; /* ids given out */
};

enum model_kind {
	EVENT_START_PRIMARY,
	EVENT_START_SECONDARY,
	EVENT_CRASH, /* and every other end */
	EVENT_CONNECT,
	EVENT_CONNECT_IN_PLACE,
	EVENT_TOUCH,
	EVENT_PART, /* a block of a sync in place is durable, and acknowledged */
	EVENT_SYNC_COMMIT,
	EVENT_COMMIT,
	EVENT_ACK,
	EVENT_LINK_LOSS,
	EVENT_WRITE,
	EVENT_PROMOTE,
	EVENT_PROMOTE_FORCE, /* the living primary is told */
	EVENT_YIELD,
	EVENT_KEEP,
	EVENT_MAP_LOSS,
	EVENT_CHANGED, /* others change the disk of a node that is down, and an operator takes it */
	EVENT_KINDS,
};

struct model_event {
	enum model_kind kind;
	uint8_t node, block;
};

/* What a deliberate fault changes; the checks must notice each. */
enum model_break {
	BREAK_NONE,
	BREAK_ROW,           /* the row break_row decides the opposite */
	BREAK_NO_RECONNECT,  /* no generation begins before a sync that copies something */
	BREAK_NO_MINT,       /* writes alone begin no generation */
	BREAK_UNWRITTEN,     /* an unwritten generation counts as written to */
	BREAK_NEVER_WRITTEN, /* the first write after a promotion is not noted */
	BREAK_ONE_MAP,       /* the secondary's map is left out */
	BREAK_OWN_MAP,       /* the primary's map is left out */
	BREAK_CLEAR_EARLY,   /* the map is cleared when the sync is sent */
	BREAK_CLEAR_EQUAL,   /* ... when both are of one generation */
	BREAK_SETTLE_EARLY,  /* the secondary takes the generation over before the commit */
	BREAK_NO_SETTLE,     /* ... never */
	BREAK_NOT_SHARED,    /* a session does not mark the generation as shared */
	BREAK_BASE_EARLY,    /* the primary's base moves before the commit */
	BREAK_NO_TOUCH,      /* a sync in place is not noted */
	BREAK_NO_FULL_MAP,   /* a full sync does not set the map */
	BREAK_YIELD_DEAF,    /* tandem resolve changes nothing */
	BREAK_KEEP_DEAF,
	BREAK_CHANGED_DEAF, /* what others have changed is not noticed */
	BREAK_KINDS,
};

extern enum model_break model_broken;
extern const char *model_broken_row;
/* Only a secondary that a sync has reached can be promoted: not an old primary that came back.  The
 * rules must be right either way. */
extern bool model_strict;

void model_init(struct model *m);
/* false: not possible here.  *ret_why: a check that failed, else NULL. */
bool model_step(struct model *m, const struct model_event *e, const char **ret_why);
enum model_recovery {
	MODEL_BY_ITSELF,           /* start, promote, connect are enough */
	MODEL_BY_RESOLVE,          /* an operator must say whose data goes */
	MODEL_BY_NEEDLESS_RESOLVE, /* ... though one side has nothing of its own */
	MODEL_STUCK,
};
/* Commands that lead to protected, whatever state this is; *ret_why: a check failed on the way. */
enum model_recovery model_recovers(const struct model *m, const char **ret_why);
void model_event_print(const struct model_event *e, char *buf, size_t len);
void model_print(const struct model *m);

/* --- model_pack.c: the smallest form, equal for states that differ in names only --- */
#define MODEL_PACKED 96u
/* true: the nodes have changed places. */
bool model_pack(const struct model *m, uint8_t packed[MODEL_PACKED]);
void model_unpack(const uint8_t packed[MODEL_PACKED], struct model *m);

#endif
