/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a single line cannot show: missing sections and keys, nodes that do not fit together, keys
 * that contradict each other, and a link that would carry the disks in clear text. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "conf/conf_internal.h"

#define CONF_CHECK_SEGMENT (4ull << 20) /* of the journal */

/* Line of a key of the table, or of its section where the key is not there. */
static int conf_check_line(
	struct conf_parse *p, enum conf_section section, const char *name, unsigned node)
{
	int line = p->key_line[node][conf_key_index(conf_key_find(section, name))];

	if (line)
		return line;
	return section == CONF_SECTION_NODE ? p->conf->nodes[node].line : p->section_line[section];
}

static int conf_check_missing(struct conf_parse *p, enum conf_section section, unsigned node)
{
	char expected[160];

	for (unsigned i = 0; i < CONF_KEY_COUNT; i++) {
		const struct conf_key *k = &conf_keys[i];

		if (k->section == section && k->mandatory && !p->key_line[node][i])
			return conf_key_error(p, conf_check_line(p, section, k->name, node),
				section, node, k->name, "missing; expected %s",
				conf_key_expected(k, expected, sizeof(expected)));
	}
	if (section == CONF_SECTION_NODE && p->conf->nodes[node].ndisks == 0)
		return conf_parse_error(p, p->conf->nodes[node].line,
			"section [node %s]: no disk; expected at least one key disk.NAME",
			p->conf->nodes[node].name);
	return 0;
}

static int conf_check_group(struct conf_parse *p)
{
	struct conf *conf = p->conf;

	conf->journal_size -= conf->journal_size % CONF_CHECK_SEGMENT;
	if (conf->peer_timeout_ms < 2 * conf->heartbeat_ms) {
		bool own = p->key_line[0][conf_key_index(
			conf_key_find(CONF_SECTION_GROUP, "peer-timeout-ms"))];

		return conf_key_error(p,
			conf_check_line(
				p, CONF_SECTION_GROUP, own ? "peer-timeout-ms" : "heartbeat-ms", 0),
			CONF_SECTION_GROUP, 0, "peer-timeout-ms",
			"%llu is not at least twice heartbeat-ms, which is %llu",
			(unsigned long long)conf->peer_timeout_ms,
			(unsigned long long)conf->heartbeat_ms);
	}
	if (conf->tls_psk && conf->tls_x509)
		return conf_key_error(p, conf_check_line(p, CONF_SECTION_SECURITY, "tls-x509", 0),
			CONF_SECTION_SECURITY, 0, "tls-x509",
			"tls-psk is set too; expected one of them");
	return 0;
}

static int conf_check_run_dir(struct conf_parse *p, unsigned node)
{
	size_t max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - sizeof("/control.sock");

	if (strlen(p->conf->nodes[node].run_dir) <= max)
		return 0;
	return conf_key_error(p, conf_check_line(p, CONF_SECTION_NODE, "run-dir", node),
		CONF_SECTION_NODE, node, "run-dir",
		"the path is too long for the sockets in it; expected at most %zu bytes", max);
}

static int conf_check_find_disk(const struct conf_node *node, const char *name)
{
	for (unsigned i = 0; i < node->ndisks; i++)
		if (!strcmp(node->disks[i].name, name))
			return (int)i;
	return -ENOENT;
}

/* Sorts the second node's disks into the first one's order. */
static int conf_check_disks(struct conf_parse *p)
{
	struct conf_node *a = &p->conf->nodes[0], *b = &p->conf->nodes[1];

	for (unsigned i = 0; i < b->ndisks; i++) {
		char key[CONF_MAX_NAME + 8];

		if (conf_check_find_disk(a, b->disks[i].name) >= 0)
			continue;
		snprintf(key, sizeof(key), "disk.%s", b->disks[i].name);
		return conf_key_error(p, p->disk_line[1][i], CONF_SECTION_NODE, 1, key,
			"node %s has no disk of this name; expected the same disks on both nodes",
			a->name);
	}
	for (unsigned i = 0; i < a->ndisks; i++) {
		int at = conf_check_find_disk(b, a->disks[i].name);
		struct conf_disk swap = b->disks[i];
		int line = p->disk_line[1][i];

		if (at < 0)
			return conf_parse_error(p, b->line,
				"section [node %s]: no disk.%s, which node %s has (line %d); "
				"expected "
				"the same disks on both nodes",
				b->name, a->disks[i].name, a->name, p->disk_line[0][i]);
		b->disks[i] = b->disks[at];
		p->disk_line[1][i] = p->disk_line[1][at];
		b->disks[at] = swap;
		p->disk_line[1][at] = line;
	}
	return 0;
}

