/*
 * file.c
 *	  The store in a directory: file:///directory.
 *
 * The one idea: an object is written to a temporary in <directory>/.tmp,
 * synced, and linked to its name with link(2), which refuses to replace; then
 * the directories are synced.  A crash leaves at most a temporary, locked by
 * nobody any more, which the next writer's store_prepare removes.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "store/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/seal.h"
#include "core/step.h"
#include "store/direct.h"

#define TEMPORARY_DIR		".tmp"
#define TEMPORARY_AGE		3600	/* seconds that a writer has to take its lock */

typedef struct FileStore
{
	char	   *root;
	int			rootfd;
} FileStore;

static bool
io_error(DrError *err, const char *verb, const Store *store, const char *name)
{
	int			code = errno;

	dr_error(err, DR_IO, "could not %s object \"%s\" in repository \"%s\": %s",
			 verb, name, store->url, strerror(code));
	if (code == ENOSPC || code == EDQUOT)
		dr_hint(err, "Make room in the repository's file system; nothing was lost.");
	else if (code == EACCES || code == EROFS || code == EPERM)
		dr_hint(err, "The user that runs PostgreSQL must own the directory and be allowed to write there.");
	return false;
}

static bool
file_open(Store *store, const char *rest, const char *credentials_file, DrError *err)
{
	FileStore  *fs;
	char	   *root = url_decode(rest);
	int			fd;

	if (root == NULL || root[0] != '/' || strchr(rest, '?') != NULL)
	{
		free(root);
		dr_error(err, DR_CONFIG, "repository \"%s\" does not name an absolute directory", store->url);
		return dr_hint(err, "Write file:///directory; percent-encode special characters.");
	}
	fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
	{
		dr_error(err, errno == ENOENT ? DR_REFUSED : DR_IO,
				 "could not open repository \"%s\": %s", store->url, strerror(errno));
		free(root);
		return dr_hint(err, "Create the directory, owned by the user that runs PostgreSQL, "
					   "or mount the file system that holds it.");
	}
	fs = pg_malloc(sizeof(*fs));
	fs->root = root;
	fs->rootfd = fd;
	store->private = fs;
	return true;
}

static void
file_close(Store *store)
{
	FileStore  *fs = store->private;

	close(fs->rootfd);
	free(fs->root);
	free(fs);
}

/*
 * The descriptor outlives its name: a directory that was moved away, or hidden
 * by a mount, must not go on taking what is acknowledged as being in this
 * repository, nor answer for it.
 */
static bool
root_in_place(Store *store, DrError *err)
{
	FileStore  *fs = store->private;
	struct stat named;
	struct stat held;

	if (stat(fs->root, &named) == 0 && fstat(fs->rootfd, &held) == 0 &&
		named.st_dev == held.st_dev && named.st_ino == held.st_ino)
		return true;
	dr_error(err, DR_IO, "the directory of repository \"%s\" has gone or was replaced", store->url);
	return dr_hint(err, "Bring the directory, or the file system that holds it, back to its place.");
}

/* Remove temporaries that no live writer holds a lock on. */
static bool
file_prepare(Store *store, DrError *err)
{
	FileStore  *fs = store->private;
	int			dirfd;
	DIR		   *dir;
	struct dirent *de;

	if (mkdirat(fs->rootfd, TEMPORARY_DIR, 0700) != 0 && errno != EEXIST)
		return io_error(err, "prepare to write", store, TEMPORARY_DIR);
	dirfd = openat(fs->rootfd, TEMPORARY_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dirfd < 0 || (dir = fdopendir(dirfd)) == NULL)
		return io_error(err, "prepare to write", store, TEMPORARY_DIR);
	while ((de = readdir(dir)) != NULL)
	{
		struct stat st;
		int			fd;

		if (de->d_name[0] == '.')
			continue;
		fd = openat(dirfd, de->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
			st.st_mtime + TEMPORARY_AGE < time(NULL) && flock(fd, LOCK_EX | LOCK_NB) == 0)
			unlinkat(dirfd, de->d_name, 0);
		close(fd);
	}
	closedir(dir);
	return true;
}

/* fsync of the directory that holds name; "" is the root. */
static bool
sync_directory(FileStore *fs, const char *dir)
{
	int			fd = dir[0] == '\0' ? dup(fs->rootfd) :
		openat(fs->rootfd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool		ok;

	if (fd < 0)
		return false;
	ok = fsync(fd) == 0;
	close(fd);
	return ok;
}

/* Make the directories above name; a new one is synced into its parent. */
static bool
make_parents(FileStore *fs, const char *name)
{
	ObjectName	path;
	ObjectName	parent = "";

	strlcpy(path, name, sizeof(path));
	for (char *slash = strchr(path, '/'); slash != NULL; slash = strchr(slash + 1, '/'))
	{
		*slash = '\0';
		if (mkdirat(fs->rootfd, path, 0700) == 0)
		{
			if (!sync_directory(fs, parent))
				return false;
		}
		else if (errno != EEXIST)
			return false;
		strlcpy(parent, path, sizeof(parent));
		*slash = '/';
	}
	return true;
}

/* A locked, synced temporary with the object's bytes; its descriptor, or -1. */
static int
write_temporary(FileStore *fs, const char *temporary, const void *data, size_t n)
{
	int			fd = direct_open(fs->rootfd, temporary,
								 O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600, n);
	int			code;

	if (fd < 0)
		return -1;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0 && direct_write(fd, data, n, 0) && fsync(fd) == 0)
		return fd;
	code = errno;
	unlinkat(fs->rootfd, temporary, 0);
	close(fd);
	errno = code;
	return -1;
}

