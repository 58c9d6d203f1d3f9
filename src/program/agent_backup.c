/*
 * agent_backup.c
 *	  The agent's long op: backup.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include <sys/resource.h>
#include <unistd.h>

#include "program/agent.h"
#include "program/ticker.h"

#define BACKUP_NICE		5

static void
emit_progress(Backup *b)
{
	const char *phase;
	uint64		bytes;
	uint64		files;
	uint64		stored;

	backup_progress(b, &phase, &bytes, &files, &stored);
	agent_emit(json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "event", "progress", "phase", phase,
						 "bytes_done", (json_int_t) bytes, "bytes_total", (json_int_t) Max(b->bytes_total, bytes),
						 "files_done", (json_int_t) files, "files_total", (json_int_t) Max(b->files_total, files),
						 "bytes_stored", (json_int_t) stored));
}

static void
tick(void *arg)
{
	emit_progress(arg);
}

/* ---- events ---- */

static void
on_stored(void *arg, const char *name, uint64 size, const uint8 sha256[32])
{
	agent_emit_object(name, size, sha256);
}

static void
on_corrupt(void *arg, const CorruptPage *page)
{
	char		lsn[LSN_TEXT_MAX];

	lsn_format(lsn, page->lsn);
	agent_emit(json_pack("{s:s, s:o, s:I, s:i, s:i, s:s}", "event", "corrupt_page",
						 "path", json_lossy(page->path), "block", (json_int_t) page->block,
						 "expected", page->expected, "found", page->found, "lsn", lsn));
}

static void
on_warning(void *arg, const char *message)
{
	agent_emit_warning(message);
}

static void
on_waiting(void *arg, const char *segment)
{
	agent_emit(json_pack("{s:s, s:s}", "event", "waiting", "segment", segment));
}

/* Everything is read: the module stops the server's backup and tells us how. */
static bool
on_copied(void *arg, BackupInfo *info, DrError *err)
{
	Agent	   *a = arg;
	json_t	   *request;
	const char *op;
	const char *stop_lsn;
	const char *stopped_at;
	const char *label;
	const char *map;
	int			timeline;
	bool		ok;

	emit_progress(a->backup);
	agent_emit(json_pack("{s:s}", "event", "copied"));
	request = queue_pop(&a->requests);
	op = json_string_value(json_object_get(request, "op"));
	if (strcmp(op, "cancel") == 0)
	{
		json_decref(request);
		return dr_error(err, DR_CANCELLED, "the backup was cancelled");
	}
	ok = strcmp(op, "stop") == 0 &&
		json_unpack(request, "{s:s, s:i, s:s, s:s, s:s}", "stop_lsn", &stop_lsn,
					"stop_timeline", &timeline, "stopped_at", &stopped_at,
					"backup_label", &label, "tablespace_map", &map) == 0 &&
		lsn_parse(stop_lsn, &info->stop_lsn) && time_parse(stopped_at, &info->stopped_at);
	if (ok)
	{
		info->stop_timeline = (TimeLineID) timeline;
		info->backup_label = pg_strdup(label);
		info->tablespace_map = pg_strdup(map);
	}
	else
		dr_error(err, DR_INTERNAL, "protocol violation: \"stop\" was expected");
	json_decref(request);
	if (ok && info->stop_timeline != info->timeline)
		ok = dr_error(err, DR_INTERNAL, "the timeline changed during the backup");
	return ok;
}

/* ---- the request ---- */

static bool
parse_tablespaces(Backup *b, json_t *array)
{
	b->n_tablespaces = (int) json_array_size(array);
	b->tablespaces = pg_malloc0(sizeof(WalkTablespace) * (b->n_tablespaces + 1));
	for (int i = 0; i < b->n_tablespaces; i++)
	{
		const char *oid;
		const char *path;

		if (json_unpack(json_array_get(array, i), "{s:s, s:s}", "oid", &oid, "path", &path) != 0)
			return false;
		b->tablespaces[i].oid = pg_strdup(oid);
		b->tablespaces[i].path = pg_strdup(path);
	}
	return true;
}

static bool
parse_config_files(Backup *b, json_t *array)
{
	b->n_config_files = (int) json_array_size(array);
	b->config_files = pg_malloc0(sizeof(ConfigFile) * (b->n_config_files + 1));
	for (int i = 0; i < b->n_config_files; i++)
	{
		const char *path = json_string_value(json_array_get(array, i));

		if (path == NULL || path[0] != '/')
			return false;
		b->config_files[i].path = pg_strdup(path);
	}
	return true;
}

