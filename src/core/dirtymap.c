/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The dirty map's bitmaps. */
#include "core/dirtymap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

static uint64_t dirtymap_words(uint64_t blocks)
{
	return (blocks + 63) / 64;
}

int dirtymap_init(struct dirtymap *m, uint64_t size, uint32_t block)
{
	memset(m, 0, sizeof(*m));
	if (block < DIRTYMAP_MIN_BLOCK || block > DIRTYMAP_MAX_BLOCK || (block & (block - 1)))
		return -EINVAL;
	m->size = size;
	m->shift = (unsigned)__builtin_ctz(block);
	m->blocks = (size + block - 1) >> m->shift;
	m->words = dirtymap_words(m->blocks);
	for (unsigned l = 0; l < DIRTYMAP_LAYERS; l++) {
		m->bits[l] = calloc(m->words + 1, sizeof(uint64_t));
		m->touched[l] = calloc(m->words / 64 + 1, sizeof(uint64_t));
		if (!m->bits[l] || !m->touched[l]) {
			dirtymap_deinit(m);
			return -ENOMEM;
		}
	}
	return 0;
}

void dirtymap_deinit(struct dirtymap *m)
{
	for (unsigned l = 0; l < DIRTYMAP_LAYERS; l++) {
		free(m->bits[l]);
		free(m->touched[l]);
	}
	memset(m, 0, sizeof(*m));
}

int dirtymap_grow(struct dirtymap *m, uint64_t size)
{
	uint64_t old_size = m->size;
	struct dirtymap n;
	int r;

	if (size <= m->size)
		return size < m->size ? -EINVAL : 0;
	r = dirtymap_init(&n, size, 1u << m->shift);
	if (r < 0)
		return r;
	for (unsigned l = 0; l < DIRTYMAP_LAYERS; l++) {
		memcpy(n.bits[l], m->bits[l], m->words * sizeof(uint64_t));
		memcpy(n.touched[l], m->touched[l], (m->words / 64 + 1) * sizeof(uint64_t));
		free(m->bits[l]);
		free(m->touched[l]);
		m->bits[l] = n.bits[l];
		m->touched[l] = n.touched[l];
	}
	m->size = n.size;
	m->blocks = n.blocks;
	m->words = n.words;
	dirtymap_mark(m, DIRTYMAP_WANTED, old_size, size - old_size);
	return 0;
}

/* Bits of word w for the blocks [first, end). */
static uint64_t dirtymap_mask(uint64_t w, uint64_t first, uint64_t end)
{
	uint64_t mask = ~0ull;

	if (first > w * 64)
		mask <<= first - w * 64;
	if (end < (w + 1) * 64)
		mask &= ~0ull >> ((w + 1) * 64 - end);
	return mask;
}

static void dirtymap_set_word(
	struct dirtymap *m, enum dirtymap_layer layer, uint64_t w, uint64_t mask)
{
	uint64_t *word = &m->bits[layer][w];

	if (layer == DIRTYMAP_WANTED)
		m->wanted += (uint64_t)__builtin_popcountll(mask & ~*word);
	*word |= mask;
	m->touched[layer][w / 64] |= 1ull << (w % 64);
}

static void dirtymap_set(
	struct dirtymap *m, enum dirtymap_layer layer, uint64_t first, uint64_t end)
{
	for (uint64_t w = first / 64; w * 64 < end; w++)
		dirtymap_set_word(m, layer, w, dirtymap_mask(w, first, end));
}

void dirtymap_mark(struct dirtymap *m, enum dirtymap_layer layer, uint64_t off, uint64_t len)
{
	dirtymap_set(m, layer, off >> m->shift, ((off + len - 1) >> m->shift) + 1);
}

void dirtymap_mark_word(struct dirtymap *m, enum dirtymap_layer layer, uint64_t w, uint64_t bits)
{
	dirtymap_set_word(m, layer, w, bits & dirtymap_mask(w, 0, m->blocks));
}

