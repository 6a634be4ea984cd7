/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* QMP client against a peer that this test plays, and against a real QEMU. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "guest/qmp.h"
#include "util/clock.h"

static const char greeting[] = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n";

/* What the peer says is written ahead; ids are known: they count from 1. */
static struct rpc *qmp_with(const char *said, int *ret_peer)
{
	static struct rpc q;
	struct error err = {0};
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(write(sv[1], greeting, strlen(greeting)), strlen(greeting));
	assert_int_equal(write(sv[1], "{\"return\": {}, \"id\": 1}\r\n", 25), 25);
	assert_int_equal(write(sv[1], said, strlen(said)), strlen(said));
	assert_int_equal(qmp_begin(&q, sv[0], &err), 0);
	*ret_peer = sv[1];
	return &q;
}

static uint64_t soon(void)
{
	return clock_ns() + 200 * NS_PER_MS;
}

static void answers_are_matched_by_id(void **state)
{
	struct error err = {0};
	json_int_t a, b;
	json_t *value;
	int peer;
	struct rpc *q = qmp_with("{\"event\": \"STOP\"}\n{\"return\": {\"n\": 3}, \"id\": 3}\n"
				 "{\"event\": \"RESUME\"}\n{\"return\": {\"n\": 2}, \"id\": 2}\n",
		&peer);

	assert_int_equal(rpc_send(q, "first", NULL, -1, soon(), &a, &err), 0);
	assert_int_equal(rpc_send(q, "second", json_object(), -1, soon(), &b, &err), 0);
	assert_int_equal(rpc_wait(q, "first", a, soon(), &value, &err), 0);
	assert_int_equal(json_integer_value(json_object_get(value, "n")), 2);
	json_decref(value);
	assert_int_equal(rpc_wait(q, "second", b, soon(), &value, &err), 0);
	assert_int_equal(json_integer_value(json_object_get(value, "n")), 3);
	json_decref(value);
	assert_int_equal(rpc_wait_event(q, "RESUME", soon(), &value, &err), 0);
	json_decref(value);
	value = rpc_event(q);
	assert_string_equal(json_string_value(json_object_get(value, "event")), "STOP");
	json_decref(value);
	assert_null(rpc_event(q));
	rpc_deinit(q);
	close(peer);
}

static void a_refusal_has_qemus_words(void **state)
{
	struct error err = {0};
	int peer;
	struct rpc *q = qmp_with("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such "
				 "thing\"}, \"id\": 2}\n",
		&peer);

	assert_int_equal(qmp_run(q, "device_del", NULL, NULL, &err), -EREMOTEIO);
	assert_string_equal(err.text, "QEMU: device_del: no such thing");
	assert_int_equal(err.kind, ERROR_GENERAL);
	rpc_deinit(q);
	close(peer);
}

static void cont_waits_for_the_end_of_a_migration(void **state)
{
	struct error err = {0};
	int peer;
	struct rpc *q =
		qmp_with("{\"error\": {\"class\": \"GenericError\", \"desc\": \"Migration is not "
			 "finalized yet\"}, \"id\": 2}\n{\"return\": {\"status\": "
			 "\"finish-migrate\"}, \"id\": 3}\n{\"return\": {}, \"id\": 4}\n"
			 "{\"error\": {\"class\": \"GenericError\", \"desc\": \"a disk failed\"}, "
			 "\"id\": 5}\n{\"return\": {\"status\": \"io-error\"}, \"id\": 6}\n",
			&peer);

	assert_int_equal(qmp_cont(q, &err), 0);
	assert_int_equal(err.code, 0);
	assert_int_equal(qmp_cont(q, &err), -EREMOTEIO);
	assert_string_equal(err.text, "QEMU: cont: a disk failed");
	rpc_deinit(q);
	close(peer);
}

