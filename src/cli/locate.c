/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See locate.h. */
#include "cli/locate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
	const char *kind, *name, *env, *build; /* build: directory from the program's own */
} locate_files[] = {
	[LOCATE_PLUGIN] = {"plugin", "nbdkit-tandem-plugin.so", "TANDEM_PLUGIN", "src/replicator"},
	[LOCATE_PRELOAD] = {"preload", "tandem-preload.so", "TANDEM_PRELOAD", "src/guest"},
};

int locate(enum locate_what what, char ret_path[PATH_MAX], struct error *err)
{
	static const char bindir[] = TANDEM_BINDIR "/";
	const char *name = locate_files[what].name, *env = getenv(locate_files[what].env);
	char self[PATH_MAX], path[2 * PATH_MAX];
	size_t len;
	ssize_t n;

	if (env && *env) {
		if (realpath(env, ret_path))
			return 0;
		return error_errno(err, "%s %.300s (from %s)", locate_files[what].kind, env,
			locate_files[what].env);
	}
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return error_errno(err, "cannot read /proc/self/exe");
	self[n] = '\0';
	strrchr(self, '/')[1] = '\0';
	snprintf(path, sizeof(path), "%s%s/%s", self, locate_files[what].build, name);
	if (realpath(path, ret_path))
		return 0;
	len = strlen(self);
	if (len >= strlen(bindir) && !strcmp(self + len - strlen(bindir), bindir)) {
		snprintf(path, sizeof(path), "%.*s%s/%s", (int)(len - strlen(bindir)), self,
			TANDEM_PLUGIN_DIR, name);
		if (realpath(path, ret_path))
			return 0;
	}
	snprintf(path, sizeof(path), "%s/%s", TANDEM_PLUGIN_DIR, name);
	if (realpath(path, ret_path))
		return 0;
	return error_errno(err, "%s %s", locate_files[what].kind, path);
}
