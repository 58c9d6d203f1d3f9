/*
 * pg_wal.c
 *	  What the server's own pg_wal tells of the segments before a location.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/pg_wal.h"

#include <dirent.h>
#include <unistd.h>

typedef struct Segments
{
	char		(*names)[25];
	size_t		n;
} Segments;

static int
compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* The segments before "limit", of all timelines up to this one, sorted by name. */
static bool
list_segments(const WalSource *source, TimeLineID tli, XLogRecPtr limit, Segments *out, DrError *err)
{
	char	   *path = psprintf("%s/pg_wal", source->data_directory);
	DIR		   *dir = opendir(path);
	struct dirent *entry;
	bool		ok;

	memset(out, 0, sizeof(*out));
	while (dir != NULL && (errno = 0, entry = readdir(dir)) != NULL)
	{
		WalFile		wal;

		if (!wal_file_parse(entry->d_name, &wal) || wal.kind != KIND_WAL || wal.timeline > tli ||
			wal_segment_number(&wal, source->segment_size) >= limit / source->segment_size)
			continue;
		out->names = array_room(out->names, out->n, sizeof(out->names[0]));
		strcpy(out->names[out->n++], entry->d_name);
	}
	ok = dir != NULL && errno == 0;
	if (!ok)
		dr_error(err, DR_IO, "could not read directory \"%s\": %s", path, strerror(errno));
	if (dir != NULL)
		closedir(dir);
	pfree(path);
	if (out->n > 0)
		qsort(out->names, out->n, sizeof(out->names[0]), compare_names);
	return ok;
}

static bool
is_done(const char *data_directory, const char *file)
{
	char	   *path = psprintf("%s/pg_wal/archive_status/%s.done", data_directory, file);
	bool		done = access(path, F_OK) == 0;

	pfree(path);
	return done;
}

/* A piece of a timeline without its history would be damage to whoever reads. */
static bool
history_is_archived(const WalSource *source, TimeLineID tli)
{
	char		file[32];
	char	   *path;
	bool		archived;

	snprintf(file, sizeof(file), "%08X.history", tli);
	path = psprintf("%s/pg_wal/%s", source->data_directory, file);
	archived = access(path, F_OK) != 0 || is_done(source->data_directory, file);
	pfree(path);
	return archived;
}

XLogRecPtr
pg_wal_archived_until(const WalSource *source, TimeLineID tli, XLogRecPtr limit)
{
	Segments	s = {0};
	DrError		ignored;
	XLogRecPtr	until = history_is_archived(source, tli) && list_segments(source, tli, limit, &s, &ignored) ?
		limit - limit % source->segment_size : InvalidXLogRecPtr;

	/* A name begins with its timeline: the first that is found counts. */
	for (size_t i = 0; until != InvalidXLogRecPtr && i < s.n; i++)
	{
		WalFile		wal;

		if (is_done(source->data_directory, s.names[i]))
			continue;
		wal_file_parse(s.names[i], &wal);
		until = wal.timeline == tli ?
			wal_segment_number(&wal, source->segment_size) * source->segment_size : InvalidXLogRecPtr;
		break;
	}
	free(s.names);
	return until;
}

/* ---- what a standby received ---- */

/* Without a file there is nothing before: the server takes it so, too. */
static bool
own_history(const char *data_directory, TimeLineID tli, History *h, DrError *err)
{
	char	   *path = psprintf("%s/pg_wal/%08X.history", data_directory, tli);
	Bytes		text = {0};
	int64		written_at;
	bool		ok = true;

	if (access(path, F_OK) == 0)
		ok = wal_read_file(path, &text, &written_at, err) &&
			history_parse(h, tli, (char *) text.data, text.len, path, err);
	else
		history_single(h, tli);
	bytes_free(&text);
	pfree(path);
	return ok;
}

static bool
is_listed(const Listing *l, const char *object)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->names[i], object) == 0)
			return true;
	return false;
}

/* What the repository has of a timeline, from this segment on. */
static bool
list_stored(Repository *repo, const char *sysid, const WalFile *wal, uint32 segment_size, Listing *l, DrError *err)
{
	uint64		segno = wal_segment_number(wal, segment_size);
	char		before[25];

	wal_segment_name(before, wal->timeline, segno - Min(segno, 1), segment_size);
	return wal_list_after(repo, sysid, before, l, err);
}

static bool
store_received(const WalSource *source, const Segments *s, const History *h, int *stored, DrError *err)
{
	Repository *repo = source->repo;
	Listing		l = {0};
	TimeLineID	listed = 0;
	WalWorkspace space;
	bool		ok = true;

	wal_workspace_init(&space, source->level);
	for (size_t i = 0; ok && i < s->n; i++)
	{
		WalFile		wal;
		WalStored	w;
		ObjectName	object;
		char	   *path;

		wal_file_parse(s->names[i], &wal);
		/* The one in which the next timeline begins is not whole. */
		if (history_segment_timeline(h, wal_segment_number(&wal, source->segment_size), source->segment_size) != wal.timeline)
			continue;
		if (wal.timeline != listed)
		{
			listing_free(&l);
			ok = list_stored(repo, source->sysid, &wal, source->segment_size, &l, err);
			listed = wal.timeline;
		}
		name_wal(object, source->sysid, s->names[i]);
		if (!ok || is_listed(&l, object))
			continue;
		path = psprintf("%s/pg_wal/%s", source->data_directory, s->names[i]);
		ok = wal_archive(repo, &space, source->sysid, s->names[i], path, source->may_store, source->arg, &w, err);
		*stored += ok;
		pfree(path);
	}
	listing_free(&l);
	wal_workspace_free(&space);
	return ok;
}

bool
pg_wal_store_received(const WalSource *source, TimeLineID tli, XLogRecPtr limit, int *stored, DrError *err)
{
	Segments	s = {0};
	History		h = {0};
	bool		ok;

	*stored = 0;
	if (tli == 1)
		return true;
	ok = own_history(source->data_directory, tli, &h, err) &&
		list_segments(source, tli - 1, limit, &s, err) &&
		store_received(source, &s, &h, stored, err);
	free(s.names);
	history_free(&h);
	return ok;
}

bool
pg_wal_is_current(const WalSource *source, TimeLineID tli)
{
	char	   *path = psprintf("%s/pg_wal", source->data_directory);
	DIR		   *dir = opendir(path);
	struct dirent *entry;
	bool		current = dir != NULL;

	while (current && (entry = readdir(dir)) != NULL)
	{
		WalFile		wal;

		current = !wal_file_parse(entry->d_name, &wal) || wal.kind != KIND_HISTORY || wal.timeline <= tli;
	}
	if (dir != NULL)
		closedir(dir);
	pfree(path);
	return current;
}
