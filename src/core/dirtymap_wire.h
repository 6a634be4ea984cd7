/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A dirty map in the stream (docs/stream.md, MAP): the secondary tells what its own map wants, and
 * the primary unites it with its own.  Pure. */
#ifndef TANDEM_CORE_DIRTYMAP_WIRE_H
#define TANDEM_CORE_DIRTYMAP_WIRE_H

#include "core/dirtymap.h"
#include "core/record.h"

/* The next MAP of a volume's layer, with those flags, from block 64 * *word on: fills rec (but
 * volume, seq and CRC) and payload (RECORD_MAX_MAP bytes), and moves *word behind it; false =
 * nothing is left. */
bool dirtymap_put_map(const struct dirtymap *m, enum dirtymap_layer layer, uint16_t flags,
	uint64_t *word, struct record *rec, uint8_t *payload);
/* NULL = united with m (HELD: also noted as that); or why it cannot be (nothing has changed). What
 * lies behind the end of m is ignored: the peer's volume may be larger. */
const char *dirtymap_take_map(struct dirtymap *m, const struct record *rec, const uint8_t *payload);

#endif
