/*
 * expire_mark.h
 *	  What retention has marked as to go, in one small object: <sysid>/expire/<generation>.
 *
 * The highest generation counts, and is complete: each thing with the time at
 * which it was marked first.  Lower ones are removed when a higher one is
 * durable; where that is not allowed they stay and mean nothing.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_EXPIRE_MARK_H
#define PGDR_EXPIRE_MARK_H

#include "flow/repository.h"

typedef struct MarkedBackup
{
	char		id[PGDR_BACKUP_ID_MAX + 1];
	int64		at;				/* microseconds since 1970 */
} MarkedBackup;

/* Segments of one timeline. */
typedef struct MarkedWal
{
	char		first[25];
	char		last[25];
	int64		at;
} MarkedWal;

typedef struct ExpireMark
{
	uint32		generation;		/* 0: there is none */
	MarkedBackup *backups;
	size_t		n_backups;
	MarkedWal  *wal;
	size_t		n_wal;
} ExpireMark;

/* False: err is set, and generation says which one it is, if it is damaged. */
extern bool expire_mark_load(Repository *repo, const char *sysid, ExpireMark *m, DrError *err);
extern void expire_mark_free(ExpireMark *m);

/* When it was marked; 0: it is not. */
extern int64 expire_mark_backup(const ExpireMark *m, const char *id);
extern int64 expire_mark_segment(const ExpireMark *m, const char *segment);

/* Add to one that is to be stored; what is beyond a million bytes waits for the next time. */
extern void expire_mark_add_backup(ExpireMark *m, const char *id, int64 at);
extern void expire_mark_add_wal(ExpireMark *m, const char *first, const char *last, int64 at);

extern bool expire_mark_equal(const ExpireMark *a, const ExpireMark *b);

/*
 * Store it as the generation that follows (DR_CONFLICT: somebody else just did),
 * then remove those before it.
 */
extern bool expire_mark_store(Repository *repo, const char *sysid, ExpireMark *m, uint32 before,
							  DrError *err);

/* Remove an empty one: nothing is marked any more. */
extern void expire_mark_clear(Repository *repo, const char *sysid, const ExpireMark *m);

/*
 * May this backup go soon?  Then nothing new may come to rely on it: an
 * incremental backup must not choose it as the one that it is based on.
 */
extern bool expire_is_marked(Repository *repo, const char *sysid, const char *backup_id, bool *marked,
							 DrError *err);

#endif							/* PGDR_EXPIRE_MARK_H */
