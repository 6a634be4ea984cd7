/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The contract of backing.h as checks; see contract.h. */
#include "contract.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"
#include "util/bytes.h"

void contract_expect(struct backing *b, uint64_t off, size_t len, uint64_t seed)
{
	unsigned char *got = malloc(len), *want = calloc(1, len);

	memset(got, 0xa5, len);
	assert_int_equal(backing_pread(b, got, (uint32_t)len, off), 0);
	if (seed)
		support_fill(want, len, seed);
	assert_memory_equal(got, want, len);
	free(got);
	free(want);
}

void contract_write(struct backing *b, uint64_t off, size_t len, uint64_t seed)
{
	unsigned char *buf = malloc(len);

	support_fill(buf, len, seed);
	assert_int_equal(backing_pwrite(b, buf, (uint32_t)len, off), 0);
	free(buf);
}

void contract_check_transfers(struct backing *b)
{
	static const struct {
		uint32_t off, len;
	} rows[] = {{0, 512}, {4096, 4096}, {1, 1}, {511, 2}, {4095, 8194}, {100000, 1000000},
		{CONTRACT_SIZE - 1, 1}, {CONTRACT_SIZE - 4097, 4097}};
	unsigned char *big = malloc(3u << 20);
	struct iovec iov[2000];
	size_t total = 0;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		contract_write(b, rows[i].off, rows[i].len, i + 1);
		contract_expect(b, rows[i].off, rows[i].len, i + 1);
	}
	/* More pieces than one system call takes, odd and empty ones among them. */
	support_fill(big, 3u << 20, 99);
	for (size_t i = 0; i < 2000; i++) {
		iov[i].iov_base = big + total;
		iov[i].iov_len = i % 5 == 0 ? 0 : (i * 37) % 1500;
		total += iov[i].iov_len;
	}
	assert_int_equal(backing_pwritev(b, iov, 2000, 12345), 0);
	contract_expect(b, 12345, total, 99);
	free(big);
	assert_int_equal(backing_pwrite(b, NULL, 0, 0), 0);
	assert_int_equal(backing_pread(b, NULL, 0, CONTRACT_SIZE), 0);
	assert_int_equal(backing_flush(b), 0);
}

void contract_check_zero(struct backing *b)
{
	const struct backing_info *info = backing_get_info(b);

	for (unsigned flags = 0; flags < 4; flags++) {
		static const struct {
			uint32_t off, len;
		} rows[] = {{65536, 65536}, {65537, 100000}, {70000, 10}, {4095, 2},
			{1u << 20, 3u << 20}};

		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			uint32_t before = rows[i].off < 8192 ? rows[i].off : 8192;
			uint64_t start = rows[i].off - before;
			size_t len = before + rows[i].len + 8192;
			unsigned char *model = malloc(len), *got = malloc(len);
			int r;

			support_fill(model, len, 7 + i);
			assert_int_equal(backing_pwrite(b, model, (uint32_t)len, start), 0);
			r = backing_zero(b, rows[i].len, rows[i].off, flags);
			if (r < 0)
				assert_true(r == -EOPNOTSUPP && (flags & BACKING_ZERO_FAST));
			if (r == 0)
				memset(model + before, 0, rows[i].len);
			assert_int_equal(backing_pread(b, got, (uint32_t)len, start), 0);
			assert_memory_equal(got, model, len);
			free(model);
			free(got);
		}
	}
	assert_int_equal(backing_zero(b, 0, 4096, 0), 0);
	if (!info->can_fast_zero)
		assert_int_equal(backing_zero(b, 1u << 20, 0, BACKING_ZERO_FAST), -EOPNOTSUPP);
}

struct contract_walk {
	uint64_t next, zeroes, calls;
	int stop_at, code;
	bool last_zero;
};

static int contract_walk_extent(void *ctx, uint64_t off, uint64_t len, bool zero)
{
	struct contract_walk *w = ctx;

	assert_int_equal(off, w->next);
	assert_true(len > 0);
	if (w->calls > 0)
		assert_int_not_equal(zero, w->last_zero); /* merged */
	w->last_zero = zero;
	w->next = off + len;
	w->zeroes += zero ? len : 0;
	return ++w->calls == (uint64_t)w->stop_at ? w->code : 0;
}

void contract_check_extents(struct backing *b)
{
	const struct backing_info *info = backing_get_info(b);
	struct contract_walk w = {.next = 1};

	assert_int_equal(backing_zero(b, 4u << 20, 0, BACKING_ZERO_UNMAP), 0);
	contract_write(b, 1u << 20, 1u << 20, 5);
	assert_int_equal(backing_flush(b), 0);
	assert_int_equal(backing_extents(b, 1, (4u << 20) - 2, contract_walk_extent, &w), 0);
	assert_int_equal(w.next, (4u << 20) - 1);
	if (!info->can_extents) {
		assert_int_equal(w.calls, 1);
		assert_int_equal(w.zeroes, 0);
	} else if (info->can_unmap) {
		assert_int_equal(w.calls, 3);
		assert_int_equal(w.zeroes, (3u << 20) - 2);
	}
	/* The callback's error ends the walk and comes back. */
	w = (struct contract_walk){.stop_at = 1, .code = -ECANCELED};
	assert_int_equal(backing_extents(b, 0, 4u << 20, contract_walk_extent, &w), -ECANCELED);
	assert_int_equal(w.calls, 1);
	w = (struct contract_walk){0};
	assert_int_equal(backing_extents(b, 4096, 0, contract_walk_extent, &w), 0);
	assert_int_equal(w.calls, 0);
}

