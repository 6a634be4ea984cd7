/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One value: checked by the type of its key and stored where the table says. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "conf/conf_internal.h"
#include "util/units.h"

bool conf_name_valid(const char *name)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789._-";
	size_t n = strlen(name);

	return n >= 1 && n <= CONF_MAX_NAME && strspn(name, allowed) == n;
}

static int conf_value_dup(const char *text, char **ret_copy)
{
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	free(*ret_copy); /* a default */
	*ret_copy = copy;
	return 0;
}

static int conf_value_number(const struct conf_key *key, const char *value, uint64_t *ret_number)
{
	bool bytes = key->type == CONF_TYPE_SIZE || key->type == CONF_TYPE_RATE ||
		     key->type == CONF_TYPE_PAGES || key->type == CONF_TYPE_BLOCK;
	uint64_t n;
	int r = bytes ? units_parse_size(value, &n) : units_parse_u64(value, &n);

	if (r < 0)
		return r;
	if (!(key->type == CONF_TYPE_RATE && n == 0) && (n < key->min || n > key->max))
		return -ERANGE;
	if (key->type == CONF_TYPE_PAGES && n % 4096)
		return -EINVAL;
	if (key->type == CONF_TYPE_BLOCK && (n & (n - 1)))
		return -EINVAL;
	*ret_number = n;
	return 0;
}

static int conf_value_choice(const char *choices, const char *value)
{
	for (int i = 0; *choices; i++) {
		size_t n = strcspn(choices, " ");

		if (n == strlen(value) && !strncmp(choices, value, n))
			return i;
		choices += n + (choices[n] == ' ');
	}
	return -EINVAL;
}

/* HOST:PORT or [IPV6]:PORT */
static int conf_value_link(struct conf_node *node, const char *value)
{
	static const char host_chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
					 "0123456789.-";
	char host[256], bare[256];
	const char *colon;
	uint64_t port;
	size_t n;
	int r;

	if (*value == '[') {
		struct in6_addr ignored;
		const char *close = strchr(value, ']');

		if (!close || close[1] != ':')
			return -EINVAL;
		colon = close + 1;
		n = (size_t)(close - ++value);
		if (n >= sizeof(host))
			return -EINVAL;
		memcpy(host, value, n);
		host[n] = '\0';
		/* a zone ("%eth0") is the resolver's business */
		snprintf(bare, sizeof(bare), "%.*s", (int)strcspn(host, "%"), host);
		if (inet_pton(AF_INET6, bare, &ignored) != 1)
			return -EINVAL;
	} else {
		colon = strchr(value, ':');
		n = colon ? (size_t)(colon - value) : 0;
		if (n == 0 || n >= sizeof(host) || strspn(value, host_chars) != n)
			return -EINVAL;
		memcpy(host, value, n);
		host[n] = '\0';
	}
	if (units_parse_u64(colon + 1, &port) < 0 || port < 1 || port > 65535)
		return -EINVAL;
	r = conf_value_dup(host, &node->link_host);
	return r < 0 ? r : conf_value_dup(colon + 1, &node->link_port);
}

