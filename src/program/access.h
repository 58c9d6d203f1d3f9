/*
 * access.h
 *	  The options that every command with a repository takes.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_ACCESS_H
#define PGDR_ACCESS_H

#include "flow/repository.h"

typedef struct Access
{
	const char *url;
	const char *key_file;
	const char *credentials_file;	/* NULL: where AWS's tools look */
	const char *system_identifier;	/* NULL: the only one there is */
} Access;

/* getopt_long entries for them, and the values that they return. */
#define ACCESS_OPTIONS \
	{"repository", required_argument, NULL, OPT_REPOSITORY}, \
	{"key-file", required_argument, NULL, OPT_KEY_FILE}, \
	{"credentials-file", required_argument, NULL, OPT_CREDENTIALS_FILE}, \
	{"system-identifier", required_argument, NULL, OPT_SYSTEM_IDENTIFIER}

enum
{
	OPT_REPOSITORY = 1000,
	OPT_KEY_FILE,
	OPT_CREDENTIALS_FILE,
	OPT_SYSTEM_IDENTIFIER,
	OPT_COMMAND					/* a command's own begin here */
};

/* True when the option was one of these. */
extern bool access_option(Access *a, int option, const char *value);

/* Open the repository that they name; impatient: see RepositoryAccess;
 * somebody who waits will want to know what is in it, too. */
extern bool access_open(const Access *a, bool impatient, Repository *repo, DrError *err);

/*
 * For wal-get.  wait: who asks tries again by himself, for ever; what the store
 * does not do within 20 seconds is an error then, so that it can be said.
 */
extern bool access_open_for_recovery(const Access *a, bool wait, Repository *repo, DrError *err);

/* Are the required ones there?  NULL, or what is missing. */
extern const char *access_missing(const Access *a);

/*
 * The cluster to work on: the one asked for, or the only one.  out has 21
 * bytes.
 */
extern bool access_choose_system(const Access *a, Repository *repo, char *out, DrError *err);

#endif							/* PGDR_ACCESS_H */
