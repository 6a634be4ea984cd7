/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The primary's end of the link: takes changes from the writers, sends them, cuts epochs, hears
 * acknowledgements; connects again after a loss.  One link thread; a sync thread per session.
 *
 * Functions marked (L) are called with node.lock held. */
#ifndef TANDEM_REPLICATOR_SENDER_H
#define TANDEM_REPLICATOR_SENDER_H

#include "core/primary.h"
#include "replicator/node.h"

struct sender_status {
	enum primary_state state;
	bool connected, tls, disconnected; /* disconnected: by command */
	char peer[128];
	uint64_t heard_ns; /* clock_ns of the last word, 0 = never */
	uint64_t open, received, committed;
	struct primary_pending pending;
	bool syncing;
	enum record_sync sync_kind;
	uint64_t sync_done, sync_total, sync_sent, sync_rate; /* bytes, bytes per second */
	/* with a guest */
	uint64_t session;               /* number of the newest one, 0 = none yet */
	bool disks_copied;              /* the first checkpoint may be cut */
	unsigned unsealed;              /* epochs that are cut and not sealed */
	char unready[256];              /* why the secondary's host could not take the guest; "" */
	uint64_t open_bytes, max_bytes; /* of the open epoch; when it is due; 0 = never */
};

int sender_new(struct node *n, struct sender **ret_sender, struct error *err);
/* (L) Before it starts: the newest epoch of the data, for who asks before there is a session. */
void sender_set_base(struct sender *s, uint64_t committed);
/* Starts connecting. */
int sender_start(struct sender *s, struct error *err);
/* Ends replication: with wait_ms > 0 an orderly end (cut, wait for the commit that long, goodbye).
 */
void sender_stop(struct sender *s, unsigned wait_ms);
struct sender *sender_free(struct sender *s);

/* (L) A place in the stream for a change, or NULL: not replicated.  Waits, without the lock, where
 * the queue is full and on-congestion = block. A slot must be given to sender_publish. */
uint8_t *sender_change(struct sender *s, struct record *rec);
/* Copies the payload (NULL = none) and publishes; not under the lock. */
void sender_publish(struct sender *s, uint8_t *slot, struct record *rec, const void *payload);

/* (L) Whether changes go to the secondary now. */
bool sender_replicating(const struct sender *s);
/* (L) The sync that runs will copy all of this range later: the change need not be sent. */
bool sender_copies_later(const struct sender *s, unsigned volume, uint64_t off, uint64_t len);

/* (L) Ends the open epoch; 0, -ENOTCONN (not replicating), -EBUSY (syncing), -EAGAIN. */
int sender_cut(struct sender *s, uint64_t *ret_epoch);
/* (L) All is committed and no change may come: says goodbye "handover" at this epoch.  0, -EAGAIN,
 * or -ENOTCONN. From here on this node may write no more: it is superseded, or its sender failed.
 */
int sender_hand_over(struct sender *s, uint64_t epoch);
/* (L) With a guest: it is about to be stopped. */
void sender_checkpoint_begin(struct sender *s);
/* (L) With a guest: the checkpoint that is being made has failed. */
void sender_checkpoint_failed(struct sender *s);
/* (L) With a guest: ends the disks' part of the open epoch; also -EMFILE (too many are not sealed).
 */
int sender_checkpoint_cut(struct sender *s, uint64_t *ret_epoch);
/* (L) Number of the session that runs; 0 = not replicating. */
uint64_t sender_session_id(const struct sender *s);
/* (L) A place for one PAGES or STATE of this session's lowest epoch that is not sealed, or NULL:
 * the session is over.  Waits for room, without the lock.  Then sender_publish. */
uint8_t *sender_memory(struct sender *s, struct record *rec, uint64_t session);
/* (L) As primary_checkpoint_seal; waits for room. */
int sender_checkpoint_seal(struct sender *s, uint64_t session, uint64_t epoch, bool merge);
/* (L) With a guest: how many checkpoints have been compared so far, and what the newest said. */
uint64_t sender_checked(const struct sender *s, const struct memcheck_result **ret_result);
/* (L) To look at. */
const struct primary *sender_core(const struct sender *s);
/* (L) Ends this session, if it still runs, and begins another at once; why: the reason in status.
 */
void sender_restart(struct sender *s, uint64_t session, const char *why);

/* (L) */
void sender_connect(struct sender *s);
void sender_disconnect(struct sender *s, const char *why);
/* Superseded: no more replication, nor connections. */
void sender_fail(struct sender *s);
void sender_get_status(struct sender *s, struct sender_status *ret_status);

#endif
