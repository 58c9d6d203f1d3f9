/*
 * drill.c
 *	  A drill, from beginning to end.
 *
 * One idea: it is the real thing.  The same code restores, the same settings
 * recover, the same program fetches WAL as after a disaster; only where it
 * happens, and that it may touch nothing, is different (sandbox.h).
 *
 * A crash leaves a sandbox in which nothing runs (Z2, Z3).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/drill.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/step.h"
#include "program/recovery_conf.h"

#define NICENESS			10
#define IOPRIO_BEST_EFFORT	(2 << 13)	/* linux/ioprio.h is not everywhere */
#define IOPRIO_LOWEST		7
#define ROOM_MORE			(UINT64CONST(64) << 20)
#define ROOM_WAL_MOST		(UINT64CONST(1) << 30)

typedef struct Course
{
	Drill	   *d;
	Sandbox		box;
	Situation	situation;
	Bytes		control;
	SandboxServer server;
	DrillChecks checks;
	int64		began;			/* monotonic, of the step that runs */
} Course;

const char *
drill_verdict_name(DrillVerdict verdict)
{
	return verdict == DRILL_PASSED ? "passed" : verdict == DRILL_MISSED ? "missed objective" : "failed";
}

const char *
drill_scenario_name(DrillScenario scenario)
{
	return scenario == DRILL_LATEST ? "latest" : "point_in_time";
}

bool
drill_scenario_parse(const char *name, DrillScenario *scenario, DrError *err)
{
	if (strcmp(name, "latest") == 0)
		*scenario = DRILL_LATEST;
	else if (strcmp(name, "point_in_time") == 0)
		*scenario = DRILL_POINT_IN_TIME;
	else if (strcmp(name, "second_repository") == 0)
		return dr_error(err, DR_CONFIG, "scenario \"%s\" needs a second repository", name) ||
			dr_detail(err, "Only one repository is supported in this version.");
	else
		return dr_error(err, DR_CONFIG, "\"%s\" is not a scenario: latest or point_in_time", name);
	return true;
}

void
drill_step_back(void)
{
	/* Preferences, not needs. */
	(void) setpriority(PRIO_PROCESS, 0, NICENESS);
	(void) syscall(SYS_ioprio_set, 1, 0, IOPRIO_BEST_EFFORT | IOPRIO_LOWEST);
}

/* ---- time and progress ---- */

static void
phase(Course *c, const char *name)
{
	c->began = monotonic_now();
	if (c->d->progress != NULL)
		c->d->progress(c->d->arg, name, 0, 0);
}

static int64
elapsed(const Course *c)
{
	return monotonic_now() - c->began;
}

static void
on_restored(void *arg, uint64 done, uint64 total)
{
	Course	   *c = arg;

	if (c->d->progress != NULL)
		c->d->progress(c->d->arg, "restoring", done, total);
}

/* ---- what to restore ---- */

/*
 * A moment in the newest window, when none is given: a location, because of a
 * time nobody knows whether a commit came after it.  The beginning of a segment
 * that is there has records behind it.
 */
static bool
choose_moment(Course *c, DrError *err)
{
	Plan	   *plan = &c->situation.plan;
	const BackupInfo *b = plan->backup;
	uint64		first = b->stop_lsn;
	uint64		last = (plan->end - 1) / b->wal_segment_size * b->wal_segment_size;
	Target	   *t = &c->d->restore.target;
	char		text[LSN_TEXT_MAX];

	if (c->d->scenario != DRILL_POINT_IN_TIME || t->kind != TARGET_END)
		return true;
	lsn_format(text, last > first ? first + (uint64) (drand48() * (last - first)) : first);
	if (plan->end > first)
		return target_parse(t, TARGET_LSN, pg_strdup(text), err) &&
			plan_make(plan, b, &c->situation.history, &c->situation.wal, t, err);
	t->kind = TARGET_IMMEDIATE; /* nothing was written since */
	return plan_make(plan, b, &c->situation.history, &c->situation.wal, t, err);
}

static uint64
restored_bytes(const Restore *r)
{
	uint64		bytes = r->bytes;

	for (int i = 0; i < r->n_tablespaces; i++)
		bytes += r->tablespaces[i].bytes;
	return bytes;
}

