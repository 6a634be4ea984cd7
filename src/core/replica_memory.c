/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory and device state of a guest on the secondary (docs/consistency.md 11-14).
 *
 *   PAGES -> unpacked at once -> held beside the image, per epoch -> COMMIT durable -> image
 *
 * Where an epoch's memory is held: in blocks; or, when it is the first of a session (all memory) or
 * outgrows staging_limit, in the second image, page by page, which one epoch at a time has; or,
 * when there is no committed memory that could be lost, in the image itself.
 *
 * Invariants: the image changes only by epochs that have committed, in order, unless it holds none
 * (memory_epoch 0); a record counts only after its data was unpacked (I2). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/replica_memory.h"
#include "util/bytes.h"

int replica_memory_init(struct replica *r)
{
	if (!r->cfg.image)
		return 0;
	r->scratch = malloc(RECORD_MAX_PAYLOAD);
	r->present = calloc(replica_memory_words(r), 8);
	r->zeroed = calloc(replica_memory_words(r), 8);
	r->deltas = calloc(replica_memory_words(r), 8);
	return r->scratch && r->present && r->zeroed && r->deltas ? 0 : -ENOMEM;
}

static void replica_memory_hold(struct replica *r, struct replica_memory *m, uint64_t n)
{
	m->held += n;
	r->held += n;
}

static void replica_memory_free_blocks(struct replica *r, struct replica_memory *m)
{
	while (m->first) {
		struct replica_block *b = m->first;

		m->first = b->next;
		free(b);
	}
	m->last = NULL;
	r->held -= m->held;
	m->held = 0;
}

static void replica_memory_clear_bits(struct replica *r)
{
	memset(r->present, 0, replica_memory_words(r) * 8);
	memset(r->zeroed, 0, replica_memory_words(r) * 8);
	memset(r->deltas, 0, replica_memory_words(r) * 8);
}

void replica_memory_leave_second(struct replica *r, struct replica_memory *m)
{
	if (m->place != REPLICA_MEMORY_SECOND)
		return;
	replica_memory_clear_bits(r);
	r->second_busy = false;
}

static void replica_memory_free_checks(struct replica_memory *m)
{
	while (m->checks) {
		struct memcheck *c = m->checks;

		m->checks = c->next;
		free(c);
	}
}

void replica_memory_free(struct replica *r, struct replica_memory *m)
{
	replica_memory_free_blocks(r, m);
	replica_memory_free_checks(m);
	free(m->state);
	free(m);
}

void replica_memory_deinit(struct replica *r)
{
	while (r->memory_first) {
		struct replica_memory *m = r->memory_first;

		r->memory_first = m->next;
		replica_memory_free(r, m);
	}
	compress_deinit(&r->compress);
	free(r->scratch);
	free(r->present);
	free(r->zeroed);
	free(r->deltas);
	free(r->blob);
	free(r->state);
}

void replica_memory_session(struct replica *r)
{
	r->memory_whole = false;
	r->blob_len = 0;
}

void replica_memory_drop(struct replica *r, struct replica_epoch *e)
{
	struct replica_memory *m = e->memory;

	if (!m)
		return;
	e->memory = NULL;
	if (m->place == REPLICA_MEMORY_SECOND) {
		/* Its pages are freed by the next job; until then the image is not given out. */
		replica_memory_clear_bits(r);
		r->second_dirty = true;
		r->ops->memory_ready(r->ctx);
	} else if (m->place == REPLICA_MEMORY_IMAGE) {
		r->ops->memory_zero(r->ctx, 0, r->cfg.sizes[r->cfg.memory]);
	}
	replica_memory_free(r, m);
}

static const char *replica_memory_expected(
	const struct replica *r, const struct record *rec, bool memory)
{
	if (!r->cfg.image)
		return "memory or state of a guest, and this group has none";
	if (rec->volume != (memory ? r->cfg.memory : r->cfg.state))
		return "memory or state for a volume of another kind";
	if (r->mode == REPLICA_EMPTY)
		return "memory or state without a full sync before it";
	for (const struct replica_epoch *e = r->open_first; e && e->number < rec->epoch;
		e = e->next)
		if (!e->sealed)
			return "memory or state before the seal of the epoch before it";
	return NULL;
}

const char *replica_memory_check_digests(const struct replica *r, const struct record *rec)
{
	const char *why =
		replica_memory_expected(r, rec, !r->cfg.image || rec->volume != r->cfg.state);
	const struct replica_epoch *e = r->open_first;

	if (why)
		return why;
	if (rec->offset + rec->length > r->cfg.sizes[rec->volume])
		return "beyond the end of the volume";
	while (e && e->number < rec->epoch)
		e = e->next;
	if (!e || e->number != rec->epoch || !e->memory)
		return "digests of an epoch without memory or state";
	/* In order, and each once: so what they take is bounded. */
	for (const struct memcheck *c = e->memory->checks; c; c = c->next)
		if (c->volume > rec->volume ||
			(c->volume == rec->volume && c->offset >= rec->offset))
			return "digests out of order";
	return NULL;
}

