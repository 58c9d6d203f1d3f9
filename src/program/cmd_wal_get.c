/*
 * cmd_wal_get.c
 *	  pg_dr wal-get: the restore_command.
 *
 * PostgreSQL takes exit 1 for "there is no such file" and ends recovery there;
 * only above 125 it aborts.  So 1 is said only when the repository is there,
 * the object is not, and nothing of the archive lies behind it (W3); all else
 * is EXIT_ABORT.  The destination appears by rename, whole and synced; a crash
 * leaves at most a temporary beside it.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres_fe.h"

#include <fcntl.h>
#include <getopt.h>
#include <unistd.h>

#include "core/step.h"
#include "flow/wal.h"
#include "program/access.h"
#include "program/commands.h"
#include "program/report.h"

static bool
write_destination(const char *path, const Bytes *plain, DrError *err)
{
	char	   *temporary = psprintf("%s.pg_dr", path);
	int			fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	size_t		done = 0;
	bool		ok = fd >= 0;

	while (ok && done < plain->len)
	{
		ssize_t		w = write(fd, plain->data + done, plain->len - done);

		if (w < 0 && errno == EINTR)
			continue;
		ok = w > 0;
		done += ok ? w : 0;
	}
	ok = ok && fsync(fd) == 0;
	if (fd >= 0)
		ok = close(fd) == 0 && ok;
	if (ok)
		step_reached("walget.fetched");
	ok = ok && rename(temporary, path) == 0;
	if (!ok)
	{
		dr_error(err, DR_IO, "could not write \"%s\": %s", path, strerror(errno));
		unlink(temporary);
	}
	pfree(temporary);
	return ok;
}

/*
 * Fetch; when it is not there, prove it.  Between the two a running archiver
 * may have stored it and what follows: then it is there now.
 */
static StoreResult
fetch(Repository *repo, const char *sysid, const char *file, Bytes *plain, DrError *err)
{
	SealHeader	header;
	StoreResult r = wal_fetch(repo, sysid, file, plain, &header, err);
	DrError		why;

	if (r != STORE_ABSENT)
		return r;
	if (wal_absence_proven(repo, sysid, file, &why))
		return STORE_ABSENT;
	r = wal_fetch(repo, sysid, file, plain, &header, err);
	if (r != STORE_ABSENT)
		return r;
	*err = why;
	return STORE_FAILED;
}

static int
get(const Access *a, const char *file, const char *path)
{
	Repository	repo;
	Bytes		plain = {0};
	DrError		err;
	StoreResult r;

	if (!access_open(a, false, &repo, &err))
	{
		report_error(&err);
		return EXIT_ABORT;
	}
	r = fetch(&repo, a->system_identifier, file, &plain, &err);
	if (r == STORE_OK && !write_destination(path, &plain, &err))
		r = STORE_FAILED;
	bytes_free(&plain);
	repository_close(&repo);
	if (r == STORE_ABSENT)
		return EXIT_NOT_THERE;
	if (r == STORE_FAILED)
		report_error(&err);
	return r == STORE_OK ? EXIT_SUCCESS : EXIT_ABORT;
}

int
wal_get_main(int argc, char **argv)
{
	static const struct option options[] = {ACCESS_OPTIONS, {NULL, 0, NULL, 0}};
	Access		a = {0};
	const char *missing;
	int			c;

	step_hold_at(getenv("PG_DR_HOLD_AT") ? getenv("PG_DR_HOLD_AT") : "", announce_held);
	opterr = 0;					/* we say it ourselves */
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (!access_option(&a, c, optarg))
			return usage_error("wal-get", "option \"%s\" is unknown or lacks its value", argv[optind - 1]), EXIT_ABORT;
	if ((missing = access_missing(&a)) != NULL)
		return usage_error("wal-get", "%s", missing), EXIT_ABORT;
	if (a.system_identifier == NULL || argc - optind != 2)
		return usage_error("wal-get", "expected --system-identifier, the file's name and its destination"), EXIT_ABORT;
	return get(&a, argv[optind], argv[optind + 1]);
}
