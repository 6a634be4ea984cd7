/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal file: creation, header slots, and the chunk writes and flushes through io_uring.
 *
 * A journal on tmpfs is memory already: its ring is mapped, and the replica receives straight into
 * it (core/replica_chunk.c).  Where that is refused it is written as any other. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "replicator/receiver_internal.h"
#include "util/bytes.h"
#include "util/fault.h"
#include "util/file.h"
#include "util/log.h"

#define JOURNAL_IO_DEPTH 64u
#define JOURNAL_IO_TMPFS 0x01021994 /* f_type; linux/magic.h has it, and others have it not */
#define JOURNAL_IO_STEP (16u << 20) /* bytes populated at once */

static uint64_t journal_io_random(void)
{
	uint64_t v = 0;

	while (getrandom(&v, sizeof(v), 0) != sizeof(v))
		;
	return v;
}

static int journal_io_put_header(int fd, const struct journal_header *h)
{
	uint8_t buf[JOURNAL_BLOCK];
	int r;

	journal_header_encode(buf, h);
	r = file_pwrite(fd, buf, sizeof(buf), h->serial % 2 * JOURNAL_BLOCK);
	if (r == 0 && fdatasync(fd) < 0)
		r = -errno;
	return r;
}

int journal_io_create(const char *path, uint64_t size, bool force, struct error *err)
{
	struct journal_header h = {.serial = 1, .ring_size = size - size % JOURNAL_SEGMENT};
	int fd, r;

	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (force ? O_TRUNC : O_EXCL), 0600);
	if (fd < 0)
		return error_errno(err, "journal: cannot create %s", path);
	h.tail_chain = journal_io_random();
	h.incarnation = journal_io_random();
	r = -posix_fallocate(fd, 0, (off_t)(JOURNAL_RING_OFFSET + h.ring_size));
	if (r == 0)
		r = journal_io_put_header(fd, &h);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	close(fd);
	if (r == 0)
		r = file_sync_parent(path);
	return r < 0 ? error_code(err, r, "journal: cannot allocate %llu bytes in %s",
			       (unsigned long long)size, path)
		     : 0;
}

static void journal_io_map(struct receiver *r)
{
	const char *how = getenv("TANDEM_JOURNAL"); /* for tests: docs/testing.md */
	struct statfs fs;
	void *p;

	if (how && strcmp(how, "written") == 0)
		return;
	if (fstatfs(r->journal, &fs) < 0 || fs.f_type != JOURNAL_IO_TMPFS)
		return;
	p = mmap(NULL, r->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED, r->journal,
		JOURNAL_RING_OFFSET);
	r->ring = p == MAP_FAILED ? NULL : p;
}

bool journal_io_populate(struct receiver *r)
{
	uint64_t n = r->ring ? min_u64(JOURNAL_IO_STEP, r->ring_size - r->ring_present) : 0;

	if (n == 0)
		return false;
	if (madvise(r->ring + r->ring_present, n, MADV_POPULATE_WRITE) < 0)
		n = r->ring_size - r->ring_present; /* an older kernel: they come one by one */
	r->ring_present += n;
	return true;
}

int journal_io_open(struct receiver *r, struct journal_header *ret_header, struct error *err)
{
	const char *why = "it is too short";
	uint8_t buf[JOURNAL_BLOCK];
	struct journal_header h;
	char path[512];
	struct stat st;
	bool found = false;
	int e;

	node_path(r->n->own->state_dir, "journal", path, sizeof(path));
	r->journal = open(path, O_RDWR | O_CLOEXEC);
	if (r->journal < 0 || fstat(r->journal, &st) < 0)
		return error_errno(err, "journal: cannot open %s", path);
	for (unsigned i = 0; i < 2; i++) {
		if (file_pread(r->journal, buf, sizeof(buf), i * JOURNAL_BLOCK) < 0)
			continue;
		why = journal_header_decode(buf, &h);
		if (why)
			continue;
		if (!found || h.serial > ret_header->serial)
			*ret_header = h;
		found = true;
	}
	if (!found)
		return error_set(err, ERROR_IO, -EBADMSG, "journal: cannot use %s: %s", path, why);
	if ((uint64_t)st.st_size < JOURNAL_RING_OFFSET + ret_header->ring_size)
		return error_set(err, ERROR_IO, -EBADMSG,
			"journal: %s is shorter than its header says", path);
	r->ring_size = ret_header->ring_size;
	journal_io_map(r);
	e = io_uring_queue_init(JOURNAL_IO_DEPTH, &r->uring, 0);
	if (e < 0)
		return error_code(err, e, "journal: cannot set up io_uring");
	r->uring_ready = true;
	e = wake_init(&r->completed);
	if (e == 0)
		e = io_uring_register_eventfd(&r->uring, r->completed.fd);
	return e < 0 ? error_code(err, e, "journal: cannot set up io_uring's eventfd") : 0;
}

void journal_io_close(struct receiver *r)
{
	if (r->uring_ready)
		io_uring_queue_exit(&r->uring);
	r->uring_ready = false;
	if (r->ring)
		munmap(r->ring, r->ring_size);
	r->ring = NULL;
	wake_deinit(&r->completed);
	if (r->journal >= 0)
		close(r->journal);
	r->journal = -1;
	free(r->writes);
	r->writes = NULL;
}

int journal_io_read(void *ctx, uint64_t pos, void *buf, size_t len)
{
	struct receiver *r = ctx;

	return file_pread(r->journal, buf, len, journal_file_offset(r->ring_size, pos));
}

int journal_io_write_header(struct receiver *r, const struct journal_header *h)
{
	return journal_io_put_header(r->journal, h);
}

void journal_io_submit(struct receiver *r)
{
	unsigned n = 0;

	pthread_mutex_lock(&r->n->lock);
	while (r->in_flight < JOURNAL_IO_DEPTH && (r->writes_count || r->flush_wanted)) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

		if (!sqe)
			break;
		if (r->writes_count) {
			struct replica_chunk *c = r->writes[r->writes_first];

			r->writes_first = (r->writes_first + 1) % r->writes_size;
			r->writes_count--;
			io_uring_prep_write(sqe, r->journal, c->buf, c->head.len,
				journal_file_offset(r->ring_size, c->head.pos));
			io_uring_sqe_set_data(sqe, c);
		} else {
			r->flush_wanted = false;
			io_uring_prep_fsync(sqe, r->journal, IORING_FSYNC_DATASYNC);
			io_uring_sqe_set_data(sqe, NULL);
		}
		r->in_flight++;
		n++;
	}
	pthread_mutex_unlock(&r->n->lock);
	if (n > 0)
		(void)io_uring_submit(
			&r->uring); /* a failure is seen as a missing completion: EBUSY */
}

void journal_io_reap(struct receiver *r)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&r->uring, &cqe) == 0) {
		struct replica_chunk *c = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&r->uring, cqe);
		r->in_flight--;
		if (!c)
			fault_point(FAULT_STANDBY_FLUSHED);
		pthread_mutex_lock(&r->n->lock);
		if (!c)
			replica_flushed(r->core, res < 0 ? res : 0);
		else if (res >= 0 && (uint32_t)res != c->head.len)
			replica_chunk_written(r->core, c, -EIO);
		else
			replica_chunk_written(r->core, c, res < 0 ? res : 0);
		local_kick(r);
		pthread_mutex_unlock(&r->n->lock);
	}
}
