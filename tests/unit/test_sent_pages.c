/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The cache of pages sent last. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/pages.h"
#include "replicator/sent_pages.h"
#include "util/bytes.h"

static uint8_t delta[PAGES_PAGE];

static enum sent_pages_result swap(struct sent_pages *p, uint64_t page, uint8_t value)
{
	uint8_t content[PAGES_PAGE];

	memset(content, value, sizeof(content));
	content[page % PAGES_PAGE] = (uint8_t)~value;
	return sent_pages_swap(p, page, content, delta);
}

static void what_was_sent_last(void **state)
{
	struct sent_pages *p = sent_pages_new(1 << 20, 1 << 20);
	uint8_t both[PAGES_PAGE];

	assert_non_null(p);
	/* as large as the memory: all of it */
	for (uint64_t page = 0; page < 256; page++)
		assert_int_equal(swap(p, page, 1), SENT_PAGES_NEW);
	for (uint64_t page = 0; page < 256; page++)
		assert_int_equal(swap(p, page, 1), SENT_PAGES_EQUAL);
	assert_int_equal(swap(p, 7, 5), SENT_PAGES_DELTA);
	memset(both, 1 ^ 5, sizeof(both));
	assert_memory_equal(delta, both, sizeof(both));
	assert_int_equal(swap(p, 7, 5), SENT_PAGES_EQUAL);
	assert_int_equal(swap(p, 7, 1), SENT_PAGES_DELTA);

	sent_pages_forget(p, 7, 2);
	assert_int_equal(swap(p, 6, 1), SENT_PAGES_EQUAL);
	assert_int_equal(swap(p, 7, 1), SENT_PAGES_NEW);
	assert_int_equal(swap(p, 8, 1), SENT_PAGES_NEW);
	assert_int_equal(swap(p, 9, 1), SENT_PAGES_EQUAL);

	sent_pages_clear(p);
	for (uint64_t page = 0; page < 256; page++)
		assert_int_equal(swap(p, page, 1), SENT_PAGES_NEW);
	sent_pages_free(p);
}

static void the_oldest_of_a_set_gives_way(void **state)
{
	/* one set */
	struct sent_pages *p = sent_pages_new(SENT_PAGES_WAYS * PAGES_PAGE, 1 << 20);

	assert_non_null(p);
	for (uint64_t page = 0; page < SENT_PAGES_WAYS; page++)
		assert_int_equal(swap(p, page, 1), SENT_PAGES_NEW);
	assert_int_equal(swap(p, 0, 1), SENT_PAGES_EQUAL);
	assert_int_equal(swap(p, 100, 1), SENT_PAGES_NEW); /* instead of 1 */
	assert_int_equal(swap(p, 0, 1), SENT_PAGES_EQUAL);
	assert_int_equal(swap(p, 2, 1), SENT_PAGES_EQUAL);
	assert_int_equal(swap(p, 1, 1), SENT_PAGES_NEW); /* instead of 3 */
	assert_int_equal(swap(p, 100, 1), SENT_PAGES_EQUAL);
	sent_pages_forget(p, 4, 1);
	assert_int_equal(swap(p, 101, 1), SENT_PAGES_NEW); /* where 4 was */
	assert_int_equal(swap(p, 5, 1), SENT_PAGES_EQUAL);
	sent_pages_free(p);
}

/* Whatever is sent, the receiver can follow: random pages into a cache that is far too small. */
static void the_differences_add_up(void **state)
{
	enum { PAGES = 64 };

	static uint8_t there[PAGES][PAGES_PAGE];
	struct sent_pages *p = sent_pages_new(16 * PAGES_PAGE, PAGES * PAGES_PAGE);
	unsigned seen[3] = {0};

	assert_non_null(p);
	srand(1);
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t page = (uint64_t)(rand() % (i % 2 ? PAGES : 8));
		uint8_t content[PAGES_PAGE];
		enum sent_pages_result r;

		memset(content, rand() % 3, sizeof(content));
		if (rand() % 50 == 0) {
			sent_pages_forget(p, page, 1);
			memset(there[page], 0, PAGES_PAGE);
			continue;
		}
		r = sent_pages_swap(p, page, content, delta);
		if (r == SENT_PAGES_NEW)
			memcpy(there[page], content, PAGES_PAGE);
		else if (r == SENT_PAGES_DELTA)
			bytes_xor(there[page], delta, PAGES_PAGE);
		seen[r]++;
		assert_memory_equal(there[page], content, PAGES_PAGE);
	}
	for (unsigned i = 0; i < 3; i++)
		assert_true(seen[i] > 1000);
	sent_pages_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_sent_last),
		cmocka_unit_test(the_oldest_of_a_set_gives_way),
		cmocka_unit_test(the_differences_add_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
