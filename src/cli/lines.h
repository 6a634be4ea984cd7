/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines over a Unix socket, with a deadline for each: what the control socket's client stands on.
 * Deadlines are times of clock_ns(). */
#ifndef TANDEM_CLI_LINES_H
#define TANDEM_CLI_LINES_H

#include <stddef.h>
#include <stdint.h>

#define LINES_MAX (1u << 20) /* bytes of a line, without its end (docs/control.md) */

struct lines {
	int fd;
	char *buf;
	size_t size;  /* of buf; grows up to LINES_MAX + 1 */
	size_t used;  /* bytes in buf */
	size_t taken; /* bytes of the line that was returned last */
};

/* Connects to the socket at path; the errors are connect(2)'s and -ENAMETOOLONG. */
int lines_connect(struct lines *l, const char *path, uint64_t deadline);
void lines_deinit(struct lines *l);

/* The next line, without its end, with a NUL behind it; valid until the next call.
 * -ETIMEDOUT, -EPIPE (the peer closed), -EMSGSIZE (a line over LINES_MAX), -ENOMEM, or an errno. */
int lines_read(struct lines *l, uint64_t deadline, char **ret_line, size_t *ret_len);
int lines_write(struct lines *l, uint64_t deadline, const char *bytes, size_t len);

#endif
