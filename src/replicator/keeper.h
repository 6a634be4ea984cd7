/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The dirty maps of a node: opened when it starts, and kept from saying ever more than is true. */
#ifndef TANDEM_REPLICATOR_KEEPER_H
#define TANDEM_REPLICATOR_KEEPER_H

#include "replicator/node.h"

/* Opens the map of every disk; meta.id.tracked says whether an incremental sync can be made from
 * them.  Flushes the images: what a former process left unflushed is known to nobody. */
int keeper_open_maps(struct node *n, struct error *err);

/* A thread that brings the files' pages up to date, now and then, where bits have gone. */
int keeper_start(struct node *n, struct error *err);
void keeper_stop(struct node *n);

#endif
