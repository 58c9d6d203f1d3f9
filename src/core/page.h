/*
 * page.h
 *	  What kind of file a path is, and the verdict on a relation's page.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_PAGE_H
#define PGDR_PAGE_H

#include "postgres_fe.h"
#include "access/xlogdefs.h"

/* The values are those of manifest records. */
typedef enum FileClass
{
	FILE_ANY = 0,
	FILE_MAIN = 1,
	FILE_FSM = 2,
	FILE_VM = 3,
	FILE_INIT = 4,
	FILE_CONTROL = 5,
	FILE_CONFIG = 6
} FileClass;

/* A relation file's name taken apart. */
typedef struct RelationFile
{
	FileClass	fork;
	uint32		segment;		/* 0 for the first */
	int			oid_digits;		/* characters of the relation's number */
} RelationFile;

/* The last component of a path: is it a (not temporary) relation's file? */
extern bool relation_file_parse(const char *name, RelationFile *out);

/* "t5_16384" and the like: a temporary relation. */
extern bool temp_relation_name(const char *name);

/* Path relative to the data directory: does it lie where relations lie? */
extern bool relation_directory(const char *dir);

typedef enum PageVerdict
{
	PAGE_OK,
	PAGE_NEW_LSN,				/* changed since the backup began: WAL's business, if its LSN is real */
	PAGE_CORRUPT
} PageVerdict;

/*
 * Judge one page, block number counted across the relation's segments.  The
 * page is scribbled on and put right again.  With checksums off only its
 * structure is judged.  *expected and *found are set for PAGE_CORRUPT and
 * PAGE_NEW_LSN; *sound says of PAGE_NEW_LSN whether the checksum is right.
 */
extern PageVerdict page_judge(char *page, uint32 block, bool checksums, XLogRecPtr start_lsn,
							  uint16 *expected, uint16 *found, XLogRecPtr *lsn, bool *sound);

#endif							/* PGDR_PAGE_H */
