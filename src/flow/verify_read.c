/*
 * verify_read.c
 *	  Verification: objects fetched, hashed, opened, and what is in them judged.
 *
 * More threads than jobs, so that the network's delay hides; but no more than
 * jobs of them compute at the same time.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/verify_private.h"

#include "flow/wal.h"

struct Readers
{
	Verification *w;
	Queue		queue;
	pthread_t  *threads;
	int			n_threads;
	pthread_mutex_t lock;		/* of all that follows */
	pthread_cond_t turn;
	int			computing;
	volatile bool failed;
	DrError		error;
};

/* What a thread keeps from one object to the next. */
typedef struct Reader
{
	Readers    *all;
	Verification *w;
	Bytes		object;
	Bytes		plain;
	Codec		codec;
	uint8	   *raw;			/* FRAME_MAX, aligned */
} Reader;

/* ---- taking turns ---- */

static void
compute_begin(Readers *r)
{
	pthread_mutex_lock(&r->lock);
	while (r->computing >= r->w->v->jobs)
		pthread_cond_wait(&r->turn, &r->lock);
	r->computing++;
	pthread_mutex_unlock(&r->lock);
}

static void
compute_end(Readers *r)
{
	pthread_mutex_lock(&r->lock);
	r->computing--;
	pthread_cond_signal(&r->turn);
	pthread_mutex_unlock(&r->lock);
}

/* ---- an object ---- */

/* It was listed, and is gone: what no backup needs may go at any time. */
static bool
gone(Verification *w, Seen *o, const DrError *why, DrError *err)
{
	if (!repository_confirm_absent(w->v->repo, err))
		return false;
	return (o->flags & SEEN_NEEDED) == 0 || verify_verdict(w, o, why, err);
}

static bool
is_keyring(const Seen *o)
{
	return strncmp(o->name, "keys/", 5) == 0;
}

static bool
hash_fits(Verification *w, Seen *o, size_t size, const uint8 hash[32])
{
	if ((o->flags & SEEN_HASH) != 0 && (size != o->size || memcmp(hash, o->sha256, 32) != 0))
	{
		verify_found(w, o, verify_weight(w, o), "its size or SHA-256 is not what the manifest says");
		return false;
	}
	if ((o->flags & SEEN_KNOWN) != 0 &&
		(size != o->known_size || ((o->flags & SEEN_KNOWN_HASH) != 0 && memcmp(hash, o->known_sha256, 32) != 0)))
	{
		verify_found(w, o, verify_weight(w, o), "its size or SHA-256 is not what this database recorded when it was stored");
		return false;
	}
	return true;
}

/*
 * Fetch it into t->object and open it: *content is NULL when that became a
 * finding.  Afterwards we are computing, if there is content.
 */
static bool
open_object(Reader *t, Seen *o, SealHeader *header, uint8 **content, size_t *n, uint8 hash[32], DrError *err)
{
	Verification *w = t->w;
	Keyring		keyring;
	DrError		why;
	StoreResult r;
	bool		ok;

	*content = NULL;
	rate_wait(&w->rate, o->listed, &t->all->failed);
	t->object.len = 0;
	r = store_get(w->v->repo->store, o->name, Max(o->listed, 1), &t->object, &why);
	if (r == STORE_ABSENT)
		return gone(w, o, &why, err);
	if (r != STORE_OK)
		return verify_verdict(w, o, &why, err);
	if (verify_counts(o))
	{
		pthread_mutex_lock(&w->v->lock);
		w->v->bytes += t->object.len;
		pthread_mutex_unlock(&w->v->lock);
	}
	compute_begin(t->all);
	sha256(t->object.data, t->object.len, hash);
	ok = hash_fits(w, o, t->object.len, hash);
	if (ok && is_keyring(o))
	{
		ok = keyring_open(t->object.data, t->object.len, o->name, w->v->repo->id, &w->v->repo->recipient, &keyring, &why);
		memset(&keyring, 0, sizeof(keyring));
		*content = t->object.data;
	}
	else if (ok)
		ok = repository_unseal(w->v->repo, o->name, &t->object, header, content, n, &why);
	else
	{
		compute_end(t->all);
		return true;
	}
	if (ok)
		return true;
	compute_end(t->all);
	*content = NULL;
	/* A keyring that is for others than us is none of our business. */
	return (is_keyring(o) && why.code == DR_KEY) || verify_verdict(w, o, &why, err);
}

