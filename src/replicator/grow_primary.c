/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Growth of disks, on the primary: the secondary is asked first (a larger secondary is always fine)
 * -> the dirty map grows, its new part wanted, durably -> the new part goes to the secondary, as
 * changes of ordinary epochs -> those are committed -> new clients see the new size.
 *
 * Until then nobody writes to the new part, and what a failover shows of the disks is what it was
 * before.  A link that is lost in between leaves the new part wanted: the next sync copies it; and
 * this node shows the new size at once, as it would alone. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replicator/commands.h"
#include "replicator/grow.h"
#include "replicator/sender_internal.h"
#include "replicator/verify.h"
#include "util/bytes.h"
#include "util/fault.h"
#include "util/log.h"

struct grow {
	struct node *n;
	struct sender *s;
	pthread_t thread;
	uint64_t session; /* 0: alone */
	bool wanted[CONF_MAX_DISKS];

	bool asked, answered; /* (L) a GROW without its GROWN; it has come */
	unsigned volume;      /* (L) of it */
	uint64_t answer;      /* (L) */

	bool running;         /* (L) */
	uint64_t done, total; /* (L) bytes of new parts */
	struct grow_disk {
		uint64_t from, to; /* to: 0 = it has not grown */
	} disks[CONF_MAX_DISKS];   /* (L) */
	enum error_kind kind;
	char failure[sizeof(((struct error *)0)->text)]; /* (L) "" = none */
};

/* --- the link's side --- */

const char *grow_answered(struct sender *s, const struct record *rec)
{
	const char *why = "answer to a growth that was not asked for";
	struct node *n = s->n;
	struct grow *g;

	pthread_mutex_lock(&n->lock);
	g = s->grow;
	if (g && g->asked && !g->answered && g->session == s->session && rec->volume == g->volume) {
		g->answered = true;
		g->answer = rec->length;
		node_changed(n);
		why = NULL;
	}
	pthread_mutex_unlock(&n->lock);
	return why;
}

/* --- the thread --- */

/* (L) */
static bool grow_goes_on(const struct grow *g)
{
	return sender_session_id(g->s) == g->session;
}

static int grow_lost(struct error *err)
{
	return error_set(err, ERROR_PEER, -ECANCELED, "the link was lost");
}

/* Whether the secondary's disk has size bytes. */
static int grow_ask(struct grow *g, struct volume *v, uint64_t size, struct error *err)
{
	struct node *n = g->n;
	uint64_t answer = 0;
	bool answered;
	int r = -EAGAIN;

	pthread_mutex_lock(&n->lock);
	g->answered = false;
	g->volume = v->index;
	while (grow_goes_on(g) && (r = primary_grow(&g->s->core, v->index, size)) == -EAGAIN) {
		wake_up(&g->s->wake);
		pthread_cond_wait(&g->s->room, &n->lock);
	}
	g->asked = r == 0;
	wake_up(&g->s->wake);
	while (g->asked && !g->answered && grow_goes_on(g))
		pthread_cond_wait(&n->changed, &n->lock);
	answered = g->asked && g->answered;
	answer = g->answer;
	g->asked = false;
	pthread_mutex_unlock(&n->lock);
	if (!answered)
		return grow_lost(err);
	if (answer < size)
		return error_set(err, ERROR_STATE, -ENOSPC,
			"disk %s: it has %llu bytes on the secondary and would have %llu here: "
			"enlarge it there first",
			v->name, (unsigned long long)answer, (unsigned long long)size);
	return 0;
}

/* The new part is on the secondary, committed. */
static int grow_copy(struct grow *g, struct volume *v, uint64_t from, struct error *err)
{
	struct node *n = g->n;
	uint64_t epoch = 0;
	int r = sync_new_part(g->s, g->session, v, round_down(from, dirtymap_block(&v->map.map)),
		&g->done, &epoch);

	fault_point(FAULT_GROW_COPIED);
	pthread_mutex_lock(&n->lock);
	while (r == 0 && g->s->core.committed < epoch) {
		if (grow_goes_on(g))
			pthread_cond_wait(&n->changed, &n->lock);
		else
			r = -ECANCELED;
	}
	pthread_mutex_unlock(&n->lock);
	if (r == -ECANCELED)
		return error_set(err, ERROR_PEER, r,
			"disk %s has grown; the link was lost before all of its new part was on "
			"the secondary: the next sync copies it",
			v->name);
	return r < 0 ? error_code(err, r, "disk %s: its new part cannot be read", v->name) : 0;
}

static int grow_disk(struct grow *g, struct volume *v, struct error *err)
{
	uint64_t from = v->size, size = from;
	struct node *n = g->n;
	int r = grow_look(v, &size, err);

	if (r < 0 || size == from)
		return r;
	r = g->session ? grow_ask(g, v, size, err) : 0;
	if (r == 0)
		r = grow_volume(v, size, true, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&n->lock);
	g->disks[v->index] = (struct grow_disk){from, size};
	g->total += size - from;
	pthread_mutex_unlock(&n->lock);
	if (g->session)
		r = grow_copy(g, v, from, err);
	v->shown = size;
	log_info("disk %s has grown from %llu to %llu bytes%s", v->name, (unsigned long long)from,
		(unsigned long long)size, g->session && r == 0 ? " on both nodes" : "");
	return r;
}

