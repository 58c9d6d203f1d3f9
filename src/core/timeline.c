/*
 * timeline.c
 *	  A timeline's history.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/timeline.h"

static void
add(History *h, TimeLineID tli, XLogRecPtr begin, XLogRecPtr end)
{
	h->v = pg_realloc(h->v, sizeof(TimelineEntry) * (h->n + 1));
	h->v[h->n].tli = tli;
	h->v[h->n].begin = begin;
	h->v[h->n++].end = end;
}

void
history_single(History *h, TimeLineID tli)
{
	memset(h, 0, sizeof(*h));
	add(h, tli, 0, InvalidXLogRecPtr);
}

static bool
damaged(History *h, const char *name, DrError *err)
{
	history_free(h);
	return dr_error(err, DR_DAMAGED, "timeline history file \"%s\" is malformed", name);
}

/* Lines of "<tli>\t<lsn>\t<reason>"; '#' begins a comment. */
bool
history_parse(History *h, TimeLineID tli, const char *text, size_t n, const char *name, DrError *err)
{
	char	   *copy = pg_malloc(n + 1);
	char	   *save = NULL;
	XLogRecPtr	begin = 0;
	bool		ok = true;

	memset(h, 0, sizeof(*h));
	memcpy(copy, text, n);
	copy[n] = '\0';
	for (char *line = strtok_r(copy, "\n", &save); line && ok; line = strtok_r(NULL, "\n", &save))
	{
		char		lsn_text[LSN_TEXT_MAX];
		unsigned int parent;
		XLogRecPtr	end;

		line += strspn(line, " \t");
		if (*line == '\0' || *line == '#')
			continue;
		ok = sscanf(line, "%u\t%19[0-9A-Fa-f/]", &parent, lsn_text) == 2 &&
			lsn_parse(lsn_text, &end) && parent > 0 && parent < tli && end >= begin &&
			(h->n == 0 || parent > h->v[h->n - 1].tli);
		if (ok)
		{
			add(h, parent, begin, end);
			begin = end;
		}
	}
	free(copy);
	if (!ok)
		return damaged(h, name, err);
	add(h, tli, begin, InvalidXLogRecPtr);
	return true;
}

void
history_free(History *h)
{
	free(h->v);
	memset(h, 0, sizeof(*h));
}

const TimelineEntry *
history_find(const History *h, TimeLineID tli)
{
	for (int i = 0; i < h->n; i++)
		if (h->v[i].tli == tli)
			return &h->v[i];
	return NULL;
}

TimeLineID
history_segment_timeline(const History *h, uint64 segno, uint32 segment_size)
{
	for (int i = h->n - 1; i > 0; i--)
		if (h->v[i].begin / segment_size <= segno)
			return h->v[i].tli;
	return h->v[0].tli;
}
