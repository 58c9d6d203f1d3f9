/*
 * agent_expire.c
 *	  The agent's op expire: retention.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/expire.h"
#include "program/agent.h"

static void
emit_row(void *arg, const char *what, const char *name, uint64 bytes, const char *reason)
{
	agent_emit(json_pack("{s:s, s:s, s:s, s:I, s:o}", "event", "row", "what", what, "name", name,
						 "bytes", (json_int_t) bytes, "reason", json_lossy(reason)));
}

static void
emit_removed(void *arg, const char *object)
{
	agent_emit(json_pack("{s:s, s:s}", "event", "removed", "name", object));
}

static void
emit_expired(void *arg, const char *backup, bool left)
{
	agent_emit(json_pack("{s:s, s:s, s:b}", "event", "expired", "backup", backup, "left", left));
}

static void
emit_expired_wal(void *arg, const char *first, const char *last)
{
	agent_emit(json_pack("{s:s, s:s, s:s}", "event", "expired_wal", "first", first, "last", last));
}

bool
agent_expire(Agent *a, json_t *request, DrError *err)
{
	Expire		e = {.repo = &a->repo,.system_identifier = a->system_identifier,
		.wal_segment_size = a->wal_segment_size,.clock = time_now(),.may_store = agent_may_store,
		.row = emit_row,.removed = emit_removed,.expired = emit_expired,.expired_wal = emit_expired_wal,.arg = a};
	json_int_t	grace;
	json_int_t	timeline;
	int			dry_run;
	const char **running = NULL;
	bool		ok = json_unpack(request, "{s:s, s:I, s:I, s:b}", "policy", &e.policy, "grace_s", &grace,
								 "timeline", &timeline, "dry_run", &dry_run) == 0 &&
		grace >= 0 && timeline >= 0 && timeline <= PG_UINT32_MAX &&
		(running = agent_running(request, &e.n_running)) != NULL;

	if (!ok)
		return dr_error(err, DR_INTERNAL, "protocol violation: op \"expire\" lacks a value or has a wrong one");
	e.running = running;
	e.grace = grace * 1000000;
	e.timeline = (TimeLineID) timeline;
	e.dry_run = dry_run;
	agent_alive(a, true);
	ok = expire_run(&e, err);
	agent_alive(a, false);
	free(running);
	if (ok)
		agent_emit(json_pack("{s:s}", "event", "done"));
	return ok;
}
