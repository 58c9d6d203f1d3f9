/*
 * catalogue.h
 *	  The tables in schema dr: an index of the repository, and what only the
 *	  database can know.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CATALOGUE_H
#define PGDR_CATALOGUE_H

#include "shmem.h"

typedef struct DrObject
{
	char		name[PGDR_OBJECT_NAME_MAX + 1];
	int64		size;
	bool		has_sha256;
	uint8		sha256[32];
} DrObject;

typedef struct DrCorruptPage
{
	char	   *path;
	int64		block;
	int32		expected;
	int32		found;
	XLogRecPtr	lsn;
} DrCorruptPage;

/* What belongs to one backup; all of it goes into one transaction. */
typedef struct DrBackupDetails
{
	const char *backup;
	const char *repository;
	DrObject   *objects;
	int			n_objects;
	DrCorruptPage *pages;
	int			n_pages;
} DrBackupDetails;

/*
 * Run write(arg) with SPI: in the transaction that is open, else in one of its
 * own.  dr_catalogue_try catches its error, makes it a WARNING and tries again
 * up to attempts times; false when none succeeded.  Never call it with a
 * transaction open.
 */
typedef void (*DrWrite) (void *arg);
extern void dr_catalogue_run(DrWrite write, void *arg);
extern bool dr_catalogue_try(DrWrite write, void *arg, int attempts, const char *what);

/* Each to be called inside of a DrWrite. */
extern bool dr_catalogue_exists(void);
extern void dr_insert_backup(const DrJob *job);
extern void dr_finish_backup(const DrJob *job);
extern void dr_insert_details(const DrBackupDetails *details);
extern void dr_replace_probe(const DrProbe *probe);
extern void dr_insert_segments(const DrSegment *segments, int n);

/*
 * The newest complete backup of this timeline into job->parent; false: there is
 * none.  For whoever may call dr_backup: the tables are read with their owner's
 * privileges.
 */
extern bool dr_find_parent(DrJob *job);

/*
 * Ids of this cluster's backups, in a repository (NULL: in any), for which an SQL
 * condition on their row holds; palloc'd in the given context.
 */
extern List *dr_backups_where(const char *repository, const char *condition, MemoryContext context);

/* A backup that the repository has; what that meant for its row. */
typedef enum DrSeen
{
	DR_SEEN_KNOWN,				/* nothing new */
	DR_SEEN_INSERTED,			/* there was no such row */
	DR_SEEN_COMPLETED			/* the row said something else; now it is completed */
} DrSeen;

typedef struct DrFoundBackup
{
	const char *repository;
	const char *id;
	const char *kind;
	const char *label;
	const char *status;
	const char *system_identifier;
	const char *started_at;
	const char *stopped_at;
	TimeLineID	timeline;
	XLogRecPtr	start_lsn;
	XLogRecPtr	stop_lsn;
	DrFigures	figures;
	bool		has_sha256;
	uint8		manifest_sha256[32];	/* of the manifest */
} DrFoundBackup;

extern DrSeen dr_found_backup(const DrFoundBackup *found);
extern bool dr_set_backup_status(const char *id, const char *from, const char *to, const char *error);

/* Names of objects of which the catalogue knows another size or hash than these. */
extern List *dr_objects_that_differ(const DrBackupDetails *details, MemoryContext context);

/*
 * WAL objects: how many were new; which should lie in (after, last] and don't
 * (last NULL: up to the end; what was archived since "before" doesn't count).
 */
extern int	dr_found_segments(const DrSegment *segments, int n);
extern List *dr_missing_segments(const char *repository, const char *after, const char *last,
								 TimestampTz before, const DrSegment *segments, int n, MemoryContext context);

/*
 * What retention removed: objects; a backup (left: packs of it live on, for
 * others; true when its row said something else); WAL files of one timeline,
 * from segment to segment.
 */
extern void dr_forget_objects(const char *repository, List *names);
extern bool dr_expired_backup(const char *repository, const char *id, bool left);
extern void dr_forget_wal(const char *repository, const char *first, const char *last);

/* ---- verification (catalogue_verify.c) ---- */

/* Lines of objects for the program: each a JSON array of name, size, SHA-256 or null, proven. */
typedef void (*DrKnownSink) (void *arg, const char *json);

/*
 * What the catalogue knows of this cluster's complete backups and WAL.  Proven:
 * found sound, to this depth or a deeper one, within max_age (NULL: none is).
 */
extern void dr_known_objects(const char *repository, const char *depth, const Interval *max_age, DrKnownSink sink,
							 void *arg);

typedef struct DrVerification
{
	const char *id;
	const char *repository;
	const char *backup;
	const char *depth;
	const char *requested_by;
	TimestampTz started_at;
	int64		backups;
	int64		objects;
	int64		bytes_read;
	int64		bytes_skipped;
	int64		findings;
	const char *verdict;		/* NULL: it has just begun */
} DrVerification;

typedef struct DrVerifyFinding
{
	const char *object;
	const char *problem;
	List	   *backups;		/* texts */
	List	   *files;
	const char *severity;
	const char *hint;
} DrVerifyFinding;

extern Datum dr_text_array(List *texts);
extern void dr_begin_verification(const DrVerification *v);
extern void dr_insert_finding(const DrVerification *v, const DrVerifyFinding *finding, int64 number);
extern void dr_finish_verification(const DrVerification *v);

/* Objects that were found sound just now, by their names; or bad. */
extern void dr_verified_objects(const DrVerification *v, List *names, bool sound);

/* A backup was found sound, or not. */
extern void dr_verified_backup(const DrVerification *v, const char *id, bool sound, const char *error);

/* WAL objects that had another size when they were stored. */
extern List *dr_resized_segments(const char *repository, MemoryContext context);

#endif							/* PGDR_CATALOGUE_H */
