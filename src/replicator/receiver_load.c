/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a secondary starts from: metadata, journal, and clones that a sync has left; and when a
 * sync's content becomes this node's own. */
#include <errno.h>
#include <sys/random.h>

#include "core/pages.h"
#include "replicator/clones.h"
#include "replicator/memory.h"
#include "replicator/receiver_internal.h"
#include "util/bytes.h"
#include "util/log.h"

static uint64_t receiver_random(void)
{
	uint64_t v = 0;

	while (getrandom(&v, sizeof(v), 0) != sizeof(v))
		;
	return v;
}

/* Without a committed state nothing in the journal counts: it begins anew, and no old chunk can
 * follow the new chain value. */
static int receiver_reset_journal(
	struct receiver *r, struct journal_header *h, uint64_t applied, struct error *err)
{
	int e;

	h->serial++;
	h->tail = 0;
	h->tail_chain = receiver_random();
	h->incarnation = receiver_random();
	h->applied = applied;
	e = journal_io_write_header(r, h);
	return e < 0 ? error_code(err, e, "journal: cannot write its header") : 0;
}

static void receiver_note_settled(struct metadata *m, void *ctx)
{
	(void)identity_settle(&m->id, *(uint64_t *)ctx);
}

int receiver_settle(struct receiver *r, uint64_t committed, struct error *err)
{
	struct node *n = r->n;
	bool due;
	int e = 0;

	pthread_mutex_lock(&n->meta_lock);
	due = !identity_is_none(&n->meta.now.id.next.generation) &&
	      committed > n->meta.now.id.next.floor;
	if (due)
		e = node_meta_update_locked(n, receiver_note_settled, &committed, err);
	pthread_mutex_unlock(&n->meta_lock);
	if (!due || e < 0)
		return e;
	e = receiver_clear_maps(r, err);
	if (r->started) { /* else it was committed before this node started */
		struct replica_status st;

		pthread_mutex_lock(&n->lock);
		replica_get_status(r->core, &st);
		n->counters.syncs++;
		n->counters.sync_bytes = st.sync_total;
		node_changed(n);
		pthread_mutex_unlock(&n->lock);
	}
	return e;
}

int receiver_clear_maps(struct receiver *r, struct error *err)
{
	struct node *n = r->n;
	int e = 0;

	pthread_mutex_lock(&n->lock);
	for (unsigned i = 0; i < n->nvolumes && e == 0; i++) {
		dirtymap_clear_all(n->maps[i], DIRTYMAP_WANTED);
		dirtymap_clear_all(n->maps[i], DIRTYMAP_SENT0);
		e = mapfile_settle(&n->volumes[i].map);
	}
	pthread_mutex_unlock(&n->lock);
	if (e < 0)
		return error_code(err, e, "cannot write the dirty map");
	pthread_mutex_lock(&n->meta_lock);
	n->meta.now.id.tracked = true;
	pthread_mutex_unlock(&n->meta_lock);
	return 0;
}

static void receiver_note_loaded(struct metadata *m, void *ctx)
{
	(void)identity_load(&m->id, *(uint64_t *)ctx);
}

/* The disks and the journal are of the epoch that a sync into clones brought. */
static int receiver_load_cloned(struct receiver *r, uint64_t epoch, struct error *err)
{
	int e = node_meta_update(r->n, clones_note_done, &epoch, err);

	if (e == 0)
		e = receiver_clear_maps(r, err);
	if (e < 0)
		return e;
	clones_forget(r->n);
	log_info("the disks were replaced by their clones, which hold the sync: epoch %llu",
		(unsigned long long)epoch);
	return 0;
}

int receiver_load(struct receiver *r, const struct replica_ops *ops, struct error *err)
{
	struct node *n = r->n;
	struct replica_config cfg = {
		.volumes = n->nvolumes,
		.staging_limit = n->conf->staging_limit,
		.manual = n->conf->commit_policy == CONF_COMMIT_MANUAL ||
			  n->own->ingest == CONF_INGEST_NBD || n->meta.now.draining,
		.ack_when_sealed = n->conf->unsafe_commit_received,
		.keep = n->own->ingest != CONF_INGEST_NBD && !n->meta.now.draining,
	};
	const struct metadata *m = &n->meta.now;
	struct journal_header h = {0};
	uint64_t cloned = m->cloned;
	struct replica_status st;
	/* What was written as a primary stands on the disks and belongs to no epoch: a state below
	 * every epoch that can come; but for the journal of a promotion, and that of a sync that
	 * was accepted and may be committed (then metadata and header name that state already). */
	bool written = m->id.role == IDENTITY_PRIMARY && !m->draining &&
		       identity_is_none(&m->id.next.generation);
	uint64_t committed;
	const char *why;
	int e = cloned ? clones_resume(n, &cloned, err) : 0;

	if (e < 0)
		return e;
	committed = cloned              ? cloned
		    : !m->id.consistent ? 0
		    : written           ? max_u64(m->seen, 1)
					: m->committed;
	for (unsigned i = 0; i < n->nvolumes; i++)
		cfg.sizes[i] = n->volumes[i].size;
	if (n->guest &&
		n->memory) { /* else only the journal of a promotion is brought to the disks */
		cfg.memory = cfg.volumes++;
		cfg.state = cfg.volumes++;
		cfg.sizes[cfg.memory] = n->conf->guest_memory;
		cfg.sizes[cfg.state] = PAGES_STATE_MAX;
		cfg.image = n->memory->image;
		cfg.second = n->memory->second;
	}
	e = journal_io_open(r, &h, err);
	if (e == 0 && (!committed || written || cloned))
		e = receiver_reset_journal(r, &h, committed, err);
	if (e == 0 && cloned)
		e = receiver_load_cloned(r, cloned, err);
	if (e < 0)
		return e;
	cfg.ring = r->ring;
	r->core = replica_new(&cfg, &h, committed, ops, r);
	if (!r->core)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	e = replica_recover(r->core, receiver_random(), journal_io_read, r, &why);
	if (e < 0)
		return error_set(err, ERROR_IO, e, "journal: cannot recover: %s", why);
	replica_get_status(r->core, &st);
	e = receiver_settle(r, st.committed, err);
	if (e == 0)
		e = node_meta_update(n, receiver_note_loaded, &st.committed, err);
	if (e < 0)
		return e;
	if (st.unapplied)
		log_info("journal: %llu committed epochs are replayed to the disks (up to epoch "
			 "%llu)",
			(unsigned long long)st.unapplied, (unsigned long long)st.committed);
	return 0;
}
