/*
 * agent_ops.c
 *	  The agent's short ops: open, archive, adopt, check, sync.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/agent.h"

#include "access/xlog_internal.h"
#include "flow/aside.h"
#include "flow/expire_mark.h"
#include "flow/inventory.h"
#include "flow/lineage.h"
#include "flow/tail_claim.h"

#define LINEAGE_CHECK_US	1000000

static bool
bad_request(DrError *err, const char *op)
{
	return dr_error(err, DR_INTERNAL, "protocol violation: op \"%s\" lacks a value or has a wrong one", op);
}

static const char *
lineage_name(LineageState state)
{
	return state == LINEAGE_OURS ? "ours" : state == LINEAGE_FOREIGN ? "foreign" : "unregistered";
}

/* ---- open ---- */

static bool
check_version(json_t *request, DrError *err)
{
	int			protocol = (int) json_integer_value(json_object_get(request, "protocol"));
	const char *version = json_string_value(json_object_get(request, "version"));

	if (protocol == PGDR_PROTOCOL && version != NULL && strcmp(version, PGDR_VERSION) == 0)
		return true;
	dr_error(err, DR_CONFIG, "program and module are of different versions");
	dr_detail(err, "The program is " PGDR_VERSION ", the module %s.", version ? version : "unknown");
	return dr_hint(err, "Install both from one build and restart the server.");
}

/*
 * What the server's environment says of credentials and proxies: it comes by
 * the socket, so that no environment of a process holds more than before.  Only
 * the control thread runs beside us, and that one never looks.
 */
static void
take_environment(json_t *variables)
{
	size_t		i;
	json_t	   *variable;

	json_array_foreach(variables, i, variable)
	{
		const char *text = json_string_value(variable);
		const char *equals = text ? strchr(text, '=') : NULL;
		char	   *name = equals ? pnstrdup(text, equals - text) : NULL;

		if (name != NULL && name[0] != '\0')
			setenv(name, equals + 1, 1);
		free(name);
	}
}

/* A probe's, while a repository is created or checked. */
static void
agent_emit_finding(void *arg, const char *name, const char *status, const char *detail, const char *hint)
{
	json_t	   *o = json_pack("{s:s, s:s, s:s, s:o, s:b}", "event", "check", "name", name,
							  "status", status, "detail", json_lossy(detail), "probe", true);

	if (hint[0] != '\0')
		json_object_set_new(o, "hint", json_lossy(hint));
	agent_emit(o);
}

bool
agent_open(Agent *a, json_t *request, DrError *err)
{
	RepositoryAccess access = {.finding = agent_emit_finding};
	const char *sysid;
	const char *data_directory;
	const char *hold_at = "";
	json_int_t	max_rate = 0;
	json_int_t	clock_ahead = 0;
	int			segment_size;
	int			writer;
	int			patient = 0;
	LineageState state = LINEAGE_OURS;

	if (a->opened || !check_version(request, err))
		return a->opened ? bad_request(err, "open") : false;
	if (json_unpack(request, "{s:s, s:s, s?s, s:s, s:s, s:i, s:i, s:i, s?I, s:b, s?b, s?s, s?I}",
					"repository", &access.url, "key_file", &access.key_file,
					"credentials_file", &access.credentials_file, "system_identifier", &sysid,
					"data_directory", &data_directory, "wal_segment_size", &segment_size,
					"jobs", &a->jobs, "compression_level", &a->level,
					"max_rate", &max_rate, "writer", &writer, "patient", &patient, "hold_at", &hold_at,
					"clock_ahead", &clock_ahead) != 0 ||
		!system_identifier_valid(sysid) || !IsValidWalSegSize(segment_size) || a->jobs < 1 || a->jobs > 64 || max_rate < 0)
		return bad_request(err, "open");
	access.impatient = !patient;
	time_set_ahead(clock_ahead * 1000000);
	take_environment(json_object_get(request, "environment"));
	if (!repository_open(&a->repo, &access, writer, err))
		return false;
	if (writer ? !lineage_require(&a->repo, sysid, data_directory, &a->lineage_generation, err) :
		!lineage_state(&a->repo, sysid, data_directory, &state, err))
	{
		repository_close(&a->repo);
		return false;
	}
	strlcpy(a->system_identifier, sysid, sizeof(a->system_identifier));
	a->data_directory = pg_strdup(data_directory);
	a->access = (Access) {pg_strdup(access.url), pg_strdup(access.key_file),
	access.credentials_file ? pg_strdup(access.credentials_file) : NULL, a->system_identifier};
	a->wal_segment_size = segment_size;
	a->max_rate = (uint64) max_rate;
	a->hold_at = pg_strdup(hold_at);
	frontier_init(&a->frontier, &a->repo, a->system_identifier);
	a->opened = true;
	agent_emit(json_pack("{s:s, s:o, s:b, s:b, s:s}", "event", "done",
						 "repository_id", json_hex(a->repo.id, 16),
						 "encrypted", !a->repo.recipient.none, "created", a->repo.created,
						 "lineage", lineage_name(state)));
	return true;
}