/* ---- pages ---- */

void
judged_file_left(JudgedFile *file)
{
	if (file == NULL || atomic_fetch_sub(&file->frames_left, 1) != 1)
		return;
	free(file->slices);
	free(file->path);
	free(file);
}

static void
free_job(ReadJob *job)
{
	for (size_t i = 0; i < job->n_frames; i++)
		judged_file_left(job->frames[i].file);
	free(job->frames);
	free(job);
}

static int
compare_corrupt(const void *a, const void *b)
{
	const CorruptPage *x = a;
	const CorruptPage *y = b;
	int			order = strcmp(x->path, y->path);

	return order != 0 ? order : x->block < y->block ? -1 : x->block > y->block;
}

static bool
is_recorded(const Chosen *b, const char *path, uint32 block)
{
	CorruptPage key = {.block = block,.path = path};

	return b->n_corrupt > 0 && bsearch(&key, b->corrupt, b->n_corrupt, sizeof(CorruptPage), compare_corrupt) != NULL;
}

/* Corrupt pages of one pack: one finding, which says how many, and names the first. */
typedef struct Corruption
{
	uint64		pages;
	bool		serious;		/* not merely in what the server rebuilds */
	char		first[300];
	VerifyFinding files;
} Corruption;

static void
note_page(Corruption *c, const JudgedFile *file, uint32 block, XLogRecPtr lsn, uint16 expected, uint16 found)
{
	bool		serious = file->class == FILE_MAIN || file->class == FILE_INIT;
	char		text[LSN_TEXT_MAX];

	lsn_format(text, lsn);
	if (c->pages++ == 0 || (serious && !c->serious))
		snprintf(c->first, sizeof(c->first), "block %u of \"%s\", checksum %u instead of %u, LSN %s",
				 block, file->path, found, expected, text);
	c->serious |= serious;
	finding_add_file(&c->files, file->path);
}

/*
 * What is newer than the backup's start comes from WAL, whatever it looks like,
 * unless its LSN lies beyond the backup's end; what was found corrupt when it was
 * read is in the manifest.
 */
static void
judge_stretch(Corruption *c, const JudgedFile *file, uint8 *raw, uint32 length, uint64 at)
{
	const BackupInfo *info = chosen_info(file->backup);

	for (uint32 done = 0; at % BLCKSZ == 0 && done + BLCKSZ <= length; done += BLCKSZ)
	{
		uint32		block = file->first_block + (uint32) ((at + done) / BLCKSZ);
		uint16		expected;
		uint16		found;
		XLogRecPtr	lsn;
		bool		sound;
		PageVerdict verdict = page_judge((char *) raw + done, block, info->data_checksums, info->start_lsn,
										 &expected, &found, &lsn, &sound);

		if ((verdict == PAGE_CORRUPT || (verdict == PAGE_NEW_LSN && lsn > info->stop_lsn)) &&
			!is_recorded(file->backup, file->path, block))
			note_page(c, file, block, lsn, expected, found);
	}
}

static void
judge_frame(Corruption *c, const FetchFrame *frame, uint8 *raw)
{
	const JudgedFile *file = frame->file;
	const FetchSlice all = {frame->at, 0, frame->frame.raw};
	const FetchSlice *slices = frame->slices ? frame->slices : &all;
	uint32		n = frame->slices ? frame->n_slices : 1;

	if (file == NULL || file->class < FILE_MAIN || file->class > FILE_INIT)
		return;
	for (uint32 i = 0; i < n; i++)
		if (slices[i].skip % BLCKSZ == 0)
			judge_stretch(c, file, raw + slices[i].skip, slices[i].length, slices[i].at);
}

static void
corruption_found(Verification *w, Seen *o, Corruption *c)
{
	VerifyFinding *f;
	char		problem[500];

	snprintf(problem, sizeof(problem), UINT64_FORMAT " page%s in it %s corrupt and not recorded as such: %s%s",
			 c->pages, c->pages == 1 ? "" : "s", c->pages == 1 ? "is" : "are", c->pages == 1 ? "" : "first ", c->first);
	f = verify_found(w, o, c->serious ? VERIFY_ERROR : VERIFY_WARNING, problem);
	if (f == NULL)
		return;
	pthread_mutex_lock(&w->v->lock);
	f = &w->findings[o->finding];
	f->n_files = c->files.n_files;
	memcpy(f->files, c->files.files, sizeof(f->files));
	if (!c->serious)
		f->hint = "The server rebuilds free space and visibility maps.";
	pthread_mutex_unlock(&w->v->lock);
}

