/*
 * catalogue_verify.c
 *	  The SQL of verification: what it is told, and what it leaves.
 *
 * One idea: only a verification that looks at least as deep as the one that
 * found a backup unsound may call it sound again; and what was found bad is not
 * proven, whenever it was proven before.
 *
 * A verification's rows are written in its caller's transaction, those that others
 * may wait for at its very end.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/timestamp.h"

#include "catalogue_private.h"

#define FETCH_ROWS	1000

#define DEPTH_RANK(column) \
	"coalesce(array_position(ARRAY['catalogue', 'objects', 'pages'], " column "), 0)"

static char *
cluster_prefix(void)
{
	return psprintf(UINT64_FORMAT "/", GetSystemIdentifier());
}

/* What archiving has noted and nobody has written yet is known, too. */
void
dr_known_objects(const char *repository, const char *depth, const Interval *max_age, DrKnownSink sink, void *arg_sink)
{
	Args		a = {0};
	Portal		portal;

	if (!dr_catalogue_exists())
		return;
	arg_text(&a, repository);
	arg_text(&a, cluster_prefix());
	arg_text(&a, depth);
	arg(&a, INTERVALOID, IntervalPGetDatum(unconstify(Interval *, max_age)), max_age == NULL);
	portal = SPI_cursor_open_with_args(NULL,
		"SELECT json_build_array(k.name, k.size, encode(k.sha256, 'hex'), "
		"coalesce(k.verified_at > clock_timestamp() - $4 AND " DEPTH_RANK("k.verified_depth") " >= " DEPTH_RANK("$3") ", false))::text "
		"FROM (SELECT o.name, o.size, o.sha256, o.verified_at, o.verified_depth "
		"FROM dr.object AS o JOIN dr.backup AS b ON b.id = o.backup "
		"WHERE o.repository = $1 AND starts_with(o.name, $2) "
		"AND b.status NOT IN ('running', 'failed', 'cancelled', 'interrupted') "
		"UNION ALL SELECT w.object, w.size, w.sha256, w.verified_at, w.verified_depth FROM dr.wal_segment AS w "
		"WHERE w.repository = $1 AND starts_with(w.object, $2) "
		"UNION ALL SELECT r.object, r.size, r.sha256, NULL, NULL FROM dr.recent_segments() AS r "
		"WHERE r.repository = $1 AND starts_with(r.object, $2) AND NOT EXISTS (SELECT 1 FROM dr.wal_segment AS w "
		"WHERE w.repository = r.repository AND w.object = r.object)) AS k (name, size, sha256, verified_at, verified_depth)",
		a.n, a.types, a.values, a.nulls, true, 0);
	do
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			char	   *json = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);

			sink(arg_sink, json);
			pfree(json);
		}
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	SPI_cursor_close(portal);
}

/* ---- the run ---- */

void
dr_begin_verification(const DrVerification *v)
{
	Args		a = {0};

	arg_text(&a, v->id);
	arg_text(&a, v->repository);
	arg_text(&a, v->backup);
	arg_text(&a, v->depth);
	arg_text(&a, v->requested_by);
	arg_time(&a, v->started_at);
	execute("INSERT INTO dr.verification (id, repository, backup, depth, requested_by, started_at) "
			"VALUES ($1, $2, $3, $4, $5, $6)", &a, SPI_OK_INSERT);
}

void
dr_finish_verification(const DrVerification *v)
{
	Args		a = {0};

	arg_text(&a, v->id);
	arg_text(&a, v->backup);
	arg_int8(&a, v->backups);
	arg_int8(&a, v->objects);
	arg_int8(&a, v->bytes_read);
	arg_int8(&a, v->bytes_skipped);
	arg_int8(&a, v->findings);
	arg_text(&a, v->verdict);
	execute("UPDATE dr.verification SET backup = $2, ended_at = clock_timestamp(), backups = $3, objects = $4, "
			"bytes_read = $5, bytes_skipped = $6, findings = $7, verdict = $8 WHERE id = $1", &a, SPI_OK_UPDATE);
}

Datum
dr_text_array(List *texts)
{
	Args		a = {0};

	arg_text_array(&a, texts);
	return a.values[0];
}

void
dr_insert_finding(const DrVerification *v, const DrVerifyFinding *f, int64 number)
{
	Args		a = {0};

	arg_text(&a, v->id);
	arg_int8(&a, number);
	arg_text(&a, f->object);
	arg_text(&a, f->problem);
	arg_text_array(&a, f->backups);
	arg_text_array(&a, f->files);
	arg_text(&a, f->severity);
	arg_text(&a, f->hint);
	execute("INSERT INTO dr.finding (verification, number, object, problem, affected_backups, affected_files, severity, hint) "
			"VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", &a, SPI_OK_INSERT);
}

void
dr_verified_objects(const DrVerification *v, List *names, bool sound)
{
	Args		a = {0};

	arg_text(&a, v->repository);
	arg_text_array(&a, names);
	arg_text(&a, sound ? v->depth : NULL);
#define SET_VERIFIED	" SET verified_at = CASE WHEN $3 IS NOT NULL THEN clock_timestamp() END, verified_depth = $3 WHERE repository = $1 AND "
	execute("UPDATE dr.object" SET_VERIFIED "name = ANY ($2)", &a, SPI_OK_UPDATE);
	execute("UPDATE dr.wal_segment" SET_VERIFIED "object = ANY ($2)", &a, SPI_OK_UPDATE);
}

static void
backup_is_sound(const DrVerification *v, const char *id)
{
	Args		a = {0};

	arg_text(&a, id);
	arg_text(&a, v->depth);
	execute("UPDATE dr.backup SET status = CASE WHEN corrupt_pages > 0 THEN 'completed with corruption' ELSE 'completed' END, "
			"error = NULL, damaged_depth = NULL "
			"WHERE id = $1 AND status IN ('damaged', 'missing') AND " DEPTH_RANK("damaged_depth") " <= " DEPTH_RANK("$2"),
			&a, SPI_OK_UPDATE);
	if (strcmp(v->depth, "catalogue") != 0)
		execute("UPDATE dr.backup SET verified_at = clock_timestamp(), verified_depth = $2 WHERE id = $1", &a, SPI_OK_UPDATE);
}

void
dr_verified_backup(const DrVerification *v, const char *id, bool sound, const char *error)
{
	Args		a = {0};

	if (sound)
	{
		backup_is_sound(v, id);
		return;
	}
	arg_text(&a, id);
	arg_text(&a, v->depth);
	arg_text(&a, error);
	execute("UPDATE dr.backup SET status = 'damaged', error = $3, verified_at = NULL, verified_depth = NULL, "
			"damaged_depth = CASE WHEN " DEPTH_RANK("damaged_depth") " > " DEPTH_RANK("$2") " THEN damaged_depth ELSE $2 END "
			"WHERE id = $1 AND status IN ('completed', 'completed with corruption', 'missing', 'damaged')", &a, SPI_OK_UPDATE);
}
