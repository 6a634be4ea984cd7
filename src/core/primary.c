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

void primary_session_begin(struct primary *p, uint64_t floor, enum record_sync kind,
	uint64_t sync_total, uint64_t max_epoch_bytes)
{
	struct record rec = {.type = RECORD_SYNC_BEGIN, .offset = kind, .length = sync_total};
	uint8_t *slot;

	queue_reset(&p->queue);
	p->queue.seq = max_u64(p->first_seq, 1); /* 0 was the HELLO */
	p->first_seq = 0;
	p->open = max_u64(p->open, floor) + 1;
	p->changes = p->bytes = p->since = 0;
	p->total_changes = p->total_bytes = 0;
	p->got_changes = p->got_bytes = p->done_changes = p->done_bytes = 0;
	p->sealed_first = p->sealed_count = 0;
	p->settled = 0;
	p->disks_copied = p->open_state = p->begun = false;
	p->waits = p->moved = p->failing = false;
	p->waits_since = 0;
	p->open_space = 0;
	p->staged = kind == RECORD_SYNC_STAGED || kind == RECORD_SYNC_RESUMED;
	p->state_len = 0;
	p->cuts_count = 0;
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

/* With a guest: the journal must keep room for the SEALs, which stand behind these changes. */
static bool primary_overdue(const struct primary *p)
{
	uint64_t space = p->open_space, limit = p->max_epoch_bytes;

	if (!p->guest || limit == 0)
		return false;
	for (unsigned i = 0; i < p->cuts_count; i++)
		space += p->cuts[i].space;
	if (p->staged && primary_memory_epoch(p) == p->sync_epoch)
		limit *= 3; /* it takes the room that it needs */
	return space >= limit;
}

static bool primary_fits(const struct primary *p, const struct record *rec)
{
	return record_size(rec->payload) + PRIMARY_QUEUE_ROOM <= queue_room(&p->queue);
}

uint8_t *primary_change(struct primary *p, struct record *rec, uint64_t now)
{
	uint8_t *slot;

	if (!primary_fits(p, rec))
		return NULL;
	/* What the sync itself brings was found to fit. */
	if (!(rec->flags & RECORD_FLAG_SYNC) && !p->begun && primary_overdue(p)) {
		p->waits = true;
		return NULL;
	}
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
	if (p->open != p->sync_epoch || p->staged)
		p->open_space += record_size(rec->payload);
	return slot;
}

uint8_t *primary_digest(struct primary *p, struct record *rec)
{
	if (!primary_fits(p, rec) ||
		queue_used(&p->queue) + record_size(rec->payload) > p->queue.size / 2)
		return NULL;
	rec->epoch = p->open;
	return queue_reserve(&p->queue, rec->payload, &rec->seq);
}

int primary_freeze(struct primary *p, uint64_t epoch)
{
	struct record rec = {.type = epoch ? RECORD_FREEZE : RECORD_THAW, .epoch = epoch};
	uint8_t *slot = queue_reserve(&p->queue, 0, &rec.seq);

	if (!slot)
		return -EAGAIN;
	queue_publish(slot, &rec);
	return 0;
}

/* An epoch was closed by its SEAL or SYNC_END. */
static void primary_remember(struct primary *p, uint64_t epoch, uint64_t since, uint64_t place)
{
	struct primary_sealed s = {epoch, since, p->total_changes, place};

	if (p->sealed_count == PRIMARY_SEALED_MAX) {
		/* Merged into the newest: its age stays that of its oldest change. */
		struct primary_sealed *last =
			&p->sealed[(p->sealed_first + p->sealed_count - 1) % PRIMARY_SEALED_MAX];

		last->epoch = s.epoch;
		last->total_changes = s.total_changes;
		last->place = s.place;
	} else {
		p->sealed[(p->sealed_first + p->sealed_count++) % PRIMARY_SEALED_MAX] = s;
	}
}

/* SEAL or SYNC_END with these counts. 0 or -EAGAIN. */
static int primary_put_end(struct primary *p, uint16_t type, uint16_t flags, uint64_t epoch,
	uint64_t changes, uint64_t bytes)
{
	struct record rec = {
		.type = type, .flags = flags, .epoch = epoch, .offset = changes, .length = bytes};
	uint8_t *slot = queue_reserve(&p->queue, 0, &rec.seq);

	if (!slot)
		return -EAGAIN;
	queue_publish(slot, &rec);
	return 0;
}

/* SEAL or SYNC_END of the open epoch. */
static int primary_close(struct primary *p, uint16_t type, uint64_t now)
{
	if (primary_put_end(p, type, 0, p->open, p->changes, p->bytes) < 0)
		return -EAGAIN;
	primary_remember(p, p->open, p->changes ? p->since : now, p->total_changes);
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

int primary_checkpoint_cut(struct primary *p, uint64_t now, uint64_t *ret_epoch)
{
	bool first = p->sync_epoch == p->open;

	if (!primary_replicating(p))
		return -ENOTCONN;
	if (first && !p->disks_copied)
		return -EBUSY;
	if (p->cuts_count == PRIMARY_CUTS_MAX)
		return -EMFILE;
	if (first && primary_put_end(p, RECORD_SYNC_END, 0, p->open, p->changes, p->bytes) < 0)
		return -EAGAIN;
	p->cuts[p->cuts_count++] = (struct primary_checkpoint){.epoch = p->open,
		.changes = p->changes,
		.bytes = p->bytes,
		.since = p->changes ? p->since : now,
		.place = p->total_changes,
		.space = p->open_space,
		.state = p->open_state};
	*ret_epoch = p->open++;
	p->changes = p->bytes = p->since = 0;
	p->open_state = p->begun = false;
	p->open_space = 0;
	return 0;
}

uint64_t primary_memory_epoch(const struct primary *p)
{
	return p->cuts_count ? p->cuts[0].epoch : p->open;
}

uint8_t *primary_memory(struct primary *p, struct record *rec, uint64_t now)
{
	struct primary_checkpoint *c = p->cuts_count ? &p->cuts[0] : NULL;
	bool state = rec->type == RECORD_STATE;
	uint8_t *slot;

	if (!primary_fits(p, rec) ||
		queue_used(&p->queue) + record_size(rec->payload) > p->queue.size / 2)
		return NULL;
	slot = queue_reserve(&p->queue, rec->payload, &rec->seq);
	if (!slot)
		return NULL;
	rec->epoch = primary_memory_epoch(p);
	if (rec->type == RECORD_CHECK)
		return slot;
	p->moved |= !p->failing;
	if (c) {
		c->changes++;
		c->bytes += rec->length;
		c->state |= state;
	} else {
		if (p->changes++ == 0)
			p->since = now;
		p->bytes += rec->length;
		p->open_state |= state;
	}
	if (state)
		p->state_len = rec->offset + rec->length;
	p->total_changes++;
	p->total_bytes += rec->length;
	return slot;
}

int primary_checkpoint_seal(struct primary *p, uint64_t epoch, bool merge, uint64_t now)
{
	struct primary_checkpoint *c = &p->cuts[0];

	if (!primary_replicating(p))
		return -ENOTCONN;
	if (p->cuts_count == 0 || c->epoch != epoch)
		return -ENOENT;
	if (merge && p->sync_epoch == epoch)
		return -EPERM;
	if (!merge && !c->state)
		return -ENODATA;
	if (primary_put_end(
		    p, RECORD_SEAL, merge ? RECORD_FLAG_MERGE : 0, epoch, c->changes, c->bytes) < 0)
		return -EAGAIN;
	p->failing = merge;
	p->moved |= !merge;
	if (!merge) {
		primary_remember(p, epoch, c->since, c->place);
	} else if (p->cuts_count > 1) {
		p->cuts[1].space += c->space;
		p->cuts[1].since = c->since; /* its changes are a part of the next one now */
	} else {
		p->open_space += c->space;
		if (p->changes == 0)
			p->since = c->since;
	}
	p->cuts_count--;
	memmove(p->cuts, p->cuts + 1, p->cuts_count * sizeof(p->cuts[0]));
	return 0;
}

void primary_checkpoint_failed(struct primary *p)
{
	p->failing = true;
}

uint64_t primary_waits_for(struct primary *p, uint64_t now)
{
	if (!primary_replicating(p) || !primary_overdue(p))
		p->waits = false;
	if (!p->waits || p->moved || p->waits_since == 0)
		p->waits_since = p->waits ? now : 0;
	p->moved = false;
	return p->waits ? now - p->waits_since : 0;
}

static bool primary_has_cut(const struct primary *p, uint64_t interval)
{
	return primary_replicating(p) && !p->guest && p->sync_epoch != p->open && p->changes &&
	       interval;
}

uint64_t primary_cut_in(const struct primary *p, uint64_t now, uint64_t interval)
{
	if (!primary_has_cut(p, interval))
		return UINT64_MAX;
	return now - p->since >= interval ? 0 : interval - (now - p->since);
}

bool primary_cut_due(const struct primary *p, uint64_t now, uint64_t interval)
{
	return primary_cut_in(p, now, interval) == 0 ||
	       (primary_has_cut(p, interval) && p->max_epoch_bytes &&
		       p->bytes >= p->max_epoch_bytes);
}

int primary_sync_end(struct primary *p, uint64_t now)
{
	if (p->guest) {
		p->disks_copied = true;
		return 0;
	}
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

int primary_grow(struct primary *p, unsigned volume, uint64_t size)
{
	struct record rec = {.type = RECORD_GROW, .volume = volume, .length = size};
	uint8_t *slot = queue_reserve(&p->queue, 0, &rec.seq);

	if (!slot)
		return -EAGAIN;
	queue_publish(slot, &rec);
	return 0;
}

const char *primary_ack(struct primary *p, const struct record *rec)
{
	if (rec->offset > p->total_changes || rec->length > p->total_bytes)
		return "acknowledges more than was sent";
	if (rec->type == RECORD_ACK_SYNCED) {
		if (p->state != PRIMARY_SYNCING)
			return "acknowledges a part of a sync, and none runs";
		p->settled = max_u64(p->settled, rec->offset);
		return NULL;
	}
	if (rec->type == RECORD_ACK_RECEIVED) {
		if (rec->epoch >= primary_memory_epoch(p))
			return "acknowledges an epoch that was not sealed";
		if (rec->offset < p->got_changes || rec->length < p->got_bytes)
			return "acknowledges less than before";
		p->got_changes = rec->offset;
		p->got_bytes = rec->length;
		p->received = max_u64(p->received, rec->epoch);
	} else {
		if (rec->epoch >= primary_memory_epoch(p))
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
			p->settled = max_u64(p->settled, p->sealed[p->sealed_first].place);
			p->sealed_first = (p->sealed_first + 1) % PRIMARY_SEALED_MAX;
			p->sealed_count--;
		}
		if (p->state == PRIMARY_SYNCING && rec->epoch >= p->sync_epoch)
			p->state = PRIMARY_PROTECTED;
	}
	p->received = max_u64(p->received, p->committed);
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

			q.got_epochs += s->epoch > p->received;
			q.done_epochs++;
		}
		q.got_epochs += p->changes && p->total_changes > p->got_changes;
		q.done_epochs += p->cuts_count + (p->changes != 0);
		if (p->sealed_count)
			q.age_ns = now - p->sealed[p->sealed_first].since;
		else if (p->cuts_count)
			q.age_ns = now - p->cuts[0].since;
		else if (p->changes)
			q.age_ns = now - p->since;
	}
	*ret_pending = q;
}
