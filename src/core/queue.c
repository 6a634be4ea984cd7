/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ring of records between the writers and the link.
 *
 * A slot's first four bytes (the record's magic) tell whether it is published: reserve clears them
 * before the slot becomes part of [tail, head), publish sets them last.  What a guest wrote there a
 * lap earlier can therefore never pass for a record. */
#include "core/queue.h"

#include <string.h>

#include "util/bytes.h"
#include "util/crc.h"

#define QUEUE_LAP (512u << 10)

void queue_init(struct queue *q, void *mirrored, uint64_t size)
{
	memset(q, 0, sizeof(*q));
	q->mem = mirrored;
	q->size = size;
	q->lap = min_u64(QUEUE_LAP, size / 8);
	q->count = 1;
}

void queue_reset(struct queue *q)
{
	queue_init(q, q->mem, q->size);
}

static uint64_t queue_offset(const struct queue *q, uint64_t pos)
{
	unsigned i = q->count - 1;

	while (i > 0 && pos < q->runs[i].pos)
		i--;
	return (q->runs[i].at + (pos - q->runs[i].pos)) % q->size;
}

static uint8_t *queue_at(struct queue *q, uint64_t pos)
{
	return q->mem + queue_offset(q, pos);
}

static uint64_t queue_head(const struct queue *q)
{
	return atomic_load_explicit(&q->head, memory_order_relaxed);
}

/* Where run 1 ends, 1 to size; there is a second one. */
static uint64_t queue_end_of_first(const struct queue *q)
{
	return (q->runs[0].at + (q->runs[1].pos - q->runs[0].pos) - 1) % q->size + 1;
}

/* Bytes that the last run can still grow by, round the ring: up to the tail, or to the start, where
 * the second of three begins. */
static uint64_t queue_room_here(const struct queue *q)
{
	uint64_t head = queue_head(q), limit;

	if (q->count == 1)
		return q->size - (head - q->tail);
	limit = q->count == 2 ? queue_offset(q, q->tail) : 0;
	return (limit + q->size - queue_offset(q, head)) % q->size;
}

/* The same of a third run. */
static uint64_t queue_room_behind(const struct queue *q)
{
	return q->count == 2 && q->runs[1].at == 0 ? q->size - queue_end_of_first(q) : 0;
}

uint64_t queue_room(const struct queue *q)
{
	return max_u64(queue_room_here(q), queue_room_behind(q));
}

/* Whether the next record, of need bytes, is to begin at the start again. */
static bool queue_returns(const struct queue *q, uint64_t need)
{
	uint64_t used = queue_head(q) - q->tail, at = queue_offset(q, q->tail);

	return q->count == 1 && at >= max_u64(q->lap, need) && at + used <= q->size &&
	       used <= q->size / 8 && need <= q->size / 8;
}

static void queue_begin_run(struct queue *q, uint64_t at)
{
	q->runs[q->count++] = (struct queue_run){queue_head(q), at};
}

static _Atomic uint32_t *queue_mark(uint8_t *slot)
{
	return (_Atomic uint32_t *)(void *)slot; /* records are aligned to 8 bytes */
}

uint8_t *queue_reserve(struct queue *q, uint32_t payload, uint64_t *ret_seq)
{
	uint64_t head = queue_head(q), need = record_size(payload);
	uint8_t *slot;

	if (queue_room(q) < need)
		return NULL;
	if (head == q->tail) {
		q->runs[0] = (struct queue_run){head, 0};
		q->count = 1;
	} else if (queue_returns(q, need)) {
		queue_begin_run(q, 0);
	} else if (queue_room_here(q) < need) {
		queue_begin_run(q, queue_end_of_first(q));
	}
	slot = queue_at(q, head);
	atomic_store_explicit(queue_mark(slot), 0, memory_order_relaxed);
	*ret_seq = q->seq++;
	atomic_store_explicit(&q->head, head + need, memory_order_release);
	return slot;
}

void queue_publish(uint8_t *slot, struct record *rec)
{
	rec->payload_crc = rec->payload ? crc32c(slot + RECORD_HEADER_SIZE, rec->payload) : 0;
	queue_publish_summed(slot, rec);
}

void queue_publish_summed(uint8_t *slot, struct record *rec)
{
	uint8_t header[RECORD_HEADER_SIZE];
	size_t end = RECORD_HEADER_SIZE + rec->payload;

	memset(slot + end, 0, record_size(rec->payload) - end);
	record_put_header(header, rec);
	memcpy(slot + 4, header + 4, RECORD_HEADER_SIZE - 4);
	atomic_store_explicit(queue_mark(slot), htole32(RECORD_MAGIC), memory_order_release);
}

uint64_t queue_ready(struct queue *q, const uint8_t **ret_data, bool *ret_more)
{
	uint64_t head = atomic_load_explicit(&q->head, memory_order_acquire), end;

	while (q->ready < head) {
		uint8_t *slot = queue_at(q, q->ready);

		if (atomic_load_explicit(queue_mark(slot), memory_order_acquire) !=
			htole32(RECORD_MAGIC))
			break;
		q->ready += record_size(get_le32(slot + 12));
	}
	end = q->count > 1 ? min_u64(q->ready, q->runs[1].pos) : q->ready;
	*ret_data = queue_at(q, q->tail);
	*ret_more = end < q->ready;
	return end - q->tail;
}

void queue_consume(struct queue *q, uint64_t n)
{
	q->tail += n;
	if (q->count > 1 && q->tail == q->runs[1].pos) {
		memmove(q->runs, q->runs + 1, (QUEUE_RUNS - 1) * sizeof(q->runs[0]));
		q->count--;
	}
}

uint64_t queue_used(struct queue *q)
{
	return queue_head(q) - q->tail;
}
