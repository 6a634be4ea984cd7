/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See splice.h. */
#include "guest/splice.h"

#include <errno.h>
#include <string.h>

#define SPLICE_SECTION_FULL 0x04
#define SPLICE_FOOTER 0x7e
#define SPLICE_FOOTER_SIZE 5 /* the byte and the section's id */

static const unsigned char splice_magic[8] = {'Q', 'E', 'V', 'M', 0, 0, 0, 3};

int splice_base(
	const void *full, size_t full_len, const void *saved, size_t saved_len, size_t *ret_length)
{
	const unsigned char *f = full, *s = saved, *p;
	size_t key;

	if (full_len < 64 || saved_len < 64 || memcmp(f, splice_magic, 8) != 0 ||
		memcmp(s, splice_magic, 8) != 0 || s[SPLICE_SAVED_HEADER] != SPLICE_SECTION_FULL)
		return -EPROTO;
	s += SPLICE_SAVED_HEADER;
	key = 6u + s[5]; /* type, id, length of the name, name */
	/* The first place with the same section that follows the footer of another one. */
	for (p = f + 8; (size_t)(f + full_len - p) >= key; p++) {
		p = memchr(p, SPLICE_SECTION_FULL, (size_t)(f + full_len - p) - key + 1);
		if (!p)
			break;
		if (memcmp(p, s, key) != 0)
			continue;
		if (p - f < 8 + SPLICE_FOOTER_SIZE || p[-SPLICE_FOOTER_SIZE] != SPLICE_FOOTER)
			continue;
		*ret_length = (size_t)(p - f);
		return 0;
	}
	return -EPROTO;
}
