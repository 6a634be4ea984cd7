/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* tandem discard: drops the epochs that are not committed. */
#include <inttypes.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/reply.h"
#include "cli/text.h"
#include "util/units.h"

int cmd_discard(struct cli *cli, struct error *err)
{
	char count[TEXT_SIZE], size[TEXT_SIZE];
	uint64_t epochs, bytes, committed;
	json_t *reply;
	int r = client_command(cli, "discard", NULL, CLIENT_ANSWER_MS, &reply, err);

	if (r < 0)
		return r;
	r = reply_need_u64(cli, reply, "epochs", &epochs, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "bytes", &bytes, err);
	if (r == 0)
		r = reply_need_u64(cli, reply, "committed", &committed, err);
	json_decref(reply);
	if (r == 0)
		printf("discarded %s (%s); the committed state is epoch %" PRIu64 "\n",
			text_count(epochs, "epoch", count, sizeof(count)),
			units_format_size(bytes, size, sizeof(size)), committed);
	return r;
}
