/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the sender share: sender.c (life, changes, questions), sender_link.c (the link
 * thread), sender_hear.c (what it hears), sender_hello.c (how a session begins), sync.c (the sync
 * of a session). */
#ifndef TANDEM_REPLICATOR_SENDER_INTERNAL_H
#define TANDEM_REPLICATOR_SENDER_INTERNAL_H

#include "core/memcheck.h"
#include "replicator/link.h"
#include "replicator/sender.h"
#include "replicator/wake.h"

struct sender {
	struct node *n;
	struct primary core; /* (L) */
	void *ring;
	struct wake wake; /* wakes the link thread */
	pthread_t thread;
	bool started;

	pthread_cond_t room;         /* with node.lock: the queue has room, or the session ended */
	_Atomic unsigned publishing; /* slots between change and publish */
	/* Position in the queue from which a writer wakes the link thread.  Set under the lock
	 * before the link thread waits, so whoever reserves a place afterwards sees it. */
	_Atomic uint64_t wake_at;
	bool stopping;     /* (L) */
	bool disconnected; /* (L) stay away until sender_connect */
	bool commanded;    /* (L) it was a command that ended the session */
	bool retry_now;    /* (L) */
	bool end_session;  /* (L) the session is to be closed */
	bool promoted;     /* (L) the peer said so */
	uint64_t handed; /* (L) clock_ns of our goodbye "handover", 0 = none: nothing follows it */

	uint64_t session;    /* (L) how many there were */
	bool connected, tls; /* (L) */
	char peer[128];      /* (L) */
	uint64_t heard;      /* (L) */

	struct memcheck_result checked; /* (L) the newest answer to digests of a checkpoint */
	uint64_t checks;                /* (L) how many there were */
	char unready[256];              /* (L) why the peer's host could not take the guest; "" */

	/* the link thread's own */
	struct link link;
	struct identity_generation generation; /* that our hello named */
	uint64_t held_span;    /* bytes of the peer's journal that an interrupted sync has, or 0 */
	uint64_t acknowledged; /* newest epoch that a peer of this process has committed */
	char last_error[600];
	bool goodbye_heard; /* in this session */
	uint64_t backoff_ns;

	struct verify *verify; /* (L) the newest one; NULL = none yet */
	struct grow *grow;     /* (L) the same */

	/* sync thread */
	pthread_t sync_thread;
	bool sync_running;                                    /* written by the link thread, (L) */
	bool sync_stop, sync_ended;                           /* (L) */
	int sync_error;                                       /* (L) */
	enum record_sync sync_kind;                           /* (L) of the session */
	uint64_t sync_done, sync_total, sync_sent, sync_rate; /* (L) */
};

#define SENDER_HANDSHAKE (5 * NS_PER_S) /* connect, TLS and each record of the hello */
#define SENDER_HANDED (15 * NS_PER_S)   /* for the answer to a handover */
#define SENDER_BACKOFF_REFUSED (10 * NS_PER_S)
#define SENDER_JOURNAL_ROOM (8ull << 20) /* of the secondary's journal that a sync cannot have */

/* sender_link.c */
/* (L) After a goodbye "handover" whose answer did not come: nobody may write here any more. */
void sender_handed_blindly(struct sender *s);
void sender_wait(struct sender *s, short events, uint64_t ns);
bool sender_told_to_stop(struct sender *s);
int sender_lost(struct sender *s, struct error *err, int r);

/* sender_hear.c */
int sender_goodbye(
	struct sender *s, const struct record *rec, const uint8_t *payload, struct error *err);
/* Takes what has come.  0, or the reason why the session ends. */
int sender_hear(struct sender *s, struct error *err);

/* sender_compare.c: before the sync, asks by digests which of the blocks in that layer differ; the
 * others are wanted no more.  held: from the committed state with what the peer holds over it. */
int sender_compare(struct sender *s, enum dirtymap_layer layer, bool held, struct error *err);

/* sender_hello.c: the next record of the peer, within SENDER_HANDSHAKE. */
int sender_next(
	struct sender *s, struct record *ret_rec, const uint8_t **ret_payload, struct error *err);
/* sender_hello.c: sends ours, waits for theirs, decides, unites the maps; then begins the session.
 * -EAGAIN: a guest's write was faster, and has begun a generation that our hello did not name. */
int sender_hello(struct sender *s, struct hello *ret_peer, struct identity_decision *ret_how,
	struct error *err);
int sender_begin(struct sender *s, const struct hello *peer, const struct identity_decision *how,
	struct error *err);

/* sync.c: begins the sync of the session that has just begun; joins it. */
int sync_start(struct sender *s);
void sync_stop(struct sender *s);
/* In a protected session: what the map wants of a disk from byte from on goes into the stream, as
 * changes of the epochs that are open (grow_primary.c).  *done: (L) counts bytes; *ret_epoch: the
 * newest epoch with one, 0 = there was none.  0, -ECANCELED (the session is over), or an error. */
int sync_new_part(struct sender *s, uint64_t session, struct volume *v, uint64_t from,
	uint64_t *done, uint64_t *ret_epoch);
/* Bytes that the blocks which the dirty map wants will need in a journal, at most; a number above
 * limit stands for "more". */
uint64_t sync_estimate(struct node *n, uint64_t limit);

/* (L) The session is over: what was on its way is to be copied again. */
void sender_session_over(struct sender *s);

void *sender_main(void *arg);

#endif
