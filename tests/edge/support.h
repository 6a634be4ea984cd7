/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of the edges share: cmocka in the order it wants, temporary directories, and
 * programs that run beside a test and never outlive it. */
#ifndef TANDEM_TESTS_EDGE_SUPPORT_H
#define TANDEM_TESTS_EDGE_SUPPORT_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <cmocka.h>

#define SUPPORT_PATH 256

/* A new directory under $TMPDIR or /tmp; remove takes everything below it along. */
void support_dir_make(char *ret_dir, size_t size);
void support_dir_remove(const char *dir);

/* Runs argv (NULL-terminated) to its end, output to DIR/tool.log; the exit status. */
int support_run(const char *dir, const char *const *argv);
/* support_run that must succeed; on failure the log is printed. */
void support_must_run(const char *dir, const char *const *argv);
bool support_have(const char *program);

/* Prints why the running test cannot run here, and skips it. */
void support_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Starts an NBD server by socket activation: the socket at path listens before the server runs, so
 * that nothing has to be waited for.  The server dies with the test. */
pid_t support_server_start(const char *dir, const char *path, const char *const *argv);
/* Kills it, waits until it is gone, and removes the socket: connecting fails from here on. */
void support_server_kill(pid_t pid, const char *path);

/* Bytes that differ by position and by seed. */
void support_fill(void *buf, size_t len, uint64_t seed);
void support_write_file(const char *path, const void *data, size_t len);

#endif
