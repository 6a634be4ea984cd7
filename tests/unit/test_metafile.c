/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* group.meta (docs/metadata.md): every field comes back, a torn write leaves the one before, what
 * is not whole or of another version is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "replicator/metafile.h"
#include "util/bytes.h"
#include "util/crc.h"

#define SLOT 8192

static char path[] = "/tmp/tandem-metafile.XXXXXX";

static void fill(struct metadata *m)
{
	struct identity *id = &m->id;

	*m = (struct metadata){.committed = 77, .seen = 1ull << 40, .cloned = 1ull << 39 | 5};
	memset(id->group.b, 0x5a, sizeof(id->group.b));
	id->role = IDENTITY_SECONDARY;
	id->volumes = RECORD_MAX_VOLUMES;
	for (uint32_t i = 0; i < id->volumes; i++) {
		id->volume[i].kind = 1 + i % 3;
		id->volume[i].size = 512ull * (i + 1) << 20;
		id->volume[i].uuid.b[15] = (uint8_t)i;
		snprintf(id->volume[i].name, IDENTITY_NAME, "disk%059u", i);
	}
	id->current = (struct identity_generation){99, UINT64_MAX};
	id->base = (struct identity_generation){83, 1};
	id->top = 1ull << 62;
	id->nhistory = id->next.nhistory = IDENTITY_HISTORY;
	id->next.generation = (struct identity_generation){120, 7};
	id->next.floor = 4711;
	for (uint32_t i = 0; i < IDENTITY_HISTORY; i++) {
		id->history[i] = (struct identity_generation){98 - i, 1000 + i};
		id->next.history[i] = (struct identity_generation){119 - i, 2000 + i};
	}
	id->unwritten_history = 0x8001;
	id->next.unwritten_history = 0x7ffe;
}

static void create(const struct metadata *m)
{
	struct error err;

	assert_int_equal(metafile_create(path, m, true, &err), 0);
}

static int open_it(struct metafile *f, struct error *err)
{
	*f = (struct metafile){.fd = -1};
	return metafile_open(f, path, err);
}

static void same(const struct metadata *have, const struct metadata *want)
{
	struct metadata w = *want;

	w.serial = have->serial;
	assert_memory_equal(have, &w, sizeof(w));
}

static void test_every_field(void **state)
{
	struct metadata m;
	struct metafile f;
	struct error err;

	(void)state;
	fill(&m);
	create(&m);
	assert_int_equal(open_it(&f, &err), 0);
	same(&f.now, &m);
	/* each flag by itself, and each slot */
	for (unsigned flag = 0; flag < 9; flag++) {
		bool *flags[] = {&m.id.consistent, &m.id.superseded, &m.id.clean, &m.id.syncing,
			&m.id.unwritten, &m.id.yielded, &m.id.shared, &m.id.next.full, &m.draining};

		for (unsigned i = 0; i < 9; i++)
			*flags[i] = i == flag;
		m.committed++;
		assert_int_equal(metafile_write(&f, &m, &err), 0);
		metafile_close(&f);
		assert_int_equal(open_it(&f, &err), 0);
		same(&f.now, &m);
	}
	metafile_close(&f);
}

static void spoil(off_t at, uint8_t with)
{
	int fd = open(path, O_RDWR);
	uint8_t b;

	assert_int_equal(pread(fd, &b, 1, at), 1);
	b ^= with;
	assert_int_equal(pwrite(fd, &b, 1, at), 1);
	close(fd);
}

/* Any byte of the newest slot wrong: the one before counts.  Of both: refused. */
static void test_torn(void **state)
{
	struct metadata first, second;
	struct metafile f;
	struct error err;
	off_t newest;

	(void)state;
	fill(&first);
	create(&first);
	assert_int_equal(open_it(&f, &err), 0);
	second = first;
	second.committed = 78;
	assert_int_equal(metafile_write(&f, &second, &err), 0);
	newest = (off_t)(f.now.serial % 2 * SLOT);
	metafile_close(&f);
	for (off_t at = 0; at < SLOT; at += at < 1200 ? 1 : 97) {
		spoil(newest + at, 0x10);
		assert_int_equal(open_it(&f, &err), 0);
		same(&f.now, &first);
		metafile_close(&f);
		spoil(newest + at, 0x10);
	}
	assert_int_equal(open_it(&f, &err), 0);
	same(&f.now, &second);
	metafile_close(&f);
	spoil(100, 1);
	spoil(SLOT + 100, 1);
	assert_true(open_it(&f, &err) < 0);
	assert_non_null(strstr(err.text, path));
	assert_non_null(strstr(err.text, "checksum"));
}

/* Both slots, with a field changed and the checksum made right. */
static void rewrite(off_t field, uint32_t value)
{
	uint8_t buf[SLOT];
	int fd = open(path, O_RDWR);

	for (off_t at = 0; at < 2 * SLOT; at += SLOT) {
		assert_int_equal(pread(fd, buf, SLOT, at), SLOT);
		put_le32(buf + field, value);
		put_le32(buf + SLOT - 4, crc32c(buf, SLOT - 4));
		assert_int_equal(pwrite(fd, buf, SLOT, at), SLOT);
	}
	close(fd);
}

static void refused(off_t field, uint32_t value, const char *why)
{
	struct metadata m;
	struct metafile f;
	struct error err;

	fill(&m);
	create(&m);
	assert_int_equal(open_it(&f, &err), 0);
	assert_int_equal(metafile_write(&f, &m, &err), 0);
	metafile_close(&f);
	rewrite(field, value);
	assert_true(open_it(&f, &err) < 0);
	if (!strstr(err.text, why))
		fail_msg("field %d = %u: \"%s\"", (int)field, value, err.text);
}

/* One slot of a later version: the other one is older, and is not taken. */
static void test_newer_beside_valid(void **state)
{
	struct metadata m;
	struct metafile f;
	struct error err;
	uint8_t buf[SLOT];
	int fd;

	(void)state;
	for (off_t at = 0; at < 2 * SLOT; at += SLOT) {
		fill(&m);
		create(&m);
		assert_int_equal(open_it(&f, &err), 0);
		assert_int_equal(metafile_write(&f, &m, &err), 0);
		metafile_close(&f);
		fd = open(path, O_RDWR);
		assert_int_equal(pread(fd, buf, SLOT, at), SLOT);
		put_le32(buf + 12, 99);
		put_le32(buf + SLOT - 4, crc32c(buf, SLOT - 4));
		assert_int_equal(pwrite(fd, buf, SLOT, at), SLOT);
		close(fd);
		assert_true(open_it(&f, &err) < 0);
		assert_non_null(strstr(err.text, "newer version"));
	}
}

static void test_refused(void **state)
{
	(void)state;
	refused(0, 1, "not a metadata file");
	refused(8, 1, "init --force"); /* the first version */
	refused(12, 99, "newer version");
	refused(80, 3, "out of range");  /* role */
	refused(128, 0, "out of range"); /* volumes */
	refused(128, 65, "out of range");
	refused(132, 17, "generation"); /* history */
	refused(132, 15, "generation"); /* an entry behind its end */
	refused(40, 98, "generation");  /* current not above the history */
	refused(256, 97, "generation"); /* numbers that do not fall */
	refused(1024, 9, "kind of volume");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_field),
		cmocka_unit_test(test_torn),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_newer_beside_valid),
	};
	int fd = mkstemp(path), failed;

	if (fd < 0)
		return 1;
	close(fd);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return failed;
}
