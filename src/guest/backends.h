/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory backends of the user's own command line (-object memory-backend-..., for NUMA nodes,
 * or one for the machine): each becomes a part of the guest's RAM file.
 *
 * The parts lie in the file in the order of their ids, so they are the same on both hosts in
 * whatever order the command lines name them. */
#ifndef TANDEM_GUEST_BACKENDS_H
#define TANDEM_GUEST_BACKENDS_H

#include <stdbool.h>
#include <stdint.h>

#include "guest/words.h"
#include "util/error.h"

#define BACKENDS_MAX 32
#define BACKENDS_ID 64
/* The QEMU of Debian 12 cannot map a file from an offset on; tandem-preload.so does it for it,
 * where the path ends so. */
#define BACKENDS_OFFSET '@'

struct backend {
	size_t word; /* its place in the command line */
	char id[BACKENDS_ID];
	uint64_t size, offset; /* bytes; of the RAM file */
};

struct backends {
	struct backend v[BACKENDS_MAX]; /* by id */
	unsigned n;                     /* 0: the line names none */
};

/* memory: bytes of the RAM file, which they must fill. -EINVAL: one of them cannot be replicated.
 */
int backends_find(
	const struct words *w, uint64_t memory, struct backends *ret_backends, struct error *err);
/* Their words become backends on the RAM file, a descriptor of QEMU's; what else they say (policy,
 * host nodes, preallocation, merging, dump) stays, but for preallocation where the file holds
 * somebody's memory already (there).  0 or -ENOMEM. */
int backends_put(struct words *w, const struct backends *b, int ram_fd, bool there);

#endif