void dirtymap_mark_all(struct dirtymap *m, enum dirtymap_layer layer)
{
	dirtymap_set(m, layer, 0, m->blocks);
}

void dirtymap_mark_alone(struct dirtymap *m, uint64_t off, uint64_t len)
{
	uint64_t first = off >> m->shift, end = ((off + len - 1) >> m->shift) + 1;

	for (uint64_t w = first / 64; w * 64 < end; w++) {
		uint64_t mask = dirtymap_mask(w, first, end);

		dirtymap_set_word(m, DIRTYMAP_WANTED, w, mask);
		m->bits[DIRTYMAP_ASKED][w] &= ~mask;
	}
}

void dirtymap_clear(struct dirtymap *m, enum dirtymap_layer layer, uint64_t off, uint64_t len)
{
	uint64_t first = (off + dirtymap_block(m) - 1) >> m->shift;
	uint64_t end = off + len == m->size ? m->blocks : (off + len) >> m->shift;

	for (uint64_t w = first / 64; w * 64 < end; w++) {
		uint64_t *word = &m->bits[layer][w], mask = dirtymap_mask(w, first, end);

		if (layer == DIRTYMAP_WANTED)
			m->wanted -= (uint64_t)__builtin_popcountll(mask & *word);
		*word &= ~mask;
	}
}

/* The next word that may be non-zero, which is forgotten with that; *at begins with 0. */
static bool dirtymap_take_touched(
	struct dirtymap *m, enum dirtymap_layer layer, uint64_t *at, uint64_t *ret_word)
{
	for (; *at <= m->words / 64; (*at)++) {
		uint64_t *set = &m->touched[layer][*at];

		if (*set) {
			*ret_word = *at * 64 + (uint64_t)__builtin_ctzll(*set);
			*set &= *set - 1;
			return true;
		}
	}
	return false;
}

void dirtymap_clear_all(struct dirtymap *m, enum dirtymap_layer layer)
{
	uint64_t at = 0, w;

	while (dirtymap_take_touched(m, layer, &at, &w))
		m->bits[layer][w] = 0;
	if (layer == DIRTYMAP_WANTED)
		m->wanted = 0;
}

void dirtymap_move(struct dirtymap *m, enum dirtymap_layer into, enum dirtymap_layer from)
{
	uint64_t at = 0, w;

	while (dirtymap_take_touched(m, from, &at, &w)) {
		if (m->bits[from][w])
			dirtymap_set_word(m, into, w, m->bits[from][w]);
		m->bits[from][w] = 0;
	}
	if (from == DIRTYMAP_WANTED)
		m->wanted = 0;
}

bool dirtymap_test(const struct dirtymap *m, enum dirtymap_layer layer, uint64_t off, uint64_t len)
{
	uint64_t first = off >> m->shift, end = ((off + len - 1) >> m->shift) + 1;

	for (uint64_t w = first / 64; w * 64 < end; w++)
		if (m->bits[layer][w] & dirtymap_mask(w, first, end))
			return true;
	return false;
}

bool dirtymap_covers(
	const struct dirtymap *m, enum dirtymap_layer layer, uint64_t off, uint64_t len)
{
	uint64_t first = off >> m->shift, end = ((off + len - 1) >> m->shift) + 1;

	for (uint64_t w = first / 64; w * 64 < end; w++)
		if (~m->bits[layer][w] & dirtymap_mask(w, first, end))
			return false;
	return true;
}

/* First block at or behind from whose bit is set (or clear, with invert); m->blocks = none. */
static uint64_t dirtymap_find(
	const struct dirtymap *m, enum dirtymap_layer layer, uint64_t from, bool invert)
{
	for (uint64_t w = from / 64; w < m->words; w++) {
		uint64_t word = invert ? ~m->bits[layer][w] : m->bits[layer][w];

		if (w == from / 64)
			word &= ~0ull << (from % 64);
		if (word)
			return min_u64(w * 64 + (uint64_t)__builtin_ctzll(word), m->blocks);
	}
	return m->blocks;
}

