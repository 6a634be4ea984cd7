/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Wakes a thread that polls: an eventfd. */
#ifndef TANDEM_REPLICATOR_WAKE_H
#define TANDEM_REPLICATOR_WAKE_H

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct wake {
	int fd;
};

static inline int wake_init(struct wake *w)
{
	w->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return w->fd < 0 ? -errno : 0;
}

static inline void wake_deinit(struct wake *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

static inline void wake_up(struct wake *w)
{
	uint64_t one = 1;

	if (write(w->fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: it is awake enough */
}

static inline void wake_clear(struct wake *w)
{
	uint64_t n;

	if (read(w->fd, &n, sizeof(n)) < 0)
		return; /* EAGAIN: nobody called */
}

#endif