static void silence_end_and_garbage_are_told_apart(void **state)
{
	struct error err = {0};
	int peer;
	struct rpc *q = qmp_with("", &peer);

	assert_int_equal(rpc_execute(q, "x", NULL, -1, soon(), NULL, &err), -ETIMEDOUT);
	assert_int_equal(err.kind, ERROR_TIMEOUT);
	assert_int_equal(rpc_pump(q, &err), 0);
	assert_int_equal(write(peer, "[1]\n", 4), 4);
	assert_int_equal(rpc_execute(q, "x", NULL, -1, soon(), NULL, &err), -EPROTO);
	assert_string_equal(err.text, "QEMU: x: it does not speak the protocol: not a JSON object");
	close(peer);
	assert_int_equal(rpc_execute(q, "x", NULL, -1, soon(), NULL, &err), -EPIPE);
	assert_int_equal(err.kind, ERROR_UNREACHABLE);
	assert_int_equal(rpc_pump(q, &err), -EPIPE);
	rpc_deinit(q);
}

static void descriptors_travel_with_lines(void **state)
{
	struct lines a, b;
	char *line, seen[4];
	size_t len;
	int sv[2], fd = memfd_create("t", MFD_CLOEXEC), got;

	assert_int_equal(write(fd, "abc", 4), 4);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(lines_adopt(&a, sv[0]), 0);
	assert_int_equal(lines_adopt(&b, sv[1]), 0);
	assert_int_equal(lines_write_fds(&a, soon(), "{}\n", 3, &fd, 1), 0);
	assert_int_equal(lines_read(&b, soon(), &line, &len), 0);
	assert_int_equal(len, 2);
	got = lines_take_fd(&b);
	assert_true(got >= 0);
	assert_int_equal(pread(got, seen, 4, 0), 4);
	assert_string_equal(seen, "abc");
	assert_int_equal(lines_take_fd(&b), -1);
	close(got);
	close(fd);
	lines_deinit(&a);
	lines_deinit(&b);
}

static void a_real_qemu_answers(void **state)
{
	char chardev[64], status[32], *text;
	struct error err = {0};
	struct rpc q;
	int sv[2], wstatus;
	pid_t pid;

	if (system("command -v qemu-system-x86_64 >/dev/null") != 0)
		skip();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	pid = fork();
	if (pid == 0) {
		close(sv[0]);
		snprintf(chardev, sizeof(chardev), "socket,id=qmp,fd=%d", sv[1]);
		execlp("qemu-system-x86_64", "qemu-system-x86_64", "-accel", "tcg", "-M", "none",
			"-nodefaults", "-display", "none", "-S", "-chardev", chardev, "-mon",
			"chardev=qmp,mode=control", NULL);
		_exit(127);
	}
	close(sv[1]);
	assert_int_equal(qmp_begin(&q, sv[0], &err), 0);
	assert_true(qmp_has_command(&q, "xen-save-devices-state"));
	assert_false(qmp_has_command(&q, "no-such-command"));
	assert_int_equal(qmp_status(&q, status, sizeof(status), &err), 0);
	assert_string_equal(status, "prelaunch");
	assert_int_equal(qmp_human(&q, "info version", &text, &err), 0);
	assert_true(text[0] >= '1' && text[0] <= '9');
	free(text);
	assert_int_equal(qmp_run(&q, "no-such-command", NULL, NULL, &err), -EREMOTEIO);
	assert_int_equal(qmp_run(&q, "quit", NULL, NULL, &err), 0);
	assert_int_equal(waitpid(pid, &wstatus, 0), pid);
	rpc_deinit(&q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_are_matched_by_id),
		cmocka_unit_test(a_refusal_has_qemus_words),
		cmocka_unit_test(cont_waits_for_the_end_of_a_migration),
		cmocka_unit_test(silence_end_and_garbage_are_told_apart),
		cmocka_unit_test(descriptors_travel_with_lines),
		cmocka_unit_test(a_real_qemu_answers),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
