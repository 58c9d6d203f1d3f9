/*
 * holdings.c
 *	  All that a repository holds of one cluster, and what of it is needed.
 *
 * Nothing is written: a crash leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/holdings.h"

#include "flow/wal.h"

/* ---- objects ---- */

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* The object's place in the listing; SIZE_MAX: it is not there. */
static size_t
find_object(const Holdings *h, const char *name)
{
	char	  **found = h->all.n == 0 ? NULL :
		bsearch(&name, h->all.names, h->all.n, sizeof(char *), compare_names);

	return found == NULL ? SIZE_MAX : (size_t) (found - h->all.names);
}

static const char *
file_of(const Holdings *h, size_t object)
{
	return strrchr(h->all.names[object], '/') + 1;
}

bool
held_wal_segment(const Holdings *h, size_t object, TimeLineID *tli, uint64 *segno)
{
	ObjectKind	kind = object_kind(h->all.names[object]);
	char		file[25];
	WalFile		wal;

	if (kind != KIND_WAL && kind != KIND_PARTIAL && kind != KIND_BACKUP_HISTORY &&
		kind != KIND_FRONTIER && kind != KIND_TAIL)
		return false;
	strlcpy(file, file_of(h, object), sizeof(file));
	if (!wal_file_parse(file, &wal))
		return false;
	*tli = wal.timeline;
	*segno = wal_segment_number(&wal, h->segment_size);
	return true;
}

/* ---- backups ---- */

/* Objects of one backup follow each other in the listing. */
static void
group_backups(Holdings *h)
{
	HeldBackup *last = NULL;

	for (size_t i = 0; i < h->all.n; i++)
	{
		ObjectKind	kind = object_kind(h->all.names[i]);
		char		id[PGDR_BACKUP_ID_MAX + 1];

		if ((kind != KIND_PACK && kind != KIND_MANIFEST) || !backup_of_name(h->all.names[i], id))
			continue;
		if (last == NULL || strcmp(last->id, id) != 0)
		{
			h->backups = array_room(h->backups, h->n_backups, sizeof(HeldBackup));
			last = memset(&h->backups[h->n_backups++], 0, sizeof(HeldBackup));
			strlcpy(last->id, id, sizeof(last->id));
			last->first = i;
			last->running = is_among(h->running, h->n_running, id);
		}
		last->end = i + 1;
		last->has_manifest |= kind == KIND_MANIFEST;
	}
}

static void
see_pack(Holdings *h, HeldBackup *b, const ManifestPack *pack)
{
	size_t		object = find_object(h, pack->name);
	PackReference *reference;

	if (object == SIZE_MAX || h->all.sizes[object] != pack->size)
		b->has_packs = false;
	if (object == SIZE_MAX)
		return;
	h->flags[object] |= HELD_REFERENCED;
	h->references = array_room(h->references, h->n_references, sizeof(PackReference));
	reference = &h->references[h->n_references++];
	reference->backup = (uint32) (b - h->backups);
	reference->object = (uint32) object;
}

/* V1: damage is what is to be known of it; whatever else went wrong is an error. */
static bool
load_manifest(Holdings *h, HeldBackup *b, DrError *err)
{
	OpenManifest m;
	Record		record = {0};
	bool		ok = manifest_open(h->repo, h->sysid, b->id, &m, &b->error) == STORE_OK;

	if (ok)
	{
		b->has_packs = true;
		while (ok && record.type != RECORD_END)
		{
			ok = manifest_next(m.reader, &record, &b->error);
			if (ok && record.type == RECORD_PACK)
				see_pack(h, b, &record.u.pack);
		}
		if (ok)
		{
			b->manifest_size = m.object_size;
			b->info = m.info;
			memset(&m.info, 0, sizeof(m.info));
		}
		manifest_close(&m);
	}
	if (ok && b->info.wal_segment_size != h->segment_size)
		ok = dr_error(&b->error, DR_DAMAGED, "backup %s was made with WAL segments of another size", b->id);
	b->damaged = !ok;
	h->damaged += b->damaged;
	if (ok || b->error.code == DR_DAMAGED)
		return true;
	*err = b->error;
	if (err->code == DR_ABSENT)
		dr_hint(err, "It was there a moment ago: something else is at work in the repository. Try again.");
	return false;
}

static bool
load_backups(Holdings *h, DrError *err)
{
	size_t		n = 0;

	group_backups(h);
	for (size_t i = 0; i < h->n_backups; i++)
		if (h->backups[i].has_manifest && !load_manifest(h, &h->backups[i], err))
			return false;
	h->verdicts = pg_malloc0(sizeof(RetentionBackup) * (h->n_backups + 1));
	for (size_t i = 0; i < h->n_backups; i++)
	{
		HeldBackup *b = &h->backups[i];

		if (!b->has_manifest || b->damaged)
			continue;
		b->verdict = &h->verdicts[n++];
		b->verdict->info = &b->info;
		b->verdict->has_packs = b->has_packs;
	}
	h->retention.backups = h->verdicts;
	h->retention.n = n;
	return true;
}

