/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The configuration of one group: loading, freeing, and questions about it; see conf.h. */
#include "conf/conf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "conf/conf_internal.h"

#define CONF_PATH_SHOWN 160 /* bytes of a path in a message: the reason must still fit */

static int conf_vfail(
	struct conf_parse *p, int line, const char *where, const char *fmt, va_list ap)
{
	char reason[sizeof(p->err->text)];

	if (p->failed)
		return p->failed;
	vsnprintf(reason, sizeof(reason), fmt, ap);
	p->failed = error_set(p->err, ERROR_CONFIG, -EINVAL, "%s:%d: %s%s", p->path,
		line ? line : 1, where, reason);
	return p->failed;
}

int conf_parse_error(struct conf_parse *p, int line, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = conf_vfail(p, line, "", fmt, ap);
	va_end(ap);
	return r;
}

int conf_key_error(struct conf_parse *p, int line, enum conf_section section, unsigned node,
	const char *name, const char *fmt, ...)
{
	bool named = section == CONF_SECTION_NODE;
	char where[256];
	va_list ap;
	int r;

	snprintf(where, sizeof(where), "key \"%.80s\" in [%s%s%s]: ", name,
		conf_section_name(section), named ? " " : "",
		named ? p->conf->nodes[node].name : "");
	va_start(ap, fmt);
	r = conf_vfail(p, line, where, fmt, ap);
	va_end(ap);
	return r;
}

int conf_load(const char *path, struct conf **ret_conf, struct error *err)
{
	struct conf_parse p = {.err = err, .path = path};
	size_t n = strlen(path);
	int r;

	if (n > CONF_PATH_SHOWN)
		p.path = path + n - CONF_PATH_SHOWN;
	p.conf = calloc(1, sizeof(*p.conf));
	if (p.conf)
		p.conf->path = strdup(path);
	if (!p.conf || !p.conf->path) {
		(void)conf_free(p.conf);
		return error_set(err, ERROR_GENERAL, -ENOMEM, "out of memory");
	}
	r = conf_value_default(&p, CONF_SECTION_GROUP, 0);
	if (r == 0)
		r = conf_value_default(&p, CONF_SECTION_GUEST, 0);
	if (r == 0)
		r = conf_value_default(&p, CONF_SECTION_SECURITY, 0);
	if (r == 0)
		r = conf_value_default(&p, CONF_SECTION_UNSAFE, 0);
	if (r == 0)
		r = conf_read(&p, path);
	if (r == 0)
		r = conf_check(&p);
	if (r == 0)
		r = conf_check_plaintext(p.conf, err);
	if (r < 0) {
		(void)conf_free(p.conf);
		return r;
	}
	*ret_conf = p.conf;
	return 0;
}

struct conf *conf_free(struct conf *conf)
{
	if (!conf)
		return NULL;
	for (unsigned i = 0; i < conf->nnodes; i++) {
		struct conf_node *n = &conf->nodes[i];

		for (unsigned d = 0; d < n->ndisks; d++)
			free(n->disks[d].backing);
		free(n->link_host);
		free(n->link_port);
		free(n->state_dir);
		free(n->run_dir);
	}
	free(conf->tls_psk);
	free(conf->tls_x509);
	free(conf->tls_psk_user);
	free(conf->guest_qemu);
	free(conf->path);
	free(conf);
	return NULL;
}

int conf_find_node(const struct conf *conf, const char *name, struct error *err)
{
	char host[256] = "", names[2 * CONF_MAX_NAME + 8] = "";

	if (!name) {
		if (gethostname(host, sizeof(host) - 1) < 0)
			return error_errno(err, "cannot read the host name");
		host[strcspn(host, ".")] = '\0';
	}
	for (unsigned i = 0; i < conf->nnodes; i++) {
		if (!strcmp(conf->nodes[i].name, name ? name : host))
			return (int)i;
		snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s",
			i ? ", " : "", conf->nodes[i].name);
	}
	if (name)
		return error_set(err, ERROR_USAGE, -ENOENT,
			"%s has no node \"%.64s\"; expected one of: %s", conf->path, name, names);
	return error_set(err, ERROR_USAGE, -ENOENT,
		"%s has no node named as this host, \"%.64s\"; say which one it is with --node: %s",
		conf->path, host, names);
}

bool conf_is_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;

	if (!strcasecmp(host, "localhost"))
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	if (inet_pton(AF_INET6, host, &v6) != 1)
		return false;
	return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

const char *conf_unsafe_names(const struct conf *conf, char *buf, unsigned long len)
{
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < CONF_KEY_COUNT && at < len; i++) {
		const struct conf_key *k = &conf_keys[i];

		if (k->section == CONF_SECTION_UNSAFE &&
			*(const bool *)((const char *)conf + k->offset))
			at += (size_t)snprintf(buf + at, len - at, "%s%s", at ? ", " : "", k->name);
	}
	return buf;
}
