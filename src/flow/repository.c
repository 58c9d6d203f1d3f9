/*
 * repository.c
 *	  Opening, creating and using a repository.
 *
 * A crash while a repository is created leaves repository.json without a
 * keyring; the next writer that finds nothing else continues there.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/repository.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flow/aside.h"
#include "flow/generations.h"

#define KEYRING_PREFIX	"keys/"

bool
recipient_load(const char *key_file, Recipient *out, DrError *err)
{
	char		text[KEY_FILE_MAX + 1];
	struct stat st;
	ssize_t		n;
	int			fd;
	bool		ok;

	memset(out, 0, sizeof(*out));
	if (strcmp(key_file, "none") == 0)
	{
		out->none = true;
		return true;
	}
	fd = open(key_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) != 0)
	{
		dr_error(err, DR_KEY, "could not open key file \"%s\": %s", key_file, strerror(errno));
		if (fd >= 0)
			close(fd);
		return dr_hint(err, "Create one with: pg_dr key generate FILE");
	}
	if (!S_ISREG(st.st_mode) || (st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
	{
		close(fd);
		dr_error(err, DR_KEY, "key file \"%s\" must be a regular file that only its owner can read", key_file);
		return dr_hint(err, "chmod 0600 \"%s\"", key_file);
	}
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n < 0 || n == sizeof(text) - 1)
		return dr_error(err, DR_KEY, "key file \"%s\" could not be read or is too long", key_file);
	text[n] = '\0';
	ok = key_file_parse(text, key_file, out, err);
	OPENSSL_cleanse(text, sizeof(text));
	return ok;
}

/* ---- listing ---- */

static bool
listing_add(void *arg, const char *name, uint64 size, DrError *err)
{
	Listing    *l = arg;

	l->names = array_room(l->names, l->n, sizeof(*l->names));
	l->sizes = array_room(l->sizes, l->n, sizeof(*l->sizes));
	l->names[l->n] = pg_strdup(name);
	l->sizes[l->n++] = size;
	return true;
}

bool
repository_list(Repository *repo, const char *prefix, bool deep, Listing *out, DrError *err)
{
	memset(out, 0, sizeof(*out));
	if (store_list(repo->store, prefix, deep, listing_add, out, err))
		return true;
	listing_free(out);
	return false;
}

bool
repository_list_after(Repository *repo, const char *prefix, const char *after, Listing *out,
					  DrError *err)
{
	memset(out, 0, sizeof(*out));
	if (store_list_after(repo->store, prefix, after, listing_add, out, err))
		return true;
	listing_free(out);
	return false;
}

void
listing_free(Listing *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->names[i]);
	free(l->names);
	free(l->sizes);
	memset(l, 0, sizeof(*l));
}

/* ---- creation ---- */

/*
 * R1: nothing may be there but repository.json and, when that is known, a
 * directory for the keyring that another writer is about to store.  What a
 * probe left is nothing.
 */
static bool
require_empty(Repository *repo, bool identified, DrError *err)
{
	Listing		l;
	bool		empty = true;
	char	   *stranger = NULL;

	if (!repository_list(repo, "", false, &l, err))
		return false;
	for (size_t i = 0; i < l.n; i++)
		if (strcmp(l.names[i], REPOSITORY_OBJECT) != 0 && strcmp(l.names[i], STORE_PROBE_PREFIX) != 0 &&
			!(identified && strcmp(l.names[i], "keys/") == 0))
		{
			empty = false;
			stranger = stranger ? stranger : l.names[i];
		}
	if (!empty)
	{
		dr_error(err, DR_DAMAGED, "repository \"%s\" has no %s, but is not empty",
				 repo->store->url, identified ? "keyring below \"keys/\"" : "\"" REPOSITORY_OBJECT "\"");
		dr_detail(err, "It holds \"%s\".", stranger);
		dr_hint(err, "Bring the missing object back from a copy, or choose an empty directory.");
	}
	listing_free(&l);
	return empty;
}

