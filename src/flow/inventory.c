/*
 * inventory.c
 *	  What a repository holds.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/inventory.h"

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
		m->reader = manifest_reader_new(content, n, header.plain_length, header.plain_crc,
										m->name, &m->info, err);
		if (m->reader == NULL)
			r = STORE_FAILED;
	}
	if (r != STORE_OK)
		manifest_close(m);
	return r;
}

void
manifest_close(OpenManifest *m)
{
	manifest_reader_free(m->reader);
	bytes_free(&m->raw);
	backup_info_free(&m->info);
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

	if (!repository_list(repo, "", false, out, err))
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

static bool
load_entry(Repository *repo, const char *sysid, BackupEntry *e, DrError *err)
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
	for (size_t i = 0; ok && i < l.n; i++)
	{
		BackupEntry *e = &out->v[out->n];
		char	   *id = l.names[i] + strlen(prefix);

		id[strcspn(id, "/")] = '\0';
		if (!backup_id_valid(id))
			continue;
		strlcpy(e->id, id, sizeof(e->id));
		ok = load_entry(repo, sysid, e, err);
		out->n++;
	}
	listing_free(&l);
	pfree(prefix);
	if (!ok)
		backup_list_free(out);
	return ok;
}

void
backup_list_free(BackupList *list)
{
	for (size_t i = 0; i < list->n; i++)
		backup_info_free(&list->v[i].info);
	free(list->v);
	memset(list, 0, sizeof(*list));
}
