/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the receiver share: receiver.c (life, requests), receiver_load.c (its start),
 * receiver_link.c (the link thread), receiver_candidates.c (who connects to it), receiver_end.c
 * (how sessions end), local.c (local writers), journal_io.c (the journal file), applier.c (the
 * images). */
#ifndef TANDEM_REPLICATOR_RECEIVER_INTERNAL_H
#define TANDEM_REPLICATOR_RECEIVER_INTERNAL_H

#include <liburing.h>

#include "core/digest.h"
#include "replicator/link.h"
#include "replicator/local.h"
#include "replicator/receiver.h"
#include "replicator/wake.h"

#define RECEIVER_DIGESTS 64u   /* that may wait for an answer */
#define RECEIVER_CANDIDATES 8u /* connections that have not said who they are */

struct receiver_request {
	enum { REQUEST_NONE, REQUEST_COMMIT, REQUEST_DISCARD, REQUEST_CLOSE } kind;
	uint64_t epoch;
	bool promoted;
	int result;
	uint64_t epochs, bytes;
	bool done;
};

struct candidate {
	struct link link;  /* link.transport NULL = free */
	bool established;  /* handshake done */
	bool waiting;      /* its hello was fine; memory of former sessions is still on its way */
	struct hello peer; /* when waiting */
	uint64_t deadline;
};

struct receiver {
	struct node *n;
	struct replica *core; /* (L) */
	struct wake wake;     /* wakes the link thread */
	pthread_t thread, applier;
	bool started, applier_started, memory_started;

	/* journal file */
	int journal;
	uint64_t ring_size;
	uint8_t *ring;         /* the whole ring, mapped, where the file is in memory; else NULL */
	uint64_t ring_present; /* applier only: bytes that journal_io_populate has done */
	struct io_uring uring;
	bool uring_ready;
	struct wake completed;         /* eventfd of the uring */
	struct replica_chunk **writes; /* (L) asked for, in order; a ring of writes_size */
	unsigned writes_first, writes_count, writes_size;
	bool flush_wanted;  /* (L) */
	unsigned in_flight; /* link thread's own */

	/* acknowledgements to send (L): the newest counts */
	struct record ack_received, ack_committed, ack_synced;
	bool have_received, have_committed, have_synced;

	/* (L) of the newest checkpoint that came with digests */
	struct memcheck_result checked;
	bool have_checked;

	/* (L) why this node could not take the guest, "" = it could, or nobody has said; to be told
	 */
	char unready[256];
	bool have_unready;

	/* (L) growth that the primary asks about; unanswered */
	bool grow_asked;
	unsigned grow_volume;
	uint64_t grow_size;

	bool stopping, disconnected, connected, tls; /* (L) */
	bool gone;                        /* (L) the link thread takes no requests any more */
	char peer[128];                   /* (L) */
	uint64_t heard;                   /* (L) */
	struct receiver_request *request; /* (L) */
	char failure[160];                /* (L) why commits have stopped; set once */
	char applier_why[96];             /* applier only: object and action of its failure */
	/* (L) why a sync into clones was given up; none is offered until a command to connect */
	char clone_failure[512];

	/* applier (L) */
	pthread_cond_t apply, applied; /* with node.lock */
	unsigned hurry;                /* who waits for a drain */
	unsigned hold;                 /* who has the images stand still */
	unsigned holding;              /* who waits for that, and at which epoch at least */
	uint64_t hold_at;
	bool applying;

	/* memory of a guest (L): receiver_memory.c */
	pthread_t memory;
	pthread_cond_t memory_work, memory_done; /* with node.lock */
	struct local local;                      /* (L) */

