/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Local storage of one disk, whatever it is: raw file, block device, or NBD URI (through libnbd).
 *
 * All functions are thread-safe against each other, except open and free.  Offsets and lengths are
 * bytes, already checked by the caller to lie inside the size.  They return 0 or negative errno.
 * Nothing here allocates on the request paths, except where libnbd does.
 *
 * An NBD server that goes away: all requests in flight fail with -EIO (whether they were done is
 * not known), and so do later ones until it is back; a request tries to connect again, at most once
 * a second, and waits for that up to 5 seconds.  A server that hangs without closing makes requests
 * wait, as a disk would.  If there were writes that it had acknowledged and not flushed, the next
 * flush fails with -EIO, once, also when the server is back.
 * So for every kind: after a failed flush nothing written since the last successful one is to be
 * relied on, and a later successful flush does not change that.
 *
 * An open NBD backing has threads: open it after a fork, not before.
 *
 * Contract for zero: after a successful `zero` the range reads as zeroes, whatever the flags.
 * (Tandem replicates a guest's trim as "zero, may unmap", so that both sides stay equal.) */
#ifndef TANDEM_REPLICATOR_BACKING_H
#define TANDEM_REPLICATOR_BACKING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "util/error.h"

struct backing;

struct backing_info {
	_Atomic uint64_t size; /* bytes; only backing_refresh_size changes it */
	uint32_t block_min;    /* smallest request that costs no read-modify-write here or in the
				* server, power of two; 1 for files and devices: the page cache */
	uint32_t block_preferred;
	bool rotational;
	bool can_unmap;     /* zero with BACKING_ZERO_UNMAP frees space */
	bool can_fast_zero; /* zero with BACKING_ZERO_FAST works: never slower than a write */
	bool can_extents;
};

enum backing_zero_flags {
	BACKING_ZERO_UNMAP = 1, /* may punch a hole */
	BACKING_ZERO_FAST = 2,  /* -EOPNOTSUPP, with nothing changed, rather than writing zeroes */
};

/* One extent; zero means that it reads as zeroes (a hole is a zero extent). */
typedef int (*backing_extent_fn)(void *ctx, uint64_t off, uint64_t len, bool zero);

/* target: absolute path or NBD URI (nbd:// nbds:// nbd+unix:// nbds+unix://).  The error names it.
 * A file or device is locked against a second opener (OFD write lock; -EBUSY, kind ERROR_BUSY)
 * when writable. */
int backing_open(
	const char *target, bool writable, struct backing **ret_backing, struct error *err);
struct backing *backing_free(struct backing *b); /* NULL is fine; returns NULL */

const struct backing_info *backing_get_info(const struct backing *b);
const char *backing_target(const struct backing *b);
/* Looks at the size again (online growth); updates info.size, which other threads may read. */
int backing_refresh_size(struct backing *b);

/* What the storage is, as far as its kind can tell over a new start: of a file, inode and birth
 * time; of a device, its unique name in sysfs; of NBD, nothing. */
#define BACKING_IDENTITY 32u
struct backing_identity {
	uint32_t kind;                   /* 1 file, 2 device, 3 NBD */
	uint8_t bytes[BACKING_IDENTITY]; /* zero = not known */
};
void backing_identify(const struct backing *b, struct backing_identity *ret_identity);

int backing_pread(struct backing *b, void *buf, uint32_t len, uint64_t off);
int backing_pwrite(struct backing *b, const void *buf, uint32_t len, uint64_t off);
/* Total length below 4 GiB; iov may be changed. */
int backing_pwritev(struct backing *b, struct iovec *iov, int count, uint64_t off);
int backing_zero(struct backing *b, uint64_t len, uint64_t off, unsigned flags);
/* All writes completed before the call are durable when it returns 0. */
int backing_flush(struct backing *b);
/* Calls fn for consecutive extents that cover exactly [off, off+len); stops on fn's error. Where
 * the backing knows nothing: one data extent. */
int backing_extents(struct backing *b, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx);

/* Many writes in flight from one thread: submit returns at once where the backing can (NBD, up to
 * 64 in flight), else does the work; the buffers must stay valid until backing_batch_wait (the iov
 * array need not), which waits for all submitted by this batch and returns the first error.  A
 * batch is used by one thread, and what is in flight must not overlap. submit returns the first
 * error so far, if there is one, and then does no more until the wait; the -EOPNOTSUPP of a refused
 * fast zero comes from submit alone, and is no failure of the batch. */
struct backing_batch;
int backing_batch_new(struct backing *b, struct backing_batch **ret_batch);
struct backing_batch *backing_batch_free(struct backing_batch *batch);
int backing_submit_pwritev(struct backing_batch *batch, struct iovec *iov, int count, uint64_t off);
int backing_submit_zero(struct backing_batch *batch, uint64_t len, uint64_t off, unsigned flags);
int backing_batch_wait(struct backing_batch *batch);

#endif
