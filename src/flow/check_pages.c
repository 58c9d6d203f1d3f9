/*
 * check_pages.c
 *	  Corrupt pages in the files of the running server.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/check_pages.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "flow/inventory.h"
#include "flow/rate.h"
#include "flow/read_pages.h"

#define REREADS			6		/* Q1 */
#define FOUND_MAX		10000	/* pages, and of them so many are looked for in backups: */
#define LOOKED_FOR_MAX	1000
#define SUSPECTS_MAX	10000
#define FLUSH_WAIT_MS	60000

/* A page with an LSN that the flush pointer had not reached when it was read. */
typedef struct Suspect
{
	CorruptPage page;			/* path is owned */
	char	   *full_path;
	off_t		at;
} Suspect;

typedef struct Check
{
	CheckPages *c;
	Rate		rate;
	char	   *raw;			/* FRAME_MAX, aligned */
	char	   *page;			/* BLCKSZ, aligned: one that is read again */
	CheckedPage *found;
	size_t		n_found;
	bool		more;			/* than FOUND_MAX */
	Suspect    *suspects;
	size_t		n_suspects;
} Check;

static void
set_phase(CheckPages *c, const char *phase)
{
	pthread_mutex_lock(&c->lock);
	c->phase = phase;
	pthread_mutex_unlock(&c->lock);
}

void
check_pages_progress(CheckPages *c, const char **phase, uint64 *bytes, uint64 *total, uint64 *files)
{
	pthread_mutex_lock(&c->lock);
	*phase = c->phase;
	*bytes = c->done;
	*total = c->total;
	*files = c->files;
	pthread_mutex_unlock(&c->lock);
}

/* ---- the files ---- */

static bool
is_relation(const WalkEntry *e)
{
	return !e->is_directory && e->class >= FILE_MAIN && e->class <= FILE_INIT;
}

static void
add_found(Check *k, const CorruptPage *page, const char *problem)
{
	CheckedPage *p;

	k->more |= k->n_found == FOUND_MAX;
	if (k->n_found == FOUND_MAX)
		return;
	k->found = array_room(k->found, k->n_found, sizeof(CheckedPage));
	p = memset(&k->found[k->n_found++], 0, sizeof(CheckedPage));
	p->page = *page;
	p->page.path = pg_strdup(page->path);
	p->problem = problem;
}

static bool settle(Check *k, DrError *err);

static bool
add_suspect(Check *k, const CorruptPage *page, const char *full_path, off_t at, DrError *err)
{
	if (k->n_suspects == SUSPECTS_MAX && !settle(k, err))
		return false;
	k->suspects = array_room(k->suspects, k->n_suspects, sizeof(Suspect));
	k->suspects[k->n_suspects] = (Suspect) {*page, pg_strdup(full_path), at};
	k->suspects[k->n_suspects++].page.path = pg_strdup(page->path);
	return true;
}

static bool
judge(Check *k, const PageFile *f, const WalkEntry *e, char *page, off_t at, DrError *err)
{
	CheckPages *c = k->c;
	CorruptPage p = {.block = e->segment * c->segment_blocks + (uint32) (at / BLCKSZ),.path = e->path};
	PageVerdict verdict;
	uint64		count;
	bool		sound;

	if (!read_verdict(f, page, at, c->checksums, PG_UINT64_MAX, REREADS, &p, &verdict, &sound, err))
		return false;
	if (verdict == PAGE_CORRUPT)
		add_found(k, &p, p.expected != p.found ? "its checksum is wrong" : "its header is impossible");
	else if (p.lsn > c->flushed(c->flushed_arg, &count) && (e->class == FILE_MAIN || e->class == FILE_INIT))
		return add_suspect(k, &p, f->path, at, err);
	return true;
}