static void *grow_main(void *arg)
{
	struct grow *g = arg;
	struct node *n = g->n;
	struct error err = {0};
	bool any = false;
	int r = 0;

	(void)pthread_setname_np(pthread_self(), "tandem-grow");
	for (unsigned i = 0; i < n->nvolumes && r == 0; i++) {
		if (!g->wanted[i])
			continue;
		r = grow_disk(g, &n->volumes[i], &err);
		any |= g->disks[i].to != 0;
	}
	if (r == 0 && !any)
		r = error_set(&err, ERROR_STATE, -ENODATA,
			"no disk is larger than it was: enlarge its file, device or NBD export on "
			"both nodes first");
	if (r < 0)
		log_warning("grow: %s", err.text);
	pthread_mutex_lock(&n->lock);
	if (r < 0) {
		g->kind = err.kind;
		snprintf(g->failure, sizeof(g->failure), "%s", err.text);
	}
	g->running = false;
	node_changed(n);
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

/* --- control --- */

void grow_end(struct sender *s)
{
	struct grow *g;

	pthread_mutex_lock(&s->n->lock);
	g = s->grow;
	pthread_mutex_unlock(&s->n->lock);
	if (!g)
		return;
	pthread_join(g->thread, NULL);
	pthread_mutex_lock(&s->n->lock);
	s->grow = NULL;
	pthread_mutex_unlock(&s->n->lock);
	free(g);
}

bool grow_running(const struct sender *s)
{
	return s->grow && s->grow->running;
}

/* (L) Why not now; NULL = it can begin. */
static const char *grow_refused(const struct node *n, bool alone)
{
	if (!n->sender || n->role != NODE_PRIMARY)
		return "only on the primary; the secondary follows it";
	if (atomic_load(&n->access) != NODE_ACCESS_PRIMARY || n->draining)
		return n->draining ? "this node was promoted, and its journal is not drained yet"
				   : "this node serves no writes";
	if (n->handing || n->stopping)
		return "the role is being handed over, or this node ends";
	if (grow_running(n->sender))
		return "one is under way";
	if (verify_running(n->sender))
		return "tandem verify is under way; wait for its end";
	if (n->sender->core.state == PRIMARY_SYNCING)
		return "the secondary is being brought up to date; wait until the group is "
		       "protected";
	if (n->sender->core.state != PRIMARY_PROTECTED && !alone)
		return "there is no secondary to ask; --alone grows this node's disks only, and "
		       "the "
		       "secondary is not accepted until its own are as large";
	return NULL;
}

int grow_start(struct node *n, const char *disk, bool alone, struct error *err)
{
	struct grow *g = calloc(1, sizeof(*g)), *old = NULL;
	bool known = !disk;
	const char *why;
	int r = -EINVAL;

	if (!g)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	g->n = n;
	g->running = true;
	for (unsigned i = 0; i < n->nvolumes; i++) {
		g->wanted[i] = !disk || strcmp(disk, n->volumes[i].name) == 0;
		known |= g->wanted[i];
	}
	pthread_mutex_lock(&n->lock);
	why = known ? grow_refused(n, alone) : NULL;
	if (known && !why) {
		g->s = n->sender;
		g->session = sender_session_id(n->sender);
		old = n->sender->grow;
		r = -pthread_create(&g->thread, NULL, grow_main, g);
		n->sender->grow = r == 0 ? g : old;
	}
	pthread_mutex_unlock(&n->lock);
	if (!known)
		error_set(err, ERROR_USAGE, -ENOENT, "there is no disk \"%.64s\"", disk);
	else if (why)
		error_set(err, ERROR_STATE, -EINVAL, "%s", why);
	else if (r < 0)
		error_code(err, r, "cannot start a thread");
	if (r < 0) {
		free(g);
		return r;
	}
	if (old) {
		pthread_join(old->thread, NULL); /* it has ended */
		free(old);
	}
	return 0;
}

json_t *grow_status(struct node *n)
{
	json_t *disks = json_object(), *o;
	const struct grow *g;

	pthread_mutex_lock(&n->lock);
	g = n->sender ? n->sender->grow : NULL;
	for (unsigned i = 0; g && i < n->nvolumes; i++)
		if (g->disks[i].to)
			json_object_set_new(disks, n->volumes[i].name,
				json_pack("{s:I,s:I}", "from", (json_int_t)g->disks[i].from, "to",
					(json_int_t)g->disks[i].to));
	if (!g) {
		json_decref(disks);
		o = json_pack("{s:s}", "state", "none");
	} else {
		o = json_pack("{s:s,s:I,s:I,s:o,s:s,s:s}", "state",
			g->running      ? "running"
			: g->failure[0] ? "failed"
					: "done",
			"done", (json_int_t)min_u64(g->done, g->total), "total",
			(json_int_t)g->total, "disks", disks, "reason", g->failure, "kind",
			g->failure[0] ? command_kind_name(g->kind) : "");
	}
	pthread_mutex_unlock(&n->lock);
	return o;
}
