/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Simulated disks.  A write is visible when it completes and durable when a flush that was issued
 * after that completes.  At a power cut every sector of every other write is kept or lost by
 * itself, so that writes are torn and reordered in any way a disk may. */
#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "util/bytes.h"

void disk_init(struct disk *d, struct sim *s, enum sim_node node, const char *name, uint64_t size)
{
	memset(d, 0, sizeof(*d));
	d->s = s;
	d->node = node;
	d->name = name;
	d->size = size;
	d->slow = 200 * SIM_US;
	d->cache = calloc(1, size);
	d->stable = calloc(1, size);
	if (!d->cache || !d->stable)
		abort();
}

static void disk_op_free(struct disk_op *op)
{
	free(op->data);
	free(op->mapped);
	free(op);
}

static void disk_ops_free(struct disk_op **list)
{
	while (*list) {
		struct disk_op *op = *list;

		*list = op->next;
		disk_op_free(op);
	}
}

void disk_free(struct disk *d)
{
	disk_ops_free(&d->inflight);
	disk_ops_free(&d->dirty_first);
	free(d->cache);
	free(d->stable);
	memset(d, 0, sizeof(*d));
}

/* Whether a sector of a write that was not flushed survives. */
static bool disk_keeps(const struct disk_op *op, uint64_t sector, uint64_t salt)
{
	uint64_t fate = sim_mix(salt ^ sim_mix(op->id * 2 + 1));

	if (salt == 0 || fate % 3 == 0)
		return false;
	if (fate % 3 == 1)
		return true;
	return sim_mix(fate ^ sim_mix(sector)) & 1;
}

/* The surviving sectors of op, onto buf, which holds [off, off+len) of the disk. */
static void disk_survive(
	const struct disk_op *op, uint64_t off, uint8_t *buf, uint64_t len, uint64_t salt)
{
	uint64_t at = max_u64(off, op->off), end = min_u64(off + len, op->off + op->len);

	while (at < end) {
		uint64_t next = min_u64(round_down(at, SIM_SECTOR) + SIM_SECTOR, end);

		if (disk_keeps(op, at / SIM_SECTOR, salt))
			memcpy(buf + (at - off), op->data + (at - op->off), next - at);
		at = next;
	}
}

/* The mapped part as it would survive, onto buf, which holds [off, off+len) of the disk. */
static void disk_survive_mapped(
	const struct disk *d, uint64_t off, uint8_t *buf, uint64_t len, uint64_t salt)
{
	const struct disk_op any = {.id = 0};
	uint64_t at = max_u64(off, d->map_off), end = off + len;

	while (d->map_off && at < end) {
		uint64_t next = min_u64(round_down(at, SIM_SECTOR) + SIM_SECTOR, end);

		if (disk_keeps(&any, at / SIM_SECTOR, salt))
			memcpy(buf + (at - off), d->cache + at, next - at);
		at = next;
	}
}

void disk_peek(const struct disk *d, uint64_t off, void *buf, uint64_t len, uint64_t salt)
{
	memcpy(buf, d->stable + off, len);
	if (salt == 0)
		return;
	disk_survive_mapped(d, off, buf, len, salt);
	for (const struct disk_op *op = d->dirty_first; op; op = op->next)
		disk_survive(op, off, buf, len, salt);
	for (const struct disk_op *op = d->inflight; op; op = op->next)
		if (op->data)
			disk_survive(op, off, buf, len, salt);
}

void disk_read(const struct disk *d, uint64_t off, void *buf, uint64_t len)
{
	memcpy(buf, d->cache + off, len);
}

static void disk_stabilize(struct disk *d, uint64_t until)
{
	while (d->dirty_first && d->dirty_first->done_id <= until) {
		struct disk_op *op = d->dirty_first;

		memcpy(d->stable + op->off, op->data, op->len);
		d->dirty_first = op->next;
		if (!d->dirty_first)
			d->dirty_last = NULL;
		disk_op_free(op);
	}
}

static void disk_complete_write(struct disk *d, struct disk_op *op)
{
	memcpy(d->cache + op->off, op->data, op->len);
	op->done_id = ++d->done_ids;
	op->next = NULL;
	if (d->dirty_last)
		d->dirty_last->next = op;
	else
		d->dirty_first = op;
	d->dirty_last = op;
}

