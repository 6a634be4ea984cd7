/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The replica's receive path on arbitrary bytes, while everything around it (journal, images,
 * power, operator) does its part at once or in an order drawn from the input.
 *
 * Input: 8 bytes of options, then records as a primary sends them after its HELLO.  Options: byte 0
 * flags (below); byte 1 the staging limit in chunks, less 2 (bits 0..3), how much is fed at once
 * (bits 4..6), and whether the records come again and again until the journal has wrapped (bit 7);
 * bytes 2..7 seed, whose highest bit says that the group has a guest.
 * With TANDEM_FUZZ_JOURNALS=DIR the journals that come of it are left there for the decoder. */
#include <errno.h>
#include <string.h>

#include "util/bytes.h"
#include "world.h"

#define FUZZ_OPTIONS 8u
#define FUZZ_COUNTED 8u
#define FUZZ_AGAIN 128u
#define FUZZ_AGAIN_BYTES (20u << 20)

enum fuzz_flag {
	FUZZ_READY = 1,   /* begin with a committed state */
	FUZZ_MANUAL = 2,  /* commit-policy = manual */
	FUZZ_EARLY = 4,   /* acknowledge when sealed */
	FUZZ_LATE = 8,    /* complete things now and then only */
	FUZZ_EVENTS = 16, /* commit, discard, connections, power cuts, a local writer */
	FUZZ_REPAIR = 32, /* records are made valid, with numbers and counts that fit */
	FUZZ_EPOCHS = 64, /* with that: epochs close to those that are open */
	FUZZ_EDGE = 128,  /* the log begins shortly before a segment's end */
};

struct fuzz_count {
	uint64_t epoch, changes, bytes;
};

struct fuzz_run {
	struct world w;
	struct fuzz_random rnd;
	unsigned flags;
	bool session;
	uint64_t seq, floor;
	uint64_t first, base;    /* first epoch named in the session, and which number it got */
	uint64_t changes, bytes; /* of the session */
	struct fuzz_count counts[FUZZ_COUNTED];
};

static void fuzz_begin(struct fuzz_run *f)
{
	struct replica_status s;

	/* As the link does: memory of former sessions goes first. */
	while (!replica_memory_idle(f->w.r) && world_complete(&f->w, fuzz_random(&f->rnd, 64)))
		;
	FUZZ_REQUIRE(replica_memory_idle(f->w.r));
	replica_session_begin(f->w.r);
	s = world_status(&f->w);
	f->session = true;
	f->seq = 1;
	f->floor = max_u64(s.open, s.received);
	f->first = 0;
	f->base = f->floor + 1;
	f->changes = f->bytes = 0;
	memset(f->counts, 0, sizeof(f->counts));
}

static void fuzz_end(struct fuzz_run *f)
{
	if (f->session)
		replica_session_end(f->w.r);
	f->session = false;
}

static void fuzz_local(struct fuzz_run *f)
{
	static uint8_t data[70000];
	uint64_t off = fuzz_random(&f->rnd, WORLD_SIZE - sizeof(data)), epoch;
	uint64_t len = 1 + fuzz_random(&f->rnd, sizeof(data));
	enum replica_mode mode = world_status(&f->w).mode;
	int r;

	/* A fill is for groups of disks. */
	if (mode == REPLICA_EMPTY && !f->w.cfg.image && fuzz_random(&f->rnd, 4) == 0)
		FUZZ_REQUIRE(replica_local_fill_end(f->w.r, &epoch) == 0);
	else if (mode == REPLICA_EMPTY)
		FUZZ_REQUIRE(replica_local_cut(f->w.r, &epoch) == -EIO);
	if (mode != REPLICA_READY && mode != REPLICA_DIRECT)
		return;
	if (fuzz_random(&f->rnd, 4) == 0)
		r = replica_local_cut(f->w.r, &epoch);
	else
		r = replica_local_change(
			f->w.r, 0, off, len, fuzz_random(&f->rnd, 3) ? data : NULL, true);
	FUZZ_REQUIRE(r == 0 || r == -EAGAIN);
}

