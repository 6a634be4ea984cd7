/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The primary's side of the ordered stream: a ring of whole records between the guest's writers and
 * the link.  Memory and limit are given once; nothing here allocates, waits or copies payload.
 *
 *   writer:  reserve (under the caller's lock: this is the order of the stream) -> copy the payload
 *            into the slot, no lock -> publish (one atomic store)
 *   link:    ready (the longest published prefix) -> writev -> consume (under the lock)
 *
 * The ring's memory is mapped twice in a row (file_map_mirrored), so that records never wrap.
 *
 * A link that keeps up uses the same, cache-warm memory over and over instead of the whole ring:
 * when the link has taken everything, the next record begins at the start again; and while at most
 * an eighth of the ring waits, writers return to the start once the link is a lap (512 KiB) away
 * from it.  What waits then stands in several runs of memory, three at most:
 *
 *   one        |......[1 tail   head)......|   the head may go round, up to the tail
 *   returned   |[2 head)..[1 tail  )........|   the head may go up to the tail, else
 *   three      |[2     )..[1 tail  )[3 head)|   on behind run 1, up to the start
 *   run 1 sent |[2 tail)............[3 head)|   and round, up to the tail
 *
 * Hence, until run 2 is sent as well, as much of the ring as an eighth and one record can be free
 * and yet not usable.
 * Cost of a write: one reserve under the lock, one CRC, one copy. */
#ifndef TANDEM_CORE_QUEUE_H
#define TANDEM_CORE_QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/record.h"

#define QUEUE_RUNS 3u

/* Positions of the stream from pos on, up to the next run's, stand at mem + at. */
struct queue_run {
	uint64_t pos, at;
};

struct queue {
	uint8_t *mem;  /* 2 * size bytes of address space, mirrored */
	uint64_t size; /* bytes */
	uint64_t lap;  /* writers return to the start when the link is that far from it */
	struct queue_run runs[QUEUE_RUNS]; /* in the order of the stream; under the lock */
	unsigned count;                    /* of them, 1 at least */
	_Atomic uint64_t head;             /* end of what is reserved; changed under the lock */
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
/* Link thread, under the lock.  Published bytes that were not consumed, as one piece; 0 = none.
 * *ret_more: there are others behind it, which are to be asked for when it is consumed. */
uint64_t queue_ready(struct queue *q, const uint8_t **ret_data, bool *ret_more);
/* Link thread, under the lock: n bytes are on their way. */
void queue_consume(struct queue *q, uint64_t n);
/* Bytes reserved and not consumed; under the lock. */
uint64_t queue_used(struct queue *q);
/* Under the lock.  A record of up to this many bytes (record_size) fits.  It shrinks by no more
 * than a record that is reserved, but never below 3/8 of the ring where that one returns to the
 * start.
 */
uint64_t queue_room(const struct queue *q);

#endif
