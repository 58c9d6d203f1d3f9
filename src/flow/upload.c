/*
 * upload.c
 *	  The upload conveyor: order of files, packs, threads.
 *
 * A crash leaves packs without a manifest, which nothing lists as a backup.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/upload.h"

#include <unistd.h>

#include "core/step.h"
#include "flow/upload_private.h"

bool
upload_fail(Upload *u, const DrError *err)
{
	pthread_mutex_lock(&u->lock);
	if (!u->failed)
	{
		u->failed = true;
		u->error = *err;
	}
	pthread_cond_broadcast(&u->progressed);
	pthread_mutex_unlock(&u->lock);
	queue_abort(&u->ranges);
	queue_abort(&u->free_packs);
	queue_abort(&u->sealed);
	store_set_patience(u->o.repo->store, 0);
	return false;
}

static bool
failed(Upload *u, DrError *err)
{
	bool		f;

	pthread_mutex_lock(&u->lock);
	f = u->failed;
	if (f)
		*err = u->error;
	pthread_mutex_unlock(&u->lock);
	return f;
}

/* ---- uploaders ---- */

static void
remember_pack(Upload *u, const Pack *pack, const uint8 hash[32])
{
	PackInfo   *info;

	pthread_mutex_lock(&u->lock);
	if (pack->number > u->info_cap)
	{
		uint32		cap = Max(pack->number, u->info_cap * 2);

		u->info = pg_realloc(u->info, sizeof(PackInfo) * cap);
		memset(u->info + u->info_cap, 0, sizeof(PackInfo) * (cap - u->info_cap));
		u->info_cap = cap;
	}
	info = &u->info[pack->number - 1];
	info->size = pack->buffer.size;
	info->frames = pack->frames;
	info->used = pack->buffer.length;
	memcpy(info->sha256, hash, 32);
	pthread_mutex_unlock(&u->lock);
	atomic_fetch_add(&u->stored, pack->buffer.size);
}

static bool
store_pack(Upload *u, Pack *pack, DrError *err)
{
	ObjectName	name;
	uint8		hash[32];

	name_pack(name, u->o.system_identifier, u->o.backup_id, pack->number);
	step_reached("backup.pack_sealed");
	if (repository_put(u->o.repo, &pack->buffer, name, hash, err) != STORE_OK)
		return false;
	step_reached("backup.pack_stored");
	remember_pack(u, pack, hash);
	u->o.stored(u->o.arg, name, pack->buffer.size, hash);
	return true;
}

static void *
uploader(void *arg)
{
	Upload	   *u = arg;
	Pack	   *pack;
	DrError		err;

	while ((pack = queue_pop(&u->sealed)) != NULL)
	{
		if (!store_pack(u, pack, &err))
		{
			upload_fail(u, &err);
			break;
		}
		pack->number = pack->frames = 0;
		seal_buffer_reset(&pack->buffer);
		queue_give_back(&u->free_packs, pack);
	}
	return NULL;
}

/* ---- life ---- */

Upload *
upload_new(const UploadOptions *options)
{
	Upload	   *u = pg_malloc0(sizeof(*u));
	int			n_threads;

	u->o = *options;
	u->n_packs = UPLOAD_PACKS(options->jobs);	/* U1 */
	n_threads = u->n_packs;		/* one for each pack that is being filled or stored */
	pthread_mutex_init(&u->lock, NULL);
	rate_init(&u->rate, options->max_rate);
	pthread_cond_init(&u->progressed, NULL);
	queue_init(&u->ranges, WINDOW_FILES);
	queue_init(&u->free_packs, u->n_packs);
	queue_init(&u->sealed, u->n_packs);
	u->packs = pg_malloc0(sizeof(Pack) * u->n_packs);
	for (int i = 0; i < u->n_packs; i++)
	{
		seal_buffer_init(&u->packs[i].buffer, PACK_TARGET);
		queue_push(&u->free_packs, &u->packs[i]);
	}
	atomic_init(&u->flushed, options->start_lsn);
	u->threads = pg_malloc0(sizeof(pthread_t) * n_threads);
	for (int i = 0; i < n_threads; i++)
	{
		bool		worker = i < options->jobs;
		DrError		err;

		if (pthread_create(&u->threads[i], NULL, worker ? upload_worker : uploader, u) != 0)
		{
			dr_error(&err, DR_INTERNAL, "could not start a thread: %s", strerror(errno));
			upload_fail(u, &err);
			break;
		}
		*(worker ? &u->n_workers : &u->n_uploaders) += 1;
	}
	return u;
}

