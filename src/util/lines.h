/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines over a Unix socket, with a deadline for each, and file descriptors that travel with them:
 * what the clients of the control socket and of QMP stand on.  Deadlines are times of clock_ns().
 */
#ifndef TANDEM_UTIL_LINES_H
#define TANDEM_UTIL_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINES_FDS 8          /* received descriptors that wait to be taken; more are closed */
#define LINES_MAX (1u << 20) /* bytes of a line, without its end (docs/control.md) */

struct lines {
	int fd;
	char *buf;
	size_t size;        /* of buf; grows up to LINES_MAX + 1 */
	size_t used;        /* bytes in buf */
	size_t taken;       /* bytes of the line that was returned last */
	int fds[LINES_FDS]; /* received and not taken yet, in their order */
	unsigned nfds;
};

/* Connects to the socket at path; the errors are connect(2)'s and -ENAMETOOLONG. */
int lines_connect(struct lines *l, const char *path, uint64_t deadline);
/* Takes a connected stream socket over. */
int lines_adopt(struct lines *l, int fd);
void lines_deinit(struct lines *l);

/* The next line, without its end, with a NUL behind it; valid until the next call.
 * -ETIMEDOUT, -EPIPE (the peer closed), -EMSGSIZE (a line over LINES_MAX), -ENOMEM, or an errno. */
int lines_read(struct lines *l, uint64_t deadline, char **ret_line, size_t *ret_len);
int lines_write(struct lines *l, uint64_t deadline, const char *bytes, size_t len);
/* The same with n (1..LINES_FDS) descriptors that go with the first byte; the caller keeps its own.
 */
int lines_write_fds(struct lines *l, uint64_t deadline, const char *bytes, size_t len,
	const int *fds, unsigned n);
/* Whether a whole line is there, so that lines_read would not wait. */
bool lines_pending(const struct lines *l);
/* The oldest descriptor received and not taken, now the caller's; -1 = none. */
int lines_take_fd(struct lines *l);

#endif
