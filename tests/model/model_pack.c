/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* States that differ in names only are one: generations are renamed in their order, ids and
 * versions in the order in which they are met, versions that decide nothing any more are left out,
 * and the nodes have no names at all. */
#include <assert.h>
#include <string.h>

#include "model.h"

#define PACK_GENERATIONS (2u * (3 + 2 * IDENTITY_HISTORY) + 2)

struct pack {
	uint8_t *at, *end;
	uint64_t numbers[PACK_GENERATIONS], ids[PACK_GENERATIONS];
	unsigned nnumbers, nids;
};

static void pack_put(struct pack *p, unsigned value)
{
	assert(p->at < p->end && value < 256);
	*p->at++ = (uint8_t)value;
}

static void pack_note_number(struct pack *p, uint64_t number)
{
	unsigned i = 0;

	while (i < p->nnumbers && p->numbers[i] < number)
		i++;
	if (i < p->nnumbers && p->numbers[i] == number)
		return;
	memmove(p->numbers + i + 1, p->numbers + i, (p->nnumbers - i) * sizeof(p->numbers[0]));
	p->numbers[i] = number;
	p->nnumbers++;
}

static void pack_note_numbers(struct pack *p, const struct identity *id)
{
	pack_note_number(p, 0);
	pack_note_number(p, id->top);
	pack_note_number(p, id->current.number);
	pack_note_number(p, id->base.number);
	pack_note_number(p, id->next.generation.number);
	for (unsigned i = 0; i < id->nhistory; i++)
		pack_note_number(p, id->history[i].number);
	for (unsigned i = 0; i < id->next.nhistory; i++)
		pack_note_number(p, id->next.history[i].number);
}

static void pack_number(struct pack *p, uint64_t number)
{
	unsigned i = 0;

	while (p->numbers[i] != number)
		i++;
	pack_put(p, i);
}

static void pack_generation(struct pack *p, const struct identity_generation *g)
{
	unsigned i = 0;

	pack_number(p, g->number);
	while (i < p->nids && p->ids[i] != g->id)
		i++;
	if (i == p->nids)
		p->ids[p->nids++] = g->id;
	pack_put(p, i);
}

static void pack_history(
	struct pack *p, const struct identity_generation *h, unsigned count, unsigned unwritten)
{
	pack_put(p, count);
	pack_put(p, unwritten);
	for (unsigned i = 0; i < count; i++)
		pack_generation(p, &h[i]);
}

static void pack_node(struct pack *p, const struct model_node *n)
{
	const struct identity *id = &n->id;

	pack_put(p, n->run | (n->beyond ? 4u : 0) | (model_strict && n->epoch ? 8u : 0) |
			    (unsigned)id->role << 4);
	pack_put(p, (id->consistent ? 1u : 0) | (id->syncing ? 2u : 0) | (id->unwritten ? 4u : 0) |
			    (id->yielded ? 8u : 0) | (id->tracked ? 16u : 0) |
			    (id->shared ? 32u : 0) | (id->superseded ? 64u : 0) |
			    (id->next.full ? 128u : 0));
	pack_put(p, n->map);
	pack_number(p, id->top);
	pack_generation(p, &id->current);
	pack_generation(p, &id->base);
	pack_generation(p, &id->next.generation);
	pack_history(p, id->history, id->nhistory, id->unwritten_history);
	pack_history(p, id->next.history, id->next.nhistory, id->next.unwritten_history);
}

/* Versions: what is on a disk, and where two of them part. */
struct pack_versions {
	uint8_t name[MODEL_VERSIONS]; /* GARBAGE = left out */
	uint8_t order[MODEL_VERSIONS];
	unsigned count;
};

static void pack_version(struct pack_versions *v, uint8_t version)
{
	if (version == MODEL_GARBAGE || v->name[version] != MODEL_GARBAGE)
		return;
	v->name[version] = (uint8_t)v->count;
	v->order[v->count++] = version;
}

static void pack_versions(
	struct pack *p, const struct model *m, const struct model_node *const n[2])
{
	bool on_disk[MODEL_VERSIONS] = {0}, live[MODEL_VERSIONS] = {0};
	unsigned children[MODEL_VERSIONS] = {0};
	uint8_t parent[MODEL_VERSIONS];
	struct pack_versions v = {.count = 0};

