/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Replays a corpus through a libFuzzer target, and a number of mutations of it that depend on the
 * seed alone.  usage: fuzz_NAME CORPUS-DIRECTORY [MUTATIONS [SEED]]; a single FILE is replayed as
 * it is.  A crash names the mutation, so that it can be had again. */
#include <dirent.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

#define FUZZ_MAX_FILES 256
#define FUZZ_MAX_SIZE (512u << 10)

struct fuzz_input {
	char *name;
	uint8_t *data;
	size_t size;
};

static struct fuzz_input inputs[FUZZ_MAX_FILES];
static size_t ninputs;
static char running[320]; /* for the signal handler */

static void fuzz_crashed(int sig)
{
	(void)!write(STDERR_FILENO, running, strlen(running));
	signal(sig, SIG_DFL);
	raise(sig);
}

static void fuzz_load(const char *path)
{
	struct fuzz_input *in = &inputs[ninputs];
	FILE *fp = fopen(path, "re");

	if (!fp || ninputs == FUZZ_MAX_FILES) {
		fprintf(stderr, "cannot take %s\n", path);
		exit(1);
	}
	in->name = strdup(path);
	in->data = malloc(FUZZ_MAX_SIZE);
	in->size = fread(in->data, 1, FUZZ_MAX_SIZE, fp);
	fclose(fp);
	ninputs++;
}

static int fuzz_by_name(const void *a, const void *b)
{
	return strcmp(((const struct fuzz_input *)a)->name, ((const struct fuzz_input *)b)->name);
}

static void fuzz_load_all(const char *path)
{
	struct stat st;
	struct dirent *d;
	char file[1024];
	DIR *dir;

	if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
		fuzz_load(path);
		return;
	}
	dir = opendir(path);
	if (!dir) {
		perror(path);
		exit(1);
	}
	while ((d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%s", path, d->d_name);
		fuzz_load(file);
	}
	closedir(dir);
	/* The order of a directory is not the same everywhere; that of the mutations must be. */
	qsort(inputs, ninputs, sizeof(inputs[0]), fuzz_by_name);
}

/* One change of buf, of at most FUZZ_MAX_SIZE bytes; the new size. */
static size_t fuzz_mutate(uint8_t *buf, size_t size, struct fuzz_random *rnd)
{
	static const uint64_t numbers[] = {0, 1, 2, 7, 8, 63, 64, 255, 4095, 4096, 65535, 1u << 20,
		(1u << 20) + 1, 0x7fffffff, 0xffffffff, 1ull << 32, 1ull << 62, (1ull << 62) + 1,
		INT64_MAX, UINT64_MAX};
	size_t at = size ? fuzz_random(rnd, size) : 0;
	size_t field = at & ~(size_t)3, n, from;

	switch (fuzz_random(rnd, 8)) {
	case 0:
		if (size)
			buf[at] ^= (uint8_t)(1u << fuzz_random(rnd, 8));
		return size;
	case 1:
		if (size)
			buf[at] = (uint8_t)fuzz_random(rnd, 256);
		return size;
	case 2:
	case 3: {
		uint64_t v = numbers[fuzz_random(rnd, sizeof(numbers) / sizeof(numbers[0]))];

		v += fuzz_random(rnd, 3) - 1;
		n = fuzz_random(rnd, 2) ? 8 : 4;
		if (field + n <= size)
			memcpy(buf + field, &v, n);
		return size;
	}
	case 4: /* leave out */
		field &= ~(size_t)7;
		n = 8 * (1 + fuzz_random(rnd, 32));
		if (field + n > size)
			return field;
		memmove(buf + field, buf + field + n, size - field - n);
		return size - n;
	case 5: /* repeat: a record has its length in front, whole headers are most common */
		field &= ~(size_t)7;
		n = fuzz_random(rnd, 2) ? 64 : 8 * (1 + fuzz_random(rnd, 64));
		if (field + n > size || size + n > FUZZ_MAX_SIZE)
			return size;
		memmove(buf + field + n, buf + field, size - field);
		return size + n;
	case 6: { /* a piece of another input */
		const struct fuzz_input *other = &inputs[fuzz_random(rnd, ninputs)];

		from = other->size ? fuzz_random(rnd, other->size) & ~(size_t)7 : 0;
		n = other->size - from;
		field &= ~(size_t)7;
		if (field + n > FUZZ_MAX_SIZE)
			n = FUZZ_MAX_SIZE - field;
		memcpy(buf + field, other->data + from, n);
		return field + n > size ? field + n : size;
	}
	default: /* end early */
		return at;
	}
}

int main(int argc, char **argv)
{
	unsigned long mutations = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	unsigned long seed = argc > 3 ? strtoul(argv[3], NULL, 10) : 1;
	uint8_t *buf = malloc(FUZZ_MAX_SIZE);

	if (argc < 2 || argc > 4 || !buf) {
		fprintf(stderr, "usage: %s CORPUS [MUTATIONS [SEED]]\n", argv[0]);
		return 2;
	}
	signal(SIGABRT, fuzz_crashed);
	signal(SIGSEGV, fuzz_crashed);
	fuzz_load_all(argv[1]);
	for (size_t i = 0; i < ninputs; i++) {
		snprintf(running, sizeof(running), "crashed by %.250s\n", inputs[i].name);
		LLVMFuzzerTestOneInput(inputs[i].data, inputs[i].size);
	}
	for (unsigned long i = 0; ninputs && i < mutations; i++) {
		struct fuzz_random rnd = {seed * 1000003 + i};
		const struct fuzz_input *in = &inputs[fuzz_random(&rnd, ninputs)];
		size_t size = in->size;
		uint8_t *exact;

		snprintf(running, sizeof(running),
			"crashed by mutation %lu of seed %lu, of %.200s\n", i, seed, in->name);
		memcpy(buf, in->data, size);
		for (uint64_t n = 1 + fuzz_random(&rnd, 6); n > 0; n--)
			size = fuzz_mutate(buf, size, &rnd);
		exact = malloc(size + 1); /* so that a read behind the end is seen */
		memcpy(exact + 1, buf, size);
		LLVMFuzzerTestOneInput(exact + 1, size);
		free(exact);
	}
	printf("%zu inputs and %lu mutations of them\n", ninputs, ninputs ? mutations : 0);
	for (size_t i = 0; i < ninputs; i++) {
		free(inputs[i].name);
		free(inputs[i].data);
	}
	free(buf);
	return ninputs ? 0 : 1;
}
