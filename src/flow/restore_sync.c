/*
 * restore_sync.c
 *	  Make a restored tree durable.
 *
 * syncfs first, because it writes everything at once; then every file and
 * directory by itself, because only that reports each error, and costs little
 * when nothing is dirty any more.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/restore_private.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

bool
restore_sync_one(const char *path, int flags, DrError *err)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC | (flags ? flags : O_NOFOLLOW));
	bool		ok = fd >= 0 && fsync(fd) == 0;

	if (!ok)
		dr_error(err, DR_IO, "could not sync \"%s\": %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return ok;
}

/* Everything below a directory, then the directory; links are not followed. */
static bool
sync_tree(const char *path, DrError *err)
{
	DIR		   *dir = opendir(path);
	struct dirent *de;
	bool		ok = true;

	if (dir == NULL)
		return dr_error(err, DR_IO, "could not open directory \"%s\": %s", path, strerror(errno));
	while (ok && (de = readdir(dir)) != NULL)
	{
		char	   *entry;
		struct stat st;

		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		entry = psprintf("%s/%s", path, de->d_name);
		if (lstat(entry, &st) != 0)
			ok = dr_error(err, DR_IO, "could not stat \"%s\": %s", entry, strerror(errno));
		else if (S_ISDIR(st.st_mode))
			ok = sync_tree(entry, err);
		else if (S_ISREG(st.st_mode))
			ok = restore_sync_one(entry, 0, err);
		pfree(entry);
	}
	closedir(dir);
	return ok && restore_sync_one(path, O_DIRECTORY, err);
}

static bool
sync_place(const char *path, DrError *err)
{
	char	   *parent = pg_strdup(path);
	int			fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool		ok;

	if (fd >= 0)
	{
		syncfs(fd);				/* a head start; sync_tree finds the errors */
		close(fd);
	}
	*strrchr(parent, '/') = '\0';
	ok = sync_tree(path, err) && restore_sync_one(parent[0] ? parent : "/", O_DIRECTORY, err);
	free(parent);
	return ok;
}

/* A delta restore leaves it a link; what was removed there must not come back after a crash. */
static bool
sync_linked_wal(const Restore *r, DrError *err)
{
	char	   *path = psprintf("%s/pg_wal", r->pgdata);
	char		real[PATH_MAX];
	struct stat st;
	bool		ok = true;

	if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && realpath(path, real) != NULL)
		ok = sync_place(real, err);
	pfree(path);
	return ok;
}

bool
restore_sync(Restore *r, DrError *err)
{
	for (int i = 0; i < r->n_tablespaces; i++)
		if (!sync_place(r->tablespaces[i].to, err))
			return false;
	return sync_linked_wal(r, err) && sync_place(r->pgdata, err);
}
