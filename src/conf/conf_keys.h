/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of every key of the configuration file: what may stand where, of which type, between
 * which limits, with which default, and where it goes.  tandem.conf(5) documents each row; a test
 * compares the two. */
#ifndef TANDEM_CONF_CONF_KEYS_H
#define TANDEM_CONF_CONF_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum conf_section {
	CONF_SECTION_GROUP,
	CONF_SECTION_NODE, /* [node NAME] */
	CONF_SECTION_GUEST,
	CONF_SECTION_SECURITY,
	CONF_SECTION_ARBITER,
	CONF_SECTION_UNSAFE,
	CONF_SECTION_COUNT
};

enum conf_type {
	CONF_TYPE_NAME,    /* char[CONF_MAX_NAME + 1] */
	CONF_TYPE_MS,      /* uint64_t, milliseconds */
	CONF_TYPE_COUNT,   /* uint64_t */
	CONF_TYPE_SIZE,    /* uint64_t, bytes */
	CONF_TYPE_PAGES,   /* uint64_t, bytes, a multiple of 4096 */
	CONF_TYPE_BLOCK,   /* uint64_t, bytes, a power of two */
	CONF_TYPE_RATE,    /* uint64_t, bytes per second, 0 = unlimited */
	CONF_TYPE_CHOICE,  /* int (an enum): index of the word in choices */
	CONF_TYPE_SWITCH,  /* bool: true for the second of the two words in choices */
	CONF_TYPE_PATH,    /* char *, absolute */
	CONF_TYPE_TEXT,    /* char *, not empty */
	CONF_TYPE_LINK,    /* link_host and link_port of a node */
	CONF_TYPE_BACKING, /* one more disk of a node; the key is "disk." and its name */
	CONF_TYPE_LINES,   /* char *, not empty; may go on over several lines, joined by spaces */
	CONF_TYPE_IGNORED  /* known, for a later version; any text, may go on over several lines */
};

struct conf_key {
	enum conf_section section;
	const char *name; /* ends in '.' where a name of the user's follows */
	enum conf_type type;
	bool mandatory;
	uint64_t min, max;
	const char *initial; /* default, as it would stand in the file; NULL = none */
	const char *choices; /* words separated by spaces */
	size_t offset;       /* in struct conf; for [node NAME] in struct conf_node */
};

#define CONF_KEY_COUNT 37
extern const struct conf_key conf_keys[CONF_KEY_COUNT];

/* "group", "node", ...: the word in brackets. */
const char *conf_section_name(enum conf_section section);
/* The key, or NULL; a key that ends in '.' is found by any name that begins with it. */
const struct conf_key *conf_key_find(enum conf_section section, const char *name);
/* What a value of this key has to be, as "a number of milliseconds from 0 to 60000"; returns buf.
 */
const char *conf_key_expected(const struct conf_key *key, char *buf, size_t len);

#endif
