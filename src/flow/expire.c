/*
 * expire.c
 *	  Retention: what no rule keeps is marked, and later removed.
 *
 * A crash leaves a mark, or backups without their manifest that the mark names,
 * or WAL of which some is gone: the next run goes on from there.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "flow/expire.h"

#include "core/step.h"
#include "flow/expire_private.h"

#define UNKNOWN_ROWS	100		/* more are counted */

/* ---- what is told of what is there ---- */

void
expire_tell(Run *x, const char *what, const char *name, uint64 bytes, const char *reason)
{
	x->e->row(x->e->arg, what, name, bytes, reason);
}

static void
tell_unknown(Run *x)
{
	const Holdings *h = &x->now;
	char		text[64];
	uint64		n = 0;

	for (size_t i = 0; i < h->all.n; i++)
		if (object_kind(h->all.names[i]) == KIND_UNKNOWN && ++n <= UNKNOWN_ROWS)
			expire_tell(x, "unknown", h->all.names[i], h->all.sizes[i], "it is not ours: it stays");
	n = (n > UNKNOWN_ROWS ? n - UNKNOWN_ROWS : 0) + x->e->repo->store->strangers;
	snprintf(text, sizeof(text), UINT64_FORMAT " more", n);
	if (n > 0)
		expire_tell(x, "unknown", text, 0, "their names are not ours: they stay");
}

static void
tell_kept(Run *x)
{
	const Holdings *h = &x->now;

	for (size_t i = 0; i < h->n_backups; i++)
	{
		const HeldBackup *b = &h->backups[i];
		uint64		bytes = 0;

		for (size_t k = b->first; k < b->end; k++)
			bytes += h->all.sizes[k];
		if (b->verdict != NULL && b->verdict->keep)
			expire_tell(x, "keep backup", b->id, b->info.bytes_stored, b->verdict->reason);
		else if (b->shared)
			expire_tell(x, "keep backup", b->id, bytes, "it has expired, but others need packs of it");
		else if (!b->has_manifest && b->running)
			expire_tell(x, "keep backup", b->id, bytes, "in progress");
		else if (!b->has_manifest && !b->dead)
			expire_tell(x, "keep backup", b->id, bytes, "no manifest: in progress, or interrupted less than 7 days ago");
	}
}

/* E3; true when there is such a manifest. */
static bool
tell_damaged(Run *x, const Holdings *h)
{
	char		reason[1400];
	ObjectName	name;

	for (size_t i = 0; i < h->n_backups; i++)
	{
		const HeldBackup *b = &h->backups[i];

		if (!b->damaged)
			continue;
		name_manifest(name, h->sysid, b->id);
		snprintf(reason, sizeof(reason), "%s: as long as nobody knows what it needs, nothing is removed; "
				 "bring it back from a copy, or remove this object", b->error.message);
		expire_tell(x, "could not remove", name, 0, reason);
	}
	return h->damaged > 0;
}

/* ---- when ---- */

bool
expire_is_ripe(const Run *x, int64 at)
{
	return at != 0 && at <= x->now.retention.now && x->now.retention.now - at >= x->e->grace;
}

/* Why it goes, and when. */
static void
explain(const Run *x, const char *why, int64 at, char reason[EXPIRE_REASON_MAX])
{
	char		text[TIME_TEXT_MAX];

	if (at == 0)
	{
		snprintf(reason, EXPIRE_REASON_MAX, "%s; not marked yet", why);
		return;
	}
	time_format(text, at + x->e->grace);
	text[19] = '\0';
	snprintf(reason, EXPIRE_REASON_MAX, expire_is_ripe(x, at) ? "%s; marked, goes with the next run" :
			 "%s; marked, may go after %sZ", why, text);
}

const char *
expire_why(const HeldBackup *b)
{
	return b->verdict != NULL ? b->verdict->reason : "interrupted, or what expired backups left: no manifest names it";
}

void
expire_wal_name(const WalRow *row, char out[80])
{
	WalFile		first;

	wal_file_parse(row->first, &first);
	snprintf(out, 80, "%u: %s..%s", first.timeline, row->first, row->last);
}

static bool
has_going(const Holdings *h, const HeldBackup *b)
{
	for (size_t i = b->first; i < b->end; i++)
		if (h->flags[i] & HELD_GOES)
			return true;
	return false;
}

