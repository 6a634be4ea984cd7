/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A node's life. */
#include "replicator/node.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/pages.h"
#include "replicator/clones.h"
#include "replicator/control.h"
#include "replicator/local.h"
#include "replicator/memory.h"
#include "replicator/keeper.h"
#include "replicator/receiver.h"
#include "replicator/seal.h"
#include "replicator/sender.h"
#include "replicator/submit.h"
#include "replicator/volume.h"
#include "util/log.h"

const char *node_path(const char *dir, const char *name, char *buf, size_t len)
{
	snprintf(buf, len, "%s/%s", dir, name);
	return buf;
}

const char *node_map_path(const struct conf_node *node, unsigned disk, char *buf, size_t len)
{
	snprintf(buf, len, "%s/%s.map", node->state_dir, node->disks[disk].name);
	return buf;
}

void node_changed(struct node *n)
{
	pthread_cond_broadcast(&n->changed);
	if (n->control)
		control_wake(n->control);
}

void node_set_reason(struct node *n, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(n->reason, sizeof(n->reason), fmt, ap);
	va_end(ap);
}

int node_meta_update_locked(
	struct node *n, void (*fn)(struct metadata *m, void *ctx), void *ctx, struct error *err)
{
	struct metadata m = n->meta.now;
	int r;

	fn(&m, ctx);
	r = metafile_write(&n->meta, &m, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&n->lock);
	n->unwritten = m.id.unwritten;
	n->shared = m.id.shared;
	pthread_mutex_unlock(&n->lock);
	return 0;
}

int node_meta_update(
	struct node *n, void (*fn)(struct metadata *m, void *ctx), void *ctx, struct error *err)
{
	int r;

	pthread_mutex_lock(&n->meta_lock);
	r = node_meta_update_locked(n, fn, ctx, err);
	pthread_mutex_unlock(&n->meta_lock);
	return r;
}

static void node_note_superseded(struct metadata *m, void *ctx)
{
	identity_supersede(&m->id, *(uint64_t *)ctx);
}

void node_supersede(struct node *n, uint64_t generation)
{
	struct error err;

	pthread_mutex_lock(&n->lock);
	atomic_store(&n->access, NODE_ACCESS_NONE);
	n->handing = false;
	barrier_end(n, NULL);
	sender_fail(n->sender);
	node_set_reason(n, "superseded: the other node was promoted (generation %llu)",
		(unsigned long long)generation);
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	log_error("the other node was promoted (generation %llu): this one serves no more writes",
		(unsigned long long)generation);
	if (node_meta_update(n, node_note_superseded, &generation, &err) < 0)
		log_error("%s", err.text);
}

void node_hello(struct node *n, enum identity_role role, struct hello *ret_hello)
{
	struct hello h = {.version = HELLO_VERSION,
		.compat = HELLO_VERSION,
		.heartbeat_ms = (uint32_t)n->conf->heartbeat_ms};

	pthread_mutex_lock(&n->meta_lock);
	h.id = n->meta.now.id;
	h.committed = n->meta.now.committed;
	h.seen = n->meta.now.seen;
	pthread_mutex_unlock(&n->meta_lock);
	h.id.role = role;
	snprintf(h.id.name, sizeof(h.id.name), "%s", n->conf->group);
	for (unsigned i = 0; i < n->nvolumes; i++)
		h.id.volume[i].size = n->volumes[i].size;
	if (n->guest) {
		struct identity_volume *v = &h.id.volume[n->nvolumes];

		h.id.volumes = n->nvolumes + 2;
		v[0] = (struct identity_volume){
			.kind = IDENTITY_KIND_MEMORY, .size = n->conf->guest_memory, .name = "ram"};
		v[1] = (struct identity_volume){
			.kind = IDENTITY_KIND_STATE, .size = PAGES_STATE_MAX, .name = "state"};
	}
	pthread_mutex_lock(&n->lock);
	if (n->receiver) {
		struct receiver_status st;

		receiver_get_status(n->receiver, &st);
		h.journal = st.core.journal_size;
		h.committed = st.core.committed;
		if (h.seen < st.core.open)
			h.seen = st.core.open;
		(void)identity_settle(&h.id, h.committed);
	}
	pthread_mutex_unlock(&n->lock);
	if (role == IDENTITY_PRIMARY)
		h.seen = 0;
	*ret_hello = h;
}