/* What the restore writes, the WAL that is there at once, and what a server writes when it has recovered. */
static bool
check_room(Course *c, DrError *err)
{
	Drill	   *d = c->d;
	struct statvfs fs;
	uint64		needed = d->bytes + d->bytes / 20 + Min(d->wal_bytes, ROOM_WAL_MOST) + ROOM_MORE;
	uint64		available;

	if (d->max_size > 0 && d->bytes > d->max_size)
	{
		dr_error(err, DR_CONFIG, "the restored cluster would be larger than a drill may be");
		dr_detail(err, "It has %llu MB, the limit is %llu MB.", (unsigned long long) d->bytes >> 20,
				  (unsigned long long) d->max_size >> 20);
		return dr_hint(err, "Raise pg_dr.drill_max_size (--max-size).");
	}
	if (statvfs(c->box.path, &fs) != 0)
		return true;			/* the writes will tell */
	available = (uint64) fs.f_bavail * fs.f_frsize;
	if (needed <= available)
		return true;
	dr_error(err, DR_IO, "not enough room for a drill in \"%s\"", d->directory);
	dr_detail(err, "It needs %llu MB there, %llu MB are free.", (unsigned long long) needed >> 20,
			  (unsigned long long) available >> 20);
	return dr_hint(err, "Make room, or choose another pg_dr.drill_directory (--directory).");
}

static void
note_plan(Course *c)
{
	Drill	   *d = c->d;
	const Plan *plan = &c->situation.plan;
	const Target *t = &d->restore.target;
	const char *kind = target_kind_name(t->kind);
	XLogRecPtr	end = t->kind == TARGET_LSN ? t->lsn : t->kind == TARGET_IMMEDIATE ? plan->backup->stop_lsn : plan->end;

	d->backup = pg_strdup(plan->backup->id);
	if (kind != NULL)
		snprintf(d->target, sizeof(d->target), "%s%s%.60s", kind, t->text ? " " : "", t->text ? t->text : "");
	d->bytes = restored_bytes(&c->situation.restore);
	d->wal_bytes = end > plan->backup->start_lsn ? end - plan->backup->start_lsn : 0;
}

/* ---- the steps ---- */

static bool
restore_step(Course *c, DrError *err)
{
	Situation  *s = &c->situation;
	RestoreOptions *o = &c->d->restore;
	RecoveryOptions r = {&o->access, &o->target, &s->plan, "promote", NULL, false};

	o->pgdata = c->box.pgdata;
	o->tablespace_dir = c->box.tablespaces;
	if (!situation_make(s, o, err) || !choose_moment(c, err))
		return false;
	note_plan(c);
	if (!check_room(c, err) || !recovery_check(&s->restore, &r, err))
		return false;
	step_reached("drill.planned");
	s->restore.progress = on_restored;
	s->restore.arg = c;
	return restore_files(&s->restore, &c->control, err) &&
		recovery_write(&s->restore, &r, err) &&
		restore_sync(&s->restore, err) &&
		restore_control(&s->restore, &c->control, err);
}

/*
 * Where recovery ended: the new timeline's history says.  False: it has not
 * been found, or is no history.
 */
static bool
find_end_of_recovery(Course *c)
{
	char	   *path = sandbox_path(&c->box, "data/pg_wal");
	DIR		   *dir = opendir(path);
	struct dirent *de;
	char		newest[17] = "";
	char		line[MAXPGPATH];
	FILE	   *file;
	uint32		hi;
	uint32		lo;

	while (dir != NULL && (de = readdir(dir)) != NULL)
		if (strlen(de->d_name) == 16 && strcmp(de->d_name + 8, ".history") == 0 && strcmp(de->d_name, newest) > 0)
			strlcpy(newest, de->d_name, sizeof(newest));
	if (dir != NULL)
		closedir(dir);
	file = newest[0] ? fopen(psprintf("%s/%s", path, newest), "r") : NULL;
	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "%*u\t%X/%X", &hi, &lo) == 2)
			c->d->reached = (uint64) hi << 32 | lo;
	if (file != NULL)
		fclose(file);
	pfree(path);
	return c->d->reached != InvalidXLogRecPtr;
}

/* The last segment may be partly filled, so its beginning is all that can be asked for. */
static bool
check_reached(Course *c, DrError *err)
{
	const Plan *plan = &c->situation.plan;
	XLogRecPtr	wanted = plan->frontier - plan->backup->wal_segment_size;
	char		reached[LSN_TEXT_MAX];
	char		end[LSN_TEXT_MAX];

	if (!find_end_of_recovery(c))
		return dr_error(err, DR_DAMAGED, "the restored server does not say where recovery ended");
	if (c->d->restore.target.kind != TARGET_END || c->d->reached >= Max(wanted, plan->backup->stop_lsn))
		return true;
	lsn_format(reached, c->d->reached);
	lsn_format(end, plan->end);
	dr_error(err, DR_DAMAGED, "recovery ended before the end of the archive");
	return dr_detail(err, "It came to %s, the repository has WAL up to %s.", reached, end);
}

