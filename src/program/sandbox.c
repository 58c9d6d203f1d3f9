/*
 * sandbox.c
 *	  Where a drill takes place: the directory, its lock, its end.
 *
 * One idea: the lock tells the living from the dead.  The kernel gives it back
 * when its holder dies, however that happens, and so a sandbox whose directory
 * can be locked belongs to nobody.
 *
 * A crash leaves the directory, which the next drill, or the server when it
 * starts, removes.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/sandbox.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/file.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_FILE		"pg_dr_drill.lock"
#define PREFIX			"pg_dr_drill_"
#define KEEP_FILE		"keep"
#define REMOVE_ATTEMPTS	50
#define ATTEMPT_US		100000

/* ---- the directory that drills share ---- */

/* Nobody else may write to it: what lies there is believed, and removed. */
static bool
check_directory(const char *directory, char **real, DrError *err)
{
	struct stat st;

	*real = realpath(directory, NULL);
	if (*real == NULL || stat(*real, &st) != 0)
	{
		dr_error(err, DR_CONFIG, "could not access the directory of drills \"%s\": %s", directory, strerror(errno));
		return dr_hint(err, "Create it, owned by the user that runs the server: install -d -m 700 DIRECTORY.");
	}
	if (!S_ISDIR(st.st_mode))
		return dr_error(err, DR_CONFIG, "\"%s\" is not a directory", directory);
	if (st.st_uid == geteuid() && (st.st_mode & 022) == 0)
		return true;
	dr_error(err, DR_CONFIG, "directory of drills \"%s\" can be written to by others", directory);
	return dr_hint(err, "It must be owned by the user that runs the server, and have mode 0700.");
}

/* A backup would copy a sandbox that lies in its way, and a drill must not be near what it is to protect. */
static bool
check_outside(const char *directory, const char *data_directory, DrError *err)
{
	char	   *data = data_directory ? realpath(data_directory, NULL) : NULL;
	size_t		n = data ? strlen(data) : 0;
	bool		inside = data != NULL && strncmp(directory, data, n) == 0 &&
		(directory[n] == '/' || directory[n] == '\0');

	free(data);
	return !inside || dr_error(err, DR_CONFIG, "directory of drills \"%s\" lies in the server's data directory", directory);
}

/* -1 and *busy: somebody else has it. */
static int
take_lock(const char *directory, bool *busy, DrError *err)
{
	char	   *path = psprintf("%s/" LOCK_FILE, directory);
	int			fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	*busy = false;
	if (fd < 0)
		dr_error(err, DR_IO, "could not open \"%s\": %s", path, strerror(errno));
	else if (flock(fd, LOCK_EX | LOCK_NB) != 0)
	{
		*busy = errno == EWOULDBLOCK;
		dr_error(err, DR_CONFIG, "could not lock \"%s\": %s", path, strerror(errno));
		if (*busy)
		{
			dr_error(err, DR_CONFIG, "another drill is at work in \"%s\"", directory);
			dr_hint(err, "Wait for it, or stop it.");
		}
		close(fd);
		fd = -1;
	}
	pfree(path);
	return fd;
}

/* ---- removing ---- */

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void) remove(path);		/* what stays shows when its directory can't be removed */
	return 0;
}

/* What just died may write a last file meanwhile. */
static bool
remove_tree(const char *path, DrError *err)
{
	struct stat st;

	for (int i = 0; i < REMOVE_ATTEMPTS; i++)
	{
		/* Links are removed, not followed. */
		nftw(path, remove_one, 32, FTW_PHYS | FTW_DEPTH | FTW_MOUNT);
		if (lstat(path, &st) != 0 && errno == ENOENT)
			return true;
		usleep(ATTEMPT_US);
	}
	dr_error(err, DR_IO, "could not remove directory \"%s\"", path);
	return dr_hint(err, "Remove it by hand.");
}

typedef struct Segment
{
	unsigned long key;
	int			id;				/* -1: none */
} Segment;

/* The System V segment by which a server knows whether another one runs; line 7 of postmaster.pid. */
static Segment
read_segment(const char *sandbox)
{
	char	   *path = psprintf("%s/data/postmaster.pid", sandbox);
	FILE	   *file = fopen(path, "r");
	char		line[MAXPGPATH];
	Segment		s = {.id = -1};

	for (int i = 1; file != NULL && fgets(line, sizeof(line), file) != NULL; i++)
		if (i == 7 && sscanf(line, "%lu %d", &s.key, &s.id) != 2)
			s.id = -1;
	if (file != NULL)
		fclose(file);
	pfree(path);
	return s;
}

