/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The events, and what must hold. */
#include "model.h"

#include <stdio.h>
#include <string.h>

enum model_break model_broken;
const char *model_broken_row = "";
bool model_strict;

void model_init(struct model *m)
{
	memset(m, 0, sizeof(*m));
	for (unsigned i = 0; i < 2; i++) {
		struct identity *id = &m->node[i].id;

		id->volumes = 1;
		id->volume[0].kind = IDENTITY_KIND_DISK;
		id->tracked = true;
		for (unsigned b = 0; b < MODEL_BLOCKS; b++)
			m->node[i].content[b] = (uint8_t)i;
	}
	m->version[0].parent = m->version[1].parent = MODEL_GARBAGE;
	m->versions = 2;
}

static uint64_t model_fresh(struct model *m)
{
	return ++m->fresh;
}

static bool model_linked(const struct model *m)
{
	return m->link != MODEL_NO_LINK;
}

/* Whether who wrote `later` has seen `earlier`. */
static bool model_saw(const struct model *m, uint8_t later, uint8_t earlier)
{
	while (later != earlier && later != MODEL_GARBAGE)
		later = m->version[later].parent;
	return later == earlier;
}

/* Whether node a has something that node b has not seen. */
static bool model_has_own(const struct model *m, unsigned a, unsigned b)
{
	for (unsigned i = 0; i < MODEL_BLOCKS; i++) {
		uint8_t mine = m->node[a].content[i], yours = m->node[b].content[i];

		if (mine != MODEL_GARBAGE && !model_saw(m, yours, mine))
			return true;
	}
	return false;
}

/* The secondary's blocks are about to be replaced by the primary's. */
static void model_check_loss(const struct model *m, unsigned blocks, const char **ret_why)
{
	const struct model_node *p = &m->node[m->primary], *s = &m->node[!m->primary];

	for (unsigned b = 0; b < MODEL_BLOCKS; b++) {
		uint8_t v = s->content[b];

		if (blocks >> b & 1 && v != MODEL_GARBAGE && m->version[v].answered &&
			!model_saw(m, p->content[b], v) && !m->discards)
			*ret_why = "an answered write is overwritten, and no split brain was "
				   "reported";
	}
}

static void model_check_usable(const struct model_node *n, const char **ret_why)
{
	for (unsigned b = 0; b < MODEL_BLOCKS; b++)
		if (n->content[b] == MODEL_GARBAGE)
			*ret_why = "disks that a sync left half done are served";
}

static void model_answer(struct model *m, const struct model_node *n)
{
	for (unsigned b = 0; b < MODEL_BLOCKS; b++)
		if (n->content[b] != MODEL_GARBAGE)
			m->version[n->content[b]].answered = true;
}

static void model_end_session(struct model *m)
{
	/* As after the union with windows and hot regions. */
	m->node[m->primary].map |= m->window | m->acking;
	m->link = MODEL_NO_LINK;
	m->primary = m->copy = m->window = m->acking = 0;
	m->in_place = m->touched = m->discards = m->noted = false;
}

/* The secondary's identity as its HELLO says it. */
static void model_settle(struct model_node *n)
{
	if (n->beyond && model_broken != BREAK_NO_SETTLE)
		(void)identity_settle(&n->id, 1);
	n->beyond = false;
}

static void model_break_row(struct identity_decision *d)
{
	if (model_broken != BREAK_ROW || strcmp(d->row, model_broken_row) != 0)
		return;
	/* What does the most harm: less is copied, or what must be refused is done. */
	d->action = d->action == IDENTITY_SYNC_INCREMENTAL || d->action == IDENTITY_SYNC_NONE
			    ? IDENTITY_REFUSE_UNKNOWN
			    : IDENTITY_SYNC_INCREMENTAL;
}

static void model_decide(const struct model *m, unsigned node, struct identity_decision *ret_how)
{
	struct identity p = m->node[node].id, s = m->node[!node].id;

	p.role = IDENTITY_PRIMARY;
	s.role = IDENTITY_SECONDARY;
	if (m->node[!node].beyond && model_broken != BREAK_NO_SETTLE)
		(void)identity_settle(&s, 1);
	if (model_broken == BREAK_UNWRITTEN) {
		p.unwritten = s.unwritten = false;
		p.unwritten_history = s.unwritten_history = 0;
	}
	if (model_broken == BREAK_YIELD_DEAF)
		s.yielded = false;
	identity_decide(&p, &s, ret_how);
	model_break_row(ret_how);
}

