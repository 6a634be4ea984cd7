/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The live index: where the newest content of each byte is, while there are local writers.
 *
 * A read sees what was written before it began: an entry is there from the change on, and goes only
 * when the image holds what it names (the batch is done) or the epoch was dropped.  A range without
 * an entry is read from the image. */
#include "core/replica_internal.h"

#include <errno.h>

#include "util/bytes.h"

#define REPLICA_INDEX_SHIFT 20 /* a payload is at most 1 MiB, so offsets in it are below */
_Static_assert(RECORD_MAX_PAYLOAD <= 1u << REPLICA_INDEX_SHIFT, "offsets in a change");

static int replica_index_put_change(struct replica *r, const struct replica_epoch *e, size_t i)
{
	const struct replica_change *ch = &e->changes[i];
	uint64_t source = ch->type_flags & 1 ? IMAP_ZERO : (uint64_t)i << REPLICA_INDEX_SHIFT;

	if (!r->index[ch->volume])
		r->index[ch->volume] = imap_new();
	if (!r->index[ch->volume])
		return -ENOMEM;
	return imap_insert(r->index[ch->volume], ch->off, ch->len, source, (uintptr_t)e);
}

int replica_index_add(struct replica *r, const struct replica_epoch *e)
{
	return r->indexed ? replica_index_put_change(r, e, e->count - 1) : 0;
}

static int replica_index_list(struct replica *r, const struct replica_epoch *e)
{
	for (; e; e = e->next)
		for (size_t i = 0; i < e->count; i++)
			if (replica_index_put_change(r, e, i) < 0)
				return -ENOMEM;
	return 0;
}

int replica_index_rebuild(struct replica *r)
{
	int err;

	if (!r->indexed)
		return 0;
	for (unsigned v = 0; v < RECORD_MAX_VOLUMES; v++)
		if (r->index[v])
			imap_clear(r->index[v]);
	err = replica_index_list(r, r->applying);
	if (err == 0)
		err = replica_index_list(r, r->done_first);
	return err < 0 ? err : replica_index_list(r, r->open_first);
}

int replica_index_begin(struct replica *r)
{
	int err;

	r->indexed = true;
	err = replica_index_rebuild(r);
	if (err < 0)
		replica_index_end(r);
	return err;
}

void replica_index_end(struct replica *r)
{
	r->indexed = false;
	for (unsigned v = 0; v < RECORD_MAX_VOLUMES; v++)
		r->index[v] = imap_free(r->index[v]);
}

/* Every entry that names the epoch lies in one of its changes. */
void replica_index_applied(struct replica *r, const struct replica_epoch *e)
{
	if (!r->indexed)
		return;
	for (size_t i = 0; i < e->count; i++) {
		const struct replica_change *ch = &e->changes[i];
		struct imap *m = r->index[ch->volume];
		struct imap_range g;

		for (uint64_t at = ch->off;
			m && imap_find(m, at, &g) && g.start < ch->off + ch->len; at = g.end)
			if (g.tag == (uintptr_t)e)
				imap_remove(m, &g);
	}
}

static struct replica_piece replica_index_piece(const struct imap_range *g, uint64_t off)
{
	struct replica_piece p = {.off = off, .len = g->end - off, .where = REPLICA_IN_ZERO};
	const struct replica_epoch *e = (const struct replica_epoch *)(uintptr_t)g->tag;
	const struct replica_change *ch;
	uint64_t source, at;

	if (g->source == IMAP_ZERO)
		return p;
	source = g->source + (off - g->start);
	ch = &e->changes[source >> REPLICA_INDEX_SHIFT];
	at = ch->at + (source & ((1u << REPLICA_INDEX_SHIFT) - 1));
	p.chunk = ch->chunk;
	if (p.chunk->buf) {
		p.where = REPLICA_IN_MEMORY;
		p.data = p.chunk->buf + at;
	} else {
		p.where = REPLICA_IN_JOURNAL;
		p.pos = p.chunk->head.pos + at;
	}
	return p;
}

unsigned replica_index_get(struct replica *r, unsigned volume, uint64_t off, uint64_t len,
	struct replica_piece *ret_pieces, unsigned max)
{
	const struct imap *m = r->index[volume];
	uint64_t end = off + len;
	unsigned n = 0;

	while (off < end && n < max) {
		struct replica_piece *p = &ret_pieces[n++];
		struct imap_range g;

		if (!m || !imap_find(m, off, &g))
			g.start = end;
		if (g.start > off) {
			*p = (struct replica_piece){.off = off,
				.len = min_u64(g.start, end) - off,
				.where = REPLICA_IN_IMAGE};
		} else {
			*p = replica_index_piece(&g, off);
			p->len = min_u64(p->len, end - off);
			if (p->chunk)
				p->chunk->pins++;
		}
		off += p->len;
	}
	return n;
}

void replica_index_put(struct replica *r, const struct replica_piece *pieces, unsigned n)
{
	bool any = false;

	for (unsigned i = 0; i < n; i++) {
		if (pieces[i].chunk) {
			pieces[i].chunk->pins--;
			any = true;
		}
	}
	if (any)
		replica_log_trim(r);
}
