/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Local writers of a node that has a journal: the clients of a secondary with ingest = nbd, and the
 * guest of a promoted node until its journal is drained.  Their changes go to the journal like
 * received ones, and reads go through the replica's live index; so there is one order, that of the
 * journal, and an older change never overwrites a newer one on the images.
 *
 * Functions marked (L) are called with node.lock held. */
#ifndef TANDEM_REPLICATOR_LOCAL_H
#define TANDEM_REPLICATOR_LOCAL_H

#include "replicator/receiver.h"
#include "replicator/volume.h"

enum local_kind {
	LOCAL_NONE,
	LOCAL_INGEST, /* epochs commit on the controller's word; a flush promises nothing */
	LOCAL_DRAIN,  /* epochs commit at each flush and by a timer, until the journal is empty */
};

struct local {
	enum local_kind kind;
	/* LOCAL_INGEST without a committed state: writes go to the images in place until the cut */
	bool fill, filled; /* filled: something was written since the fill began */
	unsigned fill_writes;
	uint64_t damaged; /* a write of this epoch failed: neither it nor a later one may commit */
	bool full;        /* what is not committed fills the journal */
	uint64_t fulls;   /* how often that was so */
	/* LOCAL_DRAIN */
	bool gate;            /* no new changes: the last ones are being drained */
	uint64_t head, tail;  /* log positions at its begin */
	pthread_cond_t room;  /* with node.lock: changes may fit now */
	unsigned users;       /* who uses the receiver without holding node.lock all the time */
	pthread_cond_t nouse; /* users is 0 */
};

/* (L) Begins to take changes; the index is built.  0, -ENOMEM. */
int local_begin(struct receiver *r, enum local_kind kind);
/* (L) NULL: not. */
bool local_is(const struct receiver *r, enum local_kind kind);
/* (L) For status: the state of an ingest without a committed state; NULL: there is one. */
const char *local_filling(const struct receiver *r, const char **ret_reason);
/* (L) Something may have ended the lack of room. */
void local_kick(struct receiver *r);
void local_use(struct receiver *r);
void local_unuse(struct receiver *r);

/* (L) May wait, the lock let go.  cut: 0, -EAGAIN (no room even for the seal), or the replica's
 * error. commit: as replica_commit, or -EILSEQ: a write of that epoch failed. */
int local_cut(struct receiver *r, uint64_t *ret_epoch);
int local_commit(struct receiver *r, uint64_t epoch);
void local_discard(struct receiver *r, uint64_t *ret_epochs, uint64_t *ret_bytes);
/* (L) LOCAL_DRAIN: everything that was written is committed, durably, when it returns 0. */
int local_flush(struct receiver *r);

/* volume_local.c: as in volume.h; -EAGAIN: the node serves in another way now, ask again. */
int volume_local_pread(struct volume *v, void *buf, uint32_t len, uint64_t off);
int volume_local_pwrite(struct volume *v, const void *buf, uint32_t len, uint64_t off);
int volume_local_zero(struct volume *v, uint64_t len, uint64_t off, unsigned flags);
int volume_local_flush(struct volume *v);
int volume_local_extents(
	struct volume *v, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx);

/* drain.c: a promoted node's way to serve straight on the images. Starts and ends the thread; the
 * end makes everything written until then durable in the journal. */
int drain_start(struct node *n, struct error *err);
void drain_stop(struct node *n);
/* What a promoted node left in its journal reaches the images; for a start as the secondary. */
int drain_now(struct node *n, struct error *err);

#endif
