/*
 * wal_serve.c
 *	  What recovery asks for.
 *
 * Between two questions a running archiver may have stored what was missing, or
 * removed pieces of what it stored: then everything is asked again.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/wal_serve.h"

#include <stdatomic.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "flow/aside.h"

#define ATTEMPTS	4
#define AGAIN_US	50000

/* ---- history files ---- */

static bool
see_object(void *arg, const char *name, uint64 size, DrError *err)
{
	char	   *proof = arg;

	if (object_kind(name) == KIND_UNKNOWN)
		return true;
	strlcpy(proof, name, sizeof(ObjectName));
	return dr_error(err, DR_CANCELLED, "enough");
}

/* A directory alone is none: it is made before the first object, and may stay without. */
static bool
find_object(Repository *repo, const char *dir, ObjectName proof, DrError *err)
{
	proof[0] = '\0';
	return store_list(repo->store, dir, false, see_object, proof, err) || proof[0] != '\0';
}

/* An object of its timeline or a later one proves that an absent history file is a hole. */
static bool
history_absence_proven(Repository *repo, const char *sysid, const char *file, TimeLineID tli,
					   DrError *err)
{
	Listing		l;
	char		prefix[64];
	bool		proven = true;

	snprintf(prefix, sizeof(prefix), "%s/wal/", sysid);
	if (!repository_list(repo, prefix, false, &l, err))
		return false;
	for (size_t i = 0; proven && i < l.n; i++)
	{
		const char *dir = l.names[i] + strlen(prefix);
		ObjectName	proof;

		if (strlen(dir) != 9 || strtoul(dir, NULL, 16) < tli || tli <= 1)
			continue;
		proven = find_object(repo, l.names[i], proof, err);
		if (proven && proof[0] != '\0')
		{
			dr_error(err, DR_DAMAGED, "timeline history file \"%s\" is missing from the repository", file);
			dr_detail(err, "Object \"%s/wal/%08X/%s\" does not exist, but \"%s\" does.",
					  sysid, tli, file, proof);
			proven = dr_hint(err, "Without it recovery would end on an older timeline; bring it back from a copy.");
		}
	}
	listing_free(&l);
	return proven;
}

/* ---- what there is of a segment that is not archived ---- */

/* One listing of everything that sorts behind the segment. */
typedef struct Behind
{
	const char *segment;
	WalFile		wal;
	uint32		segment_size;	/* 0: not known, then nothing is far */
	ObjectName	name;			/* the segment's own */
	TailName   *pieces;			/* of the segment, as listed: by incarnation and offset */
	size_t		n;
	ObjectName	proof;			/* empty: none */
	bool		enough;
} Behind;

/* More than WAL_WINDOW behind?  While nobody knows how long segments are, at least so many are between. */
static bool
is_far(const Behind *b, const char *file)
{
	char		digits[25];
	WalFile		wal;
	uint64		distance;

	strlcpy(digits, file, sizeof(digits));
	if (!wal_file_parse(digits, &wal))
		return false;
	if (b->segment_size != 0)
		distance = wal_segment_number(&wal, b->segment_size) - wal_segment_number(&b->wal, b->segment_size);
	else if (wal.log == b->wal.log)
		distance = wal.seg - b->wal.seg;
	else
		distance = (uint64) (wal.log - b->wal.log - 1) * XLogSegmentsPerXLogId(WalSegMaxSize) + wal.seg + 1;
	return distance > WAL_WINDOW;
}

static bool
see_behind(void *arg, const char *name, uint64 size, DrError *err)
{
	Behind	   *b = arg;
	ObjectKind	kind = object_kind(name);
	TailName	tail;

	if (kind == KIND_TAIL && tail_name_parse(name, &tail) && strcmp(tail.segment, b->segment) == 0)
	{
		b->pieces = array_room(b->pieces, b->n, sizeof(TailName));
		b->pieces[b->n++] = tail;
		return true;
	}
	/* Its own note sorts behind it, too. */
	if (kind == KIND_FRONTIER || ((kind == KIND_WAL || kind == KIND_TAIL) && is_far(b, strrchr(name, '/') + 1)))
	{
		strlcpy(b->proof, name, sizeof(b->proof));
		b->enough = true;
		return dr_error(err, DR_CANCELLED, "enough");
	}
	return true;
}

