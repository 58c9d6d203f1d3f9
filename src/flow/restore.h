/*
 * restore.h
 *	  A backup's files, from packs to a directory: an empty one, or (delta) one
 *	  that holds another state of the same cluster.
 *
 * Invariants:
 *
 *	X1	Nothing is written where something is: the data directory and every
 *		tablespace's directory are absent or empty, unless X5 allows it.
 *	X2	pg_control is written last, after everything else is synced: a restore
 *		that was interrupted can't be started.
 *	X3	Restored pg_control names a checkpoint that doesn't exist, so that only
 *		backup_label can start recovery.
 *	X4	Every file has the size and checksum that the manifest says.
 *
 * And of a delta restore:
 *
 *	X5	A directory that is not empty is written to only when its pg_control, or
 *		the marker that an interrupted restore left, says that it is this
 *		cluster's, and no server runs in it; a tablespace's directory only when
 *		the link in that data directory leads there.
 *	X6	Before anything there is changed, the marker is durable and pg_control
 *		is gone for good: from then on X2 holds as in an empty directory.
 *	X7	Nothing outside of these directories is changed: no link is followed but
 *		those of pg_wal and of the tablespaces, and what is not a plain file
 *		with one name is replaced, not written to.
 *	X8	What is not in the manifest is gone before anything is written; in a
 *		tablespace's directory, as far as it belongs to this version's cluster.
 *	X9	A block is written only when it differs from what is there.
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
	bool		whole;			/* fetched as a whole, not in ranges */
} RestorePack;

typedef struct Restore
{
	Repository *repo;
	OpenManifest manifest;
	char	   *pgdata;			/* absolute */
	int			jobs;
	TablespaceMapping *tablespaces;
	int			n_tablespaces;
	RestorePack *packs;			/* the backup's own, then inherited ones; see restore_pack */
	uint32		n_packs;
	uint32		n_own_packs;
	uint64		bytes;			/* of the data directory itself */
	uint64		config_files;
	bool		delta;			/* asked for; restore_check_targets clears it when nothing is there */
	uint64		rewritten;		/* bytes that were written of manifest.info.bytes */

	/* What the DBA should know; may be NULL. */
	void		(*warning) (void *arg, const char *text);

	/* Called now and then, by one thread at a time. */
	void		(*progress) (void *arg, uint64 done, uint64 total);
	void	   *arg;
} Restore;

/* Where configuration files from outside wait until they are put into place. */
#define RESTORE_CONFIG_STAGE	PGDR_WORK_DIR "/config"

/* There while a restore is under way: "<system identifier>/<backup>". */
#define RESTORE_MARKER			PGDR_WORK_DIR "/restoring"

/*
 * Read the manifest once: packs, tablespaces, sizes.  Tablespaces go where they
 * were (below the new data directory if they were below the old).
 */
extern bool restore_prepare(Restore *r, Repository *repo, const char *sysid, BackupEntry *backup,
							const char *pgdata, DrError *err);

/* "/old=/new"; "=" in a path is written "\=". */
extern bool restore_remap(Restore *r, const char *mapping, DrError *err);

/* Where in packs a frame's pack is; NULL: the manifest names no such pack. */
extern RestorePack *restore_pack(const Restore *r, uint32 number);

/* X1 and X5, and room for it all. */
extern bool restore_check_targets(Restore *r, DrError *err);

/*
 * Would a delta restore remove what is at this path?  Then it is refused, "what"
 * being its role: the key file, the repository.
 */
extern bool restore_spares(const Restore *r, const char *path, const char *what, DrError *err);

/* Write every file but pg_control, whose bytes are kept in control. */
extern bool restore_files(Restore *r, Bytes *control, DrError *err);

/* A small file of our own: 0600, synced with the tree. */
extern bool restore_write_file(Restore *r, const char *path, const void *data, size_t n, DrError *err);

/* fsync everything; then pg_control (X2, X3) and its directory; remove the marker. */
extern bool restore_sync(Restore *r, DrError *err);
extern bool restore_control(Restore *r, Bytes *control, DrError *err);

extern void restore_free(Restore *r);

#endif							/* PGDR_RESTORE_H */