/* ---- a dry run ---- */

static void
show_backup(Run *x, const HeldBackup *b)
{
	const Holdings *h = &x->now;
	char		reason[EXPIRE_REASON_MAX];

	explain(x, expire_why(b), expire_mark_backup(&x->mark, b->id), reason);
	if (b->has_manifest)
		expire_tell(x, "remove backup", b->id, b->manifest_size, reason);
	for (size_t i = b->first; i < b->end; i++)
		if ((h->flags[i] & HELD_GOES) && object_kind(h->all.names[i]) == KIND_PACK)
			expire_tell(x, "remove pack", h->all.names[i], h->all.sizes[i], reason);
}

static void
show(Run *x)
{
	const Holdings *h = &x->now;
	char		reason[EXPIRE_REASON_MAX];
	char		name[80];
	DrError		why;
	size_t		n;
	WalRow	   *rows = holdings_wal_rows(h, &n);
	bool		wal_may_go = holdings_check_wal(h, NULL, &why);

	for (size_t i = 0; i < h->n_backups; i++)
		if (has_going(h, &h->backups[i]))
			show_backup(x, &h->backups[i]);
	for (size_t i = 0; i < n; i++)
	{
		expire_wal_name(&rows[i], name);
		explain(x, "no backup that is kept needs it", rows[i].at, reason);
		expire_tell(x, wal_may_go ? "remove wal" : "could not remove", name, rows[i].bytes, wal_may_go ? reason : why.message);
	}
	free(rows);
}

/* ---- marking ---- */

/* The mark that there should be: everything that goes, with the time at which it was marked first. */
static void
make_mark(Run *x, ExpireMark *m)
{
	const Holdings *h = &x->now;
	size_t		n;
	WalRow	   *rows = holdings_wal_rows(h, &n);

	memset(m, 0, sizeof(*m));
	for (size_t i = 0; i < h->n_backups; i++)
	{
		const HeldBackup *b = &h->backups[i];
		int64		at = expire_mark_backup(&x->mark, b->id);

		if (has_going(h, b))
			expire_mark_add_backup(m, b->id, at != 0 ? at : h->retention.now);
	}
	for (size_t i = 0; i < n; i++)
		expire_mark_add_wal(m, rows[i].first, rows[i].last, rows[i].at != 0 ? rows[i].at : h->retention.now);
	free(rows);
}

/* What is marked and does not go by this run. */
static void
tell_marked(Run *x, const ExpireMark *m)
{
	const Holdings *h = &x->now;
	char		reason[EXPIRE_REASON_MAX];
	char		name[80];
	WalRow		row;

	for (size_t i = 0; i < h->n_backups; i++)
	{
		const HeldBackup *b = &h->backups[i];
		int64		at = expire_mark_backup(m, b->id);

		if (at == 0 || expire_is_ripe(x, expire_mark_backup(&x->mark, b->id)))
			continue;
		explain(x, expire_why(b), at, reason);
		expire_tell(x, "mark", b->id, 0, reason);
	}
	for (size_t i = 0; i < m->n_wal; i++)
	{
		if (expire_is_ripe(x, expire_mark_segment(&x->mark, m->wal[i].first)))
			continue;
		memcpy(row.first, m->wal[i].first, sizeof(row.first));
		memcpy(row.last, m->wal[i].last, sizeof(row.last));
		expire_wal_name(&row, name);
		explain(x, "no backup that is kept needs it", m->wal[i].at, reason);
		expire_tell(x, "mark", name, 0, reason);
	}
}

/* What was gone when this run began is not in it any more: nothing is left of that. */
static bool
mark(Run *x, DrError *err)
{
	ExpireMark	m;
	bool		ok = true;

	make_mark(x, &m);
	if (!expire_mark_equal(&m, &x->mark))
		ok = x->e->may_store(x->e->arg, err) &&
			expire_mark_store(x->e->repo, x->e->system_identifier, &m, x->mark.generation, err);
	else if (x->mark.generation > 0 && m.n_backups + m.n_wal == 0)
		expire_mark_clear(x->e->repo, x->e->system_identifier, &x->mark);
	if (ok)
	{
		step_reached("expire.marked");
		tell_marked(x, &m);
	}
	expire_mark_free(&m);
	return ok;
}

