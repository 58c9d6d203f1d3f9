/*
 * wal.h
 *	  WAL files into and out of a repository, and what is known of them.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_WAL_H
#define PGDR_WAL_H

#include "core/timeline.h"
#include "flow/repository.h"

typedef struct WalStored
{
	ObjectName	object;
	uint64		size;
	uint8		sha256[32];
	bool		existed;		/* with the same bytes */
	int64		written_at;		/* the file, last; see time_now */
} WalStored;

/* What a thread that stores WAL keeps from one file to the next. */
typedef struct WalWorkspace
{
	Codec		codec;
	Bytes		in;				/* a file, whole; its room is kept, for the next one */
	Bytes		out;			/* compressed */
	SealBuffer	sealed;
} WalWorkspace;

extern void wal_workspace_init(WalWorkspace *space, int level);
extern void wal_workspace_free(WalWorkspace *space);

/*
 * Store the file at path under its WAL name.  True: durable.  A name taken by
 * other bytes is DR_CONFLICT; a segment of another cluster is refused.  When
 * it is ready to be stored, may_store (or NULL) is asked.  The file is read
 * once.
 */
extern bool wal_archive(Repository *repo, WalWorkspace *space, const char *sysid, const char *file,
						const char *path, bool (*may_store) (void *arg, DrError *err), void *arg,
						WalStored *stored, DrError *err);

/* A file of the server's pg_wal, whole, and when it was last written. */
extern bool wal_read_file(const char *path, Bytes *in, int64 *written_at, DrError *err);

/* Compress plain bytes and seal them as an object of this name, into space->sealed. */
extern bool wal_seal(Repository *repo, WalWorkspace *space, const Bytes *plain, const char *name,
					 DrError *err);

/* The file's plain bytes, opened and checked whole. */
extern StoreResult wal_fetch(Repository *repo, const char *sysid, const char *file, Bytes *plain,
							 SealHeader *header, DrError *err);

/* What the repository has of a segment's timeline behind the segment itself, its pieces and its note included. */
extern bool wal_list_after(Repository *repo, const char *sysid, const char *segment, Listing *l, DrError *err);

/* A timeline's history, from its file; the first timeline has none. */
extern bool wal_history(Repository *repo, const char *sysid, TimeLineID tli, History *h, DrError *err);

/* The first n bytes of a segment of so many: whose it is, and how long it must be. */
extern bool wal_header_check(const uint8 *data, size_t n, uint64 size, const char *sysid,
							 const char *file, DrError *err);

#endif							/* PGDR_WAL_H */
