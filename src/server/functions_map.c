/*
 * functions_map.c
 *	  What SQL is told of the change map: dr.change_map(), a row of dr_status.
 *
 * Reads shared memory; a crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "message.h"
#include "pg_dr.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(dr_change_map_state);

/* The worker has no database, and so another encoding than we. */
static void
read_map(DrChangeMap *map)
{
	dr_map_read(map);
	dr_sanitize(map->failure.message, strlen(map->failure.message), false);
	dr_sanitize(map->failure.hint, strlen(map->failure.hint), false);
	dr_sanitize(map->broken, strlen(map->broken), false);
}

/* ---- dr.change_map() ---- */

static const char *
state_name(DrMapState state)
{
	static const char *const names[] = {"off", "starting", "mapping", "failed"};

	return names[state];
}

static const char *
trouble(const DrChangeMap *map)
{
	if (map->state == DR_MAP_OFF)
		return map->reason;
	return map->state == DR_MAP_FAILED ? map->failure.message : NULL;
}

Datum
dr_change_map_state(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	DrChangeMap map;
	Datum		values[8];
	bool		nulls[8] = {0};

	dr_require_shmem();
	InitMaterializedSRF(fcinfo, 0);
	read_map(&map);
	values[0] = CStringGetTextDatum(state_name(map.state));
	values[1] = Int64GetDatum((int64) map.timeline);
	values[2] = LSNGetDatum(map.from);
	values[3] = LSNGetDatum(map.durable);
	values[4] = LSNGetDatum(map.mapped);
	nulls[1] = nulls[2] = nulls[3] = nulls[4] = map.state != DR_MAP_MAPPING;
	values[5] = Int64GetDatum(map.files);
	values[6] = Int64GetDatum(map.bytes);
	nulls[7] = trouble(&map) == NULL;
	values[7] = nulls[7] ? (Datum) 0 : CStringGetTextDatum(trouble(&map));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/* ---- dr_status ---- */

/* Not there: what that costs. */
#define MAP_HINT	"Until it is there again, incremental backups read everything."

static void
map_is_mapping(DrFinding *f, const DrChangeMap *map)
{
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);
	uint64		lag = flushed > map->mapped ? flushed - map->mapped : 0;

	f->status = "ok";
	f->detail = psprintf("all changes since %X/%X are known, " UINT64_FORMAT " bytes of WAL wait to be read",
						 LSN_FORMAT_ARGS(map->from), lag);
	if (map->broken_at != 0)
		f->detail = psprintf("%s; it began anew at %s: %s", f->detail, timestamptz_to_str(map->broken_at), map->broken);
}

void
dr_change_map_finding(DrFinding *f)
{
	DrChangeMap map;

	read_map(&map);
	f->hint = NULL;
	if (RecoveryInProgress())
	{
		f->status = "ok";
		f->detail = pstrdup("a standby keeps no change map");
	}
	else if (map.state == DR_MAP_MAPPING)
		map_is_mapping(f, &map);
	else if (map.state == DR_MAP_STARTING)
	{
		f->status = "ok";
		f->detail = pstrdup("starting");
	}
	else if (map.state == DR_MAP_OFF)
	{
		f->status = "warning";
		f->detail = psprintf("off: %s", map.reason[0] ? map.reason : "its worker has not started");
		f->hint = MAP_HINT;
	}
	else
	{
		f->status = "warning";
		f->detail = psprintf("failed at %s: %s", timestamptz_to_str(map.failed_at), map.failure.message);
		f->hint = map.failure.hint[0] ? psprintf("%s " MAP_HINT, map.failure.hint) : MAP_HINT;
	}
}
