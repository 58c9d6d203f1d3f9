/*
 * backup_info.h
 *	  What a manifest says of its backup as a whole: its first and last record.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_BACKUP_INFO_H
#define PGDR_BACKUP_INFO_H

#include <jansson.h>

#include "core/error.h"
#include "core/names.h"

typedef struct BackupInfo
{
	/* first record */
	char		id[PGDR_BACKUP_ID_MAX + 1];
	char		kind[16];
	char	   *label;			/* NULL: none */
	char		system_identifier[21];
	int			server_version_num;
	uint32		control_version;
	uint32		catalog_version;
	uint32		block_size;
	uint32		segment_blocks;	/* blocks in a relation segment */
	uint32		wal_segment_size;
	bool		data_checksums;
	TimeLineID	timeline;
	XLogRecPtr	start_lsn;
	int64		started_at;		/* microseconds since 1970 */
	char	   *data_directory;
	char	   *config_directory;	/* NULL: inside the data directory */
	char	   *host;
	char	   *parent;			/* id of the backup that it takes unchanged data from; NULL: none */
	uint32		lineage;		/* generation of the lineage that wrote it */

	/* last record */
	XLogRecPtr	stop_lsn;
	TimeLineID	stop_timeline;
	int64		stopped_at;
	char	   *backup_label;
	char	   *tablespace_map;
	uint64		files;
	uint64		directories;
	uint64		frames;
	uint64		bytes;
	uint64		bytes_read;		/* from the data directory */
	uint64		bytes_changed;	/* as far as the change map knew; what is copied whole counts whole */
	uint64		bytes_stored;	/* packs of its own, as objects */
	uint64		packs;			/* of its own */
	uint64		bytes_referenced;	/* frames in packs of earlier backups, as stored */
	uint64		inherited_packs;
	uint64		restore_bytes;	/* that a restore fetches, at most */
	uint64		restore_requests;
	uint64		corrupt_pages;
	char	   *full_scan;		/* an incremental one: why everything was read all the same */
} BackupInfo;

/* JSON text of the first and the last record; the caller frees it. */
extern char *backup_info_begin_json(const BackupInfo *info);
extern char *backup_info_end_json(const BackupInfo *info);

/* Fill from JSON; texts are owned by info.  False: not what FORMAT.md says. */
extern bool backup_info_parse_begin(BackupInfo *info, const char *text, size_t n);
extern bool backup_info_parse_end(BackupInfo *info, const char *text, size_t n);

/* One object with everything but label file and tablespace map: pg_dr list --json, sync. */
extern json_t *backup_info_summary(const BackupInfo *info);

extern void backup_info_free(BackupInfo *info);

#endif							/* PGDR_BACKUP_INFO_H */
