/*
 * catalogue_drill.c
 *	  Drills in the catalogue: their rows, the DBA's own checks and objectives,
 *	  the heartbeat.
 *
 * One idea: everything goes in as text, and SQL makes of it what the column is.
 *
 * A crash leaves whole transactions: a drill's first row, its final one.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "catalogue.h"
#include "drill.h"
#include "pg_dr.h"

#define MAX_VALUES		32

typedef struct Values
{
	int			n;
	const char *v[MAX_VALUES];
} Values;

static void
add(Values *a, const char *text)
{
	Assert(a->n < MAX_VALUES);
	a->v[a->n++] = text;
}

static void
add_time(Values *a, TimestampTz t)
{
	add(a, t == 0 ? NULL : dr_time_text(t));
}

static void
add_int(Values *a, int64 n)
{
	add(a, n < 0 ? NULL : psprintf(INT64_FORMAT, n));
}

static void
add_bool(Values *a, bool known, bool value)
{
	add(a, !known ? NULL : value ? "true" : "false");
}

static void
execute(const char *sql, const Values *a, int expected)
{
	Oid			types[MAX_VALUES];
	Datum		values[MAX_VALUES];
	char		nulls[MAX_VALUES];
	int			rc;

	if (!dr_catalogue_exists())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the catalogue of pg_dr does not exist in database \"%s\"", dr_database),
				 errhint("Run CREATE EXTENSION pg_dr in the database that pg_dr.database names.")));
	for (int i = 0; i < a->n; i++)
	{
		types[i] = TEXTOID;
		nulls[i] = a->v[i] ? ' ' : 'n';
		values[i] = a->v[i] ? CStringGetTextDatum(a->v[i]) : (Datum) 0;
	}
	rc = SPI_execute_with_args(sql, a->n, types, values, nulls, false, 0);
	if (rc != expected)
		elog(ERROR, "SPI_execute_with_args returned %s for: %s", SPI_result_code_string(rc), sql);
}

/* A column of what execute() returned; NULL for null. */
static char *
result(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

/* ---- a drill's row ---- */

#define US(parameter)	parameter "::bigint * interval '1 microsecond'"

void
dr_insert_drill(const DrJob *job, const char *directory)
{
	Values		a = {0};

	add(&a, job->id);
	add(&a, job->repository);
	add(&a, job->drill.scenario);
	add(&a, job->drill.backup[0] != '\0' ? job->drill.backup : NULL);
	add(&a, job->drill.target_time != 0 ? psprintf("time %s", dr_time_text(job->drill.target_time)) : NULL);
	add(&a, job->requested_by);
	add_time(&a, job->started_at);
	add(&a, directory);
	execute("INSERT INTO dr.drill (id, repository, scenario, backup, target, status, requested_by, started_at, directory) "
			"VALUES ($1, $2, $3, $4, $5, 'running', $6, $7::timestamptz, $8)", &a, SPI_OK_INSERT);
}

static char *
error_text(const DrReport *r)
{
	if (r->message[0] == '\0')
		return NULL;
	return dr_redacted(r->detail[0] == '\0' ? r->message : psprintf("%s (%s)", r->message, r->detail));
}

static void
add_result(Values *a, const DrDrillResult *r, const DrObjectives *o)
{
	add_int(a, r->restore_us);
	add_int(a, r->recovery_us);
	add_int(a, r->start_us);
	add_int(a, r->checks_us);
	add_int(a, r->stop_us);
	add_int(a, r->remove_us);
	add_int(a, r->rto_us);
	add_int(a, r->rpo_us);
	add_int(a, o->rto_us > 0 ? o->rto_us : -1);
	add_int(a, o->rpo_us > 0 ? o->rpo_us : -1);
	add_bool(a, o->rto_us > 0 && r->rto_us >= 0, !r->rto_missed);
	add_bool(a, o->rpo_us > 0 && r->rpo_us >= 0, !r->rpo_missed);
	add_time(a, r->recovery_point);
	add(a, r->reached ? psprintf("%X/%X", LSN_FORMAT_ARGS(r->reached)) : NULL);
	add_int(a, r->bytes);
	add_int(a, r->wal_bytes);
	add(a, r->checks ? dr_redacted(r->checks) : NULL);
	add(a, r->kept);
	add(a, r->backup);
	add(a, r->target);
}

void
dr_finish_drill(const DrJob *job, const DrDrillResult *r, const DrObjectives *objectives)
{
	Values		a = {0};

	add(&a, job->id);
	add(&a, dr_outcome_name(DR_JOB_DRILL, job->outcome));
	add_time(&a, job->ended_at);
	add(&a, error_text(&job->report));
	if (r == NULL)
	{
		execute("UPDATE dr.drill SET status = $2, ended_at = $3::timestamptz, error = $4 WHERE id = $1", &a, SPI_OK_UPDATE);
		return;
	}
	add_result(&a, r, objectives);
	execute("UPDATE dr.drill SET status = $2, ended_at = $3::timestamptz, error = $4, "
			"restore_time = " US("$5") ", recovery_time = " US("$6") ", start_time = " US("$7") ", "
			"checks_time = " US("$8") ", stop_time = " US("$9") ", remove_time = " US("$10") ", "
			"rto = " US("$11") ", rpo = " US("$12") ", rto_objective = " US("$13") ", rpo_objective = " US("$14") ", "
			"rto_met = $15::boolean, rpo_met = $16::boolean, recovery_point = $17::timestamptz, "
			"reached_lsn = $18::pg_lsn, bytes = $19::bigint, wal_bytes = $20::bigint, checks = $21::jsonb, kept = $22, "
			"backup = coalesce($23, backup), target = coalesce($24, target) WHERE id = $1", &a, SPI_OK_UPDATE);
}

/* ---- leftovers ---- */

void
dr_running_drills(List **ids, List **directories, MemoryContext context)
{
	Values		a = {0};
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
	Values		a = {0};

	add(&a, id);
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
	Values		a = {0};

	add(&a, scenario);
	execute("SELECT (extract(epoch FROM rto) * 1000000)::bigint, (extract(epoch FROM rpo) * 1000000)::bigint "
			"FROM dr.objective WHERE scenario = $1", &a, SPI_OK_SELECT);
	o->rto_us = SPI_processed > 0 ? us_result(1) : 0;
	o->rpo_us = SPI_processed > 0 ? us_result(2) : 0;
}

void
dr_append_assertions(StringInfo request, const char *scenario)
{
	static const char *const keys[] = {"name", "database", "sql", "expected"};
	Values		a = {0};

	add(&a, scenario);
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
	Values		a = {0};

	execute("INSERT INTO dr.heartbeat AS h (at) VALUES (clock_timestamp()) "
			"ON CONFLICT (single) DO UPDATE SET at = excluded.at", &a, SPI_OK_INSERT);
}
