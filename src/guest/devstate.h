/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state of vCPUs and devices of one instant, in one of two ways behind one interface
 * (docs/guest.md):
 *
 *   migrate  stop; a migration to a Unix socket that leaves the shared RAM out; cont.  Always works
 *   fifo     xen-save-devices-state into a FIFO: QEMU stops the vCPUs, writes, and lets them go on;
 * it is held for as long as the FIFO is full.  Half the pause.  Only for machines whose other RAM
 * does not change
 *
 * From devstate_begin to devstate_finish the vCPUs stand; from devstate_quiet on nothing writes RAM
 * or disks any more.  The blob of a checkpoint (its
 * layout: docs/guest.md) is head, then the device part. */
#ifndef TANDEM_GUEST_DEVSTATE_H
#define TANDEM_GUEST_DEVSTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/rpc.h"
#include "guest/vm_shape.h"

enum devstate_way { DEVSTATE_AUTO, DEVSTATE_MIGRATE, DEVSTATE_FIFO };

#define DEVSTATE_MAX (256u << 20)
#define DEVSTATE_HEAD 4096u /* bytes of the header, before the base */

struct devstate_buf {
	unsigned char *p;
	size_t len, room;
};

struct devstate {
	enum devstate_way way; /* not AUTO */
	char why[160];         /* auto: why it is not fifo, or empty */
	struct rpc *q;
	char path[108];  /* of the socket or FIFO */
	int fd;          /* listener or FIFO */
	json_int_t id;   /* of the command under way */
	size_t seen;     /* events that were kept before it */
	size_t expected; /* fifo: bytes of the smallest capture; 0 = none yet */
	bool running;    /* the vCPUs ran before begin */
	struct devstate_buf
		head; /* header and base: the same for all checkpoints until devstate_base */
	struct devstate_buf dev; /* of the last finish */
	size_t base_len;
	uint64_t ram_size;
	struct vm_shape shape;
	char machine[64];
};

/* Sets QEMU's migration up; chooses the way (auto: fifo where it is possible).  run_dir: where the
 * socket goes. */
int devstate_init(struct devstate *d, enum devstate_way way, struct rpc *q, const char *run_dir,
	uint64_t ram_size, const char *machine, struct error *err);
void devstate_deinit(struct devstate *d);
const char *devstate_name(const struct devstate *d);

/* Makes the head.  Before the first checkpoint of a session, and after each reset of the machine.
 * fifo: the guest pauses for one capture of each kind. */
int devstate_base(struct devstate *d, struct error *err);
/* Marks the head: the checkpoint is the last one of this primary. */
void devstate_handover(struct devstate *d, bool handover);
/* On success the vCPUs stand, as far as QEMU has told; what the devices had begun may not be over
 * yet. */
int devstate_begin(struct devstate *d, struct error *err);
/* On success it is: QEMU has drained and flushed its disks, and the capture is under way.  On
 * failure the vCPUs run again, as far as QEMU still answers. */
int devstate_quiet(struct devstate *d, struct error *err);
/* On success dev is filled and the vCPUs run again (if they ran before).  On failure they run again
 * too, as far as QEMU still answers.  -ESTALE: they ran before this was called: what was captured
 * meanwhile is void. */
int devstate_finish(struct devstate *d, struct error *err);

/* Both ways, for devstate.c. */
struct devstate_ops {
	int (*begin)(struct devstate *d, struct error *err);
	int (*quiet)(struct devstate *d, struct error *err);
	int (*finish)(struct devstate *d, struct error *err);
};
extern const struct devstate_ops devstate_migrate, devstate_fifo;
/* devstate_fifo.c: -EOPNOTSUPP with the reason where it cannot be used for this machine. */
int devstate_fifo_possible(struct rpc *q, struct error *err);
/* Reads to the end of file; capacity grows. */
int devstate_read(struct devstate_buf *b, int fd, uint64_t deadline);
int devstate_room(struct devstate_buf *b, size_t room);

#endif