	memset(v.name, MODEL_GARBAGE, sizeof(v.name));
	for (unsigned i = 0; i < 2 * MODEL_BLOCKS; i++) {
		uint8_t at = n[i / MODEL_BLOCKS]->content[i % MODEL_BLOCKS];

		if (at != MODEL_GARBAGE)
			on_disk[at] = true;
		for (; at != MODEL_GARBAGE && !live[at]; at = m->version[at].parent) {
			live[at] = true;
			if (m->version[at].parent != MODEL_GARBAGE)
				children[m->version[at].parent]++;
		}
	}
	for (unsigned i = 0; i < m->versions; i++) {
		uint8_t up = m->version[i].parent;

		while (up != MODEL_GARBAGE && !on_disk[up] && children[up] < 2)
			up = m->version[up].parent;
		parent[i] = up;
	}
	for (unsigned i = 0; i < 2 * MODEL_BLOCKS; i++) {
		uint8_t at = n[i / MODEL_BLOCKS]->content[i % MODEL_BLOCKS];

		pack_version(&v, at);
		pack_put(p, at == MODEL_GARBAGE ? at : v.name[at]);
	}
	for (unsigned i = 0; i < v.count; i++)
		pack_version(&v, parent[v.order[i]]);
	pack_put(p, v.count);
	for (unsigned i = 0; i < v.count; i++) {
		uint8_t up = parent[v.order[i]];

		pack_put(p, up == MODEL_GARBAGE ? 31u : v.name[up]);
		/* Only of what can still be overwritten does it matter. */
		pack_put(p, on_disk[v.order[i]] && m->version[v.order[i]].answered);
	}
}

static void pack_from(const struct model *m, unsigned first, uint8_t packed[MODEL_PACKED])
{
	const struct model_node *const n[2] = {&m->node[first], &m->node[!first]};
	struct pack p = {.at = packed, .end = packed + MODEL_PACKED};

	memset(packed, 0, MODEL_PACKED);
	p.ids[p.nids++] = 0;
	pack_note_numbers(&p, &n[0]->id);
	pack_note_numbers(&p, &n[1]->id);
	pack_put(&p, m->link);
	pack_put(&p, m->link == MODEL_NO_LINK ? 0 : m->primary ^ first);
	pack_put(&p, m->copy | m->window << 2 | m->acking << 4);
	pack_put(&p, (m->in_place ? 1u : 0) | (m->touched ? 2u : 0) | (m->discards ? 4u : 0) |
			     (m->noted ? 8u : 0));
	pack_node(&p, n[0]);
	pack_node(&p, n[1]);
	pack_versions(&p, m, n);
}

bool model_pack(const struct model *m, uint8_t packed[MODEL_PACKED])
{
	uint8_t other[MODEL_PACKED];

	pack_from(m, 0, packed);
	pack_from(m, 1, other);
	if (memcmp(other, packed, MODEL_PACKED) >= 0)
		return false;
	memcpy(packed, other, MODEL_PACKED);
	return true;
}

/* --- and back --- */

static void unpack_generation(const uint8_t **at, struct identity_generation *g)
{
	g->number = *(*at)++;
	g->id = *(*at)++;
}

static uint32_t unpack_history(
	const uint8_t **at, struct identity_generation *h, uint32_t *ret_unwritten)
{
	uint32_t count = *(*at)++;

	*ret_unwritten = *(*at)++;

	for (unsigned i = 0; i < count; i++)
		unpack_generation(at, &h[i]);
	return count;
}

static void unpack_node(const uint8_t **at, struct model_node *n)
{
	struct identity *id = &n->id;
	unsigned run = *(*at)++, flags = *(*at)++;

	n->run = run & 3;
	n->beyond = run & 4;
	n->epoch = run & 8;
	id->role = run >> 4;
	id->consistent = flags & 1;
	id->syncing = flags & 2;
	id->unwritten = flags & 4;
	id->yielded = flags & 8;
	id->tracked = flags & 16;
	id->shared = flags & 32;
	id->superseded = flags & 64;
	id->next.full = flags & 128;
	n->map = *(*at)++;
	id->top = *(*at)++;
	unpack_generation(at, &id->current);
	unpack_generation(at, &id->base);
	unpack_generation(at, &id->next.generation);
	id->nhistory = unpack_history(at, id->history, &id->unwritten_history);
	id->next.nhistory = unpack_history(at, id->next.history, &id->next.unwritten_history);
}

void model_unpack(const uint8_t packed[MODEL_PACKED], struct model *m)
{
	const uint8_t *at = packed;
	unsigned blocks, flags;

	model_init(m);
	m->link = *at++;
	m->primary = *at++;
	blocks = *at++;
	m->copy = blocks & 3;
	m->window = blocks >> 2 & 3;
	m->acking = blocks >> 4 & 3;
	flags = *at++;
	m->in_place = flags & 1;
	m->touched = flags & 2;
	m->discards = flags & 4;
	m->noted = flags & 8;
	unpack_node(&at, &m->node[0]);
	unpack_node(&at, &m->node[1]);
	for (unsigned i = 0; i < 2 * MODEL_BLOCKS; i++)
		m->node[i / MODEL_BLOCKS].content[i % MODEL_BLOCKS] = *at++;
	m->versions = *at++;
	for (unsigned i = 0; i < m->versions; i++) {
		m->version[i].parent = *at++;
		if (m->version[i].parent == 31)
			m->version[i].parent = MODEL_GARBAGE;
		m->version[i].answered = *at++;
	}
	m->fresh = 100; /* above every id of a packed state */
}
