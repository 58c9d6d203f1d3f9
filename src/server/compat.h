/*
 * compat.h
 *	  Every difference between PostgreSQL 15, 16, 17 and 18 that concerns us.
 *
 * One idea: the rest of the module is written against the interfaces below and
 * never looks at PG_VERSION_NUM.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_COMPAT_H
#define PGDR_COMPAT_H

#include "access/xlog.h"
#include "access/xlogdefs.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "catalog/storage_xlog.h"
#if PG_VERSION_NUM >= 160000
#include "utils/relfilenumbermap.h"
#else
#include "utils/relfilenodemap.h"
#endif
#include "replication/slot.h"

#if PG_VERSION_NUM >= 160000
#include "access/xlogbackup.h"
#include "archive/archive_module.h"
#include "storage/relfilelocator.h"
#else
#include "postmaster/pgarch.h"
#endif
#include "postmaster/pgarch.h"

#if PG_VERSION_NUM < 150000
#error "pg_dr needs PostgreSQL 15 or later"
#endif

/* 18 wants it in front of a declaration, and older servers take it there too. */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 17 has one more timeout that is not meant for workers. */
#if PG_VERSION_NUM >= 170000
#define DR_TRANSACTION_TIMEOUT		"transaction_timeout"
#else
#define DR_TRANSACTION_TIMEOUT		"statement_timeout"
#endif

/*
 * Archive modules.  15 passes no state and wants a struct filled; later
 * versions pass a state and want a constant struct.  The three callbacks are
 * written as functions without state.
 */
#if PG_VERSION_NUM >= 160000
#define DR_ARCHIVE_MODULE(check, archive, shutdown) \
	static bool compat_check(ArchiveModuleState *state) { return check(); } \
	static bool compat_archive(ArchiveModuleState *state, const char *file, const char *path) \
	{ return archive(file, path); } \
	static void compat_shutdown(ArchiveModuleState *state) { shutdown(); } \
	static const ArchiveModuleCallbacks compat_callbacks = { \
		.check_configured_cb = compat_check, \
		.archive_file_cb = compat_archive, \
		.shutdown_cb = compat_shutdown \
	}; \
	extern PGDLLEXPORT const ArchiveModuleCallbacks *_PG_archive_module_init(void); \
	const ArchiveModuleCallbacks * \
	_PG_archive_module_init(void) { return &compat_callbacks; } \
	extern int compat_no_semicolon
#else
#define DR_ARCHIVE_MODULE(check, archive, shutdown) \
	extern PGDLLEXPORT void _PG_archive_module_init(ArchiveModuleCallbacks *cb); \
	void \
	_PG_archive_module_init(ArchiveModuleCallbacks *cb) \
	{ \
		cb->check_configured_cb = check; \
		cb->archive_file_cb = archive; \
		cb->shutdown_cb = shutdown; \
	} \
	extern int compat_no_semicolon
#endif

/*
 * Why archiving is not configured: 17 and later print it with their own
 * WARNING, before that the module has to.
 */
#if PG_VERSION_NUM >= 170000
#define DR_ARCHIVE_CHECK_REPORTED	true
#define dr_arch_module_check_errdetail(text)	arch_module_check_errdetail("%s", text)
#else
#define DR_ARCHIVE_CHECK_REPORTED	false
#define dr_arch_module_check_errdetail(text)	((void) (text))
#endif

/* With 16 and later an archive_command beside an archive_library is an error. */
#define DR_ARCHIVE_COMMAND_CONFLICTS	(PG_VERSION_NUM >= 160000)

/* pg_hba.conf and pg_ident.conf may include other files. */
#define DR_HBA_INCLUDES				(PG_VERSION_NUM >= 160000)

/*
 * The server's own backup.  Start and stop belong to one process, and need no
 * transaction.
 */
typedef struct DrServerBackup
{
	XLogRecPtr	start_lsn;
	TimeLineID	start_timeline;
	XLogRecPtr	stop_lsn;
	TimeLineID	stop_timeline;
	char	   *backup_label;	/* as the restored cluster needs it */
	StringInfo	tablespace_map;
#if PG_VERSION_NUM >= 160000
	BackupState *state;
#endif
} DrServerBackup;