void contract_check_batch(struct backing *b)
{
	enum { PIECE = 12288, COUNT = 300 };
	unsigned char *data = malloc(PIECE * COUNT);
	struct backing_batch *batch;
	struct iovec iov[3];

	support_fill(data, PIECE * COUNT, 31);
	assert_int_equal(backing_batch_new(b, &batch), 0);
	assert_int_equal(backing_batch_wait(batch), 0);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < COUNT; i++) {
			unsigned char *p = data + i * PIECE;

			/* Gathered, single, and (where blocks are larger) unaligned ones. */
			iov[0] = (struct iovec){p, i % 3 == 0 ? PIECE : 4096};
			iov[1] = (struct iovec){p + 4096, i % 3 == 1 ? 8192 : 77};
			iov[2] = (struct iovec){p + 4096 + 77, 8192 - 77};
			assert_int_equal(
				backing_submit_pwritev(batch, iov, 1 + (int)(i % 3), i * PIECE), 0);
			/* The array is the caller's again at once. */
			memset(iov, 0, sizeof(iov));
		}
		assert_int_equal(backing_submit_zero(batch, 1u << 20, 5u << 20, 0), 0);
		assert_int_equal(
			backing_submit_zero(batch, 65537, (6u << 20) + 1, BACKING_ZERO_UNMAP), 0);
		assert_int_equal(backing_submit_pwritev(batch, iov, 1, 0), 0); /* empty */
		assert_int_equal(backing_submit_zero(batch, 0, 0, 0), 0);
		assert_int_equal(backing_batch_wait(batch), 0);
		contract_expect(b, 0, PIECE * COUNT, 31);
		contract_expect(b, 5u << 20, 1u << 20, 0);
		contract_expect(b, (6u << 20) + 1, 65537, 0);
	}
	if (!backing_get_info(b)->can_fast_zero) {
		/* A refusal is no failure of the batch. */
		assert_int_equal(
			backing_submit_zero(batch, 4096, 0, BACKING_ZERO_FAST), -EOPNOTSUPP);
		assert_int_equal(backing_batch_wait(batch), 0);
	}
	assert_null(backing_batch_free(batch));
	assert_null(backing_batch_free(NULL));
	free(data);
}

void contract_check_random(struct backing *b, unsigned steps, uint64_t seed)
{
	unsigned char *model = calloc(1, CONTRACT_SIZE), *buf = malloc(CONTRACT_SIZE);
	uint64_t s = seed;

	assert_int_equal(backing_zero(b, CONTRACT_SIZE, 0, BACKING_ZERO_UNMAP), 0);
	for (unsigned i = 0; i < steps; i++) {
		uint64_t off, len;
		unsigned op;

		s = s * 6364136223846793005ull + 1442695040888963407ull;
		op = (unsigned)(s >> 60);
		off = (s >> 20) % CONTRACT_SIZE;
		len = 1 + (s >> 33) % (i % 8 == 0 ? 700000 : 9000);
		if (i % 3 == 0) {
			off = round_down(off, 4096);
			len = round_up(len, 4096);
		}
		len = min_u64(len, CONTRACT_SIZE - off);
		if (op < 7) {
			support_fill(buf, len, s);
			assert_int_equal(backing_pwrite(b, buf, (uint32_t)len, off), 0);
			memcpy(model + off, buf, len);
		} else if (op < 12) {
			int r = backing_zero(b, len, off, op % 4);

			if (r == 0)
				memset(model + off, 0, len);
			else
				assert_int_equal(r, -EOPNOTSUPP);
		} else {
			assert_int_equal(backing_pread(b, buf, (uint32_t)len, off), 0);
			assert_memory_equal(buf, model + off, len);
		}
	}
	assert_int_equal(backing_flush(b), 0);
	assert_int_equal(backing_pread(b, buf, CONTRACT_SIZE, 0), 0);
	assert_memory_equal(buf, model, CONTRACT_SIZE);
	free(model);
	free(buf);
}

void contract_check(struct backing *b)
{
	const struct backing_info *info = backing_get_info(b);

	assert_true(info->size >= CONTRACT_SIZE);
	assert_true(info->block_min > 0 && (info->block_min & (info->block_min - 1)) == 0);
	assert_true(info->block_preferred >= info->block_min);
	contract_check_transfers(b);
	contract_check_zero(b);
	contract_check_extents(b);
	contract_check_batch(b);
	contract_check_random(b, 400, 1);
}
