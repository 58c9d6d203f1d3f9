/*
 * recovery_conf.h
 *	  What a restored cluster needs to recover itself: settings, signal file,
 *	  backup_label, configuration files, and the record of the archive's frontier.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_RECOVERY_CONF_H
#define PGDR_RECOVERY_CONF_H

#include "core/plan.h"
#include "flow/restore.h"
#include "program/access.h"

typedef struct RecoveryOptions
{
	const Access *access;		/* key file's path absolute */
	const Target *target;
	const Plan *plan;
	const char *action;			/* NULL: the server's default */
	const char *config_dir;		/* NULL: into the data directory */
	bool		standby;
} RecoveryOptions;

/* Put configuration files into place and write everything else. */
extern bool recovery_write(Restore *r, const RecoveryOptions *o, DrError *err);

/* Can the configuration files go where they are to go, and everything else be written? */
extern bool recovery_check(const Restore *r, const RecoveryOptions *o, DrError *err);

#endif							/* PGDR_RECOVERY_CONF_H */
