/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty maps in the stream. */
#include "core/dirtymap_wire.h"

#include <string.h>

#include "util/bytes.h"

#define WIRE_FIXED 8u
#define WIRE_WORDS ((RECORD_MAX_MAP - WIRE_FIXED) / 8)

bool dirtymap_put_map(const struct dirtymap *m, enum dirtymap_layer layer, uint16_t flags,
	uint64_t *word, struct record *rec, uint8_t *payload)
{
	const uint64_t *bits = m->bits[layer];
	uint64_t first = *word, n = 0, off, end;

	while (first < m->words && bits[first] == 0)
		first++;
	if (first == m->words) {
		*word = first;
		return false;
	}
	for (uint64_t w = first; w < m->words && w < first + WIRE_WORDS; w++) {
		put_le64(payload + WIRE_FIXED + (w - first) * 8, bits[w]);
		if (bits[w])
			n = w - first + 1;
	}
	put_le32(payload, 1u << m->shift);
	put_le32(payload + 4, 0);
	off = first * 64 << m->shift;
	end = min_u64((first + n) * 64 << m->shift, m->size);
	*rec = (struct record){.type = RECORD_MAP,
		.flags = flags,
		.payload = (uint32_t)(WIRE_FIXED + n * 8),
		.offset = off,
		.length = end - off};
	*word = first + n;
	return true;
}

const char *dirtymap_take_map(struct dirtymap *m, const struct record *rec, const uint8_t *payload)
{
	uint64_t n, block, span;

	if (rec->payload < WIRE_FIXED + 8 || rec->payload % 8)
		return "map of a wrong length";
	block = get_le32(payload);
	n = (rec->payload - WIRE_FIXED) / 8;
	if (block < DIRTYMAP_MIN_BLOCK || block > DIRTYMAP_MAX_BLOCK || (block & (block - 1)) ||
		get_le32(payload + 4) != 0)
		return "map with a wrong block size";
	span = n * 64 * block;
	if (rec->offset % (64 * block) || rec->length > span || rec->length + 64 * block <= span)
		return "map of a wrong range";
	for (uint64_t w = 0; w < n; w++) {
		uint64_t bits = get_le64(payload + WIRE_FIXED + w * 8);

		for (; bits; bits &= bits - 1) {
			uint64_t off =
				rec->offset + (w * 64 + (uint64_t)__builtin_ctzll(bits)) * block;

			if (off >= m->size)
				continue;
			dirtymap_mark(m, DIRTYMAP_WANTED, off, min_u64(block, m->size - off));
			if (rec->flags & RECORD_FLAG_HELD)
				dirtymap_mark(m, DIRTYMAP_HELD, off, min_u64(block, m->size - off));
		}
	}
	return NULL;
}
