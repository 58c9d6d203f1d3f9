/*
 * fetch.c
 *	  The fetch conveyor.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/fetch.h"

#include <stdatomic.h>

#include "core/step.h"
#include "flow/aside.h"
#include "flow/queue.h"

/* Else two ranges could have a chunk in common. */
StaticAssertDecl(FETCH_GAP_MAX >= SEAL_CHUNK, "ranges do not overlap");

/* Requests for parts of one pack at the same time: they are small, and mostly wait. */
#define RANGES_AT_ONCE	4

/* Neighbouring chunks that come with one request.  No two ranges have one in common (F3). */
typedef struct Range
{
	uint64		first;
	uint64		n;
	size_t		n_frames;		/* of the job's, the next ones */
	Bytes		chunks;			/* once fetched; opened in place */
} Range;

typedef struct PackJob
{
	ObjectName	name;
	size_t		size;			/* as the manifest says */
	bool		whole;
	FetchFrame *frames;			/* by offset */
	size_t		n;
	Bytes	   *object;			/* once fetched: all of it, or its head */
	Range	   *ranges;			/* unless whole */
	size_t		n_ranges;
} PackJob;

struct Fetch
{
	Repository *repo;
	FetchSink	sink;
	void	   *arg;
	int			n_buffers;
	Queue		wanted;
	Queue		fetched;
	Queue		free_buffers;
	Bytes	   *buffers;
	pthread_t  *threads;
	int			n_getters;
	int			n_openers;
	pthread_mutex_t lock;
	bool		failed;
	DrError		error;
};

static void
fail(Fetch *f, const DrError *err)
{
	pthread_mutex_lock(&f->lock);
	if (!f->failed)
	{
		f->failed = true;
		f->error = *err;
	}
	pthread_mutex_unlock(&f->lock);
	store_set_patience(f->repo->store, 0);
	queue_abort(&f->wanted);
	queue_abort(&f->fetched);
	queue_abort(&f->free_buffers);
}

static void
job_free(PackJob *job)
{
	for (size_t i = 0; i < job->n_ranges; i++)
		bytes_free(&job->ranges[i].chunks);
	free(job->frames);
	free(job->ranges);
	free(job);
}

/* ---- getting ---- */

static bool
beyond_end(const PackJob *job, const Frame *frame, DrError *err)
{
	dr_error(err, DR_DAMAGED, "object \"%s\" is damaged", job->name);
	return dr_detail(err, "A frame that the manifest places at offset %u lies beyond its end.", frame->offset);
}

/* Which chunks the frames need. */
static bool
plan_ranges(PackJob *job, DrError *err)
{
	size_t		content = object_last_chunk(job->size) > 0 ? object_content_size(job->size) : 0;
	uint64		end = 0;

	for (size_t i = 0; i < job->n; i++)
	{
		const Frame *frame = &job->frames[i].frame;
		Range	   *range;

		if ((uint64) frame->offset + frame->stored > content)
			return beyond_end(job, frame, err);
		if (i == 0 || frame->offset > end + FETCH_GAP_MAX)
		{
			job->ranges = array_room(job->ranges, job->n_ranges, sizeof(Range));
			job->ranges[job->n_ranges++] = (Range) {.first = frame->offset / SEAL_CHUNK};
		}
		end = Max(end, (uint64) frame->offset + frame->stored);
		range = &job->ranges[job->n_ranges - 1];
		range->n = (end - 1) / SEAL_CHUNK - range->first + 1;
		range->n_frames++;
	}
	return true;
}

/* The requests of a pack, for several threads. */
typedef struct Requests
{
	Fetch	   *f;
	PackJob    *job;
	atomic_size_t next;			/* 0: the head; then the ranges */
	atomic_bool failed;
} Requests;

static bool
get_some(void *arg, DrError *err)
{
	Requests   *q = arg;
	PackJob    *job = q->job;
	Repository *repo = q->f->repo;
	size_t		i;
	bool		ok = true;

	while (ok && !atomic_load(&q->failed) && (i = atomic_fetch_add(&q->next, 1)) <= job->n_ranges)
	{
		Range	   *range = i > 0 ? &job->ranges[i - 1] : NULL;

		if (range == NULL)
			ok = repository_get_head(repo, job->name, job->object, err);
		else
		{
			bytes_reserve(&range->chunks, object_chunks_size(job->size, range->first, range->n));
			ok = repository_get_chunks(repo, job->name, job->size, range->first, range->n, &range->chunks, err);
		}
	}
	if (!ok)
		atomic_store(&q->failed, true);
	return ok;
}

