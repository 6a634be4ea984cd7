/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem meta show|check: what a node's metadata and map files say.  Nothing is written; show may
 * be used beside a running node (each unit of a file is whole or not valid), check may not. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "replicator/init.h"
#include "replicator/mapfile.h"
#include "replicator/metafile.h"
#include "replicator/node.h"
#include "replicator/seal.h"
#include "util/units.h"

#define META_RANGES 20u /* of a disk that are listed */

static const char *meta_size(uint64_t bytes, char buf[32])
{
	units_format_size(bytes, buf, 32);
	return buf;
}

static void meta_generation(const char *label, const struct identity_generation *g)
{
	if (identity_is_none(g))
		printf("  %-12s none\n", label);
	else
		printf("  %-12s %" PRIu64 " (%016" PRIx64 ")\n", label, g->number, g->id);
}

static void meta_show_group(const struct metadata *m)
{
	static const char *const roles[] = {"none yet", "primary", "secondary"};
	const struct identity *id = &m->id;
	const struct {
		const char *name;
		bool on;
	} flags[] = {{"consistent", id->consistent}, {"syncing", id->syncing},
		{"unwritten", id->unwritten}, {"shared", id->shared}, {"yielded", id->yielded},
		{"superseded", id->superseded}, {"clean", id->clean}, {"draining", m->draining},
		{"cloned", m->cloned != 0}};
	char uuid[UUID_TEXT_SIZE];

	uuid_format(&id->group, uuid);
	printf("group.meta\n  %-12s %s\n", "group", uuid_is_zero(&id->group) ? "none yet" : uuid);
	printf("  %-12s %s\n", "last role", roles[id->role]);
	meta_generation("generation", &id->current);
	meta_generation("base", &id->base);
	for (uint32_t i = 0; i < id->nhistory; i++)
		meta_generation(i ? "" : "history", &id->history[i]);
	printf("  %-12s %" PRIu64 ", seen %" PRIu64 "\n", "committed", m->committed, m->seen);
	printf("  %-12s", "flags");
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (flags[i].on)
			printf(" %s", flags[i].name);
	putchar('\n');
}

static void meta_show_map(const char *name, const struct dirtymap *map, const struct activity *log,
	const struct activity_report *rep)
{
	char size[32], block[32], region[32], dirty[32];
	struct dirtymap_run run = {0};
	uint64_t n = 0;

	printf("%s.map\n  %-12s %s (%" PRIu64 "), blocks of %s, regions of %s\n", name, "disk",
		meta_size(map->size, size), map->size, meta_size(dirtymap_block(map), block),
		meta_size(log->header.region, region));
	printf("  %-12s %s (%" PRIu64 " of %" PRIu64 " blocks), hot regions counted\n", "dirty",
		meta_size(dirtymap_wanted_bytes(map), dirty), map->wanted, map->blocks);
	printf("  %-12s %" PRIu32 " hot regions%s\n", "activity", rep->hot,
		rep->lost_log ? "; no record is valid" : "");
	printf("  %-12s %" PRIu64 ", %" PRIu64 " not valid, %" PRIu64 " with one torn copy\n",
		"pages", rep->pages, rep->lost_pages, rep->torn_pages);
	while (dirtymap_next(map, DIRTYMAP_WANTED, run.off + run.len, UINT64_MAX, &run))
		if (n++ < META_RANGES)
			printf("  %-12s %" PRIu64 " +%" PRIu64 "\n", n == 1 ? "ranges" : "",
				run.off, run.len);
	if (n > META_RANGES)
		printf("  %-12s and %" PRIu64 " more\n", "", n - META_RANGES);
}

/* One disk; with check a damage is an error. */
static int meta_map(const struct cli *cli, unsigned disk, const struct metadata *m, bool check,
	struct error *err)
{
	const char *name = cli->node->disks[disk].name;
	struct activity_report rep;
	struct dirtymap map;
	struct activity log;
	char path[512];
	int r = mapfile_read(
		node_map_path(cli->node, disk, path, sizeof(path)), &map, &log, &rep, err);

	if (r < 0)
		return r;
	if (!check)
		meta_show_map(name, &map, &log, &rep);
	else if (rep.lost_pages || rep.lost_log)
		r = error_set(err, ERROR_IO, -EBADMSG,
			"dirty map: %s is damaged: %" PRIu64 " of %" PRIu64 " pages%s; what they "
			"covered counts as dirty",
			path, rep.lost_pages, rep.pages,
			rep.lost_log ? " and the activity log" : "");
	else if (disk < m->id.volumes && map.size < m->id.volume[disk].size)
		r = error_set(err, ERROR_IO, -EBADMSG,
			"dirty map: %s is of a disk of %" PRIu64
			" bytes, the metadata says %" PRIu64,
			path, map.size, m->id.volume[disk].size);
	else
		printf("%s.map is valid: %" PRIu64 " pages, %" PRIu32 " hot regions, %" PRIu64
		       " of %" PRIu64 " blocks dirty\n",
			name, rep.pages, rep.hot, map.wanted, map.blocks);
	activity_deinit(&log);
	dirtymap_deinit(&map);
	return r;
}

static int meta_seal(const struct cli *cli, unsigned disk, bool check, struct error *err)
{
	const char *name = cli->node->disks[disk].name;
	struct error why = {0};
	struct seal s;
	int r = seal_load(cli->node, disk, &s, &why);

	if (r < 0 || (r == 0 && check && why.text[0])) {
		*err = why;
		return -EBADMSG;
	}
	if (r == 0)
		printf("%s.seal %s\n", name, why.text[0] ? "is damaged" : "is not there");
	else if (check)
		printf("%s.seal is valid\n", name);
	else
		printf("%s.seal\n  %-12s %s, %" PRIu32 " blocks are noted\n", name, "state",
			s.state == SEAL_CLOSED ? "closed by an orderly end" : "open", s.nsamples);
	return 0;
}

int cmd_meta(struct cli *cli, struct error *err)
{
	bool check = cli->args.word == 2;
	struct metafile f = {.fd = -1};
	int lock = -1, r = 0;
	char path[512];

	if (check)
		r = init_lock(cli->conf, cli->node_index, &lock, err);
	if (r == 0)
		r = metafile_open(
			&f, node_path(cli->node->state_dir, "group.meta", path, sizeof(path)), err);
	if (r == 0 && check)
		printf("group.meta is valid\n");
	else if (r == 0)
		meta_show_group(&f.now);
	for (unsigned i = 0; r == 0 && i < cli->node->ndisks; i++)
		r = meta_map(cli, i, &f.now, check, err);
	for (unsigned i = 0; r == 0 && i < cli->node->ndisks; i++)
		r = meta_seal(cli, i, check, err);
	metafile_close(&f);
	if (lock >= 0)
		close(lock);
	return r;
}
