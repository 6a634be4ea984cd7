/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Digests of blocks of a disk: the first 128 bits of SHA-256, by GnuTLS. */
#ifndef TANDEM_REPLICATOR_COMPARE_H
#define TANDEM_REPLICATOR_COMPARE_H

#include "core/digest.h"
#include "replicator/node.h"

/* Of the blocks from d->off on that make len bytes at data, into d->sum[first] and up. */
int compare_digest(struct digest *d, unsigned first, const uint8_t *data, uint64_t len);
/* The secondary's side: which of the blocks differ from what read_fn says.  buf: RECORD_MAX_PAYLOAD
 * bytes, which it fills at most at once. */
int compare_image(const struct digest *d,
	int (*read_fn)(void *ctx, uint64_t off, uint32_t len, uint8_t *buf), void *ctx,
	uint8_t *buf, uint64_t *ret_differ);

#endif
