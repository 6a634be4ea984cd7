/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One client connection to an NBD server, served by a thread of its own, with any number of
 * requests of any threads in flight.
 *
 * Ownership: the libnbd handle belongs to the connection's thread alone.  A request belongs to its
 * submitter again once its `done` is set; until then it, its buffer and its waiter must stay.
 * Locks: nbdconn's lock is taken last and held for a few instructions; no callback runs under it.
 *
 * A connection that was lost fails all that was in flight with -EIO and is made again when the next
 * request comes, at most once in NBDCONN_RETRY_NS. */
#ifndef TANDEM_REPLICATOR_NBDCONN_H
#define TANDEM_REPLICATOR_NBDCONN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "replicator/nbdwait.h"
#include "util/error.h"

#define NBDCONN_EXTENTS 128 /* taken of one answer; the rest is asked for again */

enum nbdconn_op {
	NBDCONN_READ,
	NBDCONN_WRITE,
	NBDCONN_ZERO,
	NBDCONN_FLUSH,
	NBDCONN_STATUS,
	NBDCONN_RENEW, /* finish all, flush, and connect anew: the way to learn a new size */
};

struct nbdconn_request {
	enum nbdconn_op op;
	unsigned flags; /* LIBNBD_CMD_FLAG_* */
	void *buf;
	uint64_t len, off;
	struct nbdwait *wait;

	/* Set by the connection. */
	struct nbdconn *conn;
	struct nbdconn_request *next, *prev;
	int result; /* 0 or negative errno */
	atomic_bool done;

	/* NBDCONN_STATUS: pairs of length and flags of base:allocation, from off on. */
	uint32_t *extents;
	uint32_t nextents;
};

/* What the server offers for the export. */
struct nbdconn_caps {
	uint64_t size;
	uint32_t block_min, block_preferred, block_max;
	bool read_only, rotational, multi_conn;
	bool can_zero, can_flush, can_extents;
};

/* What the connections of one backing have in common; owned by the backing, outlives them. */
struct nbdconn_shared {
	const char *uri;
	bool writable;
	/* Of the first connection; all later ones must offer as much.  Fixed after the open. */
	struct nbdconn_caps caps;
	_Atomic uint64_t size; /* the same for the size, which may grow */

	/* A server that went away may have taken with it what it had acknowledged and not flushed.
	 * writes counts acknowledged ones, flushed is what writes was when the last successful
	 * flush began, losses counts the times when a connection was lost while they differed. */
	_Atomic uint64_t writes, flushed, losses;
};

void nbdconn_note_flushed(struct nbdconn_shared *shared, uint64_t writes);
/* Whether writes were acknowledged on this connection since the last set_flushed. */
bool nbdconn_get_unflushed(const struct nbdconn *c, uint64_t *ret_writes);
/* The first writes of them are flushed. */
void nbdconn_set_flushed(struct nbdconn *c, uint64_t writes);

/* index 0 is the connection that must be there: its first connect is waited for, its caps become
 * the shared ones.  The others connect in the background and may fail to. */
int nbdconn_new(struct nbdconn_shared *shared, unsigned index, struct nbdconn **ret_conn,
	struct error *err);
struct nbdconn *nbdconn_free(struct nbdconn *c); /* no request is in flight; at most a second */

/* Takes the request; its end is told through r->wait, also when there is no connection. */
void nbdconn_submit(struct nbdconn *c, struct nbdconn_request *r);
/* Whether a request for bytes below end can go there at once. */
bool nbdconn_is_ready(const struct nbdconn *c, uint64_t end);
uint64_t nbdconn_size(const struct nbdconn *c);
unsigned nbdconn_in_flight(const struct nbdconn *c);
/* Has the connection made again in the background, if it is time for that. */
void nbdconn_revive(struct nbdconn *c);

#endif
