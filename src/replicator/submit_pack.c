/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory and state of a submit: the descriptor's table is checked whole first, then everything is
 * read once, and goes into the stream as PAGES and STATE records. Data is copied out of the
 * descriptor before it is looked at, so nothing that the controller does with it meanwhile can
 * make a record other than sound. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "replicator/submit_internal.h"
#include "util/bytes.h"
#include "util/fault.h"

struct submit_entry {
	uint64_t offset, length, data;
};

static struct submit_entry submit_entry(const uint8_t *table, uint64_t i)
{
	const uint8_t *at = table + i * SUBMIT_RUN;

	return (struct submit_entry){get_le64(at), get_le64(at + 8), get_le64(at + 16)};
}

static int submit_read(int fd, void *buf, uint64_t len, uint64_t off)
{
	uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = pread(fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int submit_unreadable(struct submit_job *job, int r)
{
	return error_set(&job->err, r == -ENODATA ? ERROR_USAGE : ERROR_IO, r,
		"cannot read the descriptor: %s",
		r == -ENODATA ? "it ends before what the request names" : strerror(-r));
}

static bool submit_entry_bad(const struct submitter *s, const struct submit_entry *e)
{
	uint64_t size = s->n->conf->guest_memory;

	return e->length == 0 || e->length % PAGES_PAGE || e->offset % PAGES_PAGE ||
	       e->offset > size || e->length > size - e->offset ||
	       (e->data != SUBMIT_ZERO && e->data > RECORD_MAX_LENGTH);
}

/* Entries [first, first + *ret_count) of the table, checked. */
static int submit_load_table(
	struct submitter *s, struct submit_job *job, uint64_t first, uint64_t *ret_count)
{
	uint64_t n = min_u64(job->runs - first, SUBMIT_TABLE);
	int r = submit_read(
		job->table_fd, s->table, n * SUBMIT_RUN, job->table + first * SUBMIT_RUN);

	if (r < 0)
		return submit_unreadable(job, r);
	for (uint64_t i = 0; i < n; i++) {
		struct submit_entry e = submit_entry(s->table, i);

		if (submit_entry_bad(s, &e))
			return error_set(&job->err, ERROR_USAGE, -EINVAL,
				"run %llu of the table (offset %llu, length %llu) is not whole "
				"pages inside the guest's %llu bytes",
				(unsigned long long)(first + i), (unsigned long long)e.offset,
				(unsigned long long)e.length,
				(unsigned long long)s->n->conf->guest_memory);
	}
	*ret_count = n;
	return 0;
}

/* The payload (table or nothing, then data) stands at payload; 0 or -ENOTCONN. */
static int submit_send(
	struct submitter *s, struct submit_job *job, struct record *rec, const uint8_t *payload)
{
	struct node *n = s->n;
	uint8_t *slot;

	pthread_mutex_lock(&n->lock);
	slot = sender_memory(n->sender, rec, job->session);
	pthread_mutex_unlock(&n->lock);
	if (!slot)
		return error_set(
			&job->err, ERROR_PEER, -ENOTCONN, "the link to the secondary was lost");
	sender_publish(n->sender, slot, rec, payload);
	job->sent += record_size(rec->payload);
	return 0;
}

/* Data at raw + SUBMIT_ROOM, table of table bytes before it in the record. */
static int submit_record(struct submitter *s, struct submit_job *job, struct record *rec,
	uint32_t table, uint32_t data)
{
	uint8_t *from = s->raw;
	size_t packed = 0;

	if (s->flag && data > 0) {
		packed = compress_pack(&s->compress, s->flag, s->raw + SUBMIT_ROOM, data,
			s->packed + SUBMIT_ROOM, RECORD_MAX_PAYLOAD - table);
		if (packed) {
			from = s->packed;
			rec->flags |= (uint16_t)s->flag;
		}
	}
	rec->payload = table + (packed ? (uint32_t)packed : data);
	for (uint32_t i = 0; i < table / PAGES_RUN; i++)
		pages_put_run(from + SUBMIT_ROOM - table, i, &s->run[i]);
	return submit_send(s, job, rec, from + SUBMIT_ROOM - table);
}

/* What was gathered becomes a PAGES record. */
static int submit_flush(struct submitter *s, struct submit_job *job)
{
	struct record rec = {.type = RECORD_PAGES,
		.volume = s->n->nvolumes,
		.offset = s->runs,
		.length = s->length};
	int r = 0;

	if (s->runs)
		r = submit_record(s, job, &rec, s->runs * PAGES_RUN, s->data);
	s->runs = s->data = 0;
	s->length = 0;
	return r;
}

static int submit_zero_run(
	struct submitter *s, struct submit_job *job, uint64_t offset, uint64_t length)
{
	struct pages_run *last = s->runs ? &s->run[s->runs - 1] : NULL;
	int r = 0;

	job->zero += length;
	if (last && last->zero && last->offset + last->length == offset) {
		last->length += length;
		s->length += length;
		return 0;
	}
	if (s->runs == PAGES_MAX_RUNS)
		r = submit_flush(s, job);
	if (r == 0)
		s->run[s->runs++] = (struct pages_run){offset, length, true, false};
	s->length += length;
	return r;
}

/* length at most PAGES_MAX_DATA; delta: the data is the difference to what was sent last. */
static int submit_data_run(struct submitter *s, struct submit_job *job, uint64_t offset,
	uint64_t length, const uint8_t *data, bool delta)
{
	while (length > 0) {
		struct pages_run *last = s->runs ? &s->run[s->runs - 1] : NULL;
		bool joins = last && !last->zero && last->delta == delta &&
			     last->offset + last->length == offset;
		uint64_t n = min_u64(length, PAGES_MAX_DATA - s->data);

		if (n == 0 || (!joins && s->runs == PAGES_MAX_RUNS)) {
			int r = submit_flush(s, job);

			if (r < 0)
				return r;
			continue;
		}
		memcpy(s->raw + SUBMIT_ROOM + s->data, data, n);
		if (joins)
			last->length += n;
		else
			s->run[s->runs++] = (struct pages_run){offset, n, false, delta};
		s->data += (uint32_t)n;
		s->length += n;
		offset += n;
		data += n;
		length -= n;
	}
	return 0;
}

/* Pages that are all zero. */
static int submit_zero_pages(
	struct submitter *s, struct submit_job *job, uint64_t offset, uint64_t length)
{
	if (s->remember)
		sent_pages_forget(s->sent, offset / PAGES_PAGE, length / PAGES_PAGE);
	return submit_zero_run(s, job, offset, length);
}

/* Others: whole, or as a difference to what was sent last, or not at all where there is none. */
static int submit_data_pages(struct submitter *s, struct submit_job *job, uint64_t offset,
	uint64_t length, const uint8_t *data)
{
	uint8_t delta[PAGES_PAGE];
	int r = 0;

	if (!s->remember)
		return submit_data_run(s, job, offset, length, data, false);
	for (uint64_t at = 0; r == 0 && at < length; at += PAGES_PAGE) {
		switch (sent_pages_swap(s->sent, (offset + at) / PAGES_PAGE, data + at, delta)) {
		case SENT_PAGES_NEW:
			r = submit_data_run(s, job, offset + at, PAGES_PAGE, data + at, false);
			break;
		case SENT_PAGES_EQUAL:
			job->equal += PAGES_PAGE;
			break;
		case SENT_PAGES_DELTA:
			job->delta += PAGES_PAGE;
			r = submit_data_run(s, job, offset + at, PAGES_PAGE, delta, true);
			break;
		}
	}
	return r;
}

/* Bytes of the data from entry i on that stand in a row in the descriptor, at most a window. */
static uint64_t submit_ahead(const struct submitter *s, uint64_t i, uint64_t count, uint64_t done)
{
	struct submit_entry e = submit_entry(s->table, i);
	uint64_t len = e.length - done, end = e.data + e.length;

	while (len < SUBMIT_WINDOW && ++i < count) {
		e = submit_entry(s->table, i);
		if (e.data != end)
			break;
		len += e.length;
		end += e.length;
	}
	return min_u64(len, SUBMIT_WINDOW);
}

/* One entry: read, split into zero and other pages. */
static int submit_run(struct submitter *s, struct submit_job *job, uint64_t i, uint64_t count)
{
	struct submit_entry e = submit_entry(s->table, i);

	job->bytes += e.length;
	if (e.data == SUBMIT_ZERO)
		return submit_zero_pages(s, job, e.offset, e.length);
	for (uint64_t at = 0; at < e.length;) {
		uint64_t from = e.data + at, n, end;
		const uint8_t *p;
		bool zero;
		int r;

		if (from < s->window_at || from >= s->window_at + s->window_len) {
			s->window_len = 0;
			n = submit_ahead(s, i, count, at);
			r = submit_read(job->data_fd, s->window, n, from);
			if (r < 0)
				return submit_unreadable(job, r);
			s->window_at = from;
			s->window_len = n;
		}
		p = s->window + (from - s->window_at);
		n = min_u64(e.length - at, s->window_at + s->window_len - from);
		/* A window may end within a page only when runs do not stand on whole pages there.
		 */
		if (n < PAGES_PAGE) {
			s->window_len = 0;
			continue;
		}
		zero = bytes_all_zero(p, PAGES_PAGE);
		for (end = PAGES_PAGE; end + PAGES_PAGE <= n; end += PAGES_PAGE)
			if (bytes_all_zero(p + end, PAGES_PAGE) != zero)
				break;
		r = zero ? submit_zero_pages(s, job, e.offset + at, end)
			 : submit_data_pages(s, job, e.offset + at, end, p);
		if (r < 0)
			return r;
		at += end;
	}
	return 0;
}

static int submit_state(struct submitter *s, struct submit_job *job)
{
	for (uint64_t at = 0; at < job->state_bytes;) {
		uint32_t n = (uint32_t)min_u64(job->state_bytes - at, RECORD_MAX_PAYLOAD);
		struct record rec = {.type = RECORD_STATE,
			.volume = s->n->nvolumes + 1,
			.offset = job->state_offset + at,
			.length = n};
		int r = submit_read(job->data_fd, s->raw + SUBMIT_ROOM, n, job->state_data + at);

		if (r < 0)
			return submit_unreadable(job, r);
		r = submit_record(s, job, &rec, 0, n);
		if (r < 0)
			return r;
		at += n;
	}
	job->bytes += job->state_bytes;
	return 0;
}

/* Digests of count blocks of one volume, which has size bytes, as CHECKs. */
static int submit_digests_of(
	struct submitter *s, struct submit_job *job, uint32_t volume, uint64_t size, uint64_t from)
{
	for (uint64_t at = 0; at < size;) {
		uint64_t len = min_u64(size - at, (uint64_t)MEMCHECK_RECORD * MEMCHECK_BLOCK);
		struct record rec = {.type = RECORD_CHECK,
			.volume = volume,
			.offset = at,
			.length = len,
			.payload = (uint32_t)memcheck_blocks(len) * MEMCHECK_DIGEST};
		int r = submit_read(job->table_fd, s->raw, rec.payload,
			from + at / MEMCHECK_BLOCK * MEMCHECK_DIGEST);

		if (r < 0)
			return submit_unreadable(job, r);
		r = submit_send(s, job, &rec, s->raw);
		if (r < 0)
			return r;
		at += len;
	}
	return 0;
}

static int submit_digests(struct submitter *s, struct submit_job *job)
{
	uint64_t memory = s->n->conf->guest_memory, from = job->digest_data;
	int r = submit_digests_of(s, job, s->n->nvolumes, memory, from);

	return r < 0 ? r
		     : submit_digests_of(s, job, s->n->nvolumes + 1,
			       job->state_offset + job->state_bytes,
			       from + memcheck_blocks(memory) * MEMCHECK_DIGEST);
}

/* (L) Whether what is sent now is what the secondary will know of a page; and, the answer, whether
 * nothing counts any more that was sent before. */
static bool submit_remember(struct submitter *s, const struct submit_job *job, bool whole)
{
	bool anew = s->sent && (s->distrust || s->sent_session != job->session);

	s->sent_session = job->session;
	s->distrust = false;
	s->remember = s->sent && whole;
	return anew;
}

/* The epoch is the one whose memory may come, and the state has no gap before it. */
static int submit_check(struct submitter *s, struct submit_job *job)
{
	struct node *n = s->n;
	uint64_t lowest, state_len;
	bool over, anew;

	pthread_mutex_lock(&n->lock);
	over = sender_session_id(n->sender) != job->session;
	lowest = primary_memory_epoch(sender_core(n->sender));
	state_len = sender_core(n->sender)->state_len;
	anew = submit_remember(s, job, primary_memory_whole(sender_core(n->sender)));
	pthread_mutex_unlock(&n->lock);
	if (anew) /* some ms: not under the lock */
		sent_pages_clear(s->sent);
	if (over)
		return error_set(
			&job->err, ERROR_PEER, -ENOTCONN, "the link to the secondary was lost");
	if (job->epoch == 0)
		job->epoch = lowest;
	if (job->epoch != lowest)
		return error_set(&job->err, ERROR_STATE, -ENOENT,
			"memory of epoch %llu cannot come now: epoch %llu is the lowest that is "
			"not "
			"sealed",
			(unsigned long long)job->epoch, (unsigned long long)lowest);
	if (job->state_bytes && job->state_offset > state_len)
		return error_set(&job->err, ERROR_USAGE, -EINVAL,
			"state-offset %llu is behind the end of the state so far (%llu bytes)",
			(unsigned long long)job->state_offset, (unsigned long long)state_len);
	if (job->digests &&
		(!job->state_bytes || job->digests != memcheck_blocks(n->conf->guest_memory) +
							      memcheck_blocks(job->state_offset +
									      job->state_bytes)))
		return error_set(&job->err, ERROR_USAGE, -EINVAL,
			"%llu digests: they are those of all memory and, with state-bytes, of the "
			"whole state",
			(unsigned long long)job->digests);
	return 0;
}

void submit_pack(struct submitter *s, struct submit_job *job)
{
	uint64_t count = 0;
	int r = submit_check(s, job);

	s->window_len = 0;
	s->runs = s->data = 0;
	s->length = 0;
	for (uint64_t i = 0; r == 0 && i < job->runs; i += count)
		r = submit_load_table(s, job, i, &count);
	for (uint64_t i = 0; r == 0 && i < job->runs; i += count) {
		if (job->runs > SUBMIT_TABLE)
			r = submit_load_table(s, job, i, &count);
		for (uint64_t k = 0; r == 0 && k < count; k++)
			r = submit_run(s, job, k, count);
	}
	if (r == 0)
		r = submit_flush(s, job);
	if (job->state_bytes) /* a checkpoint: its memory is in the stream, its state is not */
		fault_point(FAULT_PRIMARY_SUBMIT);
	if (r == 0 && job->state_bytes)
		r = submit_state(s, job);
	if (r == 0 && job->digests)
		r = submit_digests(s, job);
	if (job->state_bytes)
		fault_point(FAULT_PRIMARY_SUBMITTED);
	if (r < 0 && s->sent) /* some of it was not sent */
		sent_pages_clear(s->sent);
	job->result = r;
}
