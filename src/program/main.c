/*
 * main.c
 *	  pg_dr: the table of commands.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres_fe.h"

#include <sys/stat.h>

#include "program/commands.h"
#include "protocol.h"

static const struct
{
	const char *name;
	int			(*main) (int argc, char **argv);
	const char *help;			/* NULL: not for people */
}			commands[] = {
	{"key", key_main,
		"  pg_dr key generate FILE\n"
		"      make a new repository key; keep a copy of it where no disaster reaches both\n"},
	{"list", list_main,
		"  pg_dr list --repository URL --key-file FILE [--json]\n"
		"      the backups in a repository, and the WAL\n"},
	{"restore", restore_main,
		"  pg_dr restore --repository URL --key-file FILE --pgdata DIR [--backup ID]\n"
		"      [--target-time T | --target-lsn L | --target-xid X | --target-name N |\n"
		"       --target-immediate]\n"
		"      [--target-timeline T] [--target-exclusive] [--target-action pause|promote|shutdown]\n"
		"      [--tablespace OLD=NEW]... [--config-dir DIR] [--standby] [--jobs N]\n"
		"      [--system-identifier N]\n"
		"      a data directory that a plain pg_ctl start recovers\n"},
	{"verify", verify_main,
		"  pg_dr verify --repository URL --key-file FILE [--backup ID|latest|all]\n"
		"      [--depth catalogue|objects|pages] [--max-rate N] [--jobs N] [--system-identifier N]\n"
		"      names and sizes; every object's SHA-256 and seal; every page and WAL record\n"},
	{"drill", drill_main,
		"  pg_dr drill --repository URL --key-file FILE --directory DIR [--backup ID]\n"
		"      [--scenario latest|point_in_time] [--target-time T | --target-lsn L]\n"
		"      [--rto SECONDS] [--rpo SECONDS] [--max-size MB] [--memory MB] [--preload LIBRARIES]\n"
		"      [--username ROLE] [--no-amcheck] [--keep] [--jobs N] [--system-identifier N]\n"
		"      restore, recover and start in DIR, check, measure, and remove it again\n"},
	{"wal-get", wal_get_main,
		"  pg_dr wal-get --repository URL --key-file FILE --system-identifier N [--wait] %f %p\n"
		"      what a restore_command does; restore writes pg_dr-wal-get there, the same but quicker\n"},
	{"agent", agent_main, NULL},
};

static void
print_help(FILE *to)
{
	fprintf(to, "pg_dr: disaster recovery for PostgreSQL\n\nUsage:\n");
	for (int i = 0; i < (int) lengthof(commands); i++)
		if (commands[i].help != NULL)
			fprintf(to, "%s", commands[i].help);
	fprintf(to, "  pg_dr --version | --help\n"
			"\nA repository is file:///directory or s3://bucket/prefix?endpoint=https://host&region=...;\n"
			"the latter takes --credentials-file FILE, else credentials are where AWS's tools look.\n"
			"A key file of \"none\" means: not encrypted.\n"
			"Exit status is 0 only when all is well.\n");
}

int
usage_error(const char *command, const char *fmt,...)
{
	va_list		args;

	fprintf(stderr, "pg_dr: error: %s%s", command, command[0] ? ": " : "");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\nHINT:  Try \"pg_dr --help\".\n");
	return EXIT_FAILURE;
}

int
main(int argc, char **argv)
{
	/* Errors end here with a message, never half-way in a file that others can read. */
	umask(0077);
	if (argc < 2)
		return usage_error("", "no command given");
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
	{
		print_help(stdout);
		return EXIT_SUCCESS;
	}
	if (strcmp(argv[1], "--version") == 0)
	{
		printf("pg_dr %s (PostgreSQL %s)\n", PGDR_VERSION, PG_MAJORVERSION);
		return EXIT_SUCCESS;
	}
	for (int i = 0; i < (int) lengthof(commands); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].main(argc - 1, argv + 1);
	return usage_error("", "unknown command \"%s\"", argv[1]);
}
