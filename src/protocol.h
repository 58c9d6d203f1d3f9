/*
 * protocol.h
 *	  What the module and the program have in common: the only header that both include.
 *
 * doc/PROTOCOL.md describes the messages.  PGDR_VERSION comes from
 * pg_dr.control through the makefiles.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_PROTOCOL_H
#define PGDR_PROTOCOL_H

#define PGDR_PROTOCOL			1

/* Longest line in either direction, newline included. */
#define PGDR_LINE_MAX			(1024 * 1024)

/* Longest backup id, object name (without the NUL). */
#define PGDR_BACKUP_ID_MAX		48
#define PGDR_OBJECT_NAME_MAX	512

/*
 * The lineage token of a cluster.  pg_dynshmem's contents are left out by
 * every backup tool that follows the server's own rules, and the server
 * removes only files of its own from it at start.
 */
#define PGDR_TOKEN_FILE			"pg_dynshmem/pg_dr.lineage"

/* Our own working files in the data directory; left out of every backup. */
#define PGDR_WORK_DIR			"pg_dr"

/* Written by pg_dr restore, read by dr_status and dr_check: JSON, one object. */
#define PGDR_RESTORED_FILE		PGDR_WORK_DIR "/restored.json"

/*
 * The steps at which a process can be made to wait, in the order in which
 * they are reached.  The module knows those of its own too.
 */
#define PGDR_STEPS(X) \
	X("module.started", "backup worker: row written, child not yet started") \
	X("module.backup_started", "backup worker: do_pg_backup_start returned") \
	X("backup.scanned", "child: files counted, nothing stored yet") \
	X("backup.pack_sealed", "child: the first pack is sealed, not yet stored") \
	X("backup.pack_stored", "child: the first pack is durable") \
	X("backup.copied", "child: everything but pg_control is read") \
	X("module.copied", "backup worker: before do_pg_backup_stop") \
	X("module.stopped", "backup worker: after do_pg_backup_stop") \
	X("backup.wal_present", "child: start to stop is in the repository") \
	X("backup.manifest_sealed", "child: before the manifest is stored") \
	X("backup.manifest_stored", "child: the manifest is durable, the module not yet told") \
	X("module.done", "backup worker: child is done, row not yet final") \
	X("archive.read", "child: segment read and sealed, not yet stored") \
	X("archive.stored", "child: segment durable, archiver not yet told") \
	X("tail.sealed", "child: a piece of the tail is sealed, not yet stored") \
	X("tail.stored", "child: a piece of the tail is durable, nobody knows yet") \
	X("expire.marked", "child: the mark is durable, nothing is removed yet") \
	X("expire.manifest_removed", "child: the first manifest is removed, its packs are there") \
	X("expire.pack_removed", "child: the first pack is removed, or the first hundred") \
	X("expire.wal_removed", "child: the first of the WAL is removed, or the first hundred") \
	X("store.linked", "file store: name exists, directory not yet synced") \
	X("restore.planned", "restore: nothing written yet") \
	X("restore.tree", "restore: directories exist") \
	X("restore.first_pack", "restore: the first pack is written") \
	X("restore.files", "restore: every file but pg_control is written and synced") \
	X("restore.control", "restore: pg_control is written, directory not yet synced") \
	X("delta.unstartable", "restore --delta: pg_control is gone, everything else as it was") \
	X("delta.cleared", "restore --delta: what is not in the backup is removed, nothing written yet") \
	X("drill.row", "drill worker: row written, child not yet started") \
	X("drill.planned", "child: the sandbox is there, nothing is restored yet") \
	X("drill.restored", "child: every file is there, no server yet") \
	X("drill.started", "child: the sandbox's server is started, and recovers") \
	X("drill.ready", "child: the sandbox's server has recovered") \
	X("drill.checked", "child: everything has been asked, the server runs still") \
	X("drill.stopped", "child: the sandbox's server has stopped") \
	X("drill.removed", "child: the sandbox is gone, the module not yet told") \
	X("drill.done", "drill worker: child is done, row not yet final") \
	X("walget.fetched", "wal-get: segment fetched, not yet renamed into place")

#endif							/* PGDR_PROTOCOL_H */
