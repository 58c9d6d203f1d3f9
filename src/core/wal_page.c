/*
 * wal_page.c
 *	  Is a stretch of WAL whole?
 *
 * The one idea: bytes are fed page by page to a machine that is either between
 * two records or inside of one; a page's header must agree with which.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/wal_page.h"

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "access/xlogrecord.h"
#include "catalog/pg_control.h"
#include "core/bytes.h"

StaticAssertDecl(SizeOfXLogRecord == WAL_RECORD_HEADER, "a record's header");

/* No record of the server is longer. */
#define RECORD_LENGTH_MAX	((uint32) 1024 * 1024 * 1024)

static bool
broken(DrError *err, XLogRecPtr at, const char *why)
{
	char		lsn[LSN_TEXT_MAX];

	lsn_format(lsn, at);
	dr_error(err, DR_DAMAGED, "WAL is broken at location %s", lsn);
	return dr_detail(err, "%s", why);
}

/* ---- pages ---- */

static bool
page_empty(const uint8 *page)
{
	static const uint8 zero[SizeOfXLogLongPHD];

	return memcmp(page, zero, SizeOfXLogShortPHD) == 0;
}

static bool
check_header(const WalCheck *c, const uint8 *page, XLogRecPtr at, XLogPageHeaderData *h, DrError *err)
{
	bool		first = at % c->segment_size == 0;
	XLogLongPageHeaderData full;

	memcpy(h, page, sizeof(*h));
	if (h->xlp_magic != XLOG_PAGE_MAGIC)
		return broken(err, at, page_empty(page) ? "The page is empty." : "The page's header has a wrong magic number.");
	if ((h->xlp_info & ~XLP_ALL_FLAGS) != 0 || first != ((h->xlp_info & XLP_LONG_HEADER) != 0))
		return broken(err, at, "The page's header has impossible flags.");
	if (h->xlp_pageaddr != at)
		return broken(err, at, "The page's header has another address.");
	if (h->xlp_tli > c->timeline || h->xlp_tli < c->page_timeline || h->xlp_tli == 0)
		return broken(err, at, "The page's header has an impossible timeline.");
	if (!first)
		return true;
	memcpy(&full, page, sizeof(full));
	if (full.xlp_sysid != c->system_identifier || full.xlp_seg_size != c->segment_size ||
		full.xlp_xlog_blcksz != XLOG_BLCKSZ)
		return broken(err, at, "The segment's header is that of another cluster.");
	return true;
}

/* The page begins where the machine stands: does it go on with what was there? */
static bool
enter_page(WalCheck *c, const XLogPageHeaderData *h, XLogRecPtr at, DrError *err)
{
	bool		goes_on = (h->xlp_info & XLP_FIRST_IS_CONTRECORD) != 0;

	/* After a crash, an unfinished record is given up, and said to be. */
	if (c->left > 0 && (h->xlp_info & XLP_FIRST_IS_OVERWRITE_CONTRECORD) != 0)
		c->left = 0;
	if (c->left > 0 && (!goes_on || h->xlp_rem_len != c->left))
		return broken(err, at, goes_on ? "The page goes on with a record of another length." :
					  "The page does not go on with the record before it.");
	if (c->left == 0 && goes_on)
		return broken(err, at, "The page goes on with a record that does not begin before it.");
	c->at = at + ((h->xlp_info & XLP_LONG_HEADER) != 0 ? SizeOfXLogLongPHD : SizeOfXLogShortPHD);
	return true;
}

/* ---- records ---- */

static bool
begin_record(WalCheck *c, const uint8 *data, DrError *err)
{
	uint32		length;

	memcpy(&length, data, sizeof(length));
	if (length == 0)
		return broken(err, c->at, "There is no record.");
	if (length < WAL_RECORD_HEADER || length > RECORD_LENGTH_MAX)
		return broken(err, c->at, "A record has an impossible length.");
	c->begins = c->at;
	c->left = length;
	c->have = 0;
	c->crc = 0;
	return true;
}

static bool
end_record(WalCheck *c, DrError *err)
{
	XLogRecord	r;

	memcpy(&r, c->header, sizeof(r));
	if (crc32c_append(c->crc, c->header, offsetof(XLogRecord, xl_crc)) != r.xl_crc)
		return broken(err, c->begins, "A record's checksum is wrong.");
	if (c->before != 0 && r.xl_prev != c->before)
		return broken(err, c->begins, "A record does not follow the one before it.");
	c->before = c->begins;
	c->ends = c->at;
	c->records++;
	c->at = MAXALIGN64(c->at);
	/* What follows in the segment is nothing. */
	if (r.xl_rmid == RM_XLOG_ID && (r.xl_info & ~XLR_INFO_MASK) == XLOG_SWITCH && c->at % c->segment_size != 0)
		c->at += c->segment_size - c->at % c->segment_size;
	return true;
}

