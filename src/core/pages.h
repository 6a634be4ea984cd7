/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PAGES and STATE records: guest memory and device state (docs/stream.md, "PAGES and STATE").
 * Pure.  record_check calls the two checks, so that a record which passed it has a sound table;
 * whether compressed data is sound shows when it is unpacked. */
#ifndef TANDEM_CORE_PAGES_H
#define TANDEM_CORE_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "core/compress.h"
#include "core/record.h"

#define PAGES_PAGE 4096u /* unit of every run */
#define PAGES_RUN 16u    /* bytes of a table entry */
#define PAGES_MAX_RUNS 256u
#define PAGES_MAX_DATA (RECORD_MAX_PAYLOAD - PAGES_MAX_RUNS * PAGES_RUN)
#define PAGES_STATE_MAX (256ull << 20) /* bytes of a state blob */

struct pages_run {
	uint64_t offset, length; /* bytes, whole pages */
	bool zero;               /* has no data */
	bool delta; /* the data is the XOR with what the pages were, as the stream has it so far */
};

void pages_put_run(uint8_t *table, unsigned i, const struct pages_run *run);
struct pages_run pages_get_run(const uint8_t *table, unsigned i);

/* NULL, or what is wrong. */
const char *pages_check_header(const struct record *rec);
const char *pages_check_table(const struct record *rec, const uint8_t *payload);
/* Whether every run lies inside a volume of size bytes. */
bool pages_inside(const struct record *rec, const uint8_t *payload, uint64_t size);

/* Whether some run is a delta. */
bool pages_has_delta(const struct record *rec, const uint8_t *payload);

/* Bytes of data that a checked record has once it is unpacked. */
uint32_t pages_data_size(const struct record *rec, const uint8_t *payload);
/* The data, unpacked: in the payload itself, or in scratch (RECORD_MAX_PAYLOAD bytes).  NULL =
 * damaged. */
const uint8_t *pages_data(
	struct compress *c, const struct record *rec, const uint8_t *payload, uint8_t *scratch);

#endif
