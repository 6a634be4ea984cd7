/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk becomes larger while it is served (docs/stream.md "GROW and GROWN", docs/identity.md
 * "Growth").  Who grows a disk marks its new part in the dirty map, durably, before anybody uses
 * it; but for a secondary that is asked by its primary: that one marks it, and is the one whose
 * marks the acknowledgements clear. */
#ifndef TANDEM_REPLICATOR_GROW_H
#define TANDEM_REPLICATOR_GROW_H

#include <jansson.h>

#include "core/record.h"
#include "replicator/node.h"

struct receiver;
struct sender;

/* --- grow.c --- */
/* Looks at the backing's size: -ERANGE where it has shrunk, else 0 with the size.  With NBD it
 * connects anew. */
int grow_look(struct volume *v, uint64_t *ret_size, struct error *err);
/* The volume has size bytes from now on, which the backing has: dirty map, metadata, changes.  One
 * thread at a time. */
int grow_volume(struct volume *v, uint64_t size, bool mark, struct error *err);

/* The secondary's link thread.  A primary's HELLO names larger disks than ours: takes what our
 * backings have become, and marks it; true = something has grown. */
bool grow_for_primary(struct node *n, const struct identity *primary);
/* Answers its GROW; there is nothing else to send. */
void grow_answer_primary(struct receiver *r);

/* --- grow_primary.c --- */
/* On a primary: the disks (disk: one; NULL: all) whose backings are larger now.  Goes on in a
 * thread of its own.  alone: there is no secondary, and it is not asked.  The control thread's. */
int grow_start(struct node *n, const char *disk, bool alone, struct error *err);
/* (L) */
bool grow_running(const struct sender *s);
/* Answer of query-grow; a new reference. */
json_t *grow_status(struct node *n);
/* A GROWN in a session.  NULL, or what is wrong. */
const char *grow_answered(struct sender *s, const struct record *rec);
/* Joins and frees it; the session is over. */
void grow_end(struct sender *s);

#endif
