/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* HELLO: encoding, checks, and who may talk to whom. */
#include "core/hello.h"

#include <stdio.h>
#include <string.h>

#include "util/bytes.h"
#include "util/crc.h"

#define HELLO_FLAG_CONSISTENT 1u

size_t hello_encode(uint8_t *buf, const struct hello *h)
{
	struct record rec = {.type = RECORD_HELLO};
	uint8_t *p = buf + RECORD_HEADER_SIZE, *v = p + HELLO_FIXED;

	rec.payload = HELLO_FIXED + h->volumes * HELLO_VOLUME;
	memset(buf, 0, record_size(rec.payload));
	put_le32(p, h->version);
	put_le32(p + 4, h->compat);
	put_le32(p + 8, h->role);
	put_le32(p + 12, h->volumes);
	memcpy(p + 16, h->group.b, 16);
	put_le64(p + 32, h->generation);
	put_le64(p + 40, h->committed);
	put_le64(p + 48, h->journal);
	put_le64(p + 56, h->seen);
	put_le32(p + 64, h->consistent ? HELLO_FLAG_CONSISTENT : 0);
	put_le32(p + 68, h->heartbeat_ms);
	memcpy(p + 72, h->name, strnlen(h->name, HELLO_NAME - 1));
	for (uint32_t i = 0; i < h->volumes; i++, v += HELLO_VOLUME) {
		put_le32(v, h->volume[i].kind);
		put_le64(v + 8, h->volume[i].size);
		memcpy(v + 16, h->volume[i].name, strnlen(h->volume[i].name, HELLO_NAME - 1));
	}
	rec.payload_crc = crc32c(p, rec.payload);
	record_put_header(buf, &rec);
	return record_size(rec.payload);
}

/* A zero-padded name with at least one character and one zero. */
static bool hello_name(const uint8_t *from, char *to)
{
	size_t n = strnlen((const char *)from, HELLO_NAME);

	if (n == 0 || n == HELLO_NAME)
		return false;
	for (size_t i = n; i < HELLO_NAME; i++)
		if (from[i])
			return false;
	memcpy(to, from, HELLO_NAME);
	return true;
}

const char *hello_decode(const uint8_t *p, uint32_t len, struct hello *ret_hello)
{
	struct hello h = {0};
	const uint8_t *v = p + HELLO_FIXED;
	uint32_t role, flags;

	if (len < HELLO_FIXED)
		return "hello is too short";
	h.version = get_le32(p);
	h.compat = get_le32(p + 4);
	if (h.compat > HELLO_VERSION || h.version < HELLO_VERSION || h.compat > h.version)
		return "another protocol version";
	role = get_le32(p + 8);
	if (role != HELLO_PRIMARY && role != HELLO_SECONDARY)
		return "hello with an unknown role";
	h.role = role;
	h.volumes = get_le32(p + 12);
	if (h.volumes < 1 || h.volumes > RECORD_MAX_VOLUMES ||
		len != HELLO_FIXED + h.volumes * HELLO_VOLUME)
		return "hello with a wrong number of volumes";
	memcpy(h.group.b, p + 16, 16);
	h.generation = get_le64(p + 32);
	h.committed = get_le64(p + 40);
	h.journal = get_le64(p + 48);
	h.seen = get_le64(p + 56);
	flags = get_le32(p + 64);
	h.consistent = flags & HELLO_FLAG_CONSISTENT;
	h.heartbeat_ms = get_le32(p + 68);
	if ((flags & ~HELLO_FLAG_CONSISTENT) || get_le64(p + 136) || get_le64(p + 144))
		return "reserved field of the hello is not zero";
	if (h.committed > RECORD_MAX_LENGTH || h.seen > RECORD_MAX_LENGTH ||
		h.generation > RECORD_MAX_LENGTH)
		return "number out of range in the hello";
	if (!hello_name(p + 72, h.name))
		return "bad group name in the hello";
	for (uint32_t i = 0; i < h.volumes; i++, v += HELLO_VOLUME) {
		h.volume[i].kind = get_le32(v);
		h.volume[i].size = get_le64(v + 8);
		if (h.volume[i].kind < HELLO_KIND_DISK || h.volume[i].kind > HELLO_KIND_STATE ||
			get_le32(v + 4) != 0)
			return "unknown kind of volume in the hello";
		if (h.volume[i].size > RECORD_MAX_LENGTH)
			return "volume size out of range in the hello";
		if (!hello_name(v + 16, h.volume[i].name))
			return "bad volume name in the hello";
	}
	*ret_hello = h;
	return NULL;
}

const char *hello_refuse(const struct hello *p, const struct hello *s, char *buf, size_t len)
{
	if (p->role != HELLO_PRIMARY || s->role != HELLO_SECONDARY) {
		snprintf(buf, len, "both nodes are %s",
			p->role == HELLO_PRIMARY ? "primary" : "secondary");
		return buf;
	}
	if (strcmp(p->name, s->name) != 0) {
		snprintf(buf, len, "another group: the primary serves \"%s\", the secondary \"%s\"",
			p->name, s->name);
		return buf;
	}
	if (!uuid_is_zero(&s->group) && !uuid_equal(&p->group, &s->group)) {
		snprintf(buf, len,
			"another group: both are named \"%s\" but their identifiers differ",
			p->name);
		return buf;
	}
	if (p->volumes != s->volumes) {
		snprintf(buf, len,
			"the primary has %u volumes, the secondary %u (are both started with or "
			"without a guest?)",
			p->volumes, s->volumes);
		return buf;
	}
	for (uint32_t i = 0; i < p->volumes; i++) {
		const struct hello_volume *a = &p->volume[i], *b = &s->volume[i];

		if (strcmp(a->name, b->name) != 0 || a->kind != b->kind) {
			snprintf(buf, len,
				"volume number %u is \"%s\" on the primary and \"%s\" on the "
				"secondary",
				i + 1, a->name, b->name);
			return buf;
		}
		if (a->kind == HELLO_KIND_MEMORY && a->size != b->size) {
			snprintf(buf, len,
				"the guest's memory has %llu bytes on the primary and %llu on the "
				"secondary: memory in [guest] must be the same",
				(unsigned long long)a->size, (unsigned long long)b->size);
			return buf;
		}
		if (b->size < a->size) {
			snprintf(buf, len,
				"disk %s is smaller on the secondary (%llu bytes) than on the "
				"primary (%llu)",
				a->name, (unsigned long long)b->size, (unsigned long long)a->size);
			return buf;
		}
	}
	if (s->generation > p->generation) {
		snprintf(buf, len,
			"the secondary's data is newer (generation %llu) than the primary's "
			"(%llu): start that node as the primary, or run init --force on the one "
			"whose data may go",
			(unsigned long long)s->generation, (unsigned long long)p->generation);
		return buf;
	}
	return NULL;
}
