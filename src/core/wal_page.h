/*
 * wal_page.h
 *	  Is a stretch of WAL whole?  Pages and records, without the server's reader.
 *
 * What is looked at: of every page its header (magic, flags, address, timeline,
 * in a segment's first page the cluster, too), and whether what it says of a
 * record that goes on agrees with the record; of every record its length, its
 * link to the one before, and its CRC.  What a record means is not.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_WAL_PAGE_H
#define PGDR_WAL_PAGE_H

#include "core/error.h"
#include "core/names.h"

#define WAL_RECORD_HEADER	24

typedef struct WalCheck
{
	TimeLineID	timeline;		/* no page is of a later one */
	uint64		system_identifier;
	uint32		segment_size;
	XLogRecPtr	stop;			/* a record ends here; what follows is not looked at */

	XLogRecPtr	at;				/* the next byte */
	TimeLineID	page_timeline;	/* of the last page; they never go back */
	XLogRecPtr	before;			/* where the record before begins; 0: not known */
	XLogRecPtr	ends;			/* the same record; its last byte is before that */
	uint64		records;

	/* of the record that is under way */
	XLogRecPtr	begins;
	uint32		left;			/* bytes still to come; 0: the next one begins at "at" */
	uint32		have;			/* of its header */
	uint32		crc;			/* of what follows its header, so far */
	uint8		header[WAL_RECORD_HEADER];
} WalCheck;

/* A record begins at start. */
extern void wal_check_begin(WalCheck *c, const char *sysid, TimeLineID timeline, uint32 segment_size,
							XLogRecPtr start, XLogRecPtr stop);

/*
 * Go on with the segment in which "at" lies: all of its bytes.  False: err says
 * where the WAL is broken, and how.
 */
extern bool wal_check_segment(WalCheck *c, const uint8 *data, DrError *err);

/* Was everything looked at? */
static inline bool
wal_check_complete(const WalCheck *c)
{
	return c->at >= c->stop;
}

/*
 * The page headers of one segment that begins at "base": those that are there,
 * and behind the last one, as after a switch of segments, none at all.
 */
extern bool wal_check_pages(const uint8 *data, const char *sysid, TimeLineID timeline, uint32 segment_size,
							XLogRecPtr base, DrError *err);

/*
 * Where the first record of a segment that begins at "base" begins, if there is
 * one; InvalidXLogRecPtr: one from before takes all of it.
 */
extern XLogRecPtr wal_first_record(const uint8 *data, uint32 segment_size, XLogRecPtr base);

/*
 * Where the last whole record ends of a segment that begins at "base", of which n
 * bytes were written and the others are zeros; base: there is none.  One that began
 * before the segment counts, though its checksum can't be looked at.
 */
extern XLogRecPtr wal_whole_until(const uint8 *data, size_t n, const char *sysid, TimeLineID timeline,
								  uint32 segment_size, XLogRecPtr base);

#endif							/* PGDR_WAL_PAGE_H */
