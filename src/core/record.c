/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Records: encoding, and the one validation of everything that comes from outside. */
#include "core/record.h"

#include "core/memcheck.h"
#include "core/pages.h"
#include "util/bytes.h"
#include "util/crc.h"

/* What each type may carry; the table is the type rules of docs/stream.md. */
enum record_epoch { EPOCH_NONE, EPOCH_NEEDED, EPOCH_OPTIONAL };

struct record_rule {
	uint16_t type;
	const char *name;
	uint8_t places;
	uint16_t flags;       /* allowed */
	uint32_t max_payload; /* 0 = none */
	bool volume;          /* has a volume, an offset and a length on it */
	enum record_epoch epoch;
};

static const struct record_rule record_rules[] = {
	{RECORD_HELLO, "HELLO", RECORD_FROM_PRIMARY | RECORD_FROM_SECONDARY, 0, 512 + 64 * 96,
		false, EPOCH_NONE},
	{RECORD_WRITE, "WRITE", RECORD_FROM_PRIMARY | RECORD_IN_JOURNAL, RECORD_FLAG_SYNC,
		RECORD_MAX_PAYLOAD, true, EPOCH_NEEDED},
	{RECORD_ZERO, "ZERO", RECORD_FROM_PRIMARY | RECORD_IN_JOURNAL,
		RECORD_FLAG_SYNC | RECORD_FLAG_UNMAP, 0, true, EPOCH_NEEDED},
	{RECORD_SEAL, "SEAL", RECORD_FROM_PRIMARY | RECORD_IN_JOURNAL, RECORD_FLAG_MERGE, 0, false,
		EPOCH_NEEDED},
	{RECORD_SYNC_BEGIN, "SYNC_BEGIN", RECORD_FROM_PRIMARY, 0, 0, false, EPOCH_NEEDED},
	{RECORD_SYNC_END, "SYNC_END", RECORD_FROM_PRIMARY, 0, 0, false, EPOCH_NEEDED},
	{RECORD_ACK_RECEIVED, "ACK_RECEIVED", RECORD_FROM_SECONDARY, 0, 0, false, EPOCH_OPTIONAL},
	{RECORD_ACK_COMMITTED, "ACK_COMMITTED", RECORD_FROM_SECONDARY, 0, 0, false, EPOCH_NEEDED},
	{RECORD_HEARTBEAT, "HEARTBEAT", RECORD_FROM_PRIMARY | RECORD_FROM_SECONDARY, 0, 0, false,
		EPOCH_NONE},
	{RECORD_GOODBYE, "GOODBYE", RECORD_FROM_PRIMARY | RECORD_FROM_SECONDARY, 0, RECORD_MAX_TEXT,
		false, EPOCH_NONE},
	{RECORD_PAGES, "PAGES", RECORD_FROM_PRIMARY, RECORD_FLAG_LZ4 | RECORD_FLAG_ZSTD,
		RECORD_MAX_PAYLOAD, true, EPOCH_NEEDED},
	{RECORD_STATE, "STATE", RECORD_FROM_PRIMARY, RECORD_FLAG_LZ4 | RECORD_FLAG_ZSTD,
		RECORD_MAX_PAYLOAD, true, EPOCH_NEEDED},
	{RECORD_MAP, "MAP", RECORD_FROM_SECONDARY, RECORD_FLAG_HELD, RECORD_MAX_MAP, true,
		EPOCH_NONE},
	{RECORD_MAP_END, "MAP_END", RECORD_FROM_SECONDARY, 0, 0, false, EPOCH_NONE},
	{RECORD_ACK_SYNCED, "ACK_SYNCED", RECORD_FROM_SECONDARY, 0, 0, false, EPOCH_NONE},
	{RECORD_DIGEST, "DIGEST", RECORD_FROM_PRIMARY, RECORD_FLAG_FROZEN | RECORD_FLAG_HELD,
		RECORD_MAX_DIGEST, true, EPOCH_OPTIONAL},
	{RECORD_DIFFER, "DIFFER", RECORD_FROM_SECONDARY, 0, 16, true, EPOCH_NONE},
	{RECORD_CHECK, "CHECK", RECORD_FROM_PRIMARY, 0, MEMCHECK_RECORD *MEMCHECK_DIGEST, true,
		EPOCH_NEEDED},
	{RECORD_CHECKED, "CHECKED", RECORD_FROM_SECONDARY, 0, MEMCHECK_RANGES *MEMCHECK_RANGE,
		false, EPOCH_NEEDED},
	{RECORD_GROW, "GROW", RECORD_FROM_PRIMARY, 0, 0, true, EPOCH_NONE},
	{RECORD_GROWN, "GROWN", RECORD_FROM_SECONDARY, 0, 0, true, EPOCH_NONE},
	{RECORD_FREEZE, "FREEZE", RECORD_FROM_PRIMARY, 0, 0, false, EPOCH_NEEDED},
	{RECORD_THAW, "THAW", RECORD_FROM_PRIMARY, 0, 0, false, EPOCH_NONE},
	{RECORD_FROZEN, "FROZEN", RECORD_FROM_SECONDARY, 0, 0, false, EPOCH_NEEDED},
	{RECORD_STANDBY, "STANDBY", RECORD_FROM_SECONDARY, 0, RECORD_MAX_TEXT, false, EPOCH_NONE},
	{RECORD_COMMIT, "COMMIT", RECORD_IN_JOURNAL, 0, 0, false, EPOCH_NEEDED},
	{RECORD_DISCARD, "DISCARD", RECORD_IN_JOURNAL, 0, 0, false, EPOCH_NONE},
};