static bool conf_value_is_backing(const char *value)
{
	static const char *const schemes[] = {"nbd://", "nbds://", "nbd+unix://", "nbds+unix://",
		"nbd+vsock://", "nbds+vsock://"};

	for (unsigned i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
		if (!strncmp(value, schemes[i], strlen(schemes[i])))
			return true;
	return *value == '/';
}

/* key is "disk.NAME" */
static int conf_value_disk(struct conf_parse *p, unsigned n, const char *key, const char *value)
{
	struct conf_node *node = &p->conf->nodes[n];
	const char *name = key + strlen("disk.");
	struct conf_disk *disk;

	if (!conf_name_valid(name))
		return conf_key_error(p, p->line, CONF_SECTION_NODE, n, key,
			"\"%.64s\" is not a name of 1 to %d letters, digits, '.', '_' or '-'", name,
			CONF_MAX_NAME);
	for (unsigned i = 0; i < node->ndisks; i++) {
		if (!strcmp(node->disks[i].name, name))
			return conf_key_error(p, p->line, CONF_SECTION_NODE, n, key,
				"already set on line %d", p->disk_line[n][i]);
		if (!strcmp(node->disks[i].backing, value))
			return conf_key_error(p, p->line, CONF_SECTION_NODE, n, key,
				"\"%.64s\" is disk.%s already (line %d); expected another", value,
				node->disks[i].name, p->disk_line[n][i]);
	}
	if (!conf_value_is_backing(value))
		return -EINVAL;
	if (node->ndisks == CONF_MAX_DISKS)
		return conf_key_error(p, p->line, CONF_SECTION_NODE, n, key,
			"expected at most %d disks", CONF_MAX_DISKS);
	disk = &node->disks[node->ndisks];
	snprintf(disk->name, sizeof(disk->name), "%s", name);
	p->disk_line[n][node->ndisks] = p->line;
	node->ndisks++; /* owned from here on, also when the copy fails */
	return conf_value_dup(value, &disk->backing);
}

static int conf_value_store(struct conf_parse *p, const struct conf_key *key, unsigned node,
	const char *name, const char *value)
{
	struct conf_node *n = &p->conf->nodes[node];
	char *base = key->section == CONF_SECTION_NODE ? (char *)n : (char *)p->conf;
	void *field = base + key->offset;
	int r;

	switch (key->type) {
	case CONF_TYPE_NAME:
		if (!conf_name_valid(value))
			return -EINVAL;
		snprintf(field, CONF_MAX_NAME + 1, "%s", value);
		return 0;
	case CONF_TYPE_MS:
	case CONF_TYPE_COUNT:
	case CONF_TYPE_SIZE:
	case CONF_TYPE_PAGES:
	case CONF_TYPE_BLOCK:
	case CONF_TYPE_RATE:
		return conf_value_number(key, value, field);
	case CONF_TYPE_CHOICE:
	case CONF_TYPE_SWITCH:
		r = conf_value_choice(key->choices, value);
		if (r < 0)
			return r;
		if (key->type == CONF_TYPE_SWITCH)
			*(bool *)field = r == 1;
		else
			*(int *)field = r;
		return 0;
	case CONF_TYPE_PATH:
		return *value == '/' ? conf_value_dup(value, field) : -EINVAL;
	case CONF_TYPE_TEXT:
	case CONF_TYPE_LINES:
		return *value ? conf_value_dup(value, field) : -EINVAL;
	case CONF_TYPE_LINK:
		return conf_value_link(n, value);
	case CONF_TYPE_BACKING:
		return conf_value_disk(p, node, name, value);
	case CONF_TYPE_IGNORED:
		return 0;
	}
	return -EINVAL;
}

int conf_value_set(struct conf_parse *p, const struct conf_key *key, unsigned node,
	const char *name, const char *value)
{
	int r = conf_value_store(p, key, node, name, value);
	char expected[160];

	if (p->failed || r == 0)
		return r;
	if (r == -ENOMEM) {
		p->failed = error_set(p->err, ERROR_GENERAL, r, "out of memory");
		return r;
	}
	return conf_key_error(p, p->line, key->section, node, name, "\"%.64s\" is not %s", value,
		conf_key_expected(key, expected, sizeof(expected)));
}

int conf_value_continue(struct conf_parse *p, const struct conf_key *key, const char *value)
{
	char **field = (char **)((char *)p->conf + key->offset), *joined;

	if (!*field)
		return 0; /* its first line was refused */
	if (asprintf(&joined, "%s %s", *field, value) < 0) {
		p->failed = error_set(p->err, ERROR_GENERAL, -ENOMEM, "out of memory");
		return -ENOMEM;
	}
	free(*field);
	*field = joined;
	return 0;
}

int conf_value_default(struct conf_parse *p, enum conf_section section, unsigned node)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < CONF_KEY_COUNT; i++)
		if (conf_keys[i].section == section && conf_keys[i].initial)
			r = conf_value_set(
				p, &conf_keys[i], node, conf_keys[i].name, conf_keys[i].initial);
	return r;
}
