/*
 * wal_ask.h
 *	  How wal-get asks the process that fetches ahead of recovery (wal_spool.h).
 *
 * A question is one line, "<digest of the options> <file>".  The answer is one
 * line, too: "stored" (the file lies in the spool's directory, for the asker to
 * take), "absent", or "failed <error as JSON>".  None at all: the process works
 * for other options.
 *
 * Without the libraries that the program needs for all else: recovery runs this
 * once for every file (wal_get/main.c).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_WAL_ASK_H
#define PGDR_WAL_ASK_H

#include "program/access.h"

#define SPOOL_DIR			"pg_dr.spool"
#define ASK_DIGEST_MAX		16
#define ASK_STORED			"stored"
#define ASK_ABSENT			"absent"
#define ASK_FAILED			"failed "
#define ASK_ANSWER_MAX		8192

/* What wal-get was called with. */
typedef struct WalAsk
{
	Access		access;
	bool		wait;
	const char *file;
	const char *path;
} WalAsk;

/*
 * wal-get's exit status is a verdict on which recovery acts.  So only what
 * wal_verdict was told last leaves the process: memory that is short, for which
 * the allocator exits with 1, must not look like "not there".  Before all else.
 */
extern void wal_exit_by_verdict(void);

/* For the caller to return; until then it is EXIT_ABORT. */
extern int	wal_verdict(int status);

/* NULL, or the argument that is wrong; file is NULL when there are not just two that are no options. */
extern const char *ask_parse(WalAsk *ask, int argc, char **argv);

/* The spool's directory for a destination; create: it may have to be made.  -1: there is none. */
extern int	ask_open_directory(const char *path, bool create);

/* Its process; -1: there is none. */
extern int	ask_connect(int directory);

/* What tells one set of options from another. */
extern void ask_digest(const WalAsk *ask, char out[ASK_DIGEST_MAX + 1]);

/* Ask for ask->file; false: no answer. */
extern bool ask_question(int fd, const WalAsk *ask, char answer[ASK_ANSWER_MAX]);

/* Take the file that is stored: it is at ask->path then. */
extern bool ask_take(int directory, const WalAsk *ask);

/* One line, without its end. */
extern bool read_line(int fd, char *line, size_t size, int timeout_s);
extern bool write_line(int fd, const char *line);

#endif							/* PGDR_WAL_ASK_H */