/* The disks are those that init saw; a grown one is fine, it is as large as it is. */
static int node_check_disks(struct node *n, struct error *err)
{
	const struct identity *m = &n->meta.now.id;

	if (m->volumes != n->nvolumes)
		return error_set(err, ERROR_STATE, -EINVAL,
			"the configuration has %u disks, init saw %u: run tandem init --force",
			n->nvolumes, m->volumes);
	for (unsigned i = 0; i < n->nvolumes; i++) {
		const struct volume *v = &n->volumes[i];

		if (strcmp(m->volume[i].name, v->name) != 0)
			return error_set(err, ERROR_STATE, -EINVAL,
				"disk number %u is \"%s\" in the configuration, init saw \"%s\": "
				"run "
				"tandem init --force",
				i + 1, v->name, m->volume[i].name);
		if (v->size < m->volume[i].size)
			return error_set(err, ERROR_STATE, -EINVAL,
				"disk %s has shrunk from %llu to %llu bytes since init", v->name,
				(unsigned long long)m->volume[i].size, (unsigned long long)v->size);
	}
	return 0;
}

/* The journal holds what the disks lack: it was promoted and has not drained. */
static int node_start_draining(struct node *n, struct error *err)
{
	int r = receiver_new(n, &n->receiver, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&n->lock);
	n->draining = true;
	r = local_begin(n->receiver, LOCAL_DRAIN);
	node_set_reason(n, "promoted; the journal is being brought to the disks");
	pthread_mutex_unlock(&n->lock);
	if (r < 0)
		return error_code(err, r, "cannot index the journal");
	r = receiver_start(n->receiver, false, err);
	if (r < 0)
		return r;
	atomic_store(&n->access, NODE_ACCESS_LOCAL);
	return drain_start(n, err);
}

static int node_start_primary(struct node *n, struct error *err)
{
	int r = node_become_primary(n, err);

	if (r == 0)
		r = sender_new(n, &n->sender, err);
	if (r < 0)
		return r;
	if (n->meta.now.committed)
		sender_set_base(n->sender, n->meta.now.committed);
	if (n->meta.now.draining)
		return node_start_draining(n, err);
	node_set_reason(n, "no secondary yet");
	atomic_store(&n->access, NODE_ACCESS_PRIMARY);
	return sender_start(n->sender, err);
}

static int node_start_secondary(struct node *n, struct error *err)
{
	bool ingest = n->own->ingest == CONF_INGEST_NBD;
	int r;

	if (ingest && n->guest)
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"ingest = nbd is for groups of disks: memory of a guest comes from a "
			"primary");
	/* commit = received: what was acknowledged may be lost, and no map knows. */
	if (n->conf->unsafe_commit_received)
		n->meta.now.id.tracked = false;
	r = n->meta.now.draining ? drain_now(n, err) : 0;
	if (r == 0 && n->guest)
		r = memory_new(n->conf->guest_memory, &n->memory, err);
	if (r == 0)
		r = receiver_new(n, &n->receiver, err);
	if (r < 0)
		return r;
	node_set_reason(n, ingest ? "" : "no primary yet");
	if (!ingest)
		return receiver_start(n->receiver, true, err);
	pthread_mutex_lock(&n->lock);
	r = local_begin(n->receiver, LOCAL_INGEST);
	pthread_mutex_unlock(&n->lock);
	if (r < 0)
		return error_code(err, r, "cannot index the journal");
	r = receiver_start(n->receiver, false, err);
	if (r == 0)
		atomic_store(&n->access, NODE_ACCESS_LOCAL);
	return r;
}

static int node_check_guest(const struct node *n, struct error *err)
{
	if (!n->guest)
		return 0;
	if (!n->conf->guest_memory)
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"a node with a guest needs memory in [guest] of %s", n->conf->path);
	for (unsigned i = 0; i < n->own->ndisks; i++)
		if (strcmp(n->own->disks[i].name, "ram") == 0 ||
			strcmp(n->own->disks[i].name, "state") == 0)
			return error_set(err, ERROR_CONFIG, -EINVAL,
				"disk.%s: with a guest that is the name of another volume",
				n->own->disks[i].name);
	if (n->own->ndisks + 2 > RECORD_MAX_VOLUMES)
		return error_set(err, ERROR_CONFIG, -EINVAL, "too many disks beside a guest");
	return 0;
}