static void disk_done(struct sim *s, void *arg)
{
	struct disk_op *op = arg, **at;
	struct disk *d = op->disk;
	sim_fn fn = op->fn;
	void *fn_arg = op->arg;

	for (at = &d->inflight; *at != op; at = &(*at)->next)
		;
	*at = op->next;
	if (op->data) {
		disk_complete_write(d, op);
	} else {
		disk_stabilize(d, op->id);
		/* One that began earlier has nothing that is newer. */
		if (op->mapped && op->began > d->map_done)
			memcpy(d->stable + d->map_off, op->mapped, d->size - d->map_off);
		d->map_done = max_u64(d->map_done, op->began);
		disk_op_free(op);
	}
	fn(s, fn_arg);
}

static void disk_submit(struct disk *d, struct disk_op *op, uint64_t delay)
{
	op->disk = d;
	op->next = d->inflight;
	d->inflight = op;
	sim_after(d->s, d->node, delay, disk_done, op);
}

void disk_write(struct disk *d, uint64_t off, const void *buf, uint64_t len, sim_fn fn, void *arg)
{
	struct disk_op *op = calloc(1, sizeof(*op));

	if (off + len > d->size || !op || !(op->data = malloc(len)))
		abort();
	memcpy(op->data, buf, len);
	op->off = off;
	op->len = len;
	op->id = ++d->ids;
	op->fn = fn;
	op->arg = arg;
	disk_submit(d, op, sim_delay(d->s, 10 * SIM_US, d->slow));
}

void disk_flush(struct disk *d, sim_fn fn, void *arg)
{
	struct disk_op *op = calloc(1, sizeof(*op));

	if (!op)
		abort();
	if (d->map_off) {
		op->began = ++d->map_began;
		op->mapped = malloc(d->size - d->map_off);
		if (!op->mapped)
			abort();
		memcpy(op->mapped, d->cache + d->map_off, d->size - d->map_off);
	}
	op->id = d->done_ids;
	op->fn = fn;
	op->arg = arg;
	disk_submit(d, op, sim_delay(d->s, 50 * SIM_US, 4 * d->slow));
}

void disk_settle(struct disk *d)
{
	disk_stabilize(d, UINT64_MAX);
	if (d->map_off)
		memcpy(d->stable + d->map_off, d->cache + d->map_off, d->size - d->map_off);
}

void disk_crash(struct disk *d, bool power)
{
	uint64_t salt = sim_mix(sim_rng(d->s, UINT64_MAX)) | 1;
	struct disk_op *next;

	if (!power) {
		/* The kernel lives on: what it had completed stays visible, still not durable. */
		for (struct disk_op *op = d->inflight; op; op = next) {
			next = op->next;
			if (op->data) {
				uint8_t *now = malloc(op->len);

				if (!now)
					abort();
				memcpy(now, d->cache + op->off, op->len);
				disk_survive(op, op->off, now, op->len, salt);
				free(op->data);
				op->data = now;
				disk_complete_write(d, op);
			} else {
				disk_op_free(op);
			}
		}
		d->inflight = NULL;
		return;
	}
	if (d->map_off)
		disk_survive_mapped(
			d, d->map_off, d->stable + d->map_off, d->size - d->map_off, salt);
	for (struct disk_op *op = d->dirty_first; op; op = op->next)
		disk_survive(op, op->off, d->stable + op->off, op->len, salt);
	for (struct disk_op *op = d->inflight; op; op = op->next)
		if (op->data)
			disk_survive(op, op->off, d->stable + op->off, op->len, salt);
	for (struct disk_op *op = d->dirty_first; op; op = op->next)
		memcpy(d->cache + op->off, d->stable + op->off, op->len);
	for (struct disk_op *op = d->inflight; op; op = op->next)
		memcpy(d->cache + op->off, d->stable + op->off, op->len);
	if (d->map_off)
		memcpy(d->cache + d->map_off, d->stable + d->map_off, d->size - d->map_off);
	disk_ops_free(&d->inflight);
	disk_ops_free(&d->dirty_first);
	d->dirty_last = NULL;
}
