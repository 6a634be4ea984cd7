/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Section headers and keys, in the order of the file: known or not, twice or not. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "conf/conf_internal.h"

static int conf_entry_node(struct conf_parse *p, const char *name)
{
	struct conf *conf = p->conf;
	struct conf_node *node;

	if (!conf_name_valid(name))
		return conf_parse_error(p, p->line,
			"section [node %.64s]: \"%.64s\" is not a name of 1 to %d letters, digits, "
			"'.', '_' or '-'",
			name, name, CONF_MAX_NAME);
	for (unsigned i = 0; i < conf->nnodes; i++)
		if (!strcmp(conf->nodes[i].name, name))
			return conf_parse_error(p, p->line,
				"section [node %s]: already begun on line %d", name,
				conf->nodes[i].line);
	if (conf->nnodes == CONF_MAX_NODES)
		return conf_parse_error(p, p->line, "section [node %s]: expected at most %d nodes",
			name, CONF_MAX_NODES);
	p->section = CONF_SECTION_NODE;
	p->node = conf->nnodes++;
	node = &conf->nodes[p->node];
	snprintf(node->name, sizeof(node->name), "%s", name);
	node->line = p->line;
	return conf_value_default(p, CONF_SECTION_NODE, p->node);
}

int conf_entry_section(struct conf_parse *p, const char *header)
{
	p->in_section = true;
	p->key = NULL;
	if (!strncmp(header, "node", 4) && strchr(" \t", header[4])) { /* or its NUL */
		const char *name = header + 4 + strspn(header + 4, " \t");

		if (*name)
			return conf_entry_node(p, name);
		return conf_parse_error(
			p, p->line, "section [node]: without a name; expected [node NAME]");
	}
	for (int s = 0; s < CONF_SECTION_COUNT; s++) {
		if (s == CONF_SECTION_NODE || strcmp(header, conf_section_name(s)) != 0)
			continue;
		if (p->section_line[s])
			return conf_parse_error(p, p->line,
				"section [%s]: already begun on line %d", header,
				p->section_line[s]);
		p->section = s;
		p->section_line[s] = p->line;
		return 0;
	}
	return conf_parse_error(p, p->line,
		"section [%.64s]: unknown section; expected [group], [node NAME], [guest], "
		"[security], [arbiter] or [unsafe]",
		header);
}

static int conf_entry_unknown(struct conf_parse *p, const char *name)
{
	char list[256];
	size_t at = 0;

	list[0] = '\0';
	for (unsigned i = 0; i < CONF_KEY_COUNT && at < sizeof(list); i++) {
		const char *n = conf_keys[i].name;
		const char *user = n[strlen(n) - 1] == '.' ? "NAME" : "";

		if (conf_keys[i].section == p->section)
			at += (size_t)snprintf(
				list + at, sizeof(list) - at, "%s%s%s", at ? ", " : "", n, user);
	}
	return conf_key_error(
		p, p->line, p->section, p->node, name, "unknown key; expected one of %s", list);
}

int conf_entry_key(struct conf_parse *p, const char *name, const char *value)
{
	unsigned row = p->section == CONF_SECTION_NODE ? p->node : 0;
	const struct conf_key *key;
	int *seen;

	if (!p->in_section)
		return conf_parse_error(p, p->line,
			"key \"%.64s\" outside a section; expected [group] or another section "
			"first",
			name);
	if (p->continued && p->key) {
		if (p->key->type == CONF_TYPE_IGNORED)
			return 0;
		if (p->key->type == CONF_TYPE_LINES)
			return conf_value_continue(p, p->key, value);
		return conf_parse_error(p, p->line,
			"the line begins with white space, so it would continue \"%s\", which "
			"takes "
			"one line; expected no white space before a key",
			p->key->name);
	}
	key = conf_key_find(p->section, name);
	if (!key)
		return conf_entry_unknown(p, name);
	p->key = key;
	seen = &p->key_line[row][conf_key_index(key)];
	if (*seen && key->type != CONF_TYPE_BACKING)
		return conf_key_error(
			p, p->line, p->section, row, name, "already set on line %d", *seen);
	*seen = p->line;
	return conf_value_set(p, key, row, name, value);
}
