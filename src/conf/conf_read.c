/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between the file and inih.  inih splits lines into keys and values; what it does not tell its
 * caller is added here: line numbers, section headers (also of empty sections, and uncut: inih
 * keeps 49 bytes of a name), values of lines too long for it (Debian's takes 198 bytes), NUL bytes.
 *
 * For the headers, a line CONF_READ_MARK = HEADER is put into inih's input after each of them, so
 * that its handler is called at the beginning of a section.  inih's line numbers therefore run
 * ahead of the file's by the number of marks before them.  Of a long line inih gets CONF_READ_LONG
 * in place of the value, which its handler puts back. */
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf_internal.h"

#define CONF_READ_MARK "\001"
#define CONF_READ_LONG "\001\001"
#define CONF_READ_MAX 65536 /* bytes of a line */

struct conf_read {
	struct conf_parse *p;
	FILE *file;
	char *line; /* getline's */
	size_t size;
	int fed;                      /* lines given to inih */
	int marks[CONF_MAX_SECTIONS]; /* their numbers in inih's count */
	unsigned nmarks;
	char header[CONF_MAX_NAME + 64]; /* to be marked next; "" = none */
	bool after_mark;
	char *value; /* of a long line, in line */
};

static bool conf_read_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* text begins with '['.  Keeps what is in the brackets for the mark that follows. */
static void conf_read_header(struct conf_read *r, const char *text)
{
	const char *end = strchr(text, ']');
	const char *rest;
	size_t n;

	if (!end)
		return; /* inih reports it */
	n = (size_t)(end - text - 1);
	rest = end + 1 + strspn(end + 1, " \t\r\n");
	if (*rest && *rest != ';' && *rest != '#') {
		(void)conf_parse_error(r->p, r->p->line,
			"section [%.*s]: text follows the bracket; expected it on the next line",
			(int)(n > 64 ? 64 : n), text + 1);
	} else if (n >= sizeof(r->header) || r->nmarks == CONF_MAX_SECTIONS) {
		(void)conf_parse_error(r->p, r->p->line, "section [%.32s...]: %s", text + 1,
			n >= sizeof(r->header) ? "its name is too long" : "too many sections");
	} else {
		memcpy(r->header, text + 1, n);
		r->header[n] = '\0';
	}
}

/* A line that is too long for inih: what it gets instead; the value is kept.  text: in r->line. */
static char *conf_read_long(struct conf_read *r, char *text, char *buf, size_t num)
{
	char *value = r->p->continued ? text + strspn(text, " \t") : strpbrk(text, "=:");
	size_t key = 0, n;

	if (value && !r->p->continued) {
		value++;
		key = (size_t)(value - text);
		value += strspn(value, " \t");
	}
	if (!value || *text == '[' || key + sizeof(" " CONF_READ_LONG "\n") > num ||
		strlen(text) > CONF_READ_MAX) {
		(void)conf_parse_error(r->p, r->p->line,
			"the line is too long; expected at most %zu bytes",
			value && *text != '[' && key < num / 2 ? (size_t)CONF_READ_MAX : num - 2);
		return NULL;
	}
	snprintf(buf, num, "%.*s " CONF_READ_LONG "\n", (int)key, text);
	/* As inih does: a comment begins with ';' behind white space; none at the end. */
	for (char *c = value; (c = strchr(c, ';')); c++) {
		if (c > value && conf_read_blank(c[-1])) {
			*c = '\0';
			break;
		}
	}
	for (n = strlen(value); n > 0 && strchr(" \t\r\n", value[n - 1]); n--)
		value[n - 1] = '\0';
	r->value = value;
	return buf;
}

/* inih's reader: as fgets, with at most num - 1 bytes. */
static char *conf_read_line(char *buf, int num, void *stream)
{
	struct conf_read *r = stream;
	char *text;
	ssize_t n;

	if (r->p->failed)
		return NULL;
	r->value = NULL;
	r->fed++;
	if (r->header[0]) {
		r->marks[r->nmarks++] = r->fed;
		snprintf(buf, (size_t)num, "%s = %s\n", CONF_READ_MARK, r->header);
		r->header[0] = '\0';
		r->after_mark = true;
		return buf;
	}
	n = getline(&r->line, &r->size, r->file);
	if (n < 0)
		return NULL;
	r->p->line++;
	text = r->line;
	if (r->p->line == 1 && !strncmp(text, "\xEF\xBB\xBF", 3))
		text += 3;
	if (strlen(r->line) != (size_t)n || strstr(text, CONF_READ_MARK)) {
		(void)conf_parse_error(r->p, r->p->line, "a control character; expected text");
		return NULL;
	}
	r->p->continued = conf_read_blank(*text) && !r->after_mark;
	if (!r->p->continued)
		text += strspn(text, " \t");
	if (strchr(";#\r\n", text[strspn(text, " \t")])) {
		/* a comment of any length, or nothing (strchr finds the final NUL too) */
		strcpy(buf, "\n");
		return buf;
	}
	r->after_mark = false;
	if (strlen(text) >= (size_t)num)
		return conf_read_long(r, text, buf, (size_t)num);
	if (*text == '[')
		conf_read_header(r, text);
	if (r->p->failed)
		return NULL;
	strcpy(buf, text);
	return buf;
}

/* inih's handler: not 0 = go on. */
static int conf_read_entry(void *user, const char *section, const char *name, const char *value)
{
	struct conf_read *r = user;

	if (r->p->failed)
		return 0;
	if (!strcmp(name, CONF_READ_MARK) && r->after_mark)
		return conf_entry_section(r->p, value) == 0;
	if (r->value && !strcmp(value, CONF_READ_LONG))
		value = r->value;
	return conf_entry_key(r->p, name, value) == 0;
}

/* The line of the file that inih calls number. */
static int conf_read_file_line(const struct conf_read *r, int number)
{
	int line = number;

	for (unsigned i = 0; i < r->nmarks && r->marks[i] < number; i++)
		line--;
	return line;
}

int conf_read(struct conf_parse *p, const char *path)
{
	struct conf_read r = {.p = p, .file = fopen(path, "re")};
	int bad;

	if (!r.file) {
		p->failed = error_errno(p->err, "cannot read configuration %s", path);
		return p->failed;
	}
	bad = ini_parse_stream(conf_read_line, &r, conf_read_entry, &r);
	if (ferror(r.file)) {
		p->failed = error_errno(p->err, "cannot read configuration %s", path);
	} else if (bad > 0 && (!p->failed || conf_read_file_line(&r, bad) < p->line)) {
		/* It goes on after a line it cannot split; ours may be a later error. */
		p->failed = 0;
		(void)conf_parse_error(p, conf_read_file_line(&r, bad),
			"not understood; expected \"[SECTION]\" or \"KEY = VALUE\"");
	} else if (bad < 0 && !p->failed) {
		p->failed = error_set(p->err, ERROR_GENERAL, -ENOMEM, "out of memory");
	}
	free(r.line);
	fclose(r.file);
	return p->failed;
}
