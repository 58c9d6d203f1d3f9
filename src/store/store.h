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
 *	T5	STORE_OK from put means that the store confirmed these very bytes, also
 *		when an earlier attempt of the same put had stored them.
 *	T6	A call ends: what the network or a server spoils is tried again until
 *		patience has run out, and then is an error.
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
	STORE_ABSENT,				/* get: it does not exist */
	STORE_TAKEN,				/* put: the name exists; nothing was changed */
	STORE_FAILED
} StoreResult;

/*
 * An entry of a listing.  A name that ends in '/' stands for everything below
 * it.  Return false, with err set, to stop.
 */
typedef bool (*StoreListFn) (void *arg, const char *name, uint64 size, DrError *err);

/* What a probe found out; status is "ok", "warning" or "critical". */
typedef void (*StoreFindingFn) (void *arg, const char *name, const char *status, const char *detail,
								const char *hint);

typedef struct Store Store;

typedef struct StoreOps
{
	const char *scheme;			/* "file" */
	bool		(*open) (Store *store, const char *rest, const char *credentials_file, DrError *err);
	bool		(*prepare) (Store *store, DrError *err);
	StoreResult (*put) (Store *store, const char *name, const void *data, size_t n,
						const uint8 sha256[32], DrError *err);
	StoreResult (*get) (Store *store, const char *name, size_t max, Bytes *out, DrError *err);
	StoreResult (*get_range) (Store *store, const char *name, uint64 offset, size_t n, Bytes *out,
							  DrError *err);
	bool		(*list) (Store *store, const char *prefix, const char *after, bool deep, StoreListFn fn,
						 void *arg, DrError *err);
	bool		(*remove) (Store *store, const char *const *names, size_t n, DrError *err);
	void		(*close) (Store *store);

	/* May be NULL: */
	void		(*set_patience) (Store *store, int seconds);
	bool		(*extend_lock) (Store *store, const char *name, DrError *err);
	void		(*probe) (Store *store, const char *directory, StoreFindingFn fn, void *arg);
} StoreOps;

struct Store
{
	const StoreOps *ops;
	char	   *url;			/* for messages: without parameters */
	void	   *private;		/* the backend's */
	bool		looks_first;	/* put asks, then writes: the DBA has said that T1 may not hold in a race */
	uint64		strangers;		/* entries that list left out, T3; approximate */
};

/*
 * NULL: err is set.  The store must exist; opening writes nothing.
 * credentials_file: NULL when none was named.
 */
extern Store *store_open(const char *url, const char *credentials_file, DrError *err);

/* Before the first put: clear away what interrupted writers left. */
extern bool store_prepare(Store *store, DrError *err);

/* sha256 is that of the data: whoever stores has hashed it anyway. */
extern StoreResult store_put(Store *store, const char *name, const void *data, size_t n,
							 const uint8 sha256[32], DrError *err);

/* Appends the object to out; one that is longer than max bytes is an error. */
extern StoreResult store_get(Store *store, const char *name, size_t max, Bytes *out, DrError *err);

/* Appends n bytes of it; an object that ends before is an error. */
extern StoreResult store_get_range(Store *store, const char *name, uint64 offset, size_t n,
								   Bytes *out, DrError *err);

/*
 * What is below prefix ("" or ending in '/'), in byte order of names: every
 * object when deep, else one level.  A prefix that does not exist is empty.
 */
extern bool store_list(Store *store, const char *prefix, bool deep, StoreListFn fn, void *arg,
					   DrError *err);

/* One level, and only names that sort after this one: what comes before costs nothing. */
extern bool store_list_after(Store *store, const char *prefix, const char *after, StoreListFn fn,
							 void *arg, DrError *err);

/* Those that do not exist are removed already. */
extern bool store_remove(Store *store, const char *const *names, size_t n, DrError *err);
extern void store_close(Store *store);

/*
 * From any thread: seconds for which to try again from now on.  0 ends what
 * runs with DR_CANCELLED, until another number is set; STORE_PATIENCE_OWN is
 * what the URL says.
 */
#define STORE_PATIENCE_OWN	(-1)
#define STORE_PATIENCE_PERSON	20	/* somebody waits to hear that the URL is wrong */
#define STORE_PATIENCE_ARCHIVE	10	/* the server's archiver tries again by itself, and shows why */
#define STORE_PATIENCE_CLEANUP	10	/* for removing what was given up: nobody should wait for it */
extern void store_set_patience(Store *store, int seconds);

/*
 * Where objects are locked: make this one's lock as long as a new one's, when
 * less than half of that is left.
 */
extern bool store_extend_lock(Store *store, const char *name, DrError *err);

/*
 * Find out whether the store keeps its rules, by objects below "probe/" that
 * are removed again where that is allowed.  False: it must not be written to,
 * and err says why; findings have been reported all the same.
 */
#define STORE_PROBE_PREFIX	"probe/"
extern bool store_probe(Store *store, StoreFindingFn fn, void *arg, DrError *err);

/* Decode %XX; NULL when it is malformed or holds a NUL.  The caller frees it. */
extern char *url_decode(const char *text);

extern const StoreOps file_store_ops;
extern const StoreOps s3_store_ops;

#endif							/* PGDR_STORE_H */