bool dirtymap_next(const struct dirtymap *m, enum dirtymap_layer layer, uint64_t from, uint64_t max,
	struct dirtymap_run *ret_run)
{
	uint64_t first, end;

	if (from >= m->size)
		return false;
	first = dirtymap_find(m, layer, from >> m->shift, false);
	if (first == m->blocks)
		return false;
	end = dirtymap_find(m, layer, first, true);
	end = min_u64(end, first + max_u64(max >> m->shift, 1));
	ret_run->off = first << m->shift;
	ret_run->len = min_u64(end << m->shift, m->size) - ret_run->off;
	return true;
}

/* Of n blocks, the last block of the volume among them or not. */
static uint64_t dirtymap_bytes(const struct dirtymap *m, uint64_t n, bool last)
{
	uint64_t bytes = n << m->shift;

	return last ? bytes - ((m->blocks << m->shift) - m->size) : bytes;
}

uint64_t dirtymap_wanted_bytes(const struct dirtymap *m)
{
	return dirtymap_bytes(
		m, m->wanted, m->wanted && dirtymap_test(m, DIRTYMAP_WANTED, m->size - 1, 1));
}

uint64_t dirtymap_unequal_bytes(const struct dirtymap *m)
{
	uint64_t n = 0;
	bool last = false;

	for (uint64_t w = 0; w < m->words; w++) {
		uint64_t word = m->bits[DIRTYMAP_WANTED][w] | m->bits[DIRTYMAP_SENT0][w] |
				m->bits[DIRTYMAP_SENT1][w] | m->bits[DIRTYMAP_HELD][w];

		n += (uint64_t)__builtin_popcountll(word);
		last = w == m->words - 1 && word >> ((m->blocks - 1) % 64);
	}
	return dirtymap_bytes(m, n, last);
}

bool dirtymap_flush_begin(struct dirtymap *m)
{
	if (m->flushing)
		return false;
	m->flushing = true;
	m->loose = 1 - m->loose;
	return true;
}

void dirtymap_flush_end(struct dirtymap *m, bool durable)
{
	enum dirtymap_layer waited = m->loose ? DIRTYMAP_LOOSE0 : DIRTYMAP_LOOSE1;

	m->flushing = false;
	if (durable)
		dirtymap_clear_all(m, waited);
	else
		dirtymap_move(m, m->loose ? DIRTYMAP_LOOSE1 : DIRTYMAP_LOOSE0, waited);
}

void dirtymap_acknowledged(struct dirtymap_windows *w, uint64_t done, uint64_t sent)
{
	enum dirtymap_layer other = w->current ? DIRTYMAP_SENT0 : DIRTYMAP_SENT1;

	if (w->waiting && done < w->mark)
		return;
	if (w->waiting)
		for (unsigned i = 0; i < w->count; i++)
			dirtymap_clear_all(w->maps[i], other);
	w->waiting = false;
	if (!w->used)
		return;
	w->used = false;
	w->waiting = true;
	w->mark = sent;
	w->current = 1 - w->current;
	if (done >= sent)
		dirtymap_acknowledged(w, done, sent);
}

void dirtymap_held_committed(struct dirtymap_windows *w)
{
	for (unsigned i = 0; i < w->count; i++)
		dirtymap_clear_all(w->maps[i], DIRTYMAP_HELD);
}

void dirtymap_lost(struct dirtymap_windows *w)
{
	for (unsigned i = 0; i < w->count; i++) {
		dirtymap_move(w->maps[i], DIRTYMAP_WANTED, DIRTYMAP_HELD);
		dirtymap_move(w->maps[i], DIRTYMAP_WANTED, DIRTYMAP_SENT0);
		dirtymap_move(w->maps[i], DIRTYMAP_WANTED, DIRTYMAP_SENT1);
	}
	w->used = w->waiting = false;
}
