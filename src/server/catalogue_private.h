/*
 * catalogue_private.h
 *	  What the files with the catalogue's SQL share: a statement and its parameters.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CATALOGUE_PRIVATE_H
#define PGDR_CATALOGUE_PRIVATE_H

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"

#include "catalogue.h"

/* ---- parameters of a statement ---- */

#define MAX_ARGS	32

typedef struct Args
{
	int			n;
	Oid			types[MAX_ARGS];
	Datum		values[MAX_ARGS];
	char		nulls[MAX_ARGS];
} Args;

static inline void
arg(Args *a, Oid type, Datum value, bool isnull)
{
	Assert(a->n < MAX_ARGS);
	a->types[a->n] = type;
	a->values[a->n] = value;
	a->nulls[a->n] = isnull ? 'n' : ' ';
	a->n++;
}

static inline void
arg_text(Args *a, const char *value)
{
	arg(a, TEXTOID, value ? CStringGetTextDatum(value) : (Datum) 0, value == NULL);
}

static inline void
arg_int8(Args *a, int64 value)
{
	arg(a, INT8OID, Int64GetDatum(value), false);
}

static inline void
arg_lsn(Args *a, XLogRecPtr value)
{
	arg(a, PG_LSNOID, LSNGetDatum(value), value == InvalidXLogRecPtr);
}

static inline void
arg_time(Args *a, TimestampTz value)
{
	arg(a, TIMESTAMPTZOID, TimestampTzGetDatum(value), value == 0);
}

static inline Datum
sha256_datum(const uint8 *sha256)
{
	bytea	   *value = (bytea *) palloc(VARHDRSZ + 32);

	SET_VARSIZE(value, VARHDRSZ + 32);
	memcpy(VARDATA(value), sha256, 32);
	return PointerGetDatum(value);
}

static inline void
arg_sha256(Args *a, const uint8 *sha256, bool has)
{
	arg(a, BYTEAOID, has ? sha256_datum(sha256) : (Datum) 0, !has);
}

/* An array of n values; nulls may be NULL. */
static inline void
arg_array(Args *a, Oid element, Datum *values, bool *nulls, int n)
{
	int16		typlen;
	bool		typbyval;
	char		typalign;
	int			lower = 1;
	ArrayType  *array;

	get_typlenbyvalalign(element, &typlen, &typbyval, &typalign);
	array = construct_md_array(values, nulls, 1, &n, &lower, element, typlen, typbyval, typalign);
	arg(a, get_array_type(element), PointerGetDatum(array), false);
}

static inline void
arg_text_array(Args *a, List *texts)
{
	Datum	   *values = palloc(sizeof(Datum) * (list_length(texts) + 1));
	int			n = 0;
	ListCell   *cell;

	foreach(cell, texts)
		values[n++] = CStringGetTextDatum((char *) lfirst(cell));
	arg_array(a, TEXTOID, values, NULL, n);
}

/* What a row says of how it ended; NULL: nothing. */
static inline char *
dr_report_text(const DrReport *report)
{
	if (report->message[0] == '\0')
		return NULL;
	return dr_redacted(report->detail[0] == '\0' ? report->message :
					   psprintf("%s (%s)", report->message, report->detail));
}

/* ---- statements ---- */

static inline uint64
execute(const char *sql, Args *a, int expected)
{
	int			rc;

	if (!dr_catalogue_exists())
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the catalogue of pg_dr does not exist in database \"%s\"", dr_database),
				 errhint("Run CREATE EXTENSION pg_dr in the database that pg_dr.database names.")));
	rc = SPI_execute_with_args(sql, a->n, a->types, a->values, a->nulls, false, 0);
	if (rc != expected)
		elog(ERROR, "SPI_execute_with_args returned %s for: %s", SPI_result_code_string(rc), sql);
	return SPI_processed;
}

/* The first column of what execute() returned. */
static inline List *
result_texts(MemoryContext context)
{
	List	   *texts = NIL;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *text = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		MemoryContext caller = MemoryContextSwitchTo(context);

		if (text != NULL)
			texts = lappend(texts, pstrdup(text));
		MemoryContextSwitchTo(caller);
	}
	return texts;
}

#endif							/* PGDR_CATALOGUE_PRIVATE_H */
