/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* RAM image and second image: memfds, mapped once. */
#include "replicator/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/log.h"

static int memory_map(const char *name, uint64_t size, int *ret_fd, uint8_t **ret_map)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *p;

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	/* Nobody who gets the descriptor may cut the mapping short. */
	if (ftruncate(fd, (off_t)size) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		return -errno;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	*ret_map = p;
	return 0;
}

int memory_new(uint64_t size, struct memory **ret_memory, struct error *err)
{
	struct memory *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	m->size = size;
	m->fd = m->second_fd = -1;
	r = memory_map("tandem-ram", size, &m->fd, &m->image);
	if (r == 0)
		r = memory_map("tandem-ram-next", size, &m->second_fd, &m->second);
	if (r < 0) {
		memory_free(m);
		return error_code(err, r, "guest memory: cannot make an image of %llu bytes",
			(unsigned long long)size);
	}
	*ret_memory = m;
	return 0;
}

static void memory_unmap(struct memory *m)
{
	if (m->image)
		munmap(m->image, m->size);
	if (m->second)
		munmap(m->second, m->size);
	if (m->second_fd >= 0)
		close(m->second_fd);
	m->image = m->second = NULL;
	m->second_fd = -1;
}

struct memory *memory_free(struct memory *m)
{
	if (!m)
		return NULL;
	memory_unmap(m);
	if (m->fd >= 0)
		close(m->fd);
	free(m->state);
	free(m);
	return NULL;
}

static void memory_punch(int fd, uint8_t *map, uint64_t off, uint64_t len)
{
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) < 0)
		memset(map + off, 0, len); /* no holes here: the content counts */
}

void memory_zero(struct memory *m, uint64_t off, uint64_t len)
{
	memory_punch(m->fd, m->image, off, len);
}

void memory_release_second(struct memory *m)
{
	memory_punch(m->second_fd, m->second, 0, m->size);
}

int memory_adopt(struct memory *m, uint64_t epoch, const uint8_t *state, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, state, len);
	m->state = copy;
	m->state_len = len;
	m->epoch = epoch;
	memory_unmap(m);
	return 0;
}

int memory_blob_fd(const uint8_t *bytes, size_t len)
{
	int fd = memfd_create("tandem-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	for (size_t at = 0; at < len;) {
		ssize_t n = write(fd, bytes + at, len - at);

		if (n < 0) {
			int e = -errno;

			close(fd);
			return e;
		}
		at += (size_t)n;
	}
	(void)lseek(fd, 0, SEEK_SET);
	return fd;
}
