/*
 * verify.c
 *	  Is a backup in the repository what was stored?
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/verify.h"

#include <stdatomic.h>

#include "access/xlog_internal.h"
#include "flow/aside.h"
#include "flow/inventory.h"
#include "flow/wal.h"

#define ID_TIME_LENGTH	16		/* 20260131T120000Z */

/* An object to look at; has_hash when the manifest knows what it should be. */
typedef struct Wanted
{
	ObjectName	name;
	bool		has_hash;
	uint64		size;
	uint8		sha256[32];
	bool		only_lock;		/* sealed in another way: it was opened when the repository was */
} Wanted;

typedef struct Work
{
	Verify	   *v;
	Wanted	   *wanted;
	size_t		n;
	atomic_size_t next;
	atomic_bool failed;
} Work;

static Wanted *
add_wanted(Work *w, const char *name)
{
	w->wanted = array_room(w->wanted, w->n, sizeof(Wanted));
	memset(&w->wanted[w->n], 0, sizeof(Wanted));
	strlcpy(w->wanted[w->n].name, name, sizeof(ObjectName));
	return &w->wanted[w->n++];
}

static void
found(Verify *v, const char *name, const char *problem)
{
	pthread_mutex_lock(&v->lock);
	v->findings++;
	v->finding(v->arg, name, problem);
	pthread_mutex_unlock(&v->lock);
}

static void
sound(Verify *v, const char *name, uint64 size, const uint8 hash[32])
{
	pthread_mutex_lock(&v->lock);
	v->objects++;
	v->bytes += size;
	v->object(v->arg, name, size, hash);
	pthread_mutex_unlock(&v->lock);
}

/* V1: damage is a finding; whatever else went wrong is an error. */
static bool
verdict(Verify *v, const char *name, const DrError *why, DrError *err)
{
	char		problem[2100];

	if (why->code != DR_DAMAGED && why->code != DR_ABSENT)
	{
		*err = *why;
		return false;
	}
	snprintf(problem, sizeof(problem), why->detail[0] ? "%s (%s)" : "%s", why->message, why->detail);
	found(v, name, problem);
	return true;
}

/* ---- one object ---- */

static bool
check_object(Verify *v, const Wanted *w, Bytes *raw, DrError *err)
{
	uint8		hash[32];
	SealHeader	header;
	uint8	   *content;
	size_t		n;
	uint64		size;
	DrError		why;

	raw->len = 0;
	if (store_get(v->repo->store, w->name, w->has_hash ? Min(w->size, PACK_OBJECT_MAX) : WAL_OBJECT_MAX,
				  raw, &why) != STORE_OK)
		return verdict(v, w->name, &why, err);
	size = raw->len;
	sha256(raw->data, raw->len, hash);
	if (w->has_hash && (size != w->size || memcmp(hash, w->sha256, 32) != 0))
	{
		found(v, w->name, "its size or SHA-256 is not what the manifest says");
		return true;
	}
	if (!repository_unseal(v->repo, w->name, raw, &header, &content, &n, &why))
		return verdict(v, w->name, &why, err);
	sound(v, w->name, size, hash);
	return true;
}

static bool
work(void *arg, DrError *err)
{
	Work	   *w = arg;
	Bytes		raw = {0};
	bool		ok = true;
	size_t		i;

	while (ok && !atomic_load(&w->failed) && (i = atomic_fetch_add(&w->next, 1)) < w->n)
	{
		const Wanted *wanted = &w->wanted[i];
		uint64		before = w->v->findings;

		ok = wanted->only_lock || check_object(w->v, wanted, &raw, err);

		/* What is missing can't be locked; what is damaged stays as long as it may help. */
		if (ok && before == w->v->findings)
			ok = store_extend_lock(w->v->repo->store, wanted->name, err);
	}
	if (!ok)
		atomic_store(&w->failed, true);
	bytes_free(&raw);
	return ok;
}

/* ---- what there is to look at ---- */

/*
 * Where recovery of a backup must at least come to.  One whose manifest can't
 * be read comes last of all, so that it is the one that is looked at.
 */
static XLogRecPtr
stop_of(Verify *v, const char *id)
{
	OpenManifest m;
	DrError		ignored;		/* it is looked at again, when it is chosen */
	XLogRecPtr	stop = PG_UINT64_MAX;

	if (manifest_open(v->repo, v->system_identifier, id, &m, &ignored) != STORE_OK)
		return stop;
	if (manifest_read_all(&m, &ignored))
		stop = m.info.stop_lsn;
	manifest_close(&m);
	return stop;
}

/* Ids begin with their second; two of one second differ in where they stop. */
static void
choose_later(Verify *v, const char *id)
{
	if (v->id[0] == '\0' || stop_of(v, id) > stop_of(v, v->id))
		strlcpy(v->id, id, sizeof(v->id));
}