static bool
get_ranges(Fetch *f, PackJob *job, DrError *err)
{
	Requests	q = {.f = f,.job = job};

	return plan_ranges(job, err) &&
		aside_together(Min(RANGES_AT_ONCE, job->n_ranges + 1), get_some, &q, err);
}

static void *
getter(void *arg)
{
	Fetch	   *f = arg;
	PackJob    *job;
	DrError		err;

	while ((job = queue_pop(&f->wanted)) != NULL)
	{
		job->object = queue_pop(&f->free_buffers);
		if (job->object == NULL)
		{
			job_free(job);
			break;
		}
		job->object->len = 0;
		if (!(job->whole ? store_get(f->repo->store, job->name, job->size, job->object, &err) == STORE_OK :
			  get_ranges(f, job, &err)))
		{
			fail(f, &err);
			job_free(job);
			break;
		}
		if (!queue_push(&f->fetched, job))
		{
			job_free(job);
			break;
		}
	}
	return NULL;
}

/* ---- opening ---- */

static bool
open_frame(Fetch *f, Codec *codec, const PackJob *job, const FetchFrame *frame,
		   const uint8 *stored, uint8 *raw, DrError *err)
{
	DrError		why;

	if (!codec_decompress(codec, stored, frame->frame.stored, raw, frame->frame.raw, frame->frame.crc, &why))
	{
		dr_error(err, DR_DAMAGED, "object \"%s\" is damaged", job->name);
		return dr_detail(err, "The frame at offset %u: %s.", frame->frame.offset, why.message);
	}
	return f->sink(f->arg, frame, raw, err);	/* F1 */
}

static bool
open_whole(Fetch *f, Codec *codec, const PackJob *job, uint8 *raw, DrError *err)
{
	SealHeader	header;
	uint8	   *content;
	size_t		n;

	if (!repository_unseal(f->repo, job->name, job->object, &header, &content, &n, err))
		return false;
	for (size_t i = 0; i < job->n; i++)
	{
		const Frame *frame = &job->frames[i].frame;

		if ((uint64) frame->offset + frame->stored > n)
			return beyond_end(job, frame, err);
		if (!open_frame(f, codec, job, &job->frames[i], content + frame->offset, raw, err))
			return false;
	}
	return true;
}

/* Frames and ranges are both in the order of the pack's content. */
static bool
open_ranges(Fetch *f, Codec *codec, const PackJob *job, uint8 *raw, DrError *err)
{
	const FetchFrame *frame = job->frames;

	for (size_t i = 0; i < job->n_ranges; i++)
	{
		const Range *range = &job->ranges[i];
		uint8	   *content = range->chunks.data;
		size_t		n;

		if (!repository_unseal_chunks(f->repo, job->name, job->object->data, job->size, content,
									  range->first, range->n, &n, err))
			return false;
		for (size_t k = 0; k < range->n_frames; k++, frame++)
			if (!open_frame(f, codec, job, frame,
							content + (frame->frame.offset - range->first * SEAL_CHUNK), raw, err))
				return false;
	}
	return true;
}

static bool
open_pack(Fetch *f, Codec *codec, const PackJob *job, uint8 *raw, DrError *err)
{
	if (!(job->whole ? open_whole(f, codec, job, raw, err) : open_ranges(f, codec, job, raw, err)))
		return false;
	step_reached("restore.first_pack");
	return true;
}

static void *
opener(void *arg)
{
	Fetch	   *f = arg;
	PackJob    *job;
	Codec		codec;
	uint8	   *raw = aligned_malloc(FRAME_MAX);
	bool		ok = true;
	DrError		err;

	codec_init(&codec, 1);
	while (ok && (job = queue_pop(&f->fetched)) != NULL)
	{
		ok = open_pack(f, &codec, job, raw, &err);
		if (!ok)
			fail(f, &err);
		queue_give_back(&f->free_buffers, job->object);
		job_free(job);
	}
	codec_free(&codec);
	free(raw);
	return NULL;
}

