/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pages of a guest's memory as they were sent last (delta-cache in [guest]): what is sent next
 * of one of them can be the difference, which compresses to a fraction, or nothing.
 *
 * A cache in sets of SENT_PAGES_WAYS pages; in a full set the page that was sent longest ago gives
 * way.  As large as the memory, it holds all of it.  One thread's own.  Cost: a copy and an XOR of
 * each page that is sent, by the submitter. */
#ifndef TANDEM_REPLICATOR_SENT_PAGES_H
#define TANDEM_REPLICATOR_SENT_PAGES_H

#include <stdint.h>

#define SENT_PAGES_WAYS 8u

struct sent_pages;

enum sent_pages_result {
	SENT_PAGES_NEW,   /* it was not there */
	SENT_PAGES_EQUAL, /* it was, with this content */
	SENT_PAGES_DELTA, /* it was: delta is the XOR of both contents */
};

/* bytes: of pages kept, 1M and more; memory: bytes of the guest's. NULL = out of memory; what is
 * not used takes none. */
struct sent_pages *sent_pages_new(uint64_t bytes, uint64_t memory);
struct sent_pages *sent_pages_free(struct sent_pages *p);
/* The page (its number; PAGES_PAGE bytes of content) is sent now. */
enum sent_pages_result sent_pages_swap(
	struct sent_pages *p, uint64_t page, const uint8_t *content, uint8_t *ret_delta);
void sent_pages_forget(struct sent_pages *p, uint64_t page, uint64_t count);
void sent_pages_clear(struct sent_pages *p);

#endif
