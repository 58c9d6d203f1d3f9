/*
 * backup.c
 *	  A backup from the data directory to its manifest.
 *
 * A crash before the manifest is stored leaves packs that nothing lists; a
 * crash after it leaves a complete backup.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/backup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog_internal.h"
#include "core/control.h"
#include "core/step.h"
#include "flow/inventory.h"
#include "flow/wal.h"

#define POLL_FIRST_US	10000	/* between looks for a WAL segment, */
#define POLL_MOST_US	1000000	/* each longer than the one before; and between waiting events */

static void
set_phase(Backup *b, const char *phase)
{
	pthread_mutex_lock(&b->lock);
	b->phase = phase;
	pthread_mutex_unlock(&b->lock);
}

void
backup_progress(Backup *b, const char **phase, uint64 *bytes, uint64 *files, uint64 *stored)
{
	pthread_mutex_lock(&b->lock);
	*phase = b->phase;
	if (b->upload != NULL)
		upload_progress(b->upload, &b->bytes_done, &b->files_done, &b->bytes_stored);
	*bytes = b->bytes_done;
	*files = b->files_done;
	*stored = b->bytes_stored;
	pthread_mutex_unlock(&b->lock);
}

void
backup_flushed(Backup *b, XLogRecPtr lsn)
{
	pthread_mutex_lock(&b->lock);
	if (b->upload != NULL)
		upload_flushed(b->upload, lsn);
	pthread_mutex_unlock(&b->lock);
}

void
backup_cancel(Backup *b)
{
	atomic_store(&b->cancelled, true);
	pthread_mutex_lock(&b->lock);
	if (b->upload != NULL)
		upload_cancel(b->upload);
	pthread_mutex_unlock(&b->lock);
}

static bool
check_cancelled(Backup *b, DrError *err)
{
	return !atomic_load(&b->cancelled) || dr_error(err, DR_CANCELLED, "the backup was cancelled");
}

/* ---- from the conveyor into the manifest ---- */

static void
put_file(void *arg, const ManifestFile *file)
{
	Backup	   *b = arg;

	pthread_mutex_lock(&b->lock);
	manifest_write_file(b->manifest, file);
	pthread_mutex_unlock(&b->lock);
}

static void
put_inherited(void *arg, Frame *frame)
{
	parent_inherit(((Backup *) arg)->parent, frame);
}

static void
put_directory(void *arg, uint32 mode, const char *path)
{
	Backup	   *b = arg;

	pthread_mutex_lock(&b->lock);
	manifest_write_directory(b->manifest, mode, path);
	pthread_mutex_unlock(&b->lock);
}

static void
put_corrupt(void *arg, const CorruptPage *page)
{
	Backup	   *b = arg;

	pthread_mutex_lock(&b->lock);
	manifest_write_corrupt(b->manifest, page);
	pthread_mutex_unlock(&b->lock);
	b->corrupt(b->arg, page);
}

static void
pass_stored(void *arg, const char *name, uint64 size, const uint8 hash[32])
{
	Backup	   *b = arg;

	b->stored(b->arg, name, size, hash);
}

static void
pass_warning(void *arg, const char *message)
{
	Backup	   *b = arg;

	b->warning(b->arg, message);
}

/* ---- reading ---- */

static bool
count_entry(void *arg, const WalkEntry *e, DrError *err)
{
	Backup	   *b = arg;

	b->bytes_total += b->parent != NULL && e->class == FILE_MAIN ?
		parent_estimate(b->parent, e->path, e->segment, e->size) : e->size;
	b->files_total += !e->is_directory;
	return check_cancelled(b, err);
}

static void
ignore_warning(void *arg, const char *message)
{
}

/* From the parent what it has, else all of it. */
static bool
add_entry(void *arg, const WalkEntry *e, DrError *err)
{
	Backup	   *b = arg;
	char	   *full = psprintf("%s/%s", b->info.data_directory, e->path);
	Composition composition;
	uint64		changed = e->size;
	bool		composed = false;
	bool		failed = false;
	bool		ok;

	if (b->parent != NULL && e->class == FILE_MAIN)
		composed = parent_compose(b->parent, e->path, e->segment, e->size, &composition, &changed, &failed, err);
	b->info.bytes_changed += changed;
	ok = !failed && upload_add(b->upload, e, full, composed ? &composition : NULL, err);
	pfree(full);
	return ok;
}

static bool
add_file(Backup *b, const char *path, const char *full, FileClass class, DrError *err)
{
	WalkEntry	e = {.path = path, .class = class};
	struct stat st;

	if (stat(full, &st) != 0 || !S_ISREG(st.st_mode))
		return dr_error(err, DR_IO, "could not back up file \"%s\": %s", full,
						S_ISREG(st.st_mode) ? strerror(errno) : "it is not a regular file");
	e.mode = st.st_mode & 07777;
	e.mtime = st.st_mtime;
	e.size = st.st_size;
	b->info.bytes_changed += e.size;
	return upload_add(b->upload, &e, full, NULL, err);
}

