/*
 * store.c
 *	  Choosing a backend by its URL, and the wrappers that keep the rules.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "store/store.h"

static const StoreOps *const backends[] = {&file_store_ops, &s3_store_ops};

char *
url_decode(const char *text)
{
	char	   *out = pg_malloc(strlen(text) + 1);
	char	   *to = out;

	for (const char *p = text; *p != '\0'; p++)
	{
		unsigned int byte;

		if (*p != '%')
		{
			*to++ = *p;
			continue;
		}
		if (strspn(p + 1, "0123456789abcdefABCDEF") < 2 || sscanf(p + 1, "%2x", &byte) != 1 || byte == 0)
		{
			free(out);
			return NULL;
		}
		*to++ = (char) byte;
		p += 2;
	}
	*to = '\0';
	return out;
}

Store *
store_open(const char *url, const char *credentials_file, DrError *err)
{
	for (int i = 0; i < (int) lengthof(backends); i++)
	{
		size_t		n = strlen(backends[i]->scheme);
		Store	   *store;

		if (strncmp(url, backends[i]->scheme, n) != 0 || strncmp(url + n, "://", 3) != 0)
			continue;
		store = pg_malloc0(sizeof(*store));
		store->ops = backends[i];
		store->url = pnstrdup(url, strcspn(url, "?"));
		if (store->ops->open(store, url + n + 3, credentials_file, err))
			return store;
		free(store->url);
		free(store);
		return NULL;
	}
	dr_error(err, DR_CONFIG, "repository \"%s\" has an unknown scheme", url);
	dr_hint(err, "A repository is file:///directory or s3://bucket/prefix.");
	return NULL;
}

bool
store_prepare(Store *store, DrError *err)
{
	return store->ops->prepare(store, err);
}

static StoreResult
bad_name(const char *name, DrError *err)
{
	dr_error(err, DR_INTERNAL, "\"%s\" is not an object's name", name);
	return STORE_FAILED;
}

StoreResult
store_put(Store *store, const char *name, const void *data, size_t n, const uint8 sha256[32],
		  DrError *err)
{
	return name_valid(name) ? store->ops->put(store, name, data, n, sha256, err) : bad_name(name, err);
}

StoreResult
store_get(Store *store, const char *name, size_t max, Bytes *out, DrError *err)
{
	return name_valid(name) ? store->ops->get(store, name, max, out, err) : bad_name(name, err);
}

StoreResult
store_get_range(Store *store, const char *name, uint64 offset, size_t n, Bytes *out, DrError *err)
{
	return name_valid(name) ? store->ops->get_range(store, name, offset, n, out, err) : bad_name(name, err);
}

bool
store_list(Store *store, const char *prefix, bool deep, StoreListFn fn, void *arg, DrError *err)
{
	Assert(prefix[0] == '\0' || prefix[strlen(prefix) - 1] == '/');
	return store->ops->list(store, prefix, "", deep, fn, arg, err);
}

bool
store_list_after(Store *store, const char *prefix, const char *after, StoreListFn fn, void *arg,
				 DrError *err)
{
	Assert(strncmp(prefix, after, strlen(prefix)) == 0);
	return store->ops->list(store, prefix, after, false, fn, arg, err);
}

bool
store_remove(Store *store, const char *const *names, size_t n, DrError *err)
{
	for (size_t i = 0; i < n; i++)
		if (!name_valid(names[i]))
			return bad_name(names[i], err) == STORE_OK;
	return n == 0 || store->ops->remove(store, names, n, err);
}

void
store_set_patience(Store *store, int seconds)
{
	if (store->ops->set_patience != NULL)
		store->ops->set_patience(store, seconds);
}

bool
store_extend_lock(Store *store, const char *name, DrError *err)
{
	return store->ops->extend_lock == NULL || store->ops->extend_lock(store, name, err);
}

void
store_close(Store *store)
{
	if (store == NULL)
		return;
	store->ops->close(store);
	free(store->url);
	free(store);
}
