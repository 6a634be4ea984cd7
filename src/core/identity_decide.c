/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table: facts about two identities, rows in order, the first that fits decides. */
#include <stdio.h>
#include <string.h>

#include "core/identity.h"

#define IDENTITY_NOWHERE UINT32_MAX

struct identity_facts {
	const struct identity *p, *s;
	bool layout, memory, smaller, other_volume, other_group;
	unsigned volume;     /* that layout, smaller or other_volume is about */
	bool common;         /* the lines meet */
	uint32_t p_at, s_at; /* there; index in each line */
	bool p_own, s_own;   /* has written beyond */
	bool in_reach;       /* both maps cover the differences to that state */
	bool p_resumes; /* the secondary is in the middle of a sync that the primary's map covers */
	struct identity_generation at;
};

/* Place of a generation in a line: 0 is the current one. */
static uint32_t identity_find(const struct identity *id, const struct identity_generation *g)
{
	if (identity_is_none(g))
		return IDENTITY_NOWHERE;
	if (identity_same(&id->current, g))
		return 0;
	for (uint32_t i = 0; i < id->nhistory; i++)
		if (identity_same(&id->history[i], g))
			return i + 1;
	return IDENTITY_NOWHERE;
}

static bool identity_reaches(const struct identity *id, uint32_t at)
{
	uint32_t base = identity_find(id, &id->base);

	return id->tracked && base != IDENTITY_NOWHERE && at <= base;
}

/* Whether there is something above place at that was written to. */
static bool identity_has_own(const struct identity *id, uint32_t at)
{
	if (at == 0)
		return false;
	return !id->unwritten ||
	       (id->unwritten_history & ((1u << (at - 1)) - 1)) != (1u << (at - 1)) - 1;
}

static void identity_meet(struct identity_facts *f)
{
	for (uint32_t i = 0; i <= f->p->nhistory && !f->common; i++) {
		const struct identity_generation *g = i ? &f->p->history[i - 1] : &f->p->current;

		f->s_at = identity_find(f->s, g);
		f->common = f->s_at != IDENTITY_NOWHERE;
		f->p_at = i;
		f->at = *g;
	}
	if (!f->common) {
		f->at = (struct identity_generation){0};
		return;
	}
	f->p_own = identity_has_own(f->p, f->p_at);
	f->s_own = identity_has_own(f->s, f->s_at);
	f->in_reach = identity_reaches(f->p, f->p_at) && identity_reaches(f->s, f->s_at);
}

static bool identity_uuid_differs(const struct uuid *a, const struct uuid *b)
{
	return !uuid_is_zero(a) && !uuid_is_zero(b) && !uuid_equal(a, b);
}

static void identity_look(
	struct identity_facts *f, const struct identity *p, const struct identity *s)
{
	*f = (struct identity_facts){.p = p, .s = s};
	f->layout = p->volumes != s->volumes;
	f->volume = IDENTITY_NOWHERE;
	for (uint32_t i = 0; i < p->volumes && !f->layout; i++) {
		const struct identity_volume *a = &p->volume[i], *b = &s->volume[i];

		f->layout = a->kind != b->kind || strcmp(a->name, b->name) != 0;
		f->memory = a->kind == IDENTITY_KIND_MEMORY && a->size != b->size;
		f->smaller = !f->memory && b->size < a->size;
		f->other_volume = identity_uuid_differs(&a->uuid, &b->uuid);
		f->volume = i;
		if (f->memory || f->smaller || f->other_volume)
			break;
	}
	f->other_group = identity_uuid_differs(&p->group, &s->group);
	identity_meet(f);
	f->p_resumes = s->syncing && s->tracked && identity_reaches(p, identity_find(p, &s->base));
}

/* --- rows: conditions --- */

static bool row_roles(const struct identity_facts *f)
{
	return f->p->role != IDENTITY_PRIMARY || f->s->role != IDENTITY_SECONDARY;
}

static bool row_name(const struct identity_facts *f)
{
	return strcmp(f->p->name, f->s->name) != 0;
}

static bool row_layout(const struct identity_facts *f)
{
	return f->layout;
}

static bool row_memory(const struct identity_facts *f)
{
	return f->memory;
}

static bool row_smaller(const struct identity_facts *f)
{
	return f->smaller;
}

static bool row_primary_unusable(const struct identity_facts *f)
{
	return !f->p->consistent || identity_is_none(&f->p->current) || f->p->yielded;
}

static bool row_other_group(const struct identity_facts *f)
{
	return f->other_group && !f->s->yielded;
}

static bool row_other_volume(const struct identity_facts *f)
{
	return f->other_volume && !f->s->yielded;
}

static bool row_other_yielded(const struct identity_facts *f)
{
	return f->other_group || f->other_volume;
}

