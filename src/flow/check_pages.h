/*
 * check_pages.h
 *	  Corrupt pages in the files of the running server, before a backup meets them.
 *
 * The files that a backup would read are read, and every page of a relation is
 * judged by its checksum, however new it is: one that the server was writing just
 * then is read again.  Then the manifests, newest first, are asked for a sound
 * copy of each page that is corrupt; its frame alone is fetched, and judged.
 *
 * Invariants:
 *
 *	Q1	A page is called corrupt only after it was read several times, over at
 *		least a twentieth of a second.
 *	Q2	A page whose LSN lies beyond the server's flush pointer, as it was told
 *		after the page was read, is corrupt, whatever its checksum says.
 *
 * Nothing is written: a crash leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CHECK_PAGES_H
#define PGDR_CHECK_PAGES_H

#include <pthread.h>

#include "core/manifest.h"
#include "flow/repository.h"
#include "flow/walk.h"

typedef struct CheckedPage
{
	CorruptPage page;			/* path is owned */
	const char *problem;
	char		sound_copy[PGDR_BACKUP_ID_MAX + 1];	/* the newest backup that has one; empty: none */

	/* in the manifest that is gone through: */
	bool		located;
	Frame		frame;
	uint32		skip;			/* in it */
} CheckedPage;

typedef struct CheckPages
{
	Repository *repo;
	const char *system_identifier;
	const char *data_directory;
	bool		checksums;
	uint32		segment_blocks;
	uint64		max_rate;

	/* The server's flush pointer, and how often it was told so far. */
	XLogRecPtr	(*flushed) (void *arg, uint64 *count);
	void	   *flushed_arg;

	/* By the calling thread; pages at the end, in order of paths. */
	void		(*found) (void *arg, const CheckedPage *page);
	void		(*warning) (void *arg, const char *message);
	void	   *arg;

	/* out */
	uint64		bytes;
	uint64		n_found;

	pthread_mutex_t lock;		/* of what follows */
	const char *phase;
	uint64		done;
	uint64		total;
	uint64		files;
} CheckPages;

extern bool check_pages_run(CheckPages *c, DrError *err);

/* From any thread, while it runs. */
extern void check_pages_progress(CheckPages *c, const char **phase, uint64 *bytes, uint64 *total, uint64 *files);

#endif							/* PGDR_CHECK_PAGES_H */
