/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The activity log and the transactions of the map file. */
#include "core/activity.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

int activity_init(struct activity *a, struct dirtymap *map, const struct dirtyfile_header *h,
	uint32_t capacity)
{
	memset(a, 0, sizeof(*a));
	a->map = map;
	a->header = *h;
	a->region_shift = (unsigned)__builtin_ctzll(h->region);
	a->regions = (uint32_t)dirtyfile_regions(h->size, h->region);
	a->pages = dirtyfile_pages(map->blocks);
	a->capacity = capacity;
	a->newest = a->oldest = a->free = ACTIVITY_NONE;
	a->last = &a->first;
	a->slots = calloc(capacity, sizeof(*a->slots));
	a->slot_of = malloc((a->regions + 1) * sizeof(*a->slot_of));
	a->page_serial = calloc(a->pages + 1, sizeof(*a->page_serial));
	a->buf = malloc((ACTIVITY_PAGES + 1) * (size_t)DIRTYFILE_UNIT);
	if (!a->slots || !a->slot_of || !a->page_serial || !a->buf) {
		activity_deinit(a);
		return -ENOMEM;
	}
	memset(a->slot_of, 0xff, (a->regions + 1) * sizeof(*a->slot_of));
	for (uint32_t i = capacity; i-- > 0;) {
		a->slots[i].older = a->free;
		a->free = (uint16_t)i;
	}
	return 0;
}

void activity_deinit(struct activity *a)
{
	free(a->slots);
	free(a->slot_of);
	free(a->page_serial);
	free(a->buf);
	memset(a, 0, sizeof(*a));
}

int activity_grow(struct activity *a, uint64_t size)
{
	uint32_t regions = (uint32_t)dirtyfile_regions(size, a->header.region);
	uint64_t pages = dirtyfile_pages(a->map->blocks);
	uint16_t *slot_of = malloc((regions + 1) * sizeof(*slot_of));
	uint64_t *serial = calloc(pages + 1, sizeof(*serial));

	if (!slot_of || !serial) {
		free(slot_of);
		free(serial);
		return -ENOMEM;
	}
	memset(slot_of, 0xff, (regions + 1) * sizeof(*slot_of));
	memcpy(slot_of, a->slot_of, a->regions * sizeof(*slot_of));
	memcpy(serial, a->page_serial, a->pages * sizeof(*serial));
	free(a->slot_of);
	free(a->page_serial);
	a->slot_of = slot_of;
	a->page_serial = serial;
	a->regions = regions;
	a->pages = pages;
	a->header.size = size;
	return 0;
}

/* --- slots --- */

static void activity_unlink(struct activity *a, uint16_t i)
{
	struct activity_slot *s = &a->slots[i];

	*(s->newer == ACTIVITY_NONE ? &a->newest : &a->slots[s->newer].older) = s->older;
	*(s->older == ACTIVITY_NONE ? &a->oldest : &a->slots[s->older].newer) = s->newer;
}

static void activity_push(struct activity *a, uint16_t i)
{
	struct activity_slot *s = &a->slots[i];

	s->newer = ACTIVITY_NONE;
	s->older = a->newest;
	*(a->newest == ACTIVITY_NONE ? &a->oldest : &a->slots[a->newest].newer) = i;
	a->newest = i;
}

static void activity_touch(struct activity *a, uint16_t i)
{
	if (a->newest != i) {
		activity_unlink(a, i);
		activity_push(a, i);
	}
	a->slots[i].refs++;
}

static void activity_heat(struct activity *a, uint32_t region)
{
	uint16_t i = a->free;

	a->free = a->slots[i].older;
	a->slots[i] = (struct activity_slot){.region = region, .pending = true};
	a->slot_of[region] = i;
	a->used++;
	activity_push(a, i);
}

static void activity_cool(struct activity *a, uint16_t i)
{
	activity_unlink(a, i);
	a->slot_of[a->slots[i].region] = ACTIVITY_NONE;
	a->slots[i].older = a->free;
	a->free = i;
	a->used--;
}

int activity_restore(struct activity *a, uint32_t region)
{
	if (a->slot_of[region] != ACTIVITY_NONE || a->free == ACTIVITY_NONE)
		return -EBADMSG;
	activity_heat(a, region);
	a->slots[a->slot_of[region]].pending = false;
	return 0;
}

/* --- pages of the transaction --- */

/* Words that the durable page lacks (or, with exact, that differ) for the blocks [first, end). */
static bool activity_page_lacks(const struct activity *a, uint64_t first, uint64_t end, bool exact)
{
	const struct dirtymap *m = a->map;

	for (uint64_t w = first / 64; w * 64 < end; w++) {
		uint64_t now = dirtymap_word(m, w), disk = m->bits[DIRTYMAP_DISK][w];
		uint64_t mask = ~0ull;

		if (w * 64 < first)
			mask <<= first - w * 64;
		if ((w + 1) * 64 > end)
			mask &= ~0ull >> ((w + 1) * 64 - end);
		if ((exact ? now ^ disk : now & ~disk) & mask)
			return true;
	}
	return false;
}

