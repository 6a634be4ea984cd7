/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LD_PRELOAD library for nodes with a sanitizer: strerror without translation.
 *
 * With libasan or libtsan preloaded on Debian 12, the first strerror() of a process unlocks glibc's
 * lock of the locale once more than it was locked, and the destructor of libp11-kit waits for it at
 * exit, for ever.  Five lines that call strerror() and link to libgnutls show it; nothing of Tandem
 * is needed. */
#include <string.h>

__attribute__((visibility("default"))) char *strerror(int code)
{
	const char *text = strerrordesc_np(code);

	return (char *)(text ? text : "unknown error");
}
