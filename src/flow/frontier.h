/*
 * frontier.h
 *	  The archiver's note of how far it came.
 *
 * A hole in the archive shows by what lies behind it; nothing lies behind the
 * newest segment.  So soon after a segment a small object is stored under its
 * name: whoever misses the segment then finds that it had been there.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_FRONTIER_H
#define PGDR_FRONTIER_H

#include <pthread.h>

#include "flow/repository.h"

/* At most this long after a segment, and no oftener. */
#define FRONTIER_DELAY_MS	1000

typedef struct Frontier
{
	Repository *repo;
	const char *sysid;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	char		segment[25];	/* archived, not yet noted; empty: none */
	bool		started;
} Frontier;

/* repo and sysid must outlive it. */
extern void frontier_init(Frontier *f, Repository *repo, const char *sysid);

/* The segment is durable.  The first call starts a thread that stays. */
extern void frontier_reached(Frontier *f, const char *segment);

/* Note now what has not been noted, if anything; any thread. */
extern void frontier_flush(Frontier *f);

#endif							/* PGDR_FRONTIER_H */