/* ---- WAL ---- */

static void
gather_wal(Holdings *h, TimeLineID *newest, size_t *last_segment)
{
	h->wal.files = pg_malloc(sizeof(char *) * (h->all.n + 1));
	h->wal.noted = pg_malloc(sizeof(char *) * (h->all.n + 1));
	*newest = 1;
	*last_segment = SIZE_MAX;
	for (size_t i = 0; i < h->all.n; i++)
	{
		ObjectKind	kind = object_kind(h->all.names[i]);
		WalFile		wal;

		if (kind == KIND_WAL)
		{
			h->wal.files[h->wal.n++] = (char *) file_of(h, i);
			*last_segment = i;
		}
		else if (kind == KIND_FRONTIER)
			h->wal.noted[h->wal.n_noted++] = (char *) file_of(h, i);
		if ((kind == KIND_WAL || kind == KIND_HISTORY) && wal_file_parse(file_of(h, i), &wal))
			*newest = Max(*newest, wal.timeline);
	}
}

static bool
load_history(Holdings *h, TimeLineID tli, DrError *err)
{
	if (!wal_history(h->repo, h->sysid, tli, &h->histories[h->retention.n_histories], err))
		return false;
	h->retention.n_histories++;
	return true;
}

/* The server's way, and the repository's newest one, when that is another. */
static bool
load_histories(Holdings *h, TimeLineID newest, DrError *err)
{
	h->retention.histories = h->histories;
	if (h->timeline != 0 && h->timeline != newest && !load_history(h, h->timeline, err))
	{
		if (err->code != DR_ABSENT)
			return false;
		/* A copy that archives nothing may ask what the repository's own cluster would keep. */
		if (!h->only_asking)
			return dr_hint(err, "The history of the server's timeline is archived soon after it began: try again then.");
	}
	return load_history(h, newest, err);
}

static bool
load_wal(Holdings *h, DrError *err)
{
	TimeLineID	newest;
	size_t		last;
	SealHeader	header;
	DrError		ignored;		/* then it is no evidence of the time */

	gather_wal(h, &newest, &last);
	if (!load_histories(h, newest, err))
		return false;
	h->retention.wal = &h->wal;
	h->retention.segment_size = h->segment_size;
	if (last != SIZE_MAX && repository_check_ends(h->repo, h->all.names[last], h->all.sizes[last], &header, &ignored))
		h->retention.newest_wal = header.created;
	return true;
}

/* ---- backups without a manifest ---- */

/* When it began, from its id: no object of it can be older. */
static int64
began_at(const char *id)
{
	char		text[TIME_TEXT_MAX];
	int64		us = PG_INT64_MAX;

	snprintf(text, sizeof(text), "%.4s-%.2s-%.2sT%.2s:%.2s:%.2sZ", id, id + 4, id + 6, id + 9, id + 11, id + 13);
	return time_parse(text, &us) ? us : PG_INT64_MAX;
}

static bool
is_old(const Holdings *h, int64 at)
{
	return at <= h->retention.now - HOLDINGS_DEAD_AGE;
}

/* Of an expired backup only packs may be left that others need. */
static bool
all_referenced(const Holdings *h, const HeldBackup *b)
{
	for (size_t i = b->first; i < b->end; i++)
		if ((h->flags[i] & HELD_REFERENCED) == 0)
			return false;
	return true;
}

/* What has been marked was complete, or dead, then.  Else each object must be old, and open. */
static bool
find_dead(Holdings *h, HeldBackup *b, DrError *err)
{
	SealHeader	header;

	b->shared = !b->has_manifest && all_referenced(h, b);

	b->dead = !b->running && !b->has_manifest && expire_mark_backup(h->mark, b->id) != 0;
	if (b->dead || b->shared || b->running || b->has_manifest || !is_old(h, began_at(b->id)))
		return true;
	for (size_t i = b->end; i-- > b->first;)
	{
		if (!repository_check_ends(h->repo, h->all.names[i], h->all.sizes[i], &header, err))
			return err->code == DR_DAMAGED || err->code == DR_ABSENT;	/* so it is not proven */
		if (!is_old(h, header.created))
			return true;
	}
	b->dead = true;
	return true;
}

/* ---- what goes ---- */

/* Packs, and the manifest itself. */
static void
decide_backup(Holdings *h, const HeldBackup *b)
{
	bool		goes = b->has_manifest ? b->verdict != NULL && !b->verdict->keep : b->dead;

	for (size_t i = b->first; goes && i < b->end; i++)
		if ((h->flags[i] & HELD_NEEDED) == 0)
			h->flags[i] |= HELD_GOES;
}

static void
decide_backups(Holdings *h)
{
	for (size_t i = 0; i < h->n_references; i++)
	{
		const HeldBackup *b = &h->backups[h->references[i].backup];

		if (b->verdict == NULL || b->verdict->keep)
			h->flags[h->references[i].object] |= HELD_NEEDED;
	}
	for (size_t i = 0; i < h->n_backups; i++)
		decide_backup(h, &h->backups[i]);
}

