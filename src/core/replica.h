/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The secondary's state machine: bytes of the stream in, journal writes, flushes, acknowledgements
 * and batches for the images out.  Pure: no system call, no clock, no thread; the caller serialises
 * all calls (one short lock in production, one event loop in the simulator) and carries out the
 * actions of struct replica_ops later, outside the lock.
 *
 *   link bytes -> chunk buffer (received in place) -> journal (the same buffer) -> COMMIT, flush
 *              -> acknowledged -> batch of epochs (imap: newest wins) -> images -> flush -> tail
 *
 * Invariants kept here: an epoch commits only when sealed, whole (counts compared) and in order
 * (I1, I2); it is acknowledged only after the flush that followed its COMMIT record (I7); journal
 * space is used again only after the new tail is durable; records keep their order of arrival (I6).
 *
 * Memory: chunk buffers up to staging_limit plus one chunk per state; 40 bytes per change not
 * applied. */
#ifndef TANDEM_CORE_REPLICA_H
#define TANDEM_CORE_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/imap.h"
#include "core/journal.h"
#include "core/memcheck.h"
#include "core/record.h"

enum replica_mode {
	REPLICA_EMPTY,  /* no committed state; nothing can be promoted */
	REPLICA_DIRECT, /* sync in place: records go straight to the images; or to clones of them */
	REPLICA_READY,  /* holds a committed state; epochs go through the journal */
	REPLICA_FAILED, /* commits have stopped; the last committed state is kept */
};

enum replica_chunk_state {
	REPLICA_CHUNK_FILLING,
	REPLICA_CHUNK_WAITING, /* for journal space */
	REPLICA_CHUNK_WRITING,
	REPLICA_CHUNK_WRITTEN,
};

struct replica_chunk {
	struct replica_chunk *next; /* in log order */
	uint8_t *buf;               /* size bytes, or NULL: only in the journal */
	uint32_t size;
	bool mapped; /* buf is its place in the ring: never written, never evicted */
	struct journal_chunk head;
	enum replica_chunk_state state;
	unsigned pins;    /* batches and readers that need buf */
	uint64_t commit;  /* newest epoch that has its COMMIT here, 0 = none */
	uint32_t changes; /* not applied yet; 0 = the journal may forget the chunk */
};

/* Where content is: a pointer into a pinned chunk, or (bit 63) a log position, or IMAP_ZERO. */
#define REPLICA_SOURCE_JOURNAL (1ull << 63)

struct replica_change {
	uint64_t off, len;
	struct replica_chunk *chunk;
	uint32_t at; /* of the payload in the chunk */
	uint16_t volume;
	uint16_t type_flags; /* bit 0: ZERO, bit 1: UNMAP */
};

/* Memory and device state of one epoch of a guest, beside the images until it commits
 * (replica_memory.c). */
struct replica_memory;

struct replica_epoch {
	struct replica_epoch *next;
	struct replica_memory *memory;         /* NULL = none */
	uint64_t memory_changes, memory_bytes; /* PAGES and STATE; the fields below are of disks */
	uint64_t taken_changes, taken_bytes;   /* of a full sync: in the images already */
	bool merged;                           /* sealed with MERGE: part of the next one */
	bool synced;                           /* recovery: it has data of a sync */
	uint64_t number;
	struct replica_change *changes;
	size_t count, capacity;
	uint64_t bytes;
	bool sealed;
	bool commit_placed;                  /* its COMMIT stands in a chunk */
	uint64_t total_changes, total_bytes; /* of the session up to its seal */
};