static void fuzz_event(struct fuzz_run *f)
{
	struct replica_status s = world_status(&f->w);
	uint64_t n, bytes;

	switch (fuzz_random(&f->rnd, 24)) {
	case 0:
		fuzz_end(f);
		break;
	case 1:
		world_power_cut(&f->w);
		f->session = false;
		break;
	case 2:
		replica_discard(f->w.r, &n, &bytes);
		if (n)
			fuzz_end(f);
		break;
	case 3:
	case 4:
	case 5:
		(void)replica_commit(f->w.r, s.committed + 1 + fuzz_random(&f->rnd, 4));
		break;
	case 6:
		world_read_source(&f->w, fuzz_random(&f->rnd, 1u << 30));
		break;
	case 7:
		replica_rx_idle(f->w.r);
		break;
	case 8:
		(void)replica_rx_stuck(f->w.r);
		break;
	case 9:
	case 10:
		if (!f->session)
			fuzz_local(f);
		break;
	case 11:
		if (fuzz_random(&f->rnd, 20) == 0)
			world_fail(&f->w);
		break;
	}
}

static struct fuzz_count *fuzz_counts(struct fuzz_run *f, uint64_t epoch)
{
	struct fuzz_count *c = &f->counts[epoch % FUZZ_COUNTED];

	if (c->epoch != epoch)
		*c = (struct fuzz_count){.epoch = epoch};
	return c;
}

/* Makes the record fit the session as far as its flags say.  Returns its size, 0 = none. */
static size_t fuzz_repair(struct fuzz_run *f, uint8_t *buf, size_t len)
{
	uint16_t type;
	uint64_t epoch;
	struct fuzz_count *c;

	if (len < RECORD_HEADER_SIZE)
		return 0;
	type = get_le16(buf + 4);
	epoch = get_le64(buf + 16);
	put_le64(buf + 40, f->seq++);
	if ((f->flags & FUZZ_EPOCHS) && epoch && f->w.cfg.image) {
		/* Their order counts: SEALs of a guest come one after the other. */
		f->first = f->first ? f->first : epoch;
		epoch = f->base + (epoch - f->first) % 16;
		put_le64(buf + 16, epoch);
	} else if ((f->flags & FUZZ_EPOCHS) && epoch) {
		epoch = f->floor + 1 + epoch % 4;
		put_le64(buf + 16, epoch);
	}
	(void)fuzz_repair_record(buf, len); /* so that the length of a WRITE is right */
	c = fuzz_counts(f, epoch);
	if (type == RECORD_WRITE || type == RECORD_ZERO || type == RECORD_PAGES ||
		type == RECORD_STATE) {
		c->changes++;
		c->bytes += get_le64(buf + 32);
		f->changes++;
		f->bytes += get_le64(buf + 32);
	} else if (type == RECORD_SEAL) {
		put_le64(buf + 24, c->changes);
		put_le64(buf + 32, c->bytes);
		f->floor = max_u64(f->floor, epoch);
	} else if (type == RECORD_SYNC_END) {
		put_le64(buf + 24, f->changes);
		put_le64(buf + 32, f->bytes);
		if (!f->w.cfg.image) /* with one SEAL closes it */
			f->floor = max_u64(f->floor, epoch);
	}
	return fuzz_repair_record(buf, len);
}

/* Waits for room, as the link does, by completing what is due.  false = there will be none. */
static bool fuzz_buffer(struct fuzz_run *f, uint8_t **ret_at, size_t *ret_room)
{
	for (unsigned i = 0; !replica_rx_buffer(f->w.r, ret_at, ret_room); i++)
		if (replica_rx_stuck(f->w.r) || !world_complete(&f->w, fuzz_random(&f->rnd, 64)))
			return false;
	FUZZ_REQUIRE(*ret_room > 0);
	return true;
}

