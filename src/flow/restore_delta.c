/*
 * restore_delta.c
 *	  May this directory be overwritten by a delta restore (X5)?  And what is
 *	  written of a block that is there already (X9)?
 *
 * The one idea: a data directory says itself whose it is, in pg_control, or in
 * the marker that a restore leaves until it is through.  What doesn't say so is
 * not touched, however much it looks like one.
 *
 * Nothing but delta_write changes anything here; a crash in it leaves a file of
 * old and new blocks, in a directory that can't be started.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/restore_private.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_control.h"
#include "core/control.h"
#include "store/direct.h"

bool
same_place(const char *a, const char *b)
{
	struct stat x;
	struct stat y;

	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool
delta_link_leads_to(const Restore *r, const TablespaceMapping *t)
{
	char	   *link = psprintf("%s/pg_tblspc/%s", r->pgdata, t->oid);
	struct stat st;
	bool		yes;

	yes = lstat(link, &st) == 0 && S_ISLNK(st.st_mode) && stat(link, &st) == 0 && S_ISDIR(st.st_mode) &&
		same_place(link, t->to);
	pfree(link);
	return yes;
}

/* ---- whose is it? ---- */

/* At most n bytes of a plain file; -1 with errno. */
static ssize_t
read_small(const char *dir, const char *name, void *out, size_t n)
{
	char	   *path = psprintf("%s/%s", dir, name);
	int			fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	ssize_t		got = -1;

	if (fd >= 0 && fstat(fd, &st) == 0)
	{
		errno = EINVAL;
		got = S_ISREG(st.st_mode) ? read(fd, out, n) : -1;
	}
	if (fd >= 0)
	{
		int			code = errno;

		close(fd);
		errno = code;
	}
	pfree(path);
	return got;
}

static bool
not_ours(const Restore *r, DrError *err, const char *why)
{
	dr_error(err, DR_CONFIG, "directory \"%s\" is not a data directory of cluster %s", r->pgdata,
			 r->manifest.info.system_identifier);
	dr_detail(err, "%s", why);
	return dr_hint(err, "--delta overwrites nothing but another state of the same cluster, or an interrupted restore of it: "
				   "give another --pgdata, or move the contents away.");
}

/* A restore of this very cluster was interrupted there. */
static bool
marked(const Restore *r, bool *any)
{
	const char *sysid = r->manifest.info.system_identifier;
	char		text[128] = "";

	*any = read_small(r->pgdata, RESTORE_MARKER, text, sizeof(text) - 1) >= 0;
	return strncmp(text, sysid, strlen(sysid)) == 0 && text[strlen(sysid)] == '/';
}

static bool
check_identity(const Restore *r, DrError *err)
{
	uint8		control[PG_CONTROL_FILE_SIZE];
	char		version[16] = "";
	ControlInfo info;
	bool		any;
	bool		restoring = marked(r, &any);
	ssize_t		n = read_small(r->pgdata, "global/pg_control", control, sizeof(control));

	if (n < 0 && errno != ENOENT)
		return dr_error(err, DR_IO, "could not read \"%s/global/pg_control\": %s", r->pgdata, strerror(errno));
	if (n < 0 && !restoring)
		return not_ours(r, err, any ? "It holds an interrupted restore of another cluster." :
						"It has no global/pg_control.");
	if (n >= 0 && !control_decode(control, n, &info))
		return not_ours(r, err, "Its global/pg_control is damaged, or of another major version of PostgreSQL.");
	if (n >= 0 && strcmp(info.system_identifier, r->manifest.info.system_identifier) != 0)
	{
		char	   *why = psprintf("It belongs to cluster %s.", info.system_identifier);

		not_ours(r, err, why);
		pfree(why);
		return false;
	}
	if (!restoring && (read_small(r->pgdata, "PG_VERSION", version, sizeof(version) - 1) < 0 ||
					   strcmp(version, PG_MAJORVERSION "\n") != 0))
		return not_ours(r, err, "Its PG_VERSION is missing, or of another major version of PostgreSQL.");
	return true;
}

