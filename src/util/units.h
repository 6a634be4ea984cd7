/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes as people write them: "512", "64K", "256M", "2G", "1T" (powers of 1024; an "iB" or "B"
 * after the letter is allowed), and back. */
#ifndef TANDEM_UTIL_UNITS_H
#define TANDEM_UTIL_UNITS_H

#include <stddef.h>
#include <stdint.h>

/* 0, -EINVAL (not a size) or -ERANGE (does not fit). */
int units_parse_size(const char *text, uint64_t *ret_bytes);
/* A decimal number without sign, white space or unit. */
int units_parse_u64(const char *text, uint64_t *ret_value);
/* "1.5 GiB"; returns buf. */
const char *units_format_size(uint64_t bytes, char *buf, size_t len);

#endif
