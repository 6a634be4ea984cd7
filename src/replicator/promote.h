/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A secondary becomes the primary. */
#ifndef TANDEM_REPLICATOR_PROMOTE_H
#define TANDEM_REPLICATOR_PROMOTE_H

#include "replicator/node.h"

struct promotion {
	uint64_t epoch, generation;
	uint64_t discarded_epochs, discarded_bytes;
	bool memory; /* of a guest, at that epoch, with a state of so many bytes */
	uint64_t state_bytes;
};

/* Drops what is not committed, mints a generation, serves the exports at once: what the journal
 * holds reaches the images afterwards (drain.c).  Refused (ERROR_STATE) without a committed state,
 * and while the primary is heard unless force; with a guest also without its memory, unless
 * disks_only.  Called by the control thread, without locks. */
int promote(struct node *n, bool force, bool disks_only, struct promotion *ret_promotion,
	struct error *err);

#endif
