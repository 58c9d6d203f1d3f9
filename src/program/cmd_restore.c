/*
 * cmd_restore.c
 *	  pg_dr restore: from repository and key alone to a directory that a plain
 *	  pg_ctl start recovers.
 *
 * Plan first, say what will be done, then write; pg_control is the last file.
 * With --delta, into another state of the same cluster: only what differs.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres_fe.h"

#include <getopt.h>
#include <unistd.h>

#include "core/step.h"
#include "program/commands.h"
#include "program/recovery_conf.h"
#include "program/report.h"
#include "program/restore_situation.h"

/* It stays where it is. */
static void
print_linked_wal(const Situation *s)
{
	char	   *path = psprintf("%s/pg_wal", s->restore.pgdata);
	char		to[MAXPGPATH];
	ssize_t		n = s->restore.delta ? readlink(path, to, sizeof(to)) : -1;

	if (n >= 0)
		printf("  pg_wal      \"%.*s\", to be emptied\n", (int) n, to);
	pfree(path);
}

static void
print_plan(const Situation *s, const RestoreOptions *o)
{
	const BackupInfo *b = s->plan.backup;
	const char *kind = target_kind_name(o->target.kind);
	char		host[256] = "";
	char		size[32];
	char		stored[32];
	char		when[TIME_TEXT_MAX];
	char		frontier[LSN_TEXT_MAX];

	gethostname(host, sizeof(host) - 1);
	format_size(b->bytes, size);
	format_size(b->bytes_stored, stored);
	time_format(when, b->stopped_at);
	lsn_format(frontier, s->plan.end);
	printf("Restore on host %s\n", host);
	printf("  cluster     %s (PostgreSQL %d, from host %s, \"%s\")\n", b->system_identifier,
		   b->server_version_num / 10000, b->host ? b->host : "?", b->data_directory);
	printf("  backup      %s, ended %s, %s (%s stored)%s\n", b->id, when, size, stored,
		   b->corrupt_pages > 0 ? ", HOLDS CORRUPT PAGES" : "");
	if (b->parent != NULL)
	{
		format_size(b->restore_bytes, size);
		printf("  parent      %s; with what is taken from it, about %s are fetched in " UINT64_FORMAT " requests\n",
			   b->parent, size, b->restore_requests);
	}
	printf("  recovery    %s%s%s, timeline %u; WAL is archived to %s (%s)\n",
		   kind ? "to " : "to the end of archived WAL", kind ? kind : "",
		   o->target.text ? psprintf(" %s", o->target.text) : "", s->plan.timeline, frontier, s->plan.last_segment);
	printf("  into        \"%s\"%s\n", s->restore.pgdata,
		   s->restore.delta ? ", as far as it differs; WHAT IS NOT IN THE BACKUP IS REMOVED THERE" : "");
	print_linked_wal(s);
	for (int i = 0; i < s->restore.n_tablespaces; i++)
		printf("  tablespace  \"%s\" into \"%s\"\n", s->restore.tablespaces[i].from, s->restore.tablespaces[i].to);
	fflush(stdout);
}

static void
on_progress(void *arg, uint64 done, uint64 total)
{
	Situation  *s = arg;

	report_progress("restoring", done, total, s->started, done >= total);
}

static void
on_warning(void *arg, const char *text)
{
	report_warning("%s", text);
}

static bool
execute(Situation *s, const RestoreOptions *o, DrError *err)
{
	RecoveryOptions r = {&o->access, &o->target, &s->plan, o->action, o->config_dir, o->standby};
	Bytes		control = {0};
	bool		ok;

	if (!recovery_check(&s->restore, &r, err))
		return false;
	print_plan(s, o);
	step_reached("restore.planned");
	s->started = time_now();
	s->restore.progress = on_progress;
	s->restore.warning = on_warning;
	s->restore.arg = s;
	ok = restore_files(&s->restore, &control, err) &&
		recovery_write(&s->restore, &r, err) &&
		restore_sync(&s->restore, err);
	if (ok)
		step_reached("restore.files");
	ok = ok && restore_control(&s->restore, &control, err);
	bytes_free(&control);
	return ok;
}

static void
print_done(const Situation *s, const RestoreOptions *o)
{
	if (s->restore.delta)
		printf("Rewritten: " UINT64_FORMAT " of " UINT64_FORMAT " bytes; the others were the same.\n",
			   s->restore.rewritten, s->restore.manifest.info.bytes);
	printf("Restored in %.1f s. Start it with:\n  pg_ctl -D '%s' start\n",
		   (time_now() - s->started) / 1e6, s->restore.pgdata);
	if (s->restore.config_files > 0)
		printf("Configuration files are in \"%s\".\n", o->config_dir ? o->config_dir : s->restore.pgdata);
	printf("Its WAL is not archived until it is adopted: SELECT dr_adopt();\n");
}

static char *
absolute_path(const char *path)
{
	char		cwd[MAXPGPATH];
	char	   *out;

	if (path[0] == '/' || getcwd(cwd, sizeof(cwd)) == NULL)
		out = pg_strdup(path);
	else
		out = psprintf("%s/%s", cwd, path);
	canonicalize_path(out);
	return out;
}

