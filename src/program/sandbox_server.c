/*
 * sandbox_server.c
 *	  The throw-away server of a drill: how it is made harmless, started, stopped.
 *
 * One idea: it runs with the restored configuration, as the real one would
 * after a disaster, and its command line overrules whatever in that could act,
 * wait, or take more than its share (Z4): the lists below, of settings of
 * PostgreSQL 15 to 18.
 *
 * Recovery runs without hot standby: then the server needs none of the primary's
 * connections, workers and senders, whatever WAL says of them meanwhile.
 *
 * A crash leaves nothing that runs (Z3).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/sandbox.h"

#include <fcntl.h>
#include <libpq-fe.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "catalog/pg_control.h"
#include "core/names.h"
#include "utils/pidfile.h"

#define NAP_US				20000
#define STOP_MS				(15 * 60 * 1000)	/* its last checkpoint writes what recovery left in memory */
#define STOP_NOW_MS			8000
#define MAX_ARGUMENTS		256
#define PREPARED_AT_LEAST	64
#define LOCKS_AT_LEAST		128
#define CONNECTIONS			"24"

/* ---- Z4: what is overruled ---- */

static const char *const harmless[] = {
	/* nobody is listened to but by the socket */
	"listen_addresses=", "port=" SANDBOX_PORT, "unix_socket_directories=../socket", "unix_socket_permissions=0700",
	"unix_socket_group=", "bonjour=off", "ssl=off",
	/* nothing is archived, sent, received, or said to a standby */
	"archive_mode=off", "archive_command=", "archive_library=", "archive_cleanup_command=", "recovery_end_command=",
	"primary_conninfo=", "primary_slot_name=", "max_wal_senders=0", "synchronous_standby_names=", "hot_standby=off",
	"wal_level=replica", "max_logical_replication_workers=0",
#if PG_VERSION_NUM < 160000
	"promote_trigger_file=",
#endif
#if PG_VERSION_NUM >= 170000
	"event_triggers=off", "sync_replication_slots=off", "synchronized_standby_slots=", "summarize_wal=off",
#endif
	/* no library is loaded that nobody asked for; ours would find no repository */
	"session_preload_libraries=", "local_preload_libraries=", "jit=off", "pg_dr.repositories=",
	"pg_dr.encryption_key_file=", "pg_dr.wal_ship_interval=0", "pg_dr.change_map=off",
	/* nothing begins by itself, nothing comes back by itself */
	"autovacuum=off", "restart_after_crash=off",
	/* the log is ours to read */
	"logging_collector=off", "log_destination=stderr", "log_min_messages=warning", "log_line_prefix=%m [%p] ",
	"log_timezone=UTC", "lc_messages=C", "log_statement=none", "log_min_duration_statement=-1",
	"log_error_verbosity=default", "log_statement_stats=off",
	/* what a killed server leaves lies in the sandbox */
	"dynamic_shared_memory_type=mmap", "shared_memory_type=mmap", "huge_pages=off", "min_dynamic_shared_memory=0",
	/* its share */
	"max_connections=" CONNECTIONS, "superuser_reserved_connections=3", "max_worker_processes=8",
#if PG_VERSION_NUM >= 160000
	"reserved_connections=0",
#endif
	"max_parallel_workers_per_gather=0", "max_parallel_maintenance_workers=0", "wal_buffers=-1",
	"work_mem=4MB", "temp_buffers=8MB", "hash_mem_multiplier=1", "logical_decoding_work_mem=4MB",
	/* damage is to be found, not to be passed over */
	"ignore_checksum_failure=off", "zero_damaged_pages=off", "ignore_invalid_pages=off", "ignore_system_indexes=off",
	NULL
};

/* The same for what roles and databases can have of their own. */
const char *
server_connection_options(void)
{
	return "-c session_preload_libraries= -c local_preload_libraries= -c jit=off "
		"-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=1min "
		"-c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0 "
		"-c work_mem=4MB -c max_parallel_workers_per_gather=0 -c max_parallel_maintenance_workers=0 "
		"-c zero_damaged_pages=off -c ignore_checksum_failure=off -c ignore_system_indexes=off "
#if PG_VERSION_NUM >= 170000
		"-c event_triggers=off -c transaction_timeout=0 "
#endif
		"-c lc_messages=C -c client_min_messages=warning -c log_statement=none";
}

/* ---- the command line ---- */