static bool
look_behind(WalServe *w, const char *segment, Behind *b, DrError *err)
{
	char		prefix[64];

	memset(b, 0, sizeof(*b));
	b->segment = segment;
	b->segment_size = w->segment_size;
	wal_file_parse(segment, &b->wal);
	name_wal(b->name, w->sysid, segment);
	snprintf(prefix, sizeof(prefix), "%s/wal/%.8s/", w->sysid, segment);
	return store_list_after(w->repo->store, prefix, b->name, see_behind, b, err) || b->enough;
}

/* ---- pieces ---- */

typedef struct Fetch
{
	WalServe   *w;
	TailName   *names;
	Bytes	   *plains;
	int64	   *times;
	size_t		n;
	atomic_size_t next;
	atomic_bool vanished;		/* or failed: nobody needs the others */
} Fetch;

static bool
fetch_pieces(void *arg, DrError *err)
{
	Fetch	   *f = arg;
	StoreResult r = STORE_OK;
	size_t		i;

	while (!atomic_load(&f->vanished) && (i = atomic_fetch_add(&f->next, 1)) < f->n)
	{
		ObjectName	name;
		SealHeader	header = {0};

		name_tail(name, f->w->sysid, &f->names[i]);
		r = repository_get_plain(f->w->repo, name, WAL_OBJECT_MAX, &f->plains[i], &header, err);
		f->times[i] = header.created;
		if (r != STORE_OK)
			atomic_store(&f->vanished, true);
		if (r == STORE_ABSENT)
			dr_error(err, DR_DAMAGED, "object \"%s\" was listed, but does not exist", name);
		if (r != STORE_OK)
			return false;
	}
	return true;
}

/* Behind what is there: pieces that adjoin, in order; a gap ends them. */
static void
append_pieces(WalServe *w, Fetch *f, bool all)
{
	for (size_t i = 0; i < f->n; i++)
	{
		if (all && f->names[i].offset == w->assembled.len)
		{
			w->stored_at = f->times[i];
			bytes_append(&w->assembled, f->plains[i].data, f->plains[i].len);
		}
		bytes_free(&f->plains[i]);
	}
}

static uint32
newest_incarnation(const Behind *b)
{
	uint32		newest = 0;

	for (size_t i = 0; i < b->n; i++)
		if (b->pieces[i].offset == 0)
			newest = Max(newest, b->pieces[i].incarnation);
	return newest;
}

/* G1: of the newest incarnation that has a beginning, what is not assembled yet. */
static bool
assemble(WalServe *w, const Behind *b, DrError *err)
{
	uint32		newest = newest_incarnation(b);
	Fetch		f = {.w = w};
	bool		ok;

	if (newest != w->tail.incarnation || strcmp(w->tail.segment, b->segment) != 0)
	{
		w->assembled.len = 0;
		strlcpy(w->tail.segment, b->segment, sizeof(w->tail.segment));
		w->tail.incarnation = newest;
	}
	f.names = pg_malloc(sizeof(TailName) * (b->n + 1));
	for (size_t i = 0; i < b->n; i++)
		if (newest > 0 && b->pieces[i].incarnation == newest && b->pieces[i].offset >= w->assembled.len)
			f.names[f.n++] = b->pieces[i];
	f.plains = pg_malloc0(sizeof(Bytes) * (f.n + 1));
	f.times = pg_malloc0(sizeof(int64) * (f.n + 1));
	ok = aside_together((int) Min(f.n, (size_t) w->threads), fetch_pieces, &f, err);
	append_pieces(w, &f, ok);
	free(f.plains);
	free(f.times);
	free(f.names);
	return ok;
}

/* ---- the verdict ---- */

