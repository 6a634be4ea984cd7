/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* getopt_long, driven by a command's table of options.  Every option is a long one. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/options.h"
#include "util/units.h"

#define OPTIONS_MAX 16  /* of one command */
#define OPTIONS_VAL 256 /* getopt's value of options_all()[0]; above every character */

const struct option_spec options_common[OPTIONS_COMMON + 1] = {
	{
		.name = "node",
		.type = OPTION_TEXT,
		.value = "NAME",
		.offset = offsetof(struct cli_args, node),
		.help = "which node of CONF (default: the one named as this host)",
	},
	{.name = "help", .type = OPTION_FLAG, .help = "print this, do nothing"},
	{.name = NULL},
};

const struct option_spec *options_at(const struct command *command, unsigned i)
{
	for (const struct option_spec *o = command->options; o->name; o++)
		if (i-- == 0)
			return o;
	return i < OPTIONS_COMMON ? &options_common[i] : NULL;
}

static int options_number(const struct option_spec *o, const char *text, uint64_t *ret_value)
{
	uint64_t v;

	if (units_parse_u64(text, &v) < 0 || v < o->min || v > o->max)
		return -EINVAL;
	*ret_value = v;
	return 0;
}

static int options_seconds(const struct option_spec *o, const char *text, uint64_t *ret_ms)
{
	double ms;
	char *end;

	/* strtod takes more than a user should write: signs, exponents, "inf" */
	if (!*text || text[strspn(text, "0123456789.")])
		return -EINVAL;
	ms = strtod(text, &end) * 1000 + 0.5;
	if (*end || ms < (double)o->min || ms >= (double)o->max + 1)
		return -EINVAL;
	*ret_ms = (uint64_t)ms;
	return 0;
}

static int options_choice(const struct option_spec *o, const char *text, uint64_t *ret_value)
{
	const char *word = o->value;

	for (uint64_t i = 1;; i++) {
		size_t n = strcspn(word, "|");
		bool last = word[n] == '\0';

		if ((!text && last) || (text && n == strlen(text) && !strncmp(word, text, n))) {
			*ret_value = i;
			return 0;
		}
		if (last)
			return -EINVAL;
		word += n + 1;
	}
}

static const char *options_expected(const struct option_spec *o, char *buf, size_t len)
{
	if (o->type == OPTION_NUMBER)
		snprintf(buf, len, "a number from %" PRIu64 " to %" PRIu64, o->min, o->max);
	else if (o->type == OPTION_SECONDS)
		snprintf(buf, len, "a number of seconds from %g to %g", (double)o->min / 1000,
			(double)o->max / 1000);
	else
		snprintf(buf, len, "one of %s", o->value);
	return buf;
}

static int options_set(const struct command *command, const struct option_spec *o, const char *text,
	struct cli_args *args, struct error *err)
{
	void *field = (char *)args + o->offset;
	char expected[96];
	int r = 0;

	switch (o->type) {
	case OPTION_FLAG:
		*(bool *)field = true;
		break;
	case OPTION_TEXT:
		*(const char **)field = text;
		break;
	case OPTION_NUMBER:
		r = options_number(o, text, field);
		break;
	case OPTION_SECONDS:
		r = options_seconds(o, text, field);
		break;
	case OPTION_CHOICE:
		r = options_choice(o, text, field);
		break;
	}
	if (r == 0)
		return 0;
	return error_set(err, ERROR_USAGE, r, "%s: option --%s: \"%.64s\" is not %s", command->name,
		o->name, text, options_expected(o, expected, sizeof(expected)));
}

static int options_refuse(
	const struct command *command, int c, const char *token, struct error *err)
{
	const struct option_spec *o = NULL;
	char letter[] = {'-', (char)optopt, '\0'};

	if (optopt >= OPTIONS_VAL)
		o = options_at(command, (unsigned)(optopt - OPTIONS_VAL));
	else if (optopt > 0)
		token = letter; /* of "-abc", which getopt takes letter by letter */
	if (c == ':')
		return error_set(err, ERROR_USAGE, -EINVAL, "%s: option --%s needs a value %s",
			command->name, o->name, o->value);
	if (o)
		return error_set(err, ERROR_USAGE, -EINVAL, "%s: option --%s takes no value",
			command->name, o->name);
	return error_set(err, ERROR_USAGE, -EINVAL,
		"%s: unknown option \"%.64s\"; see tandem %s --help", command->name, token,
		command->name);
}

/* What one option's table cannot show. */
static int options_check(const struct command *command, const struct cli_args *a, struct error *err)
{
	if (a->timeout_ms && !a->wait && command->run != cmd_switchover)
		return error_set(err, ERROR_USAGE, -EINVAL, "%s: option --timeout needs --wait",
			command->name);
	if (a->interval_ms && !a->watch)
		return error_set(err, ERROR_USAGE, -EINVAL, "%s: option --interval needs --watch",
			command->name);
	return 0;
}

/* Number of the word, from 1; 0 = it is none of them. */
static uint64_t options_word(const char *words, const char *word)
{
	size_t len = strlen(word);

	for (uint64_t i = 1; *words; i++) {
		size_t n = strcspn(words, "|");

		if (n == len && strncmp(words, word, n) == 0)
			return i;
		words += n + (words[n] == '|');
	}
	return 0;
}

int options_parse(const struct command *command, int argc, char **argv, struct cli_args *ret_args,
	bool *ret_help, struct error *err)
{
	struct option longs[OPTIONS_MAX + 1] = {0};
	const struct option_spec *o;
	struct cli_args args = {0};
	int c, r;

	for (unsigned i = 0; i < OPTIONS_MAX && (o = options_at(command, i)); i++) {
		longs[i].name = o->name;
		longs[i].val = OPTIONS_VAL + (int)i;
		longs[i].has_arg = o->type == OPTION_FLAG     ? no_argument
				   : o->type == OPTION_CHOICE ? optional_argument
							      : required_argument;
	}
	*ret_help = false;
	opterr = 0; /* the messages are ours */
	while ((c = getopt_long(argc, argv, ":", longs, NULL)) != -1) {
		if (c < OPTIONS_VAL)
			return options_refuse(command, c, argv[optind - 1], err);
		o = options_at(command, (unsigned)(c - OPTIONS_VAL));
		if (o == &options_common[OPTIONS_HELP]) {
			*ret_help = true;
			return 0;
		}
		r = options_set(command, o, optarg, &args, err);
		if (r < 0)
			return r;
	}
	if (command->words) {
		const char *word = optind < argc ? argv[optind] : "";

		args.word = options_word(command->words, word);
		if (args.word == 0)
			return error_set(err, ERROR_USAGE, -EINVAL,
				"%s: \"%.64s\" is not one of %s; see tandem %s --help",
				command->name, word, command->words, command->name);
		optind++;
	}
	if (optind == argc)
		return error_set(err, ERROR_USAGE, -EINVAL,
			"%s: the configuration file is missing; see tandem %s --help",
			command->name, command->name);
	if (optind + 1 < argc)
		return error_set(err, ERROR_USAGE, -EINVAL,
			"%s: unexpected argument \"%.64s\"; see tandem %s --help", command->name,
			argv[optind + 1], command->name);
	args.conf_path = argv[optind];
	r = options_check(command, &args, err);
	if (r == 0)
		*ret_args = args;
	return r;
}
