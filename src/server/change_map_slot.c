/*
 * change_map_slot.c
 *	  The replication slot that keeps WAL for the change map.
 *
 * One idea: the worker holds the slot as long as it reads, so that nobody else
 * can use it and no idle timeout takes it away; and the slot never says more
 * than the files do (D2).
 *
 * A crash leaves the slot, perhaps some way back: its place is written by
 * checkpoints only.  Without the module it keeps WAL for ever; that is why
 * pg_dr.change_map must be off before the module goes.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include "access/xlog.h"
#include "replication/slot.h"
#include "storage/spin.h"

#include "change_map.h"
#include "compat.h"

#define SLOT_NAME	"pg_dr_change_map"

/* A copy of what its slot says; false when there is none. */
static bool
look_at_slot(ReplicationSlotPersistentData *data, bool *invalidated, int *active_pid)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(SLOT_NAME, true);

	if (slot == NULL)
		return false;
	SpinLockAcquire(&slot->mutex);
	*data = slot->data;
	*invalidated = dr_slot_invalidated(slot);
	*active_pid = slot->active_pid;
	SpinLockRelease(&slot->mutex);
	return true;
}

bool
dr_map_slot_usable(XLogRecPtr *restart_lsn, const char **why)
{
	ReplicationSlotPersistentData data;
	bool		invalidated;
	int			active_pid;

	*why = NULL;
	if (!look_at_slot(&data, &invalidated, &active_pid))
		*why = "replication slot \"" SLOT_NAME "\" is not there";
	else if (invalidated)
		*why = "replication slot \"" SLOT_NAME "\" was invalidated";
	else if (data.database != InvalidOid || data.restart_lsn == InvalidXLogRecPtr)
		*why = "replication slot \"" SLOT_NAME "\" keeps no WAL";
	*restart_lsn = data.restart_lsn;
	return *why == NULL;
}

void
dr_map_slot_acquire(void)
{
	dr_slot_acquire(SLOT_NAME);
}

XLogRecPtr
dr_map_slot_make(void)
{
	ReplicationSlotPersistentData data;
	bool		invalidated;
	int			active_pid;

	dr_map_slot_release();
	if (look_at_slot(&data, &invalidated, &active_pid))
	{
		if (data.database != InvalidOid || active_pid != 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("replication slot \"%s\" is somebody else's", SLOT_NAME),
					 errhint("Drop it, or set pg_dr.change_map to off.")));
		ReplicationSlotDrop(SLOT_NAME, true);
	}
	if (max_replication_slots == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the change map needs a replication slot, and max_replication_slots is 0"),
				 errhint("Raise max_replication_slots and restart, or set pg_dr.change_map to off.")));
	CheckSlotRequirements();
	dr_slot_create(SLOT_NAME);
	ReplicationSlotReserveWal();
	ReplicationSlotMarkDirty();
	ReplicationSlotSave();
	return MyReplicationSlot->data.restart_lsn;
}

void
dr_map_slot_advance(XLogRecPtr lsn)
{
	SpinLockAcquire(&MyReplicationSlot->mutex);
	MyReplicationSlot->data.restart_lsn = lsn;
	SpinLockRelease(&MyReplicationSlot->mutex);
	ReplicationSlotMarkDirty();
	ReplicationSlotsComputeRequiredLSN();
}

bool
dr_map_slot_lost(void)
{
	bool		lost;

	SpinLockAcquire(&MyReplicationSlot->mutex);
	lost = dr_slot_invalidated(MyReplicationSlot);
	SpinLockRelease(&MyReplicationSlot->mutex);
	return lost;
}

void
dr_map_slot_release(void)
{
	if (MyReplicationSlot != NULL)
		ReplicationSlotRelease();
}

/* Not one that somebody else is using, or that is no slot of our kind. */
void
dr_map_slot_drop(void)
{
	ReplicationSlotPersistentData data;
	bool		invalidated;
	int			active_pid;

	dr_map_slot_release();
	if (look_at_slot(&data, &invalidated, &active_pid) && active_pid == 0 && data.database == InvalidOid)
		ReplicationSlotDrop(SLOT_NAME, true);
}
