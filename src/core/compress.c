/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LZ4 and zstd behind one call each. */
#include "core/compress.h"

#include <lz4.h>
#include <stdlib.h>
#include <zstd.h>

#include "core/record.h"
#include "util/bytes.h"

#define COMPRESS_ZSTD_LEVEL 1

void compress_deinit(struct compress *c)
{
	free(c->lz4);
	ZSTD_freeCCtx(c->pack);
	ZSTD_freeDCtx(c->unpack);
	c->lz4 = c->pack = c->unpack = NULL;
}

size_t compress_pack(struct compress *c, unsigned flag, const uint8_t *src, size_t len,
	uint8_t *dst, size_t capacity)
{
	size_t room = min_u64(capacity, len - 1), n;

	if (flag == RECORD_FLAG_LZ4) {
		int r;

		if (!c->lz4)
			c->lz4 = malloc((size_t)LZ4_sizeofState());
		if (!c->lz4)
			return 0;
		r = LZ4_compress_fast_extState(
			c->lz4, (const char *)src, (char *)dst, (int)len, (int)room, 1);
		return r > 0 ? (size_t)r : 0;
	}
	if (!c->pack)
		c->pack = ZSTD_createCCtx();
	if (!c->pack)
		return 0;
	n = ZSTD_compressCCtx(c->pack, dst, room, src, len, COMPRESS_ZSTD_LEVEL);
	return ZSTD_isError(n) ? 0 : n;
}

bool compress_unpack(struct compress *c, unsigned flag, const uint8_t *src, size_t len,
	uint8_t *dst, size_t want)
{
	if (flag == RECORD_FLAG_LZ4)
		return LZ4_decompress_safe((const char *)src, (char *)dst, (int)len, (int)want) ==
		       (int)want;
	if (!c->unpack)
		c->unpack = ZSTD_createDCtx();
	/* One frame, nothing behind it, of the size that is expected. */
	return c->unpack && ZSTD_findFrameCompressedSize(src, len) == len &&
	       ZSTD_getFrameContentSize(src, len) == want &&
	       ZSTD_decompressDCtx(c->unpack, dst, want, src, len) == want;
}
