/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C (Castagnoli, reflected polynomial 0x82F63B78, initial value and final xor 0xFFFFFFFF:
 * RFC 3720 appendix B.4; crc32c("123456789") = 0xE3069283), computed by isa-l. */
#ifndef TANDEM_UTIL_CRC_H
#define TANDEM_UTIL_CRC_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(const void *buf, size_t len);
/* The checksum of what crc is the checksum of (0: nothing), followed by buf. */
uint32_t crc32c_extend(uint32_t crc, const void *buf, size_t len);
/* memcpy and the checksum of what was copied, in one pass over the memory. */
uint32_t crc32c_copy(void *dst, const void *src, size_t len);

#endif