/* Every frame that the manifest places in the pack. */
static bool
judge_frames(Reader *t, const ReadJob *job, const uint8 *content, size_t n)
{
	Corruption	c = {0};
	char		problem[1200];
	DrError		why;

	for (size_t i = 0; i < job->n_frames; i++)
	{
		const Frame *frame = &job->frames[i].frame;
		bool		inside = (uint64) frame->offset + frame->stored <= n;

		if (!inside || frame->raw > FRAME_MAX ||
			!codec_decompress(&t->codec, content + frame->offset, frame->stored, t->raw, frame->raw, frame->crc, &why))
		{
			snprintf(problem, sizeof(problem), "the frame at offset %u is damaged: %s", frame->offset,
					 inside ? why.message : "it lies beyond the pack's end");
			verify_found(t->w, job->o, VERIFY_ERROR, problem);
			return false;
		}
		judge_frame(&c, &job->frames[i], t->raw);
	}
	if (c.pages > 0)
		corruption_found(t->w, job->o, &c);
	return c.pages == 0;
}

/* ---- WAL ---- */

static bool
is_segment(ObjectKind kind)
{
	return kind == KIND_WAL || kind == KIND_PARTIAL;
}

/* The object's plain bytes into t->plain; false: it became a finding. */
static bool
undo_codec(Reader *t, Seen *o, const SealHeader *header, const uint8 *content, size_t n)
{
	char		problem[1200];
	DrError		why;

	t->plain.len = 0;
	if (header->codec == CODEC_NONE)
		bytes_append(&t->plain, content, n);
	else
	{
		bytes_reserve(&t->plain, Min(header->plain_length, WAL_OBJECT_MAX));
		if (header->plain_length > WAL_OBJECT_MAX ||
			!codec_decompress(&t->codec, content, n, t->plain.data, header->plain_length, header->plain_crc, &why))
		{
			snprintf(problem, sizeof(problem), "its content is damaged: %s",
					 header->plain_length > WAL_OBJECT_MAX ? "it is longer than any can be" : why.message);
			verify_found(t->w, o, verify_weight(t->w, o), problem);
			return false;
		}
		t->plain.len = header->plain_length;
	}
	return true;
}

/* A segment's pages by their headers or, with c, by their records. */
static bool
judge_wal(Reader *t, Seen *o, WalCheck *c, DrError *err)
{
	const char *sysid = t->w->v->system_identifier;
	const char *file = strrchr(o->name, '/') + 1;
	uint64		size = t->plain.len;
	WalFile		wal;
	DrError		why;

	wal_file_parse(file, &wal);
	if (wal_header_check(t->plain.data, t->plain.len, t->plain.len, sysid, file, &why) &&
		(c != NULL ? c->segment_size == size && wal_check_segment(c, t->plain.data, &why) :
		 o->kind != KIND_WAL ||
		 wal_check_pages(t->plain.data, sysid, wal.timeline, (uint32) size, wal_segment_number(&wal, (uint32) size) * size, &why)))
		return true;
	if (c != NULL && c->segment_size != size)
		dr_error(&why, DR_DAMAGED, "the segment has " UINT64_FORMAT " bytes", size);
	if (!verify_verdict(t->w, o, &why, err))
		return false;
	return true;
}

/* ---- jobs ---- */

/* Look into it, too, where that is asked for.  c: the WAL before it was followed up to here. */
static bool
read_object(Reader *t, const ReadJob *job, Seen *o, WalCheck *c, DrError *err)
{
	Verification *w = t->w;
	SealHeader	header;
	uint8	   *content;
	size_t		n = 0;
	uint8		hash[32];
	bool		ok = true;

	if (!open_object(t, o, &header, &content, &n, hash, err))
		return false;
	if (content == NULL)
		return true;
	if (w->v->depth == VERIFY_PAGES && o->kind == KIND_PACK)
		judge_frames(t, job, content, n);
	else if (w->v->depth == VERIFY_PAGES && !is_keyring(o) && undo_codec(t, o, &header, content, n) && is_segment(o->kind))
		ok = judge_wal(t, o, c, err);
	compute_end(t->all);
	if (ok)
		verify_sound(w, o, t->object.len, hash);
	return ok;
}

