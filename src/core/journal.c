/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal's format and the walk of recovery. */
#include "core/journal.h"

#include <string.h>

#include "util/bytes.h"
#include "util/crc.h"

#define JOURNAL_HEADER_MAGIC 0x314c4e524a444e54ull /* "TNDJRNL1" */
#define JOURNAL_CHUNK_MAGIC 0x4b434454u            /* "TDCK" */
#define JOURNAL_VERSION 2u

/* The finalizer of SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t journal_mix(uint64_t v)
{
	v ^= v >> 30;
	v *= 0xbf58476d1ce4e5b9ull;
	v ^= v >> 27;
	v *= 0x94d049bb133111ebull;
	return v ^ v >> 31;
}

uint64_t journal_chunk_own(const struct journal_chunk *c)
{
	return journal_mix(c->chain ^ journal_mix(c->pos ^ journal_mix(c->incarnation)));
}

void journal_header_encode(uint8_t *buf, const struct journal_header *h)
{
	memset(buf, 0, JOURNAL_BLOCK);
	put_le64(buf, JOURNAL_HEADER_MAGIC);
	put_le32(buf + 8, JOURNAL_VERSION);
	put_le32(buf + 12, JOURNAL_VERSION);
	put_le64(buf + 16, h->serial);
	put_le64(buf + 24, h->ring_size);
	put_le32(buf + 32, JOURNAL_SEGMENT);
	put_le64(buf + 40, h->tail);
	put_le64(buf + 48, h->tail_chain);
	put_le64(buf + 56, h->applied);
	put_le64(buf + 64, h->incarnation);
	memcpy(buf + 72, h->group.b, sizeof(h->group.b));
	put_le32(buf + JOURNAL_BLOCK - 4, crc32c(buf, JOURNAL_BLOCK - 4));
}

const char *journal_header_decode(const uint8_t *buf, struct journal_header *ret_header)
{
	struct journal_header h;

	if (get_le64(buf) != JOURNAL_HEADER_MAGIC)
		return "not a journal header";
	if (get_le32(buf + JOURNAL_BLOCK - 4) != crc32c(buf, JOURNAL_BLOCK - 4))
		return "bad checksum";
	if (get_le32(buf + 12) > JOURNAL_VERSION)
		return "written by a newer version";
	h.serial = get_le64(buf + 16);
	h.ring_size = get_le64(buf + 24);
	h.tail = get_le64(buf + 40);
	h.tail_chain = get_le64(buf + 48);
	h.applied = get_le64(buf + 56);
	h.incarnation = get_le64(buf + 64);
	memcpy(h.group.b, buf + 72, sizeof(h.group.b));
	if (get_le32(buf + 32) != JOURNAL_SEGMENT || h.ring_size < JOURNAL_MIN_RING ||
		h.ring_size % JOURNAL_SEGMENT || h.tail % JOURNAL_BLOCK)
		return "sizes out of range";
	*ret_header = h;
	return NULL;
}

/* Of the chunk's place and its records, which must be whole: from each the CRC of its header, which
 * covers the CRC of its payload.  Never 0. */
static uint64_t journal_chunk_sum(const uint8_t *buf, const struct journal_chunk *c)
{
	uint64_t sum = c->own;

	for (uint64_t at = JOURNAL_CHUNK_HEADER; at + RECORD_HEADER_SIZE <= c->used;) {
		sum = journal_mix(sum ^ get_le32(buf + at + RECORD_HEADER_SIZE - 4));
		at += record_size(get_le32(buf + at + 12)); /* payload */
	}
	return sum ? sum : 1;
}

void journal_chunk_encode(uint8_t *buf, const struct journal_chunk *c)
{
	put_le32(buf, JOURNAL_CHUNK_MAGIC);
	put_le32(buf + 4, c->flags);
	put_le64(buf + 8, c->pos);
	put_le32(buf + 16, c->used);
	put_le32(buf + 20, c->len);
	put_le64(buf + 24, c->incarnation);
	put_le64(buf + 32, c->chain);
	put_le64(buf + 40, c->own);
	put_le64(buf + 48, journal_chunk_sum(buf, c));
	memset(buf + 56, 0, 4);
	put_le32(buf + 60, crc32c(buf, 60));
	memset(buf + c->used, 0, c->len - c->used);
}

