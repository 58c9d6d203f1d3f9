/*
 * functions_status.c
 *	  What the views read from shared memory: jobs, recent segments, status.
 *
 * One idea: everything here is cheap, so that monitoring may ask every few
 * seconds: no program is started and nothing is asked of the repository.
 *
 * A crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "message.h"
#include "pg_dr.h"
#include "shmem.h"

/* Archiving that is behind by more than that is worth a word. */
#define LAG_WARNING_S	120

PG_FUNCTION_INFO_V1(dr_jobs_running);
PG_FUNCTION_INFO_V1(dr_recent_segments);
PG_FUNCTION_INFO_V1(dr_state);
PG_FUNCTION_INFO_V1(dr_lock_days);

/* ---- dr.jobs() ---- */

static void
put_job(ReturnSetInfo *rsinfo, const DrJob *job)
{
	Datum		values[14];
	bool		nulls[14] = {0};
	int			n = 0;

	values[n++] = CStringGetTextDatum(job->id);
	values[n++] = CStringGetTextDatum(job->kind);
	nulls[n] = !job->has_label;
	values[n++] = CStringGetTextDatum(job->label);
	values[n++] = CStringGetTextDatum(job->phase);
	values[n++] = CStringGetTextDatum(job->requested_by);
	nulls[n] = job->caller_pid == 0;
	values[n++] = Int32GetDatum(job->caller_pid);
	nulls[n] = job->worker_pid == 0;
	values[n++] = Int32GetDatum(job->worker_pid);
	nulls[n] = job->started_at == 0;
	values[n++] = TimestampTzGetDatum(job->started_at);
	values[n++] = Int64GetDatum(job->bytes_done);
	values[n++] = Int64GetDatum(job->bytes_total);
	values[n++] = Int64GetDatum(job->files_done);
	values[n++] = Int64GetDatum(job->files_total);
	values[n++] = Int64GetDatum(job->bytes_stored);
	values[n++] = BoolGetDatum(job->cancel_requested);
	Assert(n == lengthof(values));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_task(ReturnSetInfo *rsinfo, const DrTask *task)
{
	DrJob	   *job = palloc0(sizeof(DrJob));

	strlcpy(job->id, task->id, sizeof(job->id));
	strlcpy(job->kind, task->kind, sizeof(job->kind));
	job->has_label = task->what[0] != '\0';
	strlcpy(job->label, task->what, sizeof(job->label));
	strlcpy(job->phase, task->phase, sizeof(job->phase));
	strlcpy(job->requested_by, task->requested_by, sizeof(job->requested_by));
	job->caller_pid = task->pid;
	job->started_at = task->started_at;
	job->bytes_done = task->bytes_done;
	job->bytes_total = task->bytes_total;
	job->files_done = task->files_done;
	job->cancel_requested = task->cancel_requested;
	put_job(rsinfo, job);
}

Datum
dr_jobs_running(PG_FUNCTION_ARGS)
{
	DrJob	   *job = palloc(sizeof(DrJob));

	dr_require_shmem();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < DR_MAX_JOBS; i++)
	{
		dr_job_read(i, job);
		if (job->state == DR_JOB_REQUESTED || job->state == DR_JOB_RUNNING)
			put_job((ReturnSetInfo *) fcinfo->resultinfo, job);
	}
	for (int i = 0; i < DR_MAX_TASKS; i++)
	{
		DrTask		task;

		dr_task_read(i, &task);
		if (task.pid != 0)
			put_task((ReturnSetInfo *) fcinfo->resultinfo, &task);
	}
	return (Datum) 0;
}

/* ---- dr.recent_segments() ---- */

