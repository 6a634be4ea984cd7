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

void queue_init(struct queue *q, void *mirrored, uint64_t size)
{
	memset(q, 0, sizeof(*q));
	q->mem = mirrored;
	q->size = size;
}

void queue_reset(struct queue *q)
{
	queue_init(q, q->mem, q->size);
}

static uint8_t *queue_at(struct queue *q, uint64_t pos)
{
	return q->mem + (pos - q->base) % q->size;
}

static _Atomic uint32_t *queue_mark(uint8_t *slot)
{
	return (_Atomic uint32_t *)(void *)slot; /* records are aligned to 8 bytes */
}

uint8_t *queue_reserve(struct queue *q, uint32_t payload, uint64_t *ret_seq)
{
	uint64_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
	uint64_t need = record_size(payload);
	uint8_t *slot;

	if (head - q->tail + need > q->size)
		return NULL;
	if (head == q->tail)
		q->base = head;
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

uint64_t queue_ready(struct queue *q, const uint8_t **ret_data)
{
	uint64_t head = atomic_load_explicit(&q->head, memory_order_acquire);

	while (q->ready < head) {
		uint8_t *slot = queue_at(q, q->ready);

		if (atomic_load_explicit(queue_mark(slot), memory_order_acquire) !=
			htole32(RECORD_MAGIC))
			break;
		q->ready += record_size(get_le32(slot + 12));
	}
	*ret_data = queue_at(q, q->tail);
	return q->ready - q->tail;
}

void queue_consume(struct queue *q, uint64_t n)
{
	q->tail += n;
}

uint64_t queue_used(struct queue *q)
{
	return atomic_load_explicit(&q->head, memory_order_relaxed) - q->tail;
}
