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
#include "flow/lineage.h"
#include "flow/wal_serve.h"

#define THREADS			4
#define LATECOMERS_US	60000000	/* another server learns a moment later that this one was adopted */
#define READ_AT_ONCE	(256 * 1024)

/* ---- before anything is stored ---- */

static size_t
common_length(const uint8 *a, const uint8 *b, size_t n)
{
	size_t		i = 0;

	while (i < n && a[i] == b[i])
		i++;
	return i;
}

/* With how many of these bytes the server's file begins, too, if there is one. */
static bool
count_common(const char *path, const uint8 *data, size_t n, bool *exists, size_t *common, DrError *err)
{
	uint8	   *own = pg_malloc(READ_AT_ONCE);
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t		r = fd < 0 && errno != ENOENT ? -1 : 0;

	*exists = fd >= 0;
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

static bool
refuse(const char *segment, XLogRecPtr whole, XLogRecPtr differs, DrError *err)
{
	char		until[LSN_TEXT_MAX];
	char		from[LSN_TEXT_MAX];

	lsn_format(until, whole);
	lsn_format(from, differs);
	dr_error(err, DR_CONFLICT, "the repository has WAL that this server has not written");
	dr_detail(err, "It has records of unfinished segment \"%s\" up to %s; this server's file differs from %s on.",
			  segment, until, from);
	return dr_hint(err, "If another server writes the same timeline, call dr_adopt() on the one that is to go on, then stop the other. "
				   "If this one was set back to an earlier state, restore from the repository, which has what it lost; "
				   "to give that up, call dr_adopt().");
}

/* So many bytes of the segment were shipped; the others are zeros. */
static bool
has_whole_records(const WalSource *source, const TailQuestion *q, const char *segment, const Bytes *plain, size_t n,
				  DrError *err)
{
	char	   *path = psprintf("%s/pg_wal/%s", source->data_directory, segment);
	bool		exists;
	size_t		common;
	bool		ok = count_common(path, plain->data, n, &exists, &common, err);
	WalFile		wal;
	XLogRecPtr	base;
	XLogRecPtr	whole;

	pfree(path);
	wal_file_parse(segment, &wal);
	if (!ok || common == n || (!exists && wal_segment_number(&wal, source->segment_size) < q->needed))
		return ok;
	base = wal_segment_number(&wal, source->segment_size) * source->segment_size;
	whole = wal_whole_until(plain->data, n, source->sysid, q->timeline, source->segment_size, base);
	return whole <= base + common || refuse(segment, whole, base + common, err);
}

/* The first time that a server writes nobody gives up anything by. */
static bool
given_up(const WalSource *source, int64 stored_at, bool *given, DrError *err)
{
	int64		adopted_at = 0;

	*given = false;
	if (source->lineage <= 1)
		return true;
	if (!lineage_written_at(source->repo, source->sysid, source->lineage, &adopted_at, err))
		return false;
	*given = stored_at < adopted_at + LATECOMERS_US;
	return true;
}

/* It has been archived meanwhile, and the server's file may be gone. */
static bool
is_archived(const WalSource *source, const char *segment, bool *archived, DrError *err)
{
	Bytes		plain = {0};
	SealHeader	header;
	StoreResult r = wal_fetch(source->repo, source->sysid, segment, &plain, &header, err);

	bytes_free(&plain);
	*archived = r == STORE_OK;
	return r == STORE_OK || r == STORE_ABSENT;
}

/* They differ: is that of no importance?  Else err is to stay. */
static bool
does_not_matter(const WalSource *source, const char *segment, int64 stored_at, DrError *err)
{
	bool		so;
	DrError		failed;

	if (given_up(source, stored_at, &so, &failed) && !so && is_archived(source, segment, &so, &failed) && !so)
		return false;
	if (!so)
		*err = failed;
	return so;
}

static bool
another_length(const char *segment, DrError *err)
{
	dr_error(err, DR_CONFLICT, "the repository has unfinished segment \"%s\" with another length of segments", segment);
	return dr_hint(err, "If this server is to go on without what it holds, call dr_adopt().");
}

static bool
segment_is_ours(const WalSource *source, const TailQuestion *q, const char *segment, DrError *err)
{
	WalServe	w = {.repo = source->repo,.sysid = source->sysid,.threads = THREADS,.segment_size = source->segment_size};
	Bytes		plain = {0};
	StoreResult r = wal_serve(&w, segment, &plain, err);
	bool		ok = r == STORE_ABSENT || (r == STORE_OK && w.archived);

	if (r == STORE_OK && !ok)
	{
		ok = plain.len == source->segment_size ? has_whole_records(source, q, segment, &plain, w.assembled.len, err) :
			another_length(segment, err);
		if (!ok && err->code == DR_CONFLICT)
			ok = does_not_matter(source, segment, w.stored_at, err);
	}
	else if (r == STORE_FAILED && err->code == DR_DAMAGED)
	{
		/* To every reader, too: there is nothing that we could hide. */
		fprintf(stderr, "unfinished segment \"%s\" is damaged in the repository and is begun anew: %s\n", segment, err->message);
		ok = true;
	}
	bytes_free(&plain);
	wal_serve_free(&w);
	return ok;
}

bool
tail_is_ours(const WalSource *source, const TailQuestion *q, bool *beyond, DrError *err)
{
	char		seen[25];		/* archived, or looked at */
	Listing		l;
	bool		ok = true;

	/* One before, for the first one's object is to be listed, too. */
	wal_segment_name(seen, q->timeline, Max(q->first, 1) - 1, source->segment_size);
	if (!wal_list_after(source->repo, source->sysid, seen, &l, err))
		return false;
	*beyond = false;
	for (size_t i = 0; ok && !*beyond && i < l.n; i++)
	{
		const char *file = strrchr(l.names[i], '/') + 1;
		TailName	piece;
		WalFile		wal;

		if (wal_file_parse(file, &wal) && wal.kind == KIND_WAL)
			strcpy(seen, file);
		if (!tail_name_parse(l.names[i], &piece) || strcmp(piece.segment, seen) == 0)
			continue;
		strcpy(seen, piece.segment);
		wal_file_parse(seen, &wal);
		*beyond = wal_segment_number(&wal, source->segment_size) > q->last;
		ok = *beyond || segment_is_ours(source, q, seen, err);
	}
	listing_free(&l);
	return ok;
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
