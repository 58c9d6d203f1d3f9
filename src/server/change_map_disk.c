/*
 * change_map_disk.c
 *	  The change map's files: their names, what they cover together, their end.
 *
 * One idea: a file is a fact about one range of one timeline, and stays one
 * whatever happens to others.  So there is no list of files besides the
 * directory, and what is proven is what their names cover without a hole.
 *
 * A crash leaves a file that is not renamed yet; dr_map_prepare_directory
 * removes it.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "access/xlog.h"
#include "storage/fd.h"

#include "change_map.h"
#include "protocol.h"

/* Nobody bases a backup on one that is older. */
#define MAX_AGE_S	(10 * 24 * 3600)

/* ---- names ---- */

char *
dr_map_path(const DrMapFile *file, const char *suffix)
{
	return psprintf(CHANGE_MAP_DIR "/%08X.%016llX.%016llX%s", file->timeline,
					(unsigned long long) file->from, (unsigned long long) file->to, suffix);
}

static bool
parse_name(const char *name, DrMapFile *file)
{
	unsigned int timeline;
	unsigned long long from;
	unsigned long long to;

	if (strlen(name) != CHANGE_MAP_NAME_LEN || strspn(name, "0123456789ABCDEF.") != CHANGE_MAP_NAME_LEN ||
		name[8] != '.' || name[25] != '.' ||
		sscanf(name, "%8X.%16llX.%16llX", &timeline, &from, &to) != 3)
		return false;
	file->timeline = timeline;
	file->from = from;
	file->to = to;
	return from < to;
}

static int
compare_ends(const void *a, const void *b)
{
	const DrMapFile *x = a;
	const DrMapFile *y = b;

	return x->to > y->to ? -1 : x->to < y->to;
}

DrMapFile *
dr_map_list(int *n)
{
	DIR		   *dir = AllocateDir(CHANGE_MAP_DIR);
	DrMapFile  *files = palloc(sizeof(DrMapFile) * 16);
	int			room = 16;
	struct dirent *de;

	*n = 0;
	if (dir == NULL && errno == ENOENT)
		return files;
	while ((de = ReadDir(dir, CHANGE_MAP_DIR)) != NULL)
	{
		if (*n == room)
			files = repalloc(files, sizeof(DrMapFile) * (room *= 2));
		if (parse_name(de->d_name, &files[*n]))
			++*n;
	}
	FreeDir(dir);
	qsort(files, *n, sizeof(DrMapFile), compare_ends);
	return files;
}

XLogRecPtr
dr_map_chain(const DrMapFile *files, int n, TimeLineID timeline, XLogRecPtr until)
{
	XLogRecPtr	from = until;

	for (int i = 0; i < n && files[i].to >= from; i++)
	{
		if (files[i].timeline == timeline)
			from = Min(from, files[i].from);
	}
	return from;
}

/* ---- the directory ---- */

static void
make_directory(const char *path, const char *parent)
{
	if (MakePGDirectory(path) == 0)
		fsync_fname(parent, true);
	else if (errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not create directory \"%s\": %m", path)));
}

static void
remove_file(const char *path)
{
	if (unlink(path) != 0 && errno != ENOENT)
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not remove file \"%s\": %m", path)));
}

/* Those whose name ends so: "" is all of them. */
static void
remove_files(const char *suffix)
{
	DIR		   *dir = AllocateDir(CHANGE_MAP_DIR);
	size_t		n = strlen(suffix);
	struct dirent *de;

	if (dir == NULL && errno == ENOENT)
		return;
	while ((de = ReadDir(dir, CHANGE_MAP_DIR)) != NULL)
	{
		size_t		length = strlen(de->d_name);

		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0 &&
			length >= n && strcmp(de->d_name + length - n, suffix) == 0)
			remove_file(psprintf(CHANGE_MAP_DIR "/%s", de->d_name));
	}
	FreeDir(dir);
}

void
dr_map_prepare_directory(void)
{
	make_directory(PGDR_WORK_DIR, ".");
	make_directory(CHANGE_MAP_DIR, PGDR_WORK_DIR);
	remove_files(".tmp");
}

void
dr_map_remove_all(void)
{
	remove_files("");
}

void
dr_map_remove(const DrMapFile *file)
{
	remove_file(dr_map_path(file, ""));
}

static bool
too_old(const DrMapFile *file)
{
	struct stat st;

	return stat(dr_map_path(file, ""), &st) == 0 && time(NULL) - st.st_mtime > MAX_AGE_S;
}

/* The last one of its timeline stays: where it ends, the map goes on after a restart. */
static bool
is_last(const DrMapFile *files, int i)
{
	for (int j = 0; j < i; j++)
	{
		if (files[j].timeline == files[i].timeline)
			return false;
	}
	return true;
}

bool
dr_map_remove_old(XLogRecPtr keep_from)
{
	int			n;
	DrMapFile  *files = dr_map_list(&n);
	bool		any = false;

	for (int i = 0; i < n; i++)
	{
		if (!is_last(files, i) && (files[i].to <= keep_from || too_old(&files[i])))
		{
			dr_map_remove(&files[i]);
			any = true;
		}
	}
	return any;
}

/* ---- a header ---- */

static uint64
get_uint(const uint8 *from, int size)
{
	uint64		value = 0;

	for (int i = size - 1; i >= 0; i--)
		value = value << 8 | from[i];
	return value;
}

bool
dr_map_sound(const DrMapFile *file, bool *minimal)
{
	uint8		header[CHANGE_MAP_HEADER_SIZE];
	int			fd = OpenTransientFile(dr_map_path(file, ""), O_RDONLY | PG_BINARY);
	bool		complete;

	if (fd < 0)
		return false;
	complete = read(fd, header, sizeof(header)) == sizeof(header);
	CloseTransientFile(fd);
	*minimal = complete && (get_uint(header + 12, 4) & CHANGE_MAP_MINIMAL) != 0;
	return complete && memcmp(header, CHANGE_MAP_MAGIC, 8) == 0 &&
		get_uint(header + 8, 4) == CHANGE_MAP_VERSION &&
		get_uint(header + 16, 8) == GetSystemIdentifier() &&
		get_uint(header + 24, 4) == file->timeline &&
		get_uint(header + 32, 8) == file->from && get_uint(header + 40, 8) == file->to;
}