FetchSlice *
fetch_slices(const ManifestFile *m, uint32 **first, uint64 *size)
{
	FetchSlice *slices = pg_malloc(sizeof(FetchSlice) * m->n_extents);
	uint32	   *at = pg_malloc0(sizeof(uint32) * ((size_t) m->n_frames + 2));

	/* Counted two places further on, so that at[i + 1] is the next free one of frame i. */
	for (uint32 i = 0; i < m->n_extents; i++)
		at[m->extents[i].frame + 2]++;
	for (uint32 i = 2; i < m->n_frames + 2; i++)
		at[i] += at[i - 1];
	*size = 0;
	for (uint32 i = 0; i < m->n_extents; i++)
	{
		const Extent *x = &m->extents[i];

		slices[at[x->frame + 1]++] = (FetchSlice) {*size, x->skip, x->length};
		*size += x->length;
	}
	*first = at;
	return slices;
}

Fetch *
fetch_new(Repository *repo, int jobs, FetchSink sink, void *arg)
{
	Fetch	   *f = pg_malloc0(sizeof(*f));
	int			n_getters = REQUESTS_IN_FLIGHT(jobs);
	int			n_buffers = jobs + n_getters;	/* F3 */

	f->repo = repo;
	f->sink = sink;
	f->arg = arg;
	f->n_buffers = n_buffers;
	pthread_mutex_init(&f->lock, NULL);
	queue_init(&f->wanted, n_buffers);
	queue_init(&f->fetched, n_buffers);
	queue_init(&f->free_buffers, n_buffers);
	f->buffers = pg_malloc0(sizeof(Bytes) * n_buffers);
	for (int i = 0; i < n_buffers; i++)
		queue_push(&f->free_buffers, &f->buffers[i]);
	f->threads = pg_malloc0(sizeof(pthread_t) * n_buffers);
	for (int i = 0; i < n_buffers; i++)
	{
		bool		first = i < n_getters;
		DrError		err;

		if (pthread_create(&f->threads[i], NULL, first ? getter : opener, f) != 0)
		{
			dr_error(&err, DR_INTERNAL, "could not start a thread: %s", strerror(errno));
			fail(f, &err);
			break;
		}
		*(first ? &f->n_getters : &f->n_openers) += 1;
	}
	return f;
}

static int
by_offset(const void *a, const void *b)
{
	uint32		x = ((const FetchFrame *) a)->frame.offset;
	uint32		y = ((const FetchFrame *) b)->frame.offset;

	return x < y ? -1 : x > y;
}

bool
fetch_pack(Fetch *f, const char *name, uint64 size, bool whole, FetchFrame *frames, size_t n)
{
	PackJob    *job = pg_malloc0(sizeof(*job));

	strlcpy(job->name, name, sizeof(job->name));
	job->size = Min(size, PACK_OBJECT_MAX);
	job->whole = whole;
	job->frames = frames;
	job->n = n;
	qsort(frames, n, sizeof(FetchFrame), by_offset);
	if (queue_push(&f->wanted, job))
		return true;
	job_free(job);
	return false;
}

static void
drop_jobs(Queue *q)
{
	PackJob    *job;

	q->aborted = false;
	while ((job = queue_pop(q)) != NULL)
		job_free(job);
}

bool
fetch_finish(Fetch *f, bool abort, DrError *err)
{
	bool		ok;

	if (abort)
	{
		DrError		stop;

		dr_error(&stop, DR_CANCELLED, "stopped");
		fail(f, &stop);
	}
	queue_close(&f->wanted);
	for (int i = 0; i < f->n_getters; i++)
		pthread_join(f->threads[i], NULL);
	queue_close(&f->fetched);
	for (int i = 0; i < f->n_openers; i++)
		pthread_join(f->threads[f->n_getters + i], NULL);
	drop_jobs(&f->wanted);
	drop_jobs(&f->fetched);
	store_set_patience(f->repo->store, STORE_PATIENCE_OWN);
	ok = !f->failed;			/* F2 */
	if (!ok && !abort)
		*err = f->error;
	for (int i = 0; i < f->n_buffers; i++)
		bytes_free(&f->buffers[i]);
	queue_destroy(&f->wanted);
	queue_destroy(&f->fetched);
	queue_destroy(&f->free_buffers);
	pthread_mutex_destroy(&f->lock);
	free(f->buffers);
	free(f->threads);
	free(f);
	return ok;
}
