/*
 * manifest.h
 *	  The manifest as a stream of records, written and read in constant memory.
 *
 * doc/FORMAT.md section 5.  Invariants:
 *
 *	M1	The end record is last and every count in it is what was written; a
 *		reader that reaches the end has checked them, and the checksum of all.
 *	M2	A file's frames, or the extents that it takes from them, add up to its
 *		size, and each frame lies in a pack that a P record names; that record's
 *		numbers are those of the frames in it.
 *	M3	Paths are relative and have no "." or ".." component.
 *	M4	Own packs are this backup's, inherited ones are packs of other backups of
 *		this cluster, each listed once.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_MANIFEST_H
#define PGDR_MANIFEST_H

#include "core/backup_info.h"
#include "core/bytes.h"
#include "core/codec.h"
#include "core/page.h"

typedef struct Frame
{
	uint32		pack;
	uint32		offset;			/* in the pack's content */
	uint32		stored;
	uint32		raw;
	uint32		crc;			/* CRC-32C of the raw bytes */
} Frame;

/* A stretch of a file: length raw bytes of a frame, from skip on. */
typedef struct Extent
{
	uint32		frame;			/* which of the file's frames, from 0 */
	uint32		skip;
	uint32		length;
} Extent;

/*
 * A file is its frames, one after the other; or, where there are extents, these
 * in the order of its bytes (the frames hold more than the file then, and are in
 * no order).
 */
typedef struct ManifestFile
{
	FileClass	class;
	uint32		mode;			/* permission bits */
	int64		mtime;			/* seconds since 1970 */
	uint64		size;
	uint32		crc;			/* of its bytes; 0 with extents: each frame has its own */
	const char *path;
	uint32		n_frames;
	const Frame *frames;
	uint32		n_extents;
	const Extent *extents;
} ManifestFile;

/* Packs of earlier backups are counted from here on, the backup's own from 0. */
#define PACK_INHERITED	((uint32) 0x80000000)

typedef struct ManifestPack
{
	uint32		number;			/* as frames have it: from 1, or from PACK_INHERITED + 1 */
	uint64		size;			/* of the object */
	uint8		sha256[32];
	uint32		frames;			/* used */
	uint64		used;			/* their stored bytes */
	const char *name;
} ManifestPack;

/*
 * Reading all of a pack costs less than picking what is used of it.  What a
 * restore fetches, at most, for the one and the other.
 */
extern bool pack_read_whole(const ManifestPack *pack);
extern void pack_restore_cost(const ManifestPack *pack, uint64 *bytes, uint64 *requests);

/* A byte order of paths in which what is in a directory follows it at once. */
extern int	path_compare(const char *a, const char *b);

typedef struct CorruptPage
{
	uint32		block;
	uint16		expected;
	uint16		found;
	XLogRecPtr	lsn;
	const char *path;
} CorruptPage;

/* ---- writing ---- */

typedef struct ManifestWriter ManifestWriter;

extern ManifestWriter *manifest_writer_new(const BackupInfo *info);
extern void manifest_write_tablespace(ManifestWriter *w, const char *oid, const char *path);
extern void manifest_write_directory(ManifestWriter *w, uint32 mode, const char *path);
extern void manifest_write_file(ManifestWriter *w, const ManifestFile *file);
extern void manifest_write_corrupt(ManifestWriter *w, const CorruptPage *page);
extern void manifest_write_pack(ManifestWriter *w, const ManifestPack *pack);

/*
 * Fill the counts in info, write the end record.  Content (compressed), plain
 * length and CRC stay the writer's until it is freed.
 */
extern bool manifest_writer_finish(ManifestWriter *w, BackupInfo *info, const Bytes **content,
								   uint64 *plain_length, uint32 *crc, DrError *err);
extern void manifest_writer_free(ManifestWriter *w);

/* ---- reading ---- */

typedef enum RecordType
{
	RECORD_TABLESPACE = 'T',
	RECORD_DIRECTORY = 'D',
	RECORD_FILE = 'F',
	RECORD_CORRUPT = 'C',
	RECORD_EXTENTS = 'G',		/* a file with extents; read as RECORD_FILE */
	RECORD_PACK = 'P',
	RECORD_END = 'E'
} RecordType;

/* Pointers are into the reader and hold until the next call. */
typedef struct Record
{
	RecordType	type;
	union
	{
		struct
		{
			const char *oid;
			const char *path;
		}			tablespace;
		struct
		{
			uint32		mode;
			const char *path;
		}			directory;
		ManifestFile file;
		CorruptPage corrupt;
		ManifestPack pack;
	}			u;
} Record;

typedef struct ManifestReader ManifestReader;

/*
 * Begin to read: content stays the caller's and must outlive the reader.
 * info's first-record members are filled here, the others at RECORD_END.
 * NULL: err is set.
 */
extern ManifestReader *manifest_reader_new(const uint8 *content, size_t n, uint64 plain_length,
										   uint32 crc, const char *name, BackupInfo *info,
										   DrError *err);

/* The next record.  RECORD_END is the last one and everything is checked then. */
extern bool manifest_next(ManifestReader *r, Record *record, DrError *err);
extern void manifest_reader_free(ManifestReader *r);

#endif							/* PGDR_MANIFEST_H */