static bool model_connect(struct model *m, unsigned node, bool in_place, const char **ret_why)
{
	struct model_node *p = &m->node[node], *s = &m->node[!node];
	struct identity_decision how;
	bool full;

	if (model_linked(m) || p->run != MODEL_PRIMARY || s->run != MODEL_SECONDARY)
		return false;
	model_decide(m, node, &how);
	if (how.action == IDENTITY_REFUSE_SPLIT_BRAIN &&
		(!model_has_own(m, 0, 1) || !model_has_own(m, 1, 0)))
		*ret_why = "split brain is reported where one side has nothing of its own";
	if (how.action == IDENTITY_REFUSE_SECONDARY_NEWER && !model_has_own(m, !node, node))
		*ret_why = "a secondary counts as newer, and has nothing of its own";
	if (how.action == IDENTITY_REFUSE_UNKNOWN && model_broken != BREAK_ROW)
		*ret_why = "no row fits";
	if (strcmp(how.row, "out-of-reach") == 0 && p->map != MODEL_ALL && s->map != MODEL_ALL)
		*ret_why = "everything is copied, though the maps would do";
	if (identity_refused(&how) || (in_place && !how.keeps_state))
		return false;
	model_settle(s);
	if (p->map && identity_reconnect_due(&p->id, &how)) {
		identity_accept(&s->id, &p->id, how.action == IDENTITY_SYNC_FULL, 0);
		m->noted = true;
		if (model_broken != BREAK_NO_RECONNECT)
			identity_reconnect(&p->id, model_fresh(m));
		model_decide(m, node, &how);
	}
	m->noted |= !identity_reconnect_due(&p->id, &how);
	full = how.action == IDENTITY_SYNC_FULL;
	s->epoch &= s->id.role == IDENTITY_SECONDARY;
	identity_accept(&s->id, &p->id, full, 0);
	if (model_broken == BREAK_SETTLE_EARLY)
		(void)identity_settle(&s->id, 1);
	if (full && model_broken != BREAK_NO_FULL_MAP) {
		p->map = MODEL_ALL;
		p->id.tracked = true;
	}
	identity_session(&p->id, &s->id, full);
	if (model_broken == BREAK_NOT_SHARED)
		p->id.shared = identity_same(&p->id.base, &p->id.current);
	if (model_broken == BREAK_BASE_EARLY)
		p->id.base = p->id.current;
	m->primary = (uint8_t)node;
	m->copy = full                            ? MODEL_ALL
		  : model_broken == BREAK_ONE_MAP ? p->map
		  : model_broken == BREAK_OWN_MAP ? s->map
						  : p->map | s->map;
	if (model_broken == BREAK_CLEAR_EARLY ||
		(model_broken == BREAK_CLEAR_EQUAL && how.action == IDENTITY_SYNC_NONE))
		p->map = 0;
	if (model_broken == BREAK_CLEAR_EQUAL && how.action == IDENTITY_SYNC_NONE)
		m->copy = 0;
	m->link = MODEL_SYNCING;
	m->in_place = in_place || !how.keeps_state;
	m->discards = how.discards;
	return true;
}

static bool model_touch(struct model *m, const char **ret_why)
{
	struct model_node *s = &m->node[!m->primary];
	unsigned blocks = m->copy | m->window;

	if (m->link != MODEL_SYNCING || !m->in_place || m->touched)
		return false;
	model_check_loss(m, blocks, ret_why);
	if (model_broken != BREAK_NO_TOUCH)
		identity_touch(&s->id);
	for (unsigned b = 0; b < MODEL_BLOCKS; b++)
		if (blocks >> b & 1)
			s->content[b] = MODEL_GARBAGE;
	m->touched = true;
	return true;
}

static bool model_part(struct model *m, unsigned block)
{
	struct model_node *p = &m->node[m->primary], *s = &m->node[!m->primary];

	if (m->link != MODEL_SYNCING || !m->touched || !(m->copy & ~m->window & 1u << block))
		return false;
	s->content[block] = p->content[block];
	p->map &= (uint8_t) ~(1u << block);
	m->copy &= (uint8_t) ~(1u << block);
	return true;
}

