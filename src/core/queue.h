/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The primary's side of the ordered stream: a ring of whole records between the guest's writers and
 * the link.  Memory and limit are given once; nothing here allocates, waits or copies payload.
 *
 *   writer:  reserve (under the caller's lock: this is the order of the stream) -> copy the payload
 *            into the slot, no lock -> publish (one atomic store)
 *   link:    ready (the longest published prefix) -> writev -> consume (under the lock)
 *
 * The ring's memory is mapped twice in a row (file_map_mirrored), so that records never wrap.
 * When the link has taken everything, the next record begins at the start again: a link that keeps
 * up uses the same, cache-warm memory instead of the whole ring.
 * Cost of a write: one reserve under the lock, one CRC, one copy. */
#ifndef TANDEM_CORE_QUEUE_H
#define TANDEM_CORE_QUEUE_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/record.h"

struct queue {
	uint8_t *mem;          /* 2 * size bytes of address space, mirrored */
	uint64_t size;         /* bytes */
	uint64_t base;         /* log position that stands at mem; under the lock */
	_Atomic uint64_t head; /* end of what is reserved; changed under the lock */
	uint64_t tail;  /* end of what the link has taken; changed under the lock by the link */
	uint64_t ready; /* end of the published prefix; the link's own */
	uint64_t seq;   /* of the next record; under the lock */
};

void queue_init(struct queue *q, void *mirrored, uint64_t size);
/* Forgets everything and begins again at seq 0 (a new connection).  No writer may be between
 * reserve and publish, the link thread must be the caller or stopped. */
void queue_reset(struct queue *q);
/* Under the lock.  Place for a record with this much payload, or NULL: full.  *ret_seq is its
 * number; the record must be published. */
uint8_t *queue_reserve(struct queue *q, uint32_t payload, uint64_t *ret_seq);
/* The payload stands at slot + RECORD_HEADER_SIZE; computes its CRC, pads, writes the header and
 * makes the record visible to the link. */
void queue_publish(uint8_t *slot, struct record *rec);
/* The same with the CRC given in rec: it was computed while the payload was copied. */
void queue_publish_summed(uint8_t *slot, struct record *rec);
/* Link thread, under the lock.  Published bytes that were not consumed, as one piece; 0 = none. */
uint64_t queue_ready(struct queue *q, const uint8_t **ret_data);
/* Link thread, under the lock: n bytes are on their way. */
void queue_consume(struct queue *q, uint64_t n);
/* Bytes reserved and not consumed; under the lock. */
uint64_t queue_used(struct queue *q);

#endif
