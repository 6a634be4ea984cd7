/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The writes of one batch of the applier: of each disk ascending, neighbours together. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "replicator/applier_internal.h"
#include "replicator/seal.h"

#define APPLIER_IOV 64
#define APPLIER_RUN (1u << 20)  /* bytes of one write */
#define APPLIER_BACK (8u << 20) /* bytes read back from the journal at once */
#define APPLIER_CANNOT_WRITE ": cannot write to it"
#define APPLIER_CANNOT_FLUSH ": cannot flush it"

struct applier_run {
	struct iovec iov[APPLIER_IOV];
	int count;
	uint64_t off, len;
};

/* Keeps the first failure of a batch, with the object that it concerns; returns e. */
static int applier_note(struct applier *a, int e, const char *action, const char *disk)
{
	char *why = a->r->applier_why;

	if (e < 0 && !why[0])
		snprintf(why, sizeof(a->r->applier_why), "%s%s%s", disk ? "disk " : "",
			disk ? disk : "", action);
	return e;
}

/* The range of the volume is about to be written. */
static void applier_before(struct applier *a, struct volume *v, uint64_t off, uint64_t len)
{
	seal_note(v, off);
	if (a->to == a->out)
		snapshots_before_change(&v->snapshots, off, len);
}

static int applier_put_run(struct applier *a, struct volume *v, struct applier_run *run)
{
	int r = 0;

	if (run->count > 0) {
		applier_before(a, v, run->off, run->len);
		r = backing_submit_pwritev(a->to[v->index], run->iov, run->count, run->off);
	}
	run->count = 0;
	run->len = 0;
	return r;
}

/* Everything that was submitted is done: what was read back is not needed any more. */
static int applier_wait(struct applier *a)
{
	struct node *n = a->r->n;
	int r = 0;

	for (unsigned i = 0; i < n->nvolumes; i++) {
		int e = applier_note(
			a, backing_batch_wait(a->to[i]), APPLIER_CANNOT_WRITE, n->volumes[i].name);

		r = r < 0 ? r : e;
	}
	a->back_used = 0;
	return r;
}

/* Content of a range that is only in the journal; at most RECORD_MAX_PAYLOAD bytes. */
static int applier_read_back(struct applier *a, struct volume *v, struct applier_run *run,
	uint64_t pos, uint64_t len, const uint8_t **ret_data)
{
	int r = 0;

	if (!a->back)
		a->back = malloc(APPLIER_BACK);
	if (!a->back)
		return applier_note(a, -ENOMEM, "cannot read the journal", NULL);
	if (a->back_used + len > APPLIER_BACK) {
		r = applier_put_run(a, v, run);
		if (r == 0)
			r = applier_wait(a);
	}
	if (r == 0)
		r = applier_note(a, journal_io_read(a->r, pos, a->back + a->back_used, len),
			"cannot read the journal", NULL);
	*ret_data = a->back + a->back_used;
	a->back_used += len;
	return r;
}

/* Everything of one volume, ascending, neighbours in one write. */
static int applier_volume(struct applier *a, struct volume *v, struct imap *m)
{
	struct applier_run run = {.count = 0};
	struct imap_range g;
	uint64_t at = 0;
	int r = 0;

	while (r == 0 && imap_find(m, at, &g)) {
		uint64_t len = g.end - g.start;
		const uint8_t *data;

		at = g.end;
		if (run.count == APPLIER_IOV || run.len >= APPLIER_RUN ||
			(run.count && (run.off + run.len != g.start || g.source == IMAP_ZERO)))
			r = applier_put_run(a, v, &run);
		if (r < 0)
			break;
		if (g.source == IMAP_ZERO) {
			applier_before(a, v, g.start, len);
			r = backing_submit_zero(
				a->to[v->index], len, g.start, g.tag & 1 ? BACKING_ZERO_UNMAP : 0);
			continue;
		}
		if (g.source & REPLICA_SOURCE_JOURNAL)
			r = applier_read_back(
				a, v, &run, g.source & ~REPLICA_SOURCE_JOURNAL, len, &data);
		else
			data = (const uint8_t *)(uintptr_t)g.source;
		if (r < 0)
			break;
		if (run.count == 0)
			run.off = g.start;
		run.iov[run.count++] = (struct iovec){(void *)(uintptr_t)data, len};
		run.len += len;
	}
	return r < 0 ? r : applier_put_run(a, v, &run);
}

int applier_images(struct applier *a, struct replica_batch *b, bool flush)
{
	struct node *n = a->r->n;
	int r = 0;

	for (unsigned i = 0; i < n->nvolumes; i++) {
		int e = 0;

		if (b->maps[i] && imap_count(b->maps[i]) > 0)
			e = applier_note(a, applier_volume(a, &n->volumes[i], b->maps[i]),
				APPLIER_CANNOT_WRITE, n->volumes[i].name);
		r = r < 0 ? r : e;
	}
	int e = applier_wait(a);

	r = r < 0 ? r : e;
	for (unsigned i = 0; flush && r == 0 && i < n->nvolumes; i++)
		r = applier_note(a,
			backing_flush(b->cloned ? a->clones.backing[i] : n->volumes[i].backing),
			APPLIER_CANNOT_FLUSH, n->volumes[i].name);
	return r;
}
