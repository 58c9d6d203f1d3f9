/*
 * inventory.h
 *	  What a repository holds: clusters, backups, WAL.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_INVENTORY_H
#define PGDR_INVENTORY_H

#include "core/manifest.h"
#include "flow/repository.h"

/* An open manifest.  Start with manifest_open, then manifest_next on reader. */
typedef struct OpenManifest
{
	ObjectName	name;
	Bytes		raw;
	uint64		object_size;
	uint8		sha256[32];
	BackupInfo	info;
	ManifestReader *reader;

	/* to read it once more */
	BackupInfo	again;
	uint8	   *content;
	size_t		content_length;
	uint64		plain_length;
	uint32		plain_crc;
} OpenManifest;

extern StoreResult manifest_open(Repository *repo, const char *sysid, const char *id,
								 OpenManifest *m, DrError *err);
extern void manifest_close(OpenManifest *m);

/* Read it from its beginning again, without fetching it again. */
extern bool manifest_rewind(OpenManifest *m, DrError *err);

/* Read to the end: every record checked, m->info complete. */
extern bool manifest_read_all(OpenManifest *m, DrError *err);

/* The system identifiers below which something is stored. */
extern bool inventory_systems(Repository *repo, Listing *out, DrError *err);

/* A backup as the repository has it. */
typedef struct BackupEntry
{
	char		id[PGDR_BACKUP_ID_MAX + 1];
	bool		has_manifest;	/* no: in progress, interrupted or expired */
	bool		sound;			/* the manifest opens */
	DrError		error;			/* when it does not */
	BackupInfo	info;
	uint64		manifest_size;
	uint8		manifest_sha256[32];
	OpenManifest *fetched;		/* of the newest one, when it is sound and not large, for manifest_rewind; else NULL */
} BackupEntry;

typedef struct BackupList
{
	BackupEntry *v;
	size_t		n;
} BackupList;

/*
 * In order of their ids, which is that of time but for those of one second.
 * Manifests are fetched several at a time.
 */
extern bool inventory_backups(Repository *repo, const char *sysid, BackupList *out, DrError *err);
extern void backup_list_free(BackupList *list);

#endif							/* PGDR_INVENTORY_H */