static bool model_sync_commit(struct model *m, const char **ret_why)
{
	struct model_node *p = &m->node[m->primary], *s = &m->node[!m->primary];
	unsigned blocks = m->copy | m->window;

	if (m->link != MODEL_SYNCING || (m->in_place && !m->touched))
		return false;
	model_check_loss(m, blocks, ret_why);
	for (unsigned b = 0; b < MODEL_BLOCKS; b++)
		if (blocks >> b & 1)
			s->content[b] = p->content[b];
	if (memcmp(s->content, p->content, sizeof(s->content)) != 0)
		*ret_why = "the disks differ after a sync";
	m->acking = m->window;
	m->window = 0;
	s->epoch = s->beyond = true;
	s->map = 0;
	s->id.tracked = true;
	if (m->in_place)
		model_settle(s);
	m->link = MODEL_SYNC_COMMITTED;
	return true;
}

static bool model_commit(struct model *m)
{
	struct model_node *p = &m->node[m->primary], *s = &m->node[!m->primary];

	if (m->link != MODEL_PROTECTED || m->window == 0 || m->acking)
		return false;
	for (unsigned b = 0; b < MODEL_BLOCKS; b++)
		if (m->window >> b & 1)
			s->content[b] = p->content[b];
	m->acking = m->window;
	m->window = 0;
	s->beyond = true;
	return true;
}

static bool model_ack(struct model *m)
{
	struct model_node *p = &m->node[m->primary], *s = &m->node[!m->primary];

	if (m->link == MODEL_SYNC_COMMITTED) {
		identity_synced(&p->id);
		p->map = 0;
		p->id.tracked = true;
		m->link = MODEL_PROTECTED;
	} else if (m->link != MODEL_PROTECTED || !m->acking) {
		return false;
	}
	m->acking = 0;
	model_answer(m, s);
	return true;
}

static bool model_write(struct model *m, unsigned node, unsigned block, const char **ret_why)
{
	struct model_node *n = &m->node[node];
	bool alone = !model_linked(m) || m->primary != node;

	if (n->run != MODEL_PRIMARY || m->versions == MODEL_VERSIONS)
		return false;
	if (identity_write_due(n->id.unwritten, n->id.shared, alone)) {
		bool unwritten = n->id.unwritten;

		identity_write(&n->id, alone && model_broken != BREAK_NO_MINT, model_fresh(m));
		if (model_broken == BREAK_NEVER_WRITTEN)
			n->id.unwritten = unwritten;
	}
	m->version[m->versions] = (struct model_version){
		n->content[block], alone || (m->link == MODEL_SYNCING && m->noted)};
	n->content[block] = m->versions++;
	if (alone) {
		n->map |= (uint8_t)(1u << block);
		return true;
	}
	m->window |= (uint8_t)(1u << block);
	if (m->link == MODEL_SYNCING && m->touched) {
		model_check_loss(m, 1u << block, ret_why);
		m->node[!node].content[block] = MODEL_GARBAGE;
	}
	return true;
}

/* What a primary holds then is to stay, as if it had written it alone.  Not with a sync in the
 * journal that it has not noted yet: what that brought is nobody's own, but the operator is asked
 * about it once more. */
static bool model_changed(struct model *m, unsigned node)
{
	struct model_node *n = &m->node[node];
	bool primary = n->id.role == IDENTITY_PRIMARY;

	if (n->run != MODEL_DOWN || m->versions == MODEL_VERSIONS ||
		n->id.role == IDENTITY_NO_ROLE || !n->id.consistent || n->beyond)
		return false;
	if (model_broken != BREAK_CHANGED_DEAF) {
		identity_changed(&n->id, model_fresh(m));
		n->id.tracked = n->epoch = n->beyond = false;
		n->map = 0;
	}
	m->version[m->versions] = (struct model_version){n->content[0], true};
	n->content[0] = primary ? m->versions++ : MODEL_GARBAGE;
	return true;
}

static bool model_promote(struct model *m, unsigned node, bool force, const char **ret_why)
{
	struct model_node *n = &m->node[node], *other = &m->node[!node];
	struct identity view = n->id;

	if (n->run != MODEL_SECONDARY || model_linked(m) != force ||
		(model_strict && (!n->epoch || n->id.role != IDENTITY_SECONDARY)))
		return false;
	if (n->beyond && model_broken != BREAK_NO_SETTLE)
		(void)identity_settle(&view, 1);
	if (identity_refuse_promotion(&view))
		return false;
	if (force) {
		model_end_session(m);
		identity_supersede(&other->id, view.top + 1);
		other->run = MODEL_DOWN;
	}
	model_check_usable(n, ret_why);
	model_settle(n);
	identity_promote(&n->id, model_fresh(m));
	n->run = MODEL_PRIMARY;
	return true;
}