/* Nodes on one machine must not tread on each other. */
static int conf_check_same_host(struct conf_parse *p)
{
	const struct conf_node *a = &p->conf->nodes[0], *b = &p->conf->nodes[1];
	static const char because[] = "is node %s's too, and both run on this machine (loopback "
				      "links); expected another";
	char key[CONF_MAX_NAME + 8];

	if (!conf_is_loopback(a->link_host) || !conf_is_loopback(b->link_host))
		return 0;
	if (!strcmp(a->state_dir, b->state_dir))
		return conf_key_error(p, conf_check_line(p, CONF_SECTION_NODE, "state-dir", 1),
			CONF_SECTION_NODE, 1, "state-dir", because, a->name);
	if (!strcmp(a->run_dir, b->run_dir))
		return conf_key_error(p, conf_check_line(p, CONF_SECTION_NODE, "run-dir", 1),
			CONF_SECTION_NODE, 1, "run-dir", because, a->name);
	for (unsigned i = 0; i < b->ndisks; i++) {
		for (unsigned j = 0; j < a->ndisks; j++) {
			if (strcmp(a->disks[j].backing, b->disks[i].backing) != 0)
				continue;
			snprintf(key, sizeof(key), "disk.%s", b->disks[i].name);
			return conf_key_error(
				p, p->disk_line[1][i], CONF_SECTION_NODE, 1, key, because, a->name);
		}
	}
	return 0;
}

static int conf_check_pair(struct conf_parse *p)
{
	const struct conf_node *a = &p->conf->nodes[0], *b = &p->conf->nodes[1];
	int r;

	if (!strcmp(a->link_host, b->link_host) && !strcmp(a->link_port, b->link_port))
		return conf_key_error(p, b->link_line, CONF_SECTION_NODE, 1, "link",
			"\"%s:%s\" is node %s's too (line %d); expected another", b->link_host,
			b->link_port, a->name, a->link_line);
	r = conf_check_disks(p);
	return r < 0 ? r : conf_check_same_host(p);
}

int conf_check(struct conf_parse *p)
{
	struct conf *conf = p->conf;
	int r;

	if (!p->section_line[CONF_SECTION_GROUP])
		return conf_parse_error(p, p->line, "section [group]: missing");
	r = conf_check_missing(p, CONF_SECTION_GROUP, 0);
	if (r == 0)
		r = conf_check_group(p);
	for (unsigned i = 0; r == 0 && i < conf->nnodes; i++) {
		conf->nodes[i].link_line = conf_check_line(p, CONF_SECTION_NODE, "link", i);
		r = conf_check_missing(p, CONF_SECTION_NODE, i);
		if (r == 0)
			r = conf_check_run_dir(p, i);
	}
	if (r < 0)
		return r;
	if (conf->nnodes == 0)
		return conf_parse_error(
			p, p->line, "section [node NAME]: missing; expected two of them");
	/* A controller's store has no other node. */
	if (conf->nnodes == 1 && conf->nodes[0].ingest == CONF_INGEST_NONE)
		return conf_parse_error(p, p->line,
			"section [node NAME]: there is only [node %s]; expected two of them",
			conf->nodes[0].name);
	return conf->nnodes == 2 ? conf_check_pair(p) : 0;
}

int conf_check_plaintext(const struct conf *conf, struct error *err)
{
	if (conf->tls_psk || conf->tls_x509 || conf->unsafe_plaintext)
		return 0;
	for (unsigned i = 0; i < conf->nnodes; i++) {
		const struct conf_node *n = &conf->nodes[i];

		if (!conf_is_loopback(n->link_host))
			return error_set(err, ERROR_CONFIG, -EINVAL,
				"%s:%d: key \"link\" in [node %s]: %s is not a loopback address "
				"and "
				"nothing encrypts the link; expected tls-psk or tls-x509 in "
				"[security], or plaintext-link = yes in [unsafe]",
				conf->path, n->link_line, n->name, n->link_host);
	}
	return 0;
}
