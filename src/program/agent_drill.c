/*
 * agent_drill.c
 *	  The agent's ops drill and sweep.
 *
 * One idea: a drill that fails is no op that fails.  Its verdict, with all that
 * was measured until then, is what "done" tells; "error" is left for what
 * kept it from being made.
 *
 * A cancel is the end of this process: the sandbox's server ends with it, and
 * the module has another one sweep (Z2, Z3).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/agent.h"
#include "program/drill.h"
#include "program/ticker.h"

/* How far it is, said once a second by a thread of its own, whatever the drill is waiting for. */
typedef struct Progress
{
	pthread_mutex_t lock;
	const char *phase;			/* constant */
	uint64		done;
	uint64		total;
} Progress;

static void
emit_progress(void *arg)
{
	Progress   *p = arg;

	pthread_mutex_lock(&p->lock);
	agent_emit(json_pack("{s:s, s:s, s:I, s:I}", "event", "progress", "phase", p->phase,
						 "bytes_done", (json_int_t) p->done, "bytes_total", (json_int_t) p->total));
	pthread_mutex_unlock(&p->lock);
}

static void
on_progress(void *arg, const char *phase, uint64 done, uint64 total)
{
	Progress   *p = arg;

	pthread_mutex_lock(&p->lock);
	p->phase = phase;
	p->done = done;
	p->total = total;
	pthread_mutex_unlock(&p->lock);
}

/* ---- the request ---- */

static bool
bad_request(DrError *err, const char *op)
{
	return dr_error(err, DR_INTERNAL, "protocol violation: op \"%s\" lacks a value or has a wrong one", op);
}

/* Texts are the request's. */
static bool
parse_assertions(Drill *d, json_t *array)
{
	DrillAssertion *all = pg_malloc0(sizeof(*all) * (json_array_size(array) + 1));

	d->assertions = all;
	if (json_array_size(array) > DRILL_ASSERTIONS_MAX)
		return false;
	for (size_t i = 0; i < json_array_size(array); i++)
	{
		DrillAssertion *a = &all[d->n_assertions++];

		a->expected = json_string_value(json_object_get(json_array_get(array, i), "expected"));
		if (json_unpack(json_array_get(array, i), "{s:s, s:s, s:s}", "name", &a->name, "database", &a->database,
						"sql", &a->sql) != 0)
			return false;
	}
	return true;
}

static bool
parse_request(Drill *d, json_t *request, DrError *err)
{
	const char *scenario;
	const char *lsn;
	const char *time = json_string_value(json_object_get(request, "target_time"));
	json_int_t	max_size;
	json_int_t	memory;
	json_int_t	rto;
	json_int_t	rpo;
	int			keep;
	int			amcheck;

	d->restore.backup = json_string_value(json_object_get(request, "backup"));
	if (json_unpack(request, "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:b}",
					"id", &d->id, "scenario", &scenario, "directory", &d->directory, "preload", &d->preload,
					"user", &d->user, "database", &d->heartbeat_database, "production_lsn", &lsn,
					"max_size", &max_size, "memory", &memory, "rto_us", &rto, "rpo_us", &rpo,
					"keep", &keep, "amcheck", &amcheck) != 0 ||
		!lsn_parse(lsn, &d->production_lsn) || !name_valid(d->id) || strchr(d->id, '/') != NULL ||
		max_size < 0 || memory < 0 || rto < 0 || rpo < 0 ||
		!parse_assertions(d, json_object_get(request, "checks")))
		return bad_request(err, "drill");
	d->max_size = max_size;
	d->memory = memory;
	d->rto_objective = rto;
	d->rpo_objective = rpo;
	d->keep = keep;
	d->amcheck = amcheck;
	if (d->restore.backup != NULL && !backup_id_valid(d->restore.backup))
		return dr_error(err, DR_CONFIG, "\"%s\" is not a backup's id", d->restore.backup);
	return drill_scenario_parse(scenario, &d->scenario, err) &&
		(time == NULL || target_parse(&d->restore.target, TARGET_TIME, time, err));
}

/* ---- the answer ---- */

static void
add_time(json_t *o, const char *key, int64 us)
{
	if (us >= 0)
		json_object_set_new(o, key, json_integer(us));
}

static void
add_text(json_t *o, const char *key, const char *text)
{
	if (text != NULL && text[0] != '\0')
		json_object_set_new(o, key, json_lossy(text));
}

static void
emit_done(const Drill *d)
{
	char		reached[LSN_TEXT_MAX];
	json_t	   *o;

	lsn_format(reached, d->reached);
	o = json_pack("{s:s, s:s, s:b, s:b, s:I, s:I, s:I, s:s, s:O}", "event", "done",
				  "verdict", drill_verdict_name(d->verdict), "rto_missed", d->rto_missed, "rpo_missed", d->rpo_missed,
				  "bytes", (json_int_t) d->bytes, "wal_bytes", (json_int_t) d->wal_bytes,
				  "recovery_point", (json_int_t) d->recovery_point, "reached_lsn", reached, "checks", d->checks);
	add_text(o, "backup", d->backup);
	add_text(o, "target", d->target);
	add_text(o, "sandbox", d->kept);
	add_time(o, "restore_us", d->restore_time);
	add_time(o, "recovery_us", d->recovery_time);
	add_time(o, "start_us", d->start_time);
	add_time(o, "checks_us", d->checks_time);
	add_time(o, "stop_us", d->stop_time);
	add_time(o, "remove_us", d->remove_time);
	add_time(o, "rto_us", d->rto);
	add_time(o, "rpo_us", d->rpo);
	add_text(o, "message", d->error.message);
	if (d->error.message[0] != '\0')
	{
		add_text(o, "detail", d->error.detail);
		add_text(o, "hint", d->error.hint);
	}
	agent_emit(o);
}

bool
agent_drill(Agent *a, json_t *request, DrError *err)
{
	Drill		d = {.restore = {.access = a->access,.jobs = a->jobs},.data_directory = a->data_directory,
	.progress = on_progress};
	Progress	progress = {.lock = PTHREAD_MUTEX_INITIALIZER,.phase = "starting"};
	Ticker		ticker;

	if (!parse_request(&d, request, err))
	{
		free((void *) d.assertions);
		return false;
	}
	d.arg = &progress;
	drill_step_back();
	emit_progress(&progress);
	ticker_start(&ticker, emit_progress, &progress);
	drill_run(&d);
	ticker_stop(&ticker);
	emit_done(&d);
	json_decref(d.checks);
	free((void *) d.assertions);
	free(d.backup);
	free(d.kept);
	return true;
}

bool
agent_sweep(Agent *a, json_t *request, DrError *err)
{
	const char *directory = json_string_value(json_object_get(request, "directory"));
	bool		busy;
	int			removed;

	if (directory == NULL)
		return bad_request(err, "sweep");
	if (!sandbox_sweep(directory, &busy, &removed, err))
		return false;
	agent_emit(json_pack("{s:s, s:i, s:b}", "event", "done", "removed", removed, "busy", busy));
	return true;
}
