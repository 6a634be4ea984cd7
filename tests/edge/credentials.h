/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PSK files and X.509 directories for the tests of the link, made by psktool and certtool. */
#ifndef TANDEM_TESTS_EDGE_CREDENTIALS_H
#define TANDEM_TESTS_EDGE_CREDENTIALS_H

#include "replicator/transport.h"
#include "support.h"

/* DIR/NAME with a key for each user that psktool invents; several calls add users. */
void credentials_make_psk(const char *dir, const char *name, const char *user);

enum credentials_flaw {
	CREDENTIALS_GOOD,
	CREDENTIALS_EXPIRED,    /* both certificates */
	CREDENTIALS_OTHER_HOST, /* the server's is for another name and address */
	CREDENTIALS_SWAPPED,    /* each is for the other's role */
};
/* DIR/NAME/ with everything; signed by the CA in DIR/CA/ (made on first use). */
void credentials_make_x509(
	const char *dir, const char *name, const char *ca, enum credentials_flaw flaw);

/* Loads DIR/NAME, which must succeed. */
struct transport_security *credentials_psk(const char *dir, const char *name, const char *user);
struct transport_security *credentials_x509(const char *dir, const char *name);

#endif