/* Takes the page of these blocks into the transaction if it must be; false = no room. */
static bool activity_need_page(struct activity *a, uint64_t first, uint64_t end, bool exact)
{
	uint64_t page = first / DIRTYFILE_PAGE_BITS;

	for (unsigned i = 0; i < a->npages; i++)
		if (a->page[i] == page)
			return true;
	/* Serial 0: no copy in the file is valid. */
	if (!activity_page_lacks(a, first, end, exact) && !(exact && a->page_serial[page] == 0))
		return true;
	if (a->npages == ACTIVITY_PAGES)
		return false;
	a->page[a->npages++] = page;
	return true;
}

/* The region leaves the log; false = its bits do not fit into this transaction. */
static bool activity_evict(struct activity *a, uint16_t i)
{
	unsigned shift = a->region_shift - a->map->shift;
	uint64_t first = (uint64_t)a->slots[i].region << shift;
	uint64_t end = min_u64(first + (1ull << shift), a->map->blocks);

	while (first < end) {
		uint64_t next =
			min_u64((first / DIRTYFILE_PAGE_BITS + 1) * DIRTYFILE_PAGE_BITS, end);

		if (!activity_need_page(a, first, next, false))
			return false;
		first = next;
	}
	activity_cool(a, i);
	return true;
}

/* Evicts the longest unused until so many slots are free; false = cannot. */
static bool activity_make_room(struct activity *a, uint32_t want)
{
	uint16_t i = a->oldest;

	while (i != ACTIVITY_NONE && a->capacity - a->used < want) {
		uint16_t newer = a->slots[i].newer;

		if (a->slots[i].refs == 0) {
			if (!activity_evict(a, i))
				return false;
			a->record = true;
		}
		i = newer;
	}
	return a->capacity - a->used >= want;
}

static void activity_encode(struct activity *a)
{
	uint64_t words[DIRTYFILE_PAGE_WORDS];
	uint32_t hot[DIRTYFILE_HOT], n = 0;

	for (unsigned i = 0; i < a->npages; i++) {
		uint64_t w = a->page[i] * DIRTYFILE_PAGE_WORDS;

		for (unsigned k = 0; k < DIRTYFILE_PAGE_WORDS; k++)
			words[k] = w + k < a->map->words ? dirtymap_word(a->map, w + k) : 0;
		dirtyfile_put_page(a->buf + i * (size_t)DIRTYFILE_UNIT, a->header.id,
			a->page_serial[a->page[i]] + 1, a->page[i], words);
	}
	if (!a->record)
		return;
	for (uint16_t i = a->newest; i != ACTIVITY_NONE; i = a->slots[i].older)
		hot[n++] = a->slots[i].region;
	dirtyfile_put_record(a->buf + ACTIVITY_PAGES * (size_t)DIRTYFILE_UNIT, a->header.id,
		a->record_serial + 1, hot, n);
}

static bool activity_start(struct activity *a)
{
	a->busy = a->record || a->npages;
	if (a->busy)
		activity_encode(a);
	return a->busy;
}

/* --- requests --- */

bool activity_enter(struct activity *a, uint64_t off, uint64_t len)
{
	uint32_t first = (uint32_t)(off >> a->region_shift);
	uint32_t last = (uint32_t)((off + len - 1) >> a->region_shift);

	for (uint32_t r = first; r <= last; r++)
		if (a->slot_of[r] == ACTIVITY_NONE || a->slots[a->slot_of[r]].pending)
			return false;
	for (uint32_t r = first; r <= last; r++)
		activity_touch(a, a->slot_of[r]);
	return true;
}

void activity_leave(struct activity *a, uint64_t off, uint64_t len)
{
	uint32_t last = (uint32_t)((off + len - 1) >> a->region_shift);

	for (uint32_t r = (uint32_t)(off >> a->region_shift); r <= last; r++)
		a->slots[a->slot_of[r]].refs--;
}

uint64_t activity_reach(const struct activity *a, uint64_t off)
{
	uint64_t end = ((off >> a->region_shift) + ACTIVITY_REQUEST_MAX) << a->region_shift;

	return min_u64(end, a->header.size) - off;
}

void activity_ask(struct activity *a, struct activity_request *q, uint64_t off, uint64_t len)
{
	q->first = (uint32_t)(off >> a->region_shift);
	q->count = (uint32_t)((off + len - 1) >> a->region_shift) - q->first + 1;
	q->granted = q->failed = false;
	q->next = NULL;
	*a->last = q;
	a->last = &q->next;
}

