/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* record_check and hello_decode on arbitrary bytes: what they accept obeys the limits that the rest
 * of the code relies on.  Input: records, one behind the other. */
#include <string.h>

#include "core/hello.h"
#include "core/record.h"
#include "fuzz.h"

static void fuzz_accepted(const struct record *rec, size_t size, const uint8_t *buf, bool known)
{
	uint8_t again[RECORD_HEADER_SIZE];

	FUZZ_REQUIRE(rec->payload <= RECORD_MAX_PAYLOAD);
	FUZZ_REQUIRE(size == record_size(rec->payload));
	FUZZ_REQUIRE(known == !(rec->type & RECORD_OPTIONAL));
	record_put_header(again, rec);
	FUZZ_REQUIRE(memcmp(again, buf, sizeof(again)) == 0);
	if (!record_is_change(rec))
		return;
	FUZZ_REQUIRE(rec->volume < RECORD_MAX_VOLUMES && rec->epoch > 0 && rec->length > 0);
	FUZZ_REQUIRE(rec->offset + rec->length <= 1ull << 63);
	FUZZ_REQUIRE(rec->payload == (rec->type == RECORD_WRITE ? rec->length : 0));
}

static void fuzz_hello(const uint8_t *payload, uint32_t len)
{
	uint8_t again[RECORD_HEADER_SIZE + HELLO_FIXED + RECORD_MAX_VOLUMES * HELLO_VOLUME];
	struct hello h;

	if (hello_decode(payload, len, &h))
		return;
	FUZZ_REQUIRE(h.id.volumes >= 1 && h.id.volumes <= RECORD_MAX_VOLUMES);
	FUZZ_REQUIRE(strnlen(h.id.name, IDENTITY_NAME) < IDENTITY_NAME);
	(void)hello_encode(again, &h);
	FUZZ_REQUIRE(memcmp(again + RECORD_HEADER_SIZE, payload, len) == 0);
}

/* All records that stand in buf, as far as they are valid. */
static void fuzz_walk(const uint8_t *buf, size_t len, enum record_place place)
{
	size_t at = 0;

	while (at <= len) {
		struct record rec;
		const char *why = NULL;
		size_t size = 0;
		enum record_verdict v =
			record_check(buf + at, len - at, place, false, 0, &rec, &size, &why);

		if (v == RECORD_SHORT) {
			FUZZ_REQUIRE(size > len - at && size <= RECORD_MAX_SIZE);
			return;
		}
		if (v == RECORD_BAD) {
			FUZZ_REQUIRE(why);
			return;
		}
		FUZZ_REQUIRE(v == RECORD_OK || v == RECORD_UNKNOWN);
		FUZZ_REQUIRE(size <= len - at);
		fuzz_accepted(&rec, size, buf + at, v == RECORD_OK);
		if (rec.type == RECORD_HELLO)
			fuzz_hello(buf + at + RECORD_HEADER_SIZE, rec.payload);
		/* The number is what makes it another record. */
		FUZZ_REQUIRE(record_check(buf + at, len - at, place, true, rec.seq + 1, &rec, &size,
				     &why) == RECORD_BAD);
		at += size;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const enum record_place places[] = {
		RECORD_FROM_PRIMARY, RECORD_FROM_SECONDARY, RECORD_IN_JOURNAL};
	uint8_t *copy = malloc(size + 1);
	size_t at = 0, n;

	for (size_t i = 0; i < 3; i++)
		fuzz_walk(data, size, places[i]);
	fuzz_hello(data, size > UINT32_MAX ? UINT32_MAX : (uint32_t)size);
	memcpy(copy, data, size);
	while ((n = fuzz_repair_record(copy + at, size - at)) > 0) {
		for (size_t i = 0; i < 3; i++)
			fuzz_walk(copy + at, n, places[i]);
		at += n;
	}
	free(copy);
	return 0;
}