typedef struct CommandLine
{
	char	   *v[MAX_ARGUMENTS];
	int			n;
} CommandLine;

static void
add_setting(CommandLine *c, char *setting)
{
	Assert(c->n + 3 < MAX_ARGUMENTS);
	c->v[c->n++] = "-c";
	c->v[c->n++] = setting;
	c->v[c->n] = NULL;
}

static void
make_command_line(const SandboxServer *v, const Bytes *control, char *program, CommandLine *c)
{
	const Sandbox *box = v->box;
	uint64		kb = v->memory / 1024;
	ControlFileData file;

	memcpy(&file, control->data, Min(control->len, sizeof(file)));
	c->n = 0;
	c->v[c->n++] = program;
	c->v[c->n++] = "-D";
	c->v[c->n++] = box->pgdata;
	for (int i = 0; harmless[i] != NULL; i++)
		add_setting(c, (char *) harmless[i]);
	/* A restored configuration may name the place that it was in, and that would win over -D. */
	add_setting(c, psprintf("data_directory=%s", box->pgdata));
	add_setting(c, psprintf("hba_file=%s/pg_hba.conf", box->path));
	add_setting(c, psprintf("ident_file=%s/pg_ident.conf", box->path));
	add_setting(c, psprintf("external_pid_file=%s/server.pid", box->path));
	add_setting(c, psprintf("cluster_name=pg_dr drill %.40s", v->id));
	add_setting(c, psprintf("shared_preload_libraries=%s", v->preload));
	add_setting(c, psprintf("shared_buffers=" UINT64_FORMAT "kB", Max(kb / 2, 1024)));
	add_setting(c, psprintf("maintenance_work_mem=" UINT64_FORMAT "kB", Max(kb / 8, 4096)));

	/* Transactions that were prepared come back, with their locks. */
	add_setting(c, psprintf("max_prepared_transactions=%d", Max(file.max_prepared_xacts, PREPARED_AT_LEAST)));
	add_setting(c, psprintf("max_locks_per_transaction=%d", Max(file.max_locks_per_xact, LOCKS_AT_LEAST)));
}

/* ---- files beside it ---- */

static bool
write_small_file(const Sandbox *s, const char *name, const char *text, mode_t mode, DrError *err)
{
	char	   *path = sandbox_path(s, name);
	int			fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
	bool		ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t) strlen(text);

	if (!ok)
		dr_error(err, DR_IO, "could not write \"%s\": %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	pfree(path);
	return ok;
}

static void
append(Bytes *b, const char *text)
{
	bytes_append(b, text, strlen(text));
}

/* For somebody who looks into a sandbox that was kept: the same server again, as harmless. */
static bool
write_start_script(const Sandbox *s, const CommandLine *c, DrError *err)
{
	Bytes		text = {0};
	bool		ok;

	append(&text, "#!/bin/sh\n# Starts this drill's server again: psql -h ");
	append(&text, s->path);
	append(&text, "/socket -p " SANDBOX_PORT "\nexec");
	for (int i = 0; i < c->n; i++)
	{
		append(&text, " '");
		for (const char *p = c->v[i]; *p != '\0'; p++)
			append(&text, *p == '\'' ? "'\\''" : (char[]) {*p, '\0'});
		append(&text, "'");
	}
	append(&text, "\n");
	bytes_append(&text, "", 1);
	ok = write_small_file(s, "start", (char *) text.data, 0700, err);
	bytes_free(&text);
	return ok;
}

/* The restored configuration may have another name. */
static bool
write_files(const Sandbox *s, const CommandLine *c, DrError *err)
{
	char	   *conf = sandbox_path(s, "data/postgresql.conf");
	bool		ok = access(conf, F_OK) == 0 || write_small_file(s, "data/postgresql.conf", "", 0600, err);

	pfree(conf);
	return ok &&
		write_small_file(s, "pg_hba.conf", "local all all trust\n", 0600, err) &&
		write_small_file(s, "pg_ident.conf", "", 0600, err) &&
		write_start_script(s, c, err);
}

/* ---- its log ---- */

static bool
is_telling(const char *line)
{
	return strstr(line, "FATAL:  ") || strstr(line, "PANIC:  ") || strstr(line, "pg_dr: error: ") ||
		strstr(line, "DETAIL:  ") || strstr(line, "HINT:  ");
}

