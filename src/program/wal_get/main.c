/*
 * main.c
 *	  pg_dr-wal-get: what a restore_command runs; "pg_dr wal-get", quickly.
 *
 * Recovery runs it once for every file and waits for it.  Mostly the file is
 * there, fetched ahead, and to take it needs none of the libraries that the
 * program needs for all else, whose loading takes longer than the rest.  For
 * whatever is not so simple this becomes the program, with the same arguments.
 *
 * The exit statuses are those of cmd_wal_get.c.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres_fe.h"

#include <unistd.h>

#include "program/commands.h"
#include "program/wal_ask.h"

/* The answer of the process that fetches ahead, if there is one: -1 for none, and for an error. */
static int
ask(int argc, char **argv)
{
	WalAsk		a;
	char		answer[ASK_ANSWER_MAX] = "";
	int			directory;
	int			fd;

	/* Who holds a step wants it in the program. */
	if (getenv("PG_DR_HOLD_AT") || ask_parse(&a, argc, argv) != NULL || a.file == NULL ||
		a.access.url == NULL || a.access.key_file == NULL || a.access.system_identifier == NULL ||
		(directory = ask_open_directory(a.path, false)) < 0 ||
		(fd = ask_connect(directory)) < 0 ||
		!ask_question(fd, &a, answer))
		return -1;
	if (strcmp(answer, ASK_ABSENT) == 0)
		return EXIT_NOT_THERE;
	return strcmp(answer, ASK_STORED) == 0 && ask_take(directory, &a) ? EXIT_SUCCESS : -1;
}

int
main(int argc, char **argv)
{
	char		self[MAXPGPATH];
	char	  **arguments;
	ssize_t		n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	int			status;

	wal_exit_by_verdict();
	arguments = pg_malloc0(sizeof(char *) * (argc + 2));
	/* Before getopt changes their order. */
	arguments[0] = "pg_dr";
	arguments[1] = "wal-get";
	memcpy(arguments + 2, argv + 1, sizeof(char *) * argc);
	status = ask(argc, argv);
	if (status >= 0)
		return wal_verdict(status);
	if (n > 0)
	{
		self[n] = '\0';
		get_parent_directory(self);
		execv(psprintf("%s/pg_dr", self), arguments);
	}
	fprintf(stderr, "pg_dr: error: could not execute \"%s/pg_dr\": %s\n", n > 0 ? self : "", strerror(errno));
	return wal_verdict(EXIT_ABORT);
}