	/* the link thread's own */
	struct listener *listener;
	struct candidate candidates[RECEIVER_CANDIDATES];
	struct link link;
	struct { /* it was told goodbye, which is on its way; transport NULL = nobody */
		struct link link;
		uint64_t deadline;
		bool promoted;
	} leaving;
	/* digests that the primary asks about: receiver_compare.c; a ring */
	struct digest *digests; /* (L) RECEIVER_DIGESTS of them */
	uint8_t *digest_buf;
	unsigned digests_first, digests_count; /* (L) */
	/* images as of an epoch, for such digests (L) */
	uint64_t freeze_epoch;          /* between FREEZE and THAW, else 0 */
	bool freeze_over;               /* held, or it failed: nothing to be taken */
	struct receiver_frozen *frozen; /* held: the link thread reads it */
	struct receiver_frozen *thawed; /* to be freed */
	struct record say_frozen;
	bool have_frozen;
	/* what interrupted syncs have left, when the session began: receiver_held.c */
	struct imap *held[CONF_MAX_DISKS];
	uint64_t held_span; /* bytes of the journal */
	/* our dirty map, and then what is held, on their way to the primary */
	bool maps_due, held_due, map_held;
	unsigned map_volume;
	uint64_t map_word;
	bool blocked;          /* no room to receive */
	bool failure_said;     /* in the log */
	bool settle_due;       /* the session's generation is not this node's own yet */
	uint64_t refused_said; /* when a refusal was logged last */
};

/* journal_io.c */
int journal_io_open(struct receiver *r, struct journal_header *ret_header, struct error *err);
void journal_io_close(struct receiver *r);
/* Applier, when it has nothing to do: makes the next pages of a mapped ring present, so that the
 * link thread has no page faults; it may use them meanwhile. false: all are. */
bool journal_io_populate(struct receiver *r);
int journal_io_read(void *ctx, uint64_t pos, void *buf, size_t len);
int journal_io_write_header(struct receiver *r, const struct journal_header *h);
/* Link thread: starts what was asked for; takes completions. */
void journal_io_submit(struct receiver *r);
void journal_io_reap(struct receiver *r);
/* Creates the file (init.c). */
int journal_io_create(const char *path, uint64_t size, bool force, struct error *err);

/* receiver_compare.c: actions of the replica, (L). */
bool receiver_digest(void *ctx, const struct record *rec, const uint8_t *payload);
void receiver_freeze(void *ctx, uint64_t epoch);
/* (L) The applier, between batches: whether the images are to be kept as they are now; does it,
 * letting the lock go meanwhile. */
bool receiver_freeze_due(const struct receiver *r);
void receiver_freeze_take(struct receiver *r);
/* Link thread: frees what was thawed; answers the oldest digest if it can. */
void receiver_free_thawed(struct receiver *r);
int receiver_answer(struct receiver *r, uint64_t now);
void receiver_compare_deinit(struct receiver *r);

/* receiver_held.c.  (L) A session begins: what is held is told to the primary, or dropped where its
 * disks end before it does. */
void receiver_held_offer(struct receiver *r, const struct hello *peer);
/* Link thread: the part of it that lies in [off, off+len), over buf. */
int receiver_held_overlay(
	struct receiver *r, unsigned volume, uint64_t off, uint64_t len, uint8_t *buf);
void receiver_held_forget(struct receiver *r);

/* receiver.c: the calling thread is the link thread of r. */
void receiver_is_here(const struct receiver *r);

/* receiver_end.c: the session is over, for why, or NULL when nobody is to blame. */
void receiver_end(struct receiver *r, const char *why);
/* The same with a goodbye, which is to arrive: r->leaving. */
void receiver_say_goodbye(struct receiver *r, enum record_goodbye reason, uint64_t generation,
	const char *text, const char *why);
/* Somebody leaves, and something may have come of him.  The last one, before the thread ends: waits
 * for that, for a promotion's goodbye until its deadline. */
void receiver_leaves(struct receiver *r, uint64_t now);
void receiver_leaves_last(struct receiver *r);

/* receiver_candidates.c, link thread: what came from one of them; a new one, from a listening
 * socket. */
void receiver_candidate(struct receiver *r, struct candidate *c, uint64_t now);
void receiver_listen(struct receiver *r, int fd, uint64_t now);

/* receiver_load.c: opens the journal and makes the replica, at the last committed epoch. */
int receiver_load(struct receiver *r, const struct replica_ops *ops, struct error *err);
/* What the sync of the session has brought is this node's own, once it is committed
 * (core/identity.h): noted durably.  Takes meta_lock. */
int receiver_settle(struct receiver *r, uint64_t committed, struct error *err);
/* The sync of a session is committed, and so noted: nothing differs but by the primary's map. */
int receiver_clear_maps(struct receiver *r, struct error *err);

void *receiver_main(void *arg);
void *applier_main(void *arg);
void *receiver_memory_main(void *arg);

#endif
