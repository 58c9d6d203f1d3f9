/*
 * cmd_wal_get.c
 *	  pg_dr wal-get: the restore_command.
 *
 * PostgreSQL takes exit 1 for "there is no such file" and ends recovery there;
 * only above 125 it aborts.  So 1 is said only when wal_serve says so (G3); all
 * else is EXIT_ABORT, memory that is short included (wal_exit_by_verdict).  Most files come from a process that works ahead
 * (wal_spool.c); where there is none, this one does it all.  The destination
 * appears by rename, whole; a crash leaves at most a temporary beside it.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres_fe.h"

#include <unistd.h>

#include "core/step.h"
#include "flow/wal_serve.h"
#include "program/access.h"
#include "program/commands.h"
#include "program/report.h"
#include "program/wal_spool.h"

#define FETCH_THREADS	4
#define AGAIN_US		1000000
#define SAY_AGAIN_US	60000000

/* Without the help of a process that works ahead. */
static StoreResult
get_alone(const WalAsk *ask, DrError *err)
{
	Repository	repo;
	WalServe	serve = {.repo = &repo,.sysid = ask->access.system_identifier,.threads = FETCH_THREADS};
	Bytes		plain = {0};
	StoreResult r;

	if (!access_open_for_recovery(&ask->access, ask->wait, &repo, err))
		return STORE_FAILED;
	r = wal_serve(&serve, ask->file, &plain, err);
	if (r == STORE_OK && !spool_write(ask->path, &plain, err))
		r = STORE_FAILED;
	bytes_free(&plain);
	wal_serve_free(&serve);
	repository_close(&repo);
	return r;
}

static SpoolAnswer
get_once(const WalAsk *ask, DrError *err)
{
	/* Who holds a step wants it here. */
	SpoolAnswer answer = getenv("PG_DR_HOLD_AT") ? SPOOL_NONE : spool_ask(ask, err);
	StoreResult r;

	if (answer != SPOOL_NONE)
		return answer;
	r = get_alone(ask, err);
	return r == STORE_OK ? SPOOL_STORED : r == STORE_ABSENT ? SPOOL_ABSENT : SPOOL_FAILED;
}

/* Damage, a wrong key and wrong names stay what they are; everything else may pass, or be put right elsewhere. */
static bool
may_pass(DrCode code)
{
	switch (code)
	{
		case DR_CONFIG:
		case DR_KEY:
		case DR_CONFLICT:
		case DR_LINEAGE:
		case DR_DAMAGED:
			return false;
		default:				/* DR_ABSENT is the repository itself: not mounted? */
			return true;
	}
}

static void
say_that_it_waits(DrError *err)
{
	char		hint[sizeof(err->hint)];

	strlcpy(hint, err->hint, sizeof(hint));
	dr_hint(err, "%s%sThe standby waits for it. To promote without what is there, set restore_command to '' and restart.",
			hint, hint[0] != '\0' ? " " : "");
	report_error(err);
}

/*
 * With "wait", for a standby: a repository that is out of reach is waited for,
 * because neither of the two answers that end this would do: one would end
 * the standby, the other would let it promote without what is in the repository.
 */
static int
get(const WalAsk *ask)
{
	DrError		err;
	int64		said = 0;
	SpoolAnswer answer;

	while ((answer = get_once(ask, &err)) == SPOOL_FAILED && ask->wait && may_pass(err.code))
	{
		if (time_now() - said > SAY_AGAIN_US)
		{
			say_that_it_waits(&err);
			said = time_now();
		}
		usleep(AGAIN_US);
	}
	if (answer == SPOOL_ABSENT)
		return EXIT_NOT_THERE;
	if (answer == SPOOL_FAILED)
		report_error(&err);
	return answer == SPOOL_STORED ? EXIT_SUCCESS : EXIT_ABORT;
}

static int
parse_and_get(int argc, char **argv)
{
	WalAsk		ask;
	const char *wrong;

	step_hold_at(getenv("PG_DR_HOLD_AT") ? getenv("PG_DR_HOLD_AT") : "", announce_held);
	if ((wrong = ask_parse(&ask, argc, argv)) != NULL)
		return usage_error("wal-get", "option \"%s\" is unknown or lacks its value", wrong), EXIT_ABORT;
	if ((wrong = access_missing(&ask.access)) != NULL)
		return usage_error("wal-get", "%s", wrong), EXIT_ABORT;
	if (ask.access.system_identifier == NULL || ask.file == NULL)
		return usage_error("wal-get", "expected --system-identifier, the file's name and its destination"), EXIT_ABORT;
	return get(&ask);
}

int
wal_get_main(int argc, char **argv)
{
	wal_exit_by_verdict();
	return wal_verdict(parse_and_get(argc, argv));
}
