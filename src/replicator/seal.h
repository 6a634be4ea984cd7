/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether a disk is still the one that this node left (docs/identity.md, "A disk that others have
 * changed"): its dirty map says nothing about what others wrote. */
#ifndef TANDEM_REPLICATOR_SEAL_H
#define TANDEM_REPLICATOR_SEAL_H

#include "replicator/node.h"

/* At the start: all disks are looked at.  ERROR_STATE: one was replaced, or written to; the text
 * says what to do. */
int seal_check(struct node *n, struct error *err);
/* Before anything writes to a disk, and after all that may fail: they are in use, durably. */
int seal_open(struct node *n, struct error *err);
/* At the orderly end, when nothing writes to them any more. */
void seal_end(struct node *n);
/* Of a node that does not run: what its disks hold now is what counts; a full sync follows. */
int seal_accept(const struct conf *conf, unsigned index, struct error *err);
/* 1, 0 (there is none, or a damaged one, of which *err says why), or negative. */
int seal_load(
	const struct conf_node *node, unsigned disk, struct seal *ret_seal, struct error *err);
/* STATE_DIR/NAME.seal. */
const char *seal_path(const struct conf_node *node, unsigned disk, char *buf, size_t len);

/* A change of the image at off.  Costs an atomic add and a store. */
static inline void seal_note(struct volume *v, uint64_t off)
{
	unsigned at = atomic_fetch_add_explicit(&v->recent_next, 1, memory_order_relaxed);

	atomic_store_explicit(&v->recent[at % SEAL_RECENT], off, memory_order_relaxed);
}

#endif
