/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation of a node's own files: what `tandem init` does.  Not for a node that runs. */
#ifndef TANDEM_REPLICATOR_INIT_H
#define TANDEM_REPLICATOR_INIT_H

#include <stdbool.h>

#include "conf/conf.h"

/* Creates state-dir and run-dir, the metadata (group.meta) and the preallocated journal of node
 * conf->nodes[node], and opens every disk once to learn its size.  Refused with ERROR_STATE where
 * group.meta exists, unless force is true: then what the node knew is forgotten (the disks' content
 * is not touched).  ERROR_BUSY while the node runs. */
int init_node(const struct conf *conf, unsigned node, bool force, struct error *err);

/* Takes STATE_DIR/lock (flock; *ret_fd keeps it, also across exec: no close-on-exec is set) and
 * checks that the node was initialised (group.meta exists): ERROR_BUSY, ERROR_STATE. */
int init_lock(const struct conf *conf, unsigned node, int *ret_fd, struct error *err);
/* Whether the node may be started in that role, as far as its metadata tells; the node itself asks
 * again.  So that `tandem primary` ends with the exit code of the reason, which nbdkit cannot do.
 */
int init_may_start(const struct conf *conf, unsigned node, bool primary, struct error *err);

#endif
