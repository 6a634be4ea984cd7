/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the replica share: replica.c (life, control, questions), replica_rx.c (link),
 * replica_local.c (local writers), replica_chunk.c (buffers), replica_log.c (the log and commits),
 * replica_apply.c (batches), replica_index.c (the live index), replica_kept.c (interrupted syncs),
 * replica_recover.c. */
#ifndef TANDEM_CORE_REPLICA_INTERNAL_H
#define TANDEM_CORE_REPLICA_INTERNAL_H

#include "core/compress.h"
#include "core/replica.h"

#define REPLICA_CHUNK_CLOSE RECORD_MAX_PAYLOAD /* a chunk this full is closed */
/* Journal space that received changes never take: the chunk being filled, and the one with the
 * COMMIT that frees the others, must always find room, each perhaps behind a skip. */
#define REPLICA_JOURNAL_ROOM (4 * JOURNAL_CHUNK_MAX)

/* Buffers are kept for the next chunks: fresh memory costs a page fault per page, which is more
 * than the copy into it.  So many are kept while there is nothing to do; about one batch of the
 * applier. */
#define REPLICA_SPARE_MAX 64u

struct replica_spare { /* at the begin of a buffer that is not in use */
	struct replica_spare *next;
};

struct replica {
	struct replica_config cfg;
	const struct replica_ops *ops;
	void *ctx;

	enum replica_mode mode;
	int error;
	const char *why;

	/* log: every chunk that the journal may not forget, oldest first; filling is not in it */
	struct replica_chunk *log_first, *log_last;
	struct replica_chunk *filling;
	struct replica_chunk *write_first; /* first in log order that is not WRITTEN */
	struct replica_chunk *direct_first, *direct_last; /* closed chunks of a full sync */
	uint64_t staged;                                  /* bytes of buffers in use */
	struct replica_spare *spare; /* with staged: at most what staged ever was */
	unsigned spares;
	struct journal_header durable; /* the header on disk */
	uint64_t head, chain, incarnation;
	uint64_t flush_want, flush_sent; /* newest epoch whose COMMIT is written; being flushed */
	bool flushing;

	/* epochs: not committed (in order of number) and committed but not applied */
	struct replica_epoch *open_first;
	struct replica_epoch *kept; /* of interrupted syncs, in order: replica_kept.c */
	struct replica_epoch *done_first, *done_last;
	struct replica_epoch *applying; /* in the batch that is out */
	bool batch_out, batch_direct;
	bool tail_out; /* a header is on its way to the disk */
	uint64_t seen, received, committed, applied;
	uint64_t commit_allowed; /* manual: the controller's word */
	uint64_t discards, discarded;

	/* the live index: tag = the epoch (pointer), source = number of its change << 20 | offset
	 * in it, or IMAP_ZERO.  Entries of an epoch are gone before it is freed. */
	bool indexed;
	struct imap *index[RECORD_MAX_VOLUMES];