static bool model_start(struct model *m, unsigned node, bool primary, const char **ret_why)
{
	struct model_node *n = &m->node[node];

	if (n->run != MODEL_DOWN || (primary && identity_refuse_primary(&n->id)))
		return false;
	n->run = primary ? MODEL_PRIMARY : MODEL_SECONDARY;
	if (!primary) {
		model_settle(n);
		(void)identity_load(&n->id, 0);
	} else {
		model_check_usable(n, ret_why);
		identity_start_primary(&n->id, model_fresh(m));
	}
	return true;
}

bool model_step(struct model *m, const struct model_event *e, const char **ret_why)
{
	struct model_node *n = &m->node[e->node];
	bool idle = n->run != MODEL_PRIMARY && !model_linked(m);

	*ret_why = NULL;
	switch (e->kind) {
	case EVENT_START_PRIMARY:
	case EVENT_START_SECONDARY:
		return model_start(m, e->node, e->kind == EVENT_START_PRIMARY, ret_why);
	case EVENT_CRASH:
		if (n->run == MODEL_DOWN)
			return false;
		if (model_linked(m))
			model_end_session(m);
		n->run = MODEL_DOWN;
		return true;
	case EVENT_CONNECT:
	case EVENT_CONNECT_IN_PLACE:
		return model_connect(m, e->node, e->kind == EVENT_CONNECT_IN_PLACE, ret_why);
	case EVENT_TOUCH:
		return e->node == 0 && model_touch(m, ret_why);
	case EVENT_PART:
		return e->node == 0 && model_part(m, e->block);
	case EVENT_SYNC_COMMIT:
		return e->node == 0 && model_sync_commit(m, ret_why);
	case EVENT_COMMIT:
		return e->node == 0 && model_commit(m);
	case EVENT_ACK:
		return e->node == 0 && model_ack(m);
	case EVENT_LINK_LOSS:
		if (e->node || !model_linked(m))
			return false;
		model_end_session(m);
		return true;
	case EVENT_WRITE:
		return model_write(m, e->node, e->block, ret_why);
	case EVENT_PROMOTE:
	case EVENT_PROMOTE_FORCE:
		return model_promote(m, e->node, e->kind == EVENT_PROMOTE_FORCE, ret_why);
	case EVENT_YIELD:
		if (!idle || n->id.yielded || identity_is_none(&n->id.current))
			return false;
		identity_yield(&n->id);
		return true;
	case EVENT_KEEP:
		if (!idle || (!n->id.yielded && !n->id.superseded))
			return false;
		if (model_broken != BREAK_KEEP_DEAF)
			identity_keep(&n->id);
		return model_broken != BREAK_KEEP_DEAF;
	case EVENT_MAP_LOSS:
		if (n->run != MODEL_DOWN || !n->id.tracked)
			return false;
		n->id.tracked = false;
		n->map = 0;
		return true;
	case EVENT_CHANGED:
		return model_changed(m, e->node);
	case EVENT_KINDS:
		break;
	}
	return false;
}

static bool model_do(struct model *m, enum model_kind kind, unsigned node, const char **ret_why)
{
	struct model_event e = {kind, (uint8_t)node, 0};
	const char *why;
	bool done = model_step(m, &e, &why);

	if (why && !*ret_why)
		*ret_why = why;
	return done;
}

