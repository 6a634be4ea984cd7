/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Compression of guest memory and device state: LZ4 blocks and zstd frames (level 1), as
 * docs/stream.md names them.  Pure; one owner at a time. */
#ifndef TANDEM_CORE_COMPRESS_H
#define TANDEM_CORE_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the libraries keep between calls, made on first use. */
struct compress {
	void *lz4, *pack, *unpack;
};

void compress_deinit(struct compress *c);
/* flag: RECORD_FLAG_LZ4 or RECORD_FLAG_ZSTD.  Bytes written to dst, less than len; 0 = it does not
 * become smaller (or no memory): send it raw. */
size_t compress_pack(struct compress *c, unsigned flag, const uint8_t *src, size_t len,
	uint8_t *dst, size_t capacity);
/* Exactly want bytes to dst, or false: damaged. */
bool compress_unpack(struct compress *c, unsigned flag, const uint8_t *src, size_t len,
	uint8_t *dst, size_t want);

#endif
