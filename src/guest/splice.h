/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Device states as QEMU's migration stream has them, and as xen-save-devices-state writes them. The
 * latter has neither a configuration section nor RAM; put behind the beginning of a full stream of
 * the same QEMU it makes one that -incoming takes (docs/guest.md).  Pure: no system call. */
#ifndef TANDEM_GUEST_SPLICE_H
#define TANDEM_GUEST_SPLICE_H

#include <stddef.h>

/* Bytes of the saved file before its first section. */
#define SPLICE_SAVED_HEADER 8

/* How much of the full stream comes before the sections that the saved file has, in *ret_length;
 * -EPROTO where either is not what QEMU writes, or they do not fit together. */
int splice_base(
	const void *full, size_t full_len, const void *saved, size_t saved_len, size_t *ret_length);

#endif
