/*
 * restore_situation.h
 *	  What a restore knows before it writes anything: backup, history, how far the
 *	  WAL goes, and that all of it is there.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_RESTORE_SITUATION_H
#define PGDR_RESTORE_SITUATION_H

#include "core/plan.h"
#include "flow/restore.h"
#include "program/access.h"

#define MAX_MAPPINGS	256

typedef struct RestoreOptions
{
	Access		access;
	const char *pgdata;
	const char *backup;
	Target		target;
	const char *timeline;		/* NULL, "latest" or a number */
	const char *action;
	const char *config_dir;
	const char *mappings[MAX_MAPPINGS];
	int			n_mappings;
	const char *tablespace_dir; /* where tablespaces outside of the data directory go, by their OID; NULL: where they were */
	int			jobs;
	bool		standby;
	bool		delta;
} RestoreOptions;

/* What is known before anything is written. */
typedef struct Situation
{
	Repository	repo;
	char		sysid[21];
	BackupList	backups;
	Listing		wal_objects;
	WalSet		wal;
	bool		tail_damaged;
	DrError		tail_error;
	bool		sound_behind;	/* a target of which the location is known: look_behind */
	uint64		damaged;		/* a segment that it found so; 0: none */
	DrError		damage;
	History		history;
	Plan		plan;
	Restore		restore;
	int64		started;
} Situation;

/* False: it can't be done, and err says why. */
extern bool situation_make(Situation *s, const RestoreOptions *o, DrError *err);

#endif							/* PGDR_RESTORE_SITUATION_H */
