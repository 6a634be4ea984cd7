/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What interrupted staged syncs have left in the journal, for the primary to go on from
 * (docs/stream.md, MAP): which blocks it touches, and what they hold with it. */
#include <errno.h>
#include <string.h>

#include "replicator/receiver_internal.h"
#include "util/bytes.h"

void receiver_held_forget(struct receiver *r)
{
	for (unsigned i = 0; i < CONF_MAX_DISKS; i++)
		r->held[i] = imap_free(r->held[i]);
}

/* (L) One disk: the index of what is held, and its blocks for the maps that go out.  false = no
 * memory, or it does not fit into the primary's disk. */
static bool receiver_held_disk(struct receiver *r, unsigned i, uint64_t size)
{
	struct dirtymap *map = r->n->maps[i];
	struct imap_range g;

	r->held[i] = imap_new();
	if (!r->held[i] || replica_kept_map(r->core, i, r->held[i]) < 0)
		return false;
	for (uint64_t at = 0; imap_find(r->held[i], at, &g); at = g.end) {
		if (g.end > min_u64(size, map->size))
			return false;
		dirtymap_mark(map, DIRTYMAP_ASKED, g.start, g.end - g.start);
	}
	return true;
}

void receiver_held_offer(struct receiver *r, const struct hello *peer)
{
	struct replica_status st;
	bool fits = true;

	receiver_held_forget(r);
	for (unsigned i = 0; i < r->n->nvolumes; i++)
		dirtymap_clear_all(r->n->maps[i], DIRTYMAP_ASKED);
	replica_get_status(r->core, &st);
	r->held_span = st.kept_span;
	r->held_due = st.kept != 0;
	if (!r->held_due)
		return;
	for (unsigned i = 0; i < r->n->nvolumes && fits; i++)
		fits = receiver_held_disk(r, i, peer->id.volume[i].size);
	if (fits)
		return;
	(void)replica_kept_drop(r->core);
	receiver_held_forget(r);
	r->held_due = false;
	r->held_span = 0;
}

/* At most RECORD_MAX_PAYLOAD bytes of the journal, wherever they are now. */
static int receiver_held_read(struct receiver *r, uint64_t pos, uint8_t *buf, uint64_t len)
{
	struct replica_chunk *c;

	pthread_mutex_lock(&r->n->lock);
	c = replica_written(r->core, pos) ? NULL : replica_chunk_pin(r->core, pos);
	pthread_mutex_unlock(&r->n->lock);
	if (!c)
		return journal_io_read(r, pos, buf, len);
	memcpy(buf, c->buf + (pos - c->head.pos), len);
	pthread_mutex_lock(&r->n->lock);
	replica_chunk_unpin(r->core, c);
	pthread_mutex_unlock(&r->n->lock);
	return 0;
}

int receiver_held_overlay(
	struct receiver *r, unsigned volume, uint64_t off, uint64_t len, uint8_t *buf)
{
	struct imap_range g;
	int e = 0;

	for (uint64_t at = off; e == 0 && imap_find(r->held[volume], at, &g) && g.start < off + len;
		at = g.end) {
		uint64_t from = max_u64(g.start, off), n = min_u64(g.end, off + len) - from;

		if (g.source == IMAP_ZERO)
			memset(buf + (from - off), 0, n);
		else
			e = receiver_held_read(r,
				(g.source & ~REPLICA_SOURCE_JOURNAL) + (from - g.start),
				buf + (from - off), n);
	}
	return e;
}
