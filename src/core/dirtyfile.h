/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The format of a disk's map file (docs/metadata.md): header slots, activity records, bitmap pages.
 * Pure: bytes in, struct out. */
#ifndef TANDEM_CORE_DIRTYFILE_H
#define TANDEM_CORE_DIRTYFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIRTYFILE_UNIT 4096u /* of every write */
#define DIRTYFILE_VERSION 1u
#define DIRTYFILE_REGION (4ull << 20)      /* bytes, at least */
#define DIRTYFILE_MAX_REGIONS (1ull << 24) /* a larger volume has larger regions */
#define DIRTYFILE_HOT 1354u                /* regions in one activity record */
#define DIRTYFILE_PAGE_WORDS 504u          /* 64 blocks each */
#define DIRTYFILE_PAGE_BITS (DIRTYFILE_PAGE_WORDS * 64u)
#define DIRTYFILE_MAX_SIZE (1ull << 60) /* bytes of a volume */

struct dirtyfile_header {
	uint64_t serial;
	uint64_t id;     /* random, of this file: a page of an older file never counts */
	uint64_t size;   /* bytes of the volume */
	uint64_t region; /* bytes */
	uint32_t block;  /* bytes */
};

/* Bytes of a region for a volume of this size. */
uint64_t dirtyfile_region(uint64_t size);
static inline uint64_t dirtyfile_regions(uint64_t size, uint64_t region)
{
	return (size + region - 1) / region;
}
static inline uint64_t dirtyfile_pages(uint64_t blocks)
{
	return (blocks + DIRTYFILE_PAGE_BITS - 1) / DIRTYFILE_PAGE_BITS;
}

/* Where things stand; what exists twice is written alternately, by the serial. */
static inline uint64_t dirtyfile_header_at(uint64_t serial)
{
	return serial % 2 * DIRTYFILE_UNIT;
}
static inline uint64_t dirtyfile_record_at(uint64_t serial)
{
	return (2 + serial % 2) * DIRTYFILE_UNIT;
}
static inline uint64_t dirtyfile_page_at(uint64_t page, uint64_t serial)
{
	return (4 + 2 * page + serial % 2) * DIRTYFILE_UNIT;
}
static inline uint64_t dirtyfile_size(uint64_t pages)
{
	return (4 + 2 * pages) * DIRTYFILE_UNIT;
}

/* buf: DIRTYFILE_UNIT bytes each. decode: NULL = valid, else why not. */
void dirtyfile_put_header(uint8_t *buf, const struct dirtyfile_header *h);
const char *dirtyfile_get_header(const uint8_t *buf, struct dirtyfile_header *ret_header);
/* hot: count region numbers below 2^24. */
void dirtyfile_put_record(
	uint8_t *buf, uint64_t id, uint64_t serial, const uint32_t *hot, uint32_t count);
const char *dirtyfile_get_record(const uint8_t *buf, uint64_t id, uint64_t regions,
	uint64_t *ret_serial, uint32_t *ret_hot, uint32_t *ret_count);
/* words: DIRTYFILE_PAGE_WORDS; bit i of word w is block page * DIRTYFILE_PAGE_BITS + 64 * w + i. */
void dirtyfile_put_page(
	uint8_t *buf, uint64_t id, uint64_t serial, uint64_t page, const uint64_t *words);
const char *dirtyfile_get_page(
	const uint8_t *buf, uint64_t id, uint64_t page, uint64_t *ret_serial, uint64_t *ret_words);

#endif
