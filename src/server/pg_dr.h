/*
 * pg_dr.h
 *	  What the files of the module know of each other: settings and entry points.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_SERVER_H
#define PGDR_SERVER_H

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/execnodes.h"

/* Longest name of a repository, without the NUL. */
#define DR_REPOSITORY_NAME_MAX	63

/* guc.c: the settings */
extern char *dr_repositories;
extern char *dr_encryption_key_file;
extern char *dr_credentials_file;
extern char *dr_database;
extern int	dr_jobs;
extern int	dr_compression_level;
extern int	dr_max_rate;
extern int	dr_archive_timeout;
extern char *dr_wal_conninfo;
extern int	dr_wal_ship_interval;
extern bool dr_change_map;
extern int	dr_change_map_wal_limit;
extern char *dr_retention;
extern int	dr_expire_grace;
extern char *dr_drill_directory;
extern int	dr_drill_max_size;	/* MB */
extern int	dr_drill_memory;	/* MB */
extern char *dr_drill_preload;
extern char *dr_debug_hold_at;
extern int	dr_debug_clock;

extern void dr_define_settings(void);

/* The clock by which backups are dated and expire. */
extern TimestampTz dr_now(void);

/* The first repository; false when none is configured.  Palloc'd. */
extern bool dr_primary_repository(char **name, char **url);

/*
 * A copy of text in which the key file's path and the repository's place are
 * replaced by words: for whatever others than superusers may see.
 */
extern char *dr_redacted(const char *text);

/* The same, unless this is no session, or a superuser's. */
extern const char *dr_shown(const char *text);

/* launcher.c, housekeeping.c, backup_worker.c, drill_worker.c */
extern void dr_register_launcher(void);
extern PGDLLEXPORT void dr_launcher_main(Datum arg);
extern PGDLLEXPORT void dr_housekeeping_main(Datum arg);
extern PGDLLEXPORT void dr_backup_worker_main(Datum arg);
extern PGDLLEXPORT void dr_drill_worker_main(Datum arg);

/* launcher.c: is a heartbeat to be written?  It was, or what has been written until now asks for none. */
extern bool dr_beat_is_due(TimestampTz now);
extern void dr_note_beat(void);

/* wal_worker.c */
extern void dr_register_wal_worker(void);
extern PGDLLEXPORT void dr_wal_worker_main(Datum arg);

/* change_map.c */
extern void dr_register_change_map(void);
extern PGDLLEXPORT void dr_change_map_main(Datum arg);

/* functions.c: ERROR in recovery, with what can't be done then; ERROR in another database than the catalogue's. */
extern void dr_require_primary(const char *what);
extern void dr_require_database(void);

/*
 * functions.c: a set-returning function's row; texts may be NULL.
 */
extern void dr_put_row(ReturnSetInfo *rsinfo, int columns, const char *const *texts);

/* functions_check.c, functions_status.c, functions_wal.c, functions_map.c, recovery.c: one line of dr_check or dr_status */
typedef struct DrFinding
{
	const char *status;			/* ok, warning, critical */
	char	   *detail;
	const char *hint;			/* may be NULL */
} DrFinding;

extern void dr_archiving_finding(DrFinding *finding);
extern bool dr_recovery_finding(DrFinding *finding);
extern void dr_recovery_point_finding(DrFinding *finding);
extern void dr_change_map_finding(DrFinding *finding);

/* True when archive_mode is on and archive_library is ours. */
extern bool dr_is_archive_library(void);

/* sync.c: the repository's inventory into the catalogue */
typedef void (*DrSyncReport) (void *arg, const char *what, const char *name, const char *detail);
extern void dr_sync_catalogue(DrSyncReport report, void *arg);

#endif							/* PGDR_SERVER_H */