static void
file_free(UploadFile *f)
{
	if (f->fd >= 0)
		close(f->fd);
	pthread_mutex_destroy(&f->lock);
	free(unconstify(char *, f->entry.path));
	free(f->full_path);
	free(f->frames);
	free(f->cursors);
	composition_free(&f->composition);
	free(f);
}

/*
 * A file that was read whole, or is the parent's, block for block, is its
 * frames; another takes extents from them, and has no checksum of its own.
 */
static void
hand_on_file(Upload *u, UploadFile *f, ManifestFile *m)
{
	Extent	   *extents = NULL;

	for (uint32 i = 0; i < f->n_kept; i++)
		u->o.inherit(u->o.arg, &f->frames[i]);
	if (f->composed && !f->composition.unchanged)
		m->extents = extents = composition_extents(&f->composition, &m->n_extents);
	else
		for (uint32 i = 0; i < m->n_frames; i++)
			m->crc = i == 0 ? f->frames[i].crc : crc32c_combine(m->crc, f->frames[i].crc, f->frames[i].raw);
	u->o.file(u->o.arg, m);
	free(extents);
}

/* U2: hand on the oldest file, which is complete. */
static void
hand_on(Upload *u)
{
	UploadFile *f = u->oldest;

	u->oldest = f->next;
	if (u->oldest == NULL)
		u->newest = NULL;
	u->window--;
	u->pieces -= f->composition.n_pieces;
	if (f->entry.is_directory)
		u->o.directory(u->o.arg, f->entry.mode, f->entry.path);
	else if (!f->vanished)
	{
		ManifestFile m = {
			.class = f->entry.class,.mode = f->entry.mode,.mtime = f->entry.mtime,.size = f->entry.size,
			.path = f->entry.path,.n_frames = f->n_kept + f->n_frames,.frames = f->frames
		};

		hand_on_file(u, f, &m);
		atomic_fetch_add(&u->files, 1);
	}
	file_free(f);
}

static bool
crowded(const Upload *u, int most)
{
	return u->window > most || (u->window > 0 && u->pieces > WINDOW_PIECES);
}

/* Hand on what is complete; wait until at most "most" files are in the window. */
static bool
shrink_window(Upload *u, int most, DrError *err)
{
	for (;;)
	{
		bool		complete;

		pthread_mutex_lock(&u->lock);
		while (!u->failed && crowded(u, most) && u->oldest->ranges_left > 0)
			pthread_cond_wait(&u->progressed, &u->lock);
		complete = u->window > 0 && u->oldest->ranges_left == 0;
		pthread_mutex_unlock(&u->lock);
		if (failed(u, err))
			return false;
		if (!complete)
			return true;
		hand_on(u);
	}
}

/* What of a file is read, in which frames. */
static void
plan_frames(UploadFile *f, Composition *composition)
{
	f->n_frames = f->entry.is_directory ? 0 : (uint32) ((f->entry.size + FRAME_MAX - 1) / FRAME_MAX);
	if (composition != NULL)
	{
		f->composed = true;
		f->composition = *composition;
		memset(composition, 0, sizeof(*composition));
		f->n_kept = f->composition.n_kept;
		f->cursors = composition_cursors(&f->composition, &f->n_frames);
	}
	f->ranges_left = (f->n_frames + RANGE_FRAMES - 1) / RANGE_FRAMES;
	if (f->n_kept + f->n_frames > 0)
		f->frames = pg_malloc0(sizeof(Frame) * (f->n_kept + f->n_frames));
	if (f->n_kept > 0)
		memcpy(f->frames, f->composition.kept, sizeof(Frame) * f->n_kept);
}

bool
upload_add(Upload *u, const WalkEntry *entry, const char *full_path, Composition *composition, DrError *err)
{
	UploadFile *f;

	if (!shrink_window(u, WINDOW_FILES - 1, err))
	{
		if (composition != NULL)
			composition_free(composition);
		return false;
	}
	f = pg_malloc0(sizeof(*f));
	f->entry = *entry;
	f->entry.path = pg_strdup(entry->path);
	f->full_path = pg_strdup(full_path);
	f->fd = -1;
	pthread_mutex_init(&f->lock, NULL);
	plan_frames(f, composition);
	if (u->newest != NULL)
		u->newest->next = f;
	else
		u->oldest = f;
	u->newest = f;
	u->window++;
	u->pieces += f->composition.n_pieces;
	for (uint32 first = 0; first < f->n_frames; first += RANGE_FRAMES)
	{
		Range	   *r = pg_malloc(sizeof(*r));

		r->file = f;
		r->first = first;
		r->count = Min(RANGE_FRAMES, f->n_frames - first);
		if (!queue_push(&u->ranges, r))
		{
			free(r);
			return !failed(u, err);
		}
	}
	return true;
}