/* Another writer may create it at the same moment: then its version counts. */
static bool
put_unless_taken(Repository *repo, const char *name, const void *data, size_t n, DrError *err)
{
	uint8		hash[32];
	StoreResult r;

	sha256(data, n, hash);
	r = store_put(repo->store, name, data, n, hash, err);
	repo->created |= r == STORE_OK;
	return r == STORE_OK || r == STORE_TAKEN;
}

static StoreResult
read_identity(Repository *repo, DrError *err)
{
	Bytes		text = {0};
	StoreResult r = store_get(repo->store, REPOSITORY_OBJECT, SMALL_OBJECT_MAX, &text, err);

	if (r == STORE_OK && !repository_parse((char *) text.data, text.len, repo->id, err))
		r = STORE_FAILED;
	bytes_free(&text);
	return r;
}

static void
no_finding(void *arg, const char *name, const char *status, const char *detail, const char *hint)
{
}

static bool
create_identity(Repository *repo, const RepositoryAccess *access, DrError *err)
{
	uint8		id[16];
	char		text[REPOSITORY_TEXT_MAX];
	DrError		ignored;

	/* Not empty, because another writer has just created it? */
	if (!require_empty(repo, false, err))
		return read_identity(repo, &ignored) == STORE_OK;
	if (!store_probe(repo->store, access->finding ? access->finding : no_finding, access->arg, err))
		return false;
	random_bytes(id, sizeof(id));
	repository_text(id, time_now() / 1000000, text);
	return put_unless_taken(repo, REPOSITORY_OBJECT, text, strlen(text), err);
}

static void
not_a_repository(Repository *repo, DrError *err)
{
	dr_error(err, DR_ABSENT, "\"%s\" is not a pg_dr repository: \"" REPOSITORY_OBJECT "\" does not exist",
			 repo->store->url);
	dr_hint(err, "Check the URL; of a directory, that its file system is mounted.");
}

/* The first one: ours, or that of another writer at the same moment. */
static bool
create_keyring(Repository *repo, DrError *err)
{
	ObjectName	name;
	Bytes		data = {0};
	bool		ok;

	/* Not empty, because another writer has just created it? */
	if (!require_empty(repo, true, err))
	{
		Newest		found;
		DrError		ignored;

		ok = newest_generation(repo->store, KEYRING_PREFIX, SMALL_OBJECT_MAX, &found, &ignored) &&
			found.generation > 0;
		bytes_free(&found.raw);
		return ok;
	}
	name_keyring(name, 1);
	ok = keyring_create(repo->id, &repo->recipient, 1, &data, err) &&
		put_unless_taken(repo, name, data.data, data.len, err);
	bytes_free(&data);
	return ok;
}

static bool
open_keyring(Repository *repo, const Newest *newest, DrError *err)
{
	if (newest->generation > 0)
		return keyring_open(newest->raw.data, newest->raw.len, newest->name, repo->id,
							&repo->recipient, &repo->keyring, err);
	dr_error(err, DR_DAMAGED, "repository \"%s\" has no keyring: nothing exists below \"keys/\"",
			 repo->store->url);
	return dr_hint(err, "Bring \"keys/00000001\" back from a copy; without it nothing can be opened.");
}

static bool
identify(void *arg, DrError *err)
{
	return read_identity(arg, err) == STORE_OK;
}

static bool
list_top(void *arg, DrError *err)
{
	Repository *repo = arg;

	return repository_list(repo, "", false, &repo->top, err);
}

/* Everything is asked for at the same time. */
static bool
open_both(Repository *repo, const RepositoryAccess *access, bool create, DrError *err)
{
	Aside		identity;
	Aside		top;
	Newest		newest;
	DrError		keyring_err;
	DrError		ignored;		/* whoever wants the listing asks again */
	bool		listed;
	bool		ok;

	aside_start(&identity, identify, repo);
	if (access->list_top)
		aside_start(&top, list_top, repo);
	listed = newest_generation(repo->store, KEYRING_PREFIX, SMALL_OBJECT_MAX, &newest, &keyring_err);
	ok = aside_join(&identity, err);
	if (access->list_top)
		aside_join(&top, &ignored);
	if (!ok && err->code == DR_ABSENT)
	{
		if (create)
			ok = create_identity(repo, access, err) && identify(repo, err);
		else
			not_a_repository(repo, err);
	}
	else if (ok && !listed)
	{
		*err = keyring_err;
		ok = false;
	}
	if (ok && create && newest.generation == 0)
	{
		bytes_free(&newest.raw);
		ok = create_keyring(repo, err) &&
			newest_generation(repo->store, KEYRING_PREFIX, SMALL_OBJECT_MAX, &newest, err);
	}
	ok = ok && open_keyring(repo, &newest, err);
	bytes_free(&newest.raw);
	return ok;
}

