/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The layout of a checkpoint's state blob (docs/guest.md): a header of 4096 bytes, the base (what
 * never changes of a spliced stream; may be empty), and behind them the device part of each
 * checkpoint.  Base and device part together are what QEMU's -incoming reads.  Pure. */
#ifndef TANDEM_GUEST_STATE_H
#define TANDEM_GUEST_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/vm_shape.h"
#include "util/error.h"

#define STATE_HEADER 4096u

struct state_head {
	bool spliced;  /* the device part is a saved file: its first 8 bytes are not part of the
			  stream */
	bool handover; /* the primary has stopped for good: the secondary is to go on (switchover)
			*/
	uint64_t base_len;
	uint64_t ram_size;
	struct vm_shape shape;
	char machine[64]; /* versioned name of the machine type */
};

/* Fills the header at to; base: base_len bytes. */
void state_head_put(const struct state_head *h, const void *base, unsigned char to[STATE_HEADER]);
/* Checks a whole blob; ERROR_GENERAL with the reason where it is none. */
int state_head_get(
	struct state_head *ret_head, const unsigned char *blob, size_t len, struct error *err);

#endif
