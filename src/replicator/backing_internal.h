/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the kinds of backing (file, NBD) owe to the dispatch in backing.c.
 *
 * Each kind embeds struct backing as its first member.  The kind's open function allocates it and
 * fills ops, info and what is its own; backing.c adds target and writable.  backing.c answers empty
 * requests and writes to a read-only backing itself, so the kinds never see them. */
#ifndef TANDEM_REPLICATOR_BACKING_INTERNAL_H
#define TANDEM_REPLICATOR_BACKING_INTERNAL_H

#include "replicator/backing.h"

struct backing_ops {
	/* Frees all that the kind owns, and the struct itself.  No request is in flight. */
	void (*free)(struct backing *b);
	int (*refresh_size)(struct backing *b);
	void (*identify)(const struct backing *b, struct backing_identity *ret_identity);
	int (*pread)(struct backing *b, void *buf, uint32_t len, uint64_t off);
	int (*pwritev)(struct backing *b, struct iovec *iov, int count, uint64_t off);
	int (*zero)(struct backing *b, uint64_t len, uint64_t off, unsigned flags);
	int (*flush)(struct backing *b);
	/* Adjacent extents of one type need not be merged: the dispatch does that. */
	int (*extents)(
		struct backing *b, uint64_t off, uint64_t len, backing_extent_fn fn, void *ctx);

	/* NULL: this kind has no asynchronous requests, and backing.c does the work at once. */
	int (*batch_new)(struct backing *b, struct backing_batch **ret_batch);
	void (*batch_free)(struct backing_batch *batch);
	int (*submit_pwritev)(
		struct backing_batch *batch, struct iovec *iov, int count, uint64_t off);
	int (*submit_zero)(struct backing_batch *batch, uint64_t len, uint64_t off, unsigned flags);
	int (*batch_wait)(struct backing_batch *batch);
};

struct backing {
	const struct backing_ops *ops;
	struct backing_info info;
	char *target; /* owned by backing.c */
	bool writable;
};

struct backing_batch {
	struct backing *b;
	int error; /* the first, since the last wait */
};

/* Zeroes to write from, for a backing that cannot zero by itself.  Never written to. */
#define BACKING_ZERO_CHUNK 65536
extern const unsigned char backing_zeroes[BACKING_ZERO_CHUNK];
/* Writes zeroes with ops->pwritev. */
int backing_write_zeroes(struct backing *b, uint64_t len, uint64_t off);

int backing_file_open(
	const char *path, bool writable, struct backing **ret_backing, struct error *err);
int backing_nbd_open(
	const char *uri, bool writable, struct backing **ret_backing, struct error *err);

#endif
