/*
 * timeline.h
 *	  A timeline's history: which timeline a place in WAL belongs to.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_TIMELINE_H
#define PGDR_TIMELINE_H

#include "core/error.h"
#include "core/names.h"

typedef struct TimelineEntry
{
	TimeLineID	tli;
	XLogRecPtr	begin;			/* 0 for the oldest */
	XLogRecPtr	end;			/* InvalidXLogRecPtr: open */
} TimelineEntry;

/* Oldest first; the last one is the timeline itself. */
typedef struct History
{
	TimelineEntry *v;
	int			n;
} History;

/* A history without a file: one timeline that nothing came before. */
extern void history_single(History *h, TimeLineID tli);

/* The text of <tli>.history; name is for messages. */
extern bool history_parse(History *h, TimeLineID tli, const char *text, size_t n,
						  const char *name, DrError *err);
extern void history_free(History *h);

/* The entry of a timeline; NULL when it is not an ancestor. */
extern const TimelineEntry *history_find(const History *h, TimeLineID tli);

/* The timeline whose file holds a segment, by recovery's rule: the newest that had begun. */
extern TimeLineID history_segment_timeline(const History *h, uint64 segno, uint32 segment_size);

#endif							/* PGDR_TIMELINE_H */
