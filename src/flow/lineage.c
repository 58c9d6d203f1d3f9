/*
 * lineage.c
 *	  Which cluster may write below a system identifier.
 *
 * The token is durable in the data directory before the repository hears of
 * it; a crash in between leaves a token that is registered next time, or that
 * dr_adopt replaces.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/lineage.h"

#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flow/generations.h"

#define TOKEN_HEX	64

typedef char Token[TOKEN_HEX + 1];

/* An empty token when there is no file. */
static bool
token_read(const char *data_directory, Token token, DrError *err)
{
	char	   *path = psprintf("%s/%s", data_directory, PGDR_TOKEN_FILE);
	char		buf[TOKEN_HEX + 2];
	uint8		raw[TOKEN_HEX / 2];
	int			fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	ssize_t		n = fd < 0 ? 0 : read(fd, buf, sizeof(buf));
	bool		ok = n >= 0 && (fd >= 0 || errno == ENOENT);

	token[0] = '\0';
	if (!ok)
		dr_error(err, DR_IO, "could not read file \"%s\": %s", path, strerror(errno));
	else if (n == TOKEN_HEX + 1 && buf[TOKEN_HEX] == '\n' && hex_decode(buf, raw, sizeof(raw)))
	{
		memcpy(token, buf, TOKEN_HEX);
		token[TOKEN_HEX] = '\0';
	}
	if (fd >= 0)
		close(fd);
	pfree(path);
	return ok;
}

static bool
sync_parent(const char *path)
{
	char	   *dir = pg_strdup(path);
	int			fd;
	bool		ok;

	*strrchr(dir, '/') = '\0';
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ok = fd >= 0 && fsync(fd) == 0;
	if (fd >= 0)
		close(fd);
	free(dir);
	return ok;
}

/*
 * Make it durable.  With "first", only where there is none: archiver and backup
 * worker may both be the first, and have to end up with the same token.
 */
static bool
token_write(const char *data_directory, const Token token, bool first, DrError *err)
{
	char	   *path = psprintf("%s/%s", data_directory, PGDR_TOKEN_FILE);
	char	   *temporary = psprintf("%s.%.8s.tmp", path, token);
	int			fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	bool		ok = fd >= 0 &&
		write(fd, token, TOKEN_HEX) == TOKEN_HEX && write(fd, "\n", 1) == 1 && fsync(fd) == 0;

	if (fd >= 0)
		ok = close(fd) == 0 && ok;
	if (ok && first)
		ok = link(temporary, path) == 0 || errno == EEXIST;
	else if (ok)
		ok = rename(temporary, path) == 0;
	ok = ok && sync_parent(path);
	if (!ok)
		dr_error(err, DR_IO, "could not write file \"%s\": %s", path, strerror(errno));
	unlink(temporary);
	pfree(temporary);
	pfree(path);
	return ok;
}

/* The newest lineage object's generation (0: none) and what it says. */
static bool
newest(Repository *repo, const char *sysid, uint32 *generation, Token token, char *owner,
	   size_t owner_size, DrError *err)
{
	Newest		found;
	SealHeader	header;
	uint8	   *content;
	size_t		n;
	char	   *prefix = psprintf("%s/lineage/", sysid);
	json_t	   *object;
	const char *text;
	const char *host = "?";
	const char *dir = "?";
	bool		ok = newest_generation(repo->store, prefix, SMALL_OBJECT_MAX, &found, err);

	pfree(prefix);
	token[0] = owner[0] = '\0';
	*generation = ok ? found.generation : 0;
	if (!ok || found.generation == 0)
		return ok;
	if (!repository_unseal(repo, found.name, &found.raw, &header, &content, &n, err))
	{
		bytes_free(&found.raw);
		return false;
	}
	object = json_loadb((char *) content, n, 0, NULL);
	ok = json_unpack(object, "{s:s, s?s, s?s}", "token", &text, "host", &host,
					 "data_directory", &dir) == 0 && strlen(text) == TOKEN_HEX;
	if (ok)
	{
		strlcpy(token, text, sizeof(Token));
		snprintf(owner, owner_size, "host %s, data directory \"%s\"", host, dir);
	}
	else
		dr_error(err, DR_DAMAGED, "object \"%s\" is not a lineage", found.name);
	json_decref(object);
	bytes_free(&found.raw);
	return ok;
}

static bool
put_lineage(Repository *repo, const char *sysid, const char *data_directory, uint32 generation,
			const Token token, StoreResult *result, DrError *err)
{
	char		host[256] = "";
	ObjectName	name;
	SealBuffer	b;
	uint8		hash[32];
	json_t	   *object;
	char	   *text;
	bool		ok;

	gethostname(host, sizeof(host) - 1);
	object = json_pack("{s:s, s:s, s:s}", "token", token, "host", host, "data_directory", data_directory);
	text = object ? json_dumps(object, JSON_COMPACT) : NULL;
	json_decref(object);
	if (text == NULL)
		return dr_error(err, DR_CONFIG, "host name or data directory is not UTF-8");
	name_lineage(name, sysid, generation);
	seal_buffer_init(&b, strlen(text));
	seal_buffer_append(&b, text, strlen(text));
	ok = repository_seal(repo, &b, CODEC_NONE, 0, 0, name, err);
	if (ok)
	{
		*result = repository_put(repo, &b, name, hash, err);
		ok = *result == STORE_OK || *result == STORE_TAKEN;
	}
	seal_buffer_free(&b);
	free(text);
	return ok;
}

