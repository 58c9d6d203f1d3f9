/*
 * cmd_key.c
 *	  pg_dr key generate FILE
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "core/keyring.h"
#include "program/commands.h"
#include "program/report.h"

/* Key files are 0600, never overwritten, and durable before we say so. */
static bool
write_key_file(const char *file, DrError *err)
{
	char		line[128];
	char		text[512];
	char		when[32];
	time_t		now = time(NULL);
	int			n;
	int			fd;

	key_file_generate(line);
	strftime(when, sizeof(when), "%Y-%m-%d", gmtime(&now));
	n = snprintf(text, sizeof(text),
				 "# pg_dr repository key, made %s. Without it no backup can be restored:\n"
				 "# keep a copy where no disaster reaches both.\n%s\n", when, line);
	fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
	{
		dr_error(err, DR_IO, "could not create key file \"%s\": %s", file, strerror(errno));
		return errno != EEXIST ? false :
			dr_hint(err, "A key file is never overwritten: it may be the only one that opens a repository.");
	}
	if (write(fd, text, n) != n || fsync(fd) != 0)
	{
		dr_error(err, DR_IO, "could not write key file \"%s\": %s", file, strerror(errno));
		close(fd);
		unlink(file);
		return false;
	}
	return close(fd) == 0 || dr_error(err, DR_IO, "could not close key file \"%s\": %s", file, strerror(errno));
}

int
key_main(int argc, char **argv)
{
	DrError		err;

	if (argc != 3 || strcmp(argv[1], "generate") != 0)
		return usage_error("key", "expected: pg_dr key generate FILE");
	if (!write_key_file(argv[2], &err))
	{
		report_error(&err);
		return EXIT_FAILURE;
	}
	printf("Key written to \"%s\". Keep a copy of it elsewhere: without it no backup can be restored.\n", argv[2]);
	return EXIT_SUCCESS;
}
