/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Command lines; see words.h. */
#include "guest/words.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int words_append(struct words *w, char *word)
{
	char **v = word ? realloc(w->v, (w->n + 2) * sizeof(*v)) : NULL;

	if (!v) {
		free(word);
		return -ENOMEM;
	}
	w->v = v;
	v[w->n++] = word;
	v[w->n] = NULL;
	return 0;
}

/* Copies one word from *text to to; -EINVAL where a quote is not closed. */
static int words_one(const char **text, char *to)
{
	const char *p = *text;
	char quote = 0;

	for (; *p && (quote || !strchr(" \t\r\n", *p)); p++) {
		if (quote && *p == quote)
			quote = 0;
		else if (!quote && (*p == '\'' || *p == '"'))
			quote = *p;
		else if (*p == '\\' && quote != '\'' && p[1])
			*to++ = *++p;
		else
			*to++ = *p;
	}
	*to = '\0';
	*text = p;
	return quote ? -EINVAL : 0;
}

/* The first word that names a QEMU; 0: none does, and the first one is taken for it. */
static size_t words_program(const struct words *w)
{
	for (size_t i = 0; i < w->n; i++) {
		const char *slash = strrchr(w->v[i], '/');

		if (strstr(slash ? slash + 1 : w->v[i], "qemu"))
			return i;
	}
	return 0;
}

int words_split(struct words *w, const char *text, struct error *err)
{
	size_t room = strlen(text) + 1;
	int r = 0;

	*w = (struct words){0};
	while (r == 0 && *(text += strspn(text, " \t\r\n"))) {
		char *word = malloc(room);

		r = word ? words_one(&text, word) : -ENOMEM;
		if (r < 0) {
			free(word);
			break;
		}
		r = words_append(w, word);
	}
	if (r == 0 && w->n > 0) {
		w->program = words_program(w);
		return 0;
	}
	words_deinit(w);
	if (r == -ENOMEM)
		return error_set(err, ERROR_GENERAL, r, "out of memory");
	return error_set(err, ERROR_CONFIG, -EINVAL, "%s",
		r < 0 ? "a quote is not closed" : "there is no command");
}

int words_add(struct words *w, const char *fmt, ...)
{
	char *word = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&word, fmt, ap);
	va_end(ap);
	return words_append(w, n < 0 ? NULL : word);
}

void words_deinit(struct words *w)
{
	for (size_t i = 0; i < w->n; i++)
		free(w->v[i]);
	free(w->v);
	*w = (struct words){0};
}

/* Without its one or two dashes, or NULL. */
static const char *words_option_name(const char *word)
{
	if (*word != '-')
		return NULL;
	return word[1] == '-' ? word + 2 : word + 1;
}

const char *words_option(const struct words *w, const char *name)
{
	const char *found = NULL;

	for (size_t i = w->program + 1; i + 1 < w->n; i++) {
		const char *o = words_option_name(w->v[i]);

		if (o && !strcmp(o, name))
			found = w->v[i + 1];
	}
	return found;
}

size_t words_next(const struct words *w, const char *name, size_t i)
{
	for (i = i ? i : w->program + 1; i + 1 < w->n; i++) {
		const char *o = words_option_name(w->v[i]);

		if (o && !strcmp(o, name))
			return i + 1;
	}
	return 0;
}

bool words_has(const struct words *w, const char *name)
{
	for (size_t i = w->program + 1; i < w->n; i++) {
		const char *o = words_option_name(w->v[i]);

		if (o && !strcmp(o, name))
			return true;
	}
	return false;
}

bool words_refer(const struct words *w, const char *id)
{
	size_t n = strlen(id);

	for (size_t i = w->program + 1; i < w->n; i++) {
		for (const char *p = w->v[i]; (p = strchr(p, '=')); p++)
			if (!strncmp(p + 1, id, n) && (p[1 + n] == ',' || p[1 + n] == '\0'))
				return true;
	}
	return false;
}

bool words_part(const char *value, const char *key, bool implied, char *buf, size_t len)
{
	size_t k = strlen(key);
	bool found = false;

	for (const char *p = value; *p;) {
		size_t n = strcspn(p, ",");
		const char *from = NULL;

		if (n > k && !strncmp(p, key, k) && p[k] == '=')
			from = p + k + 1;
		else if (implied && p == value && !memchr(p, '=', n))
			from = p;
		if (from) {
			snprintf(buf, len, "%.*s", (int)(p + n - from), from);
			found = true;
		}
		p += n;
		p += *p == ',';
	}
	return found;
}
