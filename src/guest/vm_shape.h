/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a machine is made of, as far as QEMU tells it the same way in each version: vCPUs, what
 * -device has made, and how its memory is divided.  A checkpoint carries it, so that a standby can
 * say before a promotion that its own QEMU could not load it. */
#ifndef TANDEM_GUEST_VM_SHAPE_H
#define TANDEM_GUEST_VM_SHAPE_H

#include <stdint.h>

#include "guest/rpc.h"

struct vm_shape {
	uint32_t cpus;    /* 0: not known; then devices is not either */
	uint32_t devices; /* CRC-32C of their names and types (docs/guest.md) */
	uint32_t memory;  /* the same of memory backends and NUMA nodes; 0: not known */
};

/* An object: the name of each device that -device or device_add has made -> its type, "child<TYPE>"
 * without what comes before TYPE. */
int vm_devices(struct rpc *q, json_t **ret_list, struct error *err);
int vm_shape(struct rpc *q, struct vm_shape *ret_shape, struct error *err);
/* 0, or -ENXIO with what differs; here: of this node's QEMU. */
int vm_shape_same(const struct vm_shape *guest, const struct vm_shape *here, struct error *err);

#endif
