/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Credentials for the tests of the link; see credentials.h. */
#include "credentials.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void credentials_make_psk(const char *dir, const char *name, const char *user)
{
	char path[SUPPORT_PATH];

	if (!support_have("psktool"))
		support_skip("psktool (gnutls-bin) is not installed");
	snprintf(path, sizeof(path), "%.200s/%.40s", dir, name);
	support_must_run(dir, (const char *const[]){"psktool", "-u", user, "-p", path, NULL});
}

static void credentials_certtool(const char *dir, const char *const *args)
{
	const char *argv[24] = {"certtool"};
	size_t n = 1;

	while (*args && n < 23)
		argv[n++] = *args++;
	argv[n] = NULL;
	support_must_run(dir, argv);
}

static void credentials_make_key(const char *dir, const char *path)
{
	credentials_certtool(dir, (const char *const[]){"--generate-privkey", "--key-type=ecdsa",
					  "--outfile", path, NULL});
}

static void credentials_make_ca(const char *dir, const char *ca)
{
	char base[SUPPORT_PATH], key[SUPPORT_PATH + 16], cert[SUPPORT_PATH + 16],
		template[SUPPORT_PATH + 16], text[256];

	snprintf(base, sizeof(base), "%.150s/%.40s", dir, ca);
	if (mkdir(base, 0700) < 0)
		return; /* there already */
	snprintf(key, sizeof(key), "%s/ca-key.pem", base);
	snprintf(cert, sizeof(cert), "%s/ca-cert.pem", base);
	snprintf(template, sizeof(template), "%s/template", base);
	snprintf(text, sizeof(text), "cn = \"%s\"\nca\ncert_signing_key\nexpiration_days = 10\n",
		ca);
	support_write_file(template, text, strlen(text));
	credentials_make_key(dir, key);
	credentials_certtool(dir, (const char *const[]){"--generate-self-signed", "--load-privkey",
					  key, "--template", template, "--outfile", cert, NULL});
}

static void credentials_sign(const char *dir, const char *ca, const char *target, const char *role,
	enum credentials_flaw flaw)
{
	char key[SUPPORT_PATH + 64], cert[SUPPORT_PATH + 64], template[SUPPORT_PATH + 64];
	char ca_key[SUPPORT_PATH + 64], ca_cert[SUPPORT_PATH + 64], text[512];
	bool server = (strcmp(role, "server") == 0) != (flaw == CREDENTIALS_SWAPPED);
	const char *names = flaw == CREDENTIALS_OTHER_HOST
				    ? "dns_name = \"elsewhere\"\nip_address = \"192.0.2.1\"\n"
				    : "dns_name = \"localhost\"\nip_address = \"127.0.0.1\"\n";

	snprintf(key, sizeof(key), "%s/%s-key.pem", target, role);
	snprintf(cert, sizeof(cert), "%s/%s-cert.pem", target, role);
	snprintf(template, sizeof(template), "%s/template", target);
	snprintf(ca_key, sizeof(ca_key), "%.150s/%.40s/ca-key.pem", dir, ca);
	snprintf(ca_cert, sizeof(ca_cert), "%.150s/%.40s/ca-cert.pem", dir, ca);
	snprintf(text, sizeof(text), "cn = \"%s\"\nsigning_key\n%s\n%s%s", role,
		server ? "tls_www_server" : "tls_www_client", names,
		flaw == CREDENTIALS_EXPIRED ? "activation_date = \"2001-01-01 00:00:00 UTC\"\n"
					      "expiration_date = \"2002-01-01 00:00:00 UTC\"\n"
					    : "expiration_days = 10\n");
	support_write_file(template, text, strlen(text));
	credentials_make_key(dir, key);
	credentials_certtool(
		dir, (const char *const[]){"--generate-certificate", "--load-privkey", key,
			     "--load-ca-certificate", ca_cert, "--load-ca-privkey", ca_key,
			     "--template", template, "--outfile", cert, NULL});
}

void credentials_make_x509(
	const char *dir, const char *name, const char *ca, enum credentials_flaw flaw)
{
	char target[SUPPORT_PATH], from[SUPPORT_PATH + 16], to[SUPPORT_PATH + 16];

	if (!support_have("certtool"))
		support_skip("certtool (gnutls-bin) is not installed");
	credentials_make_ca(dir, ca);
	snprintf(target, sizeof(target), "%.150s/%.40s", dir, name);
	assert_int_equal(mkdir(target, 0700), 0);
	snprintf(from, sizeof(from), "%.150s/%.40s/ca-cert.pem", dir, ca);
	snprintf(to, sizeof(to), "%s/ca-cert.pem", target);
	assert_int_equal(link(from, to), 0);
	credentials_sign(dir, ca, target, "server", flaw);
	credentials_sign(dir, ca, target, "client", flaw);
}

struct transport_security *credentials_psk(const char *dir, const char *name, const char *user)
{
	struct transport_security *sec = NULL;
	struct error err = {0};
	char path[SUPPORT_PATH];

	snprintf(path, sizeof(path), "%.200s/%.40s", dir, name);
	if (transport_security_load(path, user, NULL, &sec, &err) < 0)
		fail_msg("%s", err.text);
	return sec;
}

struct transport_security *credentials_x509(const char *dir, const char *name)
{
	struct transport_security *sec = NULL;
	struct error err = {0};
	char path[SUPPORT_PATH];

	snprintf(path, sizeof(path), "%.200s/%.40s", dir, name);
	if (transport_security_load(NULL, NULL, path, &sec, &err) < 0)
		fail_msg("%s", err.text);
	return sec;
}
