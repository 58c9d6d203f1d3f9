/*
 * verify.h
 *	  Is a backup in the repository what was stored?
 *
 * Every object that its restore needs is fetched, held against the manifest's
 * SHA-256, and its seal opened: manifest, packs, WAL from start to stop.  Where
 * objects are locked, each one's lock is extended on the way, as are those of
 * what opens the repository.
 *
 * Invariant:
 *
 *	V1	A finding is about what the store said and gave.  What could not be
 *		asked is an error: silence of a network is no verdict.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_VERIFY_H
#define PGDR_VERIFY_H

#include <pthread.h>

#include "flow/repository.h"

typedef struct Verify
{
	Repository *repo;
	const char *system_identifier;
	const char *backup;			/* an id, or "latest" */
	int			jobs;

	/* Called by several threads, one at a time. */
	void		(*object) (void *arg, const char *name, uint64 size, const uint8 sha256[32]);
	void		(*finding) (void *arg, const char *name, const char *problem);
	void	   *arg;

	/* out */
	char		id[PGDR_BACKUP_ID_MAX + 1];
	uint64		objects;		/* fetched and sound */
	uint64		bytes;
	uint64		findings;

	pthread_mutex_t lock;		/* of what is out, and of the callbacks */
} Verify;

/* False: it could not be done, err says why. */
extern bool verify_backup(Verify *v, DrError *err);

#endif							/* PGDR_VERIFY_H */
