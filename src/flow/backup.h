/*
 * backup.h
 *	  A backup from the data directory to its manifest.
 *
 * Invariants:
 *
 *	B1	pg_control is read after every other file.
 *	B2	The manifest is stored after every pack is durable and after every WAL
 *		segment from start to stop was fetched from the repository and opened.
 *	B3	backup_run returns true only after the manifest was read back whole.
 *	B4	Before the manifest is written the store lists every pack, with its size:
 *		those of this backup, and those that it takes data from.
 *	B5	Segments that the server has not marked as archived don't count, even if
 *		the repository has such names: somebody else's history may be there.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_BACKUP_H
#define PGDR_BACKUP_H

#include <pthread.h>
#include <stdatomic.h>

#include "flow/parent.h"
#include "flow/upload.h"

typedef struct ConfigFile
{
	char	   *path;			/* absolute */
} ConfigFile;

/* Everything below "in" is the caller's. */
typedef struct Backup
{
	/* in */
	Repository *repo;
	BackupInfo	info;			/* begin members; the sizes come from pg_control */
	WalkTablespace *tablespaces;
	int			n_tablespaces;
	ConfigFile *config_files;
	int			n_config_files;
	int			jobs;
	int			level;
	uint64		max_rate;
	const char *parent_id;		/* incremental: from where unchanged data may come; NULL: nowhere, */
	const char *no_parent;		/* and why */

	/* Events; any thread, serialised by the callee. */
	void		(*stored) (void *arg, const char *name, uint64 size, const uint8 sha256[32]);
	void		(*corrupt) (void *arg, const CorruptPage *page);
	void		(*warning) (void *arg, const char *message);
	void		(*waiting) (void *arg, const char *segment);
	/* Everything is read: returns when the server has stopped the backup and info's end members are set. */
	bool		(*copied) (void *arg, BackupInfo *info, DrError *err);
	void	   *arg;

	/* for backup_progress, backup_flushed, backup_cancel */
	pthread_mutex_t lock;
	Upload	   *upload;
	const char *phase;
	uint64		bytes_total;
	uint64		files_total;
	uint64		bytes_done;		/* kept when the upload is gone */
	uint64		files_done;
	uint64		bytes_stored;
	atomic_bool cancelled;
	Parent	   *parent;			/* NULL: everything is read */
	ManifestWriter *manifest;	/* under lock */
	uint64		manifest_size;
	uint8		manifest_sha256[32];
} Backup;

/* Run it to the end.  On failure the packs that were stored are removed. */
extern bool backup_run(Backup *b, DrError *err);

/* From any thread, while backup_run runs. */
extern void backup_progress(Backup *b, const char **phase, uint64 *bytes, uint64 *files, uint64 *stored);
extern void backup_flushed(Backup *b, XLogRecPtr lsn);
extern void backup_cancel(Backup *b);

#endif							/* PGDR_BACKUP_H */
