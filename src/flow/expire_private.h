/*
 * expire_private.h
 *	  What the files of retention share: expire.c decides and tells, expire_remove.c removes.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_EXPIRE_PRIVATE_H
#define PGDR_EXPIRE_PRIVATE_H

#include "flow/expire.h"

#define EXPIRE_REASON_MAX	(RETENTION_REASON_MAX + 64)

typedef struct Run
{
	Expire	   *e;
	RetentionPolicy policy;
	ExpireMark	mark;			/* as it was when the run began: E1 */
	Holdings	now;			/* before anything was removed */
	Holdings	then;			/* after manifests were */
	uint8	   *removed;		/* objects of "then"; NULL: none */
} Run;

/* Was the object of these holdings removed since they were listed? */
extern bool expire_is_removed(const Run *x, const Holdings *h, size_t object);

/* Each goes on with the next where the store says no, and tells. */
extern bool expire_remove_manifests(Run *x, DrError *err);
extern bool expire_remove_packs(Run *x, DrError *err);
extern bool expire_remove_wal(Run *x, DrError *err);

/* Marked long enough ago? */
extern bool expire_is_ripe(const Run *x, int64 at);
extern void expire_tell(Run *x, const char *what, const char *name, uint64 bytes, const char *reason);
extern const char *expire_why(const HeldBackup *b);
extern void expire_wal_name(const WalRow *row, char out[80]);

#endif							/* PGDR_EXPIRE_PRIVATE_H */