/*
 * A configuration file from outside: its path below the configuration
 * directory, or, for one from elsewhere, below "external".
 */
static bool
add_config_file(Backup *b, const char *full, DrError *err)
{
	const char *dir = b->info.config_directory;
	size_t		n = dir ? strlen(dir) : 0;
	char	   *path;
	bool		ok;

	if (n > 0 && strncmp(full, dir, n) == 0 && full[n] == '/')
		path = pg_strdup(full + n + 1);
	else
		path = psprintf("external/%s", full + 1);
	if (!path_valid(path))
		ok = dr_error(err, DR_CONFIG, "configuration file \"%s\" has an unusable path", full);
	else
	{
		ok = add_file(b, path, full, FILE_CONFIG, err);
		b->files_total++;
	}
	free(path);
	return ok;
}

/* The cluster's own sizes and identity; also proof that we look at the right one. */
static bool
read_control(Backup *b, DrError *err)
{
	char	   *full = psprintf("%s/global/pg_control", b->info.data_directory);
	uint8		data[8192];
	ControlInfo c;

	for (int i = 0; i < 50; i++)
	{
		int			fd = open(full, O_RDONLY | O_CLOEXEC);
		ssize_t		n = fd < 0 ? -1 : read(fd, data, sizeof(data));

		if (fd < 0)
			return dr_error(err, DR_IO, "could not open file \"%s\": %s", full, strerror(errno));
		close(fd);
		if (n > 0 && control_decode(data, n, &c))
		{
			pfree(full);
			if (strcmp(c.system_identifier, b->info.system_identifier) != 0)
				return dr_error(err, DR_CONFIG, "\"%s\" is the data directory of cluster %s, not of %s",
								b->info.data_directory, c.system_identifier, b->info.system_identifier);
			b->info.control_version = c.control_version;
			b->info.catalog_version = c.catalog_version;
			b->info.block_size = c.block_size;
			b->info.segment_blocks = c.segment_blocks;
			b->info.wal_segment_size = c.wal_segment_size;
			return true;
		}
		usleep(10000);
	}
	dr_error(err, DR_DAMAGED, "file \"%s\" fails its checksum", full);
	return dr_hint(err, "Is this pg_dr built for the running server's version?");
}

static void
start_upload(Backup *b)
{
	UploadOptions o = {
		.repo = b->repo,
		.system_identifier = b->info.system_identifier,
		.backup_id = b->info.id,
		.jobs = b->jobs,
		.level = b->level,
		.max_rate = b->max_rate,
		.checksums = b->info.data_checksums,
		.segment_blocks = b->info.segment_blocks,
		.start_lsn = b->info.start_lsn,
		.stored = pass_stored,
		.corrupt = put_corrupt,
		.warning = pass_warning,
		.file = put_file,
		.inherit = put_inherited,
		.directory = put_directory,
		.arg = b,
	};
	Upload	   *u = upload_new(&o);

	pthread_mutex_lock(&b->lock);
	b->upload = u;
	pthread_mutex_unlock(&b->lock);
	if (atomic_load(&b->cancelled))
		upload_cancel(u);
}

/* Everything that is read, in order; pg_control last (B1). */
static bool
copy(Backup *b, DrError *err)
{
	Walk		w = {b->info.data_directory, b->tablespaces, b->n_tablespaces,
	count_entry, ignore_warning, b};
	char	   *control = psprintf("%s/global/pg_control", b->info.data_directory);
	bool		ok;

	set_phase(b, "scanning");
	if (!walk(&w, err))
		return false;
	step_reached("backup.scanned");
	set_phase(b, "copying");
	w.entry = add_entry;
	w.warning = pass_warning;
	ok = walk(&w, err);
	for (int i = 0; ok && i < b->n_config_files; i++)
		ok = add_config_file(b, b->config_files[i].path, err);
	ok = ok && upload_drain(b->upload, err);
	if (ok)
		step_reached("backup.copied");
	ok = ok && add_file(b, "global/pg_control", control, FILE_CONTROL, err) &&
		upload_drain(b->upload, err);
	pfree(control);
	return ok;
}

/* ---- the parent ---- */

