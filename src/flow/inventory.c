/*
 * inventory.c
 *	  What a repository holds.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/inventory.h"

#include <stdatomic.h>

#include "flow/aside.h"

#define LOADERS			4		/* each may hold a whole manifest */
#define KEEP_FETCHED_MAX	(16 * 1024 * 1024)

StoreResult
manifest_open(Repository *repo, const char *sysid, const char *id, OpenManifest *m, DrError *err)
{
	SealHeader	header;
	uint8	   *content;
	size_t		n;
	StoreResult r;

	memset(m, 0, sizeof(*m));
	name_manifest(m->name, sysid, id);
	r = store_get(repo->store, m->name, MANIFEST_OBJECT_MAX, &m->raw, err);
	if (r == STORE_ABSENT && !repository_confirm_absent(repo, err))
		r = STORE_FAILED;
	if (r == STORE_OK)
	{
		m->object_size = m->raw.len;
		sha256(m->raw.data, m->raw.len, m->sha256);
		if (!repository_unseal(repo, m->name, &m->raw, &header, &content, &n, err))
			r = STORE_FAILED;
	}
	if (r == STORE_OK)
	{
		m->content = content;
		m->content_length = n;
		m->plain_length = header.plain_length;
		m->plain_crc = header.plain_crc;
		if (!manifest_rewind(m, err))
			r = STORE_FAILED;
	}
	if (r != STORE_OK)
		manifest_close(m);
	return r;
}

bool
manifest_rewind(OpenManifest *m, DrError *err)
{
	/* What is known of the backup stays known meanwhile. */
	BackupInfo *info = m->info.id[0] == '\0' ? &m->info : &m->again;

	manifest_reader_free(m->reader);
	backup_info_free(&m->again);
	memset(&m->again, 0, sizeof(m->again));
	m->reader = manifest_reader_new(m->content, m->content_length, m->plain_length, m->plain_crc,
									m->name, info, err);
	return m->reader != NULL;
}

void
manifest_close(OpenManifest *m)
{
	manifest_reader_free(m->reader);
	bytes_free(&m->raw);
	backup_info_free(&m->info);
	backup_info_free(&m->again);
	memset(m, 0, sizeof(*m));
}

bool
manifest_read_all(OpenManifest *m, DrError *err)
{
	Record		record;

	do
	{
		if (!manifest_next(m->reader, &record, err))
			return false;
	} while (record.type != RECORD_END);
	return true;
}

bool
inventory_systems(Repository *repo, Listing *out, DrError *err)
{
	size_t		kept = 0;

	*out = repo->top;			/* listed when it was opened, if so */
	memset(&repo->top, 0, sizeof(repo->top));
	if (out->n == 0 && !repository_list(repo, "", false, out, err))
		return false;
	for (size_t i = 0; i < out->n; i++)
	{
		char	   *name = out->names[i];
		size_t		len = strlen(name);

		if (name[len - 1] == '/')
		{
			name[len - 1] = '\0';
			if (system_identifier_valid(name))
			{
				out->names[kept++] = name;
				continue;
			}
		}
		free(name);
	}
	out->n = kept;
	return true;
}

/* Keep what was fetched for the newest one: that is the one that is mostly wanted. */
static void
keep_fetched(BackupEntry *e, OpenManifest *m)
{
	manifest_reader_free(m->reader);
	m->reader = NULL;
	e->fetched = pg_malloc(sizeof(*m));
	*e->fetched = *m;
}

static bool
load_entry(Repository *repo, const char *sysid, BackupEntry *e, bool newest, DrError *err)
{
	OpenManifest m;
	StoreResult r = manifest_open(repo, sysid, e->id, &m, &e->error);

	e->has_manifest = r != STORE_ABSENT;
	if (r == STORE_OK)
	{
		e->manifest_size = m.object_size;
		memcpy(e->manifest_sha256, m.sha256, 32);
		e->sound = manifest_read_all(&m, &e->error);
		if (e->sound)
		{
			e->info = m.info;
			memset(&m.info, 0, sizeof(m.info));
		}
		if (e->sound && newest && m.object_size <= KEEP_FETCHED_MAX)
			keep_fetched(e, &m);
		else
			manifest_close(&m);
	}
	/* Not that it is damaged, but that it could not be read: no reason to pass over it. */
	if (r == STORE_FAILED && e->error.code != DR_DAMAGED)
	{
		*err = e->error;
		return false;
	}
	return true;
}

/* Several threads take the next entry until there is none. */
typedef struct Loading
{
	Repository *repo;
	const char *sysid;
	BackupList *list;
	atomic_size_t next;
	atomic_bool failed;
} Loading;

static bool
load_entries(void *arg, DrError *err)
{
	Loading    *l = arg;
	size_t		i;

	while (!atomic_load(&l->failed) && (i = atomic_fetch_add(&l->next, 1)) < l->list->n)
		if (!load_entry(l->repo, l->sysid, &l->list->v[i], i == l->list->n - 1, err))
		{
			atomic_store(&l->failed, true);
			return false;
		}
	return true;
}

static bool
load_all(Repository *repo, const char *sysid, BackupList *list, DrError *err)
{
	Loading		loading = {.repo = repo, .sysid = sysid, .list = list};

	return aside_together((int) Min(list->n, LOADERS), load_entries, &loading, err);
}

bool
inventory_backups(Repository *repo, const char *sysid, BackupList *out, DrError *err)
{
	Listing		l;
	char	   *prefix = psprintf("%s/backup/", sysid);
	bool		ok = repository_list(repo, prefix, false, &l, err);

	memset(out, 0, sizeof(*out));
	if (!ok)
		memset(&l, 0, sizeof(l));
	out->v = pg_malloc0(sizeof(BackupEntry) * (l.n + 1));
	for (size_t i = 0; i < l.n; i++)
	{
		char	   *id = l.names[i] + strlen(prefix);

		id[strcspn(id, "/")] = '\0';
		if (backup_id_valid(id))
			strlcpy(out->v[out->n++].id, id, sizeof(out->v->id));
	}
	listing_free(&l);
	pfree(prefix);
	ok = ok && load_all(repo, sysid, out, err);
	if (!ok)
		backup_list_free(out);
	return ok;
}

void
backup_list_free(BackupList *list)
{
	for (size_t i = 0; i < list->n; i++)
	{
		backup_info_free(&list->v[i].info);
		if (list->v[i].fetched != NULL)
			manifest_close(list->v[i].fetched);
		free(list->v[i].fetched);
	}
	free(list->v);
	memset(list, 0, sizeof(*list));
}
