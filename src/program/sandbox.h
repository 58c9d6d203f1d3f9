/*
 * sandbox.h
 *	  Where a drill takes place: a directory, a throw-away server in it, and
 *	  nothing that is left of either.
 *
 * Invariants:
 *
 *	Z1	All that a drill writes is inside of <directory>/pg_dr_drill_<id>, which
 *		nobody else can enter; tablespaces, sockets and dynamic shared memory, too.
 *	Z2	A drill holds the directory's lock as long as it lives.  So whoever gets the
 *		lock knows that every sandbox there belonged to a drill that is dead, and
 *		removes it, unless it was to be kept.
 *	Z3	The sandbox's server doesn't outlive the process that started it.  A process
 *		is ended by us only when it works inside of the sandbox and runs
 *		a program of PostgreSQL's or this one.
 *	Z4	The sandbox's server acts on nothing outside: what could make it do so is set
 *		on its command line, which no file and no ALTER SYSTEM overrules.
 *	Z5	It can be reached by a socket in the sandbox alone.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_SANDBOX_H
#define PGDR_SANDBOX_H

#include <sys/types.h>

#include "core/bytes.h"
#include "core/error.h"

/* ---- sandbox.c: the directory ---- */

typedef struct Sandbox
{
	char	   *directory;		/* that drills share; real path */
	char	   *path;			/* of this one; NULL: not made */
	char	   *pgdata;
	char	   *tablespaces;
	int			lock;			/* -1: not held */
} Sandbox;

/*
 * Take the lock, remove what dead drills left, make the directory.  It must not
 * lie inside of data_directory (NULL: not known).
 */
extern bool sandbox_create(Sandbox *s, const char *directory, const char *id,
						   const char *data_directory, DrError *err);

/* A path inside; malloc'd. */
extern char *sandbox_path(const Sandbox *s, const char *name);

/* It stays when the drill is over, and nobody removes it. */
extern bool sandbox_keep(Sandbox *s, DrError *err);

/* End every process inside, remove shared memory and directory; unless it is kept, then only the former. */
extern bool sandbox_remove(Sandbox *s, bool keep, DrError *err);

/* Let go of the lock. */
extern void sandbox_close(Sandbox *s);

/* Remove what dead drills left; *busy: a drill is at work there, so nothing was done. */
extern bool sandbox_sweep(const char *directory, bool *busy, int *removed, DrError *err);

/* ---- sandbox_process.c: programs that run in it ---- */

/*
 * Start a program of PostgreSQL's, found beside this one, in the sandbox's data
 * directory, its output into a file.  It dies by this signal when we do.
 * pass_fd, if not -1, becomes its descriptor 3.
 */
extern bool process_start(const Sandbox *s, char *const *argv, const char *output, int death_signal,
						  int pass_fd, const char *options, pid_t *pid, DrError *err);

/* The path of such a program, malloc'd; NULL and err. */
extern char *process_program(const char *program, DrError *err);

/* Wait for its end; timeout_ms -1: as long as it takes.  False: it runs still. */
extern bool process_wait(pid_t pid, int timeout_ms, int *status);

/* No process works inside of the directory any more. */
extern bool processes_end(const char *directory, DrError *err);

/* ---- sandbox_server.c: the throw-away server ---- */

typedef struct SandboxServer
{
	const Sandbox *box;
	uint64		memory;			/* bytes that it may use, about */
	const char *preload;		/* shared_preload_libraries */
	const char *user;			/* superuser to connect as; NULL: the usual ones */
	const char *id;				/* of the drill */
	pid_t		pid;			/* 0: not running */
	int			socket_dir;		/* descriptor; -1: none */
	int64		redo_done;		/* monotonic; 0: not yet */
} SandboxServer;

/* control: the bytes of pg_control. */
extern bool server_start(SandboxServer *v, const Bytes *control, DrError *err);

/* Until it takes connections. */
extern bool server_wait_ready(SandboxServer *v, DrError *err);

/* Cleanly, so that its files can be checked. */
extern bool server_stop(SandboxServer *v, DrError *err);

/* At once, when something has gone wrong. */
extern void server_stop_now(SandboxServer *v);

/* Options for connections: what roles and databases set is overruled. */
extern const char *server_connection_options(void);

#define SANDBOX_PORT		"65432"
#define SANDBOX_LOG			"server.log"

#endif							/* PGDR_SANDBOX_H */