static const struct record_rule *record_find_rule(uint16_t type)
{
	for (size_t i = 0; i < sizeof(record_rules) / sizeof(record_rules[0]); i++)
		if (record_rules[i].type == type)
			return &record_rules[i];
	return NULL;
}

const char *record_type_name(uint16_t type)
{
	const struct record_rule *rule = record_find_rule(type);

	return rule ? rule->name : "unknown";
}

const char *record_sync_name(enum record_sync kind)
{
	static const char *const names[RECORD_SYNC_KINDS] = {
		"in-place", "staged", "clones", "staged"};

	return names[kind];
}

void record_put_header(uint8_t *buf, const struct record *rec)
{
	put_le32(buf, RECORD_MAGIC);
	put_le16(buf + 4, rec->type);
	put_le16(buf + 6, rec->flags);
	put_le32(buf + 8, rec->volume);
	put_le32(buf + 12, rec->payload);
	put_le64(buf + 16, rec->epoch);
	put_le64(buf + 24, rec->offset);
	put_le64(buf + 32, rec->length);
	put_le64(buf + 40, rec->seq);
	put_le32(buf + 48, rec->payload ? rec->payload_crc : 0);
	put_le64(buf + 52, 0);
	put_le32(buf + 60, crc32c(buf, 60));
}

static void record_get_header(const uint8_t *buf, struct record *ret_rec)
{
	ret_rec->type = get_le16(buf + 4);
	ret_rec->flags = get_le16(buf + 6);
	ret_rec->volume = get_le32(buf + 8);
	ret_rec->payload = get_le32(buf + 12);
	ret_rec->epoch = get_le64(buf + 16);
	ret_rec->offset = get_le64(buf + 24);
	ret_rec->length = get_le64(buf + 32);
	ret_rec->seq = get_le64(buf + 40);
	ret_rec->payload_crc = get_le32(buf + 48);
}

