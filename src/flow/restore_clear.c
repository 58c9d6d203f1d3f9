/*
 * restore_clear.c
 *	  What in a directory does not belong to the backup, and goes before a delta
 *	  restore writes (X6 to X8).
 *
 * The one idea: directories are walked in the order in which the manifest has
 * its paths, so one pass over both, side by side, finds what is too much; of the
 * directory tree no more than the names on the way down is in memory.
 *
 * What stays is ready to be written to: plain files with one name, directories
 * that are no links, both open to their owner.
 *
 * A crash leaves RESTORE_MARKER, and no global/pg_control once something was
 * removed; the next delta restore begins anew with what is there.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/restore_private.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/step.h"

typedef struct Clearing
{
	Restore    *r;
	char	   *version_directory;	/* ours, in a tablespace */
	const char *wanted;			/* the manifest's next path; NULL: no more */
	RecordType	type;			/* of that */
} Clearing;

/* A directory's entry, and what the manifest has of that path: 0 for nothing. */
typedef struct Entry
{
	const char *name;
	char	   *path;			/* in the data directory */
	char	   *full;
	struct stat st;
	RecordType	type;
} Entry;

static bool clear_directory(Clearing *c, const char *path, bool tablespace, DrError *err);
static bool remove_contents(const Clearing *c, const char *path, const char *but, bool *kept, DrError *err);

static bool
remove_error(DrError *err, const char *path)
{
	return dr_error(err, DR_IO, "could not remove \"%s\": %s", path, strerror(errno));
}

/* ---- reading both sides in one order ---- */

static int
by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int
not_dots(const struct dirent *de)
{
	return strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0;
}

/* One that is gone is empty. */
static bool
read_names(const char *path, struct dirent ***names, int *n, DrError *err)
{
	*n = scandir(path, names, not_dots, by_bytes);
	if (*n < 0 && errno == ENOENT)
	{
		*names = NULL;
		*n = 0;
	}
	return *n >= 0 ||
		dr_error(err, DR_IO, "could not read directory \"%s\": %s", path, strerror(errno));
}

