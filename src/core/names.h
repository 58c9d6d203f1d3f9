/*
 * names.h
 *	  Names of objects, backups and WAL files: made and parsed here, nowhere else.
 *
 * doc/FORMAT.md section 1.  Names that come from a listing or a manifest are
 * hostile until name_valid or path_valid has seen them.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_NAMES_H
#define PGDR_NAMES_H

#include "postgres_fe.h"
#include "access/xlogdefs.h"
#include "protocol.h"

typedef enum ObjectKind
{
	KIND_UNKNOWN = 0,
	KIND_PACK = 1,
	KIND_MANIFEST = 2,
	KIND_WAL = 3,
	KIND_HISTORY = 4,
	KIND_PARTIAL = 5,
	KIND_BACKUP_HISTORY = 6,
	KIND_LINEAGE = 7,
	KIND_FRONTIER = 8,
	KIND_TAIL = 9,
	KIND_EXPIRY = 10
} ObjectKind;

typedef char ObjectName[PGDR_OBJECT_NAME_MAX + 1];

#define REPOSITORY_OBJECT	"repository.json"

/* A WAL file name taken apart. */
typedef struct WalFile
{
	ObjectKind	kind;			/* WAL, HISTORY, PARTIAL, BACKUP_HISTORY */
	TimeLineID	timeline;
	uint32		log;			/* second and third group of eight digits; */
	uint32		seg;			/* zero for a history file */
} WalFile;

/* The grammar of object names. */
extern bool name_valid(const char *name);

/* What a valid name stands for; KIND_UNKNOWN for anything that is not ours. */
extern ObjectKind object_kind(const char *name);

/* A file's path as a manifest may have it: relative, no empty, "." or ".." component. */
extern bool path_valid(const char *path);

extern bool backup_id_valid(const char *id);

/* The backup below which an object lies, into id (PGDR_BACKUP_ID_MAX + 1 bytes); false for one that lies elsewhere. */
extern bool backup_of_name(const char *name, char *id);
extern bool is_among(const char *const *names, size_t n, const char *name);
extern bool wal_file_parse(const char *file, WalFile *wal);
extern bool system_identifier_valid(const char *text);

/* The generation below a prefix, as in keys/, <sysid>/lineage/ and <sysid>/expire/. */
extern void name_of_generation(ObjectName out, const char *prefix, uint32 generation);
extern void name_keyring(ObjectName out, uint32 generation);
extern void name_lineage(ObjectName out, const char *sysid, uint32 generation);
extern void name_expiry(ObjectName out, const char *sysid, uint32 generation);
extern void name_pack(ObjectName out, const char *sysid, const char *backup, uint32 number);
extern void name_manifest(ObjectName out, const char *sysid, const char *backup);
/* file must have passed wal_file_parse. */
extern void name_wal(ObjectName out, const char *sysid, const char *file);
/* The note that a segment was archived. */
extern void name_frontier(ObjectName out, const char *sysid, const char *segment);

/* A piece of a segment that was not complete yet. */
typedef struct TailName
{
	char		segment[25];
	uint32		incarnation;	/* from 1; the newest one counts */
	uint32		offset;			/* of the piece's first byte */
} TailName;

extern void name_tail(ObjectName out, const char *sysid, const TailName *tail);
/* False when it is not the name of an object of KIND_TAIL. */
extern bool tail_name_parse(const char *name, TailName *tail);

/*
 * Segments beside each other may be stored in any order; one that is more than
 * this before another in the repository was acknowledged before that was begun.
 */
#define WAL_WINDOW	32

/* Segment arithmetic; out has at least 25 bytes. */
extern void wal_segment_name(char *out, TimeLineID tli, uint64 segno, uint32 segment_size);
extern uint64 wal_segment_number(const WalFile *wal, uint32 segment_size);

/* The generation at the end of keys/, lineage/ and expire/ names; 0 when there is none. */
extern uint32 name_generation(const char *name);

extern bool lsn_parse(const char *text, XLogRecPtr *lsn);
#define LSN_TEXT_MAX 20
extern void lsn_format(char *out, XLogRecPtr lsn);

/* Microseconds since 1970 to and from "2026-01-31T12:00:00.123456Z". */
#define TIME_TEXT_MAX 40
extern void time_format(char *out, int64 us);
extern bool time_parse(const char *text, int64 *us);
extern int64 time_now(void);

/* For tests: the clock is ahead by so much; before any thread is started. */
extern void time_set_ahead(int64 us);

/* Microseconds since some moment, of a clock that nobody sets. */
extern int64 monotonic_now(void);

#endif							/* PGDR_NAMES_H */
