/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* QMP; see qmp.h. */
#include "guest/qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "util/clock.h"

int qmp_begin(struct rpc *q, int fd, struct error *err)
{
	json_t *greeting;
	int r = rpc_adopt(q, "QEMU", fd, clock_ns() + QMP_START_MS * NS_PER_MS, &greeting, err);

	if (r < 0)
		return r;
	if (!json_object_get(greeting, "QMP"))
		r = error_set(err, ERROR_GENERAL, -EPROTO, "QEMU: its greeting is not QMP's");
	json_decref(greeting);
	if (r == 0)
		r = qmp_run(q, "qmp_capabilities", NULL, NULL, err);
	if (r < 0)
		rpc_deinit(q);
	return r;
}

int qmp_run(struct rpc *q, const char *command, json_t *arguments, json_t **ret_return,
	struct error *err)
{
	return rpc_execute(q, command, arguments, -1, clock_ns() + QMP_COMMAND_MS * NS_PER_MS,
		ret_return, err);
}

int qmp_human(struct rpc *q, const char *line, char **ret_text, struct error *err)
{
	json_t *value;
	int r = qmp_run(
		q, "human-monitor-command", json_pack("{s:s}", "command-line", line), &value, err);

	if (r < 0)
		return r;
	*ret_text = json_is_string(value) ? strdup(json_string_value(value)) : NULL;
	json_decref(value);
	return *ret_text ? 0 : error_set(err, ERROR_GENERAL, -EPROTO, "QEMU: %s: no text", line);
}

int qmp_getfd(struct rpc *q, const char *name, int fd, struct error *err)
{
	return rpc_execute(q, "getfd", json_pack("{s:s}", "fdname", name), fd,
		clock_ns() + QMP_COMMAND_MS * NS_PER_MS, NULL, err);
}

bool qmp_has_command(struct rpc *q, const char *name)
{
	json_t *list, *entry;
	bool found = false;
	size_t i;

	if (qmp_run(q, "query-commands", NULL, &list, NULL) < 0)
		return false;
	json_array_foreach(list, i, entry)
	{
		const char *n = json_string_value(json_object_get(entry, "name"));

		found |= n && !strcmp(n, name);
	}
	json_decref(list);
	return found;
}

int qmp_status(struct rpc *q, char *buf, size_t len, struct error *err)
{
	json_t *value;
	int r = qmp_run(q, "query-status", NULL, &value, err);

	if (r < 0)
		return r;
	snprintf(buf, len, "%s", json_string_value(json_object_get(value, "status")));
	json_decref(value);
	return 0;
}

int qmp_cont(struct rpc *q, struct error *err)
{
	uint64_t end = clock_ns() + QMP_COMMAND_MS * NS_PER_MS;
	struct error refused = {0};
	char status[32];

	for (;;) {
		int r = qmp_run(q, "cont", NULL, NULL, &refused);

		if (r == 0 || r != -EREMOTEIO || clock_ns() >= end ||
			qmp_status(q, status, sizeof(status), NULL) < 0 ||
			(strcmp(status, "finish-migrate") != 0 &&
				!strstr(refused.text, "not finalized"))) {
			if (r < 0 && err)
				*err = refused;
			return r;
		}
		(void)poll(NULL, 0, 1);
	}
}
