/*
 * walk.c
 *	  What of a data directory belongs into a backup.
 *
 * Reads directories and nothing else; leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/walk.h"

#include <dirent.h>
#include <sys/stat.h>

#include "protocol.h"

#define MAX_DEPTH	32

/* Directories whose contents a server makes anew or must not inherit. */
static const char *const empty_directories[] = {
	"pg_stat_tmp",
	"pg_replslot",
	"pg_dynshmem",
	"pg_notify",
	"pg_serial",
	"pg_snapshots",
	"pg_subtrans",
	"pg_wal/archive_status",
	"pg_wal/summaries",
};

/* Names that are left out wherever they are, and whether only their beginning counts. */
static const struct
{
	const char *name;
	bool		prefix;
}			excluded_names[] = {
	{"postgresql.auto.conf.tmp", false},
	{"current_logfiles.tmp", false},
	{"pg_internal.init", true},
	{"backup_label", false},
	{"tablespace_map", false},
	{"backup_manifest", false},
	{"postmaster.pid", false},
	{"postmaster.opts", false},
	{"pgsql_tmp", true},
};

typedef struct Names
{
	char	  **v;
	size_t		n;
} Names;

static bool walk_directory(const Walk *w, const char *path, int depth, DrError *err);

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

static void
names_free(Names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free(names->v[i]);
	free(names->v);
}

/* The names in a directory, sorted.  One that has vanished is empty. */
static bool
names_read(const char *full, Names *names, DrError *err)
{
	DIR		   *dir = opendir(full);
	struct dirent *de;
	size_t		cap = 0;

	memset(names, 0, sizeof(*names));
	if (dir == NULL)
		return errno == ENOENT ||
			dr_error(err, DR_IO, "could not open directory \"%s\": %s", full, strerror(errno));
	for (errno = 0; (de = readdir(dir)) != NULL; errno = 0)
	{
		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		if (names->n == cap)
			names->v = pg_realloc(names->v, sizeof(char *) * (cap = cap ? cap * 2 : 64));
		names->v[names->n++] = pg_strdup(de->d_name);
	}
	if (errno != 0)
	{
		dr_error(err, DR_IO, "could not read directory \"%s\": %s", full, strerror(errno));
		closedir(dir);
		names_free(names);
		return false;
	}
	closedir(dir);
	if (names->n > 0)
		qsort(names->v, names->n, sizeof(char *), compare_names);
	return true;
}

static void
warn(const Walk *w, const char *fmt, const char *path)
{
	char	   *text = psprintf(fmt, path);

	w->warning(w->arg, text);
	pfree(text);
}

static bool
name_excluded(const char *name)
{
	for (int i = 0; i < (int) lengthof(excluded_names); i++)
	{
		const char *x = excluded_names[i].name;

		if (excluded_names[i].prefix ? strncmp(name, x, strlen(x)) == 0 : strcmp(name, x) == 0)
			return true;
	}
	return false;
}

static bool
contents_excluded(const char *path)
{
	for (int i = 0; i < (int) lengthof(empty_directories); i++)
		if (strcmp(path, empty_directories[i]) == 0)
			return true;
	return false;
}

/* Is there an init fork beside it?  Then the relation is unlogged. */
static bool
unlogged(const Names *names, const char *name, const RelationFile *rel)
{
	char		init[32];
	char	   *key = init;

	snprintf(init, sizeof(init), "%.*s_init", rel->oid_digits, name);
	return bsearch(&key, names->v, names->n, sizeof(char *), compare_names) != NULL;
}

/* A file in a directory of relations: its class, or false if it stays out. */
static bool
classify_relation(const Names *names, const char *name, WalkEntry *e)
{
	RelationFile rel;

	if (temp_relation_name(name))
		return false;
	if (!relation_file_parse(name, &rel))
		return true;
	if (rel.fork != FILE_INIT && unlogged(names, name, &rel))
		return false;
	e->class = rel.fork;
	e->segment = rel.segment;
	return true;
}

/* Is this directory a tablespace's own place?  Then it is walked by its link. */
static bool
is_tablespace(const Walk *w, const struct stat *st)
{
	for (int i = 0; i < w->n_tablespaces; i++)
	{
		struct stat ts;

		if (stat(w->tablespaces[i].path, &ts) == 0 && ts.st_dev == st->st_dev && ts.st_ino == st->st_ino)
			return true;
	}
	return false;
}

