/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages sent last; see sent_pages.h. */
#include "replicator/sent_pages.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/pages.h"
#include "util/bytes.h"

#define SENT_PAGES_NONE UINT64_MAX

struct sent_slot {
	uint64_t page, used; /* SENT_PAGES_NONE: it is free; count of swaps at its last one */
};

struct sent_pages {
	uint64_t sets, swaps;
	struct sent_slot *slots; /* SENT_PAGES_WAYS of a set in a row */
	uint8_t *content;        /* of the slot with the same number */
};

static size_t sent_pages_slots(const struct sent_pages *p)
{
	return p->sets * SENT_PAGES_WAYS;
}

struct sent_pages *sent_pages_new(uint64_t bytes, uint64_t memory)
{
	struct sent_pages *p = calloc(1, sizeof(*p));
	uint64_t pages = round_up(min_u64(bytes, memory), PAGES_PAGE) / PAGES_PAGE;
	void *m;

	if (!p)
		return NULL;
	p->sets = (pages + SENT_PAGES_WAYS - 1) / SENT_PAGES_WAYS;
	m = mmap(NULL, sent_pages_slots(p) * PAGES_PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	p->content = m == MAP_FAILED ? NULL : m;
	p->slots = malloc(sent_pages_slots(p) * sizeof(*p->slots));
	if (!p->content || !p->slots)
		return sent_pages_free(p);
	sent_pages_clear(p);
	return p;
}

struct sent_pages *sent_pages_free(struct sent_pages *p)
{
	if (!p)
		return NULL;
	if (p->content)
		munmap(p->content, sent_pages_slots(p) * PAGES_PAGE);
	free(p->slots);
	free(p);
	return NULL;
}

void sent_pages_clear(struct sent_pages *p)
{
	for (size_t i = 0; i < sent_pages_slots(p); i++)
		p->slots[i].page = SENT_PAGES_NONE;
}

/* The page's own slot; else a free one, or the oldest of its set. */
static struct sent_slot *sent_pages_slot(struct sent_pages *p, uint64_t page)
{
	struct sent_slot *set = &p->slots[page % p->sets * SENT_PAGES_WAYS], *best = set;

	for (unsigned i = 0; i < SENT_PAGES_WAYS; i++) {
		if (set[i].page == page)
			return &set[i];
		if (best->page != SENT_PAGES_NONE &&
			(set[i].page == SENT_PAGES_NONE || set[i].used < best->used))
			best = &set[i];
	}
	return best;
}

enum sent_pages_result sent_pages_swap(
	struct sent_pages *p, uint64_t page, const uint8_t *content, uint8_t *ret_delta)
{
	struct sent_slot *slot = sent_pages_slot(p, page);
	uint8_t *last = p->content + (size_t)(slot - p->slots) * PAGES_PAGE;
	bool known = slot->page == page;

	slot->page = page;
	slot->used = ++p->swaps;
	if (known && !memcmp(last, content, PAGES_PAGE))
		return SENT_PAGES_EQUAL;
	if (known) {
		memcpy(ret_delta, last, PAGES_PAGE);
		bytes_xor(ret_delta, content, PAGES_PAGE);
	}
	memcpy(last, content, PAGES_PAGE);
	return known ? SENT_PAGES_DELTA : SENT_PAGES_NEW;
}

void sent_pages_forget(struct sent_pages *p, uint64_t page, uint64_t count)
{
	for (uint64_t end = page + count; page < end; page++) {
		struct sent_slot *slot = sent_pages_slot(p, page);

		if (slot->page == page)
			slot->page = SENT_PAGES_NONE;
	}
}
