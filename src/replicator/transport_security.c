/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Credentials of the link, read once and checked whole: a PSK file or a directory of X.509 files.
 *
 * Messages never quote what a file holds, only its name and line; keys are wiped when freed. */
#include <ctype.h>
#include <errno.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replicator/transport_internal.h"

/* TLS 1.2 and 1.3 only, and always an ephemeral key exchange: a stolen key opens no old recording.
 * With PSK there is no other key exchange, so a peer cannot choose one without the key. */
#define SECURITY_PRIORITY_PSK                                                                      \
	"NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-KX-ALL:+ECDHE-PSK:+DHE-PSK"
#define SECURITY_PRIORITY_X509 "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-RSA"

#define SECURITY_MIN_KEY 16 /* bytes; psktool makes 32 */
#define SECURITY_MAX_KEY 512
#define SECURITY_MAX_USERS 1024

static int security_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes the hex text into out; the number of bytes, or -1. */
static int security_decode_key(const char *hex, unsigned char *out, size_t max)
{
	size_t n = strlen(hex) / 2;

	if (strlen(hex) % 2 != 0 || n > max)
		return -1;
	for (size_t i = 0; i < n; i++) {
		int hi = security_hex_digit(hex[2 * i]), lo = security_hex_digit(hex[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -1;
		out[i] = (unsigned char)(hi << 4 | lo);
	}
	return (int)n;
}

/* line is without its line end. */
static int security_add_psk_line(
	struct transport_security *sec, char *line, int number, struct error *err)
{
	struct transport_psk_key *keys;
	unsigned char key[SECURITY_MAX_KEY];
	char *colon;
	int n;

	if (line[0] == '\0' || line[0] == '#')
		return 0;
	colon = strchr(line, ':');
	if (!colon || colon == line)
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"%s:%d: expected a line of the form name:hexkey", sec->psk_file, number);
	n = security_decode_key(colon + 1, key, sizeof(key));
	if (n < SECURITY_MIN_KEY)
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"%s:%d: expected a key of %d to %d bytes in hexadecimal digits "
			"(psktool makes one)",
			sec->psk_file, number, SECURITY_MIN_KEY, SECURITY_MAX_KEY);
	if (sec->nkeys == SECURITY_MAX_USERS)
		return error_set(err, ERROR_CONFIG, -E2BIG, "%s:%d: more than %d users",
			sec->psk_file, number, SECURITY_MAX_USERS);
	keys = realloc(sec->keys, (sec->nkeys + 1) * sizeof(*keys));
	if (!keys)
		return error_code(err, -ENOMEM, "%s", sec->psk_file);
	sec->keys = keys;
	keys += sec->nkeys;
	keys->user = strndup(line, (size_t)(colon - line));
	keys->key.data = malloc((size_t)n);
	keys->key.size = (unsigned)n;
	sec->nkeys++;
	if (!keys->user || !keys->key.data)
		return error_code(err, -ENOMEM, "%s", sec->psk_file);
	memcpy(keys->key.data, key, (size_t)n);
	explicit_bzero(key, sizeof(key));
	return 0;
}

static int security_read_psk_file(struct transport_security *sec, struct error *err)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t n;
	int r = 0, number = 0;
	FILE *fp = fopen(sec->psk_file, "re");

	if (!fp)
		return error_errno(err, "cannot read the PSK file %s", sec->psk_file);
	/* Unbuffered would be slow, and this buffer is ours to wipe. */
	char buffer[4096];
	setvbuf(fp, buffer, _IOFBF, sizeof(buffer));
	while (r == 0 && (n = getline(&line, &size, fp)) >= 0) {
		while (n > 0 && isspace((unsigned char)line[n - 1]))
			line[--n] = '\0';
		r = security_add_psk_line(sec, line, ++number, err);
	}
	if (r == 0 && ferror(fp))
		r = error_code(err, -EIO, "cannot read the PSK file %s", sec->psk_file);
	fclose(fp);
	if (line)
		explicit_bzero(line, size);
	free(line);
	explicit_bzero(buffer, sizeof(buffer));
	return r;
}

static const struct transport_psk_key *security_find_key(
	const struct transport_security *sec, const char *user)
{
	for (size_t i = 0; i < sec->nkeys; i++)
		if (strcmp(sec->keys[i].user, user) == 0)
			return &sec->keys[i];
	return NULL;
}

static int security_give_key(gnutls_session_t session, const char *user, gnutls_datum_t *ret_key)
{
	struct transport *t = gnutls_session_get_ptr(session);
	const struct transport_psk_key *k = security_find_key(t->security, user);

	if (!k) {
		size_t i;

		for (i = 0; user[i] && i < sizeof(t->unknown_user) - 1; i++)
			t->unknown_user[i] = isprint((unsigned char)user[i]) ? user[i] : '?';
		t->unknown_user[i] = '\0';
		/* GnuTLS goes on with a random key, so that a peer cannot find out who exists. */
		return 1;
	}
	ret_key->data = gnutls_malloc(k->key.size);
	if (!ret_key->data)
		return -1;
	memcpy(ret_key->data, k->key.data, k->key.size);
	ret_key->size = k->key.size;
	return 0;
}

