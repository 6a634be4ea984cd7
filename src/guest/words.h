/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A command line as a list of words: split as a shell splits it (white space, '...', "...", \),
 * without any expansion; and questions about QEMU's options in it, which stand behind the first
 * word that has "qemu" in its file's name (else behind the first).  Owned strings; NULL-terminated
 * for exec. */
#ifndef TANDEM_GUEST_WORDS_H
#define TANDEM_GUEST_WORDS_H

#include <stdbool.h>
#include <stddef.h>

#include "util/error.h"

struct words {
	char **v;
	size_t n;
	size_t program; /* QEMU's own word; before it stands what starts it (numactl, taskset, nice)
			 */
};

int words_split(struct words *w, const char *text, struct error *err);
/* Appends one; -ENOMEM. */
int words_add(struct words *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void words_deinit(struct words *w);

/* The value of the last option -name or --name (the word behind it), or NULL. */
const char *words_option(const struct words *w, const char *name);
/* The place of the value of the next option of that name behind place i (0: the first one); 0:
 * there is no more. */
size_t words_next(const struct words *w, const char *name, size_t i);
/* Whether the option stands there, with or without a value. */
bool words_has(const struct words *w, const char *name);
/* Whether some option refers to id: "KEY=id" as one of its comma-separated parts. */
bool words_refer(const struct words *w, const char *id);
/* "key" of "first,key=value,...", or the first part where key is also its implied name; into buf.
 */
bool words_part(const char *value, const char *key, bool implied, char *buf, size_t len);

#endif
