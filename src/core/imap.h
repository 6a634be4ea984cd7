/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Interval map of one volume: which bytes have a newer content than the image, and where it is.
 * Inserting over what is there replaces it (last write wins).  Pure; not thread-safe.
 *
 * Used twice: to coalesce a batch of epochs before it is applied, and as the index through which
 * reads go while the journal holds what the image does not have yet. */
#ifndef TANDEM_CORE_IMAP_H
#define TANDEM_CORE_IMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMAP_ZERO UINT64_MAX /* source of a range that reads as zeroes */

struct imap_range {
	uint64_t start, end; /* bytes, [start, end) */
	uint64_t source;     /* position of the first byte's content, or IMAP_ZERO */
	uint64_t tag;        /* the caller's (epoch, flags) */
};

struct imap;

struct imap *imap_new(void); /* NULL = out of memory */
struct imap *imap_free(struct imap *m);
void imap_clear(struct imap *m);
size_t imap_count(const struct imap *m);

/* 0 or -ENOMEM (nothing changed then).  O(log n) plus what it replaces. */
int imap_insert(struct imap *m, uint64_t off, uint64_t len, uint64_t source, uint64_t tag);
/* The first range that ends after off; its start may lie before off.  false = none. */
bool imap_find(const struct imap *m, uint64_t off, struct imap_range *ret_range);
/* Drops the range that imap_find returned, if it is still there as it was.  O(log n). */
void imap_remove(struct imap *m, const struct imap_range *range);
/* Drops every range whose tag is at most max_tag. */
void imap_drop_until(struct imap *m, uint64_t max_tag);

#endif
