/*
 * drill_checks.c
 *	  What a drill asks of the server that it restored.
 *
 * One idea: a check says ok only for what it has seen.  What could not be asked
 * has failed; what there is nothing to ask with is said to be skipped.
 *
 * A crash leaves a sandbox (sandbox.c).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/drill_checks.h"

#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/names.h"
#include "program/agent.h"

#define DETAIL_MAX		1000
#define OUTPUT_LINES	10

void
checks_note(DrillChecks *c, const char *name, const char *verdict, const char *detail, int64 since)
{
	char		cut[DETAIL_MAX + 1];

	strlcpy(cut, detail, sizeof(cut));
	json_array_append_new(c->results, json_pack("{s:o, s:s, s:o, s:I}", "name", json_lossy(name), "verdict", verdict,
												"detail", json_lossy(cut), "ms", (json_int_t) ((monotonic_now() - since) / 1000)));
	if (strcmp(verdict, "failed") != 0)
		return;
	if (c->failed++ == 0)
		snprintf(c->first_failed, sizeof(c->first_failed), "%.100s: %.140s", name, cut);
}

/* ---- connections ---- */

static PGconn *
connect_as(const DrillChecks *c, const char *user, const char *database)
{
	char		host[64];
	const char *const keywords[] = {"host", "port", "user", "dbname", "options", "application_name", "sslmode",
	"gssencmode", "client_encoding", "connect_timeout", NULL};
	const char *const values[] = {host, SANDBOX_PORT, user, database, server_connection_options(), "pg_dr drill", "disable",
	"disable", "UTF8", "60", NULL};

	/* By way of /proc, because a socket's path must be short. */
	snprintf(host, sizeof(host), "/proc/self/fd/%d", c->server->socket_dir);
	return PQconnectdbParams(keywords, values, 0);
}

static void
ignore_notice(void *arg, const char *message)
{
}

/* The first column of the only row, malloc'd; NULL and *why, or NULL and an empty why for null. */
static char *
ask(PGconn *conn, const char *sql, char *why, size_t size)
{
	PGresult   *r = PQexec(conn, sql);
	char	   *text = NULL;

	why[0] = '\0';
	if (PQresultStatus(r) != PGRES_TUPLES_OK)
		strlcpy(why, PQresultStatus(r) == PGRES_COMMAND_OK ? "it returns no row" : PQerrorMessage(conn), size);
	else if (PQntuples(r) != 1 || PQnfields(r) < 1)
		snprintf(why, size, "it returns %d rows, not one", PQntuples(r));
	else if (!PQgetisnull(r, 0, 0))
		text = pg_strdup(PQgetvalue(r, 0, 0));
	for (size_t n = strlen(why); n > 0 && why[n - 1] == '\n'; n--)
		why[n - 1] = '\0';
	PQclear(r);
	return text;
}

static int64
ask_time(PGconn *conn, const char *sql)
{
	char		why[DETAIL_MAX];
	char	   *text = ask(conn, sql, why, sizeof(why));
	int64		us = text ? strtoll(text, NULL, 10) : 0;

	free(text);
	return us;
}

/* Are we somebody who may ask everything? */
static bool
try_connect(DrillChecks *c, const char *user, const char *database, DrError *err)
{
	PGconn	   *conn = connect_as(c, user, database);
	const char *superuser = PQstatus(conn) == CONNECTION_OK ? PQparameterStatus(conn, "is_superuser") : NULL;
	bool		ok = superuser != NULL && strcmp(superuser, "on") == 0;

	if (ok)
	{
		c->user = user;
		c->database = database;
		c->last_commit = ask_time(conn, "SELECT (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint");
	}
	else
	{
		dr_error(err, DR_CONFIG, "could not connect to the restored server as superuser \"%s\"", user);
		dr_detail(err, "%s", superuser ? "The role is no superuser." : PQerrorMessage(conn));
		dr_hint(err, "The server's bootstrap superuser is taken; to pg_dr drill, say --username.");
	}
	PQfinish(conn);
	return ok;
}