static int security_load_psk(struct transport_security *sec, struct error *err)
{
	const struct transport_psk_key *own;
	int r = security_read_psk_file(sec, err);

	if (r < 0)
		return r;
	own = security_find_key(sec, sec->psk_user);
	if (!own)
		return error_set(err, ERROR_CONFIG, -ENOENT,
			"PSK file %s has no key for the user \"%s\"", sec->psk_file, sec->psk_user);
	r = gnutls_psk_allocate_server_credentials(&sec->psk_server);
	if (r == 0)
		r = gnutls_psk_allocate_client_credentials(&sec->psk_client);
	if (r == 0)
		r = gnutls_psk_set_client_credentials(
			sec->psk_client, own->user, &own->key, GNUTLS_PSK_KEY_RAW);
	if (r < 0)
		return error_set(err, ERROR_GENERAL, -EINVAL, "PSK file %s: %s", sec->psk_file,
			gnutls_strerror(r));
	gnutls_psk_set_server_credentials_function(sec->psk_server, security_give_key);
	return 0;
}

/* role: "server" or "client". */
static int security_load_x509_role(gnutls_certificate_credentials_t *ret_cred, const char *dir,
	const char *role, struct error *err)
{
	char ca[4096], crl[4096], cert[4096], key[4096];
	const char *const must[] = {ca, cert, key};
	int r;

	snprintf(ca, sizeof(ca), "%s/ca-cert.pem", dir);
	snprintf(crl, sizeof(crl), "%s/ca-crl.pem", dir);
	snprintf(cert, sizeof(cert), "%s/%s-cert.pem", dir, role);
	if ((size_t)snprintf(key, sizeof(key), "%s/%s-key.pem", dir, role) >= sizeof(key))
		return error_code(err, -ENAMETOOLONG, "X.509 directory %s", dir);
	for (size_t i = 0; i < 3; i++)
		if (access(must[i], R_OK) < 0)
			return error_errno(err, "cannot read %s", must[i]);

	r = gnutls_certificate_allocate_credentials(ret_cred);
	if (r < 0)
		return error_set(err, ERROR_GENERAL, -ENOMEM, "X.509 directory %s: %s", dir,
			gnutls_strerror(r));
	r = gnutls_certificate_set_x509_trust_file(*ret_cred, ca, GNUTLS_X509_FMT_PEM);
	if (r <= 0)
		return error_set(err, ERROR_CONFIG, -EINVAL, "%s: %s", ca,
			r == 0 ? "holds no certificate" : gnutls_strerror(r));
	if (access(crl, F_OK) == 0) {
		r = gnutls_certificate_set_x509_crl_file(*ret_cred, crl, GNUTLS_X509_FMT_PEM);
		if (r < 0)
			return error_set(
				err, ERROR_CONFIG, -EINVAL, "%s: %s", crl, gnutls_strerror(r));
	}
	r = gnutls_certificate_set_x509_key_file(*ret_cred, cert, key, GNUTLS_X509_FMT_PEM);
	if (r < 0)
		return error_set(err, ERROR_CONFIG, -EINVAL, "%s with %s: %s", cert, key,
			gnutls_strerror(r));
	return 0;
}

int transport_security_load(const char *psk_file, const char *psk_user, const char *x509_dir,
	struct transport_security **ret_sec, struct error *err)
{
	struct transport_security *sec;
	int r;

	if (!psk_file && !x509_dir) {
		*ret_sec = NULL;
		return 0;
	}
	if (psk_file && x509_dir)
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"the link has both a PSK file (%s) and an X.509 directory (%s): "
			"expected one of them",
			psk_file, x509_dir);
	sec = calloc(1, sizeof(*sec));
	if (!sec)
		return error_code(err, -ENOMEM, "credentials of the link");
	sec->is_x509 = x509_dir != NULL;
	if (x509_dir) {
		r = security_load_x509_role(&sec->x509_server, x509_dir, "server", err);
		if (r == 0)
			r = security_load_x509_role(&sec->x509_client, x509_dir, "client", err);
	} else {
		sec->psk_file = strdup(psk_file);
		sec->psk_user = strdup(psk_user ? psk_user : "tandem");
		r = sec->psk_file && sec->psk_user
			    ? security_load_psk(sec, err)
			    : error_code(err, -ENOMEM, "credentials of the link");
	}
	if (r == 0) {
		int e = gnutls_priority_init(&sec->priority,
			x509_dir ? SECURITY_PRIORITY_X509 : SECURITY_PRIORITY_PSK, NULL);

		if (e < 0)
			r = error_set(err, ERROR_GENERAL, -EINVAL, "TLS of the link: %s",
				gnutls_strerror(e));
	}
	if (r < 0) {
		transport_security_free(sec);
		return r;
	}
	*ret_sec = sec;
	return 0;
}

struct transport_security *transport_security_free(struct transport_security *sec)
{
	if (!sec)
		return NULL;
	for (size_t i = 0; i < sec->nkeys; i++) {
		if (sec->keys[i].key.data)
			explicit_bzero(sec->keys[i].key.data, sec->keys[i].key.size);
		free(sec->keys[i].key.data);
		free(sec->keys[i].user);
	}
	free(sec->keys);
	free(sec->psk_file);
	free(sec->psk_user);
	if (sec->psk_server)
		gnutls_psk_free_server_credentials(sec->psk_server);
	if (sec->psk_client)
		gnutls_psk_free_client_credentials(sec->psk_client);
	if (sec->x509_server)
		gnutls_certificate_free_credentials(sec->x509_server);
	if (sec->x509_client)
		gnutls_certificate_free_credentials(sec->x509_client);
	if (sec->priority)
		gnutls_priority_deinit(sec->priority);
	free(sec);
	return NULL;
}