const char *journal_chunk_decode(
	const uint8_t *buf, uint64_t pos, uint64_t chain, struct journal_chunk *ret_chunk)
{
	struct journal_chunk c;

	if (get_le32(buf) != JOURNAL_CHUNK_MAGIC)
		return "no chunk";
	if (get_le32(buf + 60) != crc32c(buf, 60))
		return "bad chunk checksum";
	c.flags = get_le32(buf + 4);
	c.pos = get_le64(buf + 8);
	c.used = get_le32(buf + 16);
	c.len = get_le32(buf + 20);
	c.incarnation = get_le64(buf + 24);
	c.chain = get_le64(buf + 32);
	c.own = get_le64(buf + 40);
	c.sum = get_le64(buf + 48);
	if (c.pos != pos || c.chain != chain || c.own != journal_chunk_own(&c))
		return "chunk of another lap";
	if ((c.flags & ~JOURNAL_CHUNK_SKIP) || get_le32(buf + 56))
		return "unknown flags or reserved field";
	if (c.len % JOURNAL_BLOCK || c.len == 0 || c.len > JOURNAL_CHUNK_MAX ||
		c.used < JOURNAL_CHUNK_HEADER || c.used > c.len ||
		pos % JOURNAL_SEGMENT + c.len > JOURNAL_SEGMENT)
		return "chunk sizes out of range";
	*ret_chunk = c;
	return NULL;
}

/* All records of the chunk, first only checked, then reported. */
static int journal_walk_chunk(const uint8_t *buf, const struct journal_chunk *c,
	journal_record_fn record_fn, void *ctx, bool *ret_commit, const char **ret_why)
{
	for (int pass = 0; pass < 2; pass++) {
		uint32_t at = JOURNAL_CHUNK_HEADER;

		while (at < c->used) {
			enum record_verdict verdict;
			struct record rec;
			size_t size;
			int r;

			verdict = record_check(buf + at, c->used - at, RECORD_IN_JOURNAL, false, 0,
				&rec, &size, ret_why);
			if (verdict == RECORD_SHORT) /* which is not said as a reason */
				*ret_why = "record cut off by the chunk's end";
			if (verdict == RECORD_UNKNOWN)
				*ret_why = "record of an unknown type";
			if (verdict != RECORD_OK)
				return 0;
			if (pass == 1) {
				r = record_fn(ctx, &rec, c->pos + at + RECORD_HEADER_SIZE, c);
				if (r < 0)
					return r;
				*ret_commit |= rec.type == RECORD_COMMIT;
			}
			at += (uint32_t)size;
		}
		/* Whole ones of an older lap, where sectors were lost.  0: version 1. */
		*ret_why = "records that are not the chunk's";
		if (c->sum && c->sum != journal_chunk_sum(buf, c))
			return 0;
	}
	*ret_why = NULL;
	return 0;
}

int journal_scan(const struct journal_header *h, journal_read_fn read_fn,
	journal_record_fn record_fn, void *ctx, uint8_t *buf, struct journal_end *ret_end)
{
	struct journal_end end = {.pos = h->tail, .chain = h->tail_chain};
	uint64_t pos = h->tail, chain = h->tail_chain;

	end.why = "the whole ring is in use";
	while (pos - h->tail < h->ring_size) {
		struct journal_chunk c;
		bool commit = false;
		const char *why;
		int r;

		r = read_fn(ctx, pos, buf, JOURNAL_BLOCK);
		if (r < 0)
			return r;
		end.why = journal_chunk_decode(buf, pos, chain, &c);
		if (end.why)
			break;
		if (c.len > JOURNAL_BLOCK) {
			r = read_fn(ctx, pos + JOURNAL_BLOCK, buf + JOURNAL_BLOCK,
				c.len - JOURNAL_BLOCK);
			if (r < 0)
				return r;
		}
		r = journal_walk_chunk(buf, &c, record_fn, ctx, &commit, &why);
		if (r < 0)
			return r;
		end.why = why;
		if (why)
			break;
		pos += c.flags & JOURNAL_CHUNK_SKIP ? JOURNAL_SEGMENT - pos % JOURNAL_SEGMENT
						    : c.len;
		chain = c.own;
		if (commit) {
			end.pos = pos;
			end.chain = chain;
		}
		end.why = "the whole ring is in use";
	}
	end.scanned = pos;
	end.scanned_chain = chain;
	*ret_end = end;
	return 0;
}
