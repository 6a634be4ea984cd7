/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory backends of the command line, in either of QEMU's notations; see backends.h. */
#include "guest/backends.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/units.h"

#define BACKENDS_ALIGN 4096u

static bool backends_is_one_of(const char *key, const char *const *list)
{
	for (; *list; list++)
		if (!strcmp(key, *list))
			return true;
	return false;
}

/* What stays as it is. */
static const char *const backends_kept[] = {
	"host-nodes", "policy", "merge", "dump", "x-use-canonical-path-for-ramblock-id", NULL};
/* The same, unless the memory is there already: it would be written to. */
static const char *const backends_alloc[] = {
	"prealloc", "prealloc-threads", "prealloc-context", NULL};
/* What Tandem says instead, whatever stands there. */
static const char *const backends_own[] = {"qom-type", "id", "size", "share", "seal", NULL};

/* The kind, without "memory-backend-"; NULL: it is another object. */
static const char *backends_kind(const char *type)
{
	static const char begin[] = "memory-backend-";

	return strncmp(type, begin, sizeof(begin) - 1) ? NULL : type + sizeof(begin) - 1;
}

static int backends_check_kind(const char *type, const char *id, struct error *err)
{
	static const char *const kinds[] = {"ram", "memfd", "file", NULL};
	const char *kind = backends_kind(type);

	if (kind && backends_is_one_of(kind, kinds))
		return 0;
	return error_set(err, ERROR_CONFIG, -EINVAL,
		"[guest] qemu: memory backend \"%s\": a %s is not replicated", id, type);
}

static int backends_check_key(const char *key, const char *id, struct error *err)
{
	if (backends_is_one_of(key, backends_kept) || backends_is_one_of(key, backends_alloc) ||
		backends_is_one_of(key, backends_own))
		return 0;
	return error_set(err, ERROR_CONFIG, -EINVAL,
		"[guest] qemu: memory backend \"%s\": %s is not possible: Tandem gives the guest "
		"its memory",
		id, key);
}

/* One key of "type,key=value,..."; *p is moved behind it. */
static void backends_key(const char **p, char *key, size_t room)
{
	size_t n = strcspn(*p, ",="), all = strcspn(*p, ",");

	snprintf(key, room, "%.*s", (int)n, *p);
	*p += all;
	*p += **p == ',';
}

/* What stands behind the type, if the word begins with it alone. */
static const char *backends_keys(const char *word)
{
	char key[64];
	const char *p = word;

	if (strcspn(word, "=") < strcspn(word, ","))
		return word;
	backends_key(&p, key, sizeof(key));
	return p;
}

static int backends_take_plain(const char *word, struct backend *b, struct error *err)
{
	char type[64] = "", key[64], size[64] = "";
	const char *p = backends_keys(word);
	int r;

	(void)words_part(word, "qom-type", true, type, sizeof(type));
	(void)words_part(word, "size", false, size, sizeof(size));
	if (!words_part(word, "id", false, b->id, sizeof(b->id)))
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"[guest] qemu: -object %.100s: it has no id", word);
	r = backends_check_kind(type, b->id, err);
	while (r == 0 && *p) {
		backends_key(&p, key, sizeof(key));
		r = backends_check_key(key, b->id, err);
	}
	if (r == 0 && units_parse_size(size, &b->size) < 0)
		r = error_set(err, ERROR_CONFIG, -EINVAL,
			"[guest] qemu: memory backend \"%s\": \"%s\" is not a size", b->id, size);
	return r;
}

static int backends_take_json(json_t *o, struct backend *b, struct error *err)
{
	const char *type = json_string_value(json_object_get(o, "qom-type"));
	const char *id = json_string_value(json_object_get(o, "id")), *key;
	json_t *size = json_object_get(o, "size"), *value;
	int r;

	if (!id || strlen(id) >= sizeof(b->id))
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"[guest] qemu: a memory backend has no id, or a very long one");
	strcpy(b->id, id);
	r = backends_check_kind(type, id, err);
	json_object_foreach(o, key, value) if (r == 0) r = backends_check_key(key, id, err);
	if (r == 0 && (!json_is_integer(size) || json_integer_value(size) < 0))
		r = error_set(err, ERROR_CONFIG, -EINVAL,
			"[guest] qemu: memory backend \"%s\": size is not a number of bytes", id);
	b->size = r == 0 ? (uint64_t)json_integer_value(size) : 0;
	return r;
}

