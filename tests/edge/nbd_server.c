/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One live NBD server; see nbd_server.h. */
#include "nbd_server.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

void nbd_server_init(struct nbd_server *s)
{
	memset(s, 0, sizeof(*s));
	support_dir_make(s->dir, sizeof(s->dir));
	snprintf(s->path, sizeof(s->path), "%.200s/nbd.sock", s->dir);
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", s->path);
}

void nbd_server_deinit(struct nbd_server *s)
{
	nbd_server_stop(s);
	support_dir_remove(s->dir);
}

void nbd_server_start(struct nbd_server *s, const char *const *argv)
{
	if (!support_have(argv[0]))
		support_skip("%s is not installed", argv[0]);
	assert_int_equal(s->pid, 0);
	s->pid = support_server_start(s->dir, s->path, argv);
}

void nbd_server_stop(struct nbd_server *s)
{
	if (s->pid)
		support_server_kill(s->pid, s->path);
	s->pid = 0;
}

void nbd_server_qcow2(struct nbd_server *s, char *ret_path, size_t size, const char *bytes)
{
	if (!support_have("qemu-img"))
		support_skip("qemu-img is not installed");
	snprintf(ret_path, size, "%.200s/disk.qcow2", s->dir);
	unlink(ret_path);
	support_must_run(s->dir, (const char *const[]){"qemu-img", "create", "-q", "-f", "qcow2",
					 ret_path, bytes, NULL});
}

struct backing *nbd_server_open(struct nbd_server *s, bool writable)
{
	struct error err = {0};
	struct backing *b = NULL;

	if (backing_open(s->uri, writable, &b, &err) < 0)
		fail_msg("%s", err.text);
	return b;
}