/* The newest backup that has a manifest. */
static bool
find_latest(Verify *v, DrError *err)
{
	Listing		l;
	char	   *prefix = psprintf("%s/backup/", v->system_identifier);
	bool		ok = repository_list(v->repo, prefix, false, &l, err);
	ObjectName	name;
	Bytes		byte = {0};

	for (size_t i = ok ? l.n : 0; i > 0; i--)
	{
		char	   *id = l.names[i - 1] + strlen(prefix);

		id[strcspn(id, "/")] = '\0';
		if (!backup_id_valid(id))
			continue;
		if (v->id[0] != '\0' && strncmp(id, v->id, ID_TIME_LENGTH) != 0)
			break;
		name_manifest(name, v->system_identifier, id);
		/* One that is emptied is there, too. */
		if (store_get_range(v->repo->store, name, 0, 1, &byte, err) == STORE_OK || err->code == DR_DAMAGED)
			choose_later(v, id);
		else if (err->code != DR_ABSENT)
		{
			ok = false;
			break;
		}
	}
	bytes_free(&byte);
	if (ok)
		listing_free(&l);
	pfree(prefix);
	if (ok && v->id[0] == '\0')
	{
		dr_error(err, DR_ABSENT, "the repository has no complete backup of cluster %s", v->system_identifier);
		ok = dr_hint(err, "Take one with dr_backup('full').");
	}
	return ok;
}

static void
add_wal(Work *w, const BackupInfo *info)
{
	uint32		size = info->wal_segment_size;
	char		file[MAXFNAMELEN];
	ObjectName	name;

	for (uint64 segno = info->start_lsn / size; segno <= (info->stop_lsn - 1) / size; segno++)
	{
		wal_segment_name(file, info->timeline, segno, size);
		name_wal(name, w->v->system_identifier, file);
		add_wanted(w, name);
	}
	if (info->timeline > 1)
	{
		TLHistoryFileName(file, info->timeline);
		name_wal(name, w->v->system_identifier, file);
		add_wanted(w, name);
	}
}

/* Packs and WAL; false with a finding, or with err. */
static bool
read_manifest(Work *w, bool *damaged, DrError *err)
{
	Verify	   *v = w->v;
	OpenManifest m;
	Record		record;
	DrError		why;
	ObjectName	name;
	bool		ok;

	*damaged = false;
	name_manifest(name, v->system_identifier, v->id);
	if (manifest_open(v->repo, v->system_identifier, v->id, &m, &why) != STORE_OK)
	{
		*damaged = verdict(v, name, &why, err);
		return *damaged;
	}
	do
	{
		ok = manifest_next(m.reader, &record, &why);
		if (ok && record.type == RECORD_PACK)
		{
			Wanted	   *wanted = add_wanted(w, record.u.pack.name);

			wanted->has_hash = true;
			wanted->size = record.u.pack.size;
			memcpy(wanted->sha256, record.u.pack.sha256, 32);
		}
	} while (ok && record.type != RECORD_END);
	if (ok)
	{
		sound(v, name, m.object_size, m.sha256);
		add_wanted(w, name)->only_lock = true;
		add_wal(w, &m.info);
	}
	else
		*damaged = ok = verdict(v, name, &why, err);
	manifest_close(&m);
	return ok;
}

/* Without these, nothing opens: they must not lapse before what they open. */
static bool
add_openers(Work *w, DrError *err)
{
	const char *prefixes[] = {"keys/", psprintf("%s/lineage/", w->v->system_identifier)};
	bool		ok = true;

	add_wanted(w, REPOSITORY_OBJECT)->only_lock = true;
	for (int i = 0; ok && i < (int) lengthof(prefixes); i++)
	{
		Listing		l;

		ok = repository_list(w->v->repo, prefixes[i], false, &l, err);
		for (size_t k = 0; ok && k < l.n; k++)
			if (name_generation(l.names[k]) > 0)
				add_wanted(w, l.names[k])->only_lock = true;
		if (ok)
			listing_free(&l);
	}
	return ok;
}

bool
verify_backup(Verify *v, DrError *err)
{
	Work		w = {.v = v};
	bool		damaged;
	bool		ok = true;

	v->objects = v->bytes = v->findings = 0;
	v->id[0] = '\0';
	pthread_mutex_init(&v->lock, NULL);
	if (strcmp(v->backup, "latest") == 0)
		ok = find_latest(v, err);
	else if (backup_id_valid(v->backup))
		strlcpy(v->id, v->backup, sizeof(v->id));
	else
		ok = dr_error(err, DR_CONFIG, "\"%s\" is not the id of a backup", v->backup);
	ok = ok && read_manifest(&w, &damaged, err);
	if (ok && !damaged)
		ok = add_openers(&w, err) && aside_together(w.v->jobs, work, &w, err);
	free(w.wanted);
	pthread_mutex_destroy(&v->lock);
	return ok;
}