/* NULL = the fields obey the rule of the type. */
static const char *record_check_rule(
	const struct record *rec, const struct record_rule *rule, enum record_place place)
{
	if (!(rule->places & place))
		return "type not allowed here";
	if (rec->flags & ~rule->flags)
		return "unknown flags";
	if (rec->payload > rule->max_payload)
		return "payload too long";
	if (rule->epoch != EPOCH_OPTIONAL && (rule->epoch == EPOCH_NEEDED) != (rec->epoch != 0))
		return "epoch missing or not expected";
	if (!rule->volume)
		return rec->volume ? "volume not expected" : NULL;
	if (rec->volume >= RECORD_MAX_VOLUMES)
		return "volume out of range";
	if (rec->length == 0 || rec->length > RECORD_MAX_LENGTH || rec->offset > RECORD_MAX_LENGTH)
		return "offset or length out of range";
	if (rec->type == RECORD_WRITE && rec->length != rec->payload)
		return "length of a write differs from its payload";
	if ((rec->type == RECORD_GROW || rec->type == RECORD_GROWN) && rec->offset)
		return "offset not expected";
	if (record_is_memory(rec))
		return pages_check_header(rec);
	if (rec->type == RECORD_CHECK)
		return memcheck_check_record(rec);
	return NULL;
}

enum record_verdict record_check(const uint8_t *buf, size_t len, enum record_place place,
	bool check_seq, uint64_t seq, struct record *ret_rec, size_t *ret_size,
	const char **ret_why)
{
	return record_check_piece(
		buf, len, place, check_seq, seq, NULL, ret_rec, ret_size, ret_why);
}

/* Up to where the payload is there. */
static void record_sum_add(struct record_sum *sum, const uint8_t *payload, size_t have)
{
	sum->crc = crc32c_extend(sum->crc, payload + sum->len, have - sum->len);
	sum->len = (uint32_t)have;
}

enum record_verdict record_check_piece(const uint8_t *buf, size_t len, enum record_place place,
	bool check_seq, uint64_t seq, struct record_sum *sum, struct record *ret_rec,
	size_t *ret_size, const char **ret_why)
{
	struct record_sum whole = {0};
	const struct record_rule *rule;
	struct record rec;
	size_t size;

	if (len < RECORD_HEADER_SIZE) {
		*ret_size = RECORD_HEADER_SIZE;
		return RECORD_SHORT;
	}
	*ret_why = "bad magic";
	if (get_le32(buf) != RECORD_MAGIC)
		return RECORD_BAD;
	*ret_why = "bad header checksum";
	if (get_le32(buf + 60) != crc32c(buf, 60))
		return RECORD_BAD;
	*ret_why = "reserved field is not zero";
	if (get_le64(buf + 52) != 0)
		return RECORD_BAD;
	record_get_header(buf, &rec);
	rule = record_find_rule(rec.type);
	*ret_why = "unknown mandatory record type";
	if (!rule && !(rec.type & RECORD_OPTIONAL))
		return RECORD_BAD;
	*ret_why = "payload over the limit";
	if (rec.payload > RECORD_MAX_PAYLOAD)
		return RECORD_BAD;
	*ret_why = "sequence number is not the next one";
	if (check_seq && rec.seq != seq)
		return RECORD_BAD;
	if (rule) {
		*ret_why = record_check_rule(&rec, rule, place);
		if (*ret_why)
			return RECORD_BAD;
	}
	size = record_size(rec.payload);
	if (!sum && len >= size)
		sum = &whole;
	if (sum)
		record_sum_add(sum, buf + RECORD_HEADER_SIZE,
			min_u64(len - RECORD_HEADER_SIZE, rec.payload));
	if (len < size) {
		*ret_size = size;
		return RECORD_SHORT;
	}
	*ret_why = "bad payload checksum";
	if (sum->crc != rec.payload_crc)
		return RECORD_BAD;
	*ret_why = "padding is not zero";
	for (size_t i = RECORD_HEADER_SIZE + rec.payload; i < size; i++)
		if (buf[i])
			return RECORD_BAD;
	if (rule && rec.type == RECORD_PAGES) {
		*ret_why = pages_check_table(&rec, buf + RECORD_HEADER_SIZE);
		if (*ret_why)
			return RECORD_BAD;
	}
	*sum = (struct record_sum){0};
	*ret_why = NULL;
	*ret_rec = rec;
	*ret_size = size;
	return rule ? RECORD_OK : RECORD_UNKNOWN;
}
