/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Compares the disks of both nodes while they are written to (docs/stream.md, DIGEST and DIFFER);
 * with a guest, as they are at one checkpoint (FREEZE). */
#ifndef TANDEM_REPLICATOR_VERIFY_H
#define TANDEM_REPLICATOR_VERIFY_H

#include <jansson.h>

#include "replicator/node.h"
#include "replicator/sender.h"

/* On a protected primary; one at a time.  Goes on in a thread of its own; with a guest from the
 * next cut on.  repair: what differs is sent again, else it is marked dirty.  The control thread's.
 */
int verify_start(struct node *n, bool repair, struct error *err);
/* Ends the one that runs; what it has found stays. -EINVAL: none does. */
int verify_cancel(struct node *n, struct error *err);
/* (L) Whether one goes on: it may still put records in the stream. */
bool verify_running(const struct sender *s);
/* (L) Of the one that runs: bytes compared, in all, per second so far.  false: none does. */
bool verify_progress(
	const struct sender *s, uint64_t *ret_done, uint64_t *ret_total, uint64_t *ret_rate);
/* Answer of query-verify; a new reference. */
json_t *verify_answer(struct node *n);
/* Joins and frees it; the session is over. */
void verify_end(struct sender *s);

/* (L) A change of a volume has entered the stream, or its place in it.  Costs one look while no
 * verify runs, else at most VERIFY_AHEAD comparisons. */
void verify_changed(struct sender *s, unsigned volume, uint64_t off, uint64_t len);
/* The cut of a checkpoint, where a verify waits for it.  verify_cut_begin: false = none does; it
 * waits for reads of snapshots, so node.lock must not be held, and verify_cut_end must follow.
 * verify_cut: (L) behind the cut, false = not at this one: changes are under way. */
bool verify_cut_begin(struct node *n);
bool verify_cut(struct sender *s, uint64_t epoch);
void verify_cut_end(struct node *n);
/* (L) That epoch will not be a checkpoint. */
void verify_abandoned(struct sender *s, uint64_t epoch);
/* A FROZEN in a session.  NULL, or what is wrong. */
const char *verify_frozen(struct sender *s, const struct record *rec);
/* A DIFFER in a session.  NULL, or what is wrong. */
const char *verify_answered(struct sender *s, const struct record *rec, const uint8_t *payload);

#endif