static int
restore(RestoreOptions *o)
{
	Situation	s = {0};
	DrError		err;
	bool		ok;

	o->pgdata = absolute_path(o->pgdata);
	if (strcmp(o->access.key_file, "none") != 0)
		o->access.key_file = absolute_path(o->access.key_file);
	if (o->access.credentials_file != NULL)
		o->access.credentials_file = absolute_path(o->access.credentials_file);
	if (o->config_dir != NULL)
		o->config_dir = absolute_path(o->config_dir);
	ok = situation_make(&s, o, &err) && execute(&s, o, &err);
	if (ok)
		print_done(&s, o);
	else
		report_error(&err);
	return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- arguments ---- */

enum
{
	OPT_PGDATA = OPT_COMMAND,
	OPT_BACKUP,
	OPT_TIME,
	OPT_LSN,
	OPT_XID,
	OPT_NAME,
	OPT_IMMEDIATE,
	OPT_EXCLUSIVE,
	OPT_TIMELINE,
	OPT_ACTION,
	OPT_TABLESPACE,
	OPT_CONFIG_DIR,
	OPT_STANDBY,
	OPT_DELTA,
	OPT_JOBS
};

static const struct option options[] = {
	ACCESS_OPTIONS,
	{"pgdata", required_argument, NULL, OPT_PGDATA},
	{"backup", required_argument, NULL, OPT_BACKUP},
	{"target-time", required_argument, NULL, OPT_TIME},
	{"target-lsn", required_argument, NULL, OPT_LSN},
	{"target-xid", required_argument, NULL, OPT_XID},
	{"target-name", required_argument, NULL, OPT_NAME},
	{"target-immediate", no_argument, NULL, OPT_IMMEDIATE},
	{"target-exclusive", no_argument, NULL, OPT_EXCLUSIVE},
	{"target-timeline", required_argument, NULL, OPT_TIMELINE},
	{"target-action", required_argument, NULL, OPT_ACTION},
	{"tablespace", required_argument, NULL, OPT_TABLESPACE},
	{"config-dir", required_argument, NULL, OPT_CONFIG_DIR},
	{"standby", no_argument, NULL, OPT_STANDBY},
	{"delta", no_argument, NULL, OPT_DELTA},
	{"jobs", required_argument, NULL, OPT_JOBS},
	{NULL, 0, NULL, 0}
};

static bool
set_target(RestoreOptions *o, TargetKind kind, const char *text, DrError *err)
{
	if (o->target.kind != TARGET_END)
		return dr_error(err, DR_CONFIG, "only one recovery target can be given");
	return target_parse(&o->target, kind, text, err);
}

static bool
set_option(RestoreOptions *o, int c, const char *value, DrError *err)
{
	switch (c)
	{
		case OPT_PGDATA:
			o->pgdata = value;
			return true;
		case OPT_BACKUP:
			o->backup = value;
			return backup_id_valid(value) || dr_error(err, DR_CONFIG, "\"%s\" is not a backup's id", value);
		case OPT_TIME:
			return set_target(o, TARGET_TIME, value, err);
		case OPT_LSN:
			return set_target(o, TARGET_LSN, value, err);
		case OPT_XID:
			return set_target(o, TARGET_XID, value, err);
		case OPT_NAME:
			return set_target(o, TARGET_NAME, value, err);
		case OPT_IMMEDIATE:
			return set_target(o, TARGET_IMMEDIATE, NULL, err);
		case OPT_EXCLUSIVE:
			o->target.exclusive = true;
			return true;
		case OPT_TIMELINE:
			o->timeline = value;
			return true;
		case OPT_ACTION:
			o->action = value;
			return strcmp(value, "pause") == 0 || strcmp(value, "promote") == 0 || strcmp(value, "shutdown") == 0 ||
				dr_error(err, DR_CONFIG, "\"%s\" is not a target action: pause, promote or shutdown", value);
		case OPT_TABLESPACE:
			if (o->n_mappings == MAX_MAPPINGS)
				return dr_error(err, DR_CONFIG, "too many --tablespace options");
			o->mappings[o->n_mappings++] = value;
			return true;
		case OPT_CONFIG_DIR:
			o->config_dir = value;
			return true;
		case OPT_STANDBY:
			o->standby = true;
			return true;
		case OPT_DELTA:
			o->delta = true;
			return true;
		case OPT_JOBS:
			o->jobs = atoi(value);
			return (o->jobs >= 1 && o->jobs <= 64) || dr_error(err, DR_CONFIG, "--jobs must be between 1 and 64");
		default:
			return access_option(&o->access, c, value) || dr_error(err, DR_CONFIG, "unknown option");
	}
}

static bool
check_options(const RestoreOptions *o, DrError *err)
{
	const char *missing = access_missing(&o->access);

	if (missing != NULL)
		return dr_error(err, DR_CONFIG, "%s", missing);
	if (o->pgdata == NULL)
		return dr_error(err, DR_CONFIG, "--pgdata is required");
	if (o->standby && o->target.kind != TARGET_END)
		return dr_error(err, DR_CONFIG, "a standby has no recovery target");
	if (o->action != NULL && o->target.kind == TARGET_END)
		return dr_error(err, DR_CONFIG, "--target-action needs a recovery target");
	if (geteuid() == 0)
	{
		dr_error(err, DR_CONFIG, "pg_dr restore can't be run as root");
		return dr_hint(err, "Run it as the user that is to run the server.");
	}
	return true;
}

int
restore_main(int argc, char **argv)
{
	RestoreOptions o = {.jobs = 2};
	DrError		err;
	int			c;

	step_hold_at(getenv("PG_DR_HOLD_AT") ? getenv("PG_DR_HOLD_AT") : "", announce_held);
	opterr = 0;					/* we say it ourselves */
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		if (c == '?')
			return usage_error("restore", "option \"%s\" is unknown or lacks its value", argv[optind - 1]);
		if (!set_option(&o, c, optarg, &err))
		{
			report_error(&err);
			return EXIT_FAILURE;
		}
	}
	if (optind < argc)
		return usage_error("restore", "unexpected argument \"%s\"", argv[optind]);
	if (!check_options(&o, &err))
	{
		report_error(&err);
		return EXIT_FAILURE;
	}
	return restore(&o);
}