/* Actions; called with the caller's serialisation held, so they must only start things. */
struct replica_ops {
	/* Write c->head.len bytes of c->buf at c->head.pos; then replica_chunk_written. */
	void (*chunk_write)(void *ctx, struct replica_chunk *c);
	/* Make every completed chunk write durable; then replica_flushed. */
	void (*journal_flush)(void *ctx);
	/* Send to the primary (header only; the sender sets seq). Lost when there is no link. */
	void (*send)(void *ctx, const struct record *rec);
	/* Something for replica_batch_take. */
	void (*apply_ready)(void *ctx);
	/* Something for replica_memory_take. */
	void (*memory_ready)(void *ctx);
	/* A part of the memory image becomes zero (its space is free), at once. */
	void (*memory_zero)(void *ctx, uint64_t off, uint64_t len);
	/* A DIGEST, valid; NULL = not taken.  Its epoch: 0 = before a sync; else the one that must
	 * be applied before the images are compared.  false = too many at once. */
	bool (*digest)(void *ctx, const struct record *rec, const uint8_t *payload);
	/* The primary's disk is to have so many bytes: replica_grow when ours has, and an answer in
	 * any case.  false = one is unanswered; NULL = not taken. */
	bool (*grow)(void *ctx, unsigned volume, uint64_t size);
	/* The images are to be kept as of this epoch: see replica_freeze; 0: no longer.  NULL =
	 * cannot be asked for. */
	void (*freeze)(void *ctx, uint64_t epoch);
	/* Committed, or discarded, state or mode changed: look at the fields. */
	void (*changed)(void *ctx);
};

struct replica_config {
	unsigned volumes;
	uint64_t sizes[RECORD_MAX_VOLUMES]; /* bytes */
	uint64_t staging_limit;
	/* The ring of the journal, mapped and shared with the file (a journal in memory), else
	 * NULL: what is received then stands in its place at once. */
	uint8_t *ring;
	bool manual;          /* commit-policy = manual: wait for replica_commit */
	bool ack_when_sealed; /* [unsafe] commit = received */
	bool keep;            /* what an interrupted staged sync has brought (replica_kept_map) */
	/* A group with a guest: volume numbers of its memory and state; the image is sizes[memory]
	 * bytes, all zero in the beginning, and second is as large. NULL = no guest. */
	uint8_t *image, *second;
	unsigned memory, state;
};

/* One batch for the images: whole epochs (or a piece of a full sync), overlaps resolved. */
struct replica_batch {
	struct imap *maps[RECORD_MAX_VOLUMES]; /* tag: 1 = may unmap */
	uint64_t epoch;                        /* images hold it when the batch is applied */
	uint64_t bytes;
	bool direct;      /* full sync in place */
	bool final;       /* ... and the last batch of it: epoch commits by the caller's metadata */
	bool cloned;      /* a full sync, but for clones of the images: replica_clone_failed */
	uint64_t changes; /* of a full sync: how many of the session's the images hold then */
	uint64_t session; /* of a full sync: batches of one session are for the same clones */
	/* private */
	struct replica_epoch *epochs;
	struct replica_chunk **pinned;
	size_t npinned;
};

struct replica;

/* NULL = out of memory.  h: the journal as recovered or created; mode starts as READY when
 * committed > 0 else EMPTY. */
struct replica *replica_new(const struct replica_config *cfg, const struct journal_header *h,
	uint64_t committed, const struct replica_ops *ops, void *ctx);
struct replica *replica_free(struct replica *r);

/* At start, before anything else: reads the journal.  The epochs that are committed and not applied
 * are there afterwards.  incarnation: random.  -EBADMSG: it ends below the committed epoch that the
 * metadata names (a disk lied); *ret_why says so. */
int replica_recover(struct replica *r, uint64_t incarnation, journal_read_fn read_fn, void *ctx,
	const char **ret_why);

/* --- the link --- */
/* A primary was accepted: what is not committed is dropped; seq of its next record is 1. */
void replica_session_begin(struct replica *r);
/* The link is gone: unsealed epochs are dropped, but for that of a staged sync, which is kept;
 * sealed ones still commit. */
void replica_session_end(struct replica *r);
/* Where to receive to.  false = back-pressure: call again after a completion. */
bool replica_rx_buffer(struct replica *r, uint8_t **ret_buf, size_t *ret_len);
/* n bytes were received there.  0, or -EPROTO with *ret_why (close the link; nothing of the bad
 * record was acted on), -ENOMEM.  *ret_goodbye is set when the primary said goodbye: its reason,
 * else 0. */
int replica_rx_done(struct replica *r, size_t n, unsigned *ret_goodbye, const char **ret_why);
/* Back-pressure that nothing can end: the open epoch alone fills the journal. */
bool replica_rx_stuck(const struct replica *r);
/* Nothing more to receive just now: acknowledges what was received. */
void replica_rx_idle(struct replica *r);
/* Whether replica_rx_idle would have something to say. */
bool replica_unacknowledged(const struct replica *r);

