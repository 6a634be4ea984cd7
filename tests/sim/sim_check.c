/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checks of the secondary at any moment, without touching it: what recovery would find after a
 * power cut right now, and what a reader sees through the journal's index. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

struct check_source {
	struct sim *s;
	uint64_t salt;
	bool peek; /* as after a power cut; else as the running node sees it */
};

static uint8_t *check_data; /* all volumes in a row */
static uint64_t check_size;

void check_deinit(void)
{
	free(check_data);
	check_data = NULL;
	check_size = 0;
}

static void check_disk(
	const struct check_source *c, const struct disk *d, uint64_t off, void *buf, uint64_t len)
{
	if (c->peek)
		disk_peek(d, off, buf, len, c->salt);
	else
		disk_read(d, off, buf, len);
}

static int check_journal(void *ctx, uint64_t pos, void *buf, size_t len)
{
	const struct check_source *c = ctx;

	check_disk(c, &c->s->sec.journal, journal_file_offset(c->s->plan.ring_size, pos), buf, len);
	return 0;
}

bool check_slots(
	struct sim *s, uint64_t salt, struct sim_meta *ret_meta, struct journal_header *ret_header)
{
	bool found = false;

	*ret_meta = (struct sim_meta){0};
	for (unsigned i = 0; i < 2; i++) {
		uint8_t buf[JOURNAL_BLOCK];
		struct journal_header h;

		disk_peek(&s->sec.meta, i * SIM_SECTOR, buf, SIM_SECTOR, salt);
		if (get_le64(buf) > ret_meta->serial)
			*ret_meta = (struct sim_meta){
				get_le64(buf), get_le64(buf + 8), buf[16], get_le64(buf + 24)};
		disk_peek(&s->sec.journal, i * JOURNAL_BLOCK, buf, sizeof(buf), salt);
		if (journal_header_decode(buf, &h) == NULL &&
			(!found || h.serial > ret_header->serial)) {
			*ret_header = h;
			found = true;
		}
	}
	return found;
}

/* One range of the index over the image. */
static void check_overlay(
	const struct check_source *c, struct replica *r, const struct imap_range *g, uint8_t *to)
{
	uint64_t len = g->end - g->start, pos = g->source & ~REPLICA_SOURCE_JOURNAL;
	struct replica_chunk *chunk;

	if (g->source == IMAP_ZERO) {
		memset(to, 0, len);
		return;
	}
	chunk = replica_chunk_pin(r, pos);
	if (chunk) {
		memcpy(to, chunk->buf + (pos - chunk->head.pos), len);
		replica_chunk_unpin(r, chunk);
	} else {
		(void)check_journal((void *)(uintptr_t)c, pos, to, len);
	}
}

static void check_room(const struct sim *s)
{
	if (check_size < s->oracle.total) {
		free(check_data);
		check_data = malloc(s->oracle.total);
		check_size = s->oracle.total;
	}
	if (!check_data)
		abort();
}

/* What the clones would hold after a power cut. */
static const uint8_t *check_clones(struct sim *s, uint64_t salt)
{
	check_room(s);
	for (unsigned v = 0; v < s->plan.volumes; v++)
		disk_peek(
			&s->sec.clone[v], 0, check_data + s->oracle.base[v], s->plan.size[v], salt);
	return check_data;
}

const uint8_t *check_read(struct sim *s, struct replica *r, bool open, uint64_t salt, bool peek)
{
	struct check_source c = {s, salt, peek};
	struct imap *m = imap_new();

	check_room(s);
	if (!m)
		abort();
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		uint8_t *to = check_data + s->oracle.base[v];
		struct imap_range g;

		check_disk(&c, &s->sec.image[v], 0, to, s->plan.size[v]);
		if (replica_read_map(r, v, open, m) < 0) {
			imap_free(m);
			return NULL;
		}
		for (uint64_t at = 0; imap_find(m, at, &g); at = g.end)
			check_overlay(&c, r, &g, to + g.start);
	}
	imap_free(m);
	return check_data;
}

const uint8_t *check_held(struct sim *s)
{
	struct check_source c = {s, 0, false};
	struct imap *m = imap_new();

	if (!m || !check_read(s, s->sec.r, false, 0, false))
		abort();
	for (unsigned v = 0; v < s->plan.volumes; v++) {
		struct imap_range g;

		if (replica_kept_map(s->sec.r, v, m) < 0)
			abort();
		for (uint64_t at = 0; imap_find(m, at, &g); at = g.end)
			check_overlay(&c, s->sec.r, &g, check_data + s->oracle.base[v] + g.start);
	}
	imap_free(m);
	return check_data;
}

