/*
 * restore_prepare.c
 *	  Everything about a restore that comes before the first byte is written.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/restore.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "flow/restore_private.h"

/* Below the old data directory means below the new one. */
static char *
default_place(const Restore *r, const char *from)
{
	const char *old = r->manifest.info.data_directory;
	size_t		n = strlen(old);

	if (strncmp(from, old, n) == 0 && from[n] == '/')
		return psprintf("%s%s", r->pgdata, from + n);
	return pg_strdup(from);
}

static bool
note_tablespace(Restore *r, const Record *record, DrError *err)
{
	TablespaceMapping *t;

	if (record->u.tablespace.path[0] != '/')
		return dr_error(err, DR_DAMAGED, "manifest \"%s\" is damaged: a tablespace's path is not absolute", r->manifest.name);
	r->tablespaces = pg_realloc(r->tablespaces, sizeof(*t) * (r->n_tablespaces + 1));
	t = &r->tablespaces[r->n_tablespaces++];
	t->oid = pg_strdup(record->u.tablespace.oid);
	t->from = pg_strdup(record->u.tablespace.path);
	t->to = default_place(r, t->from);
	t->bytes = 0;
	return true;
}

static void
note_file(Restore *r, const ManifestFile *file)
{
	if (file->class == FILE_CONFIG)
		r->config_files++;
	if (strncmp(file->path, "pg_tblspc/", 10) == 0)
		for (int i = 0; i < r->n_tablespaces; i++)
		{
			size_t		n = strlen(r->tablespaces[i].oid);

			if (strncmp(file->path + 10, r->tablespaces[i].oid, n) == 0 && file->path[10 + n] == '/')
			{
				r->tablespaces[i].bytes += file->size;
				return;
			}
		}
	r->bytes += file->size;
}

static void
note_pack(Restore *r, const ManifestPack *pack)
{
	r->packs = array_room(r->packs, r->n_packs, sizeof(RestorePack));
	r->packs[r->n_packs].name = pg_strdup(pack->name);
	r->packs[r->n_packs].size = pack->size;
	r->packs[r->n_packs].frames = pack->frames;
	r->packs[r->n_packs++].whole = pack_read_whole(pack);
	r->n_own_packs += pack->number < PACK_INHERITED;
}

/* The reader has seen to it that both runs of P records have no holes. */
RestorePack *
restore_pack(const Restore *r, uint32 number)
{
	if (number > PACK_INHERITED)
		return number - PACK_INHERITED > r->n_packs - r->n_own_packs ? NULL :
			&r->packs[r->n_own_packs + (number - PACK_INHERITED - 1)];
	return number == 0 || number > r->n_own_packs ? NULL : &r->packs[number - 1];
}

bool
restore_prepare(Restore *r, Repository *repo, const char *sysid, BackupEntry *backup,
				const char *pgdata, DrError *err)
{
	Record		record;

	memset(r, 0, sizeof(*r));
	r->repo = repo;
	r->pgdata = pg_strdup(pgdata);
	if (backup->fetched != NULL)
	{
		r->manifest = *backup->fetched;
		free(backup->fetched);
		backup->fetched = NULL;
		if (!manifest_rewind(&r->manifest, err))
			return false;
	}
	else if (manifest_open(repo, sysid, backup->id, &r->manifest, err) != STORE_OK)
		return false;
	do
	{
		if (!manifest_next(r->manifest.reader, &record, err))
			return false;
		if (record.type == RECORD_TABLESPACE && !note_tablespace(r, &record, err))
			return false;
		if (record.type == RECORD_FILE)
			note_file(r, &record.u.file);
		if (record.type == RECORD_PACK)
			note_pack(r, &record.u.pack);
	} while (record.type != RECORD_END);
	if (r->manifest.info.server_version_num / 10000 != PG_VERSION_NUM / 10000)
	{
		dr_error(err, DR_CONFIG, "backup %s is of another major version of PostgreSQL", backup->id);
		dr_detail(err, "It was taken from server version %d; this program was built for PostgreSQL %s.",
				  r->manifest.info.server_version_num, PG_MAJORVERSION);
		return dr_hint(err, "Restore with the pg_dr of that version.");
	}
	return true;
}

bool
restore_remap(Restore *r, const char *mapping, DrError *err)
{
	char	   *from = pg_malloc(strlen(mapping) + 1);
	char	   *to = from;
	const char *p;
	bool		found = false;

	for (p = mapping; *p != '\0' && *p != '='; p++)
	{
		if (p[0] == '\\' && p[1] == '=')
			p++;
		*to++ = *p;
	}
	*to = '\0';
	if (*p != '=' || from[0] != '/' || p[1] != '/')
	{
		free(from);
		return dr_error(err, DR_CONFIG, "tablespace mapping \"%s\" is not /old=/new", mapping);
	}
	for (int i = 0; i < r->n_tablespaces; i++)
		if (strcmp(r->tablespaces[i].from, from) == 0)
		{
			free(r->tablespaces[i].to);
			r->tablespaces[i].to = pg_strdup(p + 1);
			canonicalize_path(r->tablespaces[i].to);
			found = true;
		}
	if (!found)
	{
		dr_error(err, DR_CONFIG, "the backup has no tablespace at \"%s\"", from);
		if (r->n_tablespaces > 0)
			dr_detail(err, "It has one at \"%s\"%s.", r->tablespaces[0].from,
					  r->n_tablespaces > 1 ? ", and others" : "");
	}
	free(from);
	return found;
}