/* --- a local writer (ingest = nbd; a promoted node whose journal is not drained) --- */
/* One change of the open epoch; payload NULL = ZERO.  len at most RECORD_MAX_PAYLOAD with payload.
 * -EAGAIN = back-pressure.  Visible to replica_read_map at once. */
int replica_local_change(struct replica *r, unsigned volume, uint64_t off, uint64_t len,
	const uint8_t *payload, bool unmap);
/* Seals the open epoch, *ret_epoch is its number; -EAGAIN = back-pressure, of an empty one only. */
int replica_local_cut(struct replica *r, uint64_t *ret_epoch);
/* Whether the open epoch has changes. */
bool replica_local_open(const struct replica *r);
/* Back-pressure that only a commit or discard ends: what is not committed fills the journal. */
bool replica_local_stuck(const struct replica *r);
/* Mode EMPTY: the images were filled in place, and no write to them is under way; what they hold is
 * epoch *ret_epoch, sealed.  Changes from now on go to the journal.  replica_commit of it (or of a
 * later epoch) makes a final direct batch of it; replica_discard: the mode is EMPTY again. */
int replica_local_fill_end(struct replica *r, uint64_t *ret_epoch);

/* --- completions --- */
void replica_chunk_written(struct replica *r, struct replica_chunk *c, int err);
void replica_flushed(struct replica *r, int err);

/* --- control --- */
/* 0, -ENOENT (not sealed), or -EALREADY. Durable when committed >= epoch. */
int replica_commit(struct replica *r, uint64_t epoch);
/* Drops all that is not committed (nor has its COMMIT on the way). */
void replica_discard(struct replica *r, uint64_t *ret_epochs, uint64_t *ret_bytes);
/* An image failed, or metadata: commits stop.  why must be static. */
void replica_fail(struct replica *r, int err, const char *why);

/* A disk has become larger: changes may reach so far from now on. */
void replica_grow(struct replica *r, unsigned volume, uint64_t size);

/* --- the images --- */
/* After ops->freeze(epoch) no batch goes beyond that epoch until this is called: the images, once
 * they hold it, are exactly it. */
void replica_frozen(struct replica *r);
/* false = nothing to do.  At most about max_bytes, but always whole epochs. */
bool replica_batch_take(struct replica *r, uint64_t max_bytes, struct replica_batch *ret_batch);
/* The images hold the batch durably (of a full sync only the final one must be durable).
 * *ret_header is the journal header to make durable next (if the function returns true), after
 * which replica_tail_durable frees the space. */
bool replica_batch_done(
	struct replica *r, struct replica_batch *batch, struct journal_header *ret_header);
void replica_tail_durable(struct replica *r, const struct journal_header *h);
/* In a sync in place, after replica_batch_done: the images were flushed since. The primary is told
 * how much need not come again if the sync is interrupted. */
void replica_direct_durable(struct replica *r, const struct replica_batch *batch);
/* Whether this piece of a sync in place belongs to the session that runs. */
bool replica_direct_current(const struct replica *r, const struct replica_batch *batch);
/* The full sync is committed: the metadata that says so is durable. */
void replica_direct_committed(struct replica *r, uint64_t epoch);
/* In place of replica_batch_done: a batch for the clones could not be carried out, and the images
 * are what they were. The sync is over when the session ends, which the caller sees to; nothing
 * more of the session counts. */
void replica_clone_failed(struct replica *r, struct replica_batch *batch);
/* A sync into clones is under way: what was written to them may be needed yet. */
bool replica_cloning(const struct replica *r);

/* --- memory of a guest; the images' counterpart for RAM and device state --- */
/* What the caller carries out, outside its lock, in the order taken, one at a time. */
struct replica_memory_job {
	struct replica_memory *m; /* NULL: only the second image is to be freed */
	uint64_t epoch;
	bool release; /* the second image is to be freed (hole punched) when it is done */
	/* Digests that the primary sent of this epoch, to be compared once it is applied; and the
	 * state that it has.  Valid until replica_memory_done. */
	const struct memcheck *checks;
	const uint8_t *state;
	size_t state_len;
};
bool replica_memory_take(struct replica *r, struct replica_memory_job *ret_job);
/* Brings the image to the job's epoch: a copy in memory.  zero_fn: as replica_ops.memory_zero.  Not
 * under the caller's lock. */
