/*
 * cmd_verify.c
 *	  pg_dr verify: hold a backup in the repository against its manifest.
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
	OPT_JOBS
};

static void
no_object(void *arg, const char *name, uint64 size, const uint8 sha256[32])
{
}

static void
print_finding(void *arg, const char *name, const char *problem)
{
	fprintf(stderr, "pg_dr: damaged: object \"%s\": %s\n", name, problem);
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
	ok = access_choose_system(a, &repo, system_identifier, err) && verify_backup(v, err);
	repository_close(&repo);
	return ok;
}

int
verify_main(int argc, char **argv)
{
	static const struct option options[] = {
		ACCESS_OPTIONS,
		{"backup", required_argument, NULL, OPT_BACKUP},
		{"jobs", required_argument, NULL, OPT_JOBS},
		{NULL, 0, NULL, 0}
	};
	Access		a = {0};
	Verify		v = {.backup = "latest", .jobs = 2, .object = no_object, .finding = print_finding};
	const char *missing;
	DrError		err;
	int			c;

	opterr = 0;					/* we say it ourselves */
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		if (c == OPT_BACKUP)
			v.backup = optarg;
		else if (c == OPT_JOBS && (v.jobs = atoi(optarg)) >= 1 && v.jobs <= 64)
			continue;
		else if (c == OPT_JOBS)
			return usage_error("verify", "--jobs must be a number from 1 to 64");
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
	if (v.findings > 0)
		return EXIT_FAILURE;
	printf("backup %s is sound: " UINT64_FORMAT " objects, " UINT64_FORMAT " bytes\n", v.id, v.objects, v.bytes);
	return EXIT_SUCCESS;
}
