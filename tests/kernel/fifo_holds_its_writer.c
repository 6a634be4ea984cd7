/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The capture through a FIFO rests on: a writer blocks once a FIFO of one page is full, so that
 * whoever reads decides when it goes on; a reader that is opened anew sees no hang-up before the
 * next writer has come, and end of file after that one has closed. */
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "kernel_test.h"

int main(void)
{
	char path[] = "/tmp/tandem-fifo.XXXXXX", buf[65536];
	struct pollfd p = {.events = POLLIN};
	int status;

	CHECK(mkdtemp(path));
	CHECK(chdir(path) == 0);
	CHECK(mkfifo("f", 0600) == 0);
	for (int round = 0; round < 3; round++) {
		size_t got = 0;
		ssize_t n;
		pid_t child;

		p.fd = open("f", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		CHECK(p.fd >= 0);
		CHECK(fcntl(p.fd, F_SETPIPE_SZ, 4096) == 4096);
		CHECK(poll(&p, 1, 0) == 0); /* no writer yet, also after one that has gone */
		child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			int w = open("f", O_WRONLY | O_CLOEXEC);

			memset(buf, 5, sizeof(buf));
			_exit(w >= 0 && write(w, buf, 20000) == 20000 ? 0 : 1);
		}
		CHECK(poll(&p, 1, 10000) == 1 && (p.revents & POLLIN));
		usleep(20000); /* time enough to end, if it could */
		CHECK(waitpid(child, &status, WNOHANG) == 0);
		while (got < 20000) {
			CHECK(poll(&p, 1, 10000) == 1);
			n = read(p.fd, buf, sizeof(buf));
			CHECK(n > 0);
			got += (size_t)n;
		}
		CHECK(waitpid(child, &status, 0) == child && status == 0);
		CHECK(poll(&p, 1, 1000) == 1 && (p.revents & POLLHUP));
		CHECK(read(p.fd, buf, sizeof(buf)) == 0);
		close(p.fd);
	}
	CHECK(unlink("f") == 0 && chdir("/") == 0 && rmdir(path) == 0);
	return 0;
}