int replica_memory_digests(struct replica *r, const struct record *rec, const uint8_t *payload)
{
	struct replica_epoch *e = replica_epoch_get(r, rec->epoch);
	struct memcheck **at = e ? &e->memory->checks : NULL; /* it is there: it was checked */
	struct memcheck *c = e ? malloc(sizeof(*c) + rec->payload) : NULL;

	if (!c)
		return -ENOMEM;
	c->next = NULL;
	c->volume = rec->volume;
	c->offset = rec->offset;
	c->length = rec->length;
	memcpy(c->digests, payload, rec->payload);
	while (*at)
		at = &(*at)->next;
	*at = c;
	return 0;
}

const char *replica_memory_check(
	const struct replica *r, const struct record *rec, const uint8_t *payload)
{
	const char *why = replica_memory_expected(r, rec, rec->type == RECORD_PAGES);

	if (why)
		return why;
	if (rec->type == RECORD_PAGES) {
		if (!r->memory_whole && pages_has_delta(rec, payload))
			return "differences before all of the memory has come";
		return pages_inside(rec, payload, r->cfg.sizes[rec->volume])
			       ? NULL
			       : "beyond the end of the volume";
	}
	if (rec->offset + rec->length > r->cfg.sizes[rec->volume])
		return "beyond the end of the volume";
	return rec->offset > r->blob_len ? "state with a gap before it" : NULL;
}

static struct replica_memory *replica_memory_get(struct replica *r, struct replica_epoch *e)
{
	struct replica_memory *m = e->memory;

	if (m)
		return m;
	m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->epoch = e->number;
	m->whole = !r->memory_whole;
	if (m->whole) {
		m->place = r->memory_epoch ? REPLICA_MEMORY_SECOND : REPLICA_MEMORY_IMAGE;
		r->second_busy |= r->memory_epoch != 0;
	}
	e->memory = m;
	return m;
}

static void replica_memory_bits(uint64_t *bits, uint64_t off, uint64_t len, bool set)
{
	for (uint64_t p = off / PAGES_PAGE, end = (off + len) / PAGES_PAGE; p < end; p++) {
		if (p % 64 == 0 && end - p >= 64) {
			bits[p / 64] = set ? UINT64_MAX : 0;
			p += 63;
		} else if (set) {
			bits[p / 64] |= 1ull << p % 64;
		} else {
			bits[p / 64] &= ~(1ull << p % 64);
		}
	}
}

/* What the pages of a run become in the second image, which may hold them already: then it is the
 * difference to that. */
static void replica_memory_second_delta(
	struct replica *r, const struct pages_run *run, const uint8_t *data)
{
	for (uint64_t at = 0; at < run->length; at += PAGES_PAGE) {
		uint64_t off = run->offset + at, page = off / PAGES_PAGE;
		bool there = replica_memory_bit(r->present, page);

		if (there && !replica_memory_bit(r->zeroed, page)) {
			bytes_xor(r->cfg.second + off, data + at, PAGES_PAGE);
			continue;
		}
		memcpy(r->cfg.second + off, data + at, PAGES_PAGE);
		replica_memory_bits(r->present, off, PAGES_PAGE, true);
		replica_memory_bits(r->zeroed, off, PAGES_PAGE, false);
		replica_memory_bits(r->deltas, off, PAGES_PAGE, !there); /* zero: data ^ 0 */
	}
}

static void replica_memory_second(
	struct replica *r, const struct pages_run *run, const uint8_t *data)
{
	if (run->delta) {
		replica_memory_second_delta(r, run, data);
		return;
	}
	replica_memory_bits(r->present, run->offset, run->length, true);
	replica_memory_bits(r->zeroed, run->offset, run->length, run->zero);
	replica_memory_bits(r->deltas, run->offset, run->length, false);
	if (!run->zero)
		memcpy(r->cfg.second + run->offset, data, run->length);
}

/* Runs to where the epoch's memory is, if that is not in blocks.  In the image itself there are no
 * differences: it is the memory of a session's first epoch. */
static void replica_memory_scatter(struct replica *r, enum replica_memory_place place,
	const uint8_t *table, unsigned runs, const uint8_t *data)
{
	for (unsigned i = 0; i < runs; i++) {
		struct pages_run run = pages_get_run(table, i);

		if (place == REPLICA_MEMORY_SECOND) {
			replica_memory_second(r, &run, data);
		} else if (run.zero) {
			r->ops->memory_zero(r->ctx, run.offset, run.length);
		} else {
			memcpy(r->cfg.image + run.offset, data, run.length);
		}
		data += run.zero ? 0 : run.length;
	}
}

