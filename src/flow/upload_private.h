/*
 * upload_private.h
 *	  What the two halves of the upload conveyor share: upload.c (order, packs,
 *	  threads) and upload_worker.c (reading, judging, compressing).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_UPLOAD_PRIVATE_H
#define PGDR_UPLOAD_PRIVATE_H

#include <stdatomic.h>

#include "flow/queue.h"
#include "flow/rate.h"
#include "flow/upload.h"

#define PACK_TARGET		((size_t) 32 * 1024 * 1024)
#define RANGE_FRAMES	32		/* frames that one worker takes at once */
#define WINDOW_FILES	8192	/* files in the conveyor, */
#define WINDOW_PIECES	(1024 * 1024)	/* and pieces that they are composed of, about */
#define MAX_SUSPECTS	65536
#define DISCARD_AT_ONCE	1000

/* One for each worker, and those in flight. */
#define UPLOAD_PACKS(jobs)	((jobs) + REQUESTS_IN_FLIGHT(jobs))

/* A file on its way; freed by the adding thread when it is the oldest and complete. */
typedef struct UploadFile
{
	struct UploadFile *next;
	WalkEntry	entry;			/* path is owned */
	char	   *full_path;
	pthread_mutex_t lock;		/* of fd and opened */
	int			fd;
	bool		opened;
	bool		vanished;
	uint32		n_frames;		/* that are read; behind n_kept of the parent's in frames */
	Frame	   *frames;
	uint32		ranges_left;	/* under the conveyor's lock */

	bool		composed;		/* and then: */
	Composition composition;
	ReadCursor *cursors;		/* where each of n_frames begins */
	uint32		n_kept;
} UploadFile;

typedef struct Range
{
	UploadFile *file;
	uint32		first;
	uint32		count;
} Range;

typedef struct Pack
{
	SealBuffer	buffer;
	uint32		number;			/* 0: not begun */
	uint32		frames;
} Pack;

/* What is known of a stored pack, kept to the end. */
typedef struct PackInfo
{
	uint64		size;
	uint8		sha256[32];
	uint32		frames;
	uint64		used;			/* bytes of the frames */
} PackInfo;

/* A page that was too new to judge. */
typedef struct Suspect
{
	char	   *path;
	uint32		block;
	uint16		expected;
	uint16		found;
	XLogRecPtr	lsn;
	bool		sound;
} Suspect;

struct Upload
{
	UploadOptions o;

	Queue		ranges;
	Queue		free_packs;
	Queue		sealed;
	int			n_packs;
	Pack	   *packs;
	pthread_t  *threads;		/* n_packs: jobs workers, the others uploaders */
	int			n_workers;		/* started */
	int			n_uploaders;
	bool		finished;

	pthread_mutex_t lock;
	pthread_cond_t progressed;
	UploadFile *oldest;			/* the window, adding thread only */
	UploadFile *newest;
	int			window;
	size_t		pieces;			/* of all files in the window */
	DrError		error;			/* the first one; under lock */
	bool		failed;
	PackInfo   *info;			/* by number - 1; under lock */
	uint32		info_cap;
	Suspect    *suspects;		/* under lock */
	int			n_suspects;
	Rate		rate;			/* of reading, by all workers */

	atomic_uint next_pack;
	_Atomic uint64 flushed;
	_Atomic uint64 bytes;
	_Atomic uint64 files;
	_Atomic uint64 stored;
};

/* Record the first failure and stop every belt.  Always returns false. */
extern bool upload_fail(Upload *u, const DrError *err);

/* A worker's whole life. */
extern void *upload_worker(void *arg);

#endif							/* PGDR_UPLOAD_PRIVATE_H */