static void
put_segment(ReturnSetInfo *rsinfo, const DrSegment *s)
{
	Datum		values[8];
	bool		nulls[8] = {0};
	bytea	   *sha256 = palloc(VARHDRSZ + sizeof(s->sha256));

	SET_VARSIZE(sha256, VARHDRSZ + sizeof(s->sha256));
	memcpy(VARDATA(sha256), s->sha256, sizeof(s->sha256));
	values[0] = CStringGetTextDatum(s->repository);
	values[1] = Int64GetDatum(strtoul(pnstrdup(s->name, 8), NULL, 16));
	values[2] = CStringGetTextDatum(s->name);
	values[3] = CStringGetTextDatum(s->object);
	values[4] = Int64GetDatum(s->size);
	values[5] = PointerGetDatum(sha256);
	values[6] = TimestampTzGetDatum(s->archived_at);
	values[7] = TimestampTzGetDatum(s->ended_at);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
dr_recent_segments(PG_FUNCTION_ARGS)
{
	DrSegment  *segments = palloc(sizeof(DrSegment) * DR_RING_SIZE);
	int			n;

	dr_require_shmem();
	InitMaterializedSRF(fcinfo, 0);
	n = dr_ring_recent(segments);
	for (int i = 0; i < n; i++)
	{
		if (segments[i].name[0] != '\0')
			put_segment((ReturnSetInfo *) fcinfo->resultinfo, &segments[i]);
	}
	return (Datum) 0;
}

/* ---- archiving ---- */

typedef struct Backlog
{
	int			files;			/* that wait */
	int			segments;		/* of them */
	char		oldest[MAXPGPATH];
	long		age_s;			/* of the oldest */
} Backlog;

static void
look_at_backlog(Backlog *b)
{
	const char *path = XLOGDIR "/archive_status";
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;
	struct stat st;

	memset(b, 0, sizeof(*b));
	while ((de = ReadDirExtended(dir, path, LOG)) != NULL)
	{
		size_t		n = strlen(de->d_name);

		if (n <= 6 || strcmp(de->d_name + n - 6, ".ready") != 0)
			continue;
		if (b->files++ == 0 || strcmp(de->d_name, b->oldest) < 0)
			strlcpy(b->oldest, de->d_name, sizeof(b->oldest));
		if (n == 24 + 6)
			b->segments++;
	}
	FreeDir(dir);
	if (b->files == 0)
		return;
	if (stat(psprintf("%s/%s", path, b->oldest), &st) == 0)
		b->age_s = Max(0, (long) (time(NULL) - st.st_mtime));
	b->oldest[strlen(b->oldest) - 6] = '\0';
}

static char *
lag_text(const Backlog *b)
{
	if (b->files == 0)
		return pstrdup("0 files wait");
	return psprintf("%d files wait for being archived (%d segments, %lld MB) since %ld s", b->files, b->segments,
					(long long) b->segments * wal_segment_size / (1024 * 1024), b->age_s);
}

static void
failing_finding(DrFinding *f, const DrArchiver *a, const Backlog *b)
{
	f->status = "critical";
	f->detail = psprintf("%s; \"%s\" failed at %s: %s",
						 lag_text(b), a->last_failed,
						 timestamptz_to_str(a->last_failed_at), a->failure.message);
	f->hint = a->failure.hint[0] ? pstrdup(a->failure.hint) :
		"The server log says more. WAL is kept in pg_wal meanwhile.";
}

void
dr_archiving_finding(DrFinding *f)
{
	DrArchiver *a = palloc(sizeof(DrArchiver));
	Backlog		b;

	dr_lock(LW_SHARED);
	*a = dr_shared->archiver;
	dr_unlock();

	/* The archiver has no database, and so another encoding than we. */
	dr_sanitize(a->failure.message, strlen(a->failure.message), false);
	dr_sanitize(a->failure.hint, strlen(a->failure.hint), false);
	look_at_backlog(&b);
	f->hint = NULL;
	if (!XLogArchivingActive() || !dr_is_archive_library())
	{
		f->status = "critical";
		f->detail = pstrdup("pg_dr doesn't archive this cluster's WAL");
		f->hint = "Set archive_mode to on and archive_library to pg_dr.";
	}
	else if (dr_repositories[0] == '\0' || dr_encryption_key_file[0] == '\0')
	{
		f->status = "critical";
		f->detail = psprintf("%s is not set: no WAL is archived, %d files wait",
							 dr_repositories[0] == '\0' ? "pg_dr.repositories" : "pg_dr.encryption_key_file",
							 b.files);
		f->hint = "Set it and reload. WAL is kept in pg_wal meanwhile.";
	}
	else if (RecoveryInProgress() && XLogArchiveMode != ARCHIVE_MODE_ALWAYS)
	{
		f->status = "ok";
		f->detail = pstrdup("a standby doesn't archive");
	}
	else if (b.files > 0 && a->last_failed_at > a->last_archived_at)
		failing_finding(f, a, &b);
	else if (b.age_s > LAG_WARNING_S)
	{
		f->status = "warning";
		f->detail = psprintf("%s, the oldest is \"%s\"", lag_text(&b), b.oldest);
		f->hint = "Is the repository slow, or the archiver stopped?";
	}
	else
	{
		f->status = "ok";
		f->detail = a->last_archived_at == 0 ?
			psprintf("nothing archived since the server started, %s", lag_text(&b)) :
			psprintf("\"%s\" was archived at %s, %s", a->last_archived,
					 timestamptz_to_str(a->last_archived_at), lag_text(&b));
	}
}

/* ---- dr.state() ---- */

static void
put_finding(ReturnSetInfo *rsinfo, const char *concern, const DrFinding *f)
{
	const char *row[] = {concern, f->status, f->detail, f->hint};

	dr_put_row(rsinfo, lengthof(row), row);
}

static void
lineage_finding(DrFinding *f)
{
	DrLineage	lineage;

	dr_lock(LW_SHARED);
	lineage = dr_shared->archiver.lineage;
	dr_unlock();
	f->hint = NULL;
	f->status = "ok";
	switch (lineage)
	{
		case DR_LINEAGE_UNKNOWN:
			f->detail = pstrdup("nothing archived since the server started");
			break;
		case DR_LINEAGE_OURS:
			f->detail = pstrdup("this copy of the cluster writes to the repository");
			break;
		case DR_LINEAGE_FOREIGN:
			f->status = "critical";
			f->detail = pstrdup("this copy of the cluster may not write to the repository and does not archive");
			f->hint = "If the other copy is gone for good and this one takes over, call dr_adopt().";
			break;
	}
}

static void
jobs_finding(DrFinding *f)
{
	DrJob	   *job = palloc(sizeof(DrJob));

	f->status = "ok";
	f->detail = pstrdup("no backup is running");
	f->hint = NULL;
	for (int i = 0; i < DR_MAX_JOBS; i++)
	{
		dr_job_read(i, job);
		if (job->state == DR_JOB_REQUESTED || job->state == DR_JOB_RUNNING)
			f->detail = psprintf("%s %s is running: %s", dr_job_noun(job->type), job->id, job->phase);
	}
}

Datum
dr_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	DrFinding	finding;

	dr_require_shmem();
	InitMaterializedSRF(fcinfo, 0);
	dr_archiving_finding(&finding);
	put_finding(rsinfo, "archiving", &finding);
	dr_recovery_point_finding(&finding);
	put_finding(rsinfo, "recovery_point", &finding);
	lineage_finding(&finding);
	put_finding(rsinfo, "lineage", &finding);
	if (dr_recovery_finding(&finding))
		put_finding(rsinfo, "recovery", &finding);
	dr_change_map_finding(&finding);
	put_finding(rsinfo, "change_map", &finding);
	jobs_finding(&finding);
	put_finding(rsinfo, "jobs", &finding);
	return (Datum) 0;
}

/* ---- locks ---- */

/* From the URL, which not everybody may read.  The program refuses one that is wrong. */
Datum
dr_lock_days(PG_FUNCTION_ARGS)
{
	static const char key[] = "lock_days=";
	char	   *name;
	char	   *url;
	char	   *parameter = dr_primary_repository(&name, &url) ? strchr(url, '?') : NULL;
	int			days = 0;

	while (parameter != NULL && days == 0)
	{
		if (strncmp(parameter + 1, key, strlen(key)) == 0)
			days = atoi(parameter + 1 + strlen(key));
		parameter = strchr(parameter + 1, '&');
	}
	if (days <= 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(days);
}