/* What can't be proven to be unchanged is read: that is said, and no failure. */
static void
find_parent(Backup *b)
{
	DrError		why = {0};
	char	   *text;

	if (strcmp(b->info.kind, "incremental") != 0)
		return;
	if (b->parent_id == NULL)
		dr_error(&why, DR_CONFIG, "%s", b->no_parent);
	else if (parent_open(&b->parent, b->repo, &b->info, b->parent_id, &why))
	{
		b->info.parent = pg_strdup(b->parent_id);
		return;
	}
	b->info.full_scan = psprintf("%s%s%s", why.message, why.detail[0] ? ": " : "", why.detail);
	text = psprintf("everything is read: %s", b->info.full_scan);
	b->warning(b->arg, text);
	pfree(text);
}

/* ---- WAL ---- */

/* B5 */
static bool
server_waits_for(Backup *b, const char *file)
{
	char	   *path = psprintf("%s/pg_wal/archive_status/%s.ready", b->info.data_directory, file);
	bool		waits = access(path, F_OK) == 0;

	pfree(path);
	return waits;
}

static StoreResult
look_for_wal(Backup *b, const char *file, DrError *err)
{
	Bytes		plain = {0};
	SealHeader	header;
	StoreResult r = STORE_ABSENT;

	if (!server_waits_for(b, file))
		r = wal_fetch(b->repo, b->info.system_identifier, file, &plain, &header, err);
	bytes_free(&plain);
	return r;
}

/* Wait until the repository has the file, and open it (B2). */
static bool
wait_for_wal(Backup *b, const char *file, DrError *err)
{
	StoreResult r;
	int64		pause = POLL_FIRST_US;
	int64		said = 0;

	while ((r = look_for_wal(b, file, err)) == STORE_ABSENT)
	{
		if (!check_cancelled(b, err))
			break;
		if (time_now() - said >= POLL_MOST_US)
		{
			b->waiting(b->arg, file);
			said = time_now();
		}
		usleep((useconds_t) pause);
		pause = Min(pause * 2, POLL_MOST_US);
	}
	return r == STORE_OK;
}

/*
 * The history of our timeline may have been archived before there was this
 * repository; then nobody but we brings it there.
 */
static bool
offer_history(Backup *b, const char *file, DrError *err)
{
	char	   *path = psprintf("%s/pg_wal/%s", b->info.data_directory, file);
	WalWorkspace space;
	WalStored	stored;
	bool		ok;

	wal_workspace_init(&space, b->level);
	ok = access(path, F_OK) != 0 ||
		wal_archive(b->repo, &space, b->info.system_identifier, file, path, NULL, NULL, &stored, err);
	wal_workspace_free(&space);
	pfree(path);
	return ok;
}

static bool
wait_for_all_wal(Backup *b, DrError *err)
{
	uint32		size = b->info.wal_segment_size;
	uint64		last = (b->info.stop_lsn - 1) / size;
	char		file[MAXFNAMELEN];

	set_phase(b, "waiting for WAL");
	if (b->info.timeline > 1)
	{
		TLHistoryFileName(file, b->info.timeline);
		if (!offer_history(b, file, err) || !wait_for_wal(b, file, err))
			return false;
	}
	for (uint64 segno = b->info.start_lsn / size; segno <= last; segno++)
	{
		wal_segment_name(file, b->info.timeline, segno, size);
		if (!check_cancelled(b, err) || !wait_for_wal(b, file, err))
			return false;
	}
	step_reached("backup.wal_present");
	return true;
}

/* ---- manifest ---- */

static void
write_packs(Backup *b)
{
	InheritedPack *x;

	for (uint32 n = 1; n <= upload_packs(b->upload); n++)
	{
		ManifestPack pack;
		ObjectName	name;

		upload_pack(b->upload, n, &pack);
		name_pack(name, b->info.system_identifier, b->info.id, n);
		pack.name = name;
		manifest_write_pack(b->manifest, &pack);
	}
	for (uint32 i = 0; b->parent != NULL && (x = parent_inherited(b->parent, i)) != NULL; i++)
	{
		ManifestPack pack = {.number = x->number, .size = x->size, .frames = x->frames, .used = x->used, .name = x->name};

		memcpy(pack.sha256, x->sha256, 32);
		manifest_write_pack(b->manifest, &pack);
	}
}

static bool
store_manifest(Backup *b, DrError *err)
{
	const Bytes *content = NULL;
	SealBuffer	buffer = {0};
	ObjectName	name;
	uint64		plain_length = 0;
	uint32		crc = 0;
	bool		ok;

	set_phase(b, "writing manifest");
	name_manifest(name, b->info.system_identifier, b->info.id);
	if (!manifest_writer_finish(b->manifest, &b->info, &content, &plain_length, &crc, err))
		return false;
	seal_buffer_init(&buffer, content->len);
	seal_buffer_append(&buffer, content->data, content->len);
	ok = repository_seal(b->repo, &buffer, CODEC_ZSTD, plain_length, crc, name, err);
	if (ok)
	{
		step_reached("backup.manifest_sealed");
		ok = repository_put(b->repo, &buffer, name, b->manifest_sha256, err) == STORE_OK;
		b->manifest_size = buffer.size;
	}
	seal_buffer_free(&buffer);
	if (ok)
		b->stored(b->arg, name, b->manifest_size, b->manifest_sha256);
	return ok;
}

