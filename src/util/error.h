/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one error scheme of the tree.
 *
 * 1. A function that can fail returns 0 or a negative errno; the caller passes it on unmatched.
 * 2. Where the caller must tell outcomes apart, the function returns a positive, documented enum.
 * 3. A function off the hot paths also takes `struct error *err` and describes what happened there:
 *    object, action, reason.  The lowest function that knows the object writes the text, those
 *    above may prefix context; only the program's edge (a command, a thread's main) logs it, once.
 *
 * Right:
 *	if (fd < 0)
 *		return error_errno(err, "disk %s: cannot open %s", name, path);
 *	...
 *	r = backing_open(&b, uri, err);
 *	if (r < 0)
 *		return r;
 *
 * WRONG: logging and returning an error (it is seen twice); replacing a text that is already there
 * (the reason is lost: use error_prefix); an ignored return value without `(void)`.
 */
#ifndef TANDEM_UTIL_ERROR_H
#define TANDEM_UTIL_ERROR_H

#include <stddef.h>

/* What kind of failure it is; the number is the exit code of the program (docs/errors.md). */
enum error_kind {
	ERROR_NONE = 0,
	ERROR_GENERAL = 1, /* anything not named below */
	ERROR_USAGE = 2,   /* the command line */
	ERROR_CONFIG = 3,  /* the configuration file */
	ERROR_STATE = 4,   /* refused in the present state (no committed epoch, wrong role, ...) */
	ERROR_UNREACHABLE = 5, /* no running node answers on the control socket */
	ERROR_IO = 6,          /* a disk, journal or metadata file failed */
	ERROR_PEER = 7,        /* the peer or the link: refused, lost, not authenticated */
	ERROR_TIMEOUT = 8,     /* not done within the time asked for */
	ERROR_BUSY = 9,        /* another process holds the node */
	ERROR_DIFFER = 10,     /* verify: the nodes' disks, memory or device state differ */
};

struct error {
	int code; /* negative errno, 0 = no error */
	enum error_kind kind;
	char text[512];
};

/* Each sets *err (may be NULL) and returns code, so that `return error_set(...)` works. */
int error_set(struct error *err, enum error_kind kind, int code, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* code = -errno, and ": " and the text of errno is appended; kind is ERROR_IO. */
int error_errno(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for a negative errno at hand. */
int error_code(struct error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Puts "prefix: " before the text; returns err->code. */
int error_prefix(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
