/*
 * task.c
 *	  What sessions do themselves and others may want to see: verifications,
 *	  checks of pages.
 *
 * One idea: the session works in its own statement, so that to cancel it is to
 * cancel that; a slot in shared memory merely shows it to dr_progress and lets
 * dr_cancel find it.
 *
 * A session that ends, however it does, frees its slot; a crash resets shared memory.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include <signal.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "message.h"
#include "shmem.h"

static void
copy_text(char *to, size_t size, const char *from)
{
	int			len = pg_mbcliplen(from, strlen(from), size - 1);

	memcpy(to, from, len);
	to[len] = '\0';
}

/* <YYYYMMDD>T<hhmmss>Z-<kind>-<6 hexadecimal digits>, as those of backups */
static void
make_id(DrTask *task)
{
	char	   *now = dr_time_text(task->started_at);
	char		kind[DR_KIND_MAX + 1];
	uint8		random[3];

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate random bytes")));
	strlcpy(kind, task->kind, sizeof(kind));
	for (char *p = kind; *p != '\0'; p++)
	{
		if (*p == ' ')
			*p = '-';
	}
	snprintf(task->id, sizeof(task->id), "%.4s%.2s%.2sT%.2s%.2s%.2sZ-%s-%02x%02x%02x",
			 now, now + 5, now + 8, now + 11, now + 14, now + 17, kind, random[0], random[1], random[2]);
}

int
dr_task_begin(DrTask *task, const char *kind, const char *what)
{
	int			slot = -1;

	memset(task, 0, sizeof(*task));
	task->pid = MyProcPid;
	task->started_at = dr_now();
	strlcpy(task->kind, kind, sizeof(task->kind));
	strlcpy(task->phase, "starting", sizeof(task->phase));
	copy_text(task->what, sizeof(task->what), what);
	strlcpy(task->requested_by, GetUserNameFromId(GetOuterUserId(), false), sizeof(task->requested_by));
	make_id(task);
	dr_lock(LW_EXCLUSIVE);
	for (int i = 0; i < DR_MAX_TASKS && slot < 0; i++)
	{
		if (dr_shared->tasks[i].pid == 0)
		{
			dr_shared->tasks[i] = *task;
			slot = i;
		}
	}
	dr_unlock();
	return slot;
}

void
dr_task_progress(int slot, const char *phase, int64 bytes_done, int64 bytes_total, int64 files_done)
{
	DrTask	   *task;

	if (slot < 0)
		return;
	task = &dr_shared->tasks[slot];
	dr_lock(LW_EXCLUSIVE);
	copy_text(task->phase, sizeof(task->phase), phase);
	task->bytes_done = bytes_done;
	task->bytes_total = bytes_total;
	task->files_done = files_done;
	dr_unlock();
}

void
dr_task_read(int slot, DrTask *copy)
{
	dr_lock(LW_SHARED);
	*copy = dr_shared->tasks[slot];
	dr_unlock();
}

/* While the lock is held the session can't leave its slot, nor somebody else have its process id. */
bool
dr_task_cancel(const char *id)
{
	bool		found = false;

	dr_lock(LW_EXCLUSIVE);
	for (int i = 0; i < DR_MAX_TASKS; i++)
	{
		DrTask	   *task = &dr_shared->tasks[i];

		if (task->pid == 0 || strcmp(task->id, id) != 0)
			continue;
		task->cancel_requested = true;
		kill(task->pid, SIGINT);
		found = true;
	}
	dr_unlock();
	return found;
}

void
dr_task_end(int slot)
{
	if (slot < 0)
		return;
	dr_lock(LW_EXCLUSIVE);
	dr_shared->tasks[slot].pid = 0;
	dr_unlock();
}