bool
lineage_state(Repository *repo, const char *sysid, const char *data_directory,
			  LineageState *state, DrError *err)
{
	Token		own;
	Token		registered;
	char		owner[512];
	uint32		generation;

	if (!newest(repo, sysid, &generation, registered, owner, sizeof(owner), err) ||
		!token_read(data_directory, own, err))
		return false;
	if (generation == 0)
		*state = LINEAGE_UNREGISTERED;
	else
		*state = strcmp(own, registered) == 0 ? LINEAGE_OURS : LINEAGE_FOREIGN;
	return true;
}

/* The token that counts from now on; with "first", perhaps another process's. */
static bool
new_token(const char *data_directory, bool first, Token token, DrError *err)
{
	uint8		raw[TOKEN_HEX / 2];

	random_bytes(raw, sizeof(raw));
	hex_encode(raw, sizeof(raw), token);
	return token_write(data_directory, token, first, err) && token_read(data_directory, token, err);
}

/*
 * Nothing may be below the identifier yet: a lost lineage is not a new one.  A
 * directory for lineages, however, is what another process begins with.
 */
static bool
holds_nothing(Repository *repo, const char *sysid, DrError *err)
{
	Listing		l;
	char	   *prefix = psprintf("%s/", sysid);
	char	   *lineages = psprintf("%s/lineage/", sysid);
	bool		ok = repository_list(repo, prefix, false, &l, err);

	if (!ok)
		return false;
	for (size_t i = 0; ok && i < l.n; i++)
		if (strcmp(l.names[i], lineages) != 0)
		{
			dr_error(err, DR_LINEAGE, "the repository holds data of cluster %s, but not who may write it", sysid);
			dr_detail(err, "\"%s\" exists, but nothing below \"%s\".", l.names[i], lineages);
			ok = dr_hint(err, "If this cluster is to write from now on, call dr_adopt().");
		}
	listing_free(&l);
	pfree(prefix);
	pfree(lineages);
	return ok;
}

static bool
register_first(Repository *repo, const char *sysid, const char *data_directory, Token own,
			   DrError *err)
{
	StoreResult result;

	return (own[0] != '\0' || new_token(data_directory, true, own, err)) &&
		put_lineage(repo, sysid, data_directory, 1, own, &result, err);
}

bool
lineage_require(Repository *repo, const char *sysid, const char *data_directory,
				uint32 *generation, DrError *err)
{
	Token		own;
	Token		registered;
	char		owner[512];

	/* In this order: a token is durable before it is registered, perhaps by another process just now. */
	if (!newest(repo, sysid, generation, registered, owner, sizeof(owner), err) ||
		!token_read(data_directory, own, err))
		return false;
	if (*generation == 0)
	{
		DrError		ignored;

		bool		first = holds_nothing(repo, sysid, err);
		DrError    *why = first ? err : &ignored;

		/* Read again: another process may have registered at the same moment. */
		if ((first && !register_first(repo, sysid, data_directory, own, err)) ||
			!newest(repo, sysid, generation, registered, owner, sizeof(owner), why) ||
			!token_read(data_directory, own, why) || *generation == 0)
			return false;
	}
	if (strcmp(own, registered) == 0)
		return true;
	dr_error(err, DR_LINEAGE, "this copy of cluster %s may not write to the repository", sysid);
	dr_detail(err, "The writer is another copy: %s.  This one is a clone, a restored copy or a drill: "
			  "it lacks the repository's lineage token.", owner);
	return dr_hint(err, "If the other copy is gone for good and this one takes over, call dr_adopt(). "
				   "Until then its WAL stays in pg_wal.");
}

bool
lineage_unchanged(Repository *repo, const char *sysid, uint32 generation, DrError *err)
{
	ObjectName	name;
	Bytes		next = {0};
	StoreResult r;

	name_lineage(name, sysid, generation + 1);
	r = store_get(repo->store, name, SMALL_OBJECT_MAX, &next, err);
	bytes_free(&next);
	if (r == STORE_OK)
	{
		dr_error(err, DR_LINEAGE, "another copy of cluster %s was adopted meanwhile", sysid);
		return dr_hint(err, "If this copy is to write after all, call dr_adopt().");
	}
	return r == STORE_ABSENT;
}

bool
lineage_written_at(Repository *repo, const char *sysid, uint32 generation, int64 *at, DrError *err)
{
	ObjectName	name;
	Bytes		raw = {0};
	SealHeader	header = {0};
	uint8	   *content;
	size_t		n;
	StoreResult r;

	name_lineage(name, sysid, generation);
	r = repository_get(repo, name, SMALL_OBJECT_MAX, &raw, &header, &content, &n, err);
	*at = header.created;
	bytes_free(&raw);
	return r == STORE_OK;
}

bool
lineage_adopt(Repository *repo, const char *sysid, const char *data_directory,
			  uint32 *generation, DrError *err)
{
	Token		own;
	Token		registered;
	char		owner[512];
	StoreResult result;

	if (!newest(repo, sysid, generation, registered, owner, sizeof(owner), err) ||
		!new_token(data_directory, false, own, err))
		return false;
	*generation += 1;
	if (!put_lineage(repo, sysid, data_directory, *generation, own, &result, err))
		return false;
	if (result == STORE_TAKEN)
	{
		dr_error(err, DR_LINEAGE, "another copy of cluster %s was adopted at the same moment", sysid);
		return dr_hint(err, "Find out which copy is to write, and call dr_adopt() there.");
	}
	return true;
}
