/*
 * cmd_drill.c
 *	  pg_dr drill: a drill without a server, and its report.
 *
 * One idea: the drill runs in a process of its own.  Whoever interrupts the
 * command ends that one, with everything that it started, and what it leaves is
 * removed by the process that waited for it.
 *
 * A crash leaves a sandbox in which nothing runs; the next drill removes it.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres_fe.h"

#include <getopt.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/step.h"
#include "program/commands.h"
#include "program/drill.h"
#include "program/report.h"

#define DEFAULT_MEMORY	(UINT64CONST(256) << 20)

static volatile pid_t worker;

/* ---- the report ---- */

static void
print_time(const char *what, int64 us)
{
	if (us >= 0)
		printf("  %-12s%.3f s\n", what, us / 1e6);
}

static void
print_objective(const char *what, int64 us, int64 objective, bool missed)
{
	char		measured[32] = "unknown";

	if (us >= 0)
		snprintf(measured, sizeof(measured), "%.3f s", us / 1e6);
	printf("  %-12s%s", what, measured);
	if (objective > 0)
		printf(", objective %.3f s: %s", objective / 1e6, missed ? "MISSED" : "met");
	printf("\n");
}

static void
print_checks(const json_t *checks)
{
	size_t		i;
	json_t	   *check;

	json_array_foreach(checks, i, check)
		printf("  %-12s%s: %s (" INT64_FORMAT " ms)\n", json_string_value(json_object_get(check, "name")),
			   json_string_value(json_object_get(check, "verdict")),
			   json_string_value(json_object_get(check, "detail")),
			   (int64) json_integer_value(json_object_get(check, "ms")));
}

static void
print_report(const Drill *d)
{
	char		size[32];
	char		when[TIME_TEXT_MAX];

	format_size(d->bytes, size);
	printf("Drill %s: %s\n", d->id, drill_verdict_name(d->verdict));
	printf("  scenario    %s%s%s\n", drill_scenario_name(d->scenario), d->target[0] ? ", target " : "", d->target);
	if (d->backup != NULL)
		printf("  backup      %s, %s\n", d->backup, size);
	print_time("restore", d->restore_time);
	print_time("recovery", d->recovery_time);
	print_time("start", d->start_time);
	print_time("checks", d->checks_time);
	if (d->restore_time > 0)
	{
		format_size((uint64) (d->bytes / (d->restore_time / 1e6)), size);
		printf("  rate        %s/s restored\n", size);
	}
	print_objective("RTO", d->rto, d->rto_objective, d->rto_missed);
	print_objective("RPO", d->rpo, d->rpo_objective, d->rpo_missed);
	if (d->recovery_point != 0)
	{
		time_format(when, d->recovery_point);
		printf("  last commit %s\n", when);
	}
	print_checks(d->checks);
	if (d->kept != NULL)
		printf("Kept in \"%s\"; \"%s/start\" starts it.\n", d->kept, d->kept);
	fflush(stdout);
	if (d->error.message[0] != '\0')
		report_error(&d->error);
}

/* ---- the two processes ---- */

static void
on_signal(int sig)
{
	if (worker > 0)
		kill(worker, SIGKILL);
}

static void
on_progress(void *arg, const char *phase, uint64 done, uint64 total)
{
	Drill	   *d = arg;

	if (total > 0)
		report_progress(phase, done, total, d->started_at, done >= total);
}

