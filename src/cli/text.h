/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Numbers and foreign strings as people read them.  The functions that take buf return it. */
#ifndef TANDEM_CLI_TEXT_H
#define TANDEM_CLI_TEXT_H

#include <stddef.h>
#include <stdint.h>

#define TEXT_SIZE 64 /* enough for each of these */

/* Replaces control characters (C0, DEL, and C1 in UTF-8) by '?', in place; returns text. */
char *text_clean(char *text);
/* "1 epoch", "2 epochs" */
const char *text_count(uint64_t n, const char *noun, char *buf, size_t len);
/* "53 ms", "1.2 s", "3 min 20 s", "2 h 5 min" */
const char *text_duration(uint64_t ms, char *buf, size_t len);

#endif
