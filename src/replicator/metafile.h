/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The node's metadata file (docs/metadata.md): loaded once, changed as a whole, durably.
 * Not thread-safe: the caller serialises (node->meta_lock). */
#ifndef TANDEM_REPLICATOR_METAFILE_H
#define TANDEM_REPLICATOR_METAFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/hello.h"
#include "util/error.h"

struct metadata {
	uint64_t serial;
	struct identity id;
	bool draining;            /* a primary whose journal still holds what the disks lack */
	uint64_t committed, seen; /* epochs */
	/* The sync of that epoch is whole in clones of the images, which are about to replace them
	 * (clone.h); 0 = none. */
	uint64_t cloned;
};

struct metafile {
	int fd;
	char *path; /* owned */
	struct metadata now;
};

/* Creates path with *m, durably; -EEXIST unless force. */
int metafile_create(const char *path, const struct metadata *m, bool force, struct error *err);
int metafile_open(struct metafile *f, const char *path, struct error *err);
/* Makes *m the content, durably, and then f->now.  On error f->now is unchanged. */
int metafile_write(struct metafile *f, const struct metadata *m, struct error *err);
void metafile_close(struct metafile *f);

#endif