/* X1: absent, or an empty directory (of an interrupted restore: say so). */
static bool
check_empty(const Restore *r, const char *path, DrError *err)
{
	bool		is_pgdata = path == r->pgdata;
	DIR		   *dir = opendir(path);
	struct dirent *de;
	char	   *marker = psprintf("%s/" RESTORE_MARKER, path);
	bool		empty = true;

	if (dir == NULL)
	{
		pfree(marker);
		return errno == ENOENT ||
			dr_error(err, DR_IO, "could not open directory \"%s\": %s", path, strerror(errno));
	}
	while (empty && (de = readdir(dir)) != NULL)
		empty = strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0;
	closedir(dir);
	if (!empty)
	{
		dr_error(err, DR_CONFIG, "directory \"%s\" is not empty", path);
		if (is_pgdata && access(marker, F_OK) == 0)
		{
			dr_detail(err, "It holds an interrupted restore, which can't be started.");
			dr_hint(err, "Run the restore again with --delta, which uses what is there, or remove its contents first.");
		}
		else
			dr_hint(err, is_pgdata ?
					"A restore writes only into an empty directory: move the contents away, give another --pgdata, "
					"or --delta if it is an older or newer state of the same cluster." :
					r->delta ?
					"The data directory's link for this tablespace does not lead there: move the contents away, "
					"or give the place where it leads with --tablespace OLD=NEW." :
					"A restore writes only into empty directories: move the contents away, "
					"or give the tablespace another place with --tablespace OLD=NEW.");
	}
	pfree(marker);
	return empty;
}

/* Free space where path is or will be. */
static bool
free_space(const char *path, uint64 *bytes, dev_t *device)
{
	char	   *p = pg_strdup(path);
	struct statvfs vfs;
	struct stat st;
	bool		ok;

	while (stat(p, &st) != 0 && errno == ENOENT && strrchr(p, '/') != NULL && strrchr(p, '/') != p)
		*strrchr(p, '/') = '\0';
	if (stat(p, &st) != 0)
		strcpy(p, "/");
	ok = stat(p, &st) == 0 && statvfs(p, &vfs) == 0;
	if (ok)
	{
		*bytes = (uint64) vfs.f_bavail * vfs.f_frsize;
		*device = st.st_dev;
	}
	free(p);
	return ok;
}

/*
 * Everything that goes to the same device as path, against what is free there.
 * How much of it a delta restore finds there is not known: the writes will tell.
 */
static bool
check_space(const Restore *r, const char *path, DrError *err)
{
	uint64		available;
	uint64		needed = 0;
	uint64		other;
	dev_t		device;
	dev_t		d;

	if (r->delta || !free_space(path, &available, &device))
		return true;			/* the writes will tell */
	if (free_space(r->pgdata, &other, &d) && d == device)
		needed += r->bytes;
	for (int i = 0; i < r->n_tablespaces; i++)
		if (free_space(r->tablespaces[i].to, &other, &d) && d == device)
			needed += r->tablespaces[i].bytes;
	if (needed <= available)
		return true;
	dr_error(err, DR_IO, "not enough room for the restore at \"%s\"", path);
	return dr_detail(err, "It needs %llu MB there, %llu MB are free.",
					 (unsigned long long) needed >> 20, (unsigned long long) available >> 20);
}

bool
path_inside(const char *path, const char *of)
{
	size_t		n = strlen(of);

	return strncmp(path, of, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

bool
restore_check_targets(Restore *r, DrError *err)
{
	if (r->delta && !delta_check(r, err))
		return false;
	if ((!r->delta && !check_empty(r, r->pgdata, err)) || !check_space(r, r->pgdata, err))
		return false;
	for (int i = 0; i < r->n_tablespaces; i++)
	{
		const char *to = r->tablespaces[i].to;

		for (int j = 0; j < i; j++)
			if (path_inside(to, r->tablespaces[j].to) || path_inside(r->tablespaces[j].to, to))
				return dr_error(err, DR_CONFIG, "tablespaces \"%s\" and \"%s\" would lie in one another",
								r->tablespaces[j].to, to);
		if (path_inside(r->pgdata, to))
			return dr_error(err, DR_CONFIG, "the data directory would lie in tablespace \"%s\"", to);
		if (r->delta && delta_link_leads_to(r, &r->tablespaces[i]))
			continue;			/* X5 */
		if (!check_empty(r, to, err) || !check_space(r, to, err))
			return false;
	}
	return true;
}

void
restore_free(Restore *r)
{
	for (int i = 0; i < r->n_tablespaces; i++)
	{
		free(r->tablespaces[i].oid);
		free(r->tablespaces[i].from);
		free(r->tablespaces[i].to);
	}
	for (uint32 i = 0; i < r->n_packs; i++)
		free(r->packs[i].name);
	free(r->tablespaces);
	free(r->packs);
	free(r->pgdata);
	manifest_close(&r->manifest);
	memset(r, 0, sizeof(*r));
}