int node_start(const struct conf *conf, unsigned self, enum node_role role, bool guest,
	struct node **ret_node, struct error *err)
{
	struct node *n = calloc(1, sizeof(*n));
	struct control *control;
	char path[512];
	int r;

	if (!n)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	n->conf = conf;
	n->self = self;
	n->own = &conf->nodes[self];
	n->peer = conf->nnodes > 1 ? &conf->nodes[1 - self] : NULL;
	n->role = role;
	n->guest = guest;
	n->meta.fd = -1;
	atomic_store(&n->access, NODE_ACCESS_NONE);
	pthread_mutex_init(&n->lock, NULL);
	pthread_mutex_init(&n->meta_lock, NULL);
	pthread_cond_init(&n->changed, NULL);
	r = node_check_guest(n, err);
	if (r == 0)
		r = transport_security_load(
			conf->tls_psk, conf->tls_psk_user, conf->tls_x509, &n->security, err);
	if (r == 0)
		r = metafile_open(&n->meta,
			node_path(n->own->state_dir, "group.meta", path, sizeof(path)), err);
	for (unsigned i = 0; r == 0 && i < n->own->ndisks; i++) {
		n->nvolumes = i + 1;
		r = volume_open(n, i, true, err);
	}
	if (r == 0)
		r = node_check_disks(n, err);
	if (r == 0)
		r = seal_check(n, err);
	if (r == 0)
		r = barrier_start(n, err);
	if (r == 0 && guest)
		r = submit_start(n, &n->submitter, err);
	if (r == 0)
		r = keeper_open_maps(n, err);
	if (r == 0)
		r = keeper_start(n, err);
	if (r == 0)
		r = seal_open(n, err);
	if (r == 0 && !n->meta.now.cloned)
		clones_forget(n); /* of a run that was killed */
	if (r == 0)
		r = role == NODE_PRIMARY ? node_start_primary(n, err)
					 : node_start_secondary(n, err);
	if (r == 0)
		r = control_new(n, &control, err);
	if (r == 0) {
		pthread_mutex_lock(&n->lock); /* the other threads run already */
		n->control = control;
		pthread_mutex_unlock(&n->lock);
	}
	if (r < 0) {
		node_free(n);
		return r;
	}
	*ret_node = n;
	return 0;
}

void node_stop(struct node *n, unsigned wait_ms)
{
	struct receiver *r;
	struct sender *s;

	pthread_mutex_lock(&n->lock);
	if (n->stopping) {
		pthread_mutex_unlock(&n->lock);
		return;
	}
	n->stopping = true;
	pthread_mutex_unlock(&n->lock);
	drain_stop(n);
	pthread_mutex_lock(&n->lock);
	r = n->receiver;
	s = n->sender;
	pthread_mutex_unlock(&n->lock);
	keeper_stop(n);
	if (s) {
		sender_stop(s, wait_ms);
		node_note_clean(n);
	}
	if (r)
		receiver_stop(r);
	seal_end(n);
}

void node_end(struct node *n)
{
	pthread_mutex_lock(&n->lock);
	n->ended = true;
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
}

struct node *node_free(struct node *n)
{
	struct submitter *submitter;
	struct control *c = n->control;

	pthread_mutex_lock(&n->lock);
	n->control = NULL;
	pthread_mutex_unlock(&n->lock);
	control_free(c);
	pthread_mutex_lock(&n->lock);
	n->stopping = true;
	pthread_mutex_unlock(&n->lock);
	drain_stop(n);
	pthread_mutex_lock(&n->lock);
	submitter = n->submitter;
	n->submitter = NULL; /* the sender's thread may still hear from its peer */
	pthread_mutex_unlock(&n->lock);
	submit_stop(submitter);
	keeper_stop(n);
	sender_free(n->sender);
	receiver_free(n->receiver);
	barrier_stop(n);
	memory_free(n->memory);
	for (unsigned i = 0; i < n->nvolumes; i++)
		volume_close(&n->volumes[i]);
	metafile_close(&n->meta);
	transport_security_free(n->security);
	pthread_cond_destroy(&n->changed);
	pthread_mutex_destroy(&n->meta_lock);
	pthread_mutex_destroy(&n->lock);
	free(n);
	return NULL;
}
