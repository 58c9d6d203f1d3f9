/*
 * wal.h
 *	  WAL files into and out of a repository, and what is known of them.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_WAL_H
#define PGDR_WAL_H

#include "flow/repository.h"

typedef struct WalStored
{
	ObjectName	object;
	uint64		size;
	uint8		sha256[32];
	bool		existed;		/* with the same bytes */
} WalStored;

/*
 * Store the file at path under its WAL name.  True: durable.  A name taken by
 * other bytes is DR_CONFLICT; a segment of another cluster is refused.  When
 * it is ready to be stored, may_store (or NULL) is asked.
 */
extern bool wal_archive(Repository *repo, const char *sysid, const char *file, const char *path,
						int level, bool (*may_store) (void *arg, DrError *err), void *arg,
						WalStored *stored, DrError *err);

/* The file's plain bytes, opened and checked whole. */
extern StoreResult wal_fetch(Repository *repo, const char *sysid, const char *file, Bytes *plain,
							 SealHeader *header, DrError *err);

/*
 * Is a file that the store does not have proof of a hole?  True: nothing in
 * the archive lies behind it, so it was never archived.  False: err says what
 * is missing, or why that could not be found out.
 */
extern bool wal_absence_proven(Repository *repo, const char *sysid, const char *file, DrError *err);

/* A WAL segment's first bytes: whose it is, and how long it must be. */
extern bool wal_header_check(const uint8 *data, size_t n, const char *sysid, const char *file,
							 DrError *err);

#endif							/* PGDR_WAL_H */
