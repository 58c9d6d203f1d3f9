/*
 * restore.h
 *	  A backup's files, from packs to an empty directory.
 *
 * Invariants:
 *
 *	X1	Nothing is written where something is: the data directory and every
 *		tablespace's directory are absent or empty.
 *	X2	pg_control is written last, after everything else is synced: a restore
 *		that was interrupted can't be started.
 *	X3	Restored pg_control names a checkpoint that doesn't exist, so that only
 *		backup_label can start recovery.
 *	X4	Every file has the size and checksum that the manifest says.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_RESTORE_H
#define PGDR_RESTORE_H

#include "flow/inventory.h"

typedef struct TablespaceMapping
{
	char	   *oid;
	char	   *from;			/* as backed up */
	char	   *to;				/* where it goes */
	uint64		bytes;
} TablespaceMapping;

typedef struct RestorePack
{
	char	   *name;
	uint64		size;
	uint32		frames;			/* to be used */
} RestorePack;

typedef struct Restore
{
	Repository *repo;
	OpenManifest manifest;
	char	   *pgdata;			/* absolute */
	int			jobs;
	TablespaceMapping *tablespaces;
	int			n_tablespaces;
	RestorePack *packs;			/* by number - 1 */
	uint32		n_packs;
	uint64		bytes;			/* of the data directory itself */
	uint64		config_files;

	/* Called now and then, by one thread at a time. */
	void		(*progress) (void *arg, uint64 done, uint64 total);
	void	   *arg;
} Restore;

/* Where configuration files from outside wait until they are put into place. */
#define RESTORE_CONFIG_STAGE	PGDR_WORK_DIR "/config"

/* There while a restore is under way. */
#define RESTORE_MARKER			PGDR_WORK_DIR "/restoring"

/*
 * Read the manifest once: packs, tablespaces, sizes.  Tablespaces go where they
 * were (below the new data directory if they were below the old).
 */
extern bool restore_prepare(Restore *r, Repository *repo, const char *sysid, BackupEntry *backup,
							const char *pgdata, DrError *err);

/* "/old=/new"; "=" in a path is written "\=". */
extern bool restore_remap(Restore *r, const char *mapping, DrError *err);

/* X1, and room for it all. */
extern bool restore_check_targets(Restore *r, DrError *err);

/* Write every file but pg_control, whose bytes are kept in control. */
extern bool restore_files(Restore *r, Bytes *control, DrError *err);

/* A small file of our own: 0600, synced with the tree. */
extern bool restore_write_file(Restore *r, const char *path, const void *data, size_t n, DrError *err);

/* fsync everything; then pg_control (X2, X3) and its directory; remove the marker. */
extern bool restore_sync(Restore *r, DrError *err);
extern bool restore_control(Restore *r, Bytes *control, DrError *err);

extern void restore_free(Restore *r);

#endif							/* PGDR_RESTORE_H */