static bool
check_file(Check *k, const WalkEntry *e, const char *path, DrError *err)
{
	PageFile	f = {open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), path};
	bool		ok = true;

	if (f.fd < 0)
		return errno == ENOENT || dr_error(err, DR_IO, "could not open file \"%s\": %s", path, strerror(errno));
	posix_fadvise(f.fd, 0, 0, POSIX_FADV_RANDOM);	/* as a backup, so that read_range can tell what was cached */
	for (off_t at = 0; ok && (uint64) at < e->size; at += FRAME_MAX)
	{
		size_t		n = Min(FRAME_MAX, e->size - at);

		rate_wait(&k->rate, n, NULL);
		ok = read_range(&f, k->raw, n, at, err);
		for (size_t done = 0; ok && done + BLCKSZ <= n; done += BLCKSZ)
			ok = judge(k, &f, e, k->raw + done, at + done, err);
		pthread_mutex_lock(&k->c->lock);
		k->c->done += n;
		pthread_mutex_unlock(&k->c->lock);
	}
	close(f.fd);
	return ok;
}

static bool
check_entry(void *arg, const WalkEntry *e, DrError *err)
{
	Check	   *k = arg;
	char	   *path;
	bool		ok;

	if (!is_relation(e))
		return true;
	path = psprintf("%s/%s", k->c->data_directory, e->path);
	ok = check_file(k, e, path, err);
	pfree(path);
	pthread_mutex_lock(&k->c->lock);
	k->c->files++;
	pthread_mutex_unlock(&k->c->lock);
	return ok;
}

static bool
count_entry(void *arg, const WalkEntry *e, DrError *err)
{
	if (is_relation(e))
		((Check *) arg)->c->total += e->size;
	return true;
}

static void
no_warning(void *arg, const char *message)
{
}

/* ---- what the flush pointer had not reached ---- */

/* Q2: until it was told twice more, so that the last time was asked for after the page was read. */
static bool
wait_for_flush(CheckPages *c, XLogRecPtr *flushed, DrError *err)
{
	uint64		before;
	uint64		count;

	c->flushed(c->flushed_arg, &before);
	for (int waited = 0; waited < FLUSH_WAIT_MS; waited += 20)
	{
		*flushed = c->flushed(c->flushed_arg, &count);
		if (count >= before + 2)
			return true;
		usleep(20000);
	}
	return dr_error(err, DR_INTERNAL, "the server does not say how far its WAL is flushed");
}

/* One that was vacuumed away, truncated or written again meanwhile is no finding. */
static bool
is_still_there(Check *k, const Suspect *s, XLogRecPtr flushed)
{
	CorruptPage p = s->page;
	PageFile	f = {open(s->full_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), s->full_path};
	PageVerdict verdict = PAGE_OK;
	size_t		got = 0;
	bool		sound;
	DrError		ignored;
	bool		ok;

	if (f.fd < 0)
		return false;
	p.lsn = 0;
	ok = read_all(&f, k->page, BLCKSZ, s->at, &got, &ignored) && got == BLCKSZ &&
		read_verdict(&f, k->page, s->at, k->c->checksums, PG_UINT64_MAX, REREADS, &p, &verdict, &sound, &ignored);
	close(f.fd);
	return ok && p.lsn == s->page.lsn && p.lsn > flushed;
}

static bool
settle(Check *k, DrError *err)
{
	XLogRecPtr	flushed = 0;
	bool		ok = k->n_suspects == 0 || wait_for_flush(k->c, &flushed, err);

	for (size_t i = 0; i < k->n_suspects; i++)
	{
		Suspect    *s = &k->suspects[i];

		if (ok && s->page.lsn > flushed && is_still_there(k, s, flushed))
			add_found(k, &s->page, "its LSN lies beyond the end of the server's WAL");
		free(unconstify(char *, s->page.path));
		free(s->full_path);
	}
	free(k->suspects);
	k->suspects = NULL;
	k->n_suspects = 0;
	return ok;
}

/* ---- sound copies ---- */

static int
compare_found(const void *a, const void *b)
{
	const CheckedPage *x = a;
	const CheckedPage *y = b;
	int			order = strcmp(x->page.path, y->page.path);

	return order != 0 ? order : x->page.block < y->page.block ? -1 : x->page.block > y->page.block;
}

/* Which frame has the file's byte "at", and where. */
static bool
locate(CheckedPage *p, const ManifestFile *m, uint64 at)
{
	if (at + BLCKSZ > m->size)
		return false;
	for (uint32 i = 0; i < (m->n_extents > 0 ? m->n_extents : m->n_frames); i++)
	{
		const Extent x = m->n_extents > 0 ? m->extents[i] : (Extent) {i, 0, m->frames[i].raw};

		if (at < x.length)
		{
			p->frame = m->frames[x.frame];
			p->skip = x.skip + (uint32) at;
			return p->skip + BLCKSZ <= p->frame.raw;
		}
		at -= x.length;
	}
	return false;
}

