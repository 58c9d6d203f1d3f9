/*
 * change_map_wal.c
 *	  What a WAL record changes.
 *
 * One idea: block references say it for nearly all records, and the few that
 * change files in another way are known: relations that come, go or are cut,
 * databases, tablespaces.  A record that says of itself that it changes files
 * without references, and is not one of these, makes the range unsafe, and so
 * does one of a resource manager that is not the server's own (D4).
 *
 * Left out, because a backup takes them whole each time: all forks but the
 * main one (clearing the visibility map is not logged, or without a
 * reference, and the free space map not at all), relation maps, the commit
 * log and its like.  What the server changes without any record (hint bits
 * without checksums, the pages that an SP-GiST index used last) may be older:
 * it is the same to a reader.
 *
 * Keeps nothing; a crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_control.h"
#include "catalog/storage_xlog.h"
#include "commands/dbcommands_xlog.h"
#include "commands/tablespace.h"

#include "change_map.h"
#include "compat.h"

static void
mark_blocks(DrMapTable *t, XLogReaderState *record)
{
	for (int id = 0; id <= XLogRecMaxBlockId(record); id++)
	{
		DrLocator	locator;
		ForkNumber	fork;
		BlockNumber block;

		if (XLogRecGetBlockTagExtended(record, id, &locator, &fork, &block, NULL) && fork == MAIN_FORKNUM)
			dr_map_mark(t, DR_LOCATOR_TABLESPACE(&locator), DR_LOCATOR_DATABASE(&locator),
						DR_LOCATOR_RELATION(&locator), block);
	}
}

static void
limit(DrMapTable *t, const DrLocator *locator, BlockNumber block)
{
	dr_map_limit(t, DR_LOCATOR_TABLESPACE(locator), DR_LOCATOR_DATABASE(locator),
				 DR_LOCATOR_RELATION(locator), block);
}

/* ---- the server's level of WAL ---- */

static void
wal_level_is(DrMapTable *t, int level)
{
	dr_map_minimal(t, level < WAL_LEVEL_REPLICA);
}

/* True when it is known what kind of record this is; so below. */
static bool
apply_xlog(DrMapTable *t, XLogReaderState *record, uint8 info)
{
	char	   *data = XLogRecGetData(record);

	if (info == XLOG_PARAMETER_CHANGE)
	{
		xl_parameter_change change;

		memcpy(&change, data, sizeof(change));
		wal_level_is(t, change.wal_level);
	}
#if DR_WAL_LEVEL_IN_CHECKPOINTS
	else if (info == XLOG_CHECKPOINT_SHUTDOWN)
	{
		CheckPoint	checkpoint;

		memcpy(&checkpoint, data, sizeof(checkpoint));
		wal_level_is(t, checkpoint.wal_level);
	}
	else if (info == XLOG_CHECKPOINT_REDO)
	{
		int			level;

		memcpy(&level, data, sizeof(level));
		wal_level_is(t, level);
	}
	else if (info == XLOG_END_OF_RECOVERY)
	{
		xl_end_of_recovery end;

		memcpy(&end, data, sizeof(end));
		wal_level_is(t, end.wal_level);
	}
#endif
	return false;
}

/* ---- files that come and go ---- */

static bool
apply_smgr(DrMapTable *t, XLogReaderState *record, uint8 info)
{
	if (info == XLOG_SMGR_CREATE)
	{
		xl_smgr_create *create = (xl_smgr_create *) XLogRecGetData(record);

		if (create->forkNum == MAIN_FORKNUM)
			limit(t, DR_SMGR_LOCATOR(create), 0);
		return true;
	}
	if (info == XLOG_SMGR_TRUNCATE)
	{
		xl_smgr_truncate *truncate = (xl_smgr_truncate *) XLogRecGetData(record);

		if (truncate->flags & SMGR_TRUNCATE_HEAP)
			limit(t, DR_SMGR_LOCATOR(truncate), truncate->blkno);
		return true;
	}
	return false;
}

