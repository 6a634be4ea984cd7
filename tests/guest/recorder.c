/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs inside the test guest. It writes numbered records to two disks in a strict order, so that a
 * later look at the disks tells whether both stand at one and the same moment.
 *
 * Record n (from 0, 512 bytes) goes first to a file on the ext4 file system of one disk, is
 * fsynced, and only then goes to byte n*512 of the other, raw disk, is synced there too, and only
 * then is announced as
 * "@@ synced n". With K records in the file and M on the raw disk, any crash leaves K == M or K ==
 * M+1.
 *
 * usage: recorder record|check FILE RAW-DISK
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	RECORD_SIZE = 512,
	/* Prime, so that a record or page in a wrong place never looks right. */
	PATTERN_PERIOD = 251,
	MAGIC_AT = 0,
	NUMBER_AT = 8,
	CRC_AT = 16,
	PATTERN_AT = 20,
	CHUNK_SIZE = 256 * RECORD_SIZE,
};

static const char magic[8] = "TDMREC01";

enum seen {
	SEEN_GOOD,
	SEEN_ZEROES,
	SEEN_BAD,
};

struct tally {
	uint64_t good;       /* records 0..good-1 are right */
	uint64_t errors;     /* records that are neither right nor absent */
	uint64_t unfinished; /* a zero record at the end of the file: its data never arrived */
};

static void __attribute__((noreturn)) die(const char *what)
{
	printf("@@ error %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint32_t crc32(const unsigned char *p, size_t len)
{
	uint32_t crc = ~0u;

	while (len--) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

static void put_le(unsigned char *p, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (unsigned char)(value >> 8 * i);
}

static void make_record(unsigned char *rec, uint64_t n)
{
	memcpy(rec + MAGIC_AT, magic, sizeof magic);
	put_le(rec + NUMBER_AT, n, 8);
	for (int i = PATTERN_AT; i < RECORD_SIZE; i++)
		rec[i] = (unsigned char)((n * RECORD_SIZE + (uint64_t)i) % PATTERN_PERIOD);
	put_le(rec + CRC_AT, 0, 4);
	put_le(rec + CRC_AT, crc32(rec, RECORD_SIZE), 4);
}

static enum seen look_at(const unsigned char *rec, uint64_t n)
{
	unsigned char want[RECORD_SIZE];

	if (rec[0] == 0 && memcmp(rec, rec + 1, RECORD_SIZE - 1) == 0)
		return SEEN_ZEROES;
	make_record(want, n);
	return memcmp(rec, want, RECORD_SIZE) == 0 ? SEEN_GOOD : SEEN_BAD;
}

/*
 * Reads everything, also what is behind the last record: a record behind a gap is an error.
 * In the file the zeroes of one unfinished last record are legal: ext4 may commit the new size of
 * the file before it writes the data into a block the file already owns. On the raw disk all that
 * follows is zero.
 */
static struct tally scan(int fd, int is_file, unsigned char *chunk)
{
	struct tally t = {0};
	uint64_t n = 0, zeroes = 0;
	ssize_t got;

	while ((got = pread(fd, chunk, CHUNK_SIZE, (off_t)(n * RECORD_SIZE))) > 0) {
		if (got % RECORD_SIZE != 0) {
			printf("@@ note an odd length after record %llu\n", (unsigned long long)n);
			t.errors++;
		}
		for (ssize_t at = 0; at + RECORD_SIZE <= got; at += RECORD_SIZE, n++) {
			enum seen seen = look_at(chunk + at, n);

			if (seen == SEEN_ZEROES) {
				zeroes++;
			} else if (seen == SEEN_BAD || zeroes) {
				if (t.errors++ < 5)
					printf("@@ note record %llu is wrong or stands behind a "
					       "gap\n",
						(unsigned long long)n);
			} else {
				t.good++;
			}
		}
		if (got < CHUNK_SIZE)
			break;
	}
	if (got < 0)
		die("read");
	if (is_file) {
		t.unfinished = zeroes;
		if (zeroes > 1)
			t.errors += zeroes - 1;
	}
	return t;
}

static void write_record(int fd, const unsigned char *rec, uint64_t n, const char *where)
{
	ssize_t put = pwrite(fd, rec, RECORD_SIZE, (off_t)(n * RECORD_SIZE));

	if (put != RECORD_SIZE) {
		if (put >= 0)
			errno = ENOSPC;
		die(where);
	}
}

static int record(int file, int raw, const struct tally *on_file, const struct tally *on_raw,
	unsigned char *rec)
{
	uint64_t n = on_raw->good;

	/* The record that had reached the file only is completed first: the file already holds it.
	 */
	printf("@@ recording from %llu\n", (unsigned long long)n);
	for (;; n++) {
		make_record(rec, n);
		if (n >= on_file->good) {
			write_record(file, rec, n, "write to the file");
			if (fsync(file) != 0)
				die("fsync of the file");
		}
		write_record(raw, rec, n, "write to the raw disk");
		if (fdatasync(raw) != 0)
			die("fdatasync of the raw disk");
		printf("@@ synced %llu\n", (unsigned long long)n);
	}
}

int main(int argc, char **argv)
{
	int recording = argc == 4 && strcmp(argv[1], "record") == 0;
	int file, raw, ok;
	struct tally on_file = {0}, on_raw;
	unsigned char *chunk;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!recording && !(argc == 4 && strcmp(argv[1], "check") == 0)) {
		fprintf(stderr, "usage: recorder record|check FILE RAW-DISK\n");
		return 2;
	}
	chunk = aligned_alloc(4096, CHUNK_SIZE);
	if (!chunk)
		die("memory");
	file = recording ? open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0644)
			 : open(argv[2], O_RDONLY | O_CLOEXEC);
	/* A crash may come before the file: no records yet. */
	if (file < 0 && (recording || errno != ENOENT))
		die(argv[2]);
	/* Direct, so that each record is one write of one sector, and a check reads the device
	 * itself. */
	raw = open(argv[3], (recording ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	if (raw < 0)
		die(argv[3]);

	if (file >= 0)
		on_file = scan(file, 1, chunk);
	on_raw = scan(raw, 0, chunk);
	ok = on_file.errors + on_raw.errors == 0 &&
	     (on_file.good == on_raw.good || on_file.good == on_raw.good + 1);
	if (!recording || !ok)
		printf("@@ check vda=%llu vdb=%llu ok=%d errors=%llu unfinished=%llu\n",
			(unsigned long long)on_file.good, (unsigned long long)on_raw.good, ok,
			(unsigned long long)(on_file.errors + on_raw.errors),
			(unsigned long long)on_file.unfinished);
	if (!ok)
		return 1;
	return recording ? record(file, raw, &on_file, &on_raw, chunk) : 0;
}
