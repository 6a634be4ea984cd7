/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the files are that Tandem loads into other programs. */
#ifndef TANDEM_CLI_LOCATE_H
#define TANDEM_CLI_LOCATE_H

#include <limits.h>

#include "util/error.h"

enum locate_what {
	LOCATE_PLUGIN, /* of nbdkit; TANDEM_PLUGIN names another one */
	LOCATE_PRELOAD /* of QEMU; TANDEM_PRELOAD */
};

/* The one that the environment names, or the one of the build that this program stands in, or the
 * one that was installed with it, also below another root than "/" (DESTDIR).  An absolute path:
 * nbdkit takes a bare name for a plugin of its own directory. */
int locate(enum locate_what what, char ret_path[PATH_MAX], struct error *err);

#endif
