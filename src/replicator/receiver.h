/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The secondary's end of the link: listens, receives into the journal, commits, acknowledges; and
 * the applier that brings the images up to date.  A link thread and an applier thread.
 *
 * Functions marked (L) are called with node.lock held. */
#ifndef TANDEM_REPLICATOR_RECEIVER_H
#define TANDEM_REPLICATOR_RECEIVER_H

#include "core/replica.h"
#include "replicator/node.h"

struct receiver_status {
	struct replica_status core;
	bool connected, tls, disconnected;
	char peer[128];
	uint64_t heard_ns; /* 0 = never */
};

/* Opens and replays the journal; the images may still lack what it holds. */
int receiver_new(struct node *n, struct receiver **ret_receiver, struct error *err);
int receiver_start(struct receiver *r, bool listen, struct error *err);
/* Ends the session and the threads.  Committed epochs that are not applied stay in the journal. */
void receiver_stop(struct receiver *r);
struct receiver *receiver_free(struct receiver *r);

/* (L) Waits (the lock is let go) until everything committed by now is in the images, durably. 0, or
 * the error that stopped it. */
int receiver_drain(struct receiver *r);
/* (L) The same, and the applier rests until receiver_resume: the images stand at a committed epoch.
 * Waits for what is committed now, not for what is committed meanwhile. */
int receiver_drain_and_hold(struct receiver *r);
void receiver_resume(struct receiver *r);

/* (L) With a guest: the RAM image and the state of the newest committed epoch are the node's memory
 * (node.h).  0, -ENODATA (there is none of that epoch), -ENOMEM. */
int receiver_memory_adopt(struct receiver *r);
/* (L) Waits until the image holds the newest committed epoch: 0, -ENODATA, -ESHUTDOWN. */
int receiver_memory_drain(struct receiver *r);
/* (L) A new memfd with the state of the epoch in the image, or -ENODATA. */
int receiver_state_fd(struct receiver *r, uint64_t *ret_epoch, size_t *ret_len);

/* (L) Carried out by the link thread; they wait for it.  As replica_commit, replica_discard.
 * discard also closes the link, and keeps it closed if keep_closed. */
int receiver_commit(struct receiver *r, uint64_t epoch);
void receiver_discard(struct receiver *r, bool promoted, uint64_t generation, uint64_t *ret_epochs,
	uint64_t *ret_bytes);

/* (L) */
void receiver_connect(struct receiver *r);
void receiver_disconnect(struct receiver *r);
/* (L) Why this node could not take the guest; "" = it could. The primary is told. */
void receiver_unready(struct receiver *r, const char *why);
void receiver_count(const struct receiver *r, uint64_t *ret_discards, uint64_t *ret_discarded,
	uint64_t *ret_fulls);
void receiver_get_status(struct receiver *r, struct receiver_status *ret_status);

#endif
