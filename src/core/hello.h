/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first record of each direction (docs/stream.md, HELLO): who speaks, of which group, with
 * which data; and the one function that decides whether two may talk.  Pure. */
#ifndef TANDEM_CORE_HELLO_H
#define TANDEM_CORE_HELLO_H

#include <stddef.h>
#include <stdint.h>

#include "core/record.h"
#include "util/uuid.h"

#define HELLO_VERSION 1u
#define HELLO_FIXED 152u
#define HELLO_VOLUME 80u
#define HELLO_MAX (HELLO_FIXED + RECORD_MAX_VOLUMES * HELLO_VOLUME)
#define HELLO_NAME 64u     /* bytes, with at least one zero */
#define HELLO_KIND_DISK 1u /* of a volume */
#define HELLO_KIND_MEMORY 2u
#define HELLO_KIND_STATE 3u

enum hello_role { HELLO_PRIMARY = 1, HELLO_SECONDARY = 2 };

struct hello_volume {
	uint32_t kind;
	uint64_t size; /* bytes */
	char name[HELLO_NAME];
};

struct hello {
	uint32_t version, compat;
	enum hello_role role;
	uint32_t volumes;
	struct uuid group;   /* zero = none yet */
	uint64_t generation; /* of the data; 0 = none */
	uint64_t committed;  /* epoch */
	uint64_t journal;    /* secondary: capacity, bytes */
	uint64_t seen;       /* secondary: newest epoch number */
	bool consistent;
	uint32_t heartbeat_ms;
	char name[HELLO_NAME]; /* of the group */
	struct hello_volume volume[RECORD_MAX_VOLUMES];
};

/* A whole HELLO record with seq 0; buf: RECORD_HEADER_SIZE + HELLO_MAX bytes.  Returns its size. */
size_t hello_encode(uint8_t *buf, const struct hello *h);
/* NULL, or what is wrong with it.  The record has passed record_check. */
const char *hello_decode(const uint8_t *payload, uint32_t len, struct hello *ret_hello);
/* Whether a primary and a secondary may replicate: NULL, or why not (text in buf).  Both sides call
 * it, with the same two hellos. */
const char *hello_refuse(
	const struct hello *primary, const struct hello *secondary, char *buf, size_t len);

#endif
