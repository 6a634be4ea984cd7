/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Seal files (docs/metadata.md): every field comes back, a byte that is wrong is noticed, samples
 * lie inside the disk, each once; and what identity_changed makes of either role. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "core/identity.h"
#include "core/seal.h"
#include "util/bytes.h"
#include "util/crc.h"

static void fill(struct seal *s)
{
	uint64_t recent[SEAL_RECENT];

	*s = (struct seal){.state = SEAL_CLOSED, .kind = 2};
	for (unsigned i = 0; i < SEAL_RECENT; i++)
		recent[i] = 1000000ull * (i + 1);
	memset(s->identity, 0x5a, sizeof(s->identity));
	seal_choose(s, 1ull << 40, recent, SEAL_RECENT);
	assert_int_equal(s->nsamples, SEAL_SAMPLES);
	for (unsigned i = 0; i < s->nsamples; i++)
		seal_digest(&i, sizeof(i), s->samples[i].digest);
}

static void test_fields(void **state)
{
	uint8_t buf[SEAL_SIZE];
	struct seal s, t;
	bool newer;

	(void)state;
	fill(&s);
	seal_put(buf, &s);
	assert_null(seal_get(buf, &t, &newer));
	assert_int_equal(t.state, s.state);
	assert_int_equal(t.kind, s.kind);
	assert_int_equal(t.size, s.size);
	assert_memory_equal(t.identity, s.identity, sizeof(s.identity));
	for (unsigned i = 0; i < s.nsamples; i++) {
		assert_int_equal(t.samples[i].off, s.samples[i].off);
		assert_int_equal(t.samples[i].len, s.samples[i].len);
		assert_int_equal(t.samples[i].recent, i < SEAL_RECENT);
		assert_memory_equal(t.samples[i].digest, s.samples[i].digest, SEAL_DIGEST);
	}
	for (unsigned at = 0; at < SEAL_SIZE; at++) {
		buf[at] ^= 0x10;
		assert_non_null(seal_get(buf, &t, &newer));
		assert_false(newer);
		buf[at] ^= 0x10;
	}
}

static void test_refused(void **state)
{
	static const struct {
		unsigned at;
		uint32_t value;
		const char *why;
	} wrong[] = {{12, 2, "newer"}, {16, 0, "range"}, {16, 3, "range"},
		{64, SEAL_SAMPLES + 1, "range"}, {128 + 8, 0, "outside"},
		{128 + 8, SEAL_BLOCK + 1, "outside"}, {128 + 4, 256, "outside"},
		/* behind the end */ {24, 0, "outside"}};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		uint8_t buf[SEAL_SIZE];
		struct seal s;
		const char *why;
		bool newer;

		fill(&s);
		seal_put(buf, &s);
		put_le32(buf + wrong[i].at, wrong[i].value);
		if (wrong[i].at == 24)
			put_le32(buf + 28, 0);
		put_le32(buf + SEAL_SIZE - 4, crc32c(buf, SEAL_SIZE - 4));
		why = seal_get(buf, &s, &newer);
		if (!why || !strstr(why, wrong[i].why))
			fail_msg("field %u = %u: %s", wrong[i].at, wrong[i].value,
				why ? why : "valid");
		assert_int_equal(newer, wrong[i].at == 12);
	}
}

static void test_samples(void **state)
{
	static const uint64_t sizes[] = {1, 512, 4096, 4097, 8192, 100000, 1ull << 50};
	uint64_t recent[SEAL_RECENT];

	(void)state;
	for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
		struct seal s = {.state = SEAL_CLOSED, .kind = 1};
		bool end = false;

		for (unsigned i = 0; i < SEAL_RECENT; i++)
			recent[i] = i % 3 ? sizes[k] / (i + 1) : UINT64_MAX;
		seal_choose(&s, sizes[k], recent, SEAL_RECENT);
		assert_true(s.nsamples >= 1 && s.nsamples <= SEAL_SAMPLES);
		for (unsigned i = 0; i < s.nsamples; i++) {
			const struct seal_sample *a = &s.samples[i];

			assert_true(a->len > 0 && a->off + a->len <= sizes[k]);
			end |= a->off + a->len + SEAL_BLOCK >= sizes[k];
			for (unsigned j = 0; j < i; j++)
				assert_true(s.samples[j].off != a->off);
		}
		assert_int_equal(s.samples[0].off == 0 || s.nsamples > 1, 1);
		assert_true(end);
	}
}

static void test_identity(void **state)
{
	struct identity p = {.role = IDENTITY_PRIMARY,
		.volumes = 1,
		.current = {3, 7},
		.base = {3, 7},
		.top = 3,
		.consistent = true,
		.shared = true,
		.clean = true};
	struct identity s = p, fresh = p;
	struct identity_decision d;

	(void)state;
	s.role = IDENTITY_SECONDARY;
	s.tracked = p.tracked = fresh.tracked = true;
	/* a sync that was under way, and may stand in the journal, is not for these disks */
	p.next = s.next = (struct identity_next){.generation = {9, 9}, .floor = 5};
	identity_changed(&p, 99);
	/* a line of its own, so that it is nobody's but its own if the other one is promoted */
	assert_int_equal(p.current.number, 4);
	assert_int_equal(p.history[0].number, 3);
	assert_true(p.consistent && !p.unwritten && !p.clean);
	p.tracked = false; /* the map is gone */
	identity_decide(&p, &s, &d);
	assert_int_equal(d.action, IDENTITY_SYNC_FULL);

	identity_changed(&s, 99);
	assert_true(identity_is_none(&p.next.generation) && identity_is_none(&s.next.generation));
	assert_false(s.consistent);
	assert_non_null(identity_refuse_promotion(&s));
	identity_decide(&fresh, &s, &d);
	assert_int_equal(d.action, IDENTITY_SYNC_FULL);
	assert_string_equal(d.row, "damaged");
	assert_false(d.keeps_state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fields),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_samples),
		cmocka_unit_test(test_identity),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