static StoreResult
file_put(Store *store, const char *name, const void *data, size_t n, const uint8 sha256[32],
		 DrError *err)
{
	FileStore  *fs = store->private;
	uint8		random[12];
	char		hex[2 * sizeof(random) + 1];
	char		temporary[64];
	ObjectName	parent;
	StoreResult result = STORE_OK;
	int			fd;

	if (!root_in_place(store, err))
		return STORE_FAILED;
	random_bytes(random, sizeof(random));
	hex_encode(random, sizeof(random), hex);
	snprintf(temporary, sizeof(temporary), TEMPORARY_DIR "/%s", hex);
	strlcpy(parent, name, sizeof(parent));
	*(strrchr(parent, '/') ? strrchr(parent, '/') : parent) = '\0';

	if (!make_parents(fs, name) || (fd = write_temporary(fs, temporary, data, n)) < 0)
	{
		io_error(err, "write", store, name);
		return STORE_FAILED;
	}
	if (linkat(fs->rootfd, temporary, fs->rootfd, name, 0) != 0)
	{
		if (errno == EEXIST)
		{
			dr_error(err, DR_CONFLICT, "object \"%s\" already exists in repository \"%s\"", name, store->url);
			result = STORE_TAKEN;
		}
		else
		{
			io_error(err, "create", store, name);
			result = STORE_FAILED;
		}
	}
	else
		step_reached("store.linked");
	unlinkat(fs->rootfd, temporary, 0);
	close(fd);

	/*
	 * T1: also when the name was taken, because whoever took it may have died
	 * before this, and the caller may go on to call it durable.
	 */
	if (result != STORE_FAILED && !sync_directory(fs, parent))
	{
		io_error(err, "sync the directory of", store, name);
		return STORE_FAILED;
	}
	return result;
}

