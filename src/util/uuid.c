/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Random identifiers. */
#include "util/uuid.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

int uuid_generate(struct uuid *ret_uuid)
{
	struct uuid u;

	if (getrandom(u.b, sizeof(u.b), 0) != (ssize_t)sizeof(u.b))
		return -EIO;
	u.b[6] = (u.b[6] & 0x0f) | 0x40;
	u.b[8] = (u.b[8] & 0x3f) | 0x80;
	*ret_uuid = u;
	return 0;
}

int uuid_random64(uint64_t *ret_number)
{
	uint64_t v = 0;

	while (v == 0)
		if (getrandom(&v, sizeof(v), 0) != (ssize_t)sizeof(v))
			return -EIO;
	*ret_number = v;
	return 0;
}

void uuid_format(const struct uuid *u, char text[UUID_TEXT_SIZE])
{
	char *p = text;

	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		p += sprintf(p, "%02x", u->b[i]);
	}
}

bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
	return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

bool uuid_is_zero(const struct uuid *u)
{
	static const struct uuid zero;

	return uuid_equal(u, &zero);
}
