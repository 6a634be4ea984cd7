/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The primary's state machine: which epoch a change belongs to, cuts and seals, what is pending on
 * the peer.  Pure; the caller serialises all calls under its one short lock, time comes in as an
 * argument.  The stream's bytes are in the queue (core/queue.h).
 *
 *   solo -> (session_begin) -> syncing -> (sync_end acknowledged) -> protected -> (session_end) ->
 * solo
 *
 * Invariants: a change gets its epoch and its place in the stream in one step, so a cut is one
 * place in the stream and needs no drain; epoch numbers only grow. */
#ifndef TANDEM_CORE_PRIMARY_H
#define TANDEM_CORE_PRIMARY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/queue.h"
#include "core/record.h"

enum primary_state { PRIMARY_SOLO, PRIMARY_SYNCING, PRIMARY_PROTECTED, PRIMARY_FAILED };

/* Room that changes never take, so that seals, heartbeats and a goodbye always fit. */
#define PRIMARY_QUEUE_ROOM 65536u
#define PRIMARY_SEALED_MAX                                                                         \
	512u /* remembered sealed epochs; beyond that ages are of the oldest kept */

#define PRIMARY_CUTS_MAX 8u /* checkpoints that are cut and not sealed */

/* An epoch of a guest whose disks' part is over; its memory and state may still come. */
struct primary_checkpoint {
	uint64_t epoch, changes, bytes, since;
	uint64_t space; /* that its disk changes take in the journal, about */
	uint64_t place; /* in the stream: changes of the session before the cut */
	bool state;     /* device state was submitted */
};

struct primary_sealed {
	uint64_t epoch;
	uint64_t since;         /* ns, time of its first change (or of the cut when empty) */
	uint64_t total_changes; /* of the session up to its seal */
	uint64_t place;         /* in the stream: changes before its cut */
};

struct primary {
	struct queue queue;
	enum primary_state state;
	uint64_t max_epoch_bytes;            /* cut early beyond this; 0 = never */
	uint64_t open;                       /* number of the open epoch */
	uint64_t changes, bytes, since;      /* of the open epoch */
	uint64_t total_changes, total_bytes; /* of the session */
	uint64_t sync_epoch;                 /* of the newest full sync */
	uint64_t got_changes, got_bytes;     /* received by the peer */
	uint64_t done_changes, done_bytes;   /* committed by the peer */
	uint64_t committed, received;        /* epochs */
	uint64_t first_seq; /* of the next session's records; 0 = 1, right behind the HELLO */
	uint64_t settled;   /* the first so many changes of the stream are durable on the peer */
	struct primary_sealed sealed[PRIMARY_SEALED_MAX];
	unsigned sealed_first, sealed_count;

	/* A group with a guest (docs/control.md, "VM groups"): only a controller cuts, and a cut
	 * does not seal. */
	bool guest;
	bool disks_copied;   /* the disks' sync is through: the first checkpoint may be cut */
	bool begun;          /* the guest is being stopped: its last writes always pass */
	bool waits;          /* since waits_since a change has had to wait for a checkpoint, */
	bool moved, failing; /* and this was done for it meanwhile; the newest one failed */
	uint64_t waits_since;
	bool staged;         /* the sync of this session goes through the journal */
	uint64_t open_space; /* as in primary_checkpoint; not of a sync in place */
	bool open_state;     /* device state was submitted for the open epoch */
	uint64_t state_len;  /* of the state blob, as sent */
	struct primary_checkpoint cuts[PRIMARY_CUTS_MAX]; /* the lowest first */
	unsigned cuts_count;
};

struct primary_pending {
	uint64_t got_bytes, got_changes, got_epochs;    /* not received */
	uint64_t done_bytes, done_changes, done_epochs; /* not committed */
	uint64_t age_ns; /* of the oldest change that is not committed; 0 = none */
};

void primary_init(struct primary *p, void *mirrored, uint64_t queue_size);
static inline bool primary_replicating(const struct primary *p)
{
	return p->state == PRIMARY_SYNCING || p->state == PRIMARY_PROTECTED;
}

/* The peer was accepted: epochs begin above floor; a sync of sync_total bytes begins, which lands
 * there as kind says. */