static bool
visit_directory(const Walk *w, const char *path, const struct stat *st, int depth, DrError *err)
{
	WalkEntry	e = {path, true, FILE_ANY, 0, st->st_mode & 07777, st->st_mtime, 0};

	if (strncmp(path, "pg_tblspc/", 10) != 0 && is_tablespace(w, st))
		return true;
	if (!w->entry(w->arg, &e, err))
		return false;
	if (contents_excluded(path))
		return true;
	return walk_directory(w, path, depth + 1, err);
}

/* pg_wal: its segments come from the archive; its directories must exist. */
static bool
pg_wal_skips(const char *dir, const struct stat *st)
{
	return strcmp(dir, "pg_wal") == 0 && !S_ISDIR(st->st_mode);
}

/*
 * A link in pg_tblspc that was not there when the backup began: recovery makes
 * the tablespace anew, and must not find a directory in its place.
 */
static bool
new_tablespace(const Walk *w, const char *path)
{
	if (strncmp(path, "pg_tblspc/", 10) != 0 || strchr(path + 10, '/') != NULL)
		return false;
	for (int i = 0; i < w->n_tablespaces; i++)
		if (strcmp(w->tablespaces[i].oid, path + 10) == 0)
			return false;
	return true;
}

/*
 * A link: pg_wal's and a tablespace's are followed silently, any other with a
 * word, because a restore makes it a plain file or directory.
 */
static bool
resolve_link(const Walk *w, const char *full, const char *path, struct stat *st)
{
	if (new_tablespace(w, path))
		return false;
	if (stat(full, st) != 0)
	{
		if (errno != ENOENT || lstat(full, st) == 0)
			warn(w, "symbolic link \"%s\" leads nowhere and is left out of the backup", path);
		return false;
	}
	if (strcmp(path, "pg_wal") != 0 && strncmp(path, "pg_tblspc/", 10) != 0)
		warn(w, "symbolic link \"%s\" is followed; a restore makes it a plain file or directory", path);
	return true;
}

static bool
visit(const Walk *w, const char *dir, bool relations, const Names *names, const char *name,
	  int depth, DrError *err)
{
	char	   *path = dir[0] == '\0' ? pg_strdup(name) : psprintf("%s/%s", dir, name);
	char	   *full = psprintf("%s/%s", w->data_directory, path);
	WalkEntry	e = {.path = path};
	struct stat st;
	bool		ok = true;

	if (name_excluded(name) || strcmp(path, PGDR_WORK_DIR) == 0 || strcmp(path, "global/pg_control") == 0)
		;
	else if (lstat(full, &st) != 0)
	{
		if (errno != ENOENT)
			ok = dr_error(err, DR_IO, "could not stat \"%s\": %s", full, strerror(errno));
	}
	else if (S_ISLNK(st.st_mode) && !resolve_link(w, full, path, &st))
		;
	else if (pg_wal_skips(dir, &st))
		;
	else if (S_ISDIR(st.st_mode))
		ok = visit_directory(w, path, &st, depth, err);
	else if (!S_ISREG(st.st_mode))
		warn(w, "special file \"%s\" is left out of the backup", path);
	else if (!relations || classify_relation(names, name, &e))
	{
		e.mode = st.st_mode & 07777;
		e.mtime = st.st_mtime;
		e.size = st.st_size;
		ok = w->entry(w->arg, &e, err);
	}
	pfree(full);
	free(path);
	return ok;
}

static bool
walk_directory(const Walk *w, const char *path, int depth, DrError *err)
{
	char	   *full = psprintf("%s%s%s", w->data_directory, path[0] ? "/" : "", path);
	bool		relations = relation_directory(path);
	Names		names;
	bool		ok;

	if (depth > MAX_DEPTH)
		return dr_error(err, DR_IO, "directory \"%s\" is nested too deeply", full);
	if (!names_read(full, &names, err))
		return false;
	pfree(full);
	ok = true;
	for (size_t i = 0; ok && i < names.n; i++)
		ok = visit(w, path, relations, &names, names.v[i], depth, err);
	names_free(&names);
	return ok;
}

bool
walk(const Walk *w, DrError *err)
{
	return walk_directory(w, "", 0, err);
}
