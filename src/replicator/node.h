/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One running node of a group: what its threads share, and the lock order.
 *
 * Threads: nbdkit's workers (volume*.c), the sender's link thread and its sync thread (primary),
 * the receiver's link thread and the applier (secondary, and a promoted node until its journal is
 * drained), the drainer (after a promotion), the control thread.
 *
 * Locks, taken in this order:
 *   snapshots.lock  of a volume (snapshot.c)
 *   node.meta_lock  the metadata file; held over its writes, never on a guest's way
 *   node.lock       short: range locks, the primary's or secondary's state machine, the fields
 * marked (L).  Never held over I/O or a wait for the network, nor over a copy of payload, except by
 * local writers (volume_local.c says what that costs).
 */
#ifndef TANDEM_REPLICATOR_NODE_H
#define TANDEM_REPLICATOR_NODE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf/conf.h"
#include "core/hello.h"
#include "core/primary.h"
#include "core/rangelock.h"
#include "core/replica.h"
#include "core/seal.h"
#include "replicator/backing.h"
#include "replicator/barrier.h"
#include "replicator/mapfile.h"
#include "replicator/metafile.h"
#include "replicator/snapshot.h"
#include "replicator/transport.h"
#include "util/error.h"

#define NODE_REASON_SIZE 640 /* holds an error's text with what was tried before it */

enum node_role { NODE_PRIMARY, NODE_SECONDARY };

/* How the exports are served. */
enum node_access {
	NODE_ACCESS_NONE,    /* a secondary: read-only snapshots of the committed state */
	NODE_ACCESS_PRIMARY, /* straight on the images, changes go to the stream */
	NODE_ACCESS_LOCAL,   /* changes go to the node's own journal (local.h) */
};

struct volume {
	struct node *node;
	unsigned index;
	const char *name; /* of the configuration */
	struct backing *backing;
	_Atomic uint64_t size;   /* bytes; grows only, under lock (grow.h) */
	_Atomic uint64_t shown;  /* what new clients see: size, once both nodes hold the new part */
	struct rangelock ranges; /* (L) */
	unsigned changing;       /* (L) changes of clients in flight */
	_Atomic unsigned requests; /* of clients so far, for pace.h */
	struct mapfile map;        /* what may differ from the peer */
	pthread_cond_t granted;    /* with node.lock */
	/* offsets of the newest changes of the image, a ring (seal.h) */
	_Atomic uint64_t recent[SEAL_RECENT];
	_Atomic unsigned recent_next;
	struct snapshots snapshots;
};

struct memory;
struct submitter;
/* What events are made of. */
struct node_counters {
	uint64_t discards, discarded; /* epochs dropped so far; number of the newest of them */
	uint64_t syncs, sync_bytes;   /* full syncs that were committed; bytes of the newest */
	uint64_t fulls;               /* how often uncommitted epochs filled the journal */
};

struct sender;
struct receiver;
struct control;
struct keeper;

struct node {
	const struct conf *conf;
	unsigned self;
	const struct conf_node *own, *peer; /* peer: NULL when the file has one node only */
	struct transport_security *security;

	pthread_mutex_t meta_lock;
	struct metafile meta; /* under meta_lock */

	struct volume volumes[CONF_MAX_DISKS];
	unsigned nvolumes;
	struct dirtymap *maps[CONF_MAX_DISKS]; /* of the volumes */
	struct dirtymap_windows windows;       /* (L) what is on its way to the peer */

	pthread_mutex_t lock;
	pthread_cond_t changed;          /* with lock: state, epochs, room; see node_changed */
	enum node_role role;             /* (L) */
	_Atomic enum node_access access; /* changed under lock */
	struct node_counters counters;   /* (L) */
	bool draining;                   /* (L) promoted, and the journal not drained yet */
	char reason[NODE_REASON_SIZE];   /* (L) why it is in its state, for status */
	bool stopping;                   /* (L) new changes wait */
	bool ended;                      /* (L) and are refused */
	bool handing;           /* (L) switchover.c: new changes wait for what becomes of it */
	bool taking_over;       /* (L) the primary has handed over: control.c promotes */
	bool unwritten, shared; /* (L) as in meta.id: what a first write must look at */
	bool crashed;           /* the last run was a primary's and did not end in order */

	/* A node with a guest (docs/control.md, "VM groups"): fixed at the start. */
	bool guest;
	struct barrier barrier;
	struct memory *memory;       /* (L) of a secondary, and after its promotion; else NULL */
	struct submitter *submitter; /* submit.c */

	struct sender *sender;     /* (L) primary, also after a promotion */
	struct receiver *receiver; /* (L) secondary; NULL again once a promotion has drained */
	pthread_t drainer;
	bool drainer_started;

	/* Clients that write to a secondary (ingest) must not write to what it is promoted to:
	 * their connections are of the era in which they began. */
	_Atomic unsigned era;
	_Atomic unsigned ingest_requests; /* of such clients, under way */
	struct control *control;
	struct keeper *keeper;
};

/* Opens everything and starts the threads; called once, after nbdkit's fork. */
int node_start(const struct conf *conf, unsigned self, enum node_role role, bool guest,
	struct node **ret_node, struct error *err);
/* Orderly end of replication (cut, commit or give up after wait_ms, goodbye); afterwards the node
 * serves nothing more.  Once. */
void node_stop(struct node *n, unsigned wait_ms);
struct node *node_free(struct node *n);

/* Under lock: something that a waiter or `status` can see has changed. */
void node_changed(struct node *n);
/* Under lock. */
void node_set_reason(struct node *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* After node_stop, once no client can see it: changes that wait are refused. */
void node_end(struct node *n);

/* This node's HELLO.  Takes meta_lock. */
void node_hello(struct node *n, enum identity_role role, struct hello *ret_hello);
/* Changes the metadata durably through fn(m, ctx). Takes meta_lock; _locked: it is held. */
int node_meta_update(
	struct node *n, void (*fn)(struct metadata *m, void *ctx), void *ctx, struct error *err);
int node_meta_update_locked(
	struct node *n, void (*fn)(struct metadata *m, void *ctx), void *ctx, struct error *err);

/* --- node_identity.c: what the generations ask of a running node (core/identity.h) --- */

/* May it be started as a primary?  Then it is one, durably. */
int node_become_primary(struct node *n, struct error *err);
/* Before the first change of a generation that is shared or unwritten, without locks: notes it
 * durably.  Negative: the change must not happen. */
int node_note_write(struct node *n);
/* Ingest: before the first write of a fill; before an epoch commits, and (first: its number) when
 * that of the fill does. */
int node_note_fill(struct node *n, struct error *err);
int node_note_ingest(struct node *n, uint64_t first, struct error *err);
int node_fresh_names(
	struct uuid *ret_group, struct uuid *ret_volumes, unsigned n, struct error *err);
/* A session could begin: whether a generation must begin first (identity_reconnect); then it has,
 * and the peer is to be told anew who we are.  1, 0, or negative. */
int node_note_reconnect(struct node *n, const struct identity_decision *how, struct error *err);
/* Orderly end of a primary; the images are flushed. */
void node_note_clean(struct node *n);

/* The peer was promoted by force, to this generation: no request is served any more. */
void node_supersede(struct node *n, uint64_t generation);

/* STATE_DIR/name or RUN_DIR/name in buf. */
const char *node_path(const char *dir, const char *name, char *buf, size_t len);
/* Of a disk's map file. */
const char *node_map_path(const struct conf_node *node, unsigned disk, char *buf, size_t len);

#endif