static bool
recovery_step(Course *c, DrError *err)
{
	Drill	   *d = c->d;
	int64		ready;

	c->server = (SandboxServer) {.box = &c->box,.memory = d->memory,.preload = d->preload,.user = d->user,
	.id = d->id,.socket_dir = -1};
	if (!server_start(&c->server, &c->control, err))
		return false;
	step_reached("drill.started");
	if (!server_wait_ready(&c->server, err))
		return false;
	ready = monotonic_now();
	d->recovery_time = c->server.redo_done - c->began;
	c->checks = (DrillChecks) {.server = &c->server,.assertions = d->assertions,.n_assertions = d->n_assertions,
	.amcheck = d->amcheck,.heartbeat_database = d->heartbeat_database,.jobs = d->restore.jobs,.results = d->checks};
	if (!checks_connect(&c->checks, err))
		return false;
	d->start_time = monotonic_now() - c->server.redo_done;
	d->rto = d->restore_time + d->recovery_time + d->start_time;
	step_reached("drill.ready");
	return check_reached(c, err) && (checks_note(&c->checks, "recovery", "ok", d->target[0] ?
												 "it reached its target" : "it reached the end of the archived WAL", ready), true);
}

/*
 * Nothing is lost when recovery came to what the server had flushed.  Else, all
 * that was committed since the newest commit that came back may be.
 */
static void
judge_recovery_point(Course *c)
{
	Drill	   *d = c->d;
	const Target *t = &d->restore.target;

	/* What was there when the backup ended is there in any case. */
	d->recovery_point = Max(Max(c->checks.last_commit, c->checks.heartbeat), c->situation.plan.backup->stopped_at);
	if (t->kind != TARGET_END || (d->production_lsn != 0 && d->reached >= d->production_lsn))
		d->rpo = 0;				/* a target that was missed has ended recovery with an error */
	else
		d->rpo = Max(d->started_at - d->recovery_point, 0);
}

static bool
checks_step(Course *c, DrError *err)
{
	Drill	   *d = c->d;
	int64		began;

	phase(c, "checking");
	began = c->began;
	checks_running(&c->checks);
	judge_recovery_point(c);
	d->checks_time = elapsed(c);
	step_reached("drill.checked");
	phase(c, "stopping");
	if (!server_stop(&c->server, err))
		return false;
	d->stop_time = elapsed(c);
	step_reached("drill.stopped");
	phase(c, "checking checksums");
	if (c->situation.plan.backup->data_checksums)
		checks_stopped(&c->checks);
	else
		checks_note(&c->checks, "checksums", "skipped", "the cluster has no data checksums", began);
	d->checks_time += elapsed(c);
	return true;
}

static bool
steps(Course *c, DrError *err)
{
	Drill	   *d = c->d;

	phase(c, "planning");
	if (!sandbox_create(&c->box, d->directory, d->id, d->data_directory, err) || !restore_step(c, err))
		return false;
	d->restore_time = elapsed(c);
	step_reached("drill.restored");
	phase(c, "recovering");
	return recovery_step(c, err) && checks_step(c, err);
}

/* ---- the end ---- */

static void
clean_up(Course *c)
{
	Drill	   *d = c->d;
	DrError		err;
	bool		keep = d->keep && c->box.path != NULL && sandbox_keep(&c->box, &err);

	phase(c, keep ? "stopping" : "removing");
	if (c->server.socket_dir > 0)
		close(c->server.socket_dir);
	if (c->server.pid != 0)		/* a failure came between */
		server_stop_now(&c->server);
	if (sandbox_remove(&c->box, keep, &err))
	{
		d->remove_time = elapsed(c);
		if (keep)
			d->kept = pg_strdup(c->box.path);
	}
	else if (d->error.message[0] == '\0')
		d->error = err;			/* Z6 */
	step_reached("drill.removed");
	sandbox_close(&c->box);
}

static void
judge(Course *c)
{
	Drill	   *d = c->d;

	d->rto_missed = d->rto_objective > 0 && d->rto > d->rto_objective;
	d->rpo_missed = d->rpo_objective > 0 && (d->rpo < 0 || d->rpo > d->rpo_objective);
	if (d->error.message[0] == '\0' && c->checks.failed > 0)
	{
		dr_error(&d->error, DR_DAMAGED, "%d of the drill's checks failed", c->checks.failed);
		dr_detail(&d->error, "%s", c->checks.first_failed);
	}
	d->verdict = d->error.message[0] != '\0' ? DRILL_FAILED :
		d->rto_missed || d->rpo_missed ? DRILL_MISSED : DRILL_PASSED;
}

void
drill_run(Drill *d)
{
	Course		c = {.d = d,.box = {.lock = -1}};
	DrError		err;

	srand48((long) (time_now() ^ getpid()));
	d->started_at = time_now();
	d->restore_time = d->recovery_time = d->start_time = d->checks_time = d->stop_time = d->remove_time = -1;
	d->rto = d->rpo = -1;
	d->checks = json_array();
	d->error.message[0] = '\0';
	if (!steps(&c, &err))
		d->error = err;
	clean_up(&c);
	judge(&c);
	bytes_free(&c.control);
}