/* What was assembled as a whole segment: its header says how long that is. */
static bool
hand_out(WalServe *w, const char *segment, Bytes *plain, bool *whole, DrError *err)
{
	XLogLongPageHeaderData header;

	if (w->assembled.len < sizeof(header))
		return dr_error(err, DR_DAMAGED, "the tail of WAL segment \"%s\" is too short", segment);
	memcpy(&header, w->assembled.data, sizeof(header));
	if (!wal_header_check(w->assembled.data, w->assembled.len, header.xlp_seg_size, w->sysid, segment, err))
		return false;
	if (!IsValidWalSegSize(header.xlp_seg_size) || w->assembled.len > header.xlp_seg_size)
		return dr_error(err, DR_DAMAGED, "the tail of WAL segment \"%s\" is longer than a segment", segment);
	w->segment_size = header.xlp_seg_size;
	*whole = w->assembled.len == header.xlp_seg_size;
	bytes_append(plain, w->assembled.data, w->assembled.len);
	bytes_reserve(plain, header.xlp_seg_size - plain->len);
	memset(plain->data + plain->len, 0, header.xlp_seg_size - plain->len);
	plain->len = header.xlp_seg_size;
	return true;
}

static bool
missing(const Behind *b, DrError *err)
{
	dr_error(err, DR_DAMAGED, "WAL segment \"%s\" is missing from the repository", b->segment);
	dr_detail(err, "Object \"%s\" does not exist, but \"%s\" does.", b->name, b->proof);
	return dr_hint(err, "Recovery can't go past this gap. Recover to a point before it, "
				   "or bring the object back from a copy.");
}

static StoreResult
get_archived(WalServe *w, const char *file, Bytes *plain, DrError *err)
{
	SealHeader	header;
	StoreResult r = wal_fetch(w->repo, w->sysid, file, plain, &header, err);

	w->archived = r == STORE_OK;
	if (r == STORE_OK && strlen(file) == 24)	/* no history, and no .partial */
		w->segment_size = (uint32) plain->len;
	return r;
}

/* It is not archived; is it in the tail, or nowhere? */
static StoreResult
from_tail(WalServe *w, const char *segment, Bytes *plain, DrError *err)
{
	Behind		b;
	bool		whole = false;
	bool		any;
	bool		ok = look_behind(w, segment, &b, err) && assemble(w, &b, err);
	StoreResult r = STORE_FAILED;

	free(b.pieces);
	if (!ok || (r = get_archived(w, segment, plain, err)) != STORE_ABSENT)
		return r;				/* G4 */
	plain->len = 0;
	any = w->assembled.len > 0;
	if (any && !hand_out(w, segment, plain, &whole, err))
		return STORE_FAILED;
	if (!whole && b.proof[0] != '\0')
	{
		missing(&b, err);
		return STORE_FAILED;	/* G2 */
	}
	if (any)
		return STORE_OK;
	dr_error(err, DR_ABSENT, "WAL segment \"%s\" is not in the repository", segment);
	return STORE_ABSENT;
}

static StoreResult
not_archived(WalServe *w, const char *file, const WalFile *wal, Bytes *plain, DrError *err)
{
	if (wal->kind == KIND_WAL)
		return from_tail(w, file, plain, err);
	if (!repository_confirm_absent(w->repo, err) ||
		(wal->kind == KIND_HISTORY && !history_absence_proven(w->repo, w->sysid, file, wal->timeline, err)))
		return STORE_FAILED;
	dr_error(err, DR_ABSENT, "WAL file \"%s\" is not in the repository", file);
	return STORE_ABSENT;
}

StoreResult
wal_serve(WalServe *w, const char *file, Bytes *plain, DrError *err)
{
	WalFile		wal;
	StoreResult r = STORE_FAILED;

	if (!wal_file_parse(file, &wal))
	{
		dr_error(err, DR_CONFIG, "\"%s\" is not the name of a WAL file", file);
		return STORE_FAILED;
	}
	for (int i = 0; i < ATTEMPTS; i++)
	{
		plain->len = 0;
		r = get_archived(w, file, plain, err);
		if (r != STORE_ABSENT)
			break;
		plain->len = 0;
		r = not_archived(w, file, &wal, plain, err);
		if (r != STORE_FAILED || err->code != DR_DAMAGED)
			break;
		usleep(AGAIN_US);		/* somebody may be storing it just now */
	}
	return r;
}

void
wal_serve_free(WalServe *w)
{
	bytes_free(&w->assembled);
}
