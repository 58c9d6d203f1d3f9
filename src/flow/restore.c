/*
 * restore.c
 *	  A backup's files, from packs to a directory.
 *
 * The one idea: a file's frames come in any order, from several threads; whoever
 * writes the last one finishes the file.  A delta restore (restore_delta.c) has
 * first made the directory hold nothing but files of the backup, perhaps with
 * other content, and then goes the same way.
 *
 * A crash leaves a directory without global/pg_control, with RESTORE_MARKER.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/restore.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/control.h"
#include "core/step.h"
#include "flow/fetch.h"
#include "flow/restore_private.h"
#include "store/direct.h"

/* A file of which frames are still on their way. */
typedef struct TargetFile
{
	char	   *path;			/* absolute */
	FileClass	class;
	uint32		mode;
	int64		mtime;
	uint64		size;
	FetchSlice *slices;			/* of all its frames, when it has extents */
	atomic_uint frames_left;
} TargetFile;

/* Frames of a pack, collected until all that are used are known. */
typedef struct Collected
{
	FetchFrame *v;
	uint32		n;
	uint32		cap;
} Collected;

typedef struct Writing
{
	Restore    *r;
	Bytes	   *control;
	Fetch	   *fetch;
	Collected  *packs;
	pthread_mutex_t lock;		/* of control and progress */
	_Atomic uint64 done;
	_Atomic uint64 rewritten;
	int64		reported;
} Writing;

/* ---- the sink ---- */

static bool
write_error(DrError *err, const char *path)
{
	int			code = errno;

	dr_error(err, DR_IO, "could not write \"%s\": %s", path, strerror(code));
	if (code == ENOSPC || code == EDQUOT)
		dr_hint(err, "Make room and run the restore again with --delta, which goes on from what is there.");
	return false;
}

/* The last frame is in: what was there behind it goes; permissions and time. */
static bool
finish_file(int fd, const TargetFile *file)
{
	struct timespec times[2] = {{file->mtime, 0}, {file->mtime, 0}};
	struct stat st;

	return fstat(fd, &st) == 0 &&
		((uint64) st.st_size <= file->size || ftruncate(fd, file->size) == 0) &&
		fchmod(fd, file->mode & 0777) == 0 && futimens(fd, times) == 0;
}

static void
target_free(TargetFile *file)
{
	free(file->path);
	free(file->slices);
	free(file);
}

static void
count_progress(Writing *w, uint64 n)
{
	Restore    *r = w->r;
	uint64		done = atomic_fetch_add(&w->done, n) + n;
	int64		now = time_now();

	pthread_mutex_lock(&w->lock);
	if (r->progress != NULL && now - w->reported > 200000)
	{
		w->reported = now;
		r->progress(r->arg, done, r->manifest.info.bytes);
	}
	pthread_mutex_unlock(&w->lock);
}

/* Every stretch of a frame to its place. */
static bool
write_slices(Writing *w, int fd, const FetchFrame *frame, const uint8 *raw, uint64 *bytes)
{
	const FetchSlice all = {frame->at, 0, frame->frame.raw};
	const FetchSlice *slices = frame->slices ? frame->slices : &all;
	uint32		n = frame->slices ? frame->n_slices : 1;
	uint64		written = 0;
	bool		ok = true;

	for (uint32 i = 0; ok && i < n; i++)
	{
		const FetchSlice *s = &slices[i];

		ok = w->r->delta ? delta_write(fd, raw + s->skip, s->length, s->at, &written) :
			direct_write(fd, raw + s->skip, s->length, s->at);
		*bytes += s->length;
	}
	atomic_fetch_add(&w->rewritten, w->r->delta ? written : *bytes);
	return ok;
}