/* The same state by the live index, as a reader gets it: pinned, copied, let go. */
static const uint8_t *check_index(struct sim *s, struct replica *r)
{
	struct check_source c = {s, 0, false};
	struct replica_piece p[4];

	for (unsigned v = 0; v < s->plan.volumes; v++) {
		uint8_t *to = check_data + s->oracle.base[v];
		uint64_t at = 0;

		while (at < s->plan.size[v]) {
			unsigned n = replica_index_get(r, v, at, s->plan.size[v] - at, p, 4);

			for (unsigned i = 0; i < n; i++) {
				if (p[i].off != at)
					sim_fail(s, "the live index has a gap at %llu",
						(unsigned long long)at);
				if (p[i].where == REPLICA_IN_IMAGE)
					check_disk(&c, &s->sec.image[v], at, to + at, p[i].len);
				else if (p[i].where == REPLICA_IN_ZERO)
					memset(to + at, 0, p[i].len);
				else if (p[i].where == REPLICA_IN_MEMORY)
					memcpy(to + at, p[i].data, p[i].len);
				else
					(void)check_journal(&c, p[i].pos, to + at, p[i].len);
				at += p[i].len;
			}
			replica_index_put(r, p, n);
		}
	}
	return check_data;
}

void check_live(struct sim *s, bool open, const char *where)
{
	struct replica_status st;
	const uint8_t *data;

	if (!s->sec.alive)
		return;
	replica_get_status(s->sec.r, &st);
	if (st.mode != REPLICA_READY &&
		!(st.mode == REPLICA_DIRECT && st.cloned && !s->sec.replacing))
		return;
	s->stats->live++;
	if (open && s->sec.local)
		oracle_check_logical(s, check_index(s, s->sec.r), "the live index");
	data = check_read(s, s->sec.r, open, 0, false);
	if (!data)
		sim_fail(s, "%s: there is no index", where);
	else if (open)
		oracle_check_logical(s, data, where);
	else
		oracle_check(s, data, st.committed, where);
	/* Beyond it: the chunk that is filled, and those that COMMITs have closed while none was
	 * written yet. */
	if (st.staged > s->plan.staging_limit + 8 * JOURNAL_CHUNK_MAX)
		sim_fail(s, "%llu bytes are staged, the limit is %llu",
			(unsigned long long)st.staged, (unsigned long long)s->plan.staging_limit);
}

/* --- a recovery on the side --- */

static void null_chunk(void *ctx, struct replica_chunk *c)
{
	(void)ctx;
	(void)c;
}

static void null_op(void *ctx)
{
	(void)ctx;
}

static void null_send(void *ctx, const struct record *rec)
{
	(void)ctx;
	(void)rec;
}

static void null_zero(void *ctx, uint64_t off, uint64_t len)
{
	(void)ctx;
	(void)off;
	(void)len;
}

static const struct replica_ops null_ops = {.chunk_write = null_chunk,
	.journal_flush = null_op,
	.send = null_send,
	.apply_ready = null_op,
	.memory_ready = null_op,
	.memory_zero = null_zero,
	.changed = null_op};

void check_shadow(struct sim *s, uint64_t salt, const char *where)
{
	struct check_source c = {s, salt, true};
	struct replica_status st;
	struct replica_config cfg;
	struct journal_header h;
	struct sim_meta m;
	struct replica *r;
	const char *why;

	s->stats->shadows++;
	if (!check_slots(s, salt, &m, &h)) {
		sim_fail(s, "%s: no valid journal header", where);
		return;
	}
	if (m.cloned) { /* done at the start: the images are the clones, and the journal is empty */
		oracle_check(s, check_clones(s, salt), m.cloned, where);
		return;
	}
	if (!m.consistent && s->oracle.promise && !s->sec.marking)
		sim_fail(s, "I7, %s: epoch %llu was said to be committed, the metadata knows none",
			where, (unsigned long long)s->oracle.promise);
	secondary_config(s, &cfg);
	cfg.ring = NULL; /* what it would hold is not what it holds */
	r = replica_new(&cfg, &h, m.consistent ? m.committed : 0, &null_ops, NULL);
	if (replica_recover(r, salt | 1, check_journal, &c, &why) < 0) {
		sim_fail(s, "%s: recovery: %s", where, why);
		replica_free(r);
		return;
	}
	replica_get_status(r, &st);
	if (m.consistent != (st.mode == REPLICA_READY))
		sim_fail(s, "%s: the metadata says %s, the replica is in mode %d", where,
			m.consistent ? "consistent" : "inconsistent", (int)st.mode);
	else if (m.consistent)
		oracle_check(s, check_read(s, r, false, salt, true), st.committed, where);
	replica_free(r);
}
