/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of docs/identity.md against core/: every example decides as it says, every row of the
 * code has one, and the transitions lead to what the document promises.
 * usage: test_identity IDENTITY.MD */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/identity.h"

static const char *document;

static void set_name(char *to, const char *from)
{
	snprintf(to, IDENTITY_NAME, "%s", from);
}

static void default_identity(struct identity *id, enum identity_role role)
{
	*id = (struct identity){.role = role, .volumes = 1, .consistent = true, .tracked = true};
	set_name(id->name, "vm1");
	id->group.b[0] = 1;
	for (unsigned i = 0; i < 2; i++) {
		id->volume[i].kind = IDENTITY_KIND_DISK;
		id->volume[i].size = 100;
		id->volume[i].uuid.b[0] = (uint8_t)(10 + i);
	}
	set_name(id->volume[0].name, "vda");
	set_name(id->volume[1].name, "vdb");
}

/* "5a" or "-". */
static const char *parse_generation(const char *p, struct identity_generation *g)
{
	char *end;

	*g = (struct identity_generation){0};
	if (*p == '-')
		return p + 1;
	g->number = strtoull(p, &end, 10);
	assert_true(g->number > 0 && *end >= 'a' && *end <= 'z');
	g->id = (uint64_t)*end;
	return end + 1;
}

static void parse_idle(struct identity *id, const char *value)
{
	struct identity_generation g;
	uint32_t i = 0;

	(void)parse_generation(value, &g);
	while (i < id->nhistory && !identity_same(&id->history[i], &g))
		i++;
	assert_true(i < id->nhistory);
	id->unwritten_history |= 1u << i;
}

static void parse_word(struct identity *id, const char *word)
{
	const char *value = strchr(word, '=');
	size_t n = value ? (size_t)(value - word) : strlen(word);

	value = value ? value + 1 : "";
	if (strcmp(word, "unwritten") == 0)
		id->unwritten = true;
	else if (strcmp(word, "yielded") == 0)
		id->yielded = true;
	else if (strcmp(word, "syncing") == 0)
		id->syncing = true;
	else if (strcmp(word, "inconsistent") == 0)
		id->consistent = false;
	else if (strcmp(word, "untracked") == 0)
		id->tracked = false;
	else if (strncmp(word, "idle", n) == 0)
		parse_idle(id, value);
	else if (strncmp(word, "role", n) == 0)
		id->role = strcmp(value, "primary") == 0 ? IDENTITY_PRIMARY : IDENTITY_SECONDARY;
	else if (strncmp(word, "name", n) == 0)
		set_name(id->name, value);
	else if (strncmp(word, "group", n) == 0)
		id->group.b[0] = 99;
	else if (strncmp(word, "uuid", n) == 0)
		id->volume[0].uuid.b[0] = 99;
	else if (strncmp(word, "volumes", n) == 0)
		id->volumes = (uint32_t)atoi(value);
	else if (strncmp(word, "kind", n) == 0)
		id->volume[0].kind = (uint32_t)atoi(value);
	else if (strncmp(word, "disk", n) == 0)
		set_name(id->volume[0].name, value);
	else if (strncmp(word, "size", n) == 0)
		id->volume[0].size = strtoull(value, NULL, 10);
	else
		fail_msg("unknown word \"%s\" in the document", word);
}

static void parse_identity(char *text, enum identity_role role, struct identity *id)
{
	const char *p;
	char *save, *word;

	default_identity(id, role);
	p = parse_generation(text, &id->current);
	assert_int_equal(*p, '/');
	p = parse_generation(p + 1, &id->base);
	if (*p == ':') {
		p++;
		while (*p == ' ' && p[1] >= '0' && p[1] <= '9')
			p = parse_generation(p + 1, &id->history[id->nhistory++]);
	}
	text += p - text;
	for (word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save))
		parse_word(id, word);
	id->top = 20;
}

/* The next cell of a line, without spaces and backquotes around it. */
static char *next_cell(char **at)
{
	char *cell = *at, *end = strchr(cell, '|');

	if (!end)
		return NULL;
	*at = end + 1;
	while (end > cell && (end[-1] == ' ' || end[-1] == '`'))
		end--;
	*end = '\0';
	return cell + strspn(cell, " `");
}

