/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LD_PRELOAD library: the order in which a node gives data to its storage, makes it durable, and
 * tells its peer, so that power.py can make up any state that a power cut could have left.
 *
 * TANDEM_STORAGE_LOG names the log, TANDEM_STORAGE_DIR the folder whose files count.  One event per
 * begin and end of a write or a flush, one per send on a TCP socket, in one order; io_uring as
 * well. An end may be logged later than it was, but always before anything that the node did upon
 * it: every call here looks at the completion queues first.  (Later is the safe side: fewer writes
 * count as durable.)  With _FILE_OFFSET_BITS=64 the functions here are open64 and so on, which the
 * node calls. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
#define MAX_FD 4096
#define MAX_FILES 256
#define MAX_RINGS 8
#define MAX_FLIGHT 256

enum { LOG_FILE = 1, LOG_WRITE, LOG_WRITTEN, LOG_FLUSH, LOG_FLUSHED, LOG_SIZE, LOG_SEND };

struct event {
	uint32_t kind, file;
	uint64_t id;          /* of a write or flush */
	uint64_t off, len;    /* len: of the data as well, where it follows */
	uint64_t follows, ns; /* bytes of data behind this; CLOCK_MONOTONIC */
};

struct flight {
	uint64_t user_data, id;
	uint32_t file, kind; /* LOG_WRITE or LOG_FLUSH; 0 = free */
};