/* Node keep becomes the primary, the other one its secondary. */
static bool model_recover_to(struct model m, unsigned keep, bool may_yield, const char **ret_why)
{
	(void)model_do(&m, EVENT_CRASH, 0, ret_why);
	(void)model_do(&m, EVENT_CRASH, 1, ret_why);
	if (may_yield)
		(void)model_do(&m, EVENT_KEEP, keep, ret_why);
	if (!model_do(&m, EVENT_START_PRIMARY, keep, ret_why)) {
		(void)model_do(&m, EVENT_START_SECONDARY, keep, ret_why);
		if (!model_do(&m, EVENT_PROMOTE, keep, ret_why)) {
			/* It knows now how far a sync of it came. */
			(void)model_do(&m, EVENT_CRASH, keep, ret_why);
			if (!model_do(&m, EVENT_START_PRIMARY, keep, ret_why))
				return false;
		}
	}
	(void)model_do(&m, EVENT_START_SECONDARY, !keep, ret_why);
	(void)model_do(&m, EVENT_CONNECT, keep, ret_why);
	if (!model_linked(&m) && may_yield) {
		(void)model_do(&m, EVENT_YIELD, !keep, ret_why);
		(void)model_do(&m, EVENT_CONNECT, keep, ret_why);
	}
	if (!model_linked(&m))
		return false;
	(void)model_do(&m, EVENT_TOUCH, 0, ret_why);
	return model_do(&m, EVENT_SYNC_COMMIT, 0, ret_why) && model_do(&m, EVENT_ACK, 0, ret_why) &&
	       m.link == MODEL_PROTECTED;
}

enum model_recovery model_recovers(const struct model *m, const char **ret_why)
{
	bool can[2], own[2];

	*ret_why = NULL;
	for (unsigned i = 0; i < 2; i++) {
		can[i] = model_recover_to(*m, i, false, ret_why);
		own[i] = model_has_own(m, i, !i);
	}
	if (can[0] || can[1])
		return MODEL_BY_ITSELF;
	if (!model_recover_to(*m, 0, true, ret_why) && !model_recover_to(*m, 1, true, ret_why)) {
		*ret_why = "no commands lead to protected";
		return MODEL_STUCK;
	}
	/* Who has given the wrong side's data up, or promoted the wrong one by force, must take
	 * that back. */
	for (unsigned i = 0; i < 2; i++)
		if (m->node[i].id.yielded || m->node[i].id.superseded)
			return MODEL_BY_RESOLVE;
	return own[0] && own[1] ? MODEL_BY_RESOLVE : MODEL_BY_NEEDLESS_RESOLVE;
}

/* --- for people --- */

static const char *const event_names[] = {"start as primary", "start as secondary", "crash",
	"connect", "connect, in place", "sync touches the disk", "a block of the sync is durable",
	"sync commits", "commit", "acknowledge", "link loss", "write", "promote",
	"promote by force", "resolve: yield", "resolve: keep", "map is lost",
	"changed by others, and taken"};

void model_event_print(const struct model_event *e, char *buf, size_t len)
{
	bool of_link = e->kind >= EVENT_TOUCH && e->kind <= EVENT_LINK_LOSS;

	if (of_link)
		snprintf(buf, len, "%s", event_names[e->kind]);
	else if (e->kind == EVENT_WRITE)
		snprintf(buf, len, "%c: write block %u", 'A' + e->node, e->block);
	else
		snprintf(buf, len, "%c: %s", 'A' + e->node, event_names[e->kind]);
}

static void model_print_generation(const struct identity_generation *g)
{
	if (identity_is_none(g))
		printf("-");
	else
		printf("%llu%c", (unsigned long long)g->number, (char)('a' + g->id % 26));
}

void model_print(const struct model *m)
{
	static const char *const runs[] = {"down", "primary", "secondary"};

	for (unsigned i = 0; i < 2; i++) {
		const struct model_node *n = &m->node[i];
		const struct identity *id = &n->id;

		printf("  %c %s: ", 'A' + i, runs[n->run]);
		model_print_generation(&id->current);
		printf("/");
		model_print_generation(&id->base);
		for (unsigned k = 0; k < id->nhistory; k++) {
			printf(k ? " " : ": ");
			model_print_generation(&id->history[k]);
			printf(id->unwritten_history >> k & 1 ? "'" : "");
		}
		printf("%s%s%s%s%s%s%s%s map %u disk", id->consistent ? "" : " inconsistent",
			id->syncing ? " syncing" : "", id->unwritten ? " unwritten" : "",
			id->yielded ? " yielded" : "", id->shared ? " shared" : "",
			id->superseded ? " superseded" : "", id->tracked ? "" : " untracked",
			n->beyond ? " committed" : "", n->map);
		for (unsigned b = 0; b < MODEL_BLOCKS; b++) {
			uint8_t v = n->content[b];

			if (v == MODEL_GARBAGE)
				printf(" garbage");
			else
				printf(" v%u%s", v, m->version[v].answered ? "!" : "");
		}
		printf("\n");
	}
}