static unsigned row_index(const char *name)
{
	enum identity_action action;
	const char *n;

	for (unsigned i = 0; identity_row(i, &n, &action); i++)
		if (strcmp(n, name) == 0)
			return i;
	fail_msg("row \"%s\" of the document is not in the code", name);
	return 0;
}

static void check_example(char *line, unsigned *seen, unsigned *last)
{
	char *at = line + 1, *row = next_cell(&at), *primary = next_cell(&at),
	     *secondary = next_cell(&at), *decision = next_cell(&at), *as;
	struct identity_decision d;
	struct identity p, s;
	unsigned index = row_index(row);
	char example[256];

	snprintf(example, sizeof(example), "%s: %s | %s", row, primary, secondary);
	parse_identity(primary, IDENTITY_PRIMARY, &p);
	parse_identity(secondary, IDENTITY_SECONDARY, &s);
	as = strstr(decision, " as "); /* an example that falls through to another row */
	if (as) {
		*as = '\0';
		row = as + 4;
	} else {
		seen[index]++;
		if (index < *last)
			fail_msg("%s: the rows of the document are not in the order of the code",
				example);
		*last = index;
	}
	identity_decide(&p, &s, &d);
	if (strcmp(d.row, row) != 0 || strcmp(identity_action_name(d.action), decision) != 0)
		fail_msg("%s: decided \"%s\" by row %s", example, identity_action_name(d.action),
			d.row);
	if (d.text[0] == '\0')
		fail_msg("%s: no reason is given", example);
	/* A refusal names what resolves it. */
	if (identity_refused(&d) && !strstr(d.text, "tandem ") && !strstr(d.text, "correct") &&
		!strstr(d.text, "enlarge"))
		fail_msg("%s: no way out in \"%s\"", example, d.text);
	if (d.discards != (!identity_refused(&d) && s.yielded && s.consistent &&
				  !identity_same(&d.common, &s.current)))
		assert_true(strcmp(row, "other-yielded") == 0 && d.discards);
	assert_true(identity_refused(&d) || d.keeps_state == s.consistent);
}

static void test_document(void **state)
{
	unsigned seen[64] = {0}, last = 0, examples = 0;
	enum identity_action action;
	FILE *f = fopen(document, "r");
	bool table = false;
	char line[1024];
	const char *name;

	(void)state;
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, "| row |", 7) == 0) {
			table = true;
		} else if (table && line[0] != '|') {
			table = false;
		} else if (table && line[1] != '-') {
			check_example(line, seen, &last);
			examples++;
		}
	}
	fclose(f);
	for (unsigned i = 0; identity_row(i, &name, &action); i++)
		if (!seen[i])
			fail_msg("row \"%s\" has no example in the document", name);
	print_message("%u examples\n", examples);
	assert_true(examples > 40);
}

/* --- transitions --- */

static struct identity node(void)
{
	struct identity id;

	default_identity(&id, IDENTITY_NO_ROLE);
	id.consistent = false;
	return id;
}

static enum identity_action meet(const struct identity *primary, const struct identity *secondary)
{
	struct identity p = *primary, s = *secondary;
	struct identity_decision d;

	p.role = IDENTITY_PRIMARY;
	s.role = IDENTITY_SECONDARY;
	identity_decide(&p, &s, &d);
	return d.action;
}

/* A whole session: the epoch of its sync is floor + 1. */
static void replicate(struct identity *p, struct identity *s, uint64_t floor)
{
	enum identity_action how = meet(p, s);

	assert_true(how <= IDENTITY_SYNC_FULL);
	identity_accept(s, p, how == IDENTITY_SYNC_FULL, floor);
	identity_session(p, s, how == IDENTITY_SYNC_FULL);
	assert_false(identity_settle(s, floor));
	assert_true(identity_settle(s, floor + 1));
	identity_synced(p);
	assert_true(identity_same(&p->current, &s->current));
	assert_true(identity_same(&p->base, &s->base));
}