static bool
write_frame(void *arg, const FetchFrame *frame, const void *raw, DrError *err)
{
	Writing    *w = arg;
	TargetFile *file = frame->file;
	uint64		bytes = 0;
	bool		last = false;
	bool		ok;
	int			fd;

	if (file->class == FILE_CONTROL)
	{
		pthread_mutex_lock(&w->lock);
		bytes_append(w->control, raw, frame->frame.raw);
		pthread_mutex_unlock(&w->lock);
		target_free(file);
		return true;
	}
	/* Many small stretches are better off in the page cache. */
	fd = direct_open(AT_FDCWD, file->path, (w->r->delta ? O_RDWR : O_WRONLY) | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600,
					 frame->frame.raw / Max(frame->n_slices, 1));
	ok = fd >= 0 && write_slices(w, fd, frame, raw, &bytes);
	if (ok)
	{
		last = atomic_fetch_sub(&file->frames_left, 1) == 1;
		ok = !last || finish_file(fd, file);
	}
	if (!ok)
		write_error(err, file->path);
	if (fd >= 0 && close(fd) != 0 && ok)
		ok = write_error(err, file->path);
	if (last)
		target_free(file);
	count_progress(w, bytes);
	return ok;
}

/* ---- the tree ---- */

static char *
target_path(const Restore *r, FileClass class, const char *path)
{
	return psprintf("%s/%s%s", r->pgdata, class == FILE_CONFIG ? RESTORE_CONFIG_STAGE "/" : "", path);
}

/* A directory; one that is there already is fine. */
static bool
make_directory(const char *path, uint32 mode, DrError *err)
{
	if (mkdir(path, 0700) == 0)
		return chmod(path, mode & 0777) == 0 || write_error(err, path);
	if (errno != EEXIST)
		return dr_error(err, DR_IO, "could not create directory \"%s\": %s", path, strerror(errno));
	return true;
}

/* Every directory above a path below base. */
static bool
make_parents(const char *base, const char *path, DrError *err)
{
	char	   *copy = pg_strdup(path);
	bool		ok = true;

	for (char *slash = strchr(copy + strlen(base) + 1, '/'); ok && slash != NULL; slash = strchr(slash + 1, '/'))
	{
		*slash = '\0';
		ok = make_directory(copy, 0700, err);
		*slash = '/';
	}
	free(copy);
	return ok;
}

static bool
is_tablespace_link(const Restore *r, const char *path)
{
	if (strncmp(path, "pg_tblspc/", 10) != 0)
		return false;
	for (int i = 0; i < r->n_tablespaces; i++)
		if (strcmp(path + 10, r->tablespaces[i].oid) == 0)
			return true;
	return false;
}

static bool
add_directory(Restore *r, uint32 mode, const char *path, DrError *err)
{
	char	   *full = target_path(r, FILE_ANY, path);
	bool		ok = true;

	if (!is_tablespace_link(r, path))
		ok = make_directory(full, mode, err) &&
			(!r->delta || chmod(full, mode & 0777) == 0 || write_error(err, full));
	pfree(full);
	return ok;
}