struct ring {
	struct io_uring *r;
	unsigned seen; /* completions looked at */
	struct flight flights[MAX_FLIGHT];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static const char *dir;
static uint32_t files_of[MAX_FD]; /* number + 1 */
static char *paths[MAX_FILES];
static uint32_t npaths;
static uint64_t ids;
static struct ring rings[MAX_RINGS];

static void die(const char *what)
{
	fprintf(stderr, "storage_log: %s\n", what);
	abort();
}

static void *real(const char *name)
{
	void *p = dlsym(RTLD_NEXT, name);

	if (!p)
		die(name);
	return p;
}

#define REAL(name) ((__typeof__(&name))real(#name))

__attribute__((constructor)) static void start(void)
{
	const char *path = getenv("TANDEM_STORAGE_LOG");

	dir = getenv("TANDEM_STORAGE_DIR");
	if (path && dir)
		log_fd = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* lock is held.  Head and data in one call: a SIGKILL leaves both or neither, or a cut end. */
static void put(struct event e, const struct iovec *iov, int count)
{
	struct iovec all[1 + IOV_MAX];
	struct timespec ts;
	size_t want = sizeof(e);

	clock_gettime(CLOCK_MONOTONIC, &ts);
	e.ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	if (count >= IOV_MAX)
		die("too many pieces");
	for (int i = 0; i < count; i++) {
		all[1 + i] = iov[i];
		e.follows += iov[i].iov_len;
		want += iov[i].iov_len;
	}
	all[0] = (struct iovec){&e, sizeof(e)};
	if (REAL(writev)(log_fd, all, 1 + count) != (ssize_t)want)
		die("cannot write the log");
}

/* lock is held */
static void look_at_completions(void)
{
	for (unsigned n = 0; n < MAX_RINGS && rings[n].r; n++) {
		struct ring *g = &rings[n];
		unsigned tail = __atomic_load_n(g->r->cq.ktail, __ATOMIC_ACQUIRE);

		for (; g->seen != tail; g->seen++) {
			struct io_uring_cqe *c = &g->r->cq.cqes[g->seen & *g->r->cq.kring_mask];
			struct flight *oldest = NULL;

			for (unsigned i = 0; i < MAX_FLIGHT; i++) {
				struct flight *f = &g->flights[i];

				if (f->kind && f->user_data == c->user_data &&
					(!oldest || f->id < oldest->id))
					oldest = f;
			}
			if (!oldest)
				continue;
			if (c->res >= 0)
				put((struct event){.kind = oldest->kind + 1,
					    .file = oldest->file,
					    .id = oldest->id},
					NULL, 0);
			oldest->kind = 0;
		}
	}
}

static bool logged(int fd, uint32_t *ret_file)
{
	if (log_fd < 0 || fd < 0 || fd >= MAX_FD || !files_of[fd])
		return false;
	*ret_file = files_of[fd] - 1;
	return true;
}

static uint64_t begin(
	uint32_t kind, uint32_t file, uint64_t off, const struct iovec *iov, int count)
{
	uint64_t id, len = 0;

	for (int i = 0; i < count; i++)
		len += iov[i].iov_len;
	pthread_mutex_lock(&lock);
	look_at_completions();
	id = ++ids;
	put((struct event){.kind = kind, .file = file, .id = id, .off = off, .len = len}, iov,
		count);
	pthread_mutex_unlock(&lock);
	return id;
}

static void end(uint32_t kind, uint32_t file, uint64_t id)
{
	pthread_mutex_lock(&lock);
	look_at_completions();
	put((struct event){.kind = kind, .file = file, .id = id}, NULL, 0);
	pthread_mutex_unlock(&lock);
}

static void opened(int fd, const char *path)
{
	char resolved[PATH_MAX];
	uint32_t n;

	if (log_fd < 0 || fd < 0 || fd >= MAX_FD || !realpath(path, resolved) ||
		strncmp(resolved, dir, strlen(dir)) != 0)
		return;
	pthread_mutex_lock(&lock);
	for (n = 0; n < npaths && strcmp(paths[n], resolved) != 0; n++)
		;
	if (n == npaths) {
		struct iovec name = {resolved, strlen(resolved)};

		if (n == MAX_FILES)
			die("too many files");
		paths[npaths++] = strdup(resolved);
		put((struct event){.kind = LOG_FILE, .file = n}, &name, 1);
	}
	files_of[fd] = n + 1;
	pthread_mutex_unlock(&lock);
}

#define OPEN(name)                                                                                 \
	PUBLIC int name(const char *path, int flags, ...)                                          \
	{                                                                                          \
		va_list ap;                                                                        \
		int fd;                                                                            \
                                                                                                   \
		va_start(ap, flags);                                                               \
		fd = ((int (*)(const char *, int, mode_t))real(#name))(                            \
			path, flags, va_arg(ap, mode_t));                                          \
		va_end(ap);                                                                        \
		if ((flags & O_TMPFILE) != O_TMPFILE && (flags & O_ACCMODE) != O_RDONLY)           \
			opened(fd, path);                                                          \
		return fd;                                                                         \
	}
OPEN(open)

PUBLIC int close(int fd)
{
	if (fd >= 0 && fd < MAX_FD)
		files_of[fd] = 0;
	return REAL(close)(fd);
}

static ssize_t log_pwritev(const char *name, int fd, const struct iovec *iov, int count, off_t off)
{
	ssize_t (*fn)(int, const struct iovec *, int, off_t) =
		(ssize_t(*)(int, const struct iovec *, int, off_t))real(name);
	uint32_t file;
	uint64_t id;
	ssize_t n;

	if (!logged(fd, &file))
		return fn(fd, iov, count, off);
	id = begin(LOG_WRITE, file, (uint64_t)off, iov, count);
	n = fn(fd, iov, count, off);
	if (n >= 0)
		end(LOG_WRITTEN, file, id); /* a short one is written again, from where it ended */
	return n;
}

PUBLIC ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	return log_pwritev("pwritev", fd, &(struct iovec){(void *)(uintptr_t)buf, len}, 1, off);
}

PUBLIC ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t off)
{
	return log_pwritev("pwritev", fd, iov, count, off);
}
static int log_flush(const char *name, int fd)
{
	int (*fn)(int) = (int (*)(int))real(name);
	uint32_t file;
	uint64_t id;
	int r;

	if (!logged(fd, &file))
		return fn(fd);
	id = begin(LOG_FLUSH, file, 0, NULL, 0);
	r = fn(fd);
	if (r == 0)
		end(LOG_FLUSHED, file, id);
	return r;
}

PUBLIC int fsync(int fd)
{
	return log_flush("fsync", fd);
}
PUBLIC int fdatasync(int fd)
{
	return log_flush("fdatasync", fd);
}

/* The node uses it to zero or to allocate; allocation changes no content. */
static int log_fallocate(int fd, int mode, off_t off, off_t len)
{
	static const uint8_t zeroes[1 << 20];
	struct iovec iov[IOV_MAX - 1];
	off_t left = len;
	uint64_t id;
	uint32_t file;
	int r, n = 0;

	if (!logged(fd, &file) || (mode & ~FALLOC_FL_KEEP_SIZE) == 0)
		return REAL(fallocate)(fd, mode, off, len);
	for (; left > 0 && n < IOV_MAX - 1; n++) {
		iov[n] = (struct iovec){(void *)(uintptr_t)zeroes,
			left < (off_t)sizeof(zeroes) ? (size_t)left : sizeof(zeroes)};
		left -= (off_t)iov[n].iov_len;
	}
	if (left > 0)
		die("a zero that is too long for the log");
	id = begin(LOG_WRITE, file, (uint64_t)off, iov, n);
	r = REAL(fallocate)(fd, mode, off, len);
	/* Refused: the content is what it was, but the log has it as zero; the node then writes it.
	 */
	if (r == 0)
		end(LOG_WRITTEN, file, id);
	return r;
}

PUBLIC int fallocate(int fd, int mode, off_t off, off_t len)
{
	return log_fallocate(fd, mode, off, len);
}
static int log_ftruncate(int fd, off_t len)
{
	uint32_t file;

	if (logged(fd, &file)) {
		pthread_mutex_lock(&lock);
		put((struct event){.kind = LOG_SIZE, .file = file, .len = (uint64_t)len}, NULL, 0);
		pthread_mutex_unlock(&lock);
	}
	return REAL(ftruncate)(fd, len);
}

PUBLIC int ftruncate(int fd, off_t len)
{
	return log_ftruncate(fd, len);
}
/* What the peer is told.  With the lock held: nothing comes between the send and its event. */
PUBLIC ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct sockaddr_storage a = {0};
	socklen_t alen = sizeof(a);
	ssize_t n;

