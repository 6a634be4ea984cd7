/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the parser share; nobody else includes it. */
#ifndef TANDEM_CONF_CONF_INTERNAL_H
#define TANDEM_CONF_CONF_INTERNAL_H

#include <stdbool.h>

#include "conf/conf.h"
#include "conf/conf_keys.h"

#define CONF_MAX_SECTIONS 32 /* section headers in one file, known or not */

/* One run of conf_load.  Lines count from 1; 0 = not seen. */
struct conf_parse {
	const char *path; /* for messages; the end of it where it is very long */
	struct conf *conf;
	struct error *err; /* the first error only; may be NULL */
	int failed;        /* 0, or its negative errno */
	int line;          /* of the file, that inih is at */

	/* where we are */
	enum conf_section section;
	bool in_section;
	unsigned node;              /* index, in a [node NAME] section */
	bool continued;             /* the line begins with white space */
	const struct conf_key *key; /* of the line before, for continued */

	/* lines, for the checks */
	int section_line[CONF_SECTION_COUNT];         /* not for nodes: struct conf_node has it */
	int key_line[CONF_MAX_NODES][CONF_KEY_COUNT]; /* row 0 for keys outside nodes */
	int disk_line[CONF_MAX_NODES][CONF_MAX_DISKS];
};

/* Both record the first error, "PATH:LINE: ...", and return its code. */
int conf_parse_error(struct conf_parse *p, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* "PATH:LINE: key "NAME" in [SECTION]: ..."; node counts only for keys of [node NAME]. */
int conf_key_error(struct conf_parse *p, int line, enum conf_section section, unsigned node,
	const char *name, const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/* conf_read.c: reads the file through inih and hands each section and key to conf_entry.c. */
int conf_read(struct conf_parse *p, const char *path);
/* conf_entry.c */
int conf_entry_section(struct conf_parse *p, const char *header);
int conf_entry_key(struct conf_parse *p, const char *name, const char *value);
/* conf_value.c: checks one value and stores it. */
bool conf_name_valid(const char *name);
int conf_value_default(struct conf_parse *p, enum conf_section section, unsigned node);
int conf_value_set(struct conf_parse *p, const struct conf_key *key, unsigned node,
	const char *name, const char *value);
/* One more line of a value of type LINES. */
int conf_value_continue(struct conf_parse *p, const struct conf_key *key, const char *value);
/* conf_check.c: what one line cannot show: missing keys, and keys that contradict each other. */
int conf_check(struct conf_parse *p);

static inline unsigned conf_key_index(const struct conf_key *key)
{
	return (unsigned)(key - conf_keys);
}

#endif