/* The first words of trouble: what comes after them is mostly their consequence. */
static void
tell_trouble(const Sandbox *s, DrError *err)
{
	char	   *path = sandbox_path(s, SANDBOX_LOG);
	FILE	   *log = fopen(path, "r");
	char		line[1024];
	char		last[1024] = "";
	char		detail[sizeof(err->detail)] = "";

	while (log != NULL && fgets(line, sizeof(line), log) != NULL)
	{
		size_t		used = strlen(detail);

		line[strcspn(line, "\n")] = '\0';
		strlcpy(last, line, sizeof(last));
		if (is_telling(line))
			snprintf(detail + used, sizeof(detail) - used, "%s%s", used ? " / " : "", line);
	}
	if (log != NULL)
		fclose(log);
	pfree(path);
	dr_detail(err, "%s", detail[0] ? detail : last);
}

/* Has it come to the end of the WAL?  Looks from where it looked last. */
static void
follow_log(SandboxServer *v, FILE *log)
{
	char		line[1024];
	long		at;

	clearerr(log);
	while (v->redo_done == 0 && (at = ftell(log)) >= 0 && fgets(line, sizeof(line), log) != NULL)
	{
		if (strchr(line, '\n') == NULL && strlen(line) < sizeof(line) - 1)
		{
			fseek(log, at, SEEK_SET);	/* the rest is not written yet */
			return;
		}
		if (strstr(line, "LOG:  redo done at ") != NULL || strstr(line, "LOG:  redo is not required") != NULL)
			v->redo_done = monotonic_now();
	}
}

/* ---- life ---- */

bool
server_start(SandboxServer *v, const Bytes *control, DrError *err)
{
	CommandLine c;
	char	   *socket_dir = sandbox_path(v->box, "socket");
	char	   *program;
	bool		ok;

	v->socket_dir = open(socket_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	pfree(socket_dir);
	if (v->socket_dir < 0)
		return dr_error(err, DR_IO, "could not open the sandbox's socket directory: %s", strerror(errno));
	program = process_program("postgres", err);
	if (program == NULL)
		return false;
	make_command_line(v, control, program, &c);

	/* To stop at once, without a checkpoint, but to remove its shared memory. */
	ok = write_files(v->box, &c, err) &&
		process_start(v->box, c.v, SANDBOX_LOG, SIGQUIT, -1, NULL, &v->pid, err);
	if (!ok)
		v->pid = 0;
	return ok;
}

static bool
is_ready(const char *pid_file)
{
	FILE	   *file = fopen(pid_file, "r");
	char		line[MAXPGPATH];
	bool		ready = false;

	for (int i = 1; file != NULL && fgets(line, sizeof(line), file) != NULL; i++)
		ready = i == LOCK_FILE_LINE_PM_STATUS && strncmp(line, PM_STATUS_READY, strlen(PM_STATUS_READY)) == 0;
	if (file != NULL)
		fclose(file);
	return ready;
}

bool
server_wait_ready(SandboxServer *v, DrError *err)
{
	char	   *pid_file = sandbox_path(v->box, "data/postmaster.pid");
	char	   *log_path = sandbox_path(v->box, SANDBOX_LOG);
	FILE	   *log = fopen(log_path, "r");
	int			status;
	bool		ended = false;

	while (!ended && !is_ready(pid_file))
	{
		ended = process_wait(v->pid, 0, &status);
		if (log != NULL)
			follow_log(v, log);
		usleep(NAP_US);
	}
	if (log != NULL)
	{
		follow_log(v, log);
		fclose(log);
	}
	if (v->redo_done == 0)
		v->redo_done = monotonic_now();
	pfree(pid_file);
	pfree(log_path);
	if (!ended)
		return true;
	v->pid = 0;
	dr_error(err, DR_DAMAGED, "the restored server did not come up");
	tell_trouble(v->box, err);
	return false;
}

bool
server_stop(SandboxServer *v, DrError *err)
{
	int			status;
	bool		ended;

	if (v->pid == 0)
		return true;
	kill(v->pid, SIGINT);
	ended = process_wait(v->pid, STOP_MS, &status);
	if (ended)
		v->pid = 0;
	if (ended && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	dr_error(err, DR_DAMAGED, "the restored server did not stop cleanly");
	tell_trouble(v->box, err);
	return false;
}

void
server_stop_now(SandboxServer *v)
{
	int			status;

	kill(v->pid, SIGQUIT);
	if (process_wait(v->pid, STOP_NOW_MS, &status))
		v->pid = 0;				/* else sandbox_remove sees to it */
}
