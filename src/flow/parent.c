/*
 * parent.c
 *	  An earlier backup, as the source of what has not changed since.
 *
 * The parent's manifest is read twice: once for its packs, once beside the walk
 * through the data directory, for both have their files in the same order.
 *
 * Reads, and leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/parent.h"

#include "flow/change_map_files.h"
#include "flow/expire_mark.h"

/* A pack of which less than this part is used is left: what it still holds is read again. */
#define LEAVE_BELOW(used, size)	((used) * 3 < (size))

/* Packs beyond this many are left, the emptiest first: each is a request to whoever restores. */
#define PACKS_FREE			64
#define PACK_SHARE			((uint64) 16 * 1024 * 1024)	/* stored bytes that entitle to another one */

/* More corrupt pages than that are no reason to keep the data that they are in. */
#define SUSPECTS_MAX		100000

typedef struct SuspectPage
{
	char	   *path;
	uint32		block;			/* of the file */
} SuspectPage;

struct Parent
{
	Repository *repo;
	OpenManifest manifest;
	ChangeMap  *map;
	uint32		segment_blocks;
	InheritedPack *own;			/* packs that the parent wrote, by number - 1 */
	uint32		n_own;
	InheritedPack *older;		/* those that it inherited */
	uint32		n_older;
	InheritedPack **order;		/* taken over, by new number */
	uint32		n_order;
	SuspectPage *suspects;
	uint32		n_suspects;
	Record		record;			/* where the reader stands */
	bool		at_end;
	uint32	   *blocks;			/* of the file that is composed: its suspects */
};

/* ---- may it serve? ---- */

static bool
unfit(const BackupInfo *parent, DrError *err, const char *why)
{
	dr_error(err, DR_CONFIG, "backup %s can't be the parent", parent->id);
	return dr_detail(err, "%s", why);
}

static bool
check_fit(const BackupInfo *parent, const BackupInfo *info, DrError *err)
{
	if (parent->timeline != info->timeline || parent->stop_timeline != info->timeline)
		return unfit(parent, err, "It is of another timeline.");
	if (parent->lineage != info->lineage)
		return unfit(parent, err, "It was written by another copy of this cluster, or before this one was adopted.");
	if (parent->stop_lsn > info->start_lsn)
		return unfit(parent, err, "It ended after this backup began.");
	if (parent->data_checksums != info->data_checksums)
		return unfit(parent, err, "Data checksums have been switched on or off since.");
	if (parent->block_size != info->block_size || parent->segment_blocks != info->segment_blocks ||
		parent->control_version != info->control_version || parent->catalog_version != info->catalog_version)
		return unfit(parent, err, "It is of another version of PostgreSQL, or of one that was built differently.");
	return true;
}

static bool
check_unmarked(Repository *repo, const BackupInfo *parent, DrError *err)
{
	bool		marked = false;

	return expire_is_marked(repo, parent->system_identifier, parent->id, &marked, err) &&
		(!marked || unfit(parent, err, "Retention has marked it: it may be removed soon."));
}

/* ---- the first reading: packs, and what was corrupt ---- */

static void
note_pack(Parent *p, const ManifestPack *pack)
{
	bool		own = pack->number < PACK_INHERITED;
	InheritedPack **v = own ? &p->own : &p->older;
	uint32	   *n = own ? &p->n_own : &p->n_older;
	InheritedPack *x;

	*v = array_room(*v, *n, sizeof(InheritedPack));
	x = &(*v)[(*n)++];
	memset(x, 0, sizeof(*x));
	x->name = pg_strdup(pack->name);
	x->size = pack->size;
	memcpy(x->sha256, pack->sha256, 32);
	x->used = pack->used;		/* by the parent, until choose_packs is through */
	x->leave = LEAVE_BELOW(pack->used, pack->size);
}

static void
note_suspect(Parent *p, const CorruptPage *page)
{
	if (p->n_suspects == SUSPECTS_MAX)
		return;
	p->suspects = array_room(p->suspects, p->n_suspects, sizeof(SuspectPage));
	p->suspects[p->n_suspects++] = (SuspectPage) {pg_strdup(page->path), page->block % p->segment_blocks};
}

static int
compare_suspects(const void *a, const void *b)
{
	return strcmp(((const SuspectPage *) a)->path, ((const SuspectPage *) b)->path);
}

static int
compare_used(const void *a, const void *b)
{
	const InheritedPack *x = *(InheritedPack *const *) a;
	const InheritedPack *y = *(InheritedPack *const *) b;

	return x->used != y->used ? (x->used > y->used) - (x->used < y->used) : strcmp(x->name, y->name);
}