static int
run(Drill *d)
{
	d->progress = on_progress;
	d->arg = d;
	drill_step_back();
	drill_run(d);
	print_report(d);
	return d->verdict == DRILL_PASSED ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int
clean_up_after(const Drill *d)
{
	DrError		err;
	bool		busy;
	int			removed;

	if (!sandbox_sweep(d->directory, &busy, &removed, &err))
		report_error(&err);
	fprintf(stderr, "pg_dr: error: the drill was stopped\n");
	return EXIT_FAILURE;
}

static int
drill(Drill *d)
{
	struct sigaction action = {.sa_handler = on_signal};
	pid_t		parent = getpid();
	int			status;

	fflush(NULL);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	worker = fork();
	if (worker < 0)
	{
		fprintf(stderr, "pg_dr: error: could not fork: %s\n", strerror(errno));
		return EXIT_FAILURE;
	}
	if (worker == 0)
	{
		/* Out of the terminal's process group: what is pressed there is for the parent. */
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent || setpgid(0, 0) != 0)
			_exit(EXIT_FAILURE);
		exit(run(d));
	}
	while (waitpid(worker, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : clean_up_after(d);
}

/* ---- arguments ---- */

enum
{
	OPT_DIRECTORY = OPT_COMMAND,
	OPT_BACKUP,
	OPT_SCENARIO,
	OPT_TIME,
	OPT_LSN,
	OPT_JOBS,
	OPT_MAX_SIZE,
	OPT_MEMORY,
	OPT_PRELOAD,
	OPT_USERNAME,
	OPT_KEEP,
	OPT_NO_AMCHECK,
	OPT_RTO,
	OPT_RPO
};

static const struct option options[] = {
	ACCESS_OPTIONS,
	{"directory", required_argument, NULL, OPT_DIRECTORY},
	{"backup", required_argument, NULL, OPT_BACKUP},
	{"scenario", required_argument, NULL, OPT_SCENARIO},
	{"target-time", required_argument, NULL, OPT_TIME},
	{"target-lsn", required_argument, NULL, OPT_LSN},
	{"jobs", required_argument, NULL, OPT_JOBS},
	{"max-size", required_argument, NULL, OPT_MAX_SIZE},
	{"memory", required_argument, NULL, OPT_MEMORY},
	{"preload", required_argument, NULL, OPT_PRELOAD},
	{"username", required_argument, NULL, OPT_USERNAME},
	{"keep", no_argument, NULL, OPT_KEEP},
	{"no-amcheck", no_argument, NULL, OPT_NO_AMCHECK},
	{"rto", required_argument, NULL, OPT_RTO},
	{"rpo", required_argument, NULL, OPT_RPO},
	{NULL, 0, NULL, 0}
};

/* A number of something, more than 0, at most a million million. */
static bool
parse_number(const char *option, const char *value, double unit, int64 *out, DrError *err)
{
	char	   *end;
	double		number = strtod(value, &end);

	if (end == value || *end != '\0' || !(number > 0 && number <= 1e12 / unit * 1e6))
		return dr_error(err, DR_CONFIG, "\"%s\" is not a value for %s", value, option);
	*out = (int64) (number * unit);
	return true;
}

static bool
set_target(Drill *d, TargetKind kind, const char *text, DrError *err)
{
	if (d->restore.target.kind != TARGET_END)
		return dr_error(err, DR_CONFIG, "only one recovery target can be given");
	d->scenario = DRILL_POINT_IN_TIME;
	return target_parse(&d->restore.target, kind, text, err);
}

static bool
set_limit(Drill *d, int c, const char *value, DrError *err)
{
	switch (c)
	{
		case OPT_MAX_SIZE:
			return parse_number("--max-size", value, 1 << 20, (int64 *) &d->max_size, err);
		case OPT_MEMORY:
			return parse_number("--memory", value, 1 << 20, (int64 *) &d->memory, err);
		case OPT_RTO:
			return parse_number("--rto", value, 1e6, &d->rto_objective, err);
		case OPT_RPO:
			return parse_number("--rpo", value, 1e6, &d->rpo_objective, err);
		default:
			return access_option(&d->restore.access, c, value) || dr_error(err, DR_CONFIG, "unknown option");
	}
}

static bool
set_option(Drill *d, int c, const char *value, DrError *err)
{
	switch (c)
	{
		case OPT_DIRECTORY:
			d->directory = value;
			return true;
		case OPT_BACKUP:
			d->restore.backup = value;
			return backup_id_valid(value) || dr_error(err, DR_CONFIG, "\"%s\" is not a backup's id", value);
		case OPT_SCENARIO:
			return drill_scenario_parse(value, &d->scenario, err);
		case OPT_TIME:
			return set_target(d, TARGET_TIME, value, err);
		case OPT_LSN:
			return set_target(d, TARGET_LSN, value, err);
		case OPT_JOBS:
			d->restore.jobs = atoi(value);
			return (d->restore.jobs >= 1 && d->restore.jobs <= 64) ||
				dr_error(err, DR_CONFIG, "--jobs must be between 1 and 64");
		case OPT_PRELOAD:
			d->preload = value;
			return true;
		case OPT_USERNAME:
			d->user = value;
			return true;
		case OPT_KEEP:
			d->keep = true;
			return true;
		case OPT_NO_AMCHECK:
			d->amcheck = false;
			return true;
		default:
			return set_limit(d, c, value, err);
	}
}

static bool
check_options(const Drill *d, DrError *err)
{
	const char *missing = access_missing(&d->restore.access);

	if (missing != NULL)
		return dr_error(err, DR_CONFIG, "%s", missing);
	if (d->directory == NULL)
		return dr_error(err, DR_CONFIG, "--directory is required: where the restored server may live for a while");
	if (geteuid() == 0)
	{
		dr_error(err, DR_CONFIG, "pg_dr drill can't be run as root");
		return dr_hint(err, "Run it as the user that runs the server.");
	}
	return true;
}

/* The server that recovers asks from another directory. */
static const char *
from_anywhere(const char *path)
{
	char	   *real = path && strcmp(path, "none") != 0 ? realpath(path, NULL) : NULL;

	return real ? real : path;
}

int
drill_main(int argc, char **argv)
{
	char		id[64];
	char		now[TIME_TEXT_MAX];
	Drill		d = {.restore = {.jobs = 2},.memory = DEFAULT_MEMORY,.preload = "",.amcheck = true,.id = id};
	DrError		err;
	bool		ok = true;
	int			c;

	step_hold_at(getenv("PG_DR_HOLD_AT") ? getenv("PG_DR_HOLD_AT") : "", announce_held);
	time_format(now, time_now());
	snprintf(id, sizeof(id), "%.4s%.2s%.2sT%.2s%.2s%.2sZ-drill-%06x", now, now + 5, now + 8, now + 11, now + 14, now + 17,
			 (unsigned int) getpid() & 0xffffff);
	opterr = 0;					/* we say it ourselves */
	while (ok && (c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		if (c == '?')
			return usage_error("drill", "option \"%s\" is unknown or lacks its value", argv[optind - 1]);
		ok = set_option(&d, c, optarg, &err);
	}
	if (ok && optind < argc)
		return usage_error("drill", "unexpected argument \"%s\"", argv[optind]);
	if (!ok || !check_options(&d, &err))
	{
		report_error(&err);
		return EXIT_FAILURE;
	}
	d.restore.access.key_file = from_anywhere(d.restore.access.key_file);
	d.restore.access.credentials_file = from_anywhere(d.restore.access.credentials_file);
	return drill(&d);
}