bool
repository_open(Repository *repo, const RepositoryAccess *access, bool create, DrError *err)
{
	memset(repo, 0, sizeof(*repo));
	if (!recipient_load(access->key_file, &repo->recipient, err) ||
		(repo->store = store_open(access->url, access->credentials_file, err)) == NULL)
		return false;
	if (access->impatient)
		store_set_patience(repo->store, STORE_PATIENCE_PERSON);
	if ((!create || store_prepare(repo->store, err)) && open_both(repo, access, create, err))
	{
		store_set_patience(repo->store, STORE_PATIENCE_OWN);
		return true;
	}
	repository_close(repo);
	return false;
}

void
repository_close(Repository *repo)
{
	store_close(repo->store);
	listing_free(&repo->top);
	OPENSSL_cleanse(repo, sizeof(*repo));
}

bool
repository_confirm_absent(Repository *repo, DrError *err)
{
	Bytes		text = {0};
	StoreResult r = store_get(repo->store, REPOSITORY_OBJECT, SMALL_OBJECT_MAX, &text, err);

	bytes_free(&text);
	return r == STORE_OK;
}

/* ---- objects ---- */

bool
repository_seal(Repository *repo, SealBuffer *b, SealCodec codec, uint64 plain_length,
				uint32 plain_crc, const char *name, DrError *err)
{
	SealHeader	header = {0};

	header.kind = object_kind(name);
	header.codec = codec;
	header.plain_length = plain_length;
	header.plain_crc = plain_crc;
	header.created = time_now();
	memcpy(header.repository_id, repo->id, sizeof(repo->id));
	return object_seal(b, &header, &repo->keyring.epochs[repo->keyring.n - 1], name, err);
}

StoreResult
repository_put(Repository *repo, const SealBuffer *b, const char *name, uint8 hash[32], DrError *err)
{
	sha256(b->data, b->size, hash);
	return store_put(repo->store, name, b->data, b->size, hash, err);
}

static const EpochKey *
epoch_key(Repository *repo, const SealHeader *header, const char *name, DrError *err)
{
	const EpochKey *key = keyring_find(&repo->keyring, header->key_id);
	char		id[17];

	if (key != NULL)
		return key;
	hex_encode(header->key_id, 8, id);
	dr_error(err, DR_DAMAGED, "object \"%s\" is damaged, or the keyring is older than it", name);
	dr_detail(err, "It is sealed with key %s, which keyring generation %u does not have.",
			  id, repo->keyring.generation);
	return NULL;
}

bool
repository_unseal(Repository *repo, const char *name, Bytes *raw, SealHeader *header,
				  uint8 **content, size_t *n, DrError *err)
{
	const EpochKey *key;

	return object_header(raw->data, raw->len, repo->id, name, header, err) &&
		(key = epoch_key(repo, header, name, err)) != NULL &&
		object_open(raw->data, raw->len, header, key, name, content, n, err);
}

StoreResult
repository_get(Repository *repo, const char *name, size_t max, Bytes *raw,
			   SealHeader *header, uint8 **content, size_t *n, DrError *err)
{
	StoreResult r;

	raw->len = 0;
	r = store_get(repo->store, name, max, raw, err);
	if (r == STORE_ABSENT && !repository_confirm_absent(repo, err))
		return STORE_FAILED;	/* R2; err says what is wrong with the repository */
	if (r != STORE_OK)
	{
		if (r == STORE_ABSENT)
			dr_error(err, DR_ABSENT, "object \"%s\" does not exist in repository \"%s\"", name, repo->store->url);
		return r;
	}
	return repository_unseal(repo, name, raw, header, content, n, err) ? STORE_OK : STORE_FAILED;
}

