/*
 * catalogue_drill.c
 *	  Drills in the catalogue: their rows, the DBA's own checks and objectives,
 *	  the heartbeat.
 *
 * A crash leaves whole transactions: a drill's first row, its final one.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "catalogue_private.h"
#include "drill.h"
#include "pg_dr.h"

/* A number that is negative is not known. */
static void
arg_measured(Args *a, int64 n)
{
	arg(a, INT8OID, Int64GetDatum(n), n < 0);
}

static void
arg_verdict(Args *a, bool known, bool value)
{
	arg(a, BOOLOID, BoolGetDatum(value), !known);
}

/* A column of what execute() returned; NULL for null. */
static char *
result(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

/* ---- a drill's row ---- */

#define US(parameter)	parameter " * interval '1 microsecond'"

void
dr_insert_drill(const DrJob *job, const char *directory)
{
	Args		a = {0};

	arg_text(&a, job->id);
	arg_text(&a, job->repository);
	arg_text(&a, job->drill.scenario);
	arg_text(&a, job->drill.backup[0] != '\0' ? job->drill.backup : NULL);
	arg_text(&a, job->drill.target_time != 0 ? psprintf("time %s", dr_time_text(job->drill.target_time)) : NULL);
	arg_text(&a, job->requested_by);
	arg_time(&a, job->started_at);
	arg_text(&a, directory);
	execute("INSERT INTO dr.drill (id, repository, scenario, backup, target, status, requested_by, started_at, directory) "
			"VALUES ($1, $2, $3, $4, $5, 'running', $6, $7, $8)", &a, SPI_OK_INSERT);
}

static void
arg_result(Args *a, const DrDrillResult *r, const DrObjectives *o)
{
	arg_measured(a, r->restore_us);
	arg_measured(a, r->recovery_us);
	arg_measured(a, r->start_us);
	arg_measured(a, r->checks_us);
	arg_measured(a, r->stop_us);
	arg_measured(a, r->remove_us);
	arg_measured(a, r->rto_us);
	arg_measured(a, r->rpo_us);
	arg_measured(a, o->rto_us > 0 ? o->rto_us : -1);
	arg_measured(a, o->rpo_us > 0 ? o->rpo_us : -1);
	arg_verdict(a, o->rto_us > 0 && r->rto_us >= 0, !r->rto_missed);
	arg_verdict(a, o->rpo_us > 0 && r->rpo_us >= 0, !r->rpo_missed);
	arg_time(a, r->recovery_point);
	arg_lsn(a, r->reached);
	arg_measured(a, r->bytes);
	arg_measured(a, r->wal_bytes);
	arg_text(a, r->checks ? dr_redacted(r->checks) : NULL);
	arg_text(a, r->kept);
	arg_text(a, r->backup);
	arg_text(a, r->target);
}

void
dr_finish_drill(const DrJob *job, const DrDrillResult *r, const DrObjectives *objectives)
{
	Args		a = {0};

	arg_text(&a, job->id);
	arg_text(&a, dr_outcome_name(DR_JOB_DRILL, job->outcome));
	arg_time(&a, job->ended_at);
	arg_text(&a, dr_report_text(&job->report));
	if (r == NULL)
	{
		execute("UPDATE dr.drill SET status = $2, ended_at = $3, error = $4 WHERE id = $1", &a, SPI_OK_UPDATE);
		return;
	}
	arg_result(&a, r, objectives);
	execute("UPDATE dr.drill SET status = $2, ended_at = $3, error = $4, "
			"restore_time = " US("$5") ", recovery_time = " US("$6") ", start_time = " US("$7") ", "
			"checks_time = " US("$8") ", stop_time = " US("$9") ", remove_time = " US("$10") ", "
			"rto = " US("$11") ", rpo = " US("$12") ", rto_objective = " US("$13") ", rpo_objective = " US("$14") ", "
			"rto_met = $15, rpo_met = $16, recovery_point = $17, "
			"reached_lsn = $18, bytes = $19, wal_bytes = $20, checks = $21::jsonb, kept = $22, "
			"backup = coalesce($23, backup), target = coalesce($24, target) WHERE id = $1", &a, SPI_OK_UPDATE);
}

/* ---- leftovers ---- */

void
dr_running_drills(List **ids, List **directories, MemoryContext context)
{
	Args		a = {0};
	MemoryContext caller;

	execute("SELECT id, directory FROM dr.drill WHERE status = 'running'", &a, SPI_OK_SELECT);
	caller = MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		*ids = lappend(*ids, pstrdup(result(i, 1)));
		*directories = lappend(*directories, pstrdup(result(i, 2)));
	}
	MemoryContextSwitchTo(caller);
}

bool
dr_interrupt_drill(const char *id)
{
	Args		a = {0};

	arg_text(&a, id);
	execute("UPDATE dr.drill SET status = 'interrupted', ended_at = now(), "
			"error = 'the server stopped while the drill was running' WHERE id = $1 AND status = 'running'", &a, SPI_OK_UPDATE);
	return SPI_processed > 0;
}

/* ---- what the DBA wrote ---- */

static int64
us_result(int column)
{
	char	   *text = result(0, column);

	return text ? strtoll(text, NULL, 10) : 0;
}

void
dr_read_objectives(const char *scenario, DrObjectives *o)
{
	Args		a = {0};

	arg_text(&a, scenario);
	execute("SELECT (extract(epoch FROM rto) * 1000000)::bigint, (extract(epoch FROM rpo) * 1000000)::bigint "
			"FROM dr.objective WHERE scenario = $1", &a, SPI_OK_SELECT);
	o->rto_us = SPI_processed > 0 ? us_result(1) : 0;
	o->rpo_us = SPI_processed > 0 ? us_result(2) : 0;
}

void
dr_append_assertions(StringInfo request, const char *scenario)
{
	static const char *const keys[] = {"name", "database", "sql", "expected"};
	Args		a = {0};

	arg_text(&a, scenario);
	execute("SELECT name, database, sql, expected FROM dr.drill_check "
			"WHERE enabled AND (scenario IS NULL OR scenario = $1) ORDER BY name COLLATE \"C\"", &a, SPI_OK_SELECT);
	appendStringInfoString(request, ",\"checks\":[");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		StringInfoData object;

		initStringInfo(&object);
		for (int k = 0; k < lengthof(keys); k++)
			dr_request_text(&object, keys[k], result(i, k + 1));
		/* The first key has a comma before it. */
		appendStringInfo(request, "%s{%s}", i == 0 ? "" : ",", object.data + 1);
	}
	appendStringInfoChar(request, ']');
}

/* ---- the heartbeat ---- */

/* One row, always the same: its age in a restored cluster is what was lost. */
void
dr_beat(void)
{
	Args		a = {0};

	execute("INSERT INTO dr.heartbeat AS h (at) VALUES (clock_timestamp()) "
			"ON CONFLICT (single) DO UPDATE SET at = excluded.at", &a, SPI_OK_INSERT);
}
