/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The seal file's format. */
#include "core/seal.h"

#include <string.h>

#include "core/memcheck.h"
#include "util/bytes.h"
#include "util/crc.h"

#define SEAL_MAGIC 0x314c414553444e54ull /* "TNDSEAL1" */
#define SEAL_VERSION 1u
#define SEAL_AT_SAMPLES 128u
#define SEAL_SAMPLE 32u

void seal_put(uint8_t *buf, const struct seal *s)
{
	memset(buf, 0, SEAL_SIZE);
	put_le64(buf, SEAL_MAGIC);
	put_le32(buf + 8, SEAL_VERSION);
	put_le32(buf + 12, SEAL_VERSION);
	put_le32(buf + 16, s->state);
	put_le32(buf + 20, s->kind);
	put_le64(buf + 24, s->size);
	memcpy(buf + 32, s->identity, SEAL_IDENTITY);
	put_le32(buf + 64, s->nsamples);
	for (uint32_t i = 0; i < s->nsamples; i++) {
		uint8_t *p = buf + SEAL_AT_SAMPLES + i * SEAL_SAMPLE;

		put_le64(p, s->samples[i].off);
		put_le32(p + 8, s->samples[i].len);
		put_le32(p + 12, s->samples[i].recent);
		memcpy(p + 16, s->samples[i].digest, SEAL_DIGEST);
	}
	put_le32(buf + SEAL_SIZE - 4, crc32c(buf, SEAL_SIZE - 4));
}

const char *seal_get(const uint8_t *buf, struct seal *ret_seal, bool *ret_newer)
{
	struct seal s = {0};

	*ret_newer = false;
	if (get_le64(buf) != SEAL_MAGIC)
		return "it is not a seal file of Tandem";
	if (get_le32(buf + SEAL_SIZE - 4) != crc32c(buf, SEAL_SIZE - 4))
		return "checksum error";
	*ret_newer = get_le32(buf + 12) > SEAL_VERSION;
	if (*ret_newer)
		return "it was written by a newer version of Tandem";
	s.state = get_le32(buf + 16);
	s.kind = get_le32(buf + 20);
	s.size = get_le64(buf + 24);
	memcpy(s.identity, buf + 32, SEAL_IDENTITY);
	s.nsamples = get_le32(buf + 64);
	if ((s.state != SEAL_OPEN && s.state != SEAL_CLOSED) || s.nsamples > SEAL_SAMPLES)
		return "field out of range";
	for (uint32_t i = 0; i < s.nsamples; i++) {
		const uint8_t *p = buf + SEAL_AT_SAMPLES + i * SEAL_SAMPLE;
		struct seal_sample *a = &s.samples[i];

		a->off = get_le64(p);
		a->len = get_le32(p + 8);
		a->recent = get_le32(p + 12) != 0;
		memcpy(a->digest, p + 16, SEAL_DIGEST);
		if (a->len == 0 || a->len > SEAL_BLOCK || a->off >= s.size ||
			s.size - a->off < a->len)
			return "block outside the disk";
	}
	*ret_seal = s;
	return NULL;
}

static void seal_add(struct seal *s, uint64_t size, uint64_t off, bool recent)
{
	off = round_down(off, SEAL_BLOCK);
	if (off >= size)
		return;
	for (uint32_t i = 0; i < s->nsamples; i++)
		if (s->samples[i].off == off)
			return;
	s->samples[s->nsamples++] = (struct seal_sample){
		.off = off, .len = (uint32_t)min_u64(SEAL_BLOCK, size - off), .recent = recent};
}

void seal_choose(struct seal *s, uint64_t size, const uint64_t *recent, unsigned count)
{
	s->size = size;
	s->nsamples = 0;
	for (unsigned i = 0; i < count && i < SEAL_RECENT; i++)
		seal_add(s, size, recent[i], true);
	for (uint64_t i = 0; i < SEAL_SPREAD && size > 0; i++)
		seal_add(s, size, (size - 1) / (SEAL_SPREAD - 1) * i, false);
}

void seal_digest(const void *data, uint32_t len, uint8_t ret_digest[SEAL_DIGEST])
{
	memcheck_digest(data, len, NULL, 0, ret_digest);
}
