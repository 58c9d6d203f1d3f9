/*
 * upload_worker.c
 *	  The upload conveyor's workers: read, judge pages, compress, pack.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <fcntl.h>
#include <unistd.h>

#include "core/control.h"
#include "flow/read_pages.h"
#include "flow/upload_private.h"

#define REREADS			3		/* of a page that looks corrupt */
#define SMALL_REREADS	200		/* of a small file that is written in place */

typedef struct Worker
{
	Upload	   *u;
	Codec		codec;
	char	   *raw;			/* FRAME_MAX, aligned */
	uint8	   *compressed;		/* FRAME_BOUND */
	Pack	   *pack;			/* being filled, or NULL */
} Worker;

/* ---- reading ---- */

/* The file's descriptor; -1: vanished (true) or failed (false). */
static bool
open_file(Worker *w, UploadFile *f, DrError *err)
{
	bool		ok = true;

	pthread_mutex_lock(&f->lock);
	if (!f->opened)
	{
		f->opened = true;
		f->fd = open(f->full_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (f->fd < 0 && errno == ENOENT)
			f->vanished = true;
		else if (f->fd < 0)
			ok = dr_error(err, DR_IO, "could not open file \"%s\": %s", f->full_path, strerror(errno));
		else if (f->n_frames > 1 || f->composed)

			/*
			 * We read in frames, in parallel; read-ahead would fill the cache with
			 * pages that read_range then takes for the server's own.
			 */
			posix_fadvise(f->fd, 0, 0, POSIX_FADV_RANDOM);
	}
	pthread_mutex_unlock(&f->lock);
	return ok;
}

/* pg_control and pg_filenode.map are overwritten in place: read until whole. */
static bool
small_file_whole(Worker *w, const UploadFile *f, size_t n)
{
	ControlInfo info;

	if (f->entry.class == FILE_CONTROL)
		return control_decode((uint8 *) w->raw, n, &info);
	return relmap_whole((uint8 *) w->raw, n);
}

static bool
reread_small_file(Worker *w, const UploadFile *f, size_t n, DrError *err)
{
	char	   *text;

	for (int i = 0; i < SMALL_REREADS; i++)
	{
		if (small_file_whole(w, f, n))
			return true;
		usleep(1000 * Min(i, 20));
		if (!read_range(&(PageFile) {f->fd, f->full_path}, w->raw, n, 0, err))
			return false;
	}
	if (f->entry.class == FILE_CONTROL)
	{
		dr_error(err, DR_DAMAGED, "file \"%s\" fails its checksum", f->full_path);
		return dr_hint(err, "The server's control file is damaged, or this pg_dr was built for another server version.");
	}
	text = psprintf("file \"%s\" fails its checksum and is backed up as it is", f->entry.path);
	w->u->o.warning(w->u->o.arg, text);
	pfree(text);
	return true;
}

static bool
is_relation_map(const char *path)
{
	const char *slash = strrchr(path, '/');

	return strcmp(slash ? slash + 1 : path, "pg_filenode.map") == 0;
}

/* ---- pages ---- */

/* Report, or keep until the backup's end is known.  Under no lock. */
static void
add_suspect(Upload *u, const CorruptPage *page, bool sound)
{
	bool		kept = false;

	pthread_mutex_lock(&u->lock);
	if (u->n_suspects == MAX_SUSPECTS)
	{
		XLogRecPtr	flushed = atomic_load(&u->flushed);
		int			n = 0;

		for (int i = 0; i < u->n_suspects; i++)
			if (u->suspects[i].lsn > flushed)
				u->suspects[n++] = u->suspects[i];
			else
				free(u->suspects[i].path);
		u->n_suspects = n;
	}
	if (u->n_suspects < MAX_SUSPECTS)
	{
		if (u->suspects == NULL)
			u->suspects = pg_malloc(sizeof(Suspect) * MAX_SUSPECTS);
		u->suspects[u->n_suspects++] = (Suspect) {pg_strdup(page->path), page->block,
			page->expected, page->found, page->lsn, sound};
		kept = true;
	}
	pthread_mutex_unlock(&u->lock);
	if (!kept && !sound)
		u->o.corrupt(u->o.arg, page);
}

static void
report_page(Worker *w, const UploadFile *f, const CorruptPage *page)
{
	Upload	   *u = w->u;

	if (f->entry.class == FILE_FSM || f->entry.class == FILE_VM)
	{
		char	   *text = psprintf("page %u of \"%s\" fails its checksum; the server rebuilds it",
									page->block, page->path);

		u->o.warning(u->o.arg, text);
		pfree(text);
	}
	else
		u->o.corrupt(u->o.arg, page);
}

/* A corrupt page is told, or kept until it can be told. */
static bool
judge(Worker *w, const UploadFile *f, char *page, off_t at, DrError *err)
{
	Upload	   *u = w->u;
	CorruptPage c = {f->entry.segment * u->o.segment_blocks + (uint32) (at / BLCKSZ), 0, 0, 0, f->entry.path};
	PageVerdict verdict;
	bool		sound = true;

	if (!read_verdict(&(PageFile) {f->fd, f->full_path}, page, at, u->o.checksums, u->o.start_lsn, REREADS,
					  &c, &verdict, &sound, err))
		return false;
	if (verdict == PAGE_CORRUPT)
		report_page(w, f, &c);
	else if (verdict == PAGE_NEW_LSN && (!sound || c.lsn > atomic_load(&u->flushed)) &&
			 (f->entry.class == FILE_MAIN || f->entry.class == FILE_INIT))
		add_suspect(u, &c, sound);
	return true;
}

static bool
judge_pages(Worker *w, const UploadFile *f, char *pages, size_t n, off_t at, DrError *err)
{
	if (f->entry.class < FILE_MAIN || f->entry.class > FILE_INIT)
		return true;
	for (size_t done = 0; done + BLCKSZ <= n; done += BLCKSZ)
		if (!judge(w, f, pages + done, at + done, err))
			return false;
	return true;
}

/* ---- packs ---- */

static bool
seal_pack(Worker *w, DrError *err)
{
	ObjectName	name;
	Pack	   *pack = w->pack;

	name_pack(name, w->u->o.system_identifier, w->u->o.backup_id, pack->number);
	if (!repository_seal(w->u->o.repo, &pack->buffer, CODEC_NONE, 0, 0, name, err))
		return false;
	w->pack = NULL;
	return queue_push(&w->u->sealed, pack) || dr_error(err, DR_CANCELLED, "the backup was cancelled");
}

/* A pack with room for one frame. */
static bool
need_pack(Worker *w, DrError *err)
{
	if (w->pack != NULL && w->pack->buffer.length + FRAME_BOUND > PACK_TARGET && !seal_pack(w, err))
		return false;
	if (w->pack != NULL)
		return true;
	w->pack = queue_pop(&w->u->free_packs);
	if (w->pack == NULL)
		return dr_error(err, DR_CANCELLED, "the backup was cancelled");
	w->pack->number = atomic_fetch_add(&w->u->next_pack, 1) + 1;
	return true;
}

static bool
pack_frame(Worker *w, size_t n, Frame *frame, DrError *err)
{
	size_t		stored = 0;

	if (!codec_compress(&w->codec, w->raw, n, w->compressed, FRAME_BOUND, &stored, err) ||
		!need_pack(w, err))
		return false;
	frame->pack = w->pack->number;
	frame->offset = (uint32) w->pack->buffer.length;
	frame->stored = (uint32) stored;
	frame->raw = (uint32) n;
	frame->crc = crc32c(w->raw, n);
	seal_buffer_append(&w->pack->buffer, w->compressed, stored);
	w->pack->frames++;
	return true;
}

/* ---- the worker ---- */

/* A stretch of a file that is read whole. */
static bool
read_stretch(Worker *w, UploadFile *f, uint32 i, size_t *n, DrError *err)
{
	off_t		at = (off_t) i * FRAME_MAX;

	*n = Min(FRAME_MAX, f->entry.size - at);
	rate_wait(&w->u->rate, *n, &w->u->failed);
	if (!read_range(&(PageFile) {f->fd, f->full_path}, w->raw, *n, at, err))
		return false;
	if ((f->entry.class == FILE_CONTROL || is_relation_map(f->entry.path)) &&
		!reread_small_file(w, f, *n, err))
		return false;
	return judge_pages(w, f, w->raw, *n, at, err);
}

/* The blocks of a composed file that make one frame, from wherever they are. */
static bool
read_blocks(Worker *w, UploadFile *f, uint32 i, size_t *n, DrError *err)
{
	ReadCursor	at = f->cursors[i];
	uint32		block;
	uint32		blocks;

	*n = 0;
	while (*n < FRAME_MAX &&
		   composition_next_run(&f->composition, &at, (uint32) ((FRAME_MAX - *n) / BLCKSZ), &block, &blocks))
	{
		char	   *to = w->raw + *n;
		size_t		length = (size_t) blocks * BLCKSZ;
		off_t		from = (off_t) block * BLCKSZ;

		rate_wait(&w->u->rate, length, &w->u->failed);
		if (!read_range(&(PageFile) {f->fd, f->full_path}, to, length, from, err) || !judge_pages(w, f, to, length, from, err))
			return false;
		*n += length;
	}
	return true;
}

static bool
do_frame(Worker *w, UploadFile *f, uint32 i, DrError *err)
{
	size_t		n;

	if (!(f->composed ? read_blocks : read_stretch) (w, f, i, &n, err) ||
		!pack_frame(w, n, &f->frames[f->n_kept + i], err))
		return false;
	atomic_fetch_add(&w->u->bytes, n);
	return true;
}

static bool
do_range(Worker *w, const Range *r, DrError *err)
{
	UploadFile *f = r->file;
	Upload	   *u = w->u;

	if (!open_file(w, f, err))
		return false;
	for (uint32 i = r->first; !f->vanished && i < r->first + r->count; i++)
		if (!do_frame(w, f, i, err))
			return false;
	pthread_mutex_lock(&u->lock);
	if (--f->ranges_left == 0)
	{
		if (f->fd >= 0)
			close(f->fd);
		f->fd = -1;
		pthread_cond_broadcast(&u->progressed);
	}
	pthread_mutex_unlock(&u->lock);
	return true;
}

void *
upload_worker(void *arg)
{
	Worker		w = {.u = arg};
	Range	   *r;
	DrError		err;
	bool		ok = true;

	codec_init(&w.codec, w.u->o.level);
	w.raw = aligned_malloc(FRAME_MAX);
	w.compressed = pg_malloc(FRAME_BOUND);
	while (ok && (r = queue_pop(&w.u->ranges)) != NULL)
	{
		ok = do_range(&w, r, &err);
		free(r);
	}
	if (ok && w.pack != NULL)
		ok = seal_pack(&w, &err);
	if (!ok)
		upload_fail(w.u, &err);
	free(w.raw);
	free(w.compressed);
	codec_free(&w.codec);
	return NULL;
}
