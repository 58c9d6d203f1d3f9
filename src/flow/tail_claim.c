/*
 * tail_claim.c
 *	  Is the tail that is in the repository this server's to go on with?
 *
 * What a reader would put together is compared with the server's own file.  They
 * may differ where a crash left an unfinished record at the end, and only there.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/tail_claim.h"

#include <fcntl.h>
#include <unistd.h>

#include "core/wal_page.h"
#include "flow/wal_serve.h"

#define THREADS			4
#define READ_AT_ONCE	(256 * 1024)

bool
tail_refuse(DrError *err, TimeLineID tli)
{
	dr_error(err, DR_CONFLICT, "the repository has WAL of timeline %u that this server has not written", tli);
	return dr_hint(err, "Either two servers write the same timeline: stop the one that should not. Or this one was set "
				   "back to an earlier state: promote it, so that it goes on with a timeline of its own.");
}

/* ---- before the first piece ---- */

static size_t
common_length(const uint8 *a, const uint8 *b, size_t n)
{
	size_t		i = 0;

	while (i < n && a[i] == b[i])
		i++;
	return i;
}

/* With how many of these bytes the server's file begins, too. */
static bool
count_common(const char *path, const uint8 *data, size_t n, size_t *common, DrError *err)
{
	uint8	   *own = pg_malloc(READ_AT_ONCE);
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t		r = fd < 0 && errno != ENOENT ? -1 : 0;

	*common = 0;
	while (fd >= 0 && *common < n)
	{
		size_t		same;

		r = pread(fd, own, Min(n - *common, READ_AT_ONCE), *common);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			break;
		same = common_length(own, data + *common, r);
		*common += same;
		if (same < (size_t) r)
			break;
	}
	if (r < 0)
		dr_error(err, DR_IO, "could not read WAL file \"%s\": %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	free(own);
	return r >= 0;
}

/* n bytes of plain were written; the others are zeros. */
static bool
has_whole_records(const WalSource *source, TimeLineID tli, const char *segment, const Bytes *plain, size_t n,
				  DrError *err)
{
	char	   *path = psprintf("%s/pg_wal/%s", source->data_directory, segment);
	char		until[LSN_TEXT_MAX];
	char		from[LSN_TEXT_MAX];
	WalFile		wal;
	XLogRecPtr	base;
	XLogRecPtr	whole;
	size_t		common;
	bool		ok = count_common(path, plain->data, n, &common, err);

	pfree(path);
	if (!ok || !wal_file_parse(segment, &wal))
		return false;
	base = wal_segment_number(&wal, source->segment_size) * source->segment_size;
	whole = wal_whole_until(plain->data, n, source->sysid, tli, source->segment_size, base);
	if (whole <= base + common)
		return true;
	tail_refuse(err, tli);
	lsn_format(until, whole);
	lsn_format(from, base + common);
	return dr_detail(err, "Of segment \"%s\" it has records up to %s; this server's file differs from %s on.", segment, until, from);
}

static bool
segment_is_ours(const WalSource *source, TimeLineID tli, const char *segment, DrError *err)
{
	WalServe	w = {.repo = source->repo,.sysid = source->sysid,.threads = THREADS,.segment_size = source->segment_size};
	Bytes		plain = {0};
	StoreResult r = wal_serve(&w, segment, &plain, err);
	bool		ok = r != STORE_FAILED;

	if (r == STORE_OK && plain.len != source->segment_size)
	{
		tail_refuse(err, tli);
		ok = dr_detail(err, "Its segment \"%s\" has " UINT64_FORMAT " bytes.", segment, (uint64) plain.len);
	}
	else if (r == STORE_OK)
		ok = has_whole_records(source, tli, segment, &plain, w.assembled.len > 0 ? w.assembled.len : plain.len, err);
	else if (r == STORE_FAILED && err->code == DR_DAMAGED)
	{
		/* To every reader, too: there is nothing that we could hide. */
		fprintf(stderr, "could not read what is in the repository of unfinished segment \"%s\", and begin it anew: %s\n", segment, err->message);
		ok = true;
	}
	bytes_free(&plain);
	wal_serve_free(&w);
	return ok;
}

bool
tail_is_ours(const WalSource *source, TimeLineID tli, const char *from, const TailName *pieces, size_t n, DrError *err)
{
	for (size_t i = 0; i < n; i++)
	{
		const char *segment = pieces[i].segment;
		bool		seen = i > 0 && strcmp(pieces[i - 1].segment, segment) == 0;

		if (!seen && strcmp(segment, from) >= 0 && !segment_is_ours(source, tli, segment, err))
			return false;
	}
	return true;
}

/* ---- while pieces are shipped ---- */

typedef struct Search
{
	uint32		than;
	TailName   *newer;
} Search;

static bool
see_piece(void *arg, const char *name, uint64 size, DrError *err)
{
	Search	   *s = arg;
	TailName	tail;

	if (object_kind(name) != KIND_TAIL || !tail_name_parse(name, &tail) || tail.incarnation <= s->than)
		return true;
	*s->newer = tail;
	return dr_error(err, DR_CANCELLED, "enough");
}

bool
tail_find_newer(const WalSource *source, const TailName *than, TailName *newer, DrError *err)
{
	Search		s = {.than = than->incarnation,.newer = newer};
	TailName	last = *than;
	ObjectName	after;
	char		prefix[64];

	memset(newer, 0, sizeof(*newer));
	last.offset = PG_UINT32_MAX;
	name_tail(after, source->sysid, &last);
	snprintf(prefix, sizeof(prefix), "%s/wal/%.8s/", source->sysid, than->segment);
	return store_list_after(source->repo->store, prefix, after, see_piece, &s, err) || newer->incarnation > 0;
}