/* 1 = it is one, 0 = another object. */
static int backends_take(const char *word, struct backend *b, struct error *err)
{
	char type[64] = "";
	json_t *o;
	int r = 0;

	if (word[strspn(word, " \t")] != '{') {
		if (!words_part(word, "qom-type", true, type, sizeof(type)) || !backends_kind(type))
			return 0;
		r = backends_take_plain(word, b, err);
		return r < 0 ? r : 1;
	}
	o = json_loads(word, 0, NULL);
	if (!o) /* QEMU may read it all the same (single quotes) */
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"[guest] qemu: -object %.100s: it is not JSON", word);
	if (json_is_string(json_object_get(o, "qom-type")) &&
		backends_kind(json_string_value(json_object_get(o, "qom-type")))) {
		r = backends_take_json(o, b, err);
		r = r < 0 ? r : 1;
	}
	json_decref(o);
	return r;
}

static int backends_order(const void *a, const void *b)
{
	return strcmp(((const struct backend *)a)->id, ((const struct backend *)b)->id);
}

int backends_find(
	const struct words *w, uint64_t memory, struct backends *ret_backends, struct error *err)
{
	struct backends b = {.n = 0};
	uint64_t at = 0;

	for (size_t i = words_next(w, "object", 0); i; i = words_next(w, "object", i)) {
		struct backend one = {.word = i};
		int r = backends_take(w->v[i], &one, err);

		if (r < 0)
			return r;
		if (r == 0)
			continue;
		if (one.size == 0 || one.size % BACKENDS_ALIGN || one.size > memory)
			return error_set(err, ERROR_CONFIG, -EINVAL,
				"[guest] qemu: memory backend \"%s\": a size of %" PRIu64
				" bytes is not possible: whole pages, at most memory in [guest]",
				one.id, one.size);
		if (b.n == BACKENDS_MAX)
			return error_set(err, ERROR_CONFIG, -EINVAL,
				"[guest] qemu: more than %d memory backends", BACKENDS_MAX);
		b.v[b.n++] = one;
	}
	qsort(b.v, b.n, sizeof(b.v[0]), backends_order);
	for (unsigned i = 0; i < b.n; i++) {
		b.v[i].offset = at;
		at += b.v[i].size;
		if (i && !strcmp(b.v[i - 1].id, b.v[i].id))
			return error_set(err, ERROR_CONFIG, -EINVAL,
				"[guest] qemu: two memory backends are called \"%s\"", b.v[i].id);
	}
	if (b.n && at != memory)
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"[guest] qemu: its memory backends have %" PRIu64
			" bytes in all, memory in [guest] says %" PRIu64,
			at, memory);
	*ret_backends = b;
	return 0;
}

static char *backends_plain(const char *word, const struct backend *b, const char *path, bool there)
{
	char *out = malloc(strlen(word) + strlen(path) + 256), key[64];
	const char *p = backends_keys(word);
	int n;

	if (!out)
		return NULL;
	n = sprintf(out, "memory-backend-file,id=%s,share=on,size=%" PRIu64 ",mem-path=%s", b->id,
		b->size, path);
	while (*p) {
		const char *from = p;

		backends_key(&p, key, sizeof(key));
		if (backends_is_one_of(key, backends_kept) ||
			(!there && backends_is_one_of(key, backends_alloc)))
			n += sprintf(out + n, ",%.*s", (int)strcspn(from, ","), from);
	}
	return out;
}

static char *backends_json(const char *word, const char *path, bool there)
{
	json_t *o = json_loads(word, 0, NULL);
	char *out = NULL;

	(void)json_object_del(o, "seal");
	for (size_t i = 0; there && backends_alloc[i]; i++)
		(void)json_object_del(o, backends_alloc[i]);
	if (json_object_set_new(o, "qom-type", json_string("memory-backend-file")) == 0 &&
		json_object_set_new(o, "share", json_true()) == 0 &&
		json_object_set_new(o, "mem-path", json_string(path)) == 0)
		out = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return out;
}

int backends_put(struct words *w, const struct backends *b, int ram_fd, bool there)
{
	for (unsigned i = 0; i < b->n; i++) {
		char **word = &w->v[b->v[i].word], path[64], *new;
		int n = snprintf(path, sizeof(path), "/proc/self/fd/%d", ram_fd);

		if (b->n > 1)
			snprintf(path + n, sizeof(path) - (size_t)n, "%c%" PRIu64, BACKENDS_OFFSET,
				b->v[i].offset);
		new = (*word)[strspn(*word, " \t")] == '{'
			      ? backends_json(*word, path, there)
			      : backends_plain(*word, &b->v[i], path, there);
		if (!new)
			return -ENOMEM;
		free(*word);
		*word = new;
	}
	return 0;
}
