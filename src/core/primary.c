/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The primary's state machine. */
#include "core/primary.h"

#include <errno.h>
#include <string.h>

#include "util/bytes.h"

void primary_init(struct primary *p, void *mirrored, uint64_t queue_size)
{
	memset(p, 0, sizeof(*p));
	queue_init(&p->queue, mirrored, queue_size);
}

void primary_session_begin(
	struct primary *p, uint64_t floor, uint64_t sync_total, uint64_t max_epoch_bytes)
{
	struct record rec = {.type = RECORD_SYNC_BEGIN, .length = sync_total};
	uint8_t *slot;

	queue_reset(&p->queue);
	p->queue.seq = 1; /* 0 was the HELLO */
	p->open = max_u64(p->open, floor) + 1;
	p->changes = p->bytes = p->since = 0;
	p->total_changes = p->total_bytes = 0;
	p->got_changes = p->got_bytes = p->done_changes = p->done_bytes = 0;
	p->sealed_first = p->sealed_count = 0;
	p->sync_epoch = p->open;
	p->max_epoch_bytes = max_epoch_bytes;
	p->state = PRIMARY_SYNCING;
	rec.epoch = p->open;
	slot = queue_reserve(&p->queue, 0, &rec.seq); /* the first one always fits */
	queue_publish(slot, &rec);
}

void primary_session_end(struct primary *p)
{
	if (p->state != PRIMARY_FAILED)
		p->state = PRIMARY_SOLO;
}

uint8_t *primary_change(struct primary *p, struct record *rec, uint64_t now)
{
	uint8_t *slot;

	if (queue_used(&p->queue) + record_size(rec->payload) + PRIMARY_QUEUE_ROOM > p->queue.size)
		return NULL;
	slot = queue_reserve(&p->queue, rec->payload, &rec->seq);
	if (!slot)
		return NULL;
	rec->epoch = p->open;
	if (p->changes == 0)
		p->since = now;
	p->changes++;
	p->bytes += rec->length;
	p->total_changes++;
	p->total_bytes += rec->length;
	return slot;
}

/* SEAL or SYNC_END of the open epoch. */
static int primary_close(struct primary *p, uint16_t type, uint64_t now)
{
	struct record rec = {
		.type = type, .epoch = p->open, .offset = p->changes, .length = p->bytes};
	struct primary_sealed s = {p->open, p->changes ? p->since : now, p->total_changes};
	uint8_t *slot = queue_reserve(&p->queue, 0, &rec.seq);

	if (!slot)
		return -EAGAIN;
	queue_publish(slot, &rec);
	if (p->sealed_count == PRIMARY_SEALED_MAX) {
		/* Merged into the newest: its age stays that of its oldest change. */
		struct primary_sealed *last =
			&p->sealed[(p->sealed_first + p->sealed_count - 1) % PRIMARY_SEALED_MAX];

		last->epoch = s.epoch;
		last->total_changes = s.total_changes;
	} else {
		p->sealed[(p->sealed_first + p->sealed_count++) % PRIMARY_SEALED_MAX] = s;
	}
	p->open++;
	p->changes = p->bytes = p->since = 0;
	return 0;
}

int primary_cut(struct primary *p, uint64_t now, uint64_t *ret_epoch)
{
	uint64_t epoch = p->open;
	int r;

	if (p->state == PRIMARY_SYNCING && p->sync_epoch == p->open)
		return -EBUSY;
	if (!primary_replicating(p))
		return -ENOTCONN;
	r = primary_close(p, RECORD_SEAL, now);
	if (r == 0)
		*ret_epoch = epoch;
	return r;
}

bool primary_cut_due(const struct primary *p, uint64_t now, uint64_t interval)
{
	if (!primary_replicating(p) || p->sync_epoch == p->open || p->changes == 0 || interval == 0)
		return false;
	return now - p->since >= interval || (p->max_epoch_bytes && p->bytes >= p->max_epoch_bytes);
}

int primary_sync_end(struct primary *p, uint64_t now)
{
	return primary_close(p, RECORD_SYNC_END, now);
}

int primary_say(struct primary *p, enum record_type type, uint64_t reason, uint64_t generation,
	const char *text)
{
	struct record rec = {.type = (uint16_t)type, .offset = reason, .length = generation};
	uint8_t *slot;

	rec.payload = text ? (uint32_t)strnlen(text, RECORD_MAX_TEXT) : 0;
	slot = queue_reserve(&p->queue, rec.payload, &rec.seq);
	if (!slot)
		return -EAGAIN;
	if (text)
		memcpy(slot + RECORD_HEADER_SIZE, text, rec.payload);
	queue_publish(slot, &rec);
	return 0;
}

const char *primary_ack(struct primary *p, const struct record *rec)
{
	if (rec->offset > p->total_changes || rec->length > p->total_bytes)
		return "acknowledges more than was sent";
	if (rec->type == RECORD_ACK_RECEIVED) {
		if (rec->offset < p->got_changes || rec->length < p->got_bytes)
			return "acknowledges less than before";
		p->got_changes = rec->offset;
		p->got_bytes = rec->length;
	} else {
		if (rec->epoch >= p->open)
			return "acknowledges an epoch that was not sealed";
		if (rec->epoch < p->sync_epoch || rec->epoch < p->committed ||
			rec->offset < p->done_changes || rec->length < p->done_bytes)
			return "acknowledges less than before";
		p->committed = rec->epoch;
		p->done_changes = rec->offset;
		p->done_bytes = rec->length;
		p->got_changes = max_u64(p->got_changes, rec->offset);
		p->got_bytes = max_u64(p->got_bytes, rec->length);
		while (p->sealed_count && p->sealed[p->sealed_first].epoch <= rec->epoch) {
			p->sealed_first = (p->sealed_first + 1) % PRIMARY_SEALED_MAX;
			p->sealed_count--;
		}
		if (p->state == PRIMARY_SYNCING && rec->epoch >= p->sync_epoch)
			p->state = PRIMARY_PROTECTED;
	}
	p->received = max_u64(p->received, p->committed);
	for (unsigned i = 0; i < p->sealed_count; i++) {
		const struct primary_sealed *s =
			&p->sealed[(p->sealed_first + i) % PRIMARY_SEALED_MAX];

		if (s->total_changes > p->got_changes)
			break;
		p->received = max_u64(p->received, s->epoch);
	}
	return NULL;
}

void primary_get_pending(const struct primary *p, uint64_t now, struct primary_pending *ret_pending)
{
	struct primary_pending q = {0};

	if (primary_replicating(p)) {
		q.got_bytes = p->total_bytes - p->got_bytes;
		q.got_changes = p->total_changes - p->got_changes;
		q.done_bytes = p->total_bytes - p->done_bytes;
		q.done_changes = p->total_changes - p->done_changes;
		for (unsigned i = 0; i < p->sealed_count; i++) {
			const struct primary_sealed *s =
				&p->sealed[(p->sealed_first + i) % PRIMARY_SEALED_MAX];

			q.got_epochs += s->total_changes > p->got_changes;
			q.done_epochs++;
		}
		q.got_epochs += p->changes && p->total_changes > p->got_changes;
		q.done_epochs += p->changes != 0;
		if (p->sealed_count)
			q.age_ns = now - p->sealed[p->sealed_first].since;
		else if (p->changes)
			q.age_ns = now - p->since;
	}
	*ret_pending = q;
}
