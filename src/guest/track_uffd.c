/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty pages by asynchronous userfaultfd write-protection and PAGEMAP_SCAN.  The userfaultfd was
 * opened in QEMU by tandem-preload.so and is taken over here.  Cost of a scan: 0.6-1.5 ms per GiB
 * of RAM, and for the guest 2-3 us per page at its first write after it.
 *
 * The stamp is the number of page faults of all threads of QEMU (/proc/PID/stat): a first write to
 * a protected page is one, of the thread that writes, in user mode and in the kernel (read(2) into
 * guest RAM).  Writes of other processes to QEMU's memory are not counted (a debugger's). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest/track.h"

#define UFFD_REGIONS 4096 /* of one ioctl */

struct track_uffd_own {
	int uffd, pagemap, stat;
	struct kernel_region regions[CREW_MOST][UFFD_REGIONS];
};

/* The descriptor of QEMU's that is a userfaultfd; QEMU opens none of its own at its start. */
static int track_uffd_take(pid_t pid)
{
	char path[64], link[64];
	struct dirent *e;
	int pidfd, found = -ENOENT;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	d = opendir(path);
	if (!d)
		return -errno;
	while (found == -ENOENT && (e = readdir(d))) {
		ssize_t n = readlinkat(dirfd(d), e->d_name, link, sizeof(link) - 1);

		if (n < 0)
			continue;
		link[n] = '\0';
		if (!strcmp(link, "anon_inode:[userfaultfd]"))
			found = atoi(e->d_name);
	}
	closedir(d);
	if (found < 0)
		return found;
	pidfd = kernel_pidfd_open(pid);
	if (pidfd < 0)
		return pidfd;
	found = kernel_pidfd_getfd(pidfd, found);
	close(pidfd);
	return found;
}

static void track_uffd_close(struct track *t)
{
	struct track_uffd_own *o = t->own;

	if (o->uffd >= 0)
		close(o->uffd);
	if (o->pagemap >= 0)
		close(o->pagemap);
	if (o->stat >= 0)
		close(o->stat);
	free(o);
}

static int track_uffd_open(struct track *t, struct error *err)
{
	struct track_uffd_own *o = malloc(sizeof(*o));
	char path[64];
	int r;

	if (!o)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	t->own = o;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)t->at.pid);
	o->uffd = track_uffd_take(t->at.pid);
	o->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)t->at.pid);
	o->stat = open(path, O_RDONLY | O_CLOEXEC); /* -1: no stamps */
	if (o->uffd < 0)
		r = error_code(err, o->uffd,
			"dirty tracking: cannot take QEMU's userfaultfd over (was it started with "
			"tandem-preload.so?)");
	else if (o->pagemap < 0)
		r = error_errno(
			err, "dirty tracking: cannot open /proc/%d/pagemap", (int)t->at.pid);
	else
		r = kernel_uffd_enable(o->uffd);
	if (r < 0 && o->uffd >= 0 && o->pagemap >= 0)
		(void)error_code(err, r, "dirty tracking: UFFDIO_API in QEMU");
	if (r < 0)
		track_uffd_close(t);
	return r;
}

static int track_uffd_arm(struct track *t, struct error *err)
{
	struct track_uffd_own *o = t->own;

	for (unsigned i = 0; i < t->at.npieces; i++) {
		int r = kernel_uffd_protect(o->uffd, t->at.pieces[i].addr, t->at.pieces[i].length);

		if (r < 0)
			return error_code(err, r, "dirty tracking: cannot protect guest RAM");
	}
	return 0;
}

/* The kernel may say that it stopped before the end although it went through all (when it had more
 * regions than fit its own buffer of 512): what follows from there on is asked again, and pages
 * that were written in between come out of order. */
static int track_uffd_scan(struct track *t, unsigned who, const struct track_chunk *c)
{
	struct track_uffd_own *o = t->own;
	struct kernel_region *regions = o->regions[who];
	uint64_t at = c->addr, end = c->addr + c->length;

	while (at < end) {
		int n = kernel_scan_written(o->pagemap, at, end, regions, UFFD_REGIONS, &at);

		if (n < 0)
			return n;
		for (int i = 0; i < n; i++) {
			int r = track_found(&t->parts[who], regions[i].start - c->addr + c->offset,
				regions[i].end - regions[i].start);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int track_uffd_stamp(struct track *t, uint64_t *ret_count, int *ret_processor)
{
	const struct track_uffd_own *o = t->own;

	return o->stat < 0 ? -EOPNOTSUPP : kernel_faults(o->stat, ret_count, ret_processor);
}

const struct track_ops track_uffd = {
	.name = "uffd",
	.live = true,
	.open = track_uffd_open,
	.arm = track_uffd_arm,
	.scan = track_uffd_scan,
	.stamp = track_uffd_stamp,
	.close = track_uffd_close,
};
