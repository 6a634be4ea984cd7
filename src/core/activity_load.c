/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A map file as it is found: what is valid counts, what is not counts as dirty. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/activity.h"
#include "util/bytes.h"

struct activity_loader {
	activity_read_fn read_fn;
	void *ctx;
	struct dirtymap *map;
	struct activity *a;
	struct activity_report report;
	uint8_t buf[DIRTYFILE_UNIT];
};

static int activity_load_header(
	struct activity_loader *l, struct dirtyfile_header *ret_header, const char **ret_why)
{
	bool found = false;

	for (unsigned slot = 0; slot < 2; slot++) {
		struct dirtyfile_header h;
		const char *why;
		int r = l->read_fn(l->ctx, slot * DIRTYFILE_UNIT, l->buf, sizeof(l->buf));

		why = r < 0 ? "cannot read its header" : dirtyfile_get_header(l->buf, &h);
		if (!why && (!found || h.serial > ret_header->serial)) {
			*ret_header = h;
			found = true;
		} else if (why && (r < 0 || get_le64(l->buf) != 0)) {
			*ret_why = why;
		}
	}
	return found ? 0 : -EBADMSG;
}

static int activity_load_page(struct activity_loader *l, uint64_t page)
{
	uint64_t words[DIRTYFILE_PAGE_WORDS], best[DIRTYFILE_PAGE_WORDS], serial, newest = 0;
	uint64_t first = page * DIRTYFILE_PAGE_WORDS;
	uint64_t n = min_u64(DIRTYFILE_PAGE_WORDS, l->map->words - first);
	bool torn = false;

	for (unsigned slot = 0; slot < 2; slot++) {
		int r = l->read_fn(l->ctx, dirtyfile_page_at(page, slot), l->buf, sizeof(l->buf));

		if (r < 0)
			return r;
		if (dirtyfile_get_page(l->buf, l->a->header.id, page, &serial, words))
			torn |= !bytes_all_zero(l->buf, sizeof(l->buf));
		else if (serial > newest && serial % 2 == slot) {
			newest = serial;
			memcpy(best, words, sizeof(best));
		}
	}
	l->report.torn_pages += torn;
	if (newest == 0) {
		l->report.lost_pages++;
		memset(best, 0xff, sizeof(best));
	}
	l->a->page_serial[page] = newest;
	for (uint64_t w = 0; w < n; w++) {
		if (newest)
			l->map->bits[DIRTYMAP_DISK][first + w] = best[w];
		if (best[w])
			dirtymap_mark_word(l->map, DIRTYMAP_WANTED, first + w, best[w]);
	}
	return 0;
}

static int activity_load_log(struct activity_loader *l)
{
	uint32_t hot[DIRTYFILE_HOT], best[DIRTYFILE_HOT], count, n = 0;
	uint64_t serial;

	for (unsigned slot = 0; slot < 2; slot++) {
		int r = l->read_fn(l->ctx, dirtyfile_record_at(slot), l->buf, sizeof(l->buf));

		if (r < 0)
			return r;
		if (dirtyfile_get_record(
			    l->buf, l->a->header.id, l->a->regions, &serial, hot, &count))
			continue;
		if (serial <= l->a->record_serial || serial % 2 != slot)
			continue;
		l->a->record_serial = serial;
		memcpy(best, hot, count * sizeof(hot[0]));
		n = count;
	}
	l->report.hot = n;
	if (l->a->record_serial == 0 || n > l->a->capacity) {
		l->report.lost_log = true;
		dirtymap_mark_all(l->map, DIRTYMAP_WANTED);
		return 0;
	}
	for (uint32_t i = n; i-- > 0;) {
		uint64_t off = (uint64_t)best[i] << l->a->region_shift;

		if (activity_restore(l->a, best[i]) < 0)
			return -EBADMSG;
		dirtymap_mark(l->map, DIRTYMAP_WANTED, off,
			min_u64(l->a->header.region, l->map->size - off));
	}
	return 0;
}

int activity_load(activity_read_fn read_fn, void *ctx, uint32_t capacity, struct dirtymap *map,
	struct activity *a, struct activity_report *ret_report, const char **ret_why)
{
	struct activity_loader l = {.read_fn = read_fn, .ctx = ctx, .map = map, .a = a};
	struct dirtyfile_header h = {0};
	int r;

	*ret_why = "it is not a map file of Tandem";
	r = activity_load_header(&l, &h, ret_why);
	if (r < 0)
		return r;
	*ret_why = "out of memory";
	r = dirtymap_init(map, h.size, h.block);
	if (r < 0)
		return r;
	r = activity_init(a, map, &h, capacity);
	if (r < 0) {
		dirtymap_deinit(map);
		return r;
	}
	*ret_why = "cannot read it";
	l.report.pages = a->pages;
	for (uint64_t page = 0; r == 0 && page < a->pages; page++)
		r = activity_load_page(&l, page);
	if (r == 0)
		r = activity_load_log(&l);
	if (r < 0) {
		activity_deinit(a);
		dirtymap_deinit(map);
		return r;
	}
	*ret_report = l.report;
	return 0;
}
