/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the applier share: applier.c (its thread, a batch), applier_images.c (a batch's
 * writes), applier_sync.c (batches of a sync that is not staged). */
#ifndef TANDEM_REPLICATOR_APPLIER_INTERNAL_H
#define TANDEM_REPLICATOR_APPLIER_INTERNAL_H

#include "replicator/clones.h"
#include "replicator/receiver_internal.h"

struct applier {
	struct receiver *r;
	struct backing_batch *out[CONF_MAX_DISKS]; /* to the images */
	struct backing_batch **to;                 /* of the batch: out, or the clones' */
	struct clones clones;
	uint8_t *back; /* what was read back from the journal, until the next wait */
	size_t back_used;
	uint64_t synced;       /* clock_ns of the last flush of a sync in place */
	uint64_t synced_bytes; /* since then */
};

/* applier.c: commits stop. */
void applier_fail(struct receiver *r, int err, const char *why);

/* Writes a batch to where a->to leads, and flushes it. 0, or negative errno, with object and action
 * in applier_why. */
int applier_images(struct applier *a, struct replica_batch *b, bool flush);

/* Whether a sync in place is to be made durable as far as it came: what is lost if it is
 * interrupted is then no more than that. */
bool applier_sync_due(struct applier *a, const struct replica_batch *b);
/* (L) The images of this batch are written, and with durable flushed: what an interruption from
 * here on need not bring again. */
void applier_let_go(struct applier *a, const struct replica_batch *b, bool durable);
/* A batch for the clones, made with the first one; with the last one the images become what they
 * are.  1 = carried out; 0 = the sync is given up, that is all; negative: commits have stopped. */
int applier_clones(struct applier *a, struct replica_batch *b);

#endif
