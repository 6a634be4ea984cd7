/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See vm_shape.h. */
#include "guest/vm_shape.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guest/qmp.h"
#include "util/clock.h"
#include "util/crc.h"

/* Where QEMU keeps what -device and device_add have made: with an id, and without. */
static const char *const shape_paths[] = {"/machine/peripheral", "/machine/peripheral-anon"};

int vm_devices(struct rpc *q, json_t **ret_list, struct error *err)
{
	uint64_t deadline = clock_ns() + QMP_COMMAND_MS * NS_PER_MS;
	json_t *list = json_object();
	json_int_t id[2];
	int r = 0;

	for (int i = 0; r == 0 && i < 2; i++)
		r = rpc_send(q, "qom-list", json_pack("{s:s}", "path", shape_paths[i]), -1,
			deadline, &id[i], err);
	for (int i = 0; r == 0 && i < 2; i++) {
		json_t *answer, *o;
		size_t k;

		r = rpc_wait(q, "qom-list", id[i], deadline, &answer, err);
		if (r < 0)
			break;
		json_array_foreach(answer, k, o)
		{
			const char *type = json_string_value(json_object_get(o, "type"));
			const char *name = json_string_value(json_object_get(o, "name"));

			if (name && type && !strncmp(type, "child<", 6))
				json_object_set_new(list, name, json_string(type + 6));
		}
		json_decref(answer);
	}
	if (r < 0)
		json_decref(list);
	else
		*ret_list = list;
	return r;
}

/* Ids and sizes of the backends, and what the nodes have of them. */
static int vm_shape_memory(struct rpc *q, uint32_t *ret_crc, struct error *err)
{
	json_t *list, *m, *all = json_object();
	char *text, *nodes;
	size_t i;
	int r = qmp_run(q, "query-memdev", NULL, &list, err);

	if (r == 0) {
		json_array_foreach(list, i, m)
		{
			const char *id = json_string_value(json_object_get(m, "id"));

			if (id)
				json_object_set(all, id, json_object_get(m, "size"));
		}
		json_decref(list);
		r = qmp_human(q, "info numa", &nodes, err);
	}
	text = json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(all);
	if (r == 0) {
		*ret_crc = crc32c_extend(
			crc32c(text ? text : "", text ? strlen(text) : 0), nodes, strlen(nodes));
		free(nodes);
	}
	free(text);
	return r;
}

int vm_shape(struct rpc *q, struct vm_shape *ret_shape, struct error *err)
{
	struct vm_shape s;
	json_t *list;
	char *text;
	int r = qmp_run(q, "query-cpus-fast", NULL, &list, err);

	if (r < 0)
		return r;
	s.cpus = (uint32_t)json_array_size(list);
	json_decref(list);
	r = vm_devices(q, &list, err);
	if (r < 0)
		return r;
	text = json_dumps(list, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(list);
	if (!text)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	s.devices = crc32c(text, strlen(text));
	free(text);
	r = vm_shape_memory(q, &s.memory, err);
	if (r == 0)
		*ret_shape = s;
	return r;
}

int vm_shape_same(const struct vm_shape *guest, const struct vm_shape *here, struct error *err)
{
	if (guest->cpus && guest->cpus != here->cpus)
		return error_set(err, ERROR_CONFIG, -ENXIO,
			"vCPUs: the guest has %u, [guest] qemu gives it %u on this node",
			guest->cpus, here->cpus);
	if (guest->cpus && guest->devices != here->devices)
		return error_set(err, ERROR_CONFIG, -ENXIO,
			"the guest's devices are not those that [guest] qemu gives it on this "
			"node: -device and -drive must be the same on both");
	if (guest->memory && guest->memory != here->memory)
		return error_set(err, ERROR_CONFIG, -ENXIO,
			"the guest's memory is not divided as [guest] qemu does it on this node: "
			"ids and sizes of -object memory-backend-..., and -numa, must be the same "
			"on both");
	return 0;
}