/* What is missing can't be locked; what is damaged stays as long as it may help. */
static bool
lock_object(Verification *w, Seen *o, DrError *err)
{
	return (o->flags & (SEEN_NEEDED | SEEN_BAD)) != SEEN_NEEDED ||
		store_extend_lock(w->v->repo->store, o->name, err);
}

/* Segment by segment; behind one that is bad, those that follow are looked at one by one. */
static bool
follow_wal(Reader *t, const Chosen *b, DrError *err)
{
	Verification *w = t->w;
	const BackupInfo *info = chosen_info(b);
	uint32		size = info->wal_segment_size;
	ReadJob		none = {0};
	WalCheck	c;
	bool		whole = true;	/* up to here */

	wal_check_begin(&c, info->system_identifier, info->timeline, size, info->start_lsn, info->stop_lsn);
	for (uint64 segno = info->start_lsn / size; segno <= (info->stop_lsn - 1) / size && !t->all->failed; segno++)
	{
		char		file[25];
		ObjectName	name;
		Seen	   *o;

		wal_segment_name(file, info->timeline, segno, size);
		name_wal(name, w->v->system_identifier, file);
		o = seen_find(w, name);
		if ((o->flags & (SEEN_BAD | SEEN_LISTED)) != SEEN_LISTED)
		{
			whole = false;
			continue;
		}
		if (!read_object(t, &none, o, whole ? &c : NULL, err) || !lock_object(w, o, err))
			return false;
		whole = whole && (o->flags & SEEN_BAD) == 0;
	}
	return true;
}

static bool
do_job(Reader *t, const ReadJob *job, DrError *err)
{
	if (job->wal_of != NULL)
		return follow_wal(t, job->wal_of, err);
	if ((job->o->flags & SEEN_PROVEN) == 0 && !read_object(t, job, job->o, NULL, err))
		return false;
	return lock_object(t->w, job->o, err);
}

static void
fail(Readers *r, const DrError *err)
{
	pthread_mutex_lock(&r->lock);
	if (!r->failed)
		r->error = *err;
	r->failed = true;
	pthread_mutex_unlock(&r->lock);
	queue_abort(&r->queue);
}

static void *
reader_main(void *arg)
{
	Readers    *r = arg;
	Reader		t = {.all = r,.w = r->w};
	ReadJob    *job;
	DrError		err;

	codec_init(&t.codec, 1);
	t.raw = aligned_malloc(FRAME_MAX);
	while ((job = queue_pop(&r->queue)) != NULL)
	{
		if (!do_job(&t, job, &err))
			fail(r, &err);
		free_job(job);
	}
	codec_free(&t.codec);
	free(t.raw);
	bytes_free(&t.object);
	bytes_free(&t.plain);
	return NULL;
}

Readers *
readers_start(Verification *w)
{
	Readers    *r = pg_malloc0(sizeof(*r));
	int			n = w->v->jobs + REQUESTS_IN_FLIGHT(w->v->jobs);
	DrError		err;

	r->w = w;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->turn, NULL);
	queue_init(&r->queue, n);
	for (size_t i = 0; i < w->n_chosen; i++)
		if (w->chosen[i].n_corrupt > 1)
			qsort(w->chosen[i].corrupt, w->chosen[i].n_corrupt, sizeof(CorruptPage), compare_corrupt);
	r->threads = pg_malloc(sizeof(pthread_t) * n);
	while (r->n_threads < n && pthread_create(&r->threads[r->n_threads], NULL, reader_main, r) == 0)
		r->n_threads++;
	if (r->n_threads == 0)
	{
		dr_error(&err, DR_INTERNAL, "could not start a thread: %s", strerror(errno));
		fail(r, &err);
	}
	return r;
}

bool
readers_push(Readers *r, const ReadJob *job)
{
	ReadJob    *copy = pg_malloc(sizeof(*copy));

	*copy = *job;
	if (queue_push(&r->queue, copy))
		return true;
	free_job(copy);
	return false;
}

bool
readers_finish(Readers *r, DrError *err)
{
	ReadJob    *job;
	bool		ok;

	queue_close(&r->queue);
	for (int i = 0; i < r->n_threads; i++)
		pthread_join(r->threads[i], NULL);
	r->queue.aborted = false;
	while ((job = queue_pop(&r->queue)) != NULL)
		free_job(job);
	ok = !r->failed;
	if (!ok)
		*err = r->error;
	queue_destroy(&r->queue);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->turn);
	free(r->threads);
	free(r);
	return ok;
}
