/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See state.h. */
#include "guest/state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "guest/splice.h"
#include "util/bytes.h"
#include "util/crc.h"

#define STATE_MAGIC 0x3154415453444e54ull /* "TNDSTAT1" */
#define STATE_VERSION 1

enum {
	STATE_AT_MAGIC = 0,
	STATE_AT_VERSION = 8,
	STATE_AT_SPLICED = 12,
	STATE_AT_BASE = 16,
	STATE_AT_RAM = 24,
	STATE_AT_BASE_CRC = 32,
	STATE_AT_HANDOVER = 36,
	STATE_AT_CPUS = 40,
	STATE_AT_DEVICES = 44,
	STATE_AT_MEMORY = 48,
	STATE_AT_MACHINE = 64, /* 64 bytes */
	STATE_AT_CRC = STATE_HEADER - 4,
};

void state_head_put(const struct state_head *h, const void *base, unsigned char to[STATE_HEADER])
{
	memset(to, 0, STATE_HEADER);
	put_le64(to + STATE_AT_MAGIC, STATE_MAGIC);
	put_le32(to + STATE_AT_VERSION, STATE_VERSION);
	put_le32(to + STATE_AT_SPLICED, h->spliced);
	put_le32(to + STATE_AT_HANDOVER, h->handover);
	put_le64(to + STATE_AT_BASE, h->base_len);
	put_le64(to + STATE_AT_RAM, h->ram_size);
	put_le32(to + STATE_AT_BASE_CRC, crc32c(base, h->base_len));
	put_le32(to + STATE_AT_CPUS, h->shape.cpus);
	put_le32(to + STATE_AT_DEVICES, h->shape.devices);
	put_le32(to + STATE_AT_MEMORY, h->shape.memory);
	memcpy(to + STATE_AT_MACHINE, h->machine, sizeof(h->machine));
	put_le32(to + STATE_AT_CRC, crc32c(to, STATE_AT_CRC));
}

int state_head_get(
	struct state_head *ret_head, const unsigned char *blob, size_t len, struct error *err)
{
	struct state_head h = {0};

	if (len < STATE_HEADER || get_le64(blob + STATE_AT_MAGIC) != STATE_MAGIC)
		return error_set(err, ERROR_GENERAL, -EPROTO,
			"device state: this is not a state of Tandem's");
	if (get_le32(blob + STATE_AT_VERSION) != STATE_VERSION)
		return error_set(err, ERROR_GENERAL, -EPROTO,
			"device state: it is of version %u, this program knows %d",
			get_le32(blob + STATE_AT_VERSION), STATE_VERSION);
	h.spliced = get_le32(blob + STATE_AT_SPLICED) != 0;
	h.handover = get_le32(blob + STATE_AT_HANDOVER) != 0;
	h.base_len = get_le64(blob + STATE_AT_BASE);
	h.ram_size = get_le64(blob + STATE_AT_RAM);
	h.shape.cpus = get_le32(blob + STATE_AT_CPUS);
	h.shape.devices = get_le32(blob + STATE_AT_DEVICES);
	h.shape.memory = get_le32(blob + STATE_AT_MEMORY);
	memcpy(h.machine, blob + STATE_AT_MACHINE, sizeof(h.machine));
	if (get_le32(blob + STATE_AT_CRC) != crc32c(blob, STATE_AT_CRC) ||
		h.base_len > len - STATE_HEADER || h.machine[sizeof(h.machine) - 1] ||
		len - STATE_HEADER - h.base_len < (h.spliced ? SPLICE_SAVED_HEADER : 0) ||
		get_le32(blob + STATE_AT_BASE_CRC) != crc32c(blob + STATE_HEADER, h.base_len))
		return error_set(err, ERROR_GENERAL, -EPROTO, "device state: it is damaged");
	*ret_head = h;
	return 0;
}