	/* session */
	bool session;
	bool severed;           /* epochs of it were discarded: nothing more of it counts */
	uint64_t session_floor; /* epochs up to it are of former sessions */
	uint64_t rx_seq;
	bool lent;           /* the receiver writes into filling->buf: nothing there may move */
	bool merged_dropped; /* the next DISCARD is for them too */
	bool commit_due, discard_due; /* records to be placed when it has come back */
	uint32_t rx_at, rx_len;       /* in filling->buf: first unparsed byte, end of received */
	size_t rx_need;               /* of the record that begins at rx_at */
	struct record_sum rx_sum;     /* of the same */
	size_t rx_size;               /* of the newest whole one: the next may be as long */
	uint64_t session_changes, session_bytes, acked_changes;
	uint64_t acked_epoch; /* received, as the primary knows */
	uint64_t direct_epoch, sync_done, sync_total;
	bool frozen;           /* between FREEZE and THAW */
	uint64_t freeze;       /* no batch goes beyond it before replica_frozen; 0 = none */
	uint64_t direct_taken; /* changes of it that batches took */
	uint64_t sessions;     /* begun so far */
	bool staging;          /* between SYNC_BEGIN and SYNC_END of a staged one */
	uint64_t staged_epoch; /* its epoch */
	uint64_t sync_changes, sync_bytes;     /* of the session up to SYNC_END */
	bool direct_ended;                     /* SYNC_END came: what follows is for the journal */
	bool direct_final;                     /* the last batch was taken */
	bool direct_touched;                   /* the images hold a part of it */
	bool direct_sealed;                    /* whole: a guest's epoch is, with its SEAL */
	bool direct_held;                      /* a local fill that waits for the commit */
	bool direct_cloned;                    /* what comes is for clones of the images */
	bool direct_broken;                    /* a batch of it failed: nothing of it counts */
	uint64_t closed_changes, closed_bytes; /* of the session, in closed epochs */

	/* memory of a guest (replica_memory.c) */
	struct compress compress;
	uint8_t *scratch;                                  /* RECORD_MAX_PAYLOAD bytes */
	struct replica_memory *memory_first, *memory_last; /* committed, in order, not applied */
	bool memory_out, second_dirty;
	bool second_busy;           /* an epoch has it */
	uint64_t *present, *zeroed; /* bits per page of second */
	uint64_t *deltas;           /* the same: what it holds is the XOR with the image's */
	uint64_t memory_epoch, held;
	bool memory_whole;     /* an epoch of this session has brought all memory */
	uint8_t *blob, *state; /* newest received; of memory_epoch */
	size_t blob_len, blob_cap, state_len;
};

/* replica_chunk.c */
/* A chunk with room for need bytes, header included.  Of a mapped one head is where the log will
 * end, and *ret_skip, if not NULL, is to be placed before it. */
struct replica_chunk *replica_chunk_new(
	struct replica *r, uint64_t head, size_t need, struct replica_chunk **ret_skip);
/* One to be placed as a SKIP at the end of the log. */
struct replica_chunk *replica_chunk_skip(struct replica *r);
void replica_chunk_free(struct replica *r, struct replica_chunk *c); /* NULL is fine */
/* Gives memory back until at most that many unused buffers are left. */
void replica_spare_trim(struct replica *r, unsigned left);
/* Where need bytes go behind head: there, or in the next segment. */
uint64_t replica_place_behind(uint64_t head, uint64_t need);
bool replica_evict(struct replica *r);
int replica_filling_get(struct replica *r);
/* A filling chunk that has nothing whole and is too small for a record of that size is exchanged;
 * 0 or -ENOMEM. */
int replica_filling_fit(struct replica *r, size_t size);
/* What was received is not for the journal: it moves out of the ring.  0 or -ENOMEM. */
int replica_filling_stage(struct replica *r);
/* Puts a header-only record behind the whole records of the filling chunk; 0 or -ENOMEM. */
int replica_insert_record(struct replica *r, const struct record *rec);
/* How far received records may fill it: a COMMIT and a DISCARD record always fit behind. */
static inline uint32_t replica_chunk_room(const struct replica_chunk *c)
{
	return c->size - 2 * RECORD_HEADER_SIZE;
}

/* replica_log.c */
/* Gives it the next place, as a SKIP. */
void replica_log_skip(struct replica *r, struct replica_chunk *skip);
/* Closes the filling chunk: to the journal, or in direct mode to the images. */
int replica_chunk_close(struct replica *r);
void replica_log_kick(struct replica *r);
/* Places what had to wait for the receiver's buffer. */
int replica_settle(struct replica *r);
/* New changes for the journal would take what COMMITs need. */
bool replica_space_low(const struct replica *r);
/* Space can be freed by a header alone: what it held was dropped, not applied. */
bool replica_tail_due(const struct replica *r);
/* Places COMMIT records for sealed epochs that may commit. */
int replica_commit_next(struct replica *r);
void replica_log_trim(struct replica *r);
static inline bool replica_acks_seals(const struct replica *r)
{
	return r->cfg.ack_when_sealed && !r->cfg.manual;
}
/* Received changes are of a full sync in place, not for the journal. */
static inline bool replica_to_images(const struct replica *r)
{
	return r->mode == REPLICA_DIRECT && !r->direct_ended;
}