void primary_session_begin(struct primary *p, uint64_t floor, enum record_sync kind,
	uint64_t sync_total, uint64_t max_epoch_bytes);
void primary_session_end(struct primary *p);

/* The secondary is to keep its disks as of this epoch, which is cut and not sealed; 0: no longer.
 * -EAGAIN = no room. */
int primary_freeze(struct primary *p, uint64_t epoch);
/* A place in the stream for a DIGEST of what is on the disk now, or frozen.  NULL = no room. */
uint8_t *primary_digest(struct primary *p, struct record *rec);

/* A place in the stream for one change; rec has type, flags, volume, payload, offset, length; epoch
 * and seq are filled in. NULL = the queue is full; with a guest also when what is not sealed would
 * fill the journal (max_epoch_bytes and more): a checkpoint is overdue. The caller copies
 * the payload and publishes. */
uint8_t *primary_change(struct primary *p, struct record *rec, uint64_t now);
/* Seals the open epoch; *ret_epoch is its number.  0 or -EAGAIN (queue full), -ENOTCONN (solo),
 * -EBUSY (a full sync runs: there is nothing to commit yet). */
int primary_cut(struct primary *p, uint64_t now, uint64_t *ret_epoch);
/* --- a group with a guest --- */
/* Ends the disks' part of the open epoch.  As primary_cut (-EBUSY: the disks are still being
 * copied), or -EMFILE: too many are not sealed. */
int primary_checkpoint_cut(struct primary *p, uint64_t now, uint64_t *ret_epoch);
/* The epoch that memory and state may be submitted for: the lowest that is not sealed. */
uint64_t primary_memory_epoch(const struct primary *p);
/* A place for one PAGES, STATE or CHECK (which does not count as a change) of
 * primary_memory_epoch; as primary_change, but NULL also when
 * the queue is half full: the other half is for the disks. */
uint8_t *primary_memory(struct primary *p, struct record *rec, uint64_t now);
/* Closes the lowest epoch that was cut.  0, -ENOENT (it is another), -ENODATA (no state was
 * submitted, and it is not to be merged), -EPERM (a merge of the first of a session), -EAGAIN,
 * -ENOTCONN. */
int primary_checkpoint_seal(struct primary *p, uint64_t epoch, bool merge, uint64_t now);

/* Whether the first checkpoint of the session is sealed: from then on what the stream has said of a
 * page is what the secondary knows of it (RECORD_PAGES with differences). */
static inline bool primary_memory_whole(const struct primary *p)
{
	return primary_memory_epoch(p) > p->sync_epoch;
}

/* The controller says that the checkpoint which it makes has failed. */
void primary_checkpoint_failed(struct primary *p);
/* Asked from time to time: for how many ns changes have had to wait for a checkpoint while nobody
 * did anything for it; 0 = none waits.  Memory that comes counts, but not of a try after a failed
 * one: only a seal ends that. */
uint64_t primary_waits_for(struct primary *p, uint64_t now);

/* ns until the timer (interval ns; 0 = none) asks for a cut; UINT64_MAX = nothing to cut. */
uint64_t primary_cut_in(const struct primary *p, uint64_t now, uint64_t interval);
/* Whether a timer (interval ns; 0 = none) or the size asks for a cut now. */
bool primary_cut_due(const struct primary *p, uint64_t now, uint64_t interval);
/* Everything of the full sync is in the stream.  0 or -EAGAIN.  With a guest SYNC_END follows at
 * the first cut. */
int primary_sync_end(struct primary *p, uint64_t now);
/* HEARTBEAT or GOODBYE (text may be NULL). 0 or -EAGAIN. */
int primary_say(struct primary *p, enum record_type type, uint64_t reason, uint64_t generation,
	const char *text);

/* Asks whether the peer's disk can have so many bytes: a place in the stream.  0 or -EAGAIN. */
int primary_grow(struct primary *p, unsigned volume, uint64_t size);

/* One checked record of the peer (ACK_RECEIVED, ACK_COMMITTED, ACK_SYNCED). NULL, or why it cannot
 * be. */
const char *primary_ack(struct primary *p, const struct record *rec);
void primary_get_pending(
	const struct primary *p, uint64_t now, struct primary_pending *ret_pending);

#endif