static void started(struct identity *a, struct identity *b)
{
	*a = node();
	*b = node();
	identity_start_primary(a, 100);
	assert_int_equal(a->current.number, 1);
	replicate(a, b, 10);
}

static void test_failover_and_back_unchanged(void **state)
{
	struct identity a, b;

	(void)state;
	started(&a, &b);
	identity_promote(&b, 200);
	assert_int_equal(b.current.number, 2);
	assert_int_equal(meet(&b, &a), IDENTITY_SYNC_NONE);
	replicate(&b, &a, 20);
	identity_promote(&a, 300);
	assert_int_equal(a.current.number, 3);
	assert_int_equal(meet(&a, &b), IDENTITY_SYNC_NONE);
	replicate(&a, &b, 30);
}

static void test_idle_promotion_leaves_no_trace(void **state)
{
	struct identity a, b;

	(void)state;
	started(&a, &b);
	/* b is promoted and demoted, twice; meanwhile a stays as it is, or writes. */
	identity_promote(&b, 200);
	identity_promote(&b, 201);
	assert_int_equal(b.current.number, 3);
	assert_int_equal(meet(&a, &b), IDENTITY_SYNC_NONE);
	identity_write(&a, true, 300);
	assert_int_equal(meet(&a, &b), IDENTITY_SYNC_INCREMENTAL);
	replicate(&a, &b, 20);
	/* The same where the promoted node was in a session, and the other one took it over, or
	 * not. */
	for (int taken = 0; taken < 2; taken++) {
		struct identity p = a, s = b;

		identity_promote(&s, 400);
		identity_accept(&p, &s, false, 30);
		identity_session(&s, &p, false);
		if (taken)
			assert_true(identity_settle(&p, 31));
		identity_promote(&s, 401);
		assert_int_equal(meet(&s, &p), IDENTITY_SYNC_NONE);
		assert_int_equal(meet(&p, &s), IDENTITY_SYNC_NONE);
		identity_promote(&p, 402);
		identity_write(&p, true, 403);
		assert_int_equal(meet(&p, &s), IDENTITY_SYNC_INCREMENTAL);
	}
	/* Numbers never come twice, though the promotions were forgotten. */
	identity_write(&a, true, 301);
	assert_int_equal(a.current.number, 4);
}

static void test_link_loss_without_write(void **state)
{
	struct identity a, b, before;

	(void)state;
	started(&a, &b);
	before = a;
	assert_false(identity_write_due(a.unwritten, a.shared, false));
	assert_int_equal(meet(&a, &b), IDENTITY_SYNC_NONE);
	assert_memory_equal(&a, &before, sizeof(a));
	identity_write(&a, true, 200);
	assert_int_equal(a.current.number, 2);
	/* Only the first write. */
	assert_false(identity_write_due(a.unwritten, a.shared, true));
	assert_int_equal(meet(&a, &b), IDENTITY_SYNC_INCREMENTAL);
}

static void test_split_brain_and_resolution(void **state)
{
	struct identity a, b, kept, given;

	(void)state;
	started(&a, &b);
	identity_promote(&b, 200);
	identity_write(&b, true, 201);
	identity_write(&a, true, 300);
	assert_int_equal(meet(&a, &b), IDENTITY_REFUSE_SPLIT_BRAIN);
	assert_int_equal(meet(&b, &a), IDENTITY_REFUSE_SPLIT_BRAIN);
	for (int i = 0; i < 2; i++) {
		kept = i ? b : a;
		given = i ? a : b;
		identity_yield(&given);
		assert_non_null(identity_refuse_primary(&given));
		assert_int_equal(meet(&kept, &given), IDENTITY_SYNC_INCREMENTAL);
		replicate(&kept, &given, 20);
		assert_false(given.yielded);
	}
}

static void test_superseded(void **state)
{
	struct identity a, b;

	(void)state;
	started(&a, &b);
	identity_promote(&b, 200);
	identity_supersede(&a, b.current.number);
	assert_non_null(identity_refuse_primary(&a));
	assert_non_null(identity_refuse_primary(&(struct identity){.role = IDENTITY_SECONDARY}));
	replicate(&b, &a, 20);
	assert_false(a.superseded);
	identity_supersede(&b, 9);
	identity_keep(&b);
	assert_null(identity_refuse_primary(&b));
}

