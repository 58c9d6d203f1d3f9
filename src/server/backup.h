/*
 * backup.h
 *	  A backup as its worker sees it.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_BACKUP_H
#define PGDR_BACKUP_H

#include "catalogue.h"
#include "child.h"
#include "compat.h"
#include "shmem.h"

typedef struct Backup
{
	int			slot;
	DrJob		job;			/* our copy; what others may see is published */
	MemoryContext context;		/* as long as the worker */
	DrChild    *child;
	DrServerBackup server;
	char	   *no_parent;		/* incremental: why everything is to be read; NULL: the program finds out */
	List	   *config_files;
	char	   *config_directory;	/* NULL: inside the data directory */
} Backup;

/* backup_run.c: from the request to the program's last word; stops the server's backup. */
extern void dr_backup_run(Backup *b);

/* The program's "done": the manifest is durable; what it says, and the outcome, into b->job. */
extern void dr_backup_take_done(Backup *b, const DrEvent *event);

/* What a "done" or an inventory's "backup" says of a complete one. */
extern void dr_take_figures(DrFigures *figures, const DrEvent *event);

/* config_files.c: files outside the data directory that make the configuration; in a DrWrite. */
extern void dr_find_config_files(void *backup);

#endif							/* PGDR_BACKUP_H */