static bool
parse_request(Agent *a, json_t *request, Backup *b)
{
	BackupInfo *info = &b->info;
	const char *id;
	const char *kind;
	const char *label = NULL;
	const char *start_lsn;
	const char *started_at;
	const char *config_directory = NULL;
	char		host[256] = "";
	int			timeline;
	int			checksums;

	if (json_unpack(request, "{s:s, s:s, s:i, s:b, s:i, s:s, s:s}", "id", &id, "kind", &kind,
					"server_version_num", &info->server_version_num, "data_checksums", &checksums,
					"timeline", &timeline, "start_lsn", &start_lsn, "started_at", &started_at) != 0 ||
		!backup_id_valid(id) || (strcmp(kind, "full") != 0 && strcmp(kind, "incremental") != 0) || timeline < 1 ||
		!lsn_parse(start_lsn, &info->start_lsn) || !time_parse(started_at, &info->started_at))
		return false;
	label = json_string_value(json_object_get(request, "label"));
	config_directory = json_string_value(json_object_get(request, "config_directory"));
	b->parent_id = json_string_value(json_object_get(request, "parent"));
	b->no_parent = json_string_value(json_object_get(request, "no_parent"));
	if ((b->parent_id != NULL && !backup_id_valid(b->parent_id)) ||
		(strcmp(kind, "incremental") == 0 && b->parent_id == NULL && b->no_parent == NULL))
		return false;
	gethostname(host, sizeof(host) - 1);
	strlcpy(info->id, id, sizeof(info->id));
	strlcpy(info->kind, kind, sizeof(info->kind));
	strlcpy(info->system_identifier, a->system_identifier, sizeof(info->system_identifier));
	info->lineage = a->lineage_generation;
	info->data_checksums = checksums;
	info->timeline = (TimeLineID) timeline;
	info->label = label ? pg_strdup(label) : NULL;
	info->data_directory = pg_strdup(a->data_directory);
	info->config_directory = config_directory ? pg_strdup(config_directory) : NULL;
	info->host = pg_strdup(host);
	return parse_tablespaces(b, json_object_get(request, "tablespaces")) &&
		parse_config_files(b, json_object_get(request, "config_files"));
}

static void
backup_free(Backup *b)
{
	for (int i = 0; i < b->n_tablespaces; i++)
	{
		free(b->tablespaces[i].oid);
		free(b->tablespaces[i].path);
	}
	for (int i = 0; i < b->n_config_files; i++)
		free(b->config_files[i].path);
	free(b->tablespaces);
	free(b->config_files);
	backup_info_free(&b->info);
	pthread_mutex_destroy(&b->lock);
}

static void
set_running(Agent *a, Backup *b)
{
	pthread_mutex_lock(&a->lock);
	a->backup = b;
	pthread_mutex_unlock(&a->lock);
}

static void
emit_done(const Backup *b)
{
	const BackupInfo *info = &b->info;
	json_t	   *o = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "event", "done",
							  "files", (json_int_t) info->files, "bytes", (json_int_t) info->bytes,
							  "bytes_read", (json_int_t) info->bytes_read,
							  "bytes_changed", (json_int_t) info->bytes_changed,
							  "bytes_stored", (json_int_t) info->bytes_stored,
							  "bytes_referenced", (json_int_t) info->bytes_referenced,
							  "restore_bytes", (json_int_t) info->restore_bytes,
							  "restore_requests", (json_int_t) info->restore_requests,
							  "packs", (json_int_t) info->packs,
							  "corrupt_pages", (json_int_t) info->corrupt_pages,
							  "manifest_size", (json_int_t) b->manifest_size,
							  "manifest_sha256", json_hex(b->manifest_sha256, 32));

	if (info->parent != NULL)
		json_object_set_new(o, "parent", json_string(info->parent));
	if (info->full_scan != NULL)
		json_object_set_new(o, "full_scan", json_lossy(info->full_scan));
	agent_emit(o);
}

bool
agent_backup(Agent *a, json_t *request, DrError *err)
{
	Backup		b = {
		.repo = &a->repo,
		.jobs = a->jobs,
		.level = a->level,
		.max_rate = a->max_rate,
		.stored = on_stored,
		.corrupt = on_corrupt,
		.warning = on_warning,
		.waiting = on_waiting,
		.copied = on_copied,
		.arg = a,
		.phase = "scanning",
	};
	Ticker		ticker;
	bool		ok;

	pthread_mutex_init(&b.lock, NULL);
	if (!parse_request(a, request, &b))
	{
		backup_free(&b);
		return dr_error(err, DR_INTERNAL, "protocol violation: op \"backup\" lacks a value or has a wrong one");
	}
	setpriority(PRIO_PROCESS, 0, BACKUP_NICE);	/* the server comes first; no harm if refused */
	set_running(a, &b);
	ticker_start(&ticker, tick, &b);
	ok = backup_run(&b, err);
	ticker_stop(&ticker);
	set_running(a, NULL);
	if (ok)
	{
		emit_progress(&b);
		emit_done(&b);
	}
	backup_free(&b);
	return ok;
}
