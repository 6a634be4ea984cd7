/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The seal file of a disk (docs/metadata.md): which storage it was on in the last run, and what
 * some of its blocks held when that run ended in order.  Pure: bytes in, struct out. */
#ifndef TANDEM_CORE_SEAL_H
#define TANDEM_CORE_SEAL_H

#include <stdbool.h>
#include <stdint.h>

#define SEAL_SIZE 4096u
#define SEAL_BLOCK 4096u
#define SEAL_RECENT 16u /* blocks that were written last */
#define SEAL_SPREAD 8u  /* blocks from the beginning to the end */
#define SEAL_SAMPLES (SEAL_RECENT + SEAL_SPREAD)
#define SEAL_DIGEST 16u
#define SEAL_IDENTITY 32u

enum seal_state { SEAL_OPEN = 1, SEAL_CLOSED = 2 };

struct seal_sample {
	uint64_t off;
	uint32_t len;
	bool recent;
	uint8_t digest[SEAL_DIGEST];
};

struct seal {
	enum seal_state state;
	uint32_t kind; /* of the storage, never 0 */
	uint64_t size;
	uint8_t identity[SEAL_IDENTITY]; /* zero = none is known */
	uint32_t nsamples;               /* of a closed one */
	struct seal_sample samples[SEAL_SAMPLES];
};

/* buf: SEAL_SIZE bytes.  get: NULL = valid, else why not; *ret_newer: it is of a later version. */
void seal_put(uint8_t *buf, const struct seal *s);
const char *seal_get(const uint8_t *buf, struct seal *ret_seal, bool *ret_newer);
/* The samples of a disk of size bytes, without their digests: the blocks of recent (offsets, the
 * newest last; UINT64_MAX = none), each once, then the spread ones. */
void seal_choose(struct seal *s, uint64_t size, const uint64_t *recent, unsigned count);
void seal_digest(const void *data, uint32_t len, uint8_t ret_digest[SEAL_DIGEST]);

#endif