static inline void
dr_server_backup_start(DrServerBackup *b, const char *name, bool fast)
{
	List	   *tablespaces = NIL;	/* 17 changed its elements; the map says the same */

	b->tablespace_map = makeStringInfo();
#if PG_VERSION_NUM >= 160000
	b->state = (BackupState *) palloc0(sizeof(BackupState));
	do_pg_backup_start(name, fast, &tablespaces, b->state, b->tablespace_map);
	b->start_lsn = b->state->startpoint;
	b->start_timeline = b->state->starttli;
	b->backup_label = build_backup_content(b->state, false);
#else
	{
		StringInfo	label = makeStringInfo();

		b->start_lsn = do_pg_backup_start(name, fast, &b->start_timeline, label,
										  &tablespaces, b->tablespace_map);
		b->backup_label = label->data;
	}
#endif
}

/* Doesn't wait for WAL to be archived. */
static inline void
dr_server_backup_stop(DrServerBackup *b)
{
#if PG_VERSION_NUM >= 160000
	do_pg_backup_stop(b->state, false);
	b->stop_lsn = b->state->stoppoint;
	b->stop_timeline = b->state->stoptli;
#else
	b->stop_lsn = do_pg_backup_stop(b->backup_label, false, &b->stop_timeline);
#endif
}

/* Where a relation is stored; 16 renamed the struct, its members, and members of that type. */
#if PG_VERSION_NUM >= 160000
typedef RelFileLocator DrLocator;
#define DR_LOCATOR_TABLESPACE(l)	((l)->spcOid)
#define DR_LOCATOR_DATABASE(l)		((l)->dbOid)
#define DR_LOCATOR_RELATION(l)		((l)->relNumber)
#define DR_PARSED_LOCATORS(parsed)	((parsed)->xlocators)
#define DR_SMGR_LOCATOR(record)		(&(record)->rlocator)
#else
typedef RelFileNode DrLocator;
#define DR_LOCATOR_TABLESPACE(l)	((l)->spcNode)
#define DR_LOCATOR_DATABASE(l)		((l)->dbNode)
#define DR_LOCATOR_RELATION(l)		((l)->relNode)
#define DR_PARSED_LOCATORS(parsed)	((parsed)->xnodes)
#define DR_SMGR_LOCATOR(record)		(&(record)->rnode)
#endif

/* The relation of this database, or a shared one, that has this file; 16 renamed the function. */
static inline Oid
dr_relation_of_file(Oid tablespace, Oid file)
{
#if PG_VERSION_NUM >= 160000
	return RelidByRelfilenumber(tablespace, file);
#else
	return RelidByRelfilenode(tablespace, file);
#endif
}

/* 17 and later have wal_level in checkpoints and their like. */
#define DR_WAL_LEVEL_IN_CHECKPOINTS	(PG_VERSION_NUM >= 170000)

/* Physical, persistent, nothing else. */
static inline void
dr_slot_create(const char *name)
{
#if PG_VERSION_NUM >= 170000
	ReplicationSlotCreate(name, false, RS_PERSISTENT, false, false, false);
#else
	ReplicationSlotCreate(name, false, RS_PERSISTENT, false);
#endif
}

static inline void
dr_slot_acquire(const char *name)
{
#if PG_VERSION_NUM >= 180000
	ReplicationSlotAcquire(name, true, false);
#else
	ReplicationSlotAcquire(name, true);
#endif
}

/* Has the server taken its WAL away?  The slot's spinlock is held. */
static inline bool
dr_slot_invalidated(const ReplicationSlot *slot)
{
#if PG_VERSION_NUM >= 160000
	return slot->data.invalidated != RS_INVAL_NONE;
#else
	return slot->data.invalidated_at != InvalidXLogRecPtr;
#endif
}

#endif							/* PGDR_COMPAT_H */
