/*
 * frontier.c
 *	  The archiver's note of how far it came.
 *
 * Invariant:
 *
 *	N1	A note is stored after its segment is durable, never before: a note
 *		without its segment is proof of damage, a segment without a note is
 *		merely young, or its archiver died.
 *
 * A crash loses a note, and with it the proof, for the last second's segments.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/frontier.h"

#include <time.h>

static bool
put_note(Frontier *f, const char *segment, DrError *err)
{
	ObjectName	name;
	SealBuffer	b;
	uint8		hash[32];
	StoreResult r = STORE_FAILED;

	name_frontier(name, f->sysid, segment);
	seal_buffer_init(&b, 0);
	if (repository_seal(f->repo, &b, CODEC_NONE, 0, 0, name, err))
		r = repository_put(f->repo, &b, name, hash, err);
	seal_buffer_free(&b);
	return r == STORE_OK || r == STORE_TAKEN;
}

/*
 * What could not be noted is tried again with the next segment.  That the
 * repository can't be written to, the segments themselves will say.
 */
void
frontier_flush(Frontier *f)
{
	char		segment[25];
	DrError		err;

	pthread_mutex_lock(&f->lock);
	strcpy(segment, f->segment);
	f->segment[0] = '\0';
	pthread_mutex_unlock(&f->lock);
	if (segment[0] != '\0' && !put_note(f, segment, &err))
		fprintf(stderr, "could not note the end of the archive, segment %s: %s\n", segment, err.message);
}

static void *
note_thread(void *arg)
{
	Frontier   *f = arg;
	struct timespec delay = {FRONTIER_DELAY_MS / 1000, FRONTIER_DELAY_MS % 1000 * 1000000};

	for (;;)
	{
		pthread_mutex_lock(&f->lock);
		while (f->segment[0] == '\0')
			pthread_cond_wait(&f->changed, &f->lock);
		pthread_mutex_unlock(&f->lock);
		nanosleep(&delay, NULL);	/* others may follow */
		frontier_flush(f);
	}
	return NULL;
}

void
frontier_init(Frontier *f, Repository *repo, const char *sysid)
{
	memset(f, 0, sizeof(*f));
	f->repo = repo;
	f->sysid = sysid;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
}

void
frontier_reached(Frontier *f, const char *segment)
{
	pthread_t	thread;

	if (!f->started)
		f->started = pthread_create(&thread, NULL, note_thread, f) == 0;
	pthread_mutex_lock(&f->lock);
	if (strcmp(segment, f->segment) > 0)	/* segments may be offered out of order */
		strlcpy(f->segment, segment, sizeof(f->segment));
	pthread_cond_signal(&f->changed);
	pthread_mutex_unlock(&f->lock);
	if (!f->started)
		frontier_flush(f);
}
