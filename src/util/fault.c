/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fault points: what TANDEM_FAULT says, and the end of a side; see fault.h. */
#include "util/fault.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "util/log.h"

#define FAULT_TEXT 512
#define FAULT_MAX_COUNT 1000000000ul
#define FAULT_MAX_MS 600000ul
#define FAULT_SIDE "TANDEM_FAULT_SIDE" /* process id of the agent, for its children */

struct fault_set {
	unsigned long count[FAULT_COUNT]; /* 0: not this one */
	unsigned long ms[FAULT_COUNT];
};

bool fault_armed;

static const char *const fault_names[FAULT_COUNT] = {
#define FAULT_NAME(point, name) [FAULT_##point] = name,
	FAULT_POINTS(FAULT_NAME)
#undef FAULT_NAME
};
static char fault_file[FAULT_TEXT]; /* empty: fault_list counts */
static struct fault_set fault_list;
static atomic_ulong fault_passed[FAULT_COUNT];
static pid_t fault_side;

/* ":NUMBER" at *at, if there; false: no such number. */
static bool fault_number(char **at, unsigned long max, unsigned long *ret_value)
{
	char *end;

	if (**at != ':')
		return true;
	errno = 0;
	*ret_value = strtoul(*at + 1, &end, 10);
	if (errno || end == *at + 1 || (*at)[1] == '-' || *ret_value > max)
		return false;
	*at = end;
	return true;
}

/* text is taken apart. */
static int fault_parse(char *text, struct fault_set *ret_set, struct error *err)
{
	struct fault_set set = {.count = {0}};
	char *save = NULL;

	for (char *w = strtok_r(text, ", \n", &save); w; w = strtok_r(NULL, ", \n", &save)) {
		unsigned long count = 1, ms = 0;
		size_t len = strcspn(w, ":"), i = 0;
		char *at = w + len;

		while (i < FAULT_COUNT &&
			(strlen(fault_names[i]) != len || strncmp(w, fault_names[i], len) != 0))
			i++;
		if (i == FAULT_COUNT)
			return error_set(err, ERROR_USAGE, -EINVAL,
				"TANDEM_FAULT: there is no fault point \"%.*s\"", (int)len, w);
		if (!fault_number(&at, FAULT_MAX_COUNT, &count) ||
			!fault_number(&at, FAULT_MAX_MS, &ms) || *at || !count)
			return error_set(err, ERROR_USAGE, -EINVAL,
				"TANDEM_FAULT: \"%s\" is not NAME[:COUNT[:MS]]", w);
		set.count[i] = count;
		set.ms[i] = ms;
	}
	*ret_set = set;
	return 0;
}

int fault_init(struct error *err)
{
	const char *text = getenv("TANDEM_FAULT"), *side = getenv(FAULT_SIDE);
	char buf[FAULT_TEXT];
	int r = 0;

	if (!text || !*text)
		return 0;
	if (strlen(text) >= sizeof(buf))
		return error_set(err, ERROR_USAGE, -EINVAL, "TANDEM_FAULT: it is too long");
	if (*text == '@') {
		strcpy(fault_file, text + 1);
	} else {
		strcpy(buf, text);
		r = fault_parse(buf, &fault_list, err);
	}
	if (r < 0)
		return r;
	if (side) {
		fault_side = (pid_t)atol(side);
	} else {
		fault_side = getpid();
		snprintf(buf, sizeof(buf), "%ld", (long)fault_side);
		setenv(FAULT_SIDE, buf, 1);
	}
	fault_armed = true;
	return 0;
}

/* What the file says now; nothing where there is none.  A name in it that is none would be a test
 * that tests nothing. */
static bool fault_read(struct fault_set *ret_set)
{
	int fd = open(fault_file, O_RDONLY | O_CLOEXEC);
	struct error err = {0};
	char buf[FAULT_TEXT];
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return false;
	buf[n] = '\0';
	if (fault_parse(buf, ret_set, &err) == 0)
		return true;
	log_error("%s: %s", fault_file, err.text);
	abort();
}

/* The children of one of the side's threads, but for this process. */
static void fault_kill_children(const char *thread)
{
	char path[320], buf[1024], *save = NULL;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%ld/task/%s/children", (long)fault_side, thread);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return;
	buf[n] = '\0';
	for (char *w = strtok_r(buf, " \n", &save); w; w = strtok_r(NULL, " \n", &save))
		if (atol(w) > 1 && atol(w) != (long)getpid())
			kill((pid_t)atol(w), SIGKILL);
}

/* The children first: they end with the agent anyway, but not in the same instant. */
static void fault_kill(void)
{
	char path[64];
	struct dirent *e;
	DIR *tasks;

	if (fault_side != getpid())
		kill(fault_side, SIGSTOP); /* it shall not start them again */
	snprintf(path, sizeof(path), "/proc/%ld/task", (long)fault_side);
	tasks = opendir(path);
	while (tasks && (e = readdir(tasks)))
		if (e->d_name[0] != '.')
			fault_kill_children(e->d_name);
	kill(fault_side, SIGKILL);
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

void fault_pass(enum fault point)
{
	struct fault_set now;
	const struct fault_set *set = &fault_list;

	if (fault_file[0]) {
		if (!fault_read(&now))
			return;
		set = &now;
	}
	if (!set->count[point] ||
		atomic_fetch_add(&fault_passed[point], 1) + 1 != set->count[point])
		return;
	if (set->ms[point]) {
		struct timespec ts = {
			(time_t)(set->ms[point] / 1000), (long)(set->ms[point] % 1000) * 1000000};

		nanosleep(&ts, NULL);
	}
	log_error("fault point %s: this side is killed", fault_names[point]);
	fault_kill();
}
