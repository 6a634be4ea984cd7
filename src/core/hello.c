/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* HELLO: encoding and checks. */
#include "core/hello.h"

#include <string.h>

#include "util/bytes.h"
#include "util/crc.h"

#define HELLO_AT_NAME 112u
#define HELLO_AT_HISTORY 176u
#define HELLO_AT_RESERVED 432u

enum hello_flags {
	HELLO_CONSISTENT = 1,
	HELLO_SYNCING = 2,
	HELLO_UNWRITTEN = 4,
	HELLO_YIELDED = 8,
	HELLO_TRACKED = 16,
	HELLO_CLONES = 32,
	HELLO_FLAGS = 63,
};

void hello_put_generation(uint8_t *p, const struct identity_generation *g)
{
	put_le64(p, g->number);
	put_le64(p + 8, g->id);
}

bool hello_get_generation(const uint8_t *p, struct identity_generation *ret_generation)
{
	struct identity_generation g = {get_le64(p), get_le64(p + 8)};

	if (g.number > RECORD_MAX_LENGTH || (g.number == 0) != (g.id == 0))
		return false;
	*ret_generation = g;
	return true;
}

void hello_put_history(uint8_t *p, const struct identity_generation *h, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		hello_put_generation(p + 16 * i, &h[i]);
}

bool hello_get_history(
	const uint8_t *p, struct identity_generation *ret_history, uint32_t count, uint64_t above)
{
	if (count > IDENTITY_HISTORY)
		return false;
	for (uint32_t i = 0; i < IDENTITY_HISTORY; i++) {
		if (!hello_get_generation(p + 16 * i, &ret_history[i]) ||
			identity_is_none(&ret_history[i]) != (i >= count) ||
			(above && i < count && ret_history[i].number >= above))
			return false;
		above = ret_history[i].number;
	}
	return true;
}

void hello_put_volume(uint8_t *p, const struct identity_volume *v)
{
	put_le32(p, v->kind);
	put_le64(p + 8, v->size);
	memcpy(p + 16, v->uuid.b, 16);
	memcpy(p + 32, v->name, strnlen(v->name, IDENTITY_NAME - 1));
}

/* A zero-padded name with at least one character and one zero. */
static bool hello_name(const uint8_t *from, char *to)
{
	size_t n = strnlen((const char *)from, IDENTITY_NAME);

	if (n == 0 || n == IDENTITY_NAME)
		return false;
	for (size_t i = n; i < IDENTITY_NAME; i++)
		if (from[i])
			return false;
	memcpy(to, from, IDENTITY_NAME);
	return true;
}

const char *hello_get_volume(const uint8_t *p, struct identity_volume *ret_volume)
{
	struct identity_volume v = {.kind = get_le32(p), .size = get_le64(p + 8)};

	memcpy(v.uuid.b, p + 16, 16);
	if (v.kind < IDENTITY_KIND_DISK || v.kind > IDENTITY_KIND_STATE || get_le32(p + 4) != 0)
		return "unknown kind of volume";
	if (v.size > RECORD_MAX_LENGTH)
		return "volume size out of range";
	if (!hello_name(p + 32, v.name))
		return "bad volume name";
	*ret_volume = v;
	return NULL;
}

size_t hello_encode(uint8_t *buf, const struct hello *h)
{
	struct record rec = {.type = RECORD_HELLO};
	uint8_t *p = buf + RECORD_HEADER_SIZE;
	const struct identity *id = &h->id;

	rec.payload = HELLO_FIXED + id->volumes * HELLO_VOLUME;
	memset(buf, 0, record_size(rec.payload));
	put_le32(p, h->version);
	put_le32(p + 4, h->compat);
	put_le32(p + 8, id->role);
	put_le32(p + 12, id->volumes);
	memcpy(p + 16, id->group.b, 16);
	hello_put_generation(p + 32, &id->current);
	hello_put_generation(p + 48, &id->base);
	put_le64(p + 64, id->top);
	put_le64(p + 72, h->committed);
	put_le64(p + 80, h->journal);
	put_le64(p + 88, h->seen);
	put_le32(p + 96,
		(id->consistent ? HELLO_CONSISTENT : 0) | (id->syncing ? HELLO_SYNCING : 0) |
			(id->unwritten ? HELLO_UNWRITTEN : 0) | (id->yielded ? HELLO_YIELDED : 0) |
			(id->tracked ? HELLO_TRACKED : 0) | (h->clones ? HELLO_CLONES : 0));
	put_le32(p + 100, h->heartbeat_ms);
	put_le32(p + 104, id->nhistory);
	put_le32(p + 108, id->unwritten_history);
	memcpy(p + HELLO_AT_NAME, id->name, strnlen(id->name, IDENTITY_NAME - 1));
	hello_put_history(p + HELLO_AT_HISTORY, id->history, id->nhistory);
	for (uint32_t i = 0; i < id->volumes; i++)
		hello_put_volume(p + HELLO_FIXED + i * HELLO_VOLUME, &id->volume[i]);
	rec.payload_crc = crc32c(p, rec.payload);
	record_put_header(buf, &rec);
	return record_size(rec.payload);
}

