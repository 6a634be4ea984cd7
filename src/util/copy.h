/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A copy that goes past the caches, where the processor has such stores, for what another processor
 * takes, or this one much later: it reads no line that it is going to overwrite, and leaves in the
 * caches what stands there.  Elsewhere it is memcpy. */
#ifndef TANDEM_UTIL_COPY_H
#define TANDEM_UTIL_COPY_H

#include <stddef.h>

#define COPY_LINE 64u /* dst and len are multiples of it */

void copy_past(void *dst, const void *src, size_t len);
/* After the last piece: orders the copies before every later store, without which one that
 * publishes them could be seen first. */
void copy_past_end(void);

#endif