/* ---- archive ---- */

/*
 * Another copy may have been adopted since the last file: then this one must
 * not go on.  The full check says who.  At most one request a second: what
 * slips through in between is of our own old timeline, create-only as ever.
 */
static bool
still_the_writer(Agent *a, DrError *err)
{
	int64		now = monotonic_now();

	if (a->lineage_checked != 0 && now - a->lineage_checked < LINEAGE_CHECK_US)
		return true;
	if (!lineage_unchanged(&a->repo, a->system_identifier, a->lineage_generation, err) &&
		(err->code != DR_LINEAGE ||
		 !lineage_require(&a->repo, a->system_identifier, a->data_directory, &a->lineage_generation, err)))
		return false;
	a->lineage_checked = now;
	return true;
}

bool
agent_may_store(void *arg, DrError *err)
{
	Agent	   *a = arg;
	bool		ok;

	pthread_mutex_lock(&a->lineage_lock);
	ok = still_the_writer(a, err);
	pthread_mutex_unlock(&a->lineage_lock);
	return ok;
}

WalSource
agent_wal_source(Agent *a)
{
	return (WalSource) {.repo = &a->repo, .sysid = a->system_identifier, .data_directory = a->data_directory,
		.segment_size = a->wal_segment_size, .lineage = a->lineage_generation, .level = a->level,
		.may_store = agent_may_store, .arg = a};
}

/*
 * The lock is held.  What would hide records that others shipped is not archived.
 * Of the timeline that is written we ask for many segments at once, so that there is
 * no request for each; of an older one the unfinished segment has another name now.
 */
static bool
claim_segment(Agent *a, const WalFile *wal, DrError *err)
{
	WalSource	source = agent_wal_source(a);
	uint64		segno = wal_segment_number(wal, a->wal_segment_size);
	bool		current = pg_wal_is_current(&source, wal->timeline);
	uint64		around = current ? WAL_WINDOW : 0;
	TailQuestion q = {.timeline = wal->timeline,.first = segno - Min(segno, around),.last = segno + around,.needed = segno};
	bool		beyond;

	if (!tail_is_ours(&source, &q, &beyond, err))
		return false;
	if (current)
	{
		a->claimed = wal->timeline;
		a->claimed_first = q.first;
		a->claimed_last = beyond ? q.last : PG_UINT64_MAX;
	}
	return true;
}

static bool
is_claimed(const Agent *a, const WalFile *wal)
{
	uint64		segno = wal_segment_number(wal, a->wal_segment_size);

	return wal->timeline == a->claimed && segno >= a->claimed_first && segno <= a->claimed_last;
}

typedef struct Permission
{
	Agent	   *agent;
	const char *file;
} Permission;

static bool
may_archive(void *arg, DrError *err)
{
	Permission *p = arg;
	Agent	   *a = p->agent;
	WalFile		wal;
	bool		ok;

	if (!agent_may_store(a, err))
		return false;
	if (!wal_file_parse(p->file, &wal) || wal.kind != KIND_WAL)
		return true;
	pthread_mutex_lock(&a->lineage_lock);
	ok = is_claimed(a, &wal) || claim_segment(a, &wal, err);
	pthread_mutex_unlock(&a->lineage_lock);
	return ok;
}

static bool
join_check(void *arg, DrError *err)
{
	return aside_join(arg, err);
}

