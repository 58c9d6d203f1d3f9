/*
 * holdings.h
 *	  All that a repository holds of one cluster, and what of it is needed.
 *
 * One listing and every manifest, one at a time.  Memory: the names of the
 * cluster's objects, and a few bytes for each pack that a manifest names.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_HOLDINGS_H
#define PGDR_HOLDINGS_H

#include "core/retention.h"
#include "flow/expire_mark.h"
#include "flow/inventory.h"

/* A backup without a manifest is dead when all that it stored is older than that. */
#define HOLDINGS_DEAD_AGE	(7 * DAY_US)

/* What is below <sysid>/backup/<id>/. */
typedef struct HeldBackup
{
	char		id[PGDR_BACKUP_ID_MAX + 1];
	size_t		first;			/* its objects in the listing: from this one on, */
	size_t		end;			/* this one not included */
	bool		has_manifest;
	bool		damaged;		/* it can't be opened: error says why */
	DrError		error;
	BackupInfo	info;
	uint64		manifest_size;
	bool		has_packs;
	RetentionBackup *verdict;	/* NULL without a manifest that opens */
	bool		running;
	bool		shared;			/* no manifest, and every pack is named by another's */
	bool		dead;			/* no manifest, and nobody who will write one */
} HeldBackup;

/* Of each object in the listing: */
#define HELD_REFERENCED		1	/* a pack that some manifest names */
#define HELD_NEEDED			2	/* a pack that the manifest of a backup that is kept names */
#define HELD_GOES			4	/* not needed */

typedef struct PackReference
{
	uint32		backup;			/* in Holdings.backups */
	uint32		object;			/* in the listing */
} PackReference;

typedef struct Holdings
{
	/* in */
	Repository *repo;
	const char *sysid;
	uint32		segment_size;
	TimeLineID	timeline;		/* the server's own; 0: not known */
	const ExpireMark *mark;
	const char *const *running; /* ids of backups that are at work */
	size_t		n_running;
	Retention	retention;		/* policy and clock */
	bool		only_asking;	/* nothing will be removed */
	bool		keep_all;		/* every backup that there is, whatever the policy: what is left is needed */

	/* out */
	Listing		all;
	uint8	   *flags;
	HeldBackup *backups;
	size_t		n_backups;
	size_t		damaged;
	PackReference *references;
	size_t		n_references;
	RetentionBackup *verdicts;
	History		histories[2];
	WalSet		wal;
} Holdings;

/* False: it could not be found out, err says why. */
extern bool holdings_load(Holdings *h, DrError *err);
extern void holdings_free(Holdings *h);

/* The timeline and number of the segment that a WAL object is of; false for histories and all else. */
extern bool held_wal_segment(const Holdings *h, size_t object, TimeLineID *tli, uint64 *segno);

/* A row of segments of one timeline of which everything goes that was marked at the same time. */
typedef struct WalRow
{
	char		first[25];
	char		last[25];
	uint64		bytes;
	int64		at;				/* 0: not marked */
} WalRow;

/* The caller frees it. */
extern WalRow *holdings_wal_rows(const Holdings *h, size_t *n);

/* Would the WAL that is left do, if everything that goes and "ripe" were gone (NULL: all of it)? */
extern bool holdings_check_wal(const Holdings *h, const uint8 *ripe, DrError *err);

#endif							/* PGDR_HOLDINGS_H */
