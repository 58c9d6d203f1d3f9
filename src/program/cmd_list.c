/*
 * cmd_list.c
 *	  pg_dr list: what a repository holds, from the repository alone.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres_fe.h"

#include <getopt.h>
#include <jansson.h>

#include "flow/inventory.h"
#include "program/access.h"
#include "program/commands.h"
#include "program/report.h"

/* First and last segment of each timeline. */
typedef struct WalSummary
{
	char		timeline[9];
	char		first[25];
	char		last[25];
	uint64		segments;
	uint64		bytes;
} WalSummary;

typedef struct WalSummaries
{
	WalSummary *v;
	size_t		n;
} WalSummaries;

static bool
add_wal(void *arg, const char *name, uint64 size, DrError *err)
{
	WalSummaries *all = arg;
	const char *file = strrchr(name, '/') + 1;
	WalSummary *s;

	if (object_kind(name) != KIND_WAL)
		return true;
	if (all->n == 0 || strncmp(all->v[all->n - 1].timeline, file, 8) != 0)
	{
		all->v = pg_realloc(all->v, sizeof(*all->v) * (all->n + 1));
		s = memset(&all->v[all->n++], 0, sizeof(*s));
		memcpy(s->timeline, file, 8);
		strcpy(s->first, file);
	}
	s = &all->v[all->n - 1];
	strcpy(s->last, file);
	s->segments++;
	s->bytes += size;
	return true;
}

static bool
load_wal(Repository *repo, const char *sysid, WalSummaries *all, DrError *err)
{
	char	   *prefix = psprintf("%s/wal/", sysid);
	bool		ok;

	memset(all, 0, sizeof(*all));
	ok = store_list(repo->store, prefix, true, add_wal, all, err);
	pfree(prefix);
	return ok;
}

/* ---- JSON ---- */

static json_t *
backup_json(const BackupEntry *e)
{
	json_t	   *o;

	if (e->has_manifest && e->sound)
		return backup_info_summary(&e->info);
	o = json_pack("{s:s, s:s}", "id", e->id, "state", e->has_manifest ? "damaged" : "incomplete");
	if (e->has_manifest)
		json_object_set_new(o, "error", json_string(e->error.message));
	return o;
}

static json_t *
system_json(const char *sysid, const BackupList *backups, const WalSummaries *wal)
{
	json_t	   *b = json_array();
	json_t	   *w = json_array();

	/* Only a backup with a manifest is a backup. */
	for (size_t i = 0; i < backups->n; i++)
		if (backups->v[i].has_manifest)
			json_array_append_new(b, backup_json(&backups->v[i]));
	for (size_t i = 0; i < wal->n; i++)
		json_array_append_new(w, json_pack("{s:s, s:s, s:s, s:I, s:I}", "timeline", wal->v[i].timeline,
										   "first", wal->v[i].first, "last", wal->v[i].last,
										   "segments", (json_int_t) wal->v[i].segments,
										   "bytes", (json_int_t) wal->v[i].bytes));
	return json_pack("{s:s, s:o, s:o}", "system_identifier", sysid, "backups", b, "wal", w);
}

/* ---- text ---- */

static void
print_backup(const BackupEntry *e)
{
	char		size[32];
	char		stored[32];
	char		when[TIME_TEXT_MAX];
	char		stop[LSN_TEXT_MAX];
	char		fetched[32];

	if (!e->has_manifest)
	{
		printf("  %s  incomplete: in progress, interrupted, or what later backups need of an expired one\n", e->id);
		return;
	}
	if (!e->sound)
	{
		printf("  %s  DAMAGED: %s\n", e->id, e->error.message);
		return;
	}
	format_size(e->info.bytes, size);
	format_size(e->info.bytes_stored, stored);
	time_format(when, e->info.stopped_at);
	when[19] = '\0';
	lsn_format(stop, e->info.stop_lsn);
	format_size(e->info.restore_bytes, fetched);
	printf("  %s  %s  %s%s%s  ended %sZ at %s  %s, %s stored; a restore fetches %s in " UINT64_FORMAT " requests%s%s%s\n",
		   e->id, e->info.corrupt_pages > 0 ? "completed with corruption" : "completed",
		   e->info.kind, e->info.parent ? " on " : "", e->info.parent ? e->info.parent : "",
		   when, stop, size, stored, fetched, e->info.restore_requests,
		   e->info.label ? "  \"" : "", e->info.label ? e->info.label : "", e->info.label ? "\"" : "");
}

static void
print_system(const char *sysid, const BackupList *backups, const WalSummaries *wal)
{
	char		size[32];

	printf("cluster %s\n", sysid);
	if (backups->n == 0)
		printf("  no backups\n");
	for (size_t i = 0; i < backups->n; i++)
		print_backup(&backups->v[i]);
	for (size_t i = 0; i < wal->n; i++)
	{
		format_size(wal->v[i].bytes, size);
		printf("  WAL timeline %s: %s to %s, %llu segments, %s stored\n", wal->v[i].timeline,
			   wal->v[i].first, wal->v[i].last, (unsigned long long) wal->v[i].segments, size);
	}
}

static bool
list_system(Repository *repo, const char *sysid, json_t *out, DrError *err)
{
	BackupList	backups;
	WalSummaries wal = {0};
	bool		ok = inventory_backups(repo, sysid, &backups, err);

	ok = ok && load_wal(repo, sysid, &wal, err);
	if (ok && out != NULL)
		json_array_append_new(out, system_json(sysid, &backups, &wal));
	else if (ok)
		print_system(sysid, &backups, &wal);
	backup_list_free(&backups);
	free(wal.v);
	return ok;
}

static bool
list(const Access *a, json_t *out, DrError *err)
{
	Repository	repo;
	Listing		systems = {0};
	bool		ok;

	if (!access_open(a, true, &repo, err))
		return false;
	ok = inventory_systems(&repo, &systems, err);
	for (size_t i = 0; ok && i < systems.n; i++)
		if (a->system_identifier == NULL || strcmp(systems.names[i], a->system_identifier) == 0)
			ok = list_system(&repo, systems.names[i], out, err);
	if (ok && out == NULL && systems.n == 0)
		printf("The repository holds no cluster yet.\n");
	listing_free(&systems);
	repository_close(&repo);
	return ok;
}

int
list_main(int argc, char **argv)
{
	enum
	{
		OPT_JSON = OPT_COMMAND
	};
	static const struct option options[] = {
		ACCESS_OPTIONS, {"json", no_argument, NULL, OPT_JSON}, {NULL, 0, NULL, 0}
	};
	Access		a = {0};
	json_t	   *out = NULL;
	const char *missing;
	DrError		err;
	int			c;

	opterr = 0;					/* we say it ourselves */
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
	{
		if (c == OPT_JSON && out == NULL)
			out = json_array();
		else if (!access_option(&a, c, optarg))
			return usage_error("list", "option \"%s\" is unknown or lacks its value", argv[optind - 1]);
	}
	if ((missing = access_missing(&a)) != NULL)
		return usage_error("list", "%s", missing);
	if (optind < argc)
		return usage_error("list", "unexpected argument \"%s\"", argv[optind]);
	if (!list(&a, out, &err))
	{
		report_error(&err);
		return EXIT_FAILURE;
	}
	if (out != NULL)
	{
		char	   *text = json_dumps(out, JSON_INDENT(2));

		puts(text);
		free(text);
		json_decref(out);
	}
	return EXIT_SUCCESS;
}