/* Too many packs for what is in them: leave the emptiest, well below the limit. */
static void
choose_packs(Parent *p)
{
	uint32		n = p->n_own + p->n_older;
	InheritedPack **v = pg_malloc(sizeof(*v) * (n + 1));
	uint64		sum = 0;
	uint64		most;
	uint32		kept = 0;

	for (uint32 i = 0; i < n; i++)
	{
		v[i] = i < p->n_own ? &p->own[i] : &p->older[i - p->n_own];
		sum += v[i]->used;
		kept += !v[i]->leave;
	}
	most = PACKS_FREE + sum / PACK_SHARE;
	if (kept > most)
	{
		qsort(v, n, sizeof(*v), compare_used);
		for (uint32 i = 0; i < n && kept > most / 4 * 3; i++)
		{
			kept -= !v[i]->leave;
			v[i]->leave = true;
		}
	}
	for (uint32 i = 0; i < n; i++)
		v[i]->used = 0;
	free(v);
}

static bool
read_packs(Parent *p, DrError *err)
{
	Record		record;

	do
	{
		if (!manifest_next(p->manifest.reader, &record, err))
			return false;
		if (record.type == RECORD_PACK)
			note_pack(p, &record.u.pack);
		if (record.type == RECORD_CORRUPT)
			note_suspect(p, &record.u.corrupt);
	} while (record.type != RECORD_END);
	if (p->n_suspects == SUSPECTS_MAX)
		return unfit(&p->manifest.info, err, "It holds too many corrupt pages.");
	if (p->n_suspects > 0)
		qsort(p->suspects, p->n_suspects, sizeof(SuspectPage), compare_suspects);
	choose_packs(p);
	return true;
}

/* ---- J3 ---- */

static int
compare_names(const void *a, const void *b)
{
	return strcmp((*(InheritedPack *const *) a)->name, (*(InheritedPack *const *) b)->name);
}

typedef struct Missing
{
	InheritedPack **v;			/* by name */
	uint32		n;
	uint32		found;
} Missing;

static bool
tick_off(void *arg, const char *name, uint64 size, DrError *err)
{
	Missing    *m = arg;

	/* Both are in order: what is skipped is missing. */
	if (m->found < m->n && strcmp(m->v[m->found]->name, name) == 0 && m->v[m->found]->size == size)
		m->found++;
	return true;
}

/* One listing for all of them, for they may be spread over many backups. */
bool
parent_packs_exist(Parent *p, bool inherited_only, DrError *err)
{
	uint32		n = p->n_own + p->n_older;
	char	   *prefix = psprintf("%s/backup/", p->manifest.info.system_identifier);
	Missing		m = {pg_malloc(sizeof(InheritedPack *) * (n + 1)), 0, 0};
	bool		ok = true;

	for (uint32 i = 0; i < n; i++)
	{
		InheritedPack *x = i < p->n_own ? &p->own[i] : &p->older[i - p->n_own];

		if (inherited_only ? x->number > 0 : !x->leave)
			m.v[m.n++] = x;
	}
	if (m.n > 0)
	{
		qsort(m.v, m.n, sizeof(*m.v), compare_names);
		ok = store_list(p->repo->store, prefix, true, tick_off, &m, err);
	}
	if (ok && m.found < m.n)
	{
		dr_error(err, DR_DAMAGED, "object \"%s\" is missing or has another size than it was stored with", m.v[m.found]->name);
		ok = dr_detail(err, "Backup %s refers to it.", p->manifest.info.id);
	}
	pfree(prefix);
	free(m.v);
	return ok;
}

/* ---- life ---- */

bool
parent_open(Parent **out, Repository *repo, const BackupInfo *info, const char *id, DrError *err)
{
	Parent	   *p = pg_malloc0(sizeof(*p));
	bool		ok;

	p->repo = repo;
	p->segment_blocks = info->segment_blocks;
	ok = manifest_open(repo, info->system_identifier, id, &p->manifest, err) == STORE_OK &&
		read_packs(p, err) &&
		check_fit(&p->manifest.info, info, err) &&
		check_unmarked(repo, &p->manifest.info, err) &&
		change_map_load(info->data_directory, info->system_identifier, info->timeline,
						p->manifest.info.start_lsn, info->start_lsn, &p->map, err) &&	/* J1 */
		parent_packs_exist(p, false, err) &&
		manifest_rewind(&p->manifest, err);
	*out = ok ? p : NULL;
	if (!ok)
		parent_close(p);
	return ok;
}

