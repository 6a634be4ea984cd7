/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A second file with the content of an image, made by the file system without copying (FICLONE:
 * XFS, Btrfs and others); each of both is changed without the other noticing.
 *
 * A clone has no name, so it is gone with the process, until it is given one beside the image:
 * IMAGE.tandem-sync.  All return 0 or negative errno. */
#ifndef TANDEM_REPLICATOR_BACKING_CLONE_H
#define TANDEM_REPLICATOR_BACKING_CLONE_H

#include "replicator/backing.h"

/* Whether it can be done, by doing it with the first blocks: -ENOTSUP (no file, or not this file
 * system), or what keeps from making a file beside the image. */
int backing_clone_probe(const struct backing *image);
/* Nothing changes the image meanwhile.  Freed with backing_free. */
int backing_clone_new(const struct backing *image, struct backing **ret_clone);
/* The clone, its content and its name become durable.  A file of that name goes. */
int backing_clone_name(const struct backing *image, struct backing *clone);
/* The clone that was given the name; -ENOENT. */
int backing_clone_open(const struct backing *image, struct backing **ret_clone);
/* The image's content becomes that of the clone, durably; interrupted, it is a part of both, and
 * is to be done again.  The image keeps its inode, and its size if that has become larger. */
int backing_clone_replace(struct backing *image, struct backing *clone);
/* Removes the name; that there is none is fine. */
int backing_clone_remove(const struct backing *image);

#endif
