/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a client of an export does with a volume; whichever way it is served at the moment
 * (enum node_access).  Thread-safe; all return 0 or negative errno. Offsets are checked by nbdkit.
 */
#ifndef TANDEM_REPLICATOR_VOLUME_H
#define TANDEM_REPLICATOR_VOLUME_H

#include "replicator/node.h"

enum volume_flags { VOLUME_FUA = 1, VOLUME_UNMAP = 2, VOLUME_FAST_ZERO = 4 };

int volume_open(struct node *n, unsigned index, bool writable, struct error *err);
void volume_close(struct volume *v);

int volume_pread(struct volume *v, void *buf, uint32_t len, uint64_t off);
int volume_pwrite(struct volume *v, const void *buf, uint32_t len, uint64_t off, unsigned flags);
/* The range reads as zeroes afterwards, also after a trim (VOLUME_UNMAP). */
int volume_zero(struct volume *v, uint64_t len, uint64_t off, unsigned flags);
int volume_flush(struct volume *v);
/* The image's own flush, whatever the configuration says; what it covers is no longer loose. */
int volume_flush_image(struct volume *v);
int volume_extents(struct volume *v, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx);

/* Range locks; node.lock is held, and is let go while waiting.  lock: returns once e holds [off,
 * off+len). */
void volume_lock_range(struct volume *v, struct rangelock_entry *e, uint64_t off, uint64_t len);
void volume_unlock_range(struct volume *v, struct rangelock_entry *e);

/* --- volume_primary.c: -EAGAIN = the node serves in another way now --- */
/* At most RECORD_MAX_PAYLOAD bytes. */
int volume_primary_pwrite(struct volume *v, const void *buf, uint32_t len, uint64_t off);
int volume_primary_zero(struct volume *v, uint64_t len, uint64_t off, unsigned flags);

#endif