void replica_memory_apply(struct replica *r, const struct replica_memory_job *job,
	void (*zero_fn)(void *ctx, uint64_t off, uint64_t len), void *ctx);
/* It is done: memory and state are of that epoch.  May end back-pressure. */
void replica_memory_done(struct replica *r, struct replica_memory_job *job);
/* Nothing is waiting to be applied or about to commit: a session may begin. */
bool replica_memory_idle(const struct replica *r);
/* State of the epoch that the memory image holds; NULL = there is none.  The bytes stay valid until
 * the next replica_memory_done. */
const uint8_t *replica_state(const struct replica *r, size_t *ret_len);

/* --- questions --- */
struct replica_status {
	enum replica_mode mode;
	uint64_t open, received, committed, applied; /* epochs */
	uint64_t staged;                             /* bytes of chunk buffers */
	uint64_t journal_size, journal_used;
	uint64_t pending_changes, pending_bytes, pending_epochs; /* not committed */
	uint64_t unapplied;                                      /* epochs committed, not applied */
	uint64_t unapplied_bytes;                                /* of their changes */
	uint64_t log_head, log_tail;                             /* positions in the journal */
	uint64_t sync_done, sync_total;
	bool staging; /* a staged sync runs: the committed state stays until its epoch commits */
	/* A sync into clones runs, or a batch of one is out: mode is DIRECT, and the committed
	 * state stays. */
	bool cloned;
	uint64_t memory_epoch; /* that image and state hold; 0 = none */
	uint64_t held;         /* bytes of memory and state beside the image */
	uint64_t kept;         /* bytes of the changes of interrupted syncs */
	uint64_t kept_span;    /* of the journal, from the first of them on */
	int error;
	const char *why;
};
void replica_get_status(const struct replica *r, struct replica_status *ret_status);
/* Why commits have stopped (*ret_err: negative errno), NULL while they have not.  Costs nothing. */
const char *replica_failure(const struct replica *r, int *ret_err);
/* How many epochs were dropped so far, and the number of the newest of them.  O(1). */
uint64_t replica_discards(const struct replica *r, uint64_t *ret_newest);
/* Builds the read index of one volume: what is committed (with open: also what is not) and not in
 * the image.  Sources are log positions (REPLICA_SOURCE_JOURNAL) or IMAP_ZERO. */
int replica_read_map(struct replica *r, unsigned volume, bool open, struct imap *m);

/* What interrupted staged syncs have left of one volume, over the committed state; as
 * replica_read_map.  It changes only when a session ends or goes on with it, and by a discard. */
int replica_kept_map(struct replica *r, unsigned volume, struct imap *m);
/* It is of no use to this session, of which nothing came yet.  How many epochs were dropped. */
unsigned replica_kept_drop(struct replica *r);

/* The live index: for the life of the replica every change that is not in the image yet, open or
 * committed, kept up with each change, commit, discard and batch.  Only with local writers: not
 * beside a session.  Builds it: O(changes that are not applied).  0 or -ENOMEM. */
int replica_index_begin(struct replica *r);

/* Where a part of a volume's newest content is. */
enum replica_where { REPLICA_IN_IMAGE, REPLICA_IN_ZERO, REPLICA_IN_MEMORY, REPLICA_IN_JOURNAL };
struct replica_piece {
	uint64_t off, len;
	enum replica_where where;
	const uint8_t *data;         /* REPLICA_IN_MEMORY */
	uint64_t pos;                /* REPLICA_IN_JOURNAL: log position */
	struct replica_chunk *chunk; /* pinned by it, or NULL */
};
/* The pieces of [off, off+len), in order, without gaps, at most max of them (then they end early);
 * their content stays where it is until replica_index_put.  O(pieces x log n). */
unsigned replica_index_get(struct replica *r, unsigned volume, uint64_t off, uint64_t len,
	struct replica_piece *ret_pieces, unsigned max);
void replica_index_put(struct replica *r, const struct replica_piece *pieces, unsigned n);

/* The chunk that holds a log position, pinned, if its bytes are in memory, else NULL. */
struct replica_chunk *replica_chunk_pin(struct replica *r, uint64_t pos);
void replica_chunk_unpin(struct replica *r, struct replica_chunk *c);
/* Whether the chunk of a log position, and all before it, are in the file. */
bool replica_written(const struct replica *r, uint64_t pos);

#endif