static bool row_resume(const struct identity_facts *f)
{
	return !f->s->consistent && f->p_resumes;
}

static bool row_part(const struct identity_facts *f)
{
	return !f->s->consistent && f->s->syncing;
}

static bool row_new(const struct identity_facts *f)
{
	return identity_is_none(&f->s->current);
}

static bool row_damaged(const struct identity_facts *f)
{
	return !f->s->consistent;
}

static bool row_unrelated(const struct identity_facts *f)
{
	return !f->common && !f->s->yielded;
}

static bool row_unrelated_yielded(const struct identity_facts *f)
{
	return !f->common;
}

static bool row_split_brain(const struct identity_facts *f)
{
	return f->p_own && f->s_own && !f->s->yielded;
}

static bool row_newer(const struct identity_facts *f)
{
	return f->s_own && !f->s->yielded;
}

static bool row_untracked(const struct identity_facts *f)
{
	return !f->p->tracked || !f->s->tracked;
}

static bool row_out_of_reach(const struct identity_facts *f)
{
	return !f->in_reach;
}

static bool row_yielded(const struct identity_facts *f)
{
	return f->s_own;
}

static bool row_behind(const struct identity_facts *f)
{
	return f->p_own;
}

static bool row_equal(const struct identity_facts *f)
{
	return f->common && !f->p_own && !f->s_own;
}

#define UNRELATED                                                                                  \
	"if what the secondary holds may go, run tandem resolve CONF --keep with the primary's "   \
	"name on the secondary"

/* A text that needs no figures; the others are made by identity_explain. */
static const struct identity_row {
	const char *name;
	bool (*fits)(const struct identity_facts *f);
	enum identity_action action;
	const char *text;
} identity_rows[] = {
	{"roles", row_roles, IDENTITY_REFUSE_ROLE, NULL},
	{"other-name", row_name, IDENTITY_REFUSE_UNRELATED, NULL},
	{"layout", row_layout, IDENTITY_REFUSE_LAYOUT, NULL},
	{"memory", row_memory, IDENTITY_REFUSE_LAYOUT,
		"the guests' memory differs: correct memory in [guest] of the configuration"},
	{"smaller", row_smaller, IDENTITY_REFUSE_SMALLER, NULL},
	{"primary-unusable", row_primary_unusable, IDENTITY_REFUSE_INCONSISTENT_PRIMARY,
		"the primary's disks hold no usable state: start it with tandem secondary, and the "
		"other node with tandem primary or tandem promote"},
	{"other-group", row_other_group, IDENTITY_REFUSE_UNRELATED,
		"unrelated: the secondary's data belongs to another group; " UNRELATED},
	{"other-volume", row_other_volume, IDENTITY_REFUSE_UNRELATED,
		"unrelated: a disk of the secondary is another one than the primary's; " UNRELATED},
	{"other-yielded", row_other_yielded, IDENTITY_SYNC_FULL,
		"the secondary's unrelated data is given up"},
	{"resume", row_resume, IDENTITY_SYNC_INCREMENTAL, NULL},
	{"part", row_part, IDENTITY_SYNC_FULL,
		"the secondary's disks hold a part of a former sync"},
	{"new", row_new, IDENTITY_SYNC_FULL, "the secondary is new"},
	{"damaged", row_damaged, IDENTITY_SYNC_FULL, "the secondary's disks hold no usable state"},
	{"unrelated", row_unrelated, IDENTITY_REFUSE_UNRELATED,
		"unrelated: the nodes' data have no common past; " UNRELATED},
	{"unrelated-yielded", row_unrelated_yielded, IDENTITY_SYNC_FULL,
		"the secondary's unrelated data is given up"},
	{"split-brain", row_split_brain, IDENTITY_REFUSE_SPLIT_BRAIN, NULL},
	{"newer", row_newer, IDENTITY_REFUSE_SECONDARY_NEWER, NULL},
	{"untracked", row_untracked, IDENTITY_SYNC_FULL, "it is not known which blocks differ"},
	{"out-of-reach", row_out_of_reach, IDENTITY_SYNC_FULL,
		"the dirty maps do not reach back to the last common state"},
	{"yielded", row_yielded, IDENTITY_SYNC_INCREMENTAL, NULL},
	{"behind", row_behind, IDENTITY_SYNC_INCREMENTAL, NULL},
	{"equal", row_equal, IDENTITY_SYNC_NONE, NULL},
};

#define IDENTITY_ROWS (sizeof(identity_rows) / sizeof(identity_rows[0]))

bool identity_row(unsigned i, const char **ret_name, enum identity_action *ret_action)
{
	if (i >= IDENTITY_ROWS)
		return false;
	*ret_name = identity_rows[i].name;
	*ret_action = identity_rows[i].action;
	return true;
}

