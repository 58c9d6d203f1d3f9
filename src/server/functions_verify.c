/*
 * functions_verify.c
 *	  dr_verify(): the repository held against manifest and catalogue.
 *
 * One idea: the program fetches, hashes and opens; what it found to be there is
 * then held against the checksums that only this database has.  Whoever can
 * rewrite the repository can't rewrite those.
 *
 * A crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "catalogue.h"
#include "compat.h"
#include "pg_dr.h"
#include "repository.h"

PG_FUNCTION_INFO_V1(dr_verify);

typedef struct Verification
{
	ReturnSetInfo *rsinfo;
	MemoryContext context;		/* of what is kept */
	DrObject   *objects;
	int			n;
	int			allocated;
	List	   *differ;
} Verification;

static void
put_finding(Verification *v, const char *object, const char *problem, const char *hint)
{
	const char *row[] = {object, dr_shown(problem), hint};

	dr_put_row(v->rsinfo, lengthof(row), row);
}

static void
keep_object(Verification *v, const DrEvent *event)
{
	DrObject   *o;
	char	   *name = dr_event_text(event, "name", true);

	if (strlen(name) > PGDR_OBJECT_NAME_MAX)
		dr_protocol_error("An object's name is too long.");
	if (v->n == v->allocated)
	{
		v->allocated = v->allocated == 0 ? 64 : v->allocated * 2;
		v->objects = v->objects == NULL ?
			MemoryContextAllocHuge(v->context, sizeof(DrObject) * v->allocated) :
			repalloc_huge(v->objects, sizeof(DrObject) * v->allocated);
	}
	o = &v->objects[v->n++];
	memset(o, 0, sizeof(*o));
	strlcpy(o->name, name, sizeof(o->name));
	o->size = dr_event_int(event, "size");
	o->has_sha256 = dr_event_sha256(event, "sha256", o->sha256);
}

static void
on_event(void *arg, const DrEvent *event)
{
	Verification *v = arg;

	if (dr_event_is(event, "object"))
		keep_object(v, event);
	else if (dr_event_is(event, "damaged"))
		put_finding(v, dr_event_text(event, "name", true), dr_event_text(event, "message", true),
					"Don't count on backups that need it; take a new one.");
	else
		dr_protocol_error(psprintf("Event \"%s\" was not expected.", event->name));
}

static void
ask_program(Verification *v, const char *backup)
{
	DrChild    *child = dr_child_open(false);
	StringInfoData request;
	DrEvent		done;

	PG_TRY();
	{
		initStringInfo(&request);
		dr_request_begin(&request, "verify");
		dr_request_text(&request, "backup", backup);
		dr_request_end(&request);
		dr_child_request(child, &request);
		dr_child_finish(child, on_event, v, &done);
	}
	PG_FINALLY();
	{
		dr_child_stop(child, DR_GRACE_STOP);
	}
	PG_END_TRY();
}

static void
compare_with_catalogue(void *arg)
{
	Verification *v = arg;
	char	   *name;
	char	   *url;
	DrBackupDetails details = {.objects = v->objects,.n_objects = v->n};

	if (dr_primary_repository(&name, &url) && v->n > 0)
	{
		details.repository = name;
		v->differ = dr_objects_that_differ(&details, v->context);
	}
}

Datum
dr_verify(PG_FUNCTION_ARGS)
{
	Verification v = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo,.context = CurrentMemoryContext};
	char	   *backup = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *depth = text_to_cstring(PG_GETARG_TEXT_PP(1));
	ListCell   *cell;

	if (strcmp(depth, "objects") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("depth \"%s\" of verification is not supported", depth),
				 errhint("This version knows the depth \"objects\".")));
	dr_require_shmem();
	InitMaterializedSRF(fcinfo, 0);
	ask_program(&v, backup);
	dr_catalogue_run(compare_with_catalogue, &v);
	foreach(cell, v.differ)
		put_finding(&v, lfirst(cell), "its size or SHA-256 is not what this database recorded when it was stored",
					"Somebody replaced it together with its manifest: treat the repository as compromised.");
	return (Datum) 0;
}
