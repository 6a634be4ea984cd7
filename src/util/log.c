/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Log lines; one write(2) per line so that lines of several threads never mix. */
#include "util/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char log_name[64] = "";
static enum log_level log_max = LOG_LEVEL_INFO;
static int log_priorities;

void log_init(const char *name, enum log_level max)
{
	snprintf(log_name, sizeof(log_name), "%s", name);
	log_max = max;
	log_priorities = getenv("JOURNAL_STREAM") != NULL;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	size_t n = 0;
	va_list ap;

	if (level > log_max)
		return;
	if (log_priorities)
		n += (size_t)snprintf(line, sizeof(line), "<%d>", (int)level);
	n += (size_t)snprintf(line + n, sizeof(line) - n, "tandem%s%s%s: ", *log_name ? "[" : "",
		log_name, *log_name ? "]" : "");
	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	n = strlen(line);
	line[n++] = '\n';
	(void)!write(STDERR_FILENO, line, n);
}
