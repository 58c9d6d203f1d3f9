/*
 * verify_private.h
 *	  What the files of verification share.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_VERIFY_PRIVATE_H
#define PGDR_VERIFY_PRIVATE_H

#include <stdatomic.h>

#include "core/wal_page.h"
#include "flow/fetch.h"
#include "flow/inventory.h"
#include "flow/queue.h"
#include "flow/rate.h"
#include "flow/verify.h"

#define SEEN_LISTED		0x01
#define SEEN_NEEDED		0x02	/* by a backup that is looked at */
#define SEEN_HASH		0x04	/* size and sha256 are a manifest's */
#define SEEN_KNOWN		0x08	/* the database has it; known_size */
#define SEEN_KNOWN_HASH	0x10
#define SEEN_PROVEN		0x20
#define SEEN_BAD		0x40	/* there is a finding */
#define SEEN_SOUND		0x80	/* read, and called sound */

/* An object of the cluster.  Flags: under the lock once there are threads. */
typedef struct Seen
{
	ObjectKind	kind;
	uint32		flags;
	uint64		listed;			/* its size */
	uint64		size;
	uint8		sha256[32];
	uint64		known_size;
	uint8		known_sha256[32];
	uint64	   *frames;			/* that were judged, sorted; see V3 */
	uint32		n_frames;
	int32		finding;		/* which one; -1 */
	char		name[FLEXIBLE_ARRAY_MEMBER];
} Seen;

/* A backup that is looked at. */
typedef struct Chosen
{
	char		id[PGDR_BACKUP_ID_MAX + 1];
	bool		readable;		/* its manifest was opened */
	bool		kept;			/* m is still open: it is the only one */
	OpenManifest m;
	BackupInfo	info;			/* if readable, and m is not kept */
	CorruptPage *corrupt;		/* that its manifest names; paths are owned */
	size_t		n_corrupt;
} Chosen;

typedef struct Verification
{
	Verify	   *v;
	bool		all;
	Seen	  **seen;			/* in order of names, as far as they are listed */
	size_t		n_seen;
	uint32	   *slots;			/* hashed: index in seen, plus 1 */
	size_t		n_slots;
	Chosen	   *chosen;
	size_t		n_chosen;
	VerifyFinding *findings;
	size_t		n_findings;
	Rate		rate;
} Verification;

/* verify_objects.c: the table */
extern Seen *seen_find(Verification *w, const char *name);	/* NULL: none */
extern Seen *seen_add(Verification *w, const char *name);	/* or the one that is there */
extern bool seen_list(Verification *w, DrError *err);
extern void seen_free(Verification *w);

/* The first finding about an object stands; any thread. */
extern VerifyFinding *verify_found(Verification *w, Seen *o, VerifySeverity severity, const char *problem);

/* V1: damage and absence become a finding (true); whatever else went wrong is an error. */
extern bool verify_verdict(Verification *w, Seen *o, const DrError *why, DrError *err);

/* How bad it is when this object is lost. */
extern VerifySeverity verify_weight(Verification *w, const Seen *o);

extern void verify_sound(Verification *w, Seen *o, uint64 size, const uint8 sha256[32]);

/* Names and sizes against manifests and database. */
extern bool verify_compare(Verification *w, DrError *err);

/* What one backup says of itself: info, wherever it is. */
extern const BackupInfo *chosen_info(const Chosen *b);

/* Packs and WAL: what Verify's bytes are of. */
extern bool verify_counts(const Seen *o);

/* verify_read.c: objects, by several threads. */

/* Frames of a relation's file, or of any. */
typedef struct JudgedFile
{
	char	   *path;
	FileClass	class;
	uint32		first_block;	/* of the relation, that the file begins with */
	FetchSlice *slices;			/* of all its frames, when it has extents */
	atomic_uint frames_left;
	const Chosen *backup;
} JudgedFile;

typedef struct ReadJob
{
	Seen	   *o;
	FetchFrame *frames;			/* to be judged; their file is a JudgedFile, or NULL.  Owned */
	size_t		n_frames;
	const Chosen *wal_of;		/* no object, but all of this backup's WAL, in order */
} ReadJob;

typedef struct Readers Readers;

extern Readers *readers_start(Verification *w);

/* Takes the frames over.  False: a reader has failed; readers_finish says how. */
extern bool readers_push(Readers *r, const ReadJob *job);
extern bool readers_finish(Readers *r, DrError *err);
extern void judged_file_left(JudgedFile *file);

/* verify_pages.c: the frames of every manifest, pack by pack, to the readers. */
extern bool verify_frames(Verification *w, Readers *r, DrError *err);

/* verify_affected.c: which backups and files a finding is about. */
extern bool verify_affected(Verification *w, DrError *err);
extern void finding_add_file(VerifyFinding *f, const char *path);
extern void finding_add_backup(VerifyFinding *f, const char *id);

#endif							/* PGDR_VERIFY_PRIVATE_H */
