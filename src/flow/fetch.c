/*
 * fetch.c
 *	  The fetch conveyor.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/fetch.h"

#include "core/step.h"
#include "flow/queue.h"

typedef struct PackJob
{
	ObjectName	name;
	size_t		size;			/* as the manifest says */
	FetchFrame *frames;
	size_t		n;
	Bytes	   *object;			/* once fetched */
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
	free(job->frames);
	free(job);
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
		if (store_get(f->repo->store, job->name, job->size, job->object, &err) != STORE_OK)
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

static bool
open_frame(Fetch *f, Codec *codec, const PackJob *job, const FetchFrame *frame,
		   const uint8 *content, size_t n, uint8 *raw, DrError *err)
{
	DrError		why;

	if ((uint64) frame->frame.offset + frame->frame.stored > n)
	{
		dr_error(err, DR_DAMAGED, "object \"%s\" is damaged", job->name);
		return dr_detail(err, "A frame that the manifest places at offset %u lies beyond its end.", frame->frame.offset);
	}
	if (!codec_decompress(codec, content + frame->frame.offset, frame->frame.stored, raw,
						  frame->frame.raw, frame->frame.crc, &why))
	{
		dr_error(err, DR_DAMAGED, "object \"%s\" is damaged", job->name);
		return dr_detail(err, "The frame at offset %u: %s.", frame->frame.offset, why.message);
	}
	return f->sink(f->arg, frame, raw, err);	/* F1 */
}

static bool
open_pack(Fetch *f, Codec *codec, const PackJob *job, uint8 *raw, DrError *err)
{
	SealHeader	header;
	uint8	   *content;
	size_t		n;

	if (!repository_unseal(f->repo, job->name, job->object, &header, &content, &n, err))
		return false;
	for (size_t i = 0; i < job->n; i++)
		if (!open_frame(f, codec, job, &job->frames[i], content, n, raw, err))
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

bool
fetch_pack(Fetch *f, const char *name, uint64 size, FetchFrame *frames, size_t n)
{
	PackJob    *job = pg_malloc0(sizeof(*job));

	strlcpy(job->name, name, sizeof(job->name));
	job->size = Min(size, PACK_OBJECT_MAX);
	job->frames = frames;
	job->n = n;
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
