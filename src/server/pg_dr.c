/*
 * pg_dr.c
 *	  The module's table of contents.
 *
 * The server's side of pg_dr is the control plane: it decides, remembers and
 * reports.  Not one byte of a backup flows through it; that is the work of the
 * program pg_dr, which runs as a child of the process that needs it (child.c).
 *
 *	guc.c				settings
 *	shmem.c				what the processes tell each other
 *	child.c				starting the program, and stopping it whatever happens
 *	message.c			the lines that are spoken with it
 *	archive.c			archive module, in the archiver
 *	wal_worker.c		static worker that has the tail of the WAL shipped
 *	change_map.c		static worker that keeps which blocks WAL changed; its parts:
 *	change_map_wal.c		what a record changes
 *	change_map_table.c		what is not yet in a file
 *	change_map_disk.c		the files
 *	change_map_slot.c		the slot that keeps WAL for it
 *	launcher.c			static worker that starts housekeeping when there is some
 *	housekeeping.c		rows of backups that ended without, rows of WAL segments
 *	backup_worker.c		one worker per backup: its life from row to row
 *	backup_run.c		the conversation with the program during a backup
 *	config_files.c		what of the configuration a backup must hold
 *	catalogue.c			tables in schema dr
 *	sync.c				the repository's inventory into these tables
 *	functions.c			dr_backup, dr_cancel, dr_adopt, dr_sync
 *	functions_check.c	dr_check
 *	functions_status.c	the functions below dr_status, dr_progress, dr_wal
 *	functions_wal.c		the functions below dr_recovery_windows, the recovery point
 *	functions_map.c		the change map's, dr.change_map()
 *	recovery.c			did a restored cluster reach the end of the archive?
 *
 * A crash in _PG_init keeps the server from starting; nothing is left behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "pg_dr.h"
#include "shmem.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	dr_define_settings();
	MarkGUCPrefixReserved("pg_dr");

	/* Loaded later, we have settings but neither memory nor workers. */
	if (!process_shared_preload_libraries_in_progress)
		return;
	dr_install_shmem_hooks();
	dr_register_launcher();
	dr_register_wal_worker();
	dr_register_change_map();
}