/* An epoch that has outgrown what may be held goes on in the second image: it is bounded. */
static void replica_memory_outgrow(struct replica *r, struct replica_memory *m)
{
	if (m->place != REPLICA_MEMORY_BLOCKS || r->held <= r->cfg.staging_limit || r->second_busy)
		return;
	for (struct replica_block *b = m->first; b; b = b->next)
		replica_memory_scatter(r, REPLICA_MEMORY_SECOND, b->bytes, b->runs,
			b->bytes + (size_t)b->runs * PAGES_RUN);
	replica_memory_free_blocks(r, m);
	m->place = REPLICA_MEMORY_SECOND;
	r->second_busy = true;
}

static int replica_memory_pages(struct replica *r, struct replica_memory *m,
	const struct record *rec, const uint8_t *payload, const uint8_t *data)
{
	uint32_t table = (uint32_t)rec->offset * PAGES_RUN, size = pages_data_size(rec, payload);
	struct replica_block *b;

	replica_memory_outgrow(r, m);
	if (m->place != REPLICA_MEMORY_BLOCKS) {
		replica_memory_scatter(r, m->place, payload, (unsigned)rec->offset, data);
		return 0;
	}
	b = malloc(sizeof(*b) + table + size);
	if (!b)
		return -ENOMEM;
	b->next = NULL;
	b->size = size;
	b->runs = (uint32_t)rec->offset;
	memcpy(b->bytes, payload, table);
	memcpy(b->bytes + table, data, size);
	if (m->last)
		m->last->next = b;
	else
		m->first = b;
	m->last = b;
	replica_memory_hold(r, m, sizeof(*b) + table + size);
	return 0;
}

static int replica_memory_blob(struct replica *r, const struct record *rec, const uint8_t *data)
{
	size_t end = rec->offset + rec->length;

	if (end > r->blob_cap) {
		size_t cap = max_u64(end, 2 * r->blob_cap);
		uint8_t *p = realloc(r->blob, cap);

		if (!p)
			return -ENOMEM;
		r->blob = p;
		r->blob_cap = cap;
	}
	memcpy(r->blob + rec->offset, data, rec->length);
	r->blob_len = end;
	return 0;
}

int replica_memory_change(struct replica *r, const struct record *rec, const uint8_t *payload)
{
	const uint8_t *data = pages_data(&r->compress, rec, payload, r->scratch);
	struct replica_epoch *e;
	struct replica_memory *m;
	int err;

	if (!data)
		return -EPROTO;
	e = replica_epoch_get(r, rec->epoch);
	m = e ? replica_memory_get(r, e) : NULL;
	if (!m)
		return -ENOMEM;
	err = rec->type == RECORD_STATE ? replica_memory_blob(r, rec, data)
					: replica_memory_pages(r, m, rec, payload, data);
	if (err < 0)
		return err;
	m->has_state |= rec->type == RECORD_STATE;
	e->memory_changes++;
	e->memory_bytes += rec->length;
	r->session_changes++;
	r->session_bytes += rec->length;
	return 0;
}

bool replica_memory_has_state(const struct replica_epoch *e)
{
	return e && e->memory && e->memory->has_state;
}

int replica_memory_seal(struct replica *r, struct replica_epoch *e, bool merge)
{
	struct replica_memory *m = e->memory;

	if (merge) {
		struct replica_epoch *next = replica_epoch_get(r, e->number + 1);

		if (!next)
			return -ENOMEM;
		next->memory = m; /* it has none of its own: PAGES wait for this seal */
		e->memory = NULL;
		if (m) {
			m->epoch = next->number;
			m->has_state = false;
			replica_memory_free_checks(m); /* of a capture that failed */
		}
		return 0;
	}
	if (!m)
		return 0;
	m->state = malloc(r->blob_len);
	if (!m->state)
		return -ENOMEM;
	memcpy(m->state, r->blob, r->blob_len);
	m->state_len = r->blob_len;
	replica_memory_hold(r, m, m->state_len);
	r->memory_whole = true;
	return 0;
}

void replica_memory_commit(struct replica *r, struct replica_epoch *e)
{
	struct replica_memory *m = e->memory;

	if (!m)
		return;
	e->memory = NULL;
	m->next = NULL;
	if (r->memory_last)
		r->memory_last->next = m;
	else
		r->memory_first = m;
	r->memory_last = m;
	r->ops->memory_ready(r->ctx);
}
