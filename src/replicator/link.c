/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Records over a transport. */
#include "replicator/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util/crc.h"

void link_init(struct link *l, struct transport *t, uint64_t now)
{
	memset(l, 0, sizeof(*l));
	l->transport = t;
	l->heard = l->said = now;
	l->trace_in = l->trace_out = -1;
}

void link_close(struct link *l)
{
	if (!l->transport)
		return;
	if (!l->parting)
		transport_shutdown(l->transport);
	l->transport = transport_free(l->transport);
	if (l->trace_in >= 0)
		close(l->trace_in);
	if (l->trace_out >= 0)
		close(l->trace_out);
	l->trace_in = l->trace_out = -1;
}

int link_read(struct link *l, uint64_t now)
{
	ssize_t n;

	if (l->in_len == sizeof(l->in))
		return -EAGAIN;
	n = transport_read(l->transport, l->in + l->in_len, sizeof(l->in) - l->in_len);
	if (n < 0)
		return (int)n;
	if (n == 0)
		return -ECONNRESET;
	link_trace(l->trace_in, l->in + l->in_len, (size_t)n);
	l->in_len += (size_t)n;
	l->heard = now;
	return 0;
}

bool link_take(struct link *l, enum record_place place, struct record *ret_rec,
	const uint8_t **ret_payload, const char **ret_why)
{
	static _Thread_local uint8_t current[LINK_IN_SIZE];
	enum record_verdict v;
	size_t size;

	*ret_why = NULL;
	for (;;) {
		v = record_check(l->in, l->in_len, place, true, l->in_seq, ret_rec, &size, ret_why);
		if (v == RECORD_SHORT) {
			*ret_why = size > sizeof(l->in) ? "record too long here" : NULL;
			return false;
		}
		if (v == RECORD_BAD)
			return false;
		memcpy(current, l->in, size);
		l->in_len -= size;
		memmove(l->in, l->in + size, l->in_len);
		l->in_seq++;
		if (v == RECORD_OK) {
			*ret_payload = current + RECORD_HEADER_SIZE;
			return true;
		}
	}
}

static uint8_t *link_room(struct link *l, size_t size)
{
	if (link_out_empty(l))
		l->out_at = l->out_len = 0;
	return l->out_len + size <= sizeof(l->out) ? l->out + l->out_len : NULL;
}

bool link_put(struct link *l, const struct record *rec, const char *text)
{
	struct record r = *rec;

	r.payload = text ? (uint32_t)strnlen(text, RECORD_MAX_TEXT) : 0;
	return link_put_data(l, &r, text);
}

bool link_put_data(struct link *l, const struct record *rec, const void *data)
{
	struct record r = *rec;
	uint8_t *at;

	at = link_room(l, record_size(r.payload));
	if (!at)
		return false;
	r.seq = l->out_seq++;
	memset(at, 0, record_size(r.payload));
	if (r.payload) {
		memcpy(at + RECORD_HEADER_SIZE, data, r.payload);
		r.payload_crc = crc32c(data, r.payload);
	}
	record_put_header(at, &r);
	l->out_len += record_size(r.payload);
	return true;
}

bool link_put_hello(struct link *l, const struct hello *h)
{
	uint8_t *at = link_room(l, RECORD_HEADER_SIZE + HELLO_MAX);

	if (!at || l->out_seq != 0)
		return false;
	l->out_len += hello_encode(at, h);
	l->out_seq = 1;
	return true;
}

int link_write(struct link *l, uint64_t now)
{
	while (!link_out_empty(l)) {
		struct iovec iov = {l->out + l->out_at, l->out_len - l->out_at};
		ssize_t n = transport_writev(l->transport, &iov, 1);

		if (n < 0)
			return (int)n;
		link_trace(l->trace_out, iov.iov_base, (size_t)n);
		l->out_at += (size_t)n;
		l->said = now;
	}
	return 0;
}

void link_goodbye(struct link *l, enum record_goodbye reason, uint64_t generation, const char *text)
{
	struct record rec = {.type = RECORD_GOODBYE, .offset = reason, .length = generation};

	if (l->transport && link_put(l, &rec, text))
		(void)link_write(l, l->said); /* the connection ends anyway */
}

int link_part(struct link *l)
{
	ssize_t n = 0;

	if (!l->parting) {
		n = link_write(l, l->said);
		if (n < 0 && n != -EAGAIN)
			return (int)n;
		l->parting = n == 0;
		if (l->parting)
			transport_shutdown(l->transport);
	}
	n = transport_discard(l->transport, l->in, sizeof(l->in));
	return n == 1 && !l->parting ? -ECONNRESET : (int)n;
}

void link_trace_start(struct link *l, const char *node)
{
	static _Atomic unsigned number;
	const char *dir = getenv("TANDEM_RECORD");
	unsigned i = atomic_fetch_add(&number, 1);
	char path[512];

	if (!dir)
		return;
	snprintf(path, sizeof(path), "%s/%s-%d-%u.in", dir, node, (int)getpid(), i);
	l->trace_in = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	snprintf(path, sizeof(path), "%s/%s-%d-%u.out", dir, node, (int)getpid(), i);
	l->trace_out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

void link_trace(int fd, const void *buf, size_t len)
{
	if (fd >= 0 && write(fd, buf, len) < 0)
		return; /* a recording is an aid of tests: incomplete then, and the decoder says so
			 */
}
