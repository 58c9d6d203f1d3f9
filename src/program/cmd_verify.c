/*
 * cmd_verify.c
 *	  pg_dr verify: hold what is in the repository against its manifests.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres_fe.h"

#include <getopt.h>

#include "flow/verify.h"
#include "program/access.h"
#include "program/commands.h"
#include "program/report.h"

enum
{
	OPT_BACKUP = OPT_COMMAND,
	OPT_DEPTH,
	OPT_JOBS,
	OPT_MAX_RATE
};

static void
no_object(void *arg, const char *name, uint64 size, const uint8 sha256[32])
{
}

static void
print_list(const char *what, char *const *v, size_t n, uint64 all)
{
	for (size_t i = 0; i < n; i++)
		fprintf(stderr, "%s%s", i == 0 ? what : ", ", v[i]);
	if (all > n)
		fprintf(stderr, " and %llu more", (unsigned long long) (all - n));
	if (n > 0)
		fprintf(stderr, "\n");
}

static void
print_finding(void *arg, const VerifyFinding *f)
{
	if (f->severity == VERIFY_NOTICE)
		fprintf(stderr, "pg_dr: notice: object \"%s\": %s\n", f->object, f->problem);
	else
		fprintf(stderr, "pg_dr: damaged%s: object \"%s\": %s\n", f->severity == VERIFY_WARNING ? ", but no restore needs it" : "",
				f->object, f->problem);
	if (f->severity == VERIFY_ERROR)
	{
		print_list("  backups that need it: ", f->backups, f->n_backups, f->n_backups);
		print_list("  files: ", f->files, Min(f->n_files, VERIFY_FILES_MAX), f->n_files);
	}
}

static void
no_verdict(void *arg, const char *id, bool sound)
{
}

static bool
verify(const Access *a, Verify *v, DrError *err)
{
	Repository	repo;
	char		system_identifier[21];
	bool		ok;

	if (!access_open(a, true, &repo, err))
		return false;
	v->repo = &repo;
	v->system_identifier = system_identifier;
	ok = access_choose_system(a, &repo, system_identifier, err) && verify_run(v, err);
	repository_close(&repo);
	return ok;
}

/* 1000000, 1000kB, 10MB, 1GB */
static bool
parse_rate(const char *text, uint64 *rate)
{
	static const struct
	{
		const char *unit;
		int			shift;
	}			units[] = {{"", 0}, {"B", 0}, {"kB", 10}, {"MB", 20}, {"GB", 30}};
	size_t		digits = strspn(text, "0123456789");

	for (int i = 0; digits > 0 && digits < 12 && i < (int) lengthof(units); i++)
		if (strcmp(text + digits, units[i].unit) == 0)
		{
			*rate = (uint64) strtoull(text, NULL, 10) << units[i].shift;
			return true;
		}
	return false;
}

int
verify_main(int argc, char **argv)
{
	static const struct option options[] = {
		ACCESS_OPTIONS,
		{"backup", required_argument, NULL, OPT_BACKUP},
		{"depth", required_argument, NULL, OPT_DEPTH},
		{"jobs", required_argument, NULL, OPT_JOBS},
		{"max-rate", required_argument, NULL, OPT_MAX_RATE},
		{NULL, 0, NULL, 0}
	};
	Access		a = {0};
	Verify		v = {.backup = "latest",.depth = VERIFY_OBJECTS,.jobs = 2,.object = no_object,
	.finding = print_finding,.verified = no_verdict,.lock = PTHREAD_MUTEX_INITIALIZER};
	const char *missing;
	DrError		err;
	int			c;

	opterr = 0;					/* we say it ourselves */
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		if (c == OPT_BACKUP)
			v.backup = optarg;
		else if (c == OPT_DEPTH && verify_depth_parse(optarg, &v.depth))
			continue;
		else if (c == OPT_DEPTH)
			return usage_error("verify", "--depth must be catalogue, objects or pages");
		else if (c == OPT_JOBS && (v.jobs = atoi(optarg)) >= 1 && v.jobs <= 64)
			continue;
		else if (c == OPT_JOBS)
			return usage_error("verify", "--jobs must be a number from 1 to 64");
		else if (c == OPT_MAX_RATE && parse_rate(optarg, &v.max_rate))
			continue;
		else if (c == OPT_MAX_RATE)
			return usage_error("verify", "--max-rate must be a number of bytes per second, or of kB, MB or GB");
		else if (!access_option(&a, c, optarg))
			return usage_error("verify", "option \"%s\" is unknown or lacks its value", argv[optind - 1]);
	}
	if ((missing = access_missing(&a)) != NULL)
		return usage_error("verify", "%s", missing);
	if (optind < argc)
		return usage_error("verify", "unexpected argument \"%s\"", argv[optind]);
	if (!verify(&a, &v, &err))
	{
		report_error(&err);
		return EXIT_FAILURE;
	}
	if (v.errors > 0 || v.warnings > 0)
		return EXIT_FAILURE;
	if (v.id[0] != '\0')
		printf("backup %s is sound: ", v.id);
	else
		printf("%llu backups and everything beside them are sound: ", (unsigned long long) v.backups);
	if (v.depth == VERIFY_CATALOGUE)
		printf("names and sizes\n");
	else
		printf(UINT64_FORMAT " objects, " UINT64_FORMAT " bytes\n", v.objects, v.bytes);
	return EXIT_SUCCESS;
}
