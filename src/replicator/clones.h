/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A sync into clones of the images (docs/consistency.md 6): one that does not fit into the journal,
 * on file systems that can clone.
 *
 * The images stay at the last committed state until all of the sync is in the clones.  Then, each
 * step durable before the next: clones with names -> metadata names the epoch (no state can be used
 * from here on) -> each image takes the content of its clone -> journal header -> metadata says
 * consistent -> names gone.  A start in between does all of it again. */
#ifndef TANDEM_REPLICATOR_CLONES_H
#define TANDEM_REPLICATOR_CLONES_H

#include "replicator/node.h"

struct clones {
	uint64_t session; /* of whose sync they are; 0 = there are none */
	struct backing *backing[CONF_MAX_DISKS];
	struct backing_batch *out[CONF_MAX_DISKS];
};

/* Whether every disk can be cloned. */
bool clones_possible(struct node *n);
/* Makes them of the images, which nothing changes meanwhile.  On error there are none. */
int clones_new(struct node *n, uint64_t session, struct clones *c, struct error *err);
/* Of a sync that is over: they are gone if they have no names. */
void clones_free(struct node *n, struct clones *c);
/* They survive this process. */
int clones_keep(struct node *n, struct clones *c, struct error *err);
/* The metadata says so: the images become what the clones are. */
int clones_replace(struct node *n, struct clones *c, struct error *err);
/* Removes the names, of this sync or of one that a former process did not end. */
void clones_forget(struct node *n);

/* For node_meta_update: ctx is the epoch (uint64_t).  The clones hold it, and replace the images;
 * they have. */
void clones_note_whole(struct metadata *m, void *ctx);
void clones_note_done(struct metadata *m, void *ctx);

/* At start, where the metadata names an epoch: clones_replace. *ret_epoch = 0: the clones are not
 * there any more, so the disks hold a part of a sync, and the metadata says so. */
int clones_resume(struct node *n, uint64_t *ret_epoch, struct error *err);

#endif
