/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a started QEMU has that Tandem could not replicate: found before the guest runs, and refused
 * with the reason. */
#ifndef TANDEM_GUEST_VM_CHECK_H
#define TANDEM_GUEST_VM_CHECK_H

#include <stdint.h>

#include "conf/conf.h"
#include "guest/backends.h"
#include "guest/rpc.h"

/* RAM outside the shared file (backends: those of the command line, which are in it), devices that
 * drop pages behind the tracking's back (balloon), writable disks that are none of the group's,
 * devices that QEMU cannot migrate.  ERROR_STATE. */
int vm_check(struct rpc *q, const struct conf_node *node, const struct backends *backends,
	struct error *err);

/* What works, and not as one would expect: told in the log. */
void vm_advise(struct rpc *q, uint64_t epoch_ms);

#endif
