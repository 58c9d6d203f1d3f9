/*
 * verify.h
 *	  Is what the repository holds what was stored?
 *
 * Of one backup, what its restore needs; of all, everything that a listing of
 * the cluster shows.  Three depths, each with what the ones before it look at:
 *
 *	catalogue	names and sizes, as listed, against manifests and what the
 *				database knows.  Nothing but manifests is read.
 *	objects		every object is fetched, its SHA-256 held against the manifest and
 *				the database, its seal opened.
 *	pages		every frame is decompressed and its checksum and every relation's
 *				page judged; WAL from start to stop of each backup is followed from
 *				record to record, the headers of all other WAL pages are looked at.
 *
 * Where objects are locked, the locks of what backups need are extended on the
 * way, as are those of what opens the repository.
 *
 * Invariants:
 *
 *	V1	A finding is about what the store said and gave.  What could not be
 *		asked is an error: silence of a network is no verdict.
 *	V2	What was proven (to this depth, since the time that the caller set) and
 *		is listed with its size is not read again.  What was found bad is never
 *		called proven.
 *	V3	A pack that several backups share is read once, but for frames that none
 *		of the manifests before mentions.
 *	V4	Memory: a record for each object listed, the frames of packs that are not
 *		yet known whole, a few objects under way; with several backups, to depth
 *		pages, eight bytes for each frame.
 *
 * Nothing is written but locks: a crash leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_VERIFY_H
#define PGDR_VERIFY_H

#include <pthread.h>

#include "flow/repository.h"

typedef enum VerifyDepth
{
	VERIFY_CATALOGUE = 1,
	VERIFY_OBJECTS,
	VERIFY_PAGES
} VerifyDepth;

/* False: it is no depth. */
extern bool verify_depth_parse(const char *text, VerifyDepth *depth);

typedef enum VerifySeverity
{
	VERIFY_NOTICE,				/* worth knowing, nothing is damaged */
	VERIFY_WARNING,				/* damaged, and no restore needs it */
	VERIFY_ERROR
} VerifySeverity;

extern const char *verify_severity_name(VerifySeverity severity);

/* Names of files that are listed with a finding, at most. */
#define VERIFY_FILES_MAX	20

typedef struct VerifyFinding
{
	char	   *object;
	char	   *problem;
	const char *hint;
	VerifySeverity severity;
	char	  **backups;		/* ids of those that need it */
	size_t		n_backups;
	char	   *files[VERIFY_FILES_MAX];
	uint64		n_files;		/* listed or not */
} VerifyFinding;

/* What the database knows of an object. */
typedef struct VerifyKnown
{
	char	   *name;
	uint64		size;
	bool		has_hash;
	uint8		sha256[32];
	bool		proven;			/* V2 */
} VerifyKnown;

typedef struct Verify
{
	Repository *repo;
	const char *system_identifier;
	const char *backup;			/* an id, "latest" or "all" */
	VerifyDepth depth;
	int			jobs;
	uint64		max_rate;		/* bytes fetched per second; 0: no limit */
	const char *const *running; /* ids of backups that are being made */
	size_t		n_running;
	const VerifyKnown *known;	/* has_catalogue: all that it knows of backups and WAL */
	size_t		n_known;
	bool		has_catalogue;

	/* Sound, by several threads, one at a time; findings come at the end, in order of names. */
	void		(*object) (void *arg, const char *name, uint64 size, const uint8 sha256[32]);
	void		(*finding) (void *arg, const VerifyFinding *finding);
	/* A backup was looked at; by the calling thread, at the end. */
	void		(*verified) (void *arg, const char *id, bool sound);
	void	   *arg;

	/* out */
	char		id[PGDR_BACKUP_ID_MAX + 1]; /* the one that was chosen; empty: all */
	uint64		backups;
	uint64		objects;		/* sound */
	uint64		bytes;			/* of packs and WAL, read */
	uint64		bytes_skipped;	/* and not, for they were proven */
	uint64		bytes_total;	/* that are to be read, once that is known */
	uint64		findings;		/* of all severities, */
	uint64		errors;			/* and of these */
	uint64		warnings;

	pthread_mutex_t lock;		/* of what is out, and of the callbacks; the caller's */
} Verify;

/* False: it could not be done, err says why. */
extern bool verify_run(Verify *v, DrError *err);

#endif							/* PGDR_VERIFY_H */