/* Whoever and whatever of the usual ones is there. */
bool
checks_connect(DrillChecks *c, DrError *err)
{
	struct passwd *me = getpwuid(geteuid());
	const char *const users[] = {c->server->user, "postgres", me ? me->pw_name : NULL};
	const char *const databases[] = {"postgres", "template1", c->heartbeat_database};

	for (int u = 0; u < (int) lengthof(users); u++)
		for (int d = 0; d < (int) lengthof(databases); d++)
			if (users[u] != NULL && databases[d] != NULL && try_connect(c, users[u], databases[d], err))
				return true;
	return false;
}

/* ---- databases ---- */

typedef struct Databases
{
	char	  **names;
	int			n;
} Databases;

static bool
list_databases(const DrillChecks *c, Databases *d, char *why, size_t size)
{
	PGconn	   *conn = connect_as(c, c->user, c->database);
	PGresult   *r = PQexec(conn, "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1");
	bool		ok = PQresultStatus(r) == PGRES_TUPLES_OK;

	if (!ok)
		strlcpy(why, PQerrorMessage(conn), size);
	d->n = ok ? PQntuples(r) : 0;
	d->names = pg_malloc(sizeof(char *) * (d->n + 1));
	for (int i = 0; i < d->n; i++)
		d->names[i] = pg_strdup(PQgetvalue(r, i, 0));
	PQclear(r);
	PQfinish(conn);
	return ok;
}

/* Row types and toast included: every row of the catalogue that names a relation. */
static void
check_databases(DrillChecks *c, const Databases *d)
{
	int64		since = monotonic_now();
	char		detail[DETAIL_MAX];
	char		why[DETAIL_MAX / 2] = "";

	snprintf(detail, sizeof(detail), "%d databases take connections and queries", d->n);
	for (int i = 0; i < d->n && why[0] == '\0'; i++)
	{
		PGconn	   *conn = connect_as(c, c->user, d->names[i]);

		free(ask(conn, "SELECT count(pg_relation_size(oid)) FROM pg_catalog.pg_class", why, sizeof(why)));
		if (why[0] != '\0')
			snprintf(detail, sizeof(detail), "database \"%s\": %s", d->names[i], why);
		PQfinish(conn);
	}
	checks_note(c, "queries", why[0] == '\0' ? "ok" : "failed", detail, since);
}

/* The newest heartbeat, wherever the catalogue is. */
static void
look_for_heartbeat(DrillChecks *c, const Databases *d)
{
	for (int i = 0; i < d->n; i++)
	{
		PGconn	   *conn;

		if (c->heartbeat_database != NULL && strcmp(c->heartbeat_database, d->names[i]) != 0)
			continue;
		conn = connect_as(c, c->user, d->names[i]);
		PQsetNoticeProcessor(conn, ignore_notice, NULL);
		if (ask_time(conn, "SELECT count(pg_catalog.to_regclass('dr.heartbeat'))") == 1)
			c->heartbeat = Max(c->heartbeat,
							   ask_time(conn, "SELECT (extract(epoch FROM max(at)) * 1000000)::bigint FROM dr.heartbeat"));
		PQfinish(conn);
	}
}

/* ---- programs ---- */

/* The first lines of what it said. */
static void
read_output(const Sandbox *s, const char *name, char *out, size_t size)
{
	char	   *path = sandbox_path(s, name);
	FILE	   *file = fopen(path, "r");
	char		line[512];

	out[0] = '\0';
	for (int i = 0; i < OUTPUT_LINES && file != NULL && fgets(line, sizeof(line), file) != NULL; i++)
		strlcat(out, line, size);
	for (size_t n = strlen(out); n > 0 && out[n - 1] == '\n'; n--)
		out[n - 1] = '\0';
	if (file != NULL)
		fclose(file);
	pfree(path);
}