/* It is asked while the file is read and compressed, and waited for before it is stored. */
static bool
archive_checked(void *arg, WalWorkspace *space, const char *file, const char *path, WalStored *stored,
				DrError *err)
{
	Agent	   *a = arg;
	Permission	permission = {a, file};
	Aside		check;
	DrError		ignored;
	bool		ok;

	aside_start(&check, may_archive, &permission);
	ok = wal_archive(&a->repo, space, a->system_identifier, file, path, join_check, &check, stored, err);
	aside_join(&check, &ignored);	/* when it did not come that far */
	return ok;
}

bool
agent_archive(Agent *a, json_t *request, DrError *err)
{
	const char *name;
	WalStored	stored;
	bool		ok;

	if (json_unpack(request, "{s:s}", "name", &name) != 0)
		return bad_request(err, "archive");
	store_set_patience(a->repo.store, STORE_PATIENCE_ARCHIVE);
	if (a->ahead == NULL)
		a->ahead = ahead_new(a->data_directory, ahead_threads(a->jobs, a->wal_segment_size), a->level,
							 archive_checked, a);
	agent_alive(a, true);
	ok = ahead_take(a->ahead, name, &stored, err);
	agent_alive(a, false);
	if (!ok)
		return false;
	agent_emit(json_pack("{s:s, s:s, s:I, s:o, s:b, s:I}", "event", "done", "object", stored.object,
						 "size", (json_int_t) stored.size, "sha256", json_hex(stored.sha256, 32),
						 "existed", stored.existed, "written_at", (json_int_t) stored.written_at));
	if (object_kind(stored.object) == KIND_WAL)
		frontier_reached(&a->frontier, name);
	return true;
}

/* ---- adopt ---- */

bool
agent_adopt(Agent *a, json_t *request, DrError *err)
{
	uint32		generation;

	if (!store_prepare(a->repo.store, err) ||
		!lineage_adopt(&a->repo, a->system_identifier, a->data_directory, &generation, err))
		return false;
	agent_emit(json_pack("{s:s, s:i}", "event", "done", "generation", (int) generation));
	return true;
}

/* ---- check ---- */

static void
emit_check(const char *name, const char *status, const char *detail, const char *hint)
{
	json_t	   *o = json_pack("{s:s, s:s, s:s, s:o}", "event", "check", "name", name,
							  "status", status, "detail", json_lossy(detail));

	if (hint[0] != '\0')
		json_object_set_new(o, "hint", json_lossy(hint));
	agent_emit(o);
}

/* What it finds is what there is to say: a store that fails has been reported. */
static void
check_store(Agent *a)
{
	DrError		err;

	if (!store_prepare(a->repo.store, &err))
		agent_emit_finding(NULL, "create_only", "critical", err.message, err.hint);
	else
		store_probe(a->repo.store, agent_emit_finding, NULL, &err);
}

static void
check_lineage(Agent *a)
{
	LineageState state;
	DrError		err;

	if (!lineage_state(&a->repo, a->system_identifier, a->data_directory, &state, &err))
		emit_check("lineage", "critical", err.message, err.hint);
	else if (state == LINEAGE_FOREIGN)
		emit_check("lineage", "critical", "another copy of this cluster is the repository's writer",
				   "If the other copy is gone for good and this one takes over, call dr_adopt().");
	else if (state == LINEAGE_UNREGISTERED)
		emit_check("lineage", "warning", "nothing has been written for this cluster yet",
				   "The first archived segment or backup registers it.");
	else
		emit_check("lineage", "ok", "this cluster is the repository's writer", "");
}

bool
agent_check(Agent *a, json_t *request, DrError *err)
{
	char		text[256];

	snprintf(text, sizeof(text), "repository can be read, keyring generation %u", a->repo.keyring.generation);
	emit_check("repository", "ok", text, "");
	if (a->repo.recipient.none)
		emit_check("encryption", "warning", "the repository is not encrypted",
				   "Whoever can read the repository can read the database.");
	else
		emit_check("encryption", "ok", "the key file opens the repository", "");
	check_store(a);
	check_lineage(a);
	agent_emit(json_pack("{s:s}", "event", "done"));
	return true;
}

/* ---- sync ---- */

