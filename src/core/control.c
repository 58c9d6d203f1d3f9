/*
 * control.c
 *	  pg_control and pg_filenode.map.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/control.h"

#include "catalog/pg_control.h"
#include "core/bytes.h"

#define RELMAP_MAGIC		0x592717

static bool
control_read(const uint8 *data, size_t n, ControlFileData *c)
{
	if (n < sizeof(*c))
		return false;
	memcpy(c, data, sizeof(*c));
	return c->pg_control_version == PG_CONTROL_VERSION &&
		crc32c(c, offsetof(ControlFileData, crc)) == c->crc;
}

bool
control_decode(const uint8 *data, size_t n, ControlInfo *out)
{
	ControlFileData c;

	if (!control_read(data, n, &c))
		return false;
	snprintf(out->system_identifier, sizeof(out->system_identifier), UINT64_FORMAT, c.system_identifier);
	out->control_version = c.pg_control_version;
	out->catalog_version = c.catalog_version_no;
	out->block_size = c.blcksz;
	out->segment_blocks = c.relseg_size;
	out->wal_segment_size = c.xlog_seg_size;
	return true;
}

bool
control_invalidate_checkpoint(uint8 *data, size_t n)
{
	ControlFileData c;

	if (!control_read(data, n, &c))
		return false;
	c.checkPoint = UINT64CONST(0xDEADBEEFDEADBEEF);
	c.crc = crc32c(&c, offsetof(ControlFileData, crc));
	memcpy(data, &c, sizeof(c));
	return true;
}

bool
relmap_whole(const uint8 *data, size_t n)
{
	uint32		magic;
	uint32		crc;
	size_t		at;

	if (n < sizeof(magic))
		return true;
	memcpy(&magic, data, sizeof(magic));
	if (magic != RELMAP_MAGIC)
		return true;
	if (n == 512)
		at = 504;				/* up to 15 */
	else if (n == 524)
		at = 520;				/* since 16 */
	else
		return true;
	memcpy(&crc, data + at, sizeof(crc));
	return crc32c(data, at) == crc;
}