/* Gives bytes to the replica in pieces; false = it has refused them, or cannot take more. */
static bool fuzz_feed(struct fuzz_run *f, const uint8_t *data, size_t len, size_t piece)
{
	while (len > 0 && f->session) {
		unsigned goodbye = 77;
		const char *why = NULL;
		uint8_t *at;
		size_t room, n;
		int r;

		if (!fuzz_buffer(f, &at, &room))
			return false;
		n = min_u64(min_u64(len, room), 1 + fuzz_random(&f->rnd, piece));
		/* All of the room is ours, which the sanitizer is to see. */
		memset(at, 0xee, room);
		/* The lock is not held while the link receives. */
		if ((f->flags & FUZZ_EVENTS) && fuzz_random(&f->rnd, 8) == 0) {
			uint64_t ignored;

			replica_discard(f->w.r, &ignored, NULL);
			(void)replica_commit(f->w.r, world_status(&f->w).committed + 1);
		}
		if (f->flags & FUZZ_LATE)
			(void)world_complete(&f->w, fuzz_random(&f->rnd, 64));
		memcpy(at, data, n);
		r = replica_rx_done(f->w.r, n, &goodbye, &why);
		FUZZ_REQUIRE(r == 0 || r == -EPROTO);
		FUZZ_REQUIRE(r == 0 || why);
		world_check(&f->w);
		if (r < 0)
			return false;
		data += n;
		len -= n;
		if (!(f->flags & FUZZ_LATE))
			world_complete_all(&f->w);
		else if (fuzz_random(&f->rnd, 3) == 0)
			(void)world_complete(&f->w, fuzz_random(&f->rnd, 64));
		world_check(&f->w);
	}
	return f->session;
}

static void fuzz_stream(struct fuzz_run *f, const uint8_t *data, size_t size, size_t piece)
{
	uint8_t *copy = malloc(size + 1);
	size_t at = 0;

	memcpy(copy, data, size);
	while (at < size) {
		size_t n = size - at;

		if (!f->session)
			fuzz_begin(f);
		if (f->flags & FUZZ_REPAIR) {
			n = fuzz_repair(f, copy + at, size - at);
			if (n == 0)
				n = size - at;
		}
		if (!fuzz_feed(f, copy + at, n, piece)) {
			fuzz_end(f);
			if (!(f->flags & FUZZ_REPAIR))
				break;
		}
		at += n;
		if (f->flags & FUZZ_EVENTS)
			fuzz_event(f);
		world_check(&f->w);
	}
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t pieces[] = {1, 64, 100, 1000, 4096, 65536, 1u << 18, 1u << 20};
	struct replica_config cfg = {.volumes = WORLD_VOLUMES, .sizes = {WORLD_SIZE, WORLD_SIZE}};
	const char *journals = getenv("TANDEM_FUZZ_JOURNALS");
	static unsigned number;
	struct fuzz_run f = {0};
	size_t rounds = 1, piece;

	if (size < FUZZ_OPTIONS)
		return 0;
	f.flags = data[0];
	f.rnd.state = get_le64(data);
	cfg.manual = f.flags & FUZZ_MANUAL;
	cfg.keep = true;
	cfg.ack_when_sealed = f.flags & FUZZ_EARLY;
	cfg.staging_limit = (2 + (data[1] & 15u)) * (uint64_t)JOURNAL_CHUNK_MAX;
	piece = pieces[data[1] >> 4 & 7];
	if ((data[1] & FUZZ_AGAIN) && size > 4096 && piece > 10000)
		rounds = 1 + FUZZ_AGAIN_BYTES / size;
	if (data[FUZZ_OPTIONS - 1] & 128) {
		cfg.volumes = 3;
		cfg.memory = 1;
		cfg.state = 2;
		cfg.sizes[1] = WORLD_MEMORY;
		cfg.sizes[2] = 1 << 20;
	}
	world_init(&f.w, &cfg, f.flags & FUZZ_READY ? 10 : 0,
		f.flags & FUZZ_EDGE ? JOURNAL_MIN_RING - 3 * JOURNAL_BLOCK : 0);
	f.w.hold = journals != NULL;
	while (rounds-- > 0)
		fuzz_stream(&f, data + FUZZ_OPTIONS, size - FUZZ_OPTIONS, piece);
	/* As a power cut would leave it. */
	if (journals && !f.w.failed)
		world_save(&f.w, journals, ++number);
	fuzz_end(&f);
	world_complete_all(&f.w);
	world_check(&f.w);
	/* What is committed is there after a restart. */
	world_power_cut(&f.w);
	world_complete_all(&f.w);
	world_deinit(&f.w);
	return 0;
}
