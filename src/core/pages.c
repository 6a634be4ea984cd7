/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PAGES and STATE: tables, checks, data. */
#include "core/pages.h"

#include "util/bytes.h"

#define PAGES_ZERO (1ull << 63)
#define PAGES_DELTA (1ull << 62)

void pages_put_run(uint8_t *table, unsigned i, const struct pages_run *run)
{
	put_le64(table + i * PAGES_RUN, run->offset);
	put_le64(table + i * PAGES_RUN + 8,
		run->length | (run->zero ? PAGES_ZERO : 0) | (run->delta ? PAGES_DELTA : 0));
}

struct pages_run pages_get_run(const uint8_t *table, unsigned i)
{
	uint64_t length = get_le64(table + i * PAGES_RUN + 8);

	return (struct pages_run){.offset = get_le64(table + i * PAGES_RUN),
		.length = length & ~(PAGES_ZERO | PAGES_DELTA),
		.zero = length & PAGES_ZERO,
		.delta = length & PAGES_DELTA};
}

static bool pages_packed(const struct record *rec)
{
	return rec->flags & (RECORD_FLAG_LZ4 | RECORD_FLAG_ZSTD);
}

const char *pages_check_header(const struct record *rec)
{
	uint64_t runs = rec->offset;

	if ((rec->flags & RECORD_FLAG_LZ4) && (rec->flags & RECORD_FLAG_ZSTD))
		return "two kinds of compression";
	if (rec->type == RECORD_STATE) {
		if (rec->length > RECORD_MAX_PAYLOAD)
			return "too much state in one record";
		if (pages_packed(rec) ? rec->payload == 0 || rec->payload >= rec->length
				      : rec->payload != rec->length)
			return "length of a state differs from its payload";
		return NULL;
	}
	if (runs == 0 || runs > PAGES_MAX_RUNS)
		return "number of runs out of range";
	return rec->payload < runs * PAGES_RUN ? "payload too short for the run table" : NULL;
}

const char *pages_check_table(const struct record *rec, const uint8_t *payload)
{
	uint32_t packed = rec->payload - (uint32_t)rec->offset * PAGES_RUN;
	uint64_t total = 0, data = 0;

	for (unsigned i = 0; i < rec->offset; i++) {
		struct pages_run run = pages_get_run(payload, i);

		if (run.length == 0 || run.length > RECORD_MAX_LENGTH ||
			run.offset > RECORD_MAX_LENGTH || run.length % PAGES_PAGE ||
			run.offset % PAGES_PAGE || (run.zero && run.delta))
			return "bad run in the table";
		total += run.length;
		if (total > RECORD_MAX_LENGTH)
			return "runs too long";
		data += run.zero ? 0 : run.length;
	}
	if (total != rec->length)
		return "runs differ from the length";
	if (data > PAGES_MAX_DATA)
		return "too much data in one record";
	if (pages_packed(rec) ? packed == 0 || packed >= data : packed != data)
		return "data differs from the runs";
	return NULL;
}

bool pages_inside(const struct record *rec, const uint8_t *payload, uint64_t size)
{
	for (unsigned i = 0; i < rec->offset; i++) {
		struct pages_run run = pages_get_run(payload, i);

		if (run.offset + run.length > size)
			return false;
	}
	return true;
}

bool pages_has_delta(const struct record *rec, const uint8_t *payload)
{
	for (unsigned i = 0; i < rec->offset; i++)
		if (pages_get_run(payload, i).delta)
			return true;
	return false;
}

uint32_t pages_data_size(const struct record *rec, const uint8_t *payload)
{
	uint32_t n = 0;

	if (rec->type == RECORD_STATE)
		return (uint32_t)rec->length;
	for (unsigned i = 0; i < rec->offset; i++) {
		struct pages_run run = pages_get_run(payload, i);

		n += run.zero ? 0 : (uint32_t)run.length;
	}
	return n;
}

const uint8_t *pages_data(
	struct compress *c, const struct record *rec, const uint8_t *payload, uint8_t *scratch)
{
	uint32_t table = rec->type == RECORD_PAGES ? (uint32_t)rec->offset * PAGES_RUN : 0;
	unsigned flag = rec->flags & (RECORD_FLAG_LZ4 | RECORD_FLAG_ZSTD);

	if (!flag)
		return payload + table;
	return compress_unpack(c, flag, payload + table, rec->payload - table, scratch,
		       pages_data_size(rec, payload))
		       ? scratch
		       : NULL;
}
