/*
 * verify_pages.c
 *	  Verification: the frames of every manifest, pack by pack, to the readers.
 *
 * Frames are collected until all that a manifest places in a pack are known,
 * which is mostly soon (V4); then the pack is read, once for all of them.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/verify_private.h"

/* A pack of the manifest that is gone through. */
typedef struct Collected
{
	Seen	   *o;				/* NULL: it is not to be read */
	uint32		frames;			/* that the manifest places in it, */
	uint32		met;			/* and met so far */
	FetchFrame *v;				/* of them, those that are to be judged */
	uint32		n;
} Collected;

typedef struct Pages
{
	Verification *w;
	Readers    *readers;
	Chosen	   *b;
	OpenManifest *m;
	Collected  *packs[2];		/* by their numbers: own, inherited */
	uint32		n_packs[2];
} Pages;

/* ---- what was judged before ---- */

/* Offset, and a word for all else that a manifest says of a frame. */
static uint64
frame_key(const Frame *f)
{
	uint32		rest[3] = {f->stored, f->raw, f->crc};

	return (uint64) f->offset << 32 | crc32c(rest, sizeof(rest));
}

static int
compare_keys(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

static bool
was_judged(const Seen *o, const Frame *f)
{
	uint64		key = frame_key(f);

	return o->n_frames > 0 && bsearch(&key, o->frames, o->n_frames, sizeof(uint64), compare_keys) != NULL;
}

static void
remember(Seen *o, const Collected *c)
{
	o->frames = pg_realloc(o->frames, sizeof(uint64) * ((size_t) o->n_frames + c->n + 1));
	for (uint32 i = 0; i < c->n; i++)
		o->frames[o->n_frames++] = frame_key(&c->v[i].frame);
	qsort(o->frames, o->n_frames, sizeof(uint64), compare_keys);
}

/* ---- collecting ---- */

static bool
damaged(Pages *p, DrError *err, const char *why)
{
	dr_error(err, DR_DAMAGED, "manifest \"%s\" is damaged", p->m->name);
	return dr_detail(err, "%s", why);
}

static void
note_pack(Pages *p, const ManifestPack *pack)
{
	int			kind = pack->number > PACK_INHERITED;
	Seen	   *o = seen_find(p->w, pack->name);
	Collected  *c;

	p->packs[kind] = array_room(p->packs[kind], p->n_packs[kind], sizeof(Collected));
	c = memset(&p->packs[kind][p->n_packs[kind]++], 0, sizeof(Collected));
	c->frames = pack->frames;
	pthread_mutex_lock(&p->w->v->lock);
	if (o != NULL && (o->flags & (SEEN_LISTED | SEEN_BAD | SEEN_PROVEN)) == SEEN_LISTED)
		c->o = o;
	pthread_mutex_unlock(&p->w->v->lock);
}

/* False: the readers have failed. */
static bool
send(Pages *p, Collected *c)
{
	ReadJob		job = {.o = c->o,.frames = c->v,.n_frames = c->n};

	if (c->n == 0)
		return true;
	if (p->w->n_chosen > 1)
		remember(c->o, c);		/* V3 */
	c->v = NULL;
	c->n = 0;
	return readers_push(p->readers, &job);
}

static bool
add_frame(Pages *p, const FetchFrame *frame, DrError *err)
{
	int			kind = frame->frame.pack > PACK_INHERITED;
	uint32		i = (kind ? frame->frame.pack - PACK_INHERITED : frame->frame.pack) - 1;
	Collected  *c = i < p->n_packs[kind] ? &p->packs[kind][i] : NULL;

	if (c == NULL || c->met++ == c->frames)
	{
		judged_file_left(frame->file);
		return damaged(p, err, "A frame lies in no pack, or in one that has all of its frames already.");
	}
	if (c->o == NULL || was_judged(c->o, &frame->frame))
		judged_file_left(frame->file);
	else
	{
		c->v = array_room(c->v, c->n, sizeof(FetchFrame));
		c->v[c->n++] = *frame;
	}
	return c->met < c->frames || send(p, c) || dr_error(err, DR_CANCELLED, "stopped");	/* readers_finish knows why */
}

static JudgedFile *
judged_file(Pages *p, const ManifestFile *m)
{
	const char *slash = strrchr(m->path, '/');
	RelationFile relation;
	JudgedFile *file;

	if (m->class < FILE_MAIN || m->class > FILE_INIT || !relation_file_parse(slash ? slash + 1 : m->path, &relation))
		return NULL;
	file = pg_malloc0(sizeof(*file));
	file->path = pg_strdup(m->path);
	file->class = m->class;
	file->first_block = relation.segment * chosen_info(p->b)->segment_blocks;
	file->backup = p->b;
	atomic_init(&file->frames_left, m->n_frames);
	return file;
}

/* The file's checksum follows from those of its frames; with extents there is none. */
static bool
checksum_fits(const ManifestFile *m)
{
	uint32		crc = 0;

	for (uint32 i = 0; m->n_extents == 0 && i < m->n_frames; i++)
		crc = i == 0 ? m->frames[i].crc : crc32c_combine(crc, m->frames[i].crc, m->frames[i].raw);
	return crc == m->crc;
}

static bool
add_file(Pages *p, const ManifestFile *m, DrError *err)
{
	JudgedFile *file;
	FetchSlice *slices = NULL;
	uint32	   *first = NULL;
	uint64		size = m->size;
	uint64		at = 0;
	bool		ok = true;

	if (!checksum_fits(m))
		return damaged(p, err, "A file's checksum is not that of its frames.");
	if (m->n_frames == 0)
		return true;
	file = judged_file(p, m);
	if (m->n_extents > 0)
		slices = fetch_slices(m, &first, &size);
	if (file != NULL)
		file->slices = slices;
	for (uint32 i = 0; i < m->n_frames; i++)
	{
		FetchFrame	frame = {.frame = m->frames[i],.file = file,.at = at};

		if (file != NULL && slices != NULL)
		{
			frame.slices = slices + first[i];
			frame.n_slices = first[i + 1] - first[i];
		}
		at += m->frames[i].raw;
		if (ok)
			ok = add_frame(p, &frame, err);
		else
			judged_file_left(file);
	}
	if (file == NULL)
		free(slices);
	free(first);
	return ok;
}

static bool
read_files(Pages *p, DrError *err)
{
	Record		record = {0};
	bool		ok = manifest_rewind(p->m, err);

	while (ok && record.type != RECORD_END)
	{
		ok = manifest_next(p->m->reader, &record, err);
		if (ok && record.type == RECORD_PACK)
			note_pack(p, &record.u.pack);
	}
	record.type = 0;
	ok = ok && manifest_rewind(p->m, err);
	while (ok && record.type != RECORD_END)
	{
		ok = manifest_next(p->m->reader, &record, err);
		if (ok && record.type == RECORD_FILE)
			ok = add_file(p, &record.u.file, err);
	}
	return ok;
}

static void
pages_free(Pages *p)
{
	for (int kind = 0; kind < 2; kind++)
	{
		for (uint32 i = 0; i < p->n_packs[kind]; i++)
		{
			for (uint32 k = 0; k < p->packs[kind][i].n; k++)
				judged_file_left(p->packs[kind][i].v[k].file);
			free(p->packs[kind][i].v);
		}
		free(p->packs[kind]);
	}
}

/* A manifest of several is fetched again: those that are open all stay in memory. */
static bool
read_backup(Verification *w, Readers *r, Chosen *b, DrError *err)
{
	OpenManifest again = {0};
	Pages		p = {.w = w,.readers = r,.b = b,.m = b->kept ? &b->m : &again};
	ObjectName	name;
	DrError		why;
	bool		ok = p.m == &b->m ||
		manifest_open(w->v->repo, w->v->system_identifier, b->id, &again, &why) == STORE_OK;

	ok = ok && read_files(&p, &why);
	pages_free(&p);
	if (p.m == &again)
		manifest_close(&again);
	if (ok)
		return true;
	name_manifest(name, w->v->system_identifier, b->id);
	return verify_verdict(w, seen_find(w, name), &why, err);
}

bool
verify_frames(Verification *w, Readers *r, DrError *err)
{
	for (size_t i = 0; i < w->n_chosen; i++)
		if (w->chosen[i].readable && !read_backup(w, r, &w->chosen[i], err))
			return false;
	return true;
}
