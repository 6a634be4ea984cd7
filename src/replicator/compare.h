/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Digests of blocks of a disk: the first 128 bits of SHA-256, by GnuTLS. */
#ifndef TANDEM_REPLICATOR_COMPARE_H
#define TANDEM_REPLICATOR_COMPARE_H

#include "core/digest.h"
#include "replicator/node.h"

/* Of the blocks from d->off on that make len bytes at data, into d->sum[first] and up. */
int compare_digest(struct digest *d, unsigned first, const uint8_t *data, uint64_t len);
/* The secondary's side: which of the blocks differ from the image, or from a snapshot of it.  buf:
 * RECORD_MAX_PAYLOAD. */
int compare_image(struct volume *v, struct snapshot *frozen, const struct digest *d, uint8_t *buf,
	uint64_t *ret_differ);

#endif