/* A regular file, not a link, open for reading; -1 and result otherwise. */
static int
open_object(Store *store, const char *name, struct stat *st, StoreResult *result, DrError *err)
{
	FileStore  *fs = store->private;
	int			fd;

	*result = STORE_FAILED;
	if (!root_in_place(store, err))
		return -1;
	fd = openat(fs->rootfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
	{
		dr_error(err, DR_ABSENT, "object \"%s\" does not exist in repository \"%s\"", name, store->url);
		*result = STORE_ABSENT;
	}
	else if (fd < 0 || fstat(fd, st) != 0)
		io_error(err, "read", store, name);
	else if (!S_ISREG(st->st_mode))
		dr_error(err, DR_DAMAGED, "object \"%s\" in repository \"%s\" is not a regular file", name, store->url);
	else
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static bool
read_object(Store *store, const char *name, int fd, uint64 at, size_t n, Bytes *out, DrError *err)
{
	size_t		done = 0;

	bytes_reserve(out, n);
	while (done < n)
	{
		ssize_t		r = pread(fd, out->data + out->len, n - done, at + done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return io_error(err, "read", store, name);
		if (r == 0)
			return dr_error(err, DR_IO, "object \"%s\" shrank while it was read", name);
		out->len += r;
		done += r;
	}
	return true;
}

static StoreResult
file_get(Store *store, const char *name, size_t max, Bytes *out, DrError *err)
{
	struct stat st;
	StoreResult result;
	int			fd = open_object(store, name, &st, &result, err);

	if (fd < 0)
		return result;
	if ((uint64) st.st_size > max)
		dr_error(err, DR_DAMAGED, "object \"%s\" is longer than an object of its kind can be", name);
	else if (read_object(store, name, fd, 0, st.st_size, out, err))
		result = STORE_OK;
	close(fd);
	return result;
}

static StoreResult
file_get_range(Store *store, const char *name, uint64 offset, size_t n, Bytes *out, DrError *err)
{
	struct stat st;
	StoreResult result;
	int			fd = open_object(store, name, &st, &result, err);

	if (fd < 0)
		return result;
	if ((uint64) st.st_size < n || (uint64) st.st_size - n < offset)
		dr_error(err, DR_DAMAGED, "object \"%s\" is shorter than what is wanted of it", name);
	else if (read_object(store, name, fd, offset, n, out, err))
		result = STORE_OK;
	close(fd);
	return result;
}

/*
 * An empty directory looks like a backup that was interrupted.  Nobody puts
 * anything into it any more: what is removed of a backup is given up.
 */
static void
remove_backup_directory(FileStore *fs, const char *name)
{
	ObjectKind	kind = object_kind(name);
	ObjectName	parent;

	if (kind != KIND_PACK && kind != KIND_MANIFEST)
		return;
	strlcpy(parent, name, sizeof(parent));
	*strrchr(parent, '/') = '\0';
	unlinkat(fs->rootfd, parent, AT_REMOVEDIR);	/* not empty, or not allowed: it stays */
}

static bool
file_remove(Store *store, const char *const *names, size_t n, DrError *err)
{
	FileStore  *fs = store->private;

	if (!root_in_place(store, err))
		return false;
	for (size_t i = 0; i < n; i++)
	{
		if (unlinkat(fs->rootfd, names[i], 0) != 0 && errno != ENOENT)
			return io_error(err, "remove", store, names[i]);
		remove_backup_directory(fs, names[i]);
	}
	return true;
}

/* Files and directories sort as their names do in a full listing: "a/" after "a-". */
static int
compare_entries(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* Does its name sort up to "after", whether it is a directory or not? */
static bool
is_before(const char *dir, const char *entry, const char *after)
{
	char	   *name;
	bool		before;

	if (after[0] == '\0')
		return false;
	name = psprintf("%s%s/", dir, entry);
	before = strcmp(name, after) <= 0;
	name[strlen(name) - 1] = '\0';
	before = before && strcmp(name, after) <= 0;
	pfree(name);
	return before;
}

/* The entries of a directory behind "after", sorted, directories with a '/' behind. */
static bool
read_entries(FileStore *fs, const char *dir, const char *after, char ***entries, size_t *n)
{
	int			fd = openat(fs->rootfd, dir[0] == '\0' ? "." : dir,
							O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR		   *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;
	size_t		cap = 0;

	*entries = NULL;
	*n = 0;
	if (d == NULL)
		return errno == ENOENT || errno == ENOTDIR;
	while (errno = 0, (de = readdir(d)) != NULL)
	{
		struct stat st;
		bool		is_dir = false;

		if (de->d_name[0] == '.' || is_before(dir, de->d_name, after))
			continue;
		if (fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			is_dir = S_ISDIR(st.st_mode);
		if (*n == cap)
			*entries = pg_realloc(*entries, sizeof(char *) * (cap = cap ? cap * 2 : 64));
		(*entries)[(*n)++] = psprintf("%s%s", de->d_name, is_dir ? "/" : "");
	}
	if (errno != 0)
	{
		int			code = errno;

		closedir(d);
		errno = code;
		return false;
	}
	closedir(d);
	if (*n > 0)
		qsort(*entries, *n, sizeof(char *), compare_entries);
	return true;
}

static bool
list_entry(Store *store, const char *name, bool deep, StoreListFn fn, void *arg, DrError *err)
{
	FileStore  *fs = store->private;
	size_t		n = strlen(name);
	bool		is_dir = name[n - 1] == '/';
	ObjectName	bare;
	struct stat st;

	strlcpy(bare, name, sizeof(bare));
	if (is_dir)
		bare[n - 1] = '\0';
	if (n > PGDR_OBJECT_NAME_MAX || !name_valid(bare))
	{
		store->strangers++;		/* T3 */
		return true;
	}
	if (is_dir)
		return deep ? store->ops->list(store, name, "", true, fn, arg, err) : fn(arg, name, 0, err);
	if (fstatat(fs->rootfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
		return errno == ENOENT || io_error(err, "stat", store, name);
	if (!S_ISREG(st.st_mode))
	{
		store->strangers++;
		return true;
	}
	return fn(arg, name, st.st_size, err);
}

static bool
file_list(Store *store, const char *prefix, const char *after, bool deep, StoreListFn fn, void *arg,
		  DrError *err)
{
	FileStore  *fs = store->private;
	char	  **entries;
	size_t		n;
	bool		ok;

	if (!root_in_place(store, err))
		return false;
	ok = read_entries(fs, prefix, after, &entries, &n);
	if (!ok)
		io_error(err, "list", store, prefix);
	for (size_t i = 0; i < n; i++)
	{
		char	   *name = psprintf("%s%s", prefix, entries[i]);

		if (strcmp(name, after) > 0)
			ok = ok && list_entry(store, name, deep, fn, arg, err);
		pfree(name);
		pfree(entries[i]);
	}
	free(entries);
	return ok;
}

const StoreOps file_store_ops = {
	.scheme = "file",
	.open = file_open,
	.prepare = file_prepare,
	.put = file_put,
	.get = file_get,
	.get_range = file_get_range,
	.list = file_list,
	.remove = file_remove,
	.close = file_close,
};