static void
free_names(struct dirent **names, int n)
{
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

static bool
next_wanted(Clearing *c, DrError *err)
{
	Record		record;

	for (c->wanted = NULL; c->wanted == NULL;)
	{
		if (!manifest_next(c->r->manifest.reader, &record, err))
			return false;
		c->type = record.type;
		if (record.type == RECORD_DIRECTORY)
			c->wanted = record.u.directory.path;
		else if (record.type == RECORD_FILE)
		{
			/* Files from outside, and pg_control, come last: in another place, and later. */
			if (record.u.file.class == FILE_CONFIG || record.u.file.class == FILE_CONTROL)
				return true;
			c->wanted = record.u.file.path;
		}
		else if (record.type == RECORD_PACK || record.type == RECORD_END)
			return true;
	}
	return true;
}

/* What the manifest has of a path that sorts after all that were asked for. */
static bool
look_up(Clearing *c, const char *path, RecordType *type, DrError *err)
{
	while (c->wanted != NULL && path_compare(c->wanted, path) < 0)
		if (!next_wanted(c, err))
			return false;
	*type = c->wanted != NULL && strcmp(c->wanted, path) == 0 ? c->type : 0;
	return true;
}

/* ---- removing ---- */

/* A tablespace may lie in the data directory; it is not part of it. */
static bool
is_tablespace(const Restore *r, const struct stat *st)
{
	for (int i = 0; i < r->n_tablespaces; i++)
	{
		struct stat ts;

		if (stat(r->tablespaces[i].to, &ts) == 0 && ts.st_dev == st->st_dev && ts.st_ino == st->st_ino)
			return true;
	}
	return false;
}

static bool
make_accessible(const char *path, const struct stat *st, mode_t needed, DrError *err)
{
	return (st->st_mode & needed) == needed || chmod(path, (st->st_mode & 0777) | needed) == 0 ||
		dr_error(err, DR_IO, "could not set permissions of \"%s\": %s", path, strerror(errno));
}

/*
 * With all that is in it; *kept: but for a tablespace's directory.  What is gone
 * by itself is fine, and so is what comes while we look: the process that
 * fetched WAL for a server that was just stopped may still be tidying up.
 */
static bool
remove_tree(const Clearing *c, const char *path, bool *kept, DrError *err)
{
	struct stat st;

	if (lstat(path, &st) != 0)
		return errno == ENOENT || remove_error(err, path);
	if (!S_ISDIR(st.st_mode))
		return unlink(path) == 0 || errno == ENOENT || remove_error(err, path);
	if (is_tablespace(c->r, &st))
	{
		*kept = true;
		return true;
	}
	if (!make_accessible(path, &st, 0700, err))
		return false;
	for (int attempt = 0; attempt < 5; attempt++)
	{
		bool		mine = false;	/* a tablespace is in here */

		if (!remove_contents(c, path, NULL, &mine, err))
			return false;
		*kept |= mine;
		if (mine || rmdir(path) == 0 || errno == ENOENT)
			return true;
		if (errno != ENOTEMPTY && errno != EEXIST)
			break;
	}
	return remove_error(err, path);
}

/* All but one path, if that isn't NULL. */
static bool
remove_contents(const Clearing *c, const char *path, const char *but, bool *kept, DrError *err)
{
	struct dirent **names;
	bool		ok = true;
	int			n;

	if (!read_names(path, &names, &n, err))
		return false;
	for (int i = 0; ok && i < n; i++)
	{
		char	   *full = psprintf("%s/%s", path, names[i]->d_name);

		ok = (but != NULL && strcmp(full, but) == 0) || remove_tree(c, full, kept, err);
		pfree(full);
	}
	free_names(names, n);
	return ok;
}

static bool
remove_entry(const Clearing *c, const Entry *e, DrError *err)
{
	bool		kept = false;

	return remove_tree(c, e->full, &kept, err);
}

/* What a link led to is left as it is, unless it is in the data directory too: say so. */
static bool
remove_link(const Clearing *c, const Entry *e, DrError *err)
{
	char		to[MAXPGPATH];
	ssize_t		n = readlink(e->full, to, sizeof(to) - 1);
	char	   *text;

	if (n < 0 || unlink(e->full) != 0)
		return remove_error(err, e->full);
	to[n] = '\0';
	text = psprintf("link \"%s\" is removed; what it led to, \"%s\", is left as it is", e->path, to);
	if (c->r->warning != NULL && !path_inside(to, c->r->pgdata))
		c->r->warning(c->r->arg, text);
	pfree(text);
	return true;
}

/* ---- the walk ---- */

static const TablespaceMapping *
find_tablespace(const Restore *r, const char *oid)
{
	for (int i = 0; i < r->n_tablespaces; i++)
		if (strcmp(r->tablespaces[i].oid, oid) == 0)
			return &r->tablespaces[i];
	return NULL;
}

/* A link that the server follows stays one (X7): is this one, and to the right place? */
static bool
link_stays(const Clearing *c, const char *dir, const Entry *e)
{
	const TablespaceMapping *t;
	char		real[PATH_MAX];
	char		pgdata[PATH_MAX];
	struct stat st;

	if (!S_ISLNK(e->st.st_mode) || e->type != RECORD_DIRECTORY)
		return false;
	if (strcmp(e->path, "pg_wal") == 0)	/* where it leads, in the data directory, would be removed */
		return stat(e->full, &st) == 0 && S_ISDIR(st.st_mode) && realpath(e->full, real) != NULL &&
			realpath(c->r->pgdata, pgdata) != NULL && !path_inside(real, pgdata);
	return strcmp(dir, "pg_tblspc") == 0 && (t = find_tablespace(c->r, e->name)) != NULL &&
		delta_link_leads_to(c->r, t);
}

/* Our own files: all but the marker. */
static bool
clear_work_directory(const Clearing *c, const Entry *e, DrError *err)
{
	char	   *marker = psprintf("%s/" RESTORE_MARKER, c->r->pgdata);
	bool		kept = false;
	bool		ok = remove_contents(c, e->full, marker, &kept, err);

	pfree(marker);
	return ok;
}

static bool
clear_entry(Clearing *c, const char *dir, bool tablespace, const Entry *e, DrError *err)
{
	bool		at_links = strcmp(dir, "pg_tblspc") == 0;

	if (strcmp(e->path, PGDR_WORK_DIR) == 0)
		return clear_work_directory(c, e, err);
	if (link_stays(c, dir, e))
	{
		struct stat st;

		return stat(e->full, &st) == 0 ? make_accessible(e->full, &st, 0700, err) && clear_directory(c, e->path, at_links, err) :
			remove_error(err, e->full);
	}
	/* Other versions' directories, and strangers, are not of this cluster. */
	if (tablespace && e->type == 0 && strcmp(e->name, c->version_directory) != 0)
		return true;
	if (at_links && S_ISLNK(e->st.st_mode))
		return remove_link(c, e, err);
	if (e->type == RECORD_DIRECTORY && S_ISDIR(e->st.st_mode) && !(at_links && find_tablespace(c->r, e->name) != NULL))
		return make_accessible(e->full, &e->st, 0700, err) && clear_directory(c, e->path, false, err);
	if (e->type == RECORD_FILE && S_ISREG(e->st.st_mode) && e->st.st_nlink == 1)
		return make_accessible(e->full, &e->st, 0600, err);
	return remove_entry(c, e, err);
}

/* "tablespace": it is the top of one, where others may have something too. */
static bool
clear_directory(Clearing *c, const char *path, bool tablespace, DrError *err)
{
	char	   *full = psprintf("%s%s%s", c->r->pgdata, path[0] ? "/" : "", path);
	struct dirent **names;
	bool		ok;
	int			n;

	ok = read_names(full, &names, &n, err);
	pfree(full);
	if (!ok)
		return false;
	for (int i = 0; ok && i < n; i++)
	{
		Entry		e = {.name = names[i]->d_name};

		e.path = path[0] ? psprintf("%s/%s", path, e.name) : pg_strdup(e.name);
		e.full = psprintf("%s/%s", c->r->pgdata, e.path);
		if (lstat(e.full, &e.st) == 0)
			ok = look_up(c, e.path, &e.type, err) && clear_entry(c, path, tablespace, &e, err);
		else if (errno != ENOENT)
			ok = dr_error(err, DR_IO, "could not stat \"%s\": %s", e.full, strerror(errno));
		pfree(e.full);
		pfree(e.path);
	}
	free_names(names, n);
	return ok;
}

/* ---- no way back ---- */

/* A place of ours that somebody may have put something else into. */
static bool
clear_place(const Clearing *c, const char *path, mode_t type, DrError *err)
{
	struct stat st;
	bool		kept = false;

	if (lstat(path, &st) != 0)
		return true;
	if ((st.st_mode & S_IFMT) == type && (type == S_IFDIR || st.st_nlink == 1))
		return make_accessible(path, &st, type == S_IFDIR ? 0700 : 0600, err);
	return remove_tree(c, path, &kept, err);
}

/* X6 */
static bool
make_unstartable(const Clearing *c, DrError *err)
{
	Restore    *r = c->r;
	char	   *work = psprintf("%s/" PGDR_WORK_DIR, r->pgdata);
	char	   *marker = psprintf("%s/" RESTORE_MARKER, r->pgdata);
	char	   *global = psprintf("%s/global", r->pgdata);
	char	   *control = psprintf("%s/pg_control", global);
	struct stat st;
	bool		ok;

	ok = clear_place(c, work, S_IFDIR, err) && clear_place(c, marker, S_IFREG, err) &&
		restore_write_marker(r, err) &&
		restore_sync_one(marker, 0, err) && restore_sync_one(work, O_DIRECTORY, err) &&
		restore_sync_one(r->pgdata, O_DIRECTORY, err) &&
		clear_place(c, global, S_IFDIR, err);
	if (ok && lstat(control, &st) == 0)
		ok = (unlink(control) == 0 || remove_error(err, control)) && restore_sync_one(global, O_DIRECTORY, err);
	pfree(work);
	pfree(marker);
	pfree(global);
	pfree(control);
	return ok && restore_sync_one(r->pgdata, O_DIRECTORY, err);
}

bool
delta_clear(Restore *r, DrError *err)
{
	Clearing	c = {.r = r};
	bool		ok;

	c.version_directory = psprintf("PG_%d_%u", r->manifest.info.server_version_num / 10000, r->manifest.info.catalog_version);
	/* Somebody may have started it since it was checked: now is the last moment to ask. */
	ok = delta_unused(r, err) && make_unstartable(&c, err);
	if (ok)
		step_reached("delta.unstartable");
	ok = ok && manifest_rewind(&r->manifest, err) && next_wanted(&c, err) &&
		clear_directory(&c, "", false, err);
	if (ok)
		step_reached("delta.cleared");
	pfree(c.version_directory);
	return ok;
}