/* What a transaction dropped goes when it ends; a prepared one's end says it again. */
static bool
apply_xact(DrMapTable *t, XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record);
	uint8		op = info & XLOG_XACT_OPMASK;

	if (op == XLOG_XACT_COMMIT || op == XLOG_XACT_COMMIT_PREPARED)
	{
		xl_xact_parsed_commit parsed;

		ParseCommitRecord(info, (xl_xact_commit *) XLogRecGetData(record), &parsed);
		for (int i = 0; i < parsed.nrels; i++)
			limit(t, &DR_PARSED_LOCATORS(&parsed)[i], 0);
		return true;
	}
	if (op == XLOG_XACT_ABORT || op == XLOG_XACT_ABORT_PREPARED)
	{
		xl_xact_parsed_abort parsed;

		ParseAbortRecord(info, (xl_xact_abort *) XLogRecGetData(record), &parsed);
		for (int i = 0; i < parsed.nrels; i++)
			limit(t, &DR_PARSED_LOCATORS(&parsed)[i], 0);
		return true;
	}
	return false;
}

static bool
apply_database(DrMapTable *t, XLogReaderState *record, uint8 info)
{
	if (info == XLOG_DBASE_CREATE_FILE_COPY)
	{
		xl_dbase_create_file_copy_rec *create = (xl_dbase_create_file_copy_rec *) XLogRecGetData(record);

		dr_map_database(t, create->tablespace_id, create->db_id);
		return true;
	}
	if (info == XLOG_DBASE_CREATE_WAL_LOG)
	{
		xl_dbase_create_wal_log_rec *create = (xl_dbase_create_wal_log_rec *) XLogRecGetData(record);

		dr_map_database(t, create->tablespace_id, create->db_id);
		return true;
	}
	if (info == XLOG_DBASE_DROP)
	{
		xl_dbase_drop_rec *drop = (xl_dbase_drop_rec *) XLogRecGetData(record);

		for (int i = 0; i < drop->ntablespaces; i++)
			dr_map_database(t, drop->tablespace_ids[i], drop->db_id);
		return true;
	}
	return false;
}

static bool
apply_tablespace(DrMapTable *t, XLogReaderState *record, uint8 info)
{
	if (info == XLOG_TBLSPC_CREATE)
		dr_map_tablespace(t, ((xl_tblspc_create_rec *) XLogRecGetData(record))->ts_id);
	else if (info == XLOG_TBLSPC_DROP)
		dr_map_tablespace(t, ((xl_tblspc_drop_rec *) XLogRecGetData(record))->ts_id);
	else
		return false;
	return true;
}

/* ---- the rest ---- */

/* "heap", "custom003" when its module is not loaded here. */
static char *
manager_name(RmgrId id)
{
	return RmgrIdExists(id) ? pstrdup(RmgrTable[id].rm_name) : psprintf("custom%03d", id);
}

static void
refuse(DrMapTable *t, XLogReaderState *record, const char *fmt)
{
	char	   *name = manager_name(XLogRecGetRmid(record));
	char	   *reason = psprintf(fmt, name);

	dr_map_unsafe(t, reason);
	pfree(reason);
	pfree(name);
}

void
dr_map_apply(DrMapTable *t, XLogReaderState *record)
{
	RmgrId		id = XLogRecGetRmid(record);
	uint8		info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;
	bool		known = false;

	switch (id)
	{
		case RM_XLOG_ID:
			known = apply_xlog(t, record, info);
			break;
		case RM_SMGR_ID:
			known = apply_smgr(t, record, info);
			break;
		case RM_XACT_ID:
			known = apply_xact(t, record);
			break;
		case RM_DBASE_ID:
			known = apply_database(t, record, info);
			break;
		case RM_TBLSPC_ID:
			known = apply_tablespace(t, record, info);
			break;
		default:
			break;
	}
	if (id >= RM_MIN_CUSTOM_ID)
		refuse(t, record, "the resource manager \"%s\" is an extension's, and what its records change is not known");
	else if (!known && (XLogRecGetInfo(record) & XLR_SPECIAL_REL_UPDATE) != 0)
		refuse(t, record, "a record of resource manager \"%s\" changes files in a way that is not known");
	mark_blocks(t, record);
}
