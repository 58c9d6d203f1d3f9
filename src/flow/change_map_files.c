/*
 * change_map_files.c
 *	  The change map of a range of WAL, from the files that the module wrote.
 *
 * One idea: at each place the file that leads furthest is taken, so that a
 * range is proven by as few files as possible, or a hole is found.
 *
 * Reads, and leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/change_map_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/bytes.h"
#include "core/names.h"

/* The module writes no file that is much longer than 64 MB. */
#define FILE_SIZE_MAX	(INT64CONST(1) << 30)

typedef struct Files
{
	ChangeMapRange *v;
	size_t		n;
} Files;

/* The timeline's files, in no order. */
static bool
list_files(const char *directory, TimeLineID tli, Files *files, DrError *err)
{
	DIR		   *dir = opendir(directory);
	struct dirent *de;
	bool		ok;

	memset(files, 0, sizeof(*files));
	if (dir == NULL)
		return errno == ENOENT ||
			dr_error(err, DR_IO, "could not open directory \"%s\": %s", directory, strerror(errno));
	for (errno = 0; (de = readdir(dir)) != NULL; errno = 0)
	{
		ChangeMapRange range;

		if (!change_map_name_parse(de->d_name, &range) || range.timeline != tli)
			continue;
		files->v = array_room(files->v, files->n, sizeof(ChangeMapRange));
		files->v[files->n++] = range;
	}
	ok = errno == 0 || dr_error(err, DR_IO, "could not read directory \"%s\": %s", directory, strerror(errno));
	closedir(dir);
	return ok;
}

/* The file that covers a place and leads furthest from there; NULL: none does. */
static const ChangeMapRange *
furthest(const Files *files, XLogRecPtr at)
{
	const ChangeMapRange *best = NULL;

	for (size_t i = 0; i < files->n; i++)
	{
		const ChangeMapRange *f = &files->v[i];

		if (f->from <= at && f->to > at && (best == NULL || f->to > best->to))
			best = f;
	}
	return best;
}

/* Is anything known behind a hole?  Where that begins; else "to". */
static XLogRecPtr
end_of_hole(const Files *files, XLogRecPtr at, XLogRecPtr to)
{
	for (size_t i = 0; i < files->n; i++)
		if (files->v[i].from > at)
			to = Min(to, files->v[i].from);
	return to;
}

static bool
read_whole(const char *path, Bytes *out, DrError *err)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	ssize_t		n = 0;

	if (fd < 0 || fstat(fd, &st) != 0)
	{
		dr_error(err, DR_IO, "could not open file \"%s\": %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return false;
	}
	if (st.st_size > FILE_SIZE_MAX)
	{
		close(fd);
		return dr_error(err, DR_DAMAGED, "the change map is damaged: it is too long");
	}
	bytes_reserve(out, st.st_size);
	while (out->len < (size_t) st.st_size && (n = read(fd, out->data + out->len, st.st_size - out->len)) > 0)
		out->len += n;
	if (n < 0)
		dr_error(err, DR_IO, "could not read file \"%s\": %s", path, strerror(errno));
	close(fd);
	return n >= 0;
}

/* Is the file what its name says, and safe to rely upon? */
static bool
add_file(ChangeMap *m, const char *path, const char *system_identifier, const ChangeMapRange *named, DrError *err)
{
	Bytes		content = {0};
	ChangeMapRange range;
	bool		ok = read_whole(path, &content, err) &&
		change_map_add(m, content.data, content.len, system_identifier, &range, err);

	bytes_free(&content);
	if (!ok)
		return false;
	if (range.timeline != named->timeline || range.from != named->from || range.to != named->to)
		return dr_error(err, DR_DAMAGED, "the change map is damaged: its header is another file's");
	if (range.unsafe)
		return dr_error(err, DR_ABSENT, "not all changes are known: %s", range.reason);
	return true;
}

static bool
add_named(ChangeMap *m, const char *directory, const char *system_identifier, const ChangeMapRange *f, DrError *err)
{
	char	   *path = psprintf("%s/%08X.%016llX.%016llX", directory, f->timeline,
								(unsigned long long) f->from, (unsigned long long) f->to);
	DrError		inner;
	bool		ok = add_file(m, path, system_identifier, f, &inner);

	if (!ok)
	{
		dr_error(err, inner.code, "change map file \"%s\" can't be used", path);
		dr_detail(err, "%s", inner.message);
	}
	pfree(path);
	return ok;
}

static bool
hole(XLogRecPtr at, XLogRecPtr end, DrError *err)
{
	char		begin_text[LSN_TEXT_MAX];
	char		end_text[LSN_TEXT_MAX];

	lsn_format(begin_text, at);
	lsn_format(end_text, end);
	return dr_error(err, DR_ABSENT, "the change map does not know what changed from %s to %s", begin_text, end_text);
}

bool
change_map_load(const char *data_directory, const char *system_identifier, TimeLineID tli,
				XLogRecPtr from, XLogRecPtr to, ChangeMap **out, DrError *err)
{
	char	   *directory = psprintf("%s/" CHANGE_MAP_DIR, data_directory);
	ChangeMap  *m = change_map_new();
	Files		files;
	bool		ok = list_files(directory, tli, &files, err);

	while (ok && from < to)
	{
		const ChangeMapRange *f = furthest(&files, from);

		ok = f != NULL ? add_named(m, directory, system_identifier, f, err) :
			hole(from, end_of_hole(&files, from, to), err);
		if (f != NULL)
			from = f->to;
	}
	free(files.v);
	pfree(directory);
	*out = ok ? m : NULL;
	if (!ok)
		change_map_free(m);
	return ok;
}