/* The sync is committed, but the primary does not hear of it, and writes on. */
static void test_missed_end_of_sync(void **state)
{
	struct identity a, b;

	(void)state;
	started(&a, &b);
	identity_write(&a, true, 200);
	identity_accept(&b, &a, false, 20);
	identity_session(&a, &b, false);
	identity_settle(&b, 21);
	assert_int_equal(meet(&a, &b), IDENTITY_SYNC_NONE);
	assert_true(identity_write_due(a.unwritten, a.shared, true));
	identity_write(&a, true, 201);
	assert_int_equal(a.current.number, 3);
	assert_int_equal(meet(&a, &b), IDENTITY_SYNC_INCREMENTAL);
	/* and if b takes over, what a wrote alone is noticed */
	identity_promote(&b, 300);
	identity_write(&b, true, 301);
	assert_int_equal(meet(&b, &a), IDENTITY_REFUSE_SPLIT_BRAIN);
}

/* The two steps at the end of a sync into clones come to what the commit of a staged one does: so
 * the model need not know them. In between there is no state. */
static void test_sync_into_clones(void **state)
{
	struct identity a, b, staged;

	(void)state;
	started(&a, &b);
	identity_write(&a, true, 200);
	for (unsigned was_primary = 0; was_primary < 2; was_primary++) {
		b.role = was_primary ? IDENTITY_PRIMARY : IDENTITY_SECONDARY;
		identity_accept(&b, &a, false, 20);
		identity_session(&a, &b, false);
		assert_null(identity_refuse_promotion(&b));
		staged = b;
		assert_true(identity_settle(&staged, 21));
		identity_touch(&b);
		assert_non_null(identity_refuse_promotion(&b));
		assert_true(identity_settle(&b, 21));
		assert_memory_equal(&b, &staged, sizeof(b));
	}
}

static void test_sync_in_place(void **state)
{
	struct identity a = node(), b = node();

	(void)state;
	identity_start_primary(&a, 100);
	identity_accept(&b, &a, true, 10);
	identity_session(&a, &b, true);
	assert_true(identity_touch_due(&b));
	identity_touch(&b);
	assert_false(identity_touch_due(&b));
	assert_non_null(identity_refuse_promotion(&b));
	assert_non_null(identity_refuse_primary(&b));
	/* interrupted; the primary writes on */
	identity_write(&a, true, 200);
	assert_int_equal(meet(&a, &b), IDENTITY_SYNC_INCREMENTAL);
	a.tracked = false;
	assert_int_equal(meet(&a, &b), IDENTITY_SYNC_FULL);
	a.tracked = true;
	replicate(&a, &b, 20);
	assert_null(identity_refuse_promotion(&b));
	assert_false(b.syncing);
}

/* However often a lone node is promoted and written to, the base stays in its line. */
static void test_history_keeps_base(void **state)
{
	struct identity a, b;

	(void)state;
	started(&a, &b);
	for (uint64_t i = 0; i < 3 * IDENTITY_HISTORY; i++) {
		identity_promote(&a, 1000 + i);
		identity_write(&a, true, 2000 + i);
	}
	assert_int_equal(a.nhistory, IDENTITY_HISTORY);
	assert_int_equal(meet(&a, &b), IDENTITY_SYNC_INCREMENTAL);
	for (unsigned i = 1; i < a.nhistory; i++)
		assert_true(a.history[i].number < a.history[i - 1].number);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_document),
		cmocka_unit_test(test_failover_and_back_unchanged),
		cmocka_unit_test(test_idle_promotion_leaves_no_trace),
		cmocka_unit_test(test_link_loss_without_write),
		cmocka_unit_test(test_split_brain_and_resolution),
		cmocka_unit_test(test_superseded),
		cmocka_unit_test(test_missed_end_of_sync),
		cmocka_unit_test(test_sync_in_place),
		cmocka_unit_test(test_sync_into_clones),
		cmocka_unit_test(test_history_keeps_base),
	};

	if (argc != 2)
		return 2;
	document = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