static void
locate_pages(Check *k, const ManifestFile *m)
{
	const char *slash = strrchr(m->path, '/');
	RelationFile relation;
	size_t		lo = 0;
	size_t		hi = k->n_found;

	if (m->class < FILE_MAIN || m->class > FILE_INIT || !relation_file_parse(slash ? slash + 1 : m->path, &relation))
		return;
	while (lo < hi)
	{
		size_t		mid = (lo + hi) / 2;

		if (strcmp(k->found[mid].page.path, m->path) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < k->n_found && strcmp(k->found[lo].page.path, m->path) == 0; lo++)
	{
		CheckedPage *p = &k->found[lo];

		if (p->sound_copy[0] == '\0')
			p->located = locate(p, m, (uint64) (p->page.block - relation.segment * k->c->segment_blocks) * BLCKSZ);
	}
}

/* The frame's raw bytes, into k->raw. */
static bool
fetch_frame(Check *k, const ManifestPack *pack, const Frame *frame, DrError *err)
{
	uint64		first = frame->offset / SEAL_CHUNK;
	uint64		n = frame->stored == 0 ? 0 : ((uint64) frame->offset + frame->stored - 1) / SEAL_CHUNK - first + 1;
	Bytes		head = {0};
	Bytes		chunks = {0};
	Codec		codec;
	size_t		plain = 0;
	bool		ok;

	if (n == 0 || object_last_chunk(pack->size) == 0 || frame->raw > FRAME_MAX ||
		(uint64) frame->offset + frame->stored > object_content_size(pack->size))
		return dr_error(err, DR_DAMAGED, "a frame lies beyond the end of \"%s\"", pack->name);
	codec_init(&codec, 1);
	ok = repository_get_head(k->c->repo, pack->name, &head, err) &&
		repository_get_chunks(k->c->repo, pack->name, pack->size, first, n, &chunks, err) &&
		repository_unseal_chunks(k->c->repo, pack->name, head.data, pack->size, chunks.data, first, n, &plain, err) &&
		codec_decompress(&codec, chunks.data + (frame->offset - first * SEAL_CHUNK), frame->stored,
						 k->raw, frame->raw, frame->crc, err);
	codec_free(&codec);
	bytes_free(&head);
	bytes_free(&chunks);
	return ok;
}

/* A page of zeros holds nothing that anybody could want back. */
static bool
is_sound(Check *k, const CheckedPage *p)
{
	uint16		expected;
	uint16		found;
	XLogRecPtr	lsn = 0;
	bool		sound = false;

	return page_judge(k->raw + p->skip, p->page.block, k->c->checksums, PG_UINT64_MAX,
					  &expected, &found, &lsn, &sound) == PAGE_OK && sound;
}

/* Those that lie in this pack. */
static bool
try_pack(Check *k, const ManifestPack *pack, const char *id, DrError *err)
{
	for (size_t i = 0; i < k->n_found; i++)
	{
		CheckedPage *p = &k->found[i];
		DrError		why;

		if (!p->located || p->frame.pack != pack->number)
			continue;
		p->located = false;
		if (fetch_frame(k, pack, &p->frame, &why))
		{
			if (is_sound(k, p))
				strlcpy(p->sound_copy, id, sizeof(p->sound_copy));
		}
		else if (why.code == DR_IO || why.code == DR_CANCELLED)
		{
			*err = why;
			return false;
		}
	}
	return true;
}

static bool
try_backup(Check *k, const char *id, DrError *err)
{
	OpenManifest m;
	Record		record = {0};
	DrError		why;
	bool		fine = true;
	bool		ok = manifest_open(k->c->repo, k->c->system_identifier, id, &m, &why) == STORE_OK;

	if (!ok)
		fine = why.code == DR_DAMAGED || why.code == DR_ABSENT;
	for (size_t i = 0; i < k->n_found; i++)
		k->found[i].located = false;
	/* Packs come behind all files. */
	while (ok && fine && record.type != RECORD_END)
	{
		if (!manifest_next(m.reader, &record, &why))
			break;				/* a damaged one helps as far as it goes */
		if (record.type == RECORD_FILE)
			locate_pages(k, &record.u.file);
		else if (record.type == RECORD_PACK)
			fine = try_pack(k, &record.u.pack, id, &why);
	}
	if (ok)
		manifest_close(&m);
	if (!fine)
		*err = why;
	return fine;
}

static bool
all_have_copies(const Check *k)
{
	for (size_t i = 0; i < k->n_found; i++)
		if (k->found[i].sound_copy[0] == '\0')
			return false;
	return true;
}

/* That they can't be looked for is no reason to be silent about the pages. */
static void
find_copies(Check *k)
{
	char	   *prefix = psprintf("%s/backup/", k->c->system_identifier);
	Listing		l;
	DrError		err;
	bool		ok = repository_list(k->c->repo, prefix, false, &l, &err);
	size_t		all = k->n_found;
	char		text[1200];

	k->n_found = Min(all, LOOKED_FOR_MAX);
	for (size_t i = ok ? l.n : 0; ok && i > 0 && !all_have_copies(k); i--)
	{
		char	   *id = l.names[i - 1] + strlen(prefix);

		id[strcspn(id, "/")] = '\0';
		if (backup_id_valid(id))
			ok = try_backup(k, id, &err);
	}
	if (!ok)
	{
		snprintf(text, sizeof(text), "could not look for sound copies in all backups: %s", err.message);
		k->c->warning(k->c->arg, text);
	}
	else
		listing_free(&l);
	k->n_found = all;
	pfree(prefix);
}

/* ---- the whole ---- */

/* Tablespaces are links; what is a directory in pg_tblspc lies in the data directory. */
static WalkTablespace *
find_tablespaces(const char *data_directory, int *n)
{
	char	   *path = psprintf("%s/pg_tblspc", data_directory);
	DIR		   *dir = opendir(path);
	WalkTablespace *found = NULL;
	struct dirent *de;
	char		target[MAXPGPATH];

	*n = 0;
	while (dir != NULL && (de = readdir(dir)) != NULL)
	{
		ssize_t		length = readlinkat(dirfd(dir), de->d_name, target, sizeof(target) - 1);

		if (length <= 0)
			continue;
		target[length] = '\0';
		found = array_room(found, *n, sizeof(WalkTablespace));
		found[*n].oid = pg_strdup(de->d_name);
		found[(*n)++].path = pg_strdup(target);
	}
	if (dir != NULL)
		closedir(dir);
	pfree(path);
	return found;
}

static bool
read_files(Check *k, DrError *err)
{
	CheckPages *c = k->c;
	int			n;
	WalkTablespace *tablespaces = find_tablespaces(c->data_directory, &n);
	Walk		w = {c->data_directory, tablespaces, n, count_entry, no_warning, k};
	bool		ok = walk(&w, err);

	set_phase(c, "reading");
	w.entry = check_entry;
	ok = ok && walk(&w, err);
	for (int i = 0; i < n; i++)
	{
		free(tablespaces[i].oid);
		free(tablespaces[i].path);
	}
	free(tablespaces);
	return ok;
}

bool
check_pages_run(CheckPages *c, DrError *err)
{
	Check		k = {.c = c};
	bool		ok;

	rate_init(&k.rate, c->max_rate);
	k.raw = aligned_malloc(FRAME_MAX);
	k.page = aligned_malloc(BLCKSZ);
	ok = read_files(&k, err) && settle(&k, err);
	if (ok && k.n_found > 0)
	{
		set_phase(c, "looking for sound copies");
		qsort(k.found, k.n_found, sizeof(CheckedPage), compare_found);
		find_copies(&k);
	}
	for (size_t i = 0; i < k.n_found; i++)
	{
		if (ok)
			c->found(c->arg, &k.found[i]);
		free(unconstify(char *, k.found[i].page.path));
	}
	if (ok && k.more)
		c->warning(c->arg, "more pages are corrupt than are listed");
	c->n_found = k.n_found;
	c->bytes = c->done;
	free(k.found);
	free(k.raw);
	free(k.page);
	rate_free(&k.rate);
	return ok;
}