/*
 * Of the notes of what goes behind something that stays, the first and the last
 * stay too: whoever recovers up to there must see that there had been more.
 */
static void
keep_notes(Holdings *h, size_t first, size_t last)
{
	if (first == SIZE_MAX)
		return;
	h->flags[first] &= ~HELD_GOES;
	h->flags[last] &= ~HELD_GOES;
}

static void
decide_wal(Holdings *h)
{
	TimeLineID	timeline = 0;
	bool		stays = false;	/* something before, on this timeline */
	size_t		first = SIZE_MAX;	/* note of the row that goes */
	size_t		last = SIZE_MAX;

	for (size_t i = 0; i < h->all.n; i++)
	{
		TimeLineID	tli;
		uint64		segno;
		bool		needed;

		if (!held_wal_segment(h, i, &tli, &segno))
			continue;
		needed = retention_needs_segment(&h->retention, tli, segno);
		if (needed || tli != timeline)
		{
			keep_notes(h, first, last);
			first = last = SIZE_MAX;
		}
		stays = needed || (stays && tli == timeline);
		timeline = tli;
		if (needed)
			continue;
		h->flags[i] |= HELD_GOES;
		if (stays && object_kind(h->all.names[i]) == KIND_FRONTIER)
		{
			first = first == SIZE_MAX ? i : first;
			last = i;
		}
	}
	keep_notes(h, first, last);
}

bool
holdings_load(Holdings *h, DrError *err)
{
	char	   *prefix = psprintf("%s/", h->sysid);
	bool		ok = repository_list(h->repo, prefix, true, &h->all, err);

	pfree(prefix);
	h->flags = pg_malloc0(h->all.n + 1);
	if (!ok || !load_backups(h, err) || !load_wal(h, err))
		return false;
	retention_judge(&h->retention);
	for (size_t i = 0; h->keep_all && i < h->retention.n; i++)
		h->verdicts[i].keep = true;
	for (size_t i = 0; i < h->n_backups; i++)
		if (!find_dead(h, &h->backups[i], err))
			return false;
	decide_backups(h);
	decide_wal(h);
	return true;
}

void
holdings_free(Holdings *h)
{
	for (size_t i = 0; i < h->n_backups; i++)
		backup_info_free(&h->backups[i].info);
	for (int i = 0; i < (int) lengthof(h->histories); i++)
		history_free(&h->histories[i]);
	free(h->backups);
	free(h->references);
	free(h->verdicts);
	free(h->flags);
	free(h->wal.files);
	free(h->wal.noted);
	listing_free(&h->all);
}

/* ---- rows of segments that go ---- */

WalRow *
holdings_wal_rows(const Holdings *h, size_t *n)
{
	WalRow	   *rows = NULL;
	bool		adjoins = false;
	TimeLineID	last_tli = 0;
	uint64		last_segno = 0;

	*n = 0;
	for (size_t i = 0; i < h->all.n; i++)
	{
		TimeLineID	tli;
		uint64		segno;
		int64		at;

		if (!held_wal_segment(h, i, &tli, &segno))
			continue;
		if ((h->flags[i] & HELD_GOES) == 0)
		{
			if (object_kind(h->all.names[i]) != KIND_FRONTIER)
				adjoins = false;
			continue;
		}
		at = expire_mark_segment(h->mark, file_of(h, i));
		if (!adjoins || tli != last_tli || segno > last_segno + 1 || rows[*n - 1].at != at)
		{
			rows = array_room(rows, *n, sizeof(WalRow));
			memset(&rows[*n], 0, sizeof(WalRow));
			strlcpy(rows[*n].first, file_of(h, i), sizeof(rows->first));
			rows[(*n)++].at = at;
		}
		strlcpy(rows[*n - 1].last, file_of(h, i), sizeof(rows->last));
		rows[*n - 1].bytes += h->all.sizes[i];
		adjoins = true;
		last_tli = tli;
		last_segno = segno;
	}
	return rows;
}

bool
holdings_check_wal(const Holdings *h, const uint8 *ripe, DrError *err)
{
	WalSet		after = {0};
	bool		ok;

	after.files = pg_malloc(sizeof(char *) * (h->wal.n + 1));
	after.noted = pg_malloc(sizeof(char *) * (h->wal.n_noted + 1));
	for (size_t i = 0; i < h->all.n; i++)
	{
		ObjectKind	kind = object_kind(h->all.names[i]);

		if ((h->flags[i] & HELD_GOES) != 0 && (ripe == NULL || ripe[i]))
			continue;
		if (kind == KIND_WAL)
			after.files[after.n++] = (char *) file_of(h, i);
		else if (kind == KIND_FRONTIER)
			after.noted[after.n_noted++] = (char *) file_of(h, i);
	}
	ok = retention_check(&h->retention, &after, err);
	free(after.files);
	free(after.noted);
	return ok;
}
