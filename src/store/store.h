/*
 * store.h
 *	  Where objects live: the interface of every backend.
 *
 * Rules that every store keeps:
 *
 *	T1	put makes the whole object appear under its name, durable, or nothing;
 *		it never replaces what is there.  There is no verb that overwrites.
 *	T2	STORE_ABSENT means that the store itself said so.  An unreachable store
 *		is STORE_FAILED.
 *	T3	Names are valid (name_valid) in both directions: list never hands out
 *		another one, but counts what it left out.
 *	T4	A store may be used by several threads at once.
 *
 * Errors: err is filled for every result but STORE_OK, and names the object.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_STORE_H
#define PGDR_STORE_H

#include "core/bytes.h"
#include "core/error.h"
#include "core/names.h"

typedef enum StoreResult
{
	STORE_OK,
	STORE_ABSENT,				/* get, remove: it does not exist */
	STORE_TAKEN,				/* put: the name exists; nothing was changed */
	STORE_FAILED
} StoreResult;

/*
 * An entry of a listing.  A name that ends in '/' stands for everything below
 * it.  Return false, with err set, to stop.
 */
typedef bool (*StoreListFn) (void *arg, const char *name, uint64 size, DrError *err);

typedef struct Store Store;

typedef struct StoreOps
{
	const char *scheme;			/* "file" */
	bool		(*open) (Store *store, const char *rest, DrError *err);
	bool		(*prepare) (Store *store, DrError *err);
	StoreResult (*put) (Store *store, const char *name, const void *data, size_t n, DrError *err);
	StoreResult (*get) (Store *store, const char *name, size_t max, Bytes *out, DrError *err);
	bool		(*list) (Store *store, const char *prefix, bool deep, StoreListFn fn, void *arg,
						 DrError *err);
	StoreResult (*remove) (Store *store, const char *name, DrError *err);
	void		(*close) (Store *store);
} StoreOps;

struct Store
{
	const StoreOps *ops;
	char	   *url;			/* for messages */
	void	   *private;		/* the backend's */
	uint64		strangers;		/* entries that list left out, T3; approximate */
};

/* NULL: err is set.  The store must exist; opening writes nothing. */
extern Store *store_open(const char *url, DrError *err);

/* Before the first put: clear away what interrupted writers left. */
extern bool store_prepare(Store *store, DrError *err);

extern StoreResult store_put(Store *store, const char *name, const void *data, size_t n,
							 DrError *err);

/* Appends the object to out; one that is longer than max bytes is an error. */
extern StoreResult store_get(Store *store, const char *name, size_t max, Bytes *out, DrError *err);

/*
 * What is below prefix ("" or ending in '/'), in byte order of names: every
 * object when deep, else one level.  A prefix that does not exist is empty.
 */
extern bool store_list(Store *store, const char *prefix, bool deep, StoreListFn fn, void *arg,
					   DrError *err);
extern StoreResult store_remove(Store *store, const char *name, DrError *err);
extern void store_close(Store *store);

/* Decode %XX; NULL when it is malformed or holds a NUL.  The caller frees it. */
extern char *url_decode(const char *text);

extern const StoreOps file_store_ops;

#endif							/* PGDR_STORE_H */
