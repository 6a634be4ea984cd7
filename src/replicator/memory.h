/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's memory on this node: the RAM image (a memfd, given to whoever resumes the guest), the
 * second image beside it (core/replica.h), and after a promotion the device state that belongs to
 * it.  Both images are sparse: what is zero takes no memory.
 *
 * The node owns it; while there is a receiver only that one's memory thread changes the image. */
#ifndef TANDEM_REPLICATOR_MEMORY_H
#define TANDEM_REPLICATOR_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

struct memory {
	uint64_t size; /* bytes */
	int fd, second_fd;
	uint8_t *image, *second; /* mapped; NULL after memory_adopt */

	/* after memory_adopt */
	uint64_t epoch; /* 0: not adopted */
	uint8_t *state; /* owned */
	size_t state_len;
};

int memory_new(uint64_t size, struct memory **ret_memory, struct error *err);
struct memory *memory_free(struct memory *m);
/* A part of the image becomes zero and takes no memory any more. */
void memory_zero(struct memory *m, uint64_t off, uint64_t len);
/* Frees what the second image holds. */
void memory_release_second(struct memory *m);
/* Promoted: the image is the guest's from now on. Copies state. 0 or -ENOMEM (nothing changed). */
int memory_adopt(struct memory *m, uint64_t epoch, const uint8_t *state, size_t len);
/* A new memfd with a copy of len bytes; negative errno. */
int memory_blob_fd(const uint8_t *bytes, size_t len);

#endif