void
parent_close(Parent *p)
{
	if (p == NULL)
		return;
	if (p->map != NULL)
		change_map_free(p->map);
	manifest_close(&p->manifest);
	for (uint32 i = 0; i < p->n_own; i++)
		free(p->own[i].name);
	for (uint32 i = 0; i < p->n_older; i++)
		free(p->older[i].name);
	for (uint32 i = 0; i < p->n_suspects; i++)
		free(p->suspects[i].path);
	free(p->own);
	free(p->older);
	free(p->order);
	free(p->suspects);
	free(p->blocks);
	free(p);
}

/* ---- the second reading: file by file ---- */

/* The parent's record of this file, or NULL. */
static const ManifestFile *
find_file(Parent *p, const char *path, bool *failed, DrError *err)
{
	*failed = false;
	while (!p->at_end)
	{
		bool		file = p->record.type == RECORD_FILE && p->record.u.file.class < FILE_CONTROL;
		int			order = file ? path_compare(p->record.u.file.path, path) : -1;

		if (order >= 0)
			return order == 0 ? &p->record.u.file : NULL;
		if (!manifest_next(p->manifest.reader, &p->record, err))
		{
			*failed = true;
			return NULL;
		}
		p->at_end = p->record.type == RECORD_PACK || p->record.type == RECORD_END;
	}
	return NULL;
}

static InheritedPack *
pack_of(Parent *p, uint32 number)
{
	return number < PACK_INHERITED ? &p->own[number - 1] : &p->older[number - PACK_INHERITED - 1];
}

static bool
is_left(void *arg, uint32 pack)
{
	return pack_of(arg, pack)->leave;
}

static void
add_suspects(Parent *p, const char *path, ComposeInput *in)
{
	SuspectPage key = {unconstify(char *, path), 0};
	SuspectPage *hit = p->n_suspects == 0 ? NULL :
		bsearch(&key, p->suspects, p->n_suspects, sizeof(SuspectPage), compare_suspects);

	if (hit == NULL)
		return;
	while (hit > p->suspects && strcmp(hit[-1].path, path) == 0)
		hit--;
	for (; hit < p->suspects + p->n_suspects && strcmp(hit->path, path) == 0; hit++)
	{
		p->blocks = array_room(p->blocks, in->n_suspects, sizeof(uint32));
		p->blocks[in->n_suspects++] = hit->block;
	}
	in->suspects = p->blocks;
}

bool
parent_compose(Parent *p, const char *path, uint32 segment, uint64 size, Composition *c,
			   uint64 *changed_bytes, bool *failed, DrError *err)
{
	const ManifestFile *file = find_file(p, path, failed, err);
	FileChanges changes;
	ComposeInput in = {.parent = file, .size = size, .changes = &changes, .leave = is_left, .arg = p};
	bool		ok;

	*changed_bytes = size;
	if (file == NULL || file->class != FILE_MAIN || size % BLCKSZ != 0)
		return false;
	change_map_file(p->map, path, segment, p->segment_blocks, &changes);
	free(p->blocks);
	p->blocks = NULL;
	add_suspects(p, path, &in);
	ok = compose(c, &in);
	*changed_bytes = (uint64) c->changed_blocks * BLCKSZ;
	if (!ok)
		composition_free(c);
	return ok;
}

uint64
parent_estimate(Parent *p, const char *path, uint32 segment, uint64 size)
{
	FileChanges changes;
	uint64		blocks = 0;

	change_map_file(p->map, path, segment, p->segment_blocks, &changes);
	if (changes.everything)
		return size;
	for (uint32 b = change_map_next(&changes, 0); b < Min(changes.limit, size / BLCKSZ); b = change_map_next(&changes, b + 1))
		blocks++;
	return blocks * BLCKSZ + (changes.limit < size / BLCKSZ ? size - (uint64) changes.limit * BLCKSZ : 0);
}

void
parent_inherit(Parent *p, Frame *frame)
{
	InheritedPack *x = pack_of(p, frame->pack);

	if (x->number == 0)
	{
		p->order = array_room(p->order, p->n_order, sizeof(*p->order));
		p->order[p->n_order++] = x;
		x->number = PACK_INHERITED + p->n_order;
	}
	x->frames++;
	x->used += frame->stored;
	frame->pack = x->number;
}

InheritedPack *
parent_inherited(Parent *p, uint32 i)
{
	return i < p->n_order ? p->order[i] : NULL;
}
