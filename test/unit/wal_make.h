/*
 * wal_make.h
 *	  WAL for tests: pages and records as the server makes them.
 */
#ifndef PGDR_WAL_MAKE_H
#define PGDR_WAL_MAKE_H

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "access/xlogrecord.h"
#include "catalog/pg_control.h"
#include "core/bytes.h"

#define SYSID		"7300000000000000001"
#define SEGMENT		((uint32) 1024 * 1024)
#define SEGMENTS	3
#define BASE		((XLogRecPtr) 5 * SEGMENT)
#ifndef TIMELINE
#define TIMELINE	3
#endif

/* Three segments, and where the next record goes. */
static uint8 wal[SEGMENTS * SEGMENT];
static XLogRecPtr at;
static XLogRecPtr before;
static XLogRecPtr starts[20000];
static XLogRecPtr ends[20000];	/* behind the last byte, not aligned */
static int	n_records;

static void
page_header(uint32 rest)
{
	XLogLongPageHeaderData h = {0};
	bool		first = at % SEGMENT == 0;

	h.std.xlp_magic = XLOG_PAGE_MAGIC;
	h.std.xlp_info = (first ? XLP_LONG_HEADER : 0) | (rest > 0 ? XLP_FIRST_IS_CONTRECORD : 0);
	h.std.xlp_tli = TIMELINE;
	h.std.xlp_pageaddr = at;
	h.std.xlp_rem_len = rest;
	h.xlp_sysid = strtoull(SYSID, NULL, 10);
	h.xlp_seg_size = SEGMENT;
	h.xlp_xlog_blcksz = XLOG_BLCKSZ;
	memcpy(wal + (at - BASE), &h, first ? SizeOfXLogLongPHD : SizeOfXLogShortPHD);
	at += first ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;
}

static void
append(const uint8 *data, uint32 n)
{
	while (n > 0)
	{
		uint32		part;

		if (at % XLOG_BLCKSZ == 0)
			page_header(n);
		part = Min(n, (uint32) (XLOG_BLCKSZ - at % XLOG_BLCKSZ));
		memcpy(wal + (at - BASE), data, part);
		at += part;
		data += part;
		n -= part;
	}
	ends[n_records - 1] = at;
	at = MAXALIGN64(at);
}

static void
record(uint32 length, uint8 rmid, uint8 info)
{
	static uint8 buf[200000];
	XLogRecord	r = {0};

	if (at % XLOG_BLCKSZ == 0)
		page_header(0);
	for (uint32 i = 0; i < length; i++)
		buf[i] = (uint8) (i * 7 + length);
	r.xl_tot_len = length;
	r.xl_prev = before;
	r.xl_rmid = rmid;
	r.xl_info = info;
	r.xl_crc = crc32c_append(crc32c_append(0, buf + SizeOfXLogRecord, length - SizeOfXLogRecord), &r, offsetof(XLogRecord, xl_crc));
	memcpy(buf, &r, sizeof(r));
	before = starts[n_records++] = at;
	append(buf, length);
}

#endif							/* PGDR_WAL_MAKE_H */