	if (log_fd < 0 || getsockname(fd, (struct sockaddr *)&a, &alen) < 0 ||
		(a.ss_family != AF_INET && a.ss_family != AF_INET6))
		return REAL(sendmsg)(fd, msg, flags);
	pthread_mutex_lock(&lock);
	look_at_completions();
	n = REAL(sendmsg)(fd, msg, flags);
	if (n > 0) {
		int saved = errno, count = 0;
		size_t left = (size_t)n;
		struct iovec iov[16];

		for (; left > 0 && count < 16; count++) {
			iov[count] = msg->msg_iov[count];
			if (iov[count].iov_len > left)
				iov[count].iov_len = left;
			left -= iov[count].iov_len;
		}
		put((struct event){.kind = LOG_SEND, .file = (uint32_t)fd, .len = (uint64_t)n}, iov,
			count);
		errno = saved;
	}
	pthread_mutex_unlock(&lock);
	return n;
}

static struct ring *ring_of(struct io_uring *r)
{
	for (unsigned n = 0; n < MAX_RINGS; n++) {
		if (rings[n].r == r)
			return &rings[n];
		if (!rings[n].r) {
			rings[n].r = r;
			rings[n].seen = __atomic_load_n(r->cq.khead, __ATOMIC_ACQUIRE);
			return &rings[n];
		}
	}
	die("too many rings");
	return NULL;
}

/* Another node of the same process may get its memory back at the same place. */
PUBLIC void io_uring_queue_exit(struct io_uring *r)
{
	pthread_mutex_lock(&lock);
	look_at_completions();
	for (unsigned n = 0; n < MAX_RINGS; n++)
		if (rings[n].r == r) {
			unsigned last = MAX_RINGS - 1;

			while (!rings[last].r)
				last--;
			rings[n] = rings[last];
			memset(&rings[last], 0, sizeof(rings[last]));
			break;
		}
	pthread_mutex_unlock(&lock);
	REAL(io_uring_queue_exit)(r);
}

static void log_sqe(struct ring *g, const struct io_uring_sqe *q)
{
	struct iovec iov = {(void *)(uintptr_t)q->addr, q->len};
	struct flight *f = g->flights;
	uint32_t file;

	if ((q->opcode != IORING_OP_WRITE && q->opcode != IORING_OP_FSYNC) ||
		!logged(q->fd, &file)) {
		if (q->opcode != IORING_OP_NOP && q->opcode != IORING_OP_READ)
			die("an io_uring request that it does not know");
		return;
	}
	while (f < g->flights + MAX_FLIGHT && f->kind)
		f++;
	if (f == g->flights + MAX_FLIGHT)
		die("too many requests in flight");
	*f = (struct flight){.user_data = q->user_data,
		.id = ++ids,
		.file = file,
		.kind = q->opcode == IORING_OP_WRITE ? LOG_WRITE : LOG_FLUSH};
	put((struct event){.kind = f->kind,
		    .file = file,
		    .id = f->id,
		    .off = f->kind == LOG_WRITE ? q->off : 0,
		    .len = f->kind == LOG_WRITE ? q->len : 0},
		&iov, f->kind == LOG_WRITE);
}

PUBLIC int io_uring_submit(struct io_uring *r)
{
	if (log_fd >= 0) {
		pthread_mutex_lock(&lock);
		struct ring *g = ring_of(r);

		look_at_completions();
		for (unsigned i = r->sq.sqe_head; i != r->sq.sqe_tail; i++)
			log_sqe(g, &r->sq.sqes[i & *r->sq.kring_mask]);
		pthread_mutex_unlock(&lock);
	}
	return REAL(io_uring_submit)(r);
}