/* ---- what the catalogue may forget ---- */

/* Of a row that had been marked, what is not there any more. */
static void
tell_gone_wal(Run *x, const Holdings *h, const MarkedWal *marked)
{
	uint32		size = h->segment_size;
	WalFile		first;
	WalFile		last;
	uint64		from;
	uint64		end;

	wal_file_parse(marked->first, &first);
	wal_file_parse(marked->last, &last);
	from = wal_segment_number(&first, size);
	end = wal_segment_number(&last, size) + 1;
	for (size_t i = 0; i <= h->all.n && from < end; i++)
	{
		TimeLineID	tli = first.timeline;
		uint64		present = end;
		char		names[2][25];

		if (i < h->all.n &&
			(!held_wal_segment(h, i, &tli, &present) || tli != first.timeline || expire_is_removed(x, h, i) ||
			 present < from || object_kind(h->all.names[i]) == KIND_FRONTIER))
			continue;
		present = Min(present, end);
		if (present > from)
		{
			wal_segment_name(names[0], first.timeline, from, size);
			wal_segment_name(names[1], first.timeline, present - 1, size);
			x->e->expired_wal(x->e->arg, names[0], names[1]);
		}
		from = present + 1;
	}
}

/* h is what was listed last. */
static void
tell_gone(Run *x, const Holdings *h)
{
	for (size_t i = 0; i < x->mark.n_backups; i++)
	{
		const char *id = x->mark.backups[i].id;
		bool		manifest = false;
		bool		left = false;

		for (size_t k = 0; k < h->n_backups; k++)
			for (size_t o = h->backups[k].first; strcmp(h->backups[k].id, id) == 0 && o < h->backups[k].end; o++)
			{
				left |= !expire_is_removed(x, h, o);
				manifest |= !expire_is_removed(x, h, o) && object_kind(h->all.names[o]) == KIND_MANIFEST;
			}
		if (!manifest)
			x->e->expired(x->e->arg, id, left);
	}
	for (size_t i = 0; i < x->mark.n_wal; i++)
		tell_gone_wal(x, h, &x->mark.wal[i]);
}

/* ---- the whole ---- */

static bool
look(Run *x, Holdings *h, bool keep_all, DrError *err)
{
	const Expire *e = x->e;

	h->repo = e->repo;
	h->sysid = e->system_identifier;
	h->segment_size = e->wal_segment_size;
	h->timeline = e->timeline;
	h->mark = &x->mark;
	h->running = e->running;
	h->n_running = e->n_running;
	h->only_asking = e->dry_run;
	h->keep_all = keep_all;
	h->retention.policy = x->policy;
	h->retention.clock = e->clock;
	return holdings_load(h, err);
}

/* E4 */
static bool
tell_incremental(Run *x)
{
	bool		any = false;

	for (size_t i = 0; i < x->e->n_running; i++)
		if (strstr(x->e->running[i], "-incremental-") != NULL)
		{
			expire_tell(x, "could not remove", x->e->running[i], 0, "an incremental backup is running: nothing is removed until it has ended");
			any = true;
		}
	return any;
}

static bool
act(Run *x, DrError *err)
{
	if (!mark(x, err))
		return false;
	if (tell_incremental(x))
	{
		tell_gone(x, &x->now);
		return true;
	}
	if (!expire_remove_manifests(x, err))
		return false;
	if (!look(x, &x->then, true, err))
		return false;
	if (tell_damaged(x, &x->then))
		return true;
	if (!expire_remove_packs(x, err) || !expire_remove_wal(x, err))
		return false;
	tell_gone(x, &x->then);
	return true;
}

bool
expire_run(Expire *e, DrError *err)
{
	Run			x = {.e = e};
	bool		ok;

	e->repo->store->strangers = 0;
	ok = retention_parse(&x.policy, e->policy, err) &&
		expire_mark_load(e->repo, e->system_identifier, &x.mark, err) && look(&x, &x.now, false, err);
	if (ok)
	{
		tell_unknown(&x);
		tell_kept(&x);
		if (!tell_damaged(&x, &x.now))
		{
			if (e->dry_run)
				show(&x);
			else
				ok = act(&x, err);
		}
	}
	holdings_free(&x.now);
	holdings_free(&x.then);
	expire_mark_free(&x.mark);
	free(x.removed);
	return ok;
}
