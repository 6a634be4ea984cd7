/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole reads and writes, durable creation, mirrored memory.  All return 0 or negative errno. */
#ifndef TANDEM_UTIL_FILE_H
#define TANDEM_UTIL_FILE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Exactly len bytes, or an error; end of file while reading is -ENODATA. */
int file_pread(int fd, void *buf, size_t len, uint64_t off);
int file_pwrite(int fd, const void *buf, size_t len, uint64_t off);
/* The same for a vector; iov is used up. */
int file_pwritev(int fd, struct iovec *iov, int count, uint64_t off);
/* fsync of the directory that holds path, so that its entry is durable. */
int file_sync_parent(const char *path);
/* mkdir -p with mode for what is missing. */
int file_mkdirs(const char *path, mode_t mode);

/* An exclusive lock: of the open file (flock), or of all its bytes (open file description lock).
 * One that is held is asked for again for FILE_LOCK_MS: the kernel takes a moment to free a process
 * that was just killed.  -EBUSY: somebody holds it. */
#define FILE_LOCK_MS 2000
int file_lock(int fd);
int file_lock_bytes(int fd);

/* size bytes (a multiple of the page size) of memory mapped twice in a row, so that a ring's
 * records never wrap: p[i] and p[i + size] are the same byte.  Pages exist once touched. */
int file_map_mirrored(size_t size, void **ret_mem);
void file_unmap_mirrored(void *mem, size_t size);

#endif
