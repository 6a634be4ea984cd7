/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first record of each direction (docs/stream.md, HELLO): who speaks, of which group, with
 * which data.  What two hellos lead to is decided by core/identity.h. Pure. */
#ifndef TANDEM_CORE_HELLO_H
#define TANDEM_CORE_HELLO_H

#include <stddef.h>
#include <stdint.h>

#include "core/identity.h"
#include "core/record.h"

#define HELLO_VERSION 2u
#define HELLO_FIXED 512u
#define HELLO_VOLUME 96u
#define HELLO_MAX (HELLO_FIXED + RECORD_MAX_VOLUMES * HELLO_VOLUME)

struct hello {
	uint32_t version, compat;
	uint64_t committed; /* epoch */
	uint64_t journal;   /* secondary: capacity, bytes */
	uint64_t seen;      /* secondary: newest epoch number */
	bool clones;        /* secondary: its images can be cloned, for RECORD_SYNC_CLONED */
	uint32_t heartbeat_ms;
	struct identity id; /* of which what only its node needs does not travel */
};

/* A whole HELLO record with seq 0; buf: RECORD_HEADER_SIZE + HELLO_MAX bytes.  Returns its size. */
size_t hello_encode(uint8_t *buf, const struct hello *h);
/* NULL, or what is wrong with it.  The record has passed record_check. */
const char *hello_decode(const uint8_t *payload, uint32_t len, struct hello *ret_hello);

/* Fields that the metadata file has as well (docs/metadata.md): a generation is 16 bytes, a volume
 * HELLO_VOLUME. */
void hello_put_generation(uint8_t *p, const struct identity_generation *g);
/* false: a number without an id, or the other way round, or out of range. */
bool hello_get_generation(const uint8_t *p, struct identity_generation *ret_generation);
/* IDENTITY_HISTORY places, of which the first count are used; the numbers fall, from below above on
 * (0 = any). */
void hello_put_history(uint8_t *p, const struct identity_generation *h, uint32_t count);
bool hello_get_history(
	const uint8_t *p, struct identity_generation *ret_history, uint32_t count, uint64_t above);
void hello_put_volume(uint8_t *p, const struct identity_volume *v);
/* NULL, or what is wrong. */
const char *hello_get_volume(const uint8_t *p, struct identity_volume *ret_volume);

#endif