/* B3: what a restore will read must be readable. */
static bool
read_back(Backup *b, DrError *err)
{
	OpenManifest m;
	bool		ok;

	if (manifest_open(b->repo, b->info.system_identifier, b->info.id, &m, err) != STORE_OK)
		return false;
	ok = manifest_read_all(&m, err);
	manifest_close(&m);
	if (ok)
		step_reached("backup.manifest_stored");
	return ok;
}

/* ---- B4: what was confirmed is there ---- */

typedef struct PackCount
{
	Backup	   *backup;
	uint32		n;				/* packs seen, in order and of the right size */
} PackCount;

static bool
count_pack(void *arg, const char *name, uint64 size, DrError *err)
{
	PackCount  *c = arg;
	Upload	   *u = c->backup->upload;
	ObjectName	expected;
	ManifestPack pack;

	if (object_kind(name) != KIND_PACK || c->n >= upload_packs(u))
		return true;
	name_pack(expected, c->backup->info.system_identifier, c->backup->info.id, c->n + 1);
	upload_pack(u, c->n + 1, &pack);
	if (strcmp(name, expected) == 0 && size == pack.size)
		c->n++;
	return true;
}

/* One listing for a thousand packs: the cheapest proof against a store that says yes and forgets. */
static bool
packs_are_there(Backup *b, DrError *err)
{
	PackCount	count = {b, 0};
	ObjectName	missing;
	char	   *prefix = psprintf("%s/backup/%s/", b->info.system_identifier, b->info.id);
	bool		ok = store_list(b->repo->store, prefix, false, count_pack, &count, err);

	pfree(prefix);
	if (!ok || count.n == upload_packs(b->upload))
		return ok;
	name_pack(missing, b->info.system_identifier, b->info.id, count.n + 1);
	dr_error(err, DR_DAMAGED, "object \"%s\" is not in repository \"%s\", although the store confirmed it",
			 missing, b->repo->store->url);
	return dr_hint(err, "Don't trust this store until its operator knows why.");
}

static void
remove_manifest(Backup *b)
{
	ObjectName	name;
	DrError		ignored;		/* the error that brought us here is the one to report */

	const char *names[] = {name};

	name_manifest(name, b->info.system_identifier, b->info.id);
	store_set_patience(b->repo->store, STORE_PATIENCE_CLEANUP);
	store_remove(b->repo->store, names, 1, &ignored);
}

static bool
run(Backup *b, DrError *err)
{
	bool		stored;
	uint64		files;
	uint64		stored_bytes;

	if (!copy(b, err) || !b->copied(b->arg, &b->info, err))
		return false;
	upload_flushed(b->upload, b->info.stop_lsn);
	if (!upload_finish(b->upload, err))
		return false;
	upload_settle(b->upload, b->info.stop_lsn);
	upload_progress(b->upload, &b->info.bytes_read, &files, &stored_bytes);
	if (!packs_are_there(b, err) || (b->parent != NULL && !parent_packs_exist(b->parent, true, err)) || !wait_for_all_wal(b, err) || !check_cancelled(b, err))
		return false;
	write_packs(b);
	stored = store_manifest(b, err);
	if (stored && read_back(b, err))
		return true;
	if (stored)
		remove_manifest(b);
	return false;
}

bool
backup_run(Backup *b, DrError *err)
{
	Upload	   *u;
	bool		ok;

	b->phase = "scanning";
	if (!read_control(b, err) || !check_cancelled(b, err))
		return false;
	find_parent(b);
	b->manifest = manifest_writer_new(&b->info);
	for (int i = 0; i < b->n_tablespaces; i++)
		if (b->tablespaces[i].path[0] == '/')	/* others are directories in place */
			manifest_write_tablespace(b->manifest, b->tablespaces[i].oid, b->tablespaces[i].path);
	start_upload(b);
	ok = run(b, err);

	pthread_mutex_lock(&b->lock);
	u = b->upload;
	upload_progress(u, &b->bytes_done, &b->files_done, &b->bytes_stored);
	b->upload = NULL;
	pthread_mutex_unlock(&b->lock);
	if (!ok)
		upload_discard(u);
	upload_free(u);
	store_set_patience(b->repo->store, STORE_PATIENCE_OWN);
	manifest_writer_free(b->manifest);
	b->manifest = NULL;
	parent_close(b->parent);
	b->parent = NULL;
	return ok;
}
