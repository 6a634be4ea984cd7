/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Read-only views of an image that stay as they were when they were taken, for the life of an NBD
 * connection or of a comparison (verify_frozen.c, receiver_compare.c): before anything changes a
 * block of the image (the applier, a full sync, a guest after a promotion), the old content goes to
 * an unnamed file in the state directory.
 *
 * A snapshot whose file cannot be written (no space) breaks: its reads fail with -EIO from then on;
 * replication goes on. */
#ifndef TANDEM_REPLICATOR_SNAPSHOT_H
#define TANDEM_REPLICATOR_SNAPSHOT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "replicator/backing.h"
#include "util/error.h"

struct snapshot;

/* All snapshots of one volume. */
struct snapshots {
	pthread_rwlock_t lock; /* readers hold it over a read, who changes the image takes it */
	struct snapshot *first;
	_Atomic unsigned count; /* 0: nothing to do before a change */
};

int snapshots_init(struct snapshots *s);
void snapshots_deinit(struct snapshots *s);

/* One that is not begun: no change of the image is kept for it, and it must not be read. */
int snapshot_prepare(struct snapshots *s, struct backing *image, uint64_t size, const char *dir,
	struct snapshot **ret_snapshot, struct error *err);
/* It shows the image of this moment, in which nothing changes that.  Between snapshots_lock (which
 * waits for reads and savings of a block) and snapshots_unlock; costs no I/O. */
void snapshot_begin(struct snapshot *snap);
void snapshots_lock(struct snapshots *s);
void snapshots_unlock(struct snapshots *s);
/* All of it.  The caller makes sure that nothing changes the image during the call. */
int snapshot_new(struct snapshots *s, struct backing *image, uint64_t size, const char *dir,
	struct snapshot **ret_snapshot, struct error *err);
/* Begun or not; NULL is fine. */
struct snapshot *snapshot_free(struct snapshot *snap);
uint64_t snapshot_size(const struct snapshot *snap);
int snapshot_pread(struct snapshot *snap, void *buf, uint32_t len, uint64_t off);
/* The whole blocks of this range will not be read any more: nothing of them is kept from now on. */
void snapshot_forget(struct snapshot *snap, uint64_t off, uint64_t len);

/* Before the image's content as a whole is replaced by that of a clone (backing_clone.h): those
 * that are begun show a clone of what it is now.  No reader can see the change. */
void snapshots_detach(struct snapshots *s);

/* Before [off, off+len) of the image changes: saves what snapshots still need.  Returns when no
 * reader can see the change.  Costs one atomic load where there is no snapshot. */
void snapshots_save(struct snapshots *s, uint64_t off, uint64_t len);

static inline void snapshots_before_change(struct snapshots *s, uint64_t off, uint64_t len)
{
	if (atomic_load_explicit(&s->count, memory_order_acquire))
		snapshots_save(s, off, len);
}

#endif