/* replica_rx.c */
/* What a FREEZE asked for is wanted no more. */
void replica_thaw(struct replica *r);
int replica_take_change(struct replica *r, const struct record *rec, uint32_t at);
int replica_take_seal(struct replica *r, const struct record *rec);

/* replica_index.c */
/* The change just added to e. */
int replica_index_add(struct replica *r, const struct replica_epoch *e);
/* e is in the images, and will be freed. */
void replica_index_applied(struct replica *r, const struct replica_epoch *e);
/* Epochs were dropped. */
int replica_index_rebuild(struct replica *r);
void replica_index_end(struct replica *r);
/* replica_memory.c */
int replica_memory_init(struct replica *r);
void replica_memory_deinit(struct replica *r);
void replica_memory_session(struct replica *r);
/* Whether a PAGES or STATE may come now; NULL = yes. */
const char *replica_memory_check(
	const struct replica *r, const struct record *rec, const uint8_t *payload);
/* Takes a record that was checked.  0, -EPROTO (damaged data), -ENOMEM; nothing counts then. */
int replica_memory_change(struct replica *r, const struct record *rec, const uint8_t *payload);
/* As both, of a CHECK. */
const char *replica_memory_check_digests(const struct replica *r, const struct record *rec);
int replica_memory_digests(struct replica *r, const struct record *rec, const uint8_t *payload);
/* SEAL: the state of the epoch is fixed; with merge the next epoch inherits. */
int replica_memory_seal(struct replica *r, struct replica_epoch *e, bool merge);
bool replica_memory_has_state(const struct replica_epoch *e);
void replica_memory_commit(struct replica *r, struct replica_epoch *e);
void replica_memory_drop(struct replica *r, struct replica_epoch *e);
/* What waits is too much, and will become less without receiving. */
bool replica_memory_full(const struct replica *r);

/* All that came of it. */
static inline uint64_t replica_epoch_changes(const struct replica_epoch *e)
{
	return e->count + e->taken_changes + e->memory_changes;
}
static inline uint64_t replica_epoch_bytes(const struct replica_epoch *e)
{
	return e->bytes + e->taken_bytes + e->memory_bytes;
}

/* replica_kept.c */
/* The session is over: the epoch of its staged sync, and what that has gone on from, is kept. */
void replica_kept_take(struct replica *r);
/* Dropped where it would leave too little room for the next session to receive. */
void replica_kept_fit(struct replica *r);
/* Not in any list. */
void replica_kept_add(struct replica *r, struct replica_epoch *e);
/* The staged sync that begins goes on from it.  0 or -ENOMEM. */
int replica_kept_resume(struct replica *r);
void replica_kept_get(const struct replica *r, uint64_t *ret_bytes, uint64_t *ret_span);

/* replica.c */
/* Later epochs win.  0 or -ENOMEM. */
int replica_map_epochs(const struct replica_epoch *e, unsigned volume, struct imap *m);
struct replica_epoch *replica_epoch_get(struct replica *r, uint64_t number);
int replica_epoch_add(struct replica_epoch *e, const struct replica_change *change);
void replica_epoch_drop(struct replica *r, struct replica_epoch *e);
void replica_epoch_free(struct replica_epoch *e);
void replica_mark_committed(struct replica *r, uint64_t epoch);
/* Frees the chunks of a full sync that nothing needs any more. */
void replica_direct_trim(struct replica *r);

#endif
