/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by the parts of the file backing: requests (backing_file.c) and opening, locking and
 * probing (backing_file_open.c). */
#ifndef TANDEM_REPLICATOR_BACKING_FILE_H
#define TANDEM_REPLICATOR_BACKING_FILE_H

#include <linux/falloc.h>
#include <stdatomic.h>

#include "replicator/backing_internal.h"

#define BACKING_FILE_PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define BACKING_FILE_ZERO (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)

struct backing_file {
	struct backing base;
	int fd;
	bool is_device;
	uint32_t align; /* of what fallocate gets on a device; 1 for a file */
	/* Cleared when the kernel says that it cannot, so that it is not asked again. */
	atomic_bool can_punch;
	atomic_bool can_zero_range;
};

extern const struct backing_ops backing_file_ops;
void backing_file_identify(const struct backing *b, struct backing_identity *ret_identity);
int backing_file_get_size(int fd, bool is_device, uint64_t *ret_size);
int backing_file_fallocate(int fd, int mode, uint64_t off, uint64_t len);

#endif