/* From where the machine stands up to the end of the page, of the records, or of the WAL. */
static bool
read_page(WalCheck *c, const uint8 *page, XLogRecPtr at, DrError *err)
{
	while (c->at < at + XLOG_BLCKSZ && (c->left > 0 || c->at < c->stop))
	{
		const uint8 *data = page + (c->at - at);
		uint32		n;

		if (c->left == 0 && !begin_record(c, data, err))
			return false;
		n = Min(c->left, (uint32) (at + XLOG_BLCKSZ - c->at));
		c->at += n;
		c->left -= n;
		if (c->have < WAL_RECORD_HEADER)
		{
			uint32		part = Min(n, WAL_RECORD_HEADER - c->have);

			memcpy(c->header + c->have, data, part);
			c->have += part;
			data += part;
			n -= part;
		}
		c->crc = crc32c_append(c->crc, data, n);
		if (c->left == 0 && !end_record(c, err))
			return false;
	}
	return true;
}

void
wal_check_begin(WalCheck *c, const char *sysid, TimeLineID timeline, uint32 segment_size,
				XLogRecPtr start, XLogRecPtr stop)
{
	memset(c, 0, sizeof(*c));
	c->timeline = timeline;
	c->system_identifier = strtoull(sysid, NULL, 10);
	c->segment_size = segment_size;
	c->at = start;
	c->stop = stop;
}

bool
wal_check_segment(WalCheck *c, const uint8 *data, DrError *err)
{
	XLogRecPtr	base = c->at - c->at % c->segment_size;

	for (XLogRecPtr at = c->at - c->at % XLOG_BLCKSZ; at < base + c->segment_size && c->at < c->stop; at += XLOG_BLCKSZ)
	{
		const uint8 *page = data + (at - base);
		XLogPageHeaderData h;

		if (c->at >= at + XLOG_BLCKSZ)
			break;				/* the segment was switched */
		if (!check_header(c, page, at, &h, err) || (c->at == at && !enter_page(c, &h, at, err)))
			return false;
		c->page_timeline = h.xlp_tli;
		if (!read_page(c, page, at, err))
			return false;
	}
	if (c->at >= c->stop && (c->left > 0 || c->at > c->stop))
		return broken(err, c->stop, "No record ends where the backup does.");
	return true;
}

bool
wal_check_pages(const uint8 *data, const char *sysid, TimeLineID timeline, uint32 segment_size,
				XLogRecPtr base, DrError *err)
{
	WalCheck	c;
	bool		ended = false;

	wal_check_begin(&c, sysid, timeline, segment_size, base, base + segment_size);
	for (uint32 at = 0; at < segment_size; at += XLOG_BLCKSZ)
	{
		XLogPageHeaderData h;

		if (at > 0 && page_empty(data + at))
		{
			ended = true;
			continue;
		}
		if (ended)
			return broken(err, base + at, "A page follows an empty one.");
		if (!check_header(&c, data + at, base + at, &h, err))
			return false;
		c.page_timeline = h.xlp_tli;
	}
	return true;
}

/* wal_first_record; *ends: where the record from before ends, InvalidXLogRecPtr: there is none, or that is not known. */
static XLogRecPtr
skip_continuation(const uint8 *data, uint32 segment_size, XLogRecPtr base, XLogRecPtr *ends)
{
	*ends = InvalidXLogRecPtr;
	for (uint32 at = 0; at < segment_size; at += XLOG_BLCKSZ)
	{
		XLogPageHeaderData h;
		uint32		room;
		uint64		rest;

		memcpy(&h, data + at, sizeof(h));
		if (h.xlp_magic != XLOG_PAGE_MAGIC || h.xlp_pageaddr != base + at)
			break;
		room = XLOG_BLCKSZ - XLogPageHeaderSize(&h);
		rest = (h.xlp_info & XLP_FIRST_IS_CONTRECORD) != 0 ? h.xlp_rem_len : 0;
		if (rest > 0 && rest <= room)
			*ends = base + at + XLogPageHeaderSize(&h) + rest;
		if (MAXALIGN64(rest) < room)
			return base + at + XLogPageHeaderSize(&h) + MAXALIGN64(rest);
	}
	return InvalidXLogRecPtr;
}

XLogRecPtr
wal_first_record(const uint8 *data, uint32 segment_size, XLogRecPtr base)
{
	XLogRecPtr	ends;

	return skip_continuation(data, segment_size, base, &ends);
}

XLogRecPtr
wal_whole_until(const uint8 *data, size_t n, const char *sysid, TimeLineID timeline, uint32 segment_size,
				XLogRecPtr base)
{
	XLogRecPtr	ends;
	XLogRecPtr	first = skip_continuation(data, segment_size, base, &ends);
	WalCheck	c = {0};
	DrError		end;

	if (ends > base + n)
		return base;
	if (first != InvalidXLogRecPtr && first < base + n)
	{
		wal_check_begin(&c, sysid, timeline, segment_size, first, base + segment_size);
		(void) wal_check_segment(&c, data, &end);	/* what follows the last one is none */
	}
	return Max(Max(c.ends, ends), base);
}