/* ---- does somebody use it? ---- */

static bool
check_pid_file(const Restore *r, DrError *err)
{
	char	   *path = psprintf("%s/postmaster.pid", r->pgdata);
	struct stat st;
	bool		there = lstat(path, &st) == 0;

	if (there)
	{
		dr_error(err, DR_CONFIG, "a server may be running in directory \"%s\"", r->pgdata);
		dr_detail(err, "The file \"%s\" exists.", path);
		dr_hint(err, "Stop the server; if none is running, remove the file.");
	}
	pfree(path);
	return !there;
}

/* Which of our directories a server uses that has its data directory at cwd; NULL: none. */
static char *
used_by(const Restore *r, const char *cwd)
{
	char	   *wal = psprintf("%s/pg_wal", r->pgdata);
	char	   *its_wal = psprintf("%s/pg_wal", cwd);
	char	   *tblspc = psprintf("%s/pg_tblspc", cwd);
	char	   *used = same_place(cwd, r->pgdata) ? pg_strdup(r->pgdata) : same_place(its_wal, wal) ? pg_strdup(wal) : NULL;
	DIR		   *dir = opendir(tblspc);
	struct dirent *de;

	while (dir != NULL && used == NULL && (de = readdir(dir)) != NULL)
	{
		char	   *its = psprintf("%s/%s", tblspc, de->d_name);

		for (int i = 0; i < r->n_tablespaces && used == NULL && de->d_name[0] != '.'; i++)
			if (same_place(its, r->tablespaces[i].to))
				used = pg_strdup(r->tablespaces[i].to);
		pfree(its);
	}
	if (dir != NULL)
		closedir(dir);
	pfree(wal);
	pfree(its_wal);
	pfree(tblspc);
	return used;
}

/*
 * A server whose pid file was removed; or that of another data directory, of
 * which this one is a copy, so that links in both lead to the same places.  It
 * works in its data directory, where /proc shows it to its own user.
 */
static bool
check_processes(const Restore *r, DrError *err)
{
	DIR		   *proc = opendir("/proc");
	struct dirent *de;
	bool		ok = true;

	while (proc != NULL && ok && (de = readdir(proc)) != NULL)
	{
		char		cwd[64];
		char		comm[64] = "";
		char	   *dir;
		char	   *used;

		if (strspn(de->d_name, "0123456789") != strlen(de->d_name) || strlen(de->d_name) > 20)
			continue;
		dir = psprintf("/proc/%s", de->d_name);
		snprintf(cwd, sizeof(cwd), "%s/cwd", dir);
		if (read_small(dir, "comm", comm, sizeof(comm) - 1) > 0 &&
			(strcmp(comm, "postgres\n") == 0 || strcmp(comm, "postmaster\n") == 0) &&
			(used = used_by(r, cwd)) != NULL)
		{
			ok = dr_error(err, DR_CONFIG, "a server is using directory \"%s\"", used);
			dr_detail(err, "It is process %s.", de->d_name);
			dr_hint(err, "Stop it, or give places of their own with --pgdata and --tablespace.");
			free(used);
		}
		pfree(dir);
	}
	if (proc != NULL)
		closedir(proc);
	return ok;
}

bool
delta_unused(const Restore *r, DrError *err)
{
	return check_pid_file(r, err) && check_processes(r, err);
}

/* ---- what else would go with it ---- */

static bool
belongs_into_pg_wal(const char *name)
{
	static const char *const known[] = {"archive_status", "summaries", "xlogtemp.", "RECOVERY", "pg_dr.spool"};
	WalFile		ignored;

	if (wal_file_parse(name, &ignored) || strspn(name, "0123456789ABCDEF") == 24)
		return true;
	for (int i = 0; i < (int) lengthof(known); i++)
		if (strncmp(name, known[i], strlen(known[i])) == 0)
			return true;
	return false;
}

