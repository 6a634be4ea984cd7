/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LD_PRELOAD library: a node's journal or metadata that fails on demand.
 *
 * While the file TANDEM_STORAGE_FAIL exists, what its words name fails with an error of the kernel
 * (the descriptor is taken away): journal-write and journal-flush (io_uring), journal-header,
 * metadata. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

static bool failing(const char *word)
{
	const char *path = getenv("TANDEM_STORAGE_FAIL");
	char text[128] = "";
	FILE *f = path ? fopen(path, "r") : NULL;

	if (!f)
		return false;
	if (!fgets(text, sizeof(text), f))
		text[0] = '\0';
	fclose(f);
	return strstr(text, word) != NULL;
}

static bool is_file(int fd, const char *name)
{
	char link[64], path[PATH_MAX];
	const char *base;
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return false;
	path[n] = '\0';
	base = strrchr(path, '/');
	return base && strcmp(base + 1, name) == 0;
}

PUBLIC ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	ssize_t (*fn)(int, const void *, size_t, off_t) =
		(ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");

	if ((failing("journal-header") && is_file(fd, "journal")) ||
		(failing("metadata") && is_file(fd, "group.meta"))) {
		errno = EIO;
		return -1;
	}
	return fn(fd, buf, len, off);
}

PUBLIC int io_uring_submit(struct io_uring *r)
{
	int (*fn)(struct io_uring *) =
		(int (*)(struct io_uring *))dlsym(RTLD_NEXT, "io_uring_submit");
	bool writes = failing("journal-write"), flushes = failing("journal-flush");

	for (unsigned i = r->sq.sqe_head; i != r->sq.sqe_tail; i++) {
		struct io_uring_sqe *q = &r->sq.sqes[i & *r->sq.kring_mask];

		if ((writes && q->opcode == IORING_OP_WRITE) ||
			(flushes && q->opcode == IORING_OP_FSYNC))
			q->fd = -1;
	}
	return fn(r);
}
