/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Error objects; see error.h for the scheme. */
#include "util/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A text that was cut ends with a whole character of UTF-8: answers are JSON. */
static void error_trim(struct error *err)
{
	size_t n = strlen(err->text), at = n;

	if (n + 1 < sizeof(err->text))
		return;
	while (at > 0 && (err->text[at - 1] & 0xc0) == 0x80)
		at--;
	if (at > 0 && (err->text[at - 1] & 0x80))
		err->text[at - 1] = '\0';
}

static void error_format(struct error *err, const char *fmt, va_list ap)
{
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	error_trim(err);
}

static void error_append_reason(struct error *err, int code)
{
	size_t n = strlen(err->text);

	snprintf(err->text + n, sizeof(err->text) - n, ": %s", strerror(-code));
	error_trim(err);
}

int error_set(struct error *err, enum error_kind kind, int code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		err->code = code;
		err->kind = kind;
		va_start(ap, fmt);
		error_format(err, fmt, ap);
		va_end(ap);
	}
	return code;
}

int error_errno(struct error *err, const char *fmt, ...)
{
	int code = errno ? -errno : -EIO;
	va_list ap;

	if (err) {
		err->code = code;
		err->kind = ERROR_IO;
		va_start(ap, fmt);
		error_format(err, fmt, ap);
		va_end(ap);
		error_append_reason(err, code);
	}
	return code;
}

int error_code(struct error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		err->code = code;
		err->kind = ERROR_IO;
		va_start(ap, fmt);
		error_format(err, fmt, ap);
		va_end(ap);
		error_append_reason(err, code);
	}
	return code;
}

int error_prefix(struct error *err, const char *fmt, ...)
{
	char old[sizeof(err->text)];
	va_list ap;
	size_t n;

	if (!err)
		return -EIO;
	memcpy(old, err->text, sizeof(old));
	va_start(ap, fmt);
	error_format(err, fmt, ap);
	va_end(ap);
	n = strlen(err->text);
	snprintf(err->text + n, sizeof(err->text) - n, ": %.*s", (int)(sizeof(old) - 1), old);
	return err->code;
}
