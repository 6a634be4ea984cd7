/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See vm_check.h. */
#include "guest/vm_check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guest/qmp.h"
#include "util/log.h"

#define VM_CHECK_TICK_MS 60 /* a little more than the longest period of the PIT */

/* Whether this backend is Tandem's, or one of those that it has put on the RAM file. */
static bool vm_check_own_memory(const struct backends *b, const char *id)
{
	if (id && b->n == 0)
		return !strcmp(id, "tandem-ram");
	for (unsigned i = 0; id && i < b->n; i++)
		if (!strcmp(id, b->v[i].id))
			return true;
	return false;
}

/* QEMU's own default backend is not on the RAM file, nor is one that came in another way than by
 * -object (a configuration file).  That each part of the file is mapped just once, track.c sees. */
static int vm_check_memory(struct rpc *q, const struct backends *b, struct error *err)
{
	json_t *list, *m;
	size_t i;
	int r = qmp_run(q, "query-memdev", NULL, &list, err);

	if (r < 0)
		return r;
	json_array_foreach(list, i, m)
	{
		const char *id = json_string_value(json_object_get(m, "id"));

		if (r == 0 && !vm_check_own_memory(b, id))
			r = error_set(err, ERROR_STATE, -EOPNOTSUPP,
				"guest memory: backend \"%s\" is not replicated: all memory must "
				"be what memory in [guest] says, and each backend be in use",
				id ? id : "?");
	}
	json_decref(list);
	if (r < 0)
		return r;
	r = qmp_run(q, "query-memory-devices", NULL, &list, err);
	if (r < 0)
		return r;
	if (json_array_size(list) > 0)
		r = error_set(err, ERROR_STATE, -EOPNOTSUPP,
			"guest memory: memory devices (pc-dimm, nvdimm, virtio-mem, virtio-pmem) "
			"are not replicated");
	json_decref(list);
	return r;
}

static bool vm_check_own_disk(const struct conf_node *node, const char *name)
{
	for (unsigned i = 0; node && name && i < node->ndisks; i++)
		if (!strcmp(node->disks[i].name, name))
			return true;
	return false;
}

static int vm_check_disks(struct rpc *q, const struct conf_node *node, struct error *err)
{
	json_t *list, *d;
	size_t i;
	int r = qmp_run(q, "query-block", NULL, &list, err);

	if (r < 0)
		return r;
	json_array_foreach(list, i, d)
	{
		const json_t *in = json_object_get(d, "inserted");
		const char *name = json_string_value(json_object_get(in, "node-name"));
		const char *file = json_string_value(json_object_get(in, "file"));

		if (r < 0 || !in || json_is_true(json_object_get(in, "ro")) ||
			vm_check_own_disk(node, name))
			continue;
		r = error_set(err, ERROR_STATE, -EOPNOTSUPP,
			"disk %s can be written and is none of the group's: make it one "
			"(disk.NAME), or read-only",
			file ? file : name);
	}
	json_decref(list);
	return r;
}

/* O_DIRECT: the kernel holds the guest's pages and has the device write into them later.  That they
 * are written is seen when it takes hold of them, so a copy that is made in between, while the
 * guest runs, would be the last one.  The group's disks are read from a socket. */
static int vm_check_direct(struct rpc *q, struct error *err)
{
	json_t *list, *d;
	size_t i;
	int r = qmp_run(q, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), &list, err);

	if (r < 0)
		return r;
	json_array_foreach(list, i, d)
	{
		const char *drv = json_string_value(json_object_get(d, "drv"));
		const char *file = json_string_value(json_object_get(d, "file"));

		if (r == 0 && drv && strcmp(drv, "nbd") != 0 &&
			json_is_true(json_object_get(json_object_get(d, "cache"), "direct")))
			r = error_set(err, ERROR_STATE, -EOPNOTSUPP,
				"disk %s is read past the page cache (cache=none), into guest "
				"memory, unseen by the dirty tracking: use cache=writeback",
				file ? file : drv);
	}
	json_decref(list);
	return r;
}

static int vm_check_devices(struct rpc *q, struct error *err)
{
	static const struct {
		const char *device, *why;
	} refused[] = {
		{"virtio-balloon", "it drops pages that the dirty tracking does not see"},
		{"virtio-mem", "its memory is not replicated"},
		{"vfio-pci", "a device of the host cannot be taken along"},
		{"ivshmem", "its memory is not replicated"},
		{"vhost-user", "another process writes into the guest's memory unseen"},
	};
	char *text;
	int r = qmp_human(q, "info qtree", &text, err);

	if (r < 0)
		return r;
	for (char *line = text; (line = strstr(line, "dev: ")); line += 5)
		for (size_t i = 0; r == 0 && i < sizeof(refused) / sizeof(refused[0]); i++)
			if (!strncmp(line + 5, refused[i].device, strlen(refused[i].device)))
				r = error_set(err, ERROR_STATE, -EOPNOTSUPP, "device %.*s: %s",
					(int)strcspn(line + 5, ",\r\n"), line + 5, refused[i].why);
	free(text);
	return r;
}

/* What QEMU itself cannot migrate, in its own words. */
static int vm_check_migratable(struct rpc *q, struct error *err)
{
	json_t *info, *reasons;
	int r = qmp_run(q, "query-migrate", NULL, &info, err);

	if (r < 0)
		return r;
	reasons = json_object_get(info, "blocked-reasons");
	if (json_array_size(reasons) > 0)
		r = error_set(err, ERROR_STATE, -EOPNOTSUPP,
			"QEMU cannot checkpoint this guest: %s",
			json_string_value(json_array_get(reasons, 0)));
	json_decref(info);
	return r;
}

int vm_check(struct rpc *q, const struct conf_node *node, const struct backends *backends,
	struct error *err)
{
	int r = vm_check_devices(q, err);

	if (r == 0)
		r = vm_check_memory(q, backends, err);
	if (r == 0)
		r = vm_check_disks(q, node, err);
	if (r == 0)
		r = vm_check_direct(q, err);
	if (r == 0)
		r = vm_check_migratable(q, err);
	return r;
}

/* KVM's own PIT begins its period anew whenever the vCPUs go on (KVM_SET_PIT2 starts its timer from
 * the whole count), so a tick of 55 ms, the BIOS's, never comes where they stop more often. */
void vm_advise(struct rpc *q, uint64_t epoch_ms)
{
	struct error ignored;
	char *text;

	if (epoch_ms >= VM_CHECK_TICK_MS || qmp_human(q, "info qtree", &text, &ignored) < 0)
		return;
	if (strstr(text, "dev: kvm-pit"))
		log_warning("the machine has KVM's own timer (kvm-pit), which each checkpoint "
			    "delays: with epoch-ms below %d a guest that uses it (firmware, boot "
			    "loaders, old systems) hardly goes on: give -machine "
			    "kernel-irqchip=split",
			VM_CHECK_TICK_MS);
	free(text);
}