bool
upload_drain(Upload *u, DrError *err)
{
	return shrink_window(u, 0, err);
}

static void
join(Upload *u)
{
	/* Workers are through first; only then nothing more comes for the uploaders. */
	queue_close(&u->ranges);
	for (int i = 0; i < u->n_workers; i++)
		pthread_join(u->threads[i], NULL);
	queue_close(&u->sealed);
	for (int i = 0; i < u->n_uploaders; i++)
		pthread_join(u->threads[u->o.jobs + i], NULL);
	u->finished = true;
}

bool
upload_finish(Upload *u, DrError *err)
{
	if (!upload_drain(u, err))
		return false;
	join(u);
	return !failed(u, err);		/* U3 */
}

void
upload_settle(Upload *u, XLogRecPtr stop_lsn)
{
	for (int i = 0; i < u->n_suspects; i++)
	{
		Suspect    *s = &u->suspects[i];
		CorruptPage page = {s->block, s->expected, s->found, s->lsn, s->path};

		if (s->lsn > stop_lsn)
			u->o.corrupt(u->o.arg, &page);
	}
}

uint32
upload_packs(Upload *u)
{
	return atomic_load(&u->next_pack);
}

void
upload_pack(Upload *u, uint32 number, ManifestPack *out)
{
	const PackInfo *info = &u->info[number - 1];

	out->number = number;
	out->size = info->size;
	out->frames = info->frames;
	out->used = info->used;
	memcpy(out->sha256, info->sha256, 32);
}

void
upload_cancel(Upload *u)
{
	DrError		err;

	dr_error(&err, DR_CANCELLED, "the backup was cancelled");
	upload_fail(u, &err);
}

void
upload_flushed(Upload *u, XLogRecPtr lsn)
{
	atomic_store(&u->flushed, lsn);
}

void
upload_progress(Upload *u, uint64 *bytes, uint64 *files, uint64 *stored)
{
	*bytes = atomic_load(&u->bytes);
	*files = atomic_load(&u->files);
	*stored = atomic_load(&u->stored);
}

/* What can't be removed is garbage that nothing lists. */
static bool
discard_some(Upload *u, uint32 first, uint32 last)
{
	ObjectName *names = pg_malloc(sizeof(ObjectName) * DISCARD_AT_ONCE);
	const char *pointers[DISCARD_AT_ONCE];
	DrError		ignored;
	bool		ok;

	for (uint32 n = first; n <= last; n++)
	{
		name_pack(names[n - first], u->o.system_identifier, u->o.backup_id, n);
		pointers[n - first] = names[n - first];
	}
	ok = store_remove(u->o.repo->store, pointers, last - first + 1, &ignored);
	free(names);
	return ok;
}

void
upload_discard(Upload *u)
{
	bool		ok = true;

	if (!u->finished)
	{
		upload_cancel(u);
		join(u);
	}
	store_set_patience(u->o.repo->store, STORE_PATIENCE_CLEANUP);
	for (uint32 n = 1; ok && n <= upload_packs(u); n += DISCARD_AT_ONCE)
		ok = discard_some(u, n, Min(upload_packs(u), n + DISCARD_AT_ONCE - 1));
}

void
upload_free(Upload *u)
{
	void	   *range;

	if (!u->finished)
	{
		upload_cancel(u);
		join(u);
	}
	u->ranges.aborted = false;
	while ((range = queue_pop(&u->ranges)) != NULL)
		free(range);
	while (u->oldest != NULL)
	{
		UploadFile *f = u->oldest;

		u->oldest = f->next;
		file_free(f);
	}
	for (int i = 0; i < u->n_packs; i++)
		seal_buffer_free(&u->packs[i].buffer);
	for (int i = 0; i < u->n_suspects; i++)
		free(u->suspects[i].path);
	queue_destroy(&u->ranges);
	queue_destroy(&u->free_packs);
	queue_destroy(&u->sealed);
	rate_free(&u->rate);
	pthread_mutex_destroy(&u->lock);
	pthread_cond_destroy(&u->progressed);
	free(u->packs);
	free(u->threads);
	free(u->info);
	free(u->suspects);
	free(u);
}
