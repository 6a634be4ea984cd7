/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* util/: checksums against published values, sizes, errors, mirrored memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "util/bytes.h"
#include "util/crc.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/file.h"
#include "util/units.h"

static void test_crc32c(void **state)
{
	uint8_t buf[32];

	(void)state;
	/* RFC 3720 B.4 */
	assert_int_equal(crc32c("123456789", 9), 0xe3069283u);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(crc32c(buf, sizeof(buf)), 0x8a9136aau);
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(crc32c(buf, sizeof(buf)), 0x62a8ab43u);
}

static void test_crc32c_copy(void **state)
{
	static uint8_t from[100003], to[sizeof(from) + 2];

	(void)state;
	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = (uint8_t)(i * 31 % 251);
	for (size_t len = 0; len <= sizeof(from); len += len < 64 ? 1 : 8317) {
		memset(to, 0xee, sizeof(to));
		assert_int_equal(crc32c_copy(to + 1, from, len), crc32c(from, len));
		assert_memory_equal(to + 1, from, len);
		assert_int_equal(to[0], 0xee);
		assert_int_equal(to[len + 1], 0xee);
	}
	/* Long ones, in pieces: every place of the target in a line of the cache. */
	for (size_t at = 1; at <= 64; at++) {
		size_t len = 65536 + at * 7 % 61;

		memset(to, 0xee, sizeof(to));
		assert_int_equal(
			crc32c_copy(to + at, from + at % 5, len), crc32c(from + at % 5, len));
		assert_memory_equal(to + at, from + at % 5, len);
		assert_int_equal(to[at - 1], 0xee);
		assert_int_equal(to[at + len], 0xee);
	}
}

static void test_units(void **state)
{
	uint64_t v = 0;
	char buf[32];

	(void)state;
	assert_int_equal(units_parse_size("256M", &v), 0);
	assert_int_equal(v, 256u << 20);
	assert_int_equal(units_parse_size("64KiB", &v), 0);
	assert_int_equal(v, 65536);
	assert_int_equal(units_parse_size("64x", &v), -EINVAL);
	assert_int_equal(units_parse_size("-1", &v), -EINVAL);
	assert_int_equal(units_parse_size("99999999E", &v), -ERANGE);
	assert_int_equal(units_parse_u64("12 ", &v), -EINVAL);
	assert_string_equal(units_format_size(1536, buf, sizeof(buf)), "1.5 KiB");
}

static void test_error_text(void **state)
{
	struct error err = {0};

	(void)state;
	assert_int_equal(error_code(&err, -ENOSPC, "journal %s: cannot grow", "j"), -ENOSPC);
	assert_string_equal(err.text, "journal j: cannot grow: No space left on device");
	assert_int_equal(error_prefix(&err, "node %s", "a"), -ENOSPC);
	assert_string_equal(err.text, "node a: journal j: cannot grow: No space left on device");
	assert_int_equal(err.kind, ERROR_IO);
}

static void test_all_zero(void **state)
{
	uint8_t buf[100] = {0};

	(void)state;
	for (size_t n = 0; n <= sizeof(buf); n++)
		assert_true(bytes_all_zero(buf, n));
	for (size_t i = 0; i < sizeof(buf); i++) {
		buf[i] = 1;
		assert_false(bytes_all_zero(buf, sizeof(buf)));
		assert_true(bytes_all_zero(buf, i));
		buf[i] = 0;
	}
}

static void test_mirrored(void **state)
{
	size_t size = 1 << 20;
	void *mem;
	char *p;

	(void)state;
	assert_int_equal(file_map_mirrored(size, &mem), 0);
	p = mem;
	memcpy(p + size - 3, "tandem", 6);
	assert_memory_equal(p, "dem", 3);
	assert_memory_equal(p + size, "dem", 3);
	file_unmap_mirrored(mem, size);
}

static void test_fault_names(void **state)
{
	static const char *const wrong[] = {"agent-nowhere", "agent-cut:0", "agent-cut:x",
		"agent-cut:1:", "agent-cut:1:2:3", "agent", "agent-cut,,agent-cut-"};
	struct error err = {0};

	(void)state;
	unsetenv("TANDEM_FAULT");
	assert_int_equal(fault_init(&err), 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		setenv("TANDEM_FAULT", wrong[i], 1);
		assert_int_equal(fault_init(&err), -EINVAL);
		assert_int_equal(err.kind, ERROR_USAGE);
		assert_false(fault_armed);
	}
	/* A point that is not chosen, and one that is not due, are passed. */
	setenv("TANDEM_FAULT", "agent-cut:2:5,standby-pages", 1);
	assert_int_equal(fault_init(&err), 0);
	assert_true(fault_armed);
	fault_point(FAULT_AGENT_CUT);
	fault_point(FAULT_AGENT_STOP);
	unsetenv("TANDEM_FAULT");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crc32c),
		cmocka_unit_test(test_crc32c_copy),
		cmocka_unit_test(test_units),
		cmocka_unit_test(test_error_text),
		cmocka_unit_test(test_all_zero),
		cmocka_unit_test(test_mirrored),
		cmocka_unit_test(test_fault_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