StoreResult
repository_get_plain(Repository *repo, const char *name, size_t max, Bytes *plain,
					 SealHeader *header, DrError *err)
{
	Bytes		raw = {0};
	uint8	   *content;
	size_t		n;
	Codec		codec;
	DrError		why;
	StoreResult r = repository_get(repo, name, max, &raw, header, &content, &n, err);

	plain->len = 0;
	if (r == STORE_OK && header->codec == CODEC_NONE)
		bytes_append(plain, content, n);
	else if (r == STORE_OK && header->plain_length > max)
	{
		dr_error(err, DR_DAMAGED, "object \"%s\" is longer than an object of its kind can be", name);
		r = STORE_FAILED;
	}
	else if (r == STORE_OK)
	{
		bytes_reserve(plain, header->plain_length);
		codec_init(&codec, 1);
		if (codec_decompress(&codec, content, n, plain->data, header->plain_length,
							 header->plain_crc, &why))
			plain->len = header->plain_length;
		else
		{
			dr_error(err, DR_DAMAGED, "object \"%s\" is damaged", name);
			dr_detail(err, "%s", why.message);
			r = STORE_FAILED;
		}
		codec_free(&codec);
	}
	bytes_free(&raw);
	return r;
}

/* Appends it to out. */
static bool
get_part(Repository *repo, const char *name, uint64 offset, size_t n, Bytes *out, DrError *err)
{
	StoreResult r = store_get_range(repo->store, name, offset, n, out, err);

	return r == STORE_OK || (r == STORE_ABSENT &&
							 dr_error(err, DR_ABSENT, "object \"%s\" does not exist in repository \"%s\"", name, repo->store->url));
}

static bool
no_such_size(const char *name, uint64 size, DrError *err)
{
	dr_error(err, DR_DAMAGED, "object \"%s\" is damaged", name);
	return dr_detail(err, "No sealed object has its size of " UINT64_FORMAT " bytes: it is cut off or extended.", size);
}

bool
repository_check_ends(Repository *repo, const char *name, uint64 size, SealHeader *header, DrError *err)
{
	Bytes		head = {0};
	Bytes		last = {0};
	size_t		at = object_last_chunk(size);
	const EpochKey *key;
	bool		ok;

	if (at == 0)
		return no_such_size(name, size, err);
	ok = get_part(repo, name, 0, OBJECT_HEAD, &head, err) &&
		object_header(head.data, size, repo->id, name, header, err) &&
		(key = epoch_key(repo, header, name, err)) != NULL &&
		get_part(repo, name, at, size - at, &last, err) &&
		object_ends_open(head.data, last.data, size, key, name, err);
	bytes_free(&head);
	bytes_free(&last);
	return ok;
}

bool
repository_get_head(Repository *repo, const char *name, Bytes *out, DrError *err)
{
	return get_part(repo, name, 0, OBJECT_HEAD, out, err);
}

bool
repository_get_chunks(Repository *repo, const char *name, uint64 size, uint64 first, uint64 n,
					  Bytes *out, DrError *err)
{
	return get_part(repo, name, object_chunk_at(first), object_chunks_size(size, first, n), out, err);
}

bool
repository_unseal_chunks(Repository *repo, const char *name, const uint8 head[OBJECT_HEAD], uint64 size,
						 uint8 *chunks, uint64 first, uint64 n, size_t *plain_n, DrError *err)
{
	SealHeader	header;
	const EpochKey *key;

	if (object_last_chunk(size) == 0)
		return no_such_size(name, size, err);
	if (!object_header(head, size, repo->id, name, &header, err) ||
		(key = epoch_key(repo, &header, name, err)) == NULL ||
		!object_chunks_open(head, chunks, size, first, n, key, name, plain_n, err))
		return false;
	if (header.codec == CODEC_NONE && header.plain_length == object_content_size(size))
		return true;
	dr_error(err, DR_DAMAGED, "object \"%s\" is damaged", name);
	return dr_detail(err, "It was not sealed with the size of " UINT64_FORMAT " bytes that is expected.", size);
}