/* A server that was killed leaves it; nobody is attached to it, and it is of the key that the file names. */
static void
remove_segment(const Segment *s)
{
	struct shmid_ds ds;

	if (s->id >= 0 && shmctl(s->id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 0 &&
		ds.shm_perm.cuid == geteuid() && (unsigned long) (uint32) ds.shm_perm.__key == s->key)
		shmctl(s->id, IPC_RMID, NULL);
}

/* Z3: processes first, then what they used. */
static bool
clear(const char *path, bool keep, DrError *err)
{
	Segment		segment = read_segment(path);

	if (!processes_end(path, err))
		return false;
	remove_segment(&segment);
	return keep || remove_tree(path, err);
}

/* ---- sweeping ---- */

static bool
is_dead_sandbox(const char *directory, const char *name)
{
	char	   *path = psprintf("%s/%s", directory, name);
	char	   *keep = psprintf("%s/" KEEP_FILE, path);
	struct stat st;
	bool		dead = strncmp(name, PREFIX, strlen(PREFIX)) == 0 && lstat(path, &st) == 0 &&
		S_ISDIR(st.st_mode) && st.st_uid == geteuid() && access(keep, F_OK) != 0;

	pfree(path);
	pfree(keep);
	return dead;
}

/* The lock is held. */
static bool
sweep(const char *directory, int *removed, DrError *err)
{
	DIR		   *dir = opendir(directory);
	struct dirent *de;
	bool		ok = dir != NULL;

	*removed = 0;
	if (!ok)
		return dr_error(err, DR_IO, "could not open directory \"%s\": %s", directory, strerror(errno));
	while (ok && (de = readdir(dir)) != NULL)
	{
		char	   *path;

		if (!is_dead_sandbox(directory, de->d_name))
			continue;
		path = psprintf("%s/%s", directory, de->d_name);
		ok = clear(path, false, err);
		pfree(path);
		(*removed)++;
	}
	closedir(dir);
	return ok;
}

bool
sandbox_sweep(const char *directory, bool *busy, int *removed, DrError *err)
{
	char	   *real;
	int			lock = -1;
	bool		ok;

	*busy = false;
	*removed = 0;
	if (!check_directory(directory, &real, err))
		return false;
	lock = take_lock(real, busy, err);
	ok = *busy || (lock >= 0 && sweep(real, removed, err));
	if (lock >= 0)
		close(lock);
	free(real);
	return ok;
}

/* ---- a drill's own ---- */

char *
sandbox_path(const Sandbox *s, const char *name)
{
	return psprintf("%s/%s", s->path, name);
}

static bool
make_directory(const char *path, DrError *err)
{
	return mkdir(path, 0700) == 0 ||
		dr_error(err, DR_IO, "could not create directory \"%s\": %s", path, strerror(errno));
}

bool
sandbox_create(Sandbox *s, const char *directory, const char *id, const char *data_directory, DrError *err)
{
	bool		busy;
	int			removed;

	memset(s, 0, sizeof(*s));
	s->lock = -1;
	if (!check_directory(directory, &s->directory, err) ||
		!check_outside(s->directory, data_directory, err) ||
		(s->lock = take_lock(s->directory, &busy, err)) < 0 ||
		!sweep(s->directory, &removed, err))
		return false;
	s->path = psprintf("%s/" PREFIX "%s", s->directory, id);
	s->pgdata = sandbox_path(s, "data");
	s->tablespaces = sandbox_path(s, "tablespaces");
	if (make_directory(s->path, err))
	{
		char	   *socket = sandbox_path(s, "socket");
		bool		ok = make_directory(socket, err);

		pfree(socket);
		return ok;
	}
	s->path = NULL;				/* not ours */
	return false;
}

bool
sandbox_keep(Sandbox *s, DrError *err)
{
	char	   *path = sandbox_path(s, KEEP_FILE);
	int			fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		dr_error(err, DR_IO, "could not create \"%s\": %s", path, strerror(errno));
	else
		close(fd);
	pfree(path);
	return fd >= 0;
}

bool
sandbox_remove(Sandbox *s, bool keep, DrError *err)
{
	return s->path == NULL || clear(s->path, keep, err);
}

void
sandbox_close(Sandbox *s)
{
	if (s->lock >= 0)
		close(s->lock);
	s->lock = -1;
}
