/*
 * upload.h
 *	  The upload conveyor: files in, packs in the repository out.
 *
 *	  add -> [ranges] -> workers: read, judge pages, compress, fill a pack
 *	      -> [sealed packs] -> uploaders: hash, store -> free buffers
 *
 * Each worker fills a pack of its own and seals it; uploaders put them.
 * One range is read and compressed once; a second repository would seal and
 * put the same frames again, from the worker's pack, and nothing before that
 * would change.  Invariants:
 *
 *	U1	Memory: jobs + REQUESTS_IN_FLIGHT pack buffers, jobs read buffers, a window of files.
 *	U2	Files come out of the conveyor in the order in which they went in.
 *	U3	When upload_finish has returned true, every pack is durable.
 *	U4	Bytes of a file are read once, at most as many as add said; what has
 *		vanished from its end is zeros, as the server's own base backup does.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_UPLOAD_H
#define PGDR_UPLOAD_H

#include "core/compose.h"
#include "flow/repository.h"
#include "flow/walk.h"

typedef struct UploadOptions
{
	Repository *repo;
	const char *system_identifier;
	const char *backup_id;
	int			jobs;
	int			level;
	uint64		max_rate;		/* bytes read per second, 0: no limit */
	bool		checksums;
	uint32		segment_blocks;
	XLogRecPtr	start_lsn;

	/* Called by several threads, one at a time each. */
	void		(*stored) (void *arg, const char *name, uint64 size, const uint8 sha256[32]);
	void		(*corrupt) (void *arg, const CorruptPage *page);
	void		(*warning) (void *arg, const char *message);
	/* A file is complete; in the order of upload_add, by the thread that adds. */
	void		(*file) (void *arg, const ManifestFile *file);
	/* Before that, for each frame that it takes from the parent. */
	void		(*inherit) (void *arg, Frame *frame);
	void		(*directory) (void *arg, uint32 mode, const char *path);
	void	   *arg;
} UploadOptions;

typedef struct Upload Upload;

extern Upload *upload_new(const UploadOptions *options);

/*
 * A file or a directory, and where it is read from.  With a composition, which
 * is taken over, only what that says is read.  Waits while the window is full.
 * False: the conveyor has failed or was cancelled.
 */
extern bool upload_add(Upload *u, const WalkEntry *entry, const char *full_path, Composition *composition,
					   DrError *err);

/* Wait until every file that was added has been read. */
extern bool upload_drain(Upload *u, DrError *err);

/* Seal and store what is left; afterwards packs can be listed. */
extern bool upload_finish(Upload *u, DrError *err);

/*
 * Judge the pages that were too new to judge when they were read: whoever has
 * an LSN beyond the backup's end is corrupt.
 */
extern void upload_settle(Upload *u, XLogRecPtr stop_lsn);

/* The packs, by number from 1; valid after upload_finish. */
extern uint32 upload_packs(Upload *u);
extern void upload_pack(Upload *u, uint32 number, ManifestPack *out);

/* From any thread: everything ends soon, with DR_CANCELLED. */
extern void upload_cancel(Upload *u);

/* From any thread: the server's flush pointer now. */
extern void upload_flushed(Upload *u, XLogRecPtr lsn);

/* Numbers for progress; from any thread. */
extern void upload_progress(Upload *u, uint64 *bytes, uint64 *files, uint64 *stored);

/* Remove the packs that were stored: the backup is given up. */
extern void upload_discard(Upload *u);

/* Ends the threads; what was stored stays. */
extern void upload_free(Upload *u);

#endif							/* PGDR_UPLOAD_H */
