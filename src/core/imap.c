/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Interval map: a treap keyed by start, of ranges that never overlap.  Priorities come from a
 * counter-based generator, so that the same calls build the same tree (the simulator replays). */
#include "core/imap.h"

#include <errno.h>
#include <stdlib.h>

struct imap_node {
	struct imap_range r;
	uint32_t prio;
	struct imap_node *left, *right; /* in the free list: left is the next */
};

struct imap {
	struct imap_node *root;
	struct imap_node *spare; /* nodes to reuse */
	size_t count, nspare;
	uint32_t seed;
};

struct imap *imap_new(void)
{
	struct imap *m = calloc(1, sizeof(*m));

	if (m)
		m->seed = 0x9e3779b9u;
	return m;
}

static void imap_recycle(struct imap *m, struct imap_node *n)
{
	n->left = m->spare;
	m->spare = n;
	m->nspare++;
}

static void imap_recycle_tree(struct imap *m, struct imap_node *n)
{
	if (!n)
		return;
	imap_recycle_tree(m, n->left);
	imap_recycle_tree(m, n->right);
	imap_recycle(m, n);
}

void imap_clear(struct imap *m)
{
	imap_recycle_tree(m, m->root);
	m->root = NULL;
	m->count = 0;
}

struct imap *imap_free(struct imap *m)
{
	if (!m)
		return NULL;
	imap_clear(m);
	while (m->spare) {
		struct imap_node *n = m->spare;

		m->spare = n->left;
		free(n);
	}
	free(m);
	return NULL;
}

size_t imap_count(const struct imap *m)
{
	return m->count;
}

/* An insert needs at most two nodes: its own, and the tail of a range that it splits. */
static int imap_reserve(struct imap *m, size_t n)
{
	while (m->nspare < n) {
		struct imap_node *node = malloc(sizeof(*node));

		if (!node)
			return -ENOMEM;
		imap_recycle(m, node);
	}
	return 0;
}

static struct imap_node *imap_take(
	struct imap *m, uint64_t start, uint64_t end, uint64_t source, uint64_t tag)
{
	struct imap_node *n = m->spare;

	m->spare = n->left;
	m->nspare--;
	m->seed = m->seed * 1664525u + 1013904223u;
	*n = (struct imap_node){.r = {start, end, source, tag}, .prio = m->seed};
	return n;
}

static struct imap_node *imap_join(struct imap_node *a, struct imap_node *b)
{
	if (!a || !b)
		return a ? a : b;
	if (a->prio > b->prio) {
		a->right = imap_join(a->right, b);
		return a;
	}
	b->left = imap_join(a, b->left);
	return b;
}

/* Splits into ranges that start before key, and the others. */
static void imap_split(
	struct imap_node *n, uint64_t key, struct imap_node **ret_a, struct imap_node **ret_b)
{
	while (n) {
		if (n->r.start < key) {
			*ret_a = n;
			ret_a = &n->right;
			n = n->right;
		} else {
			*ret_b = n;
			ret_b = &n->left;
			n = n->left;
		}
	}
	*ret_a = *ret_b = NULL;
}

int imap_insert(struct imap *m, uint64_t off, uint64_t len, uint64_t source, uint64_t tag)
{
	struct imap_node *before, *covered, *after, *last, *own;
	uint64_t end = off + len;
	uint64_t tail_end = 0, tail_source = 0, tail_tag = 0;
	int r = imap_reserve(m, 2);

	if (r < 0)
		return r;
	imap_split(m->root, off, &before, &covered);
	imap_split(covered, end, &covered, &after);
	/* The last range that starts before off may reach into, or beyond, the new one. */
	for (last = before; last && last->right; last = last->right)
		;
	if (last && last->r.end > off) {
		if (last->r.end > end) {
			tail_end = last->r.end;
			tail_tag = last->r.tag;
			tail_source = last->r.source == IMAP_ZERO
					      ? IMAP_ZERO
					      : last->r.source + (end - last->r.start);
		}
		last->r.end = off;
	}
	/* So may the last of the covered ones. */
	for (last = covered; last && last->right; last = last->right)
		;
	if (last && last->r.end > end) {
		tail_end = last->r.end;
		tail_tag = last->r.tag;
		tail_source = last->r.source == IMAP_ZERO ? IMAP_ZERO
							  : last->r.source + (end - last->r.start);
	}
	size_t spare = m->nspare;
	imap_recycle_tree(m, covered);
	m->count -= m->nspare - spare;
	own = imap_take(m, off, end, source, tag);
	m->count++;
	before = imap_join(before, own);
	if (tail_end) {
		before = imap_join(before, imap_take(m, end, tail_end, tail_source, tail_tag));
		m->count++;
	}
	m->root = imap_join(before, after);
	return 0;
}

bool imap_find(const struct imap *m, uint64_t off, struct imap_range *ret_range)
{
	const struct imap_node *best = NULL;

	/* Ranges do not overlap, so their ends are in the order of their starts. */
	for (const struct imap_node *n = m->root; n;) {
		if (n->r.end > off) {
			best = n;
			n = n->left;
		} else {
			n = n->right;
		}
	}
	if (!best)
		return false;
	*ret_range = best->r;
	return true;
}

void imap_remove(struct imap *m, const struct imap_range *range)
{
	struct imap_node **at = &m->root, *n;

	while (*at && (*at)->r.start != range->start)
		at = range->start < (*at)->r.start ? &(*at)->left : &(*at)->right;
	n = *at;
	if (!n || n->r.end != range->end || n->r.source != range->source || n->r.tag != range->tag)
		return;
	*at = imap_join(n->left, n->right);
	imap_recycle(m, n);
	m->count--;
}

static struct imap_node *imap_drop_tree(struct imap *m, struct imap_node *n, uint64_t max_tag)
{
	if (!n)
		return NULL;
	n->left = imap_drop_tree(m, n->left, max_tag);
	n->right = imap_drop_tree(m, n->right, max_tag);
	if (n->r.tag > max_tag)
		return n;
	struct imap_node *rest = imap_join(n->left, n->right);

	imap_recycle(m, n);
	m->count--;
	return rest;
}

void imap_drop_until(struct imap *m, uint64_t max_tag)
{
	m->root = imap_drop_tree(m, m->root, max_tag);
}
