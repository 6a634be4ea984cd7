/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Random (version 4, RFC 4122) identifiers: 16 bytes, printed as 8-4-4-4-12 hex digits. */
#ifndef TANDEM_UTIL_UUID_H
#define TANDEM_UTIL_UUID_H

#include <stdbool.h>
#include <stdint.h>

#define UUID_TEXT_SIZE 37

struct uuid {
	uint8_t b[16];
};

int uuid_generate(struct uuid *ret_uuid);
void uuid_format(const struct uuid *u, char text[UUID_TEXT_SIZE]);
bool uuid_equal(const struct uuid *a, const struct uuid *b);
bool uuid_is_zero(const struct uuid *u);
/* A random number that is not 0. */
int uuid_random64(uint64_t *ret_number);

#endif