/* Holds the regions of q that are in the log, or lets them go; returns how many are not. */
static uint32_t activity_hold(struct activity *a, const struct activity_request *q, bool hold)
{
	uint32_t cold = 0;

	for (uint32_t r = q->first; r < q->first + q->count; r++) {
		if (a->slot_of[r] == ACTIVITY_NONE)
			cold++;
		else if (hold)
			activity_touch(a, a->slot_of[r]);
		else
			a->slots[a->slot_of[r]].refs--;
	}
	return cold;
}

/* Its regions are in the log of this transaction, and held. */
static void activity_admit(struct activity *a, struct activity_request *q)
{
	for (uint32_t r = q->first; r < q->first + q->count; r++) {
		if (a->slot_of[r] == ACTIVITY_NONE) {
			activity_heat(a, r);
			a->record = true;
		}
		activity_touch(a, a->slot_of[r]);
	}
	a->first = q->next;
	if (!a->first)
		a->last = &a->first;
	q->next = a->admitted;
	a->admitted = q;
}

bool activity_begin(struct activity *a)
{
	a->record = false;
	a->npages = 0;
	while (a->first && !a->broken) {
		/* Its hot regions are not to be evicted for its cold ones. */
		uint32_t cold = activity_hold(a, a->first, true);

		if (a->capacity - a->used < cold)
			(void)activity_make_room(a, min_u64(cold + ACTIVITY_SPARE, a->capacity));
		(void)activity_hold(a, a->first, false);
		if (a->capacity - a->used < cold)
			break;
		activity_admit(a, a->first);
	}
	if (a->broken || (!a->record && a->admitted)) {
		activity_done(a, !a->broken); /* failed, or all hot by now */
		return false;
	}
	return activity_start(a);
}

/* --- pages alone --- */

/* Pages from the cursor on, until the transaction is full or limit were looked at. */
static void activity_collect(struct activity *a, bool exact, uint64_t limit)
{
	uint64_t end = limit ? min_u64(a->cursor + limit, a->pages) : a->pages;

	for (; a->cursor < end; a->cursor++) {
		uint64_t first = a->cursor * DIRTYFILE_PAGE_BITS;

		if (!activity_need_page(
			    a, first, min_u64(first + DIRTYFILE_PAGE_BITS, a->map->blocks), exact))
			return;
	}
}

bool activity_begin_pages(struct activity *a, bool exact, uint64_t limit)
{
	a->record = false;
	a->npages = 0;
	if (a->broken)
		return false;
	activity_collect(a, exact, limit);
	if (a->cursor >= a->pages)
		a->cursor = 0;
	return activity_start(a);
}

bool activity_begin_close(struct activity *a)
{
	bool all = a->cursor == 0;

	if (activity_begin_pages(a, true, 0) || (!all && activity_begin_pages(a, true, 0)))
		return true;
	if (a->broken || !a->used)
		return false;
	while (a->oldest != ACTIVITY_NONE)
		activity_cool(a, a->oldest);
	a->record = true;
	return activity_start(a);
}

/* --- the transaction --- */

unsigned activity_writes(const struct activity *a, unsigned phase, struct activity_io *io)
{
	if (phase == 0) {
		for (unsigned i = 0; i < a->npages; i++)
			io[i] = (struct activity_io){
				dirtyfile_page_at(a->page[i], a->page_serial[a->page[i]] + 1),
				a->buf + i * (size_t)DIRTYFILE_UNIT};
		return a->npages;
	}
	io[0] = (struct activity_io){dirtyfile_record_at(a->record_serial + 1),
		a->buf + ACTIVITY_PAGES * (size_t)DIRTYFILE_UNIT};
	return a->record ? 1 : 0;
}

/* What the pages say now. */
static void activity_note_pages(struct activity *a)
{
	uint64_t words[DIRTYFILE_PAGE_WORDS], serial;

	for (unsigned i = 0; i < a->npages; i++) {
		uint64_t w = a->page[i] * DIRTYFILE_PAGE_WORDS;

		(void)dirtyfile_get_page(a->buf + i * (size_t)DIRTYFILE_UNIT, a->header.id,
			a->page[i], &serial, words);
		a->page_serial[a->page[i]] = serial;
		memcpy(&a->map->bits[DIRTYMAP_DISK][w], words,
			min_u64(DIRTYFILE_PAGE_WORDS, a->map->words - w) * sizeof(words[0]));
	}
}

void activity_done(struct activity *a, bool durable)
{
	struct activity_request **from = durable ? &a->admitted : &a->first;

	if (durable && a->busy) {
		activity_note_pages(a);
		a->record_serial += a->record;
		a->transactions++;
		for (uint16_t i = a->newest; i != ACTIVITY_NONE; i = a->slots[i].older)
			a->slots[i].pending = false;
	}
	a->busy = false;
	a->broken |= !durable;
	for (;;) {
		while (*from) {
			struct activity_request *q = *from;

			*from = q->next;
			q->failed = !durable;
			q->granted = durable;
			a->answers++;
		}
		if (from == &a->admitted)
			break;
		a->last = &a->first;
		from = &a->admitted;
	}
}
