/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* QEMU's command line: the user's words, checked, and what Tandem adds (docs/guest.md). */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "guest/vm.h"
#include "util/units.h"

#define VM_NBD_RECONNECT_S                                                                         \
	30 /* requests of the guest wait that long for a replicator that is started again */

/* The kernel forgets PR_SET_PDEATHSIG of a process that changes its user. */
#define VM_OTHER_USER                                                                              \
	"QEMU would outlive the agent, which could not look at its memory: run tandem as that "    \
	"user"

/* Options that would take from Tandem what it must decide. */
static int vm_words_check(const struct vm_spec *spec, const struct words *w, struct error *err)
{
	static const struct {
		const char *option, *why;
	} refused[] = {
		{"incoming", "Tandem resumes the guest"},
		{"loadvm", "the guest boots, or goes on from a checkpoint"},
		{"daemonize", "the agent is QEMU's parent"},
		{"mem-path", "Tandem gives the guest its memory"},
		{"snapshot", "disks would not be replicated"},
		{"preconfig", "the agent needs a configured machine"},
		{"S", "Tandem starts the vCPUs"},
		{"runas", VM_OTHER_USER},
	};
	const char *m = words_option(w, "m"), *with = words_option(w, "run-with");
	char size[64], extra[64];
	uint64_t bytes;

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		if (words_has(w, refused[i].option))
			return error_set(err, ERROR_CONFIG, -EINVAL,
				"[guest] qemu: -%s is not possible: %s", refused[i].option,
				refused[i].why);
	if (with && words_part(with, "user", false, extra, sizeof(extra)))
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"[guest] qemu: -run-with user=%s is not possible: %s", extra,
			VM_OTHER_USER);
	if (!m)
		return 0;
	if (words_part(m, "maxmem", false, extra, sizeof(extra)) ||
		words_part(m, "slots", false, extra, sizeof(extra)))
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"[guest] qemu: -m %s: memory that is plugged later is not replicated", m);
	if (!words_part(m, "size", true, size, sizeof(size)))
		return 0;
	if (size[strspn(size, "0123456789")] == '\0')
		strcat(size, "M"); /* QEMU's unit */
	if (units_parse_size(size, &bytes) < 0 || bytes != spec->memory)
		return error_set(err, ERROR_CONFIG, -EINVAL,
			"[guest] qemu: -m %s is not what memory in [guest] says: leave it out", m);
	return 0;
}

/* A comma in a value is written twice. */
static int vm_words_disk(struct words *w, const char *name, const char *socket, bool incoming)
{
	char path[2 * sizeof(((struct conf_node *)0)->name) + 512], *to = path;
	int r;

	for (const char *p = socket; *p && to < path + sizeof(path) - 3; p++) {
		*to++ = *p;
		if (*p == ',')
			*to++ = ',';
	}
	*to = '\0';
	r = words_add(w, "-blockdev");
	if (r == 0)
		r = words_add(w,
			"driver=nbd,node-name=%s,server.type=unix,server.path=%s,export=%s%s,"
			"reconnect-delay=%d,discard=unmap",
			name, path, name, incoming ? "@resume" : "", VM_NBD_RECONNECT_S);
	return r;
}

static int vm_words_disks(struct words *w, size_t own, const struct vm_spec *spec)
{
	struct words user = {.v = w->v, .n = own, .program = w->program};
	int r = 0;

	for (unsigned i = 0; r == 0 && spec->node && i < spec->node->ndisks; i++) {
		const char *name = spec->node->disks[i].name;

		r = vm_words_disk(w, name, spec->nbd_socket, spec->incoming);
		user.v = w->v; /* it may have moved */
		if (r == 0 && !words_refer(&user, name)) {
			r = words_add(w, "-device");
			if (r == 0)
				r = words_add(w, "virtio-blk-pci,drive=%s,id=disk-%s", name, name);
		}
	}
	return r;
}

/* The machine and its memory: one backend of Tandem's, or those of the line. */
static int vm_words_machine(
	struct words *w, const struct vm_spec *spec, const char *machine, const struct backends *b)
{
	int r = words_add(w, "-machine");

	if (r == 0)
		r = words_add(w, "%s%s", machine, b->n ? "" : ",memory-backend=tandem-ram");
	if (r == 0)
		r = words_add(w, "-m");
	if (r == 0)
		r = words_add(w, "size=%" PRIu64 "k", spec->memory / 1024);
	if (b->n)
		return r < 0 ? r : backends_put(w, b, spec->ram_fd, spec->incoming);
	if (r == 0)
		r = words_add(w, "-object");
	if (r == 0)
		r = words_add(w,
			"memory-backend-file,id=tandem-ram,share=on,size=%" PRIu64
			",mem-path=/proc/self/fd/%d",
			spec->memory, spec->ram_fd);
	return r;
}

int vm_words(const struct vm_spec *spec, const char *machine, int qmp_fd, struct words *ret_words,
	struct backends *ret_backends, struct error *err)
{
	struct words w;
	size_t own;
	int r = words_split(&w, spec->qemu, err);

	if (r < 0)
		return error_prefix(err, "[guest] qemu");
	own = w.n;
	r = vm_words_check(spec, &w, err);
	if (r == 0)
		r = backends_find(&w, spec->memory, ret_backends, err);
	if (r < 0) {
		words_deinit(&w);
		return r;
	}
	if ((r = vm_words_machine(&w, spec, machine, ret_backends)) < 0 ||
		(r = words_add(&w, "-chardev")) < 0 ||
		(r = words_add(&w, "socket,id=tandem-qmp,fd=%d", qmp_fd)) < 0 ||
		(r = words_add(&w, "-mon")) < 0 ||
		(r = words_add(&w, "chardev=tandem-qmp,mode=control")) < 0 ||
		(r = vm_words_disks(&w, own, spec)) < 0 || (r = words_add(&w, "-S")) < 0 ||
		(spec->incoming && ((r = words_add(&w, "-incoming")) < 0 ||
					   (r = words_add(&w, "defer")) < 0))) {
		words_deinit(&w);
		return error_set(err, ERROR_GENERAL, r, "out of memory");
	}
	*ret_words = w;
	return 0;
}