/* What was in the first version's place too stands here first: versions, role, volumes. */
static const char *hello_decode_identity(const uint8_t *p, uint32_t len, struct identity *id)
{
	uint32_t role = get_le32(p + 8), flags = get_le32(p + 96);
	const char *why;

	if (role != IDENTITY_PRIMARY && role != IDENTITY_SECONDARY)
		return "hello with an unknown role";
	id->role = role;
	id->volumes = get_le32(p + 12);
	if (id->volumes < 1 || id->volumes > RECORD_MAX_VOLUMES ||
		len != HELLO_FIXED + id->volumes * HELLO_VOLUME)
		return "hello with a wrong number of volumes";
	memcpy(id->group.b, p + 16, 16);
	id->top = get_le64(p + 64);
	id->nhistory = get_le32(p + 104);
	id->unwritten_history = get_le32(p + 108);
	if (!hello_get_generation(p + 32, &id->current) ||
		!hello_get_generation(p + 48, &id->base) || id->top > RECORD_MAX_LENGTH ||
		id->top < id->current.number || id->top < id->base.number ||
		!hello_get_history(
			p + HELLO_AT_HISTORY, id->history, id->nhistory, id->current.number))
		return "bad generation in the hello";
	if ((flags & ~HELLO_FLAGS) || id->unwritten_history >> id->nhistory ||
		!bytes_all_zero(p + HELLO_AT_RESERVED, HELLO_FIXED - HELLO_AT_RESERVED))
		return "reserved field of the hello is not zero";
	id->consistent = flags & HELLO_CONSISTENT;
	id->syncing = flags & HELLO_SYNCING;
	id->unwritten = flags & HELLO_UNWRITTEN;
	id->yielded = flags & HELLO_YIELDED;
	id->tracked = flags & HELLO_TRACKED;
	if (!hello_name(p + HELLO_AT_NAME, id->name))
		return "bad group name in the hello";
	for (uint32_t i = 0; i < id->volumes; i++) {
		why = hello_get_volume(p + HELLO_FIXED + i * HELLO_VOLUME, &id->volume[i]);
		if (why)
			return why;
	}
	return NULL;
}

const char *hello_decode(const uint8_t *p, uint32_t len, struct hello *ret_hello)
{
	struct hello h = {0};
	const char *why;

	if (len < 16)
		return "hello is too short";
	h.version = get_le32(p);
	h.compat = get_le32(p + 4);
	if (h.compat > HELLO_VERSION || h.version < HELLO_VERSION || h.compat > h.version)
		return "another version of the protocol: run the same version of Tandem on both "
		       "nodes";
	if (len < HELLO_FIXED)
		return "hello is too short";
	why = hello_decode_identity(p, len, &h.id);
	if (why)
		return why;
	h.committed = get_le64(p + 72);
	h.journal = get_le64(p + 80);
	h.seen = get_le64(p + 88);
	h.heartbeat_ms = get_le32(p + 100);
	h.clones = get_le32(p + 96) & HELLO_CLONES;
	if (h.clones && h.id.role != IDENTITY_SECONDARY)
		return "clones offered by a primary";
	if (h.committed > RECORD_MAX_LENGTH || h.seen > RECORD_MAX_LENGTH)
		return "number out of range in the hello";
	*ret_hello = h;
	return NULL;
}
