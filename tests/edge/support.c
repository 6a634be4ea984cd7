/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Temporary directories and programs beside a test; see support.h. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

void support_dir_make(char *ret_dir, size_t size)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(ret_dir, size, "%s/tandem-edge.XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(ret_dir))
		fail_msg("cannot make %s: %s", ret_dir, strerror(errno));
}

static int support_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

void support_dir_remove(const char *dir)
{
	(void)nftw(dir, support_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

bool support_have(const char *program)
{
	static const char *const dirs[] = {
		"/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"};
	char path[SUPPORT_PATH];

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dirs[i], program);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

/* With output to DIR/tool.log; listen_fd >= 0 becomes the program's descriptor 3. */
static pid_t support_spawn(const char *dir, const char *const *argv, int listen_fd)
{
	posix_spawn_file_actions_t actions;
	char log[SUPPORT_PATH];
	pid_t pid;
	int r;

	snprintf(log, sizeof(log), "%s/tool.log", dir);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	posix_spawn_file_actions_adddup2(&actions, 1, 2);
	if (listen_fd >= 0)
		posix_spawn_file_actions_adddup2(&actions, listen_fd, 3);
	r = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (r != 0)
		fail_msg("cannot start %s: %s", argv[0], strerror(r));
	return pid;
}

int support_run(const char *dir, const char *const *argv)
{
	pid_t pid = support_spawn(dir, argv, -1);
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void support_must_run(const char *dir, const char *const *argv)
{
	int status = support_run(dir, argv);
	char line[1024];
	FILE *fp;

	if (status == 0)
		return;
	snprintf(line, sizeof(line), "%s/tool.log", dir);
	fp = fopen(line, "re");
	while (fp && fgets(line, sizeof(line), fp))
		print_message("%s: %s", argv[0], line);
	if (fp)
		fclose(fp);
	fail_msg("%s failed with %d", argv[0], status);
}

void support_skip(const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	print_message("SKIPPED: %s\n", text);
	skip();
	abort(); /* skip does not return, which cmocka does not say */
}

static int support_listen(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_true(strlen(path) < sizeof(addr.sun_path));
	strcpy(addr.sun_path, path);
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 16) < 0)
		fail_msg("cannot listen on %s: %s", path, strerror(errno));
	/* Not 3 itself: a dup2 onto the same number would leave close-on-exec set. */
	if (fd == 3) {
		fd = fcntl(fd, F_DUPFD_CLOEXEC, 10);
		close(3);
	}
	return fd;
}

pid_t support_server_start(const char *dir, const char *path, const char *const *argv)
{
	const char *full[64] = {"sh", "-c",
		"LISTEN_PID=$$ LISTEN_FDS=1 exec setpriv --pdeathsig KILL -- \"$@\"", "sh"};
	size_t n = 4;
	int fd = support_listen(path);
	pid_t pid;

	for (; *argv && n < 63; argv++)
		full[n++] = *argv;
	full[n] = NULL;
	pid = support_spawn(dir, full, fd);
	close(fd);
	return pid;
}

void support_server_kill(pid_t pid, const char *path)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	unlink(path);
}

void support_fill(void *buf, size_t len, uint64_t seed)
{
	unsigned char *p = buf;
	uint64_t s = seed * 0x9e3779b97f4a7c15ull + 1;

	for (size_t i = 0; i < len; i++) {
		s = s * 6364136223846793005ull + 1442695040888963407ull;
		p[i] = (unsigned char)(s >> 56);
	}
}

void support_write_file(const char *path, const void *data, size_t len)
{
	FILE *fp = fopen(path, "we");

	if (!fp || fwrite(data, 1, len, fp) != len || fclose(fp) != 0)
		fail_msg("cannot write %s", path);
}
