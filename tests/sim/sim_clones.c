/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Simulated clones of the secondary's images, for a sync that goes into them: made with its first
 * batch, put in the images' place after its last one, in the steps of the replicator's clones.h. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

void clones_make(struct sim *s)
{
	struct sim_secondary *sec = &s->sec;

	if (sec->clone_session == sec->batch.session)
		return;
	sec->clone_session = sec->batch.session;
	s->stats->cloned++;
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		struct disk *d = &sec->clone[v];

		disk_settle(d); /* what is left of a former one */
		memcpy(d->cache, sec->image[v].cache, d->size);
		memcpy(d->stable, sec->image[v].cache, d->size);
	}
}

bool clones_fail(struct sim *s)
{
	struct sim_secondary *sec = &s->sec;

	if (s->broken || !sim_chance(s, 2))
		return false;
	sim_trace(s, "apply: no space for the clones");
	s->stats->clones_failed++;
	sec->applying = sec->batch_out = false;
	replica_clone_failed(sec->r, &sec->batch);
	sec->discarded = true;
	link_close_s(s);
	secondary_kick(s);
	return true;
}

/* --- the end of the sync: the clones are whole and flushed --- */

static void clones_flush(struct sim *s, void *arg)
{
	if (--s->sec.pending > 0)
		return;
	s->sec.pending = s->plan.volumes;
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_flush(&s->sec.image[v], apply_flushed, arg);
}

/* As writes of all that a clone holds: a crash in between leaves any part of them. */
static void clones_write(struct sim *s, void *arg)
{
	struct sim_secondary *sec = &s->sec;

	sec->pending = 1;
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		struct disk *from = &sec->clone[v];

		for (uint64_t at = 0; at < from->size; at += 16384) {
			uint64_t n = min_u64(16384, from->size - at);

			if (memcmp(sec->image[v].cache + at, from->cache + at, n) == 0)
				continue;
			sec->pending++;
			disk_write(&sec->image[v], at, from->cache + at, n, clones_flush, arg);
		}
	}
	clones_flush(s, arg);
}

static void clones_noted(struct sim *s, void *arg)
{
	disk_flush(&s->sec.meta, clones_write, arg);
}

void clones_replace(struct sim *s)
{
	struct sim_secondary *sec = &s->sec;
	struct sim_meta m = {.committed = sec->meta_now.committed, .cloned = sec->batch.epoch};

	sim_trace(s, "apply: the clones are whole, epoch %llu", (unsigned long long)m.cloned);
	sec->replacing = true;
	if (s->broken == BREAK_CLONE_NO_NOTE)
		clones_write(s, NULL);
	else
		meta_write(s, &m, clones_noted);
}

/* --- a start in between --- */

static void clones_put(struct disk *d, uint64_t off, const void *buf, uint64_t len)
{
	memcpy(d->cache + off, buf, len);
	memcpy(d->stable + off, buf, len);
}

/* Done at once: a crash in the middle leaves what was there, and the same again to do. */
void clones_resume(struct sim *s)
{
	struct sim_secondary *sec = &s->sec;
	struct journal_header *h = &sec->header;
	uint8_t buf[JOURNAL_BLOCK] = {0};

	sec->clone_session = 0;
	sec->replacing = false;
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_settle(&sec->clone[v]);
	if (!sec->meta_now.cloned)
		return;
	s->stats->clones_resumed++;
	for (unsigned v = 0; v < s->plan.volumes; v++)
		clones_put(&sec->image[v], 0, sec->clone[v].cache, sec->image[v].size);
	h->serial++;
	h->tail = 0;
	h->tail_chain = sim_rng(s, UINT64_MAX);
	h->incarnation = sim_rng(s, UINT64_MAX);
	h->applied = sec->meta_now.cloned;
	journal_header_encode(buf, h);
	clones_put(&sec->journal, h->serial % 2 * JOURNAL_BLOCK, buf, JOURNAL_BLOCK);
	sec->meta_now = (struct sim_meta){.serial = sec->meta_now.serial + 1,
		.consistent = true,
		.committed = sec->meta_now.cloned};
	meta_encode(&sec->meta_now, buf);
	clones_put(&sec->meta, sec->meta_now.serial % 2 * SIM_SECTOR, buf, SIM_SECTOR);
}
