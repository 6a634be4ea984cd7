/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copies past the caches: x86-64 has the stores in its base instruction set. */
#include "util/copy.h"

#include <string.h>

#ifdef __SSE2__

#include <emmintrin.h>

void copy_past(void *dst, const void *src, size_t len)
{
	const __m128i *from = src;
	__m128i *to = dst;

	for (size_t i = 0; i < len / sizeof(*to); i += COPY_LINE / sizeof(*to)) {
		__m128i a = _mm_loadu_si128(from + i), b = _mm_loadu_si128(from + i + 1);
		__m128i c = _mm_loadu_si128(from + i + 2), d = _mm_loadu_si128(from + i + 3);

		_mm_stream_si128(to + i, a);
		_mm_stream_si128(to + i + 1, b);
		_mm_stream_si128(to + i + 2, c);
		_mm_stream_si128(to + i + 3, d);
	}
}

void copy_past_end(void)
{
	_mm_sfence();
}

#else

void copy_past(void *dst, const void *src, size_t len)
{
	memcpy(dst, src, len);
}

void copy_past_end(void)
{
}

#endif