const char *identity_action_name(enum identity_action action)
{
	static const char *const names[] = {"none", "incremental", "full", "refuse: roles",
		"refuse: unrelated", "refuse: layout", "refuse: smaller",
		"refuse: primary unusable", "refuse: secondary newer", "refuse: split brain",
		"refuse: unknown"};

	return names[action];
}

#define NUMBER(g) ((unsigned long long)(g).number)

static void identity_explain(const struct identity_facts *f, struct identity_decision *d)
{
	const struct identity *p = f->p, *s = f->s;
	const char *disk = f->volume < p->volumes ? p->volume[f->volume].name : "";
	const char *other = f->volume < s->volumes ? s->volume[f->volume].name : "";
	size_t len = sizeof(d->text);
	char *to = d->text;

	switch (d->action) {
	case IDENTITY_SYNC_NONE:
		snprintf(to, len, "both hold generation %llu", NUMBER(f->at));
		return;
	case IDENTITY_SYNC_INCREMENTAL:
		snprintf(to, len, "what has changed since generation %llu%s",
			NUMBER(s->consistent ? f->at : s->base),
			d->discards ? "; the secondary's own changes are given up" : "");
		return;
	case IDENTITY_REFUSE_ROLE:
		snprintf(to, len, "both nodes are %s: start one of them with tandem %s",
			p->role == IDENTITY_PRIMARY ? "primary" : "secondary",
			p->role == IDENTITY_PRIMARY ? "secondary" : "primary");
		return;
	case IDENTITY_REFUSE_UNRELATED:
		snprintf(to, len,
			"another group: the primary serves \"%s\", the secondary \"%s\"; correct "
			"the configuration or the link address",
			p->name, s->name);
		return;
	case IDENTITY_REFUSE_LAYOUT:
		if (p->volumes != s->volumes)
			snprintf(to, len,
				"the primary has %u volumes, the secondary %u: correct the "
				"configuration, or start both with or both without a guest",
				p->volumes, s->volumes);
		else
			snprintf(to, len,
				"volume number %u is \"%s\" on the primary and \"%s\" on the "
				"secondary: correct the configuration",
				f->volume + 1, disk, other);
		return;
	case IDENTITY_REFUSE_SMALLER:
		snprintf(to, len,
			"disk %s is smaller on the secondary (%llu bytes) than on the primary "
			"(%llu): enlarge it there; it is looked at again at the next connection",
			disk, (unsigned long long)s->volume[f->volume].size,
			(unsigned long long)p->volume[f->volume].size);
		return;
	case IDENTITY_REFUSE_SECONDARY_NEWER:
		snprintf(to, len,
			"the secondary's data is newer (generation %llu) than the primary's "
			"(%s%llu): "
			"start this primary with tandem secondary and promote the other node; if "
			"the newer data may go, run tandem resolve CONF --keep with the primary's "
			"name on the secondary",
			NUMBER(s->current),
			NUMBER(s->current) == NUMBER(p->current) ? "another one with number " : "",
			NUMBER(p->current));
		return;
	case IDENTITY_REFUSE_SPLIT_BRAIN:
		snprintf(to, len,
			"split brain: both nodes were written to since generation %llu (the "
			"primary "
			"is at %llu, the secondary at %llu); decide whose data stays, and run "
			"tandem "
			"resolve CONF --keep with that node's name on the other one",
			NUMBER(f->at), NUMBER(p->current), NUMBER(s->current));
		return;
	default:
		snprintf(to, len,
			"the two nodes' generations fit no rule (primary %llu, secondary %llu): "
			"nothing is touched; start the node with the wanted data with tandem "
			"primary, and run tandem resolve CONF --keep with its name on the other",
			NUMBER(p->current), NUMBER(s->current));
	}
}

void identity_decide(const struct identity *primary, const struct identity *secondary,
	struct identity_decision *ret_decision)
{
	struct identity_decision d = {.action = IDENTITY_REFUSE_UNKNOWN, .row = "unknown"};
	const char *text = NULL;
	struct identity_facts f;

	identity_look(&f, primary, secondary);
	for (size_t i = 0; i < IDENTITY_ROWS; i++) {
		if (!identity_rows[i].fits(&f))
			continue;
		d.action = identity_rows[i].action;
		d.row = identity_rows[i].name;
		text = identity_rows[i].text;
		break;
	}
	d.common = f.at;
	if (!identity_refused(&d)) {
		d.keeps_state = secondary->consistent && !identity_is_none(&secondary->current);
		d.discards =
			d.keeps_state && (f.s_own || !f.common || f.other_group || f.other_volume);
	}
	if (text)
		snprintf(d.text, sizeof(d.text), "%s", text);
	else
		identity_explain(&f, &d);
	*ret_decision = d;
}