/* With status 0 it is ok. */
static void
run_program(DrillChecks *c, const char *name, char *const *argv, int pass_fd, const char *good)
{
	int64		since = monotonic_now();
	char	   *output = psprintf("%s.out", argv[0]);
	char		detail[DETAIL_MAX];
	DrError		err;
	pid_t		pid;
	int			status;

	if (!process_start(c->server->box, argv, output, SIGKILL, pass_fd, server_connection_options(), &pid, &err))
		checks_note(c, name, "failed", err.message, since);
	else
	{
		process_wait(pid, -1, &status);
		read_output(c->server->box, output, detail, sizeof(detail));
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
			checks_note(c, name, "ok", good, since);
		else
			checks_note(c, name, "failed", detail[0] ? detail : "it ended without a word", since);
	}
	pfree(output);
}

static void
check_amcheck(DrillChecks *c)
{
	PGconn	   *conn = connect_as(c, c->user, c->database);
	char		why[DETAIL_MAX];
	char		jobs[16];
	char	   *available = ask(conn, "SELECT count(*) FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'",
								why, sizeof(why));
	char	   *argv[] = {"pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--no-password",
	"--host=/proc/self/fd/3", "--port=" SANDBOX_PORT, "--username", (char *) c->user, "--maintenance-db", (char *) c->database,
	"--jobs", jobs, NULL};

	PQfinish(conn);
	snprintf(jobs, sizeof(jobs), "%d", c->jobs);
	if (!c->amcheck)
		checks_note(c, "amcheck", "skipped", "it was not wanted", monotonic_now());
	else if (available != NULL && strcmp(available, "0") == 0)
		checks_note(c, "amcheck", "skipped", "extension amcheck is not installed on this host", monotonic_now());
	else
		run_program(c, "amcheck", argv, c->server->socket_dir, "pg_amcheck with heapallindexed found nothing in any database");
	free(available);
}

/* ---- the DBA's own ---- */

static void
check_assertion(DrillChecks *c, const DrillAssertion *a)
{
	int64		since = monotonic_now();
	PGconn	   *conn = connect_as(c, c->user, a->database);
	char	   *name = psprintf("assertion %s", a->name);
	char		why[DETAIL_MAX];
	char		detail[DETAIL_MAX];
	char	   *got;
	bool		ok;

	PQsetNoticeProcessor(conn, ignore_notice, NULL);
	got = ask(conn, a->sql, why, sizeof(why));
	ok = why[0] == '\0' &&
		(got == NULL ? a->expected == NULL : a->expected != NULL && strcmp(got, a->expected) == 0);
	if (why[0] != '\0')
		strlcpy(detail, why, sizeof(detail));
	else if (ok)
		snprintf(detail, sizeof(detail), "%.300s", got ? got : "null");
	else
		snprintf(detail, sizeof(detail), "it is \"%.300s\", not \"%.300s\"", got ? got : "null",
				 a->expected ? a->expected : "null");
	checks_note(c, name, ok ? "ok" : "failed", detail, since);
	free(got);
	pfree(name);
	PQfinish(conn);
}

/* ---- all of them ---- */

void
checks_running(DrillChecks *c)
{
	int64		since = monotonic_now();
	char		why[DETAIL_MAX];
	Databases	d;

	if (list_databases(c, &d, why, sizeof(why)))
	{
		check_databases(c, &d);
		look_for_heartbeat(c, &d);
	}
	else
		checks_note(c, "queries", "failed", why, since);
	for (int i = 0; i < d.n; i++)
		free(d.names[i]);
	free(d.names);
	check_amcheck(c);
	for (int i = 0; i < c->n_assertions; i++)
		check_assertion(c, &c->assertions[i]);
}

void
checks_stopped(DrillChecks *c)
{
	char	   *argv[] = {"pg_checksums", "--check", "-D", c->server->box->pgdata, NULL};

	run_program(c, "checksums", argv, -1, "pg_checksums found nothing");
}