static bool
make_empty_file(const TargetFile *file, DrError *err)
{
	int			fd = open(file->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	bool		ok = fd >= 0 && finish_file(fd, file);

	if (!ok)
		write_error(err, file->path);
	if (fd >= 0)
		close(fd);
	return ok;
}

/* Collect a frame; when its pack has all, send the pack on its way. */
static bool
add_frame(Writing *w, const FetchFrame *frame, DrError *err)
{
	Restore    *r = w->r;
	RestorePack *pack = restore_pack(r, frame->frame.pack);
	Collected  *c;

	if (pack == NULL)
		return dr_error(err, DR_DAMAGED, "manifest \"%s\" is damaged: a frame lies in no pack", r->manifest.name);
	c = &w->packs[pack - r->packs];
	if (c->n == c->cap)
	{
		c->cap = c->cap ? Min(c->cap * 2, pack->frames) : Min(64, pack->frames);
		if (c->n == c->cap)
			return dr_error(err, DR_DAMAGED, "manifest \"%s\" is damaged: a pack has more frames than it says", r->manifest.name);
		c->v = pg_realloc(c->v, sizeof(FetchFrame) * c->cap);
	}
	c->v[c->n++] = *frame;
	if (c->n == pack->frames)
	{
		FetchFrame *frames = c->v;

		c->v = NULL;
		if (!fetch_pack(w->fetch, pack->name, pack->size, pack->whole, frames, c->n))
			return dr_error(err, DR_CANCELLED, "stopped");	/* fetch_finish knows why */
	}
	return true;
}

/* X4: frames are checked one by one, the file by what they make. */
static bool
check_file(const Restore *r, const ManifestFile *m, DrError *err)
{
	uint32		crc = 0;

	for (uint32 i = 0; m->n_extents == 0 && i < m->n_frames; i++)
		crc = i == 0 ? m->frames[i].crc : crc32c_combine(crc, m->frames[i].crc, m->frames[i].raw);
	if (crc != m->crc)
		return dr_error(err, DR_DAMAGED, "manifest \"%s\" is damaged: the checksum of \"%s\" is not that of its frames",
						r->manifest.name, m->path);
	if (m->class == FILE_CONTROL && (m->n_frames != 1 || m->n_extents > 0))
		return dr_error(err, DR_DAMAGED, "manifest \"%s\" is damaged: pg_control has an impossible size", r->manifest.name);
	return true;
}

/* Every frame once, with all that the file takes from it. */
static bool
add_frames(Writing *w, const ManifestFile *m, TargetFile *file, DrError *err)
{
	uint32	   *first = NULL;
	uint64		at = 0;
	uint64		size = m->size;
	bool		ok = true;

	if (m->n_extents > 0)
		file->slices = fetch_slices(m, &first, &size);
	if (size != m->size)
		ok = dr_error(err, DR_DAMAGED, "manifest \"%s\" is damaged: the extents of \"%s\" do not make its size",
					  w->r->manifest.name, m->path);
	for (uint32 i = 0; ok && i < m->n_frames; i++)
	{
		FetchFrame	frame = {.frame = m->frames[i],.file = file,.at = at};

		if (file->slices != NULL)
		{
			frame.slices = file->slices + first[i];
			frame.n_slices = first[i + 1] - first[i];
		}
		at += m->frames[i].raw;
		ok = add_frame(w, &frame, err);
	}
	free(first);
	return ok;
}

static bool
add_file(Writing *w, const ManifestFile *m, DrError *err)
{
	Restore    *r = w->r;
	TargetFile *file = pg_malloc0(sizeof(*file));
	bool		ok;

	file->path = target_path(r, m->class, m->path);
	file->class = m->class;
	file->mode = m->mode;
	file->mtime = m->mtime;
	file->size = m->size;
	atomic_init(&file->frames_left, m->n_frames);
	ok = check_file(r, m, err) &&
		(m->class != FILE_CONFIG || make_parents(r->pgdata, file->path, err));
	if (ok && m->n_frames > 0)
		return add_frames(w, m, file, err);	/* the last frame frees it */
	ok = ok && make_empty_file(file, err);
	target_free(file);
	return ok;
}

static bool
make_link(const Restore *r, const TablespaceMapping *t, DrError *err)
{
	char	   *link = psprintf("%s/pg_tblspc/%s", r->pgdata, t->oid);
	bool		ok;

	ok = make_parents("", t->to, err) && make_directory(t->to, 0700, err);
	if (ok && !(r->delta && delta_link_leads_to(r, t)) && symlink(t->to, link) != 0)
		ok = dr_error(err, DR_IO, "could not create symbolic link \"%s\": %s", link, strerror(errno));
	pfree(link);
	return ok;
}

/* The data directory, its marker, tablespaces and their links. */
static bool
make_tree(Restore *r, DrError *err)
{
	char	   *tblspc = psprintf("%s/pg_tblspc", r->pgdata);
	bool		ok;

	ok = make_parents("", r->pgdata, err) && make_directory(r->pgdata, 0700, err) &&
		(chmod(r->pgdata, 0700) == 0 || write_error(err, r->pgdata)) &&
		(r->delta ? delta_clear(r, err) : restore_write_marker(r, err)) &&
		make_directory(tblspc, 0700, err);
	for (int i = 0; ok && i < r->n_tablespaces; i++)
		ok = make_link(r, &r->tablespaces[i], err);
	pfree(tblspc);
	if (ok)
		step_reached("restore.tree");
	return ok;
}

static bool
write_records(Writing *w, DrError *err)
{
	Restore    *r = w->r;
	Record		record;
	bool		ok = true;

	if (!manifest_rewind(&r->manifest, err))
		return false;
	do
	{
		ok = manifest_next(r->manifest.reader, &record, err);
		if (ok && record.type == RECORD_DIRECTORY)
			ok = add_directory(r, record.u.directory.mode, record.u.directory.path, err);
		else if (ok && record.type == RECORD_FILE)
			ok = add_file(w, &record.u.file, err);
	} while (ok && record.type != RECORD_END);
	for (uint32 i = 0; ok && i < r->n_packs; i++)
		if (w->packs[i].n != r->packs[i].frames)	/* X4: its files would lack frames */
			ok = dr_error(err, DR_DAMAGED, "manifest \"%s\" is damaged: \"%s\" has fewer frames than it says",
						  r->manifest.name, r->packs[i].name);
	return ok;
}

bool
restore_files(Restore *r, Bytes *control, DrError *err)
{
	Writing		w = {.r = r, .control = control};
	DrError		fetch_error;
	bool		written;
	bool		fetched;

	if (!make_tree(r, err))
		return false;
	pthread_mutex_init(&w.lock, NULL);
	w.packs = pg_malloc0(sizeof(Collected) * (r->n_packs + 1));
	w.fetch = fetch_new(r->repo, r->jobs, write_frame, &w);
	written = write_records(&w, err);
	fetched = fetch_finish(w.fetch, !written && err->code != DR_CANCELLED, &fetch_error);
	if (!fetched && (written || err->code == DR_CANCELLED))
		*err = fetch_error;
	for (uint32 i = 0; i < r->n_packs; i++)
		free(w.packs[i].v);
	free(w.packs);
	r->rewritten = w.rewritten;
	pthread_mutex_destroy(&w.lock);
	if (!written || !fetched)
		return false;
	if (r->progress != NULL)
		r->progress(r->arg, r->manifest.info.bytes, r->manifest.info.bytes);
	if (control->len == 0)
		return dr_error(err, DR_DAMAGED, "manifest \"%s\" is damaged: it has no pg_control", r->manifest.name);
	return true;
}

bool
restore_write_file(Restore *r, const char *path, const void *data, size_t n, DrError *err)
{
	char	   *full = psprintf("%s/%s", r->pgdata, path);
	bool		ok = make_parents(r->pgdata, full, err);
	int			fd = ok ? open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;

	if (ok && (fd < 0 || !direct_write(fd, data, n, 0)))
		ok = write_error(err, full);
	if (fd >= 0 && close(fd) != 0 && ok)
		ok = write_error(err, full);
	pfree(full);
	return ok;
}

bool
restore_write_marker(Restore *r, DrError *err)
{
	char	   *text = psprintf("%s/%s", r->manifest.info.system_identifier, r->manifest.info.id);
	bool		ok = restore_write_file(r, RESTORE_MARKER, text, strlen(text), err);

	pfree(text);
	return ok;
}

bool
restore_control(Restore *r, Bytes *control, DrError *err)
{
	char	   *full = psprintf("%s/global/pg_control", r->pgdata);
	char	   *dir = psprintf("%s/global", r->pgdata);
	char	   *temporary = psprintf("%s.restoring", full);
	char	   *marker = psprintf("%s/" RESTORE_MARKER, r->pgdata);
	int			fd;
	bool		ok;

	if (!control_invalidate_checkpoint(control->data, control->len))	/* X3 */
		return dr_error(err, DR_DAMAGED, "pg_control in backup %s fails its checksum", r->manifest.info.id);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	ok = fd >= 0 && direct_write(fd, control->data, control->len, 0) && fsync(fd) == 0;
	if (fd >= 0)
		ok = close(fd) == 0 && ok;
	ok = ok && rename(temporary, full) == 0;
	if (ok)
		step_reached("restore.control");
	fd = ok ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	ok = fd >= 0 && fsync(fd) == 0;
	if (!ok)
		write_error(err, full);
	if (fd >= 0)
		close(fd);
	if (ok)
		unlink(marker);			/* only words: pg_control is what counts */
	pfree(full);
	pfree(dir);
	pfree(temporary);
	pfree(marker);
	return ok;
}