static void
emit_damaged(const char *name, const DrError *err)
{
	char		text[2100];

	snprintf(text, sizeof(text), "%s%s%s", err->message, err->detail[0] ? ": " : "", err->detail);
	agent_emit(json_pack("{s:s, s:s, s:o}", "event", "damaged", "name", name, "message", json_lossy(text)));
}

static void
emit_inventory_object(const char *name, uint64 size, const uint8 *hash, const char *backup)
{
	agent_emit(json_pack("{s:s, s:s, s:I, s:o, s:s}", "event", "object", "name", name,
						 "size", (json_int_t) size, "sha256", json_hex(hash, 32), "backup", backup));
}

static bool
sync_backup(Agent *a, const char *id, DrError *err)
{
	OpenManifest m;
	Record		record;
	DrError		why;
	json_t	   *summary;
	StoreResult r = manifest_open(&a->repo, a->system_identifier, id, &m, &why);

	if (r == STORE_ABSENT)
		return true;			/* in progress, or interrupted */
	if (r == STORE_FAILED && why.code != DR_DAMAGED)
	{
		*err = why;				/* a store that can't be read says nothing of the backup */
		return false;
	}
	if (r == STORE_FAILED)
	{
		ObjectName	name;

		name_manifest(name, a->system_identifier, id);
		emit_damaged(name, &why);
		return true;
	}
	do
	{
		if (!manifest_next(m.reader, &record, &why))
		{
			emit_damaged(m.name, &why);
			manifest_close(&m);
			return true;
		}
		if (record.type == RECORD_PACK)
			emit_inventory_object(record.u.pack.name, record.u.pack.size, record.u.pack.sha256, id);
	} while (record.type != RECORD_END);
	emit_inventory_object(m.name, m.object_size, m.sha256, id);
	summary = backup_info_summary(&m.info);
	json_object_set_new(summary, "event", json_string("backup"));
	agent_emit(summary);
	manifest_close(&m);
	return true;
}

static bool
sync_backups(Agent *a, DrError *err)
{
	Listing		l;
	char	   *prefix = psprintf("%s/backup/", a->system_identifier);
	bool		ok = repository_list(&a->repo, prefix, false, &l, err);

	for (size_t i = 0; ok && i < l.n; i++)
	{
		char	   *id = l.names[i] + strlen(prefix);

		id[strcspn(id, "/")] = '\0';
		if (backup_id_valid(id))
			ok = sync_backup(a, id, err);
	}
	if (ok)
		listing_free(&l);
	pfree(prefix);
	return ok;
}

static bool
emit_wal(void *arg, const char *name, uint64 size, DrError *err)
{
	ObjectKind	kind = object_kind(name);

	if (kind != KIND_UNKNOWN && kind != KIND_FRONTIER && kind != KIND_TAIL)
		agent_emit(json_pack("{s:s, s:s, s:I}", "event", "wal", "name", name, "size", (json_int_t) size));
	return true;
}

/* What is missing and had been marked is no loss: retention removed it. */
static bool
sync_mark(Agent *a, DrError *err)
{
	ExpireMark	m;
	DrError		why;
	ObjectName	name;

	if (!expire_mark_load(&a->repo, a->system_identifier, &m, &why))
	{
		*err = why;
		name_expiry(name, a->system_identifier, m.generation);
		if (why.code == DR_DAMAGED)
			emit_damaged(name, &why);
		return why.code == DR_DAMAGED;
	}
	for (size_t i = 0; i < m.n_backups; i++)
		agent_emit(json_pack("{s:s, s:s}", "event", "marked", "backup", m.backups[i].id));
	for (size_t i = 0; i < m.n_wal; i++)
		agent_emit(json_pack("{s:s, s:s, s:s}", "event", "marked_wal", "first", m.wal[i].first,
							 "last", m.wal[i].last));
	expire_mark_free(&m);
	return true;
}

bool
agent_sync(Agent *a, json_t *request, DrError *err)
{
	char	   *prefix = psprintf("%s/wal/", a->system_identifier);
	bool		ok = sync_mark(a, err) && sync_backups(a, err) &&
		store_list(a->repo.store, prefix, true, emit_wal, NULL, err);

	pfree(prefix);
	if (ok)
		agent_emit(json_pack("{s:s}", "event", "done"));
	return ok;
}