/* A link may lead anywhere: what it leads to is emptied only when it is a server's. */
static bool
check_pg_wal(const Restore *r, DrError *err)
{
	char	   *path = psprintf("%s/pg_wal", r->pgdata);
	struct stat st;
	bool		link = lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
	DIR		   *dir = link ? opendir(path) : NULL;
	struct dirent *de;
	bool		ok = true;

	while (dir != NULL && ok && (de = readdir(dir)) != NULL)
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0 && !belongs_into_pg_wal(de->d_name))
		{
			ok = dr_error(err, DR_CONFIG, "the link \"%s\" leads to a directory that holds more than WAL", path);
			dr_detail(err, "It holds \"%s\".", de->d_name);
			dr_hint(err, "Everything there would be removed: move away what is not the server's, or remove the link.");
		}
	if (dir != NULL)
		closedir(dir);
	pfree(path);
	return ok;
}

static bool
lies_in(const char *path, const char *directory)
{
	char		real[PATH_MAX];

	return realpath(directory, real) != NULL && path_inside(path, real);
}

bool
restore_spares(const Restore *r, const char *path, const char *what, DrError *err)
{
	char	   *wal = psprintf("%s/pg_wal", r->pgdata);
	char		real[PATH_MAX];
	bool		lost = false;

	if (r->delta && realpath(path, real) != NULL)
	{
		lost = lies_in(real, r->pgdata) || lies_in(real, wal);
		for (int i = 0; i < r->n_tablespaces; i++)
			lost = lost || lies_in(real, r->tablespaces[i].to);
	}
	pfree(wal);
	if (!lost)
		return true;
	dr_error(err, DR_CONFIG, "the %s \"%s\" lies in a directory that is restored", what, path);
	dr_detail(err, "What is not in the backup is removed there.");
	return dr_hint(err, "Move it to another place.");
}

static bool
is_absent_or_empty(const char *path)
{
	DIR		   *dir = opendir(path);
	struct dirent *de;
	bool		empty = dir != NULL || errno == ENOENT;

	while (dir != NULL && empty && (de = readdir(dir)) != NULL)
		empty = strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0;
	if (dir != NULL)
		closedir(dir);
	return empty;
}

bool
delta_check(Restore *r, DrError *err)
{
	struct stat st;

	if (is_absent_or_empty(r->pgdata))
	{
		r->delta = false;
		return true;
	}
	if (stat(r->pgdata, &st) != 0)
		return dr_error(err, DR_IO, "could not stat \"%s\": %s", r->pgdata, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return dr_error(err, DR_CONFIG, "\"%s\" is not a directory", r->pgdata);
	if (st.st_uid != geteuid())
	{
		dr_error(err, DR_CONFIG, "directory \"%s\" belongs to another user", r->pgdata);
		return dr_hint(err, "Run the restore as the user that is to run the server.");
	}
	return delta_unused(r, err) && check_identity(r, err) && check_pg_wal(r, err);
}

/* ---- writing ---- */

bool
delta_write(int fd, const uint8 *raw, size_t n, off_t at, uint64 *written)
{
	uint8	   *old = aligned_malloc(TYPEALIGN(DIRECT_ALIGN, n));
	ssize_t		there = direct_read(fd, old, n, at);
	bool		ok = there >= 0;

	for (size_t from = 0; ok && from < n;)
	{
		size_t		end = from;
		size_t		next;

		/* A run of blocks that differ, or lie behind the end of what is there. */
		while (end < n && ((next = Min(end + BLCKSZ, n)) > (size_t) there || memcmp(raw + end, old + end, next - end) != 0))
			end = next;
		if (end > from)
		{
			ok = (end - from >= DIRECT_WORTH || direct_end(fd)) && direct_write(fd, raw + from, end - from, at + from);
			*written += end - from;
			from = end;
		}
		else
			from += BLCKSZ;
	}
	free(old);
	return ok;
}
