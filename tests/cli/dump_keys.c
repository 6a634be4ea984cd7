/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Prints the table of configuration keys as JSON lines, for the test of tandem.conf(5). */
#include <jansson.h>
#include <stdio.h>

#include "conf/conf_keys.h"

int main(void)
{
	for (unsigned i = 0; i < CONF_KEY_COUNT; i++) {
		const struct conf_key *k = &conf_keys[i];
		char expected[256];
		json_t *o = json_pack("{s:s, s:s, s:b, s:s?, s:s}", "section",
			conf_section_name(k->section), "name", k->name, "mandatory", k->mandatory,
			"initial", k->initial, "expected",
			conf_key_expected(k, expected, sizeof(expected)));

		if (!o || json_dumpf(o, stdout, JSON_COMPACT) < 0 || putchar('\n') == EOF)
			return 1;
		json_decref(o);
	}
	return fflush(stdout) == 0 ? 0 : 1;
}
