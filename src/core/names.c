/*
 * names.c
 *	  Names of objects, backups and WAL files.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/names.h"

#include <ctype.h>
#include <time.h>

#include "access/xlog_internal.h"

static bool
is_upper_hex(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'A' && s[i] <= 'F')))
			return false;
	return true;
}

static bool
is_decimal(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (s[i] < '0' || s[i] > '9')
			return false;
	return true;
}

static bool
is_lower_hex(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f')))
			return false;
	return true;
}

bool
name_valid(const char *name)
{
	bool		start = true;	/* of a component */
	size_t		n = 0;

	for (; name[n] != '\0'; n++)
	{
		char		c = name[n];

		if (n >= PGDR_OBJECT_NAME_MAX)
			return false;
		if (start && (c == '.' || c == '/'))
			return false;
		if (!isalnum((unsigned char) c) && strchr("._/-", c) == NULL)
			return false;
		start = c == '/';
	}
	return n > 0 && !start;
}

bool
path_valid(const char *path)
{
	const char *p = path;

	for (;;)
	{
		size_t		n = strcspn(p, "/");

		if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		if (p[n] == '\0')
			return true;
		p += n + 1;
	}
}

bool
backup_id_valid(const char *id)
{
	const char *kind = id + 17;

	if (strlen(id) < 17 || strlen(id) > PGDR_BACKUP_ID_MAX)
		return false;
	if (!is_decimal(id, 8) || id[8] != 'T' || !is_decimal(id + 9, 6) ||
		id[15] != 'Z' || id[16] != '-')
		return false;
	if (strncmp(kind, "full-", 5) == 0)
		kind += 5;
	else if (strncmp(kind, "incremental-", 12) == 0)
		kind += 12;
	else
		return false;
	return strlen(kind) == 6 && is_lower_hex(kind, 6);
}

bool
backup_of_name(const char *name, char *id)
{
	const char *part = strchr(name, '/');
	size_t		n;

	if (part == NULL || strncmp(part, "/backup/", 8) != 0)
		return false;
	n = strcspn(part + 8, "/");
	if (n > PGDR_BACKUP_ID_MAX || part[8 + n] == '\0')
		return false;
	memcpy(id, part + 8, n);
	id[n] = '\0';
	return backup_id_valid(id);
}

bool
system_identifier_valid(const char *text)
{
	size_t		n = strlen(text);

	return n > 0 && n <= 20 && is_decimal(text, n);
}

static uint32
hex_u32(const char *digits)
{
	char		copy[9];

	memcpy(copy, digits, 8);
	copy[8] = '\0';
	return (uint32) strtoul(copy, NULL, 16);
}

bool
is_among(const char *const *names, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

bool
wal_file_parse(const char *file, WalFile *wal)
{
	size_t		n = strlen(file);

	memset(wal, 0, sizeof(*wal));
	if (n < 8 || !is_upper_hex(file, 8))
		return false;
	wal->timeline = hex_u32(file);
	if (wal->timeline == 0)
		return false;
	if (strcmp(file + 8, ".history") == 0)
	{
		wal->kind = KIND_HISTORY;
		return true;
	}
	if (n < 24 || !is_upper_hex(file, 24))
		return false;
	wal->log = hex_u32(file + 8);
	wal->seg = hex_u32(file + 16);
	if (n == 24)
		wal->kind = KIND_WAL;
	else if (strcmp(file + 24, ".partial") == 0)
		wal->kind = KIND_PARTIAL;
	else if (n == 24 + 1 + 8 + 7 && file[24] == '.' && is_upper_hex(file + 25, 8) &&
			 strcmp(file + 33, ".backup") == 0)
		wal->kind = KIND_BACKUP_HISTORY;
	else
		return false;
	return true;
}

/* keys/00000001 and the like: prefix, then eight digits that are not all zero. */
uint32
name_generation(const char *name)
{
	const char *slash = strrchr(name, '/');
	const char *digits = slash == NULL ? name : slash + 1;

	if (strlen(digits) != 8 || !is_decimal(digits, 8))
		return 0;
	return (uint32) strtoul(digits, NULL, 10);
}

static bool
is_frontier(const char *file)
{
	return strlen(file) == 24 + 9 && is_upper_hex(file, 24) && strcmp(file + 24, ".frontier") == 0;
}

/* <segment>.<incarnation>.<offset>, without directories */
static bool
tail_file_parse(const char *file, TailName *tail)
{
	if (strlen(file) != 24 + 1 + 8 + 1 + 8 || !is_upper_hex(file, 24) || file[24] != '.' ||
		!is_upper_hex(file + 25, 8) || file[33] != '.' || !is_upper_hex(file + 34, 8))
		return false;
	memcpy(tail->segment, file, 24);
	tail->segment[24] = '\0';
	tail->incarnation = hex_u32(file + 25);
	tail->offset = hex_u32(file + 34);
	return hex_u32(file) > 0 && tail->incarnation > 0;
}

static ObjectKind
wal_object_kind(const char *rest)
{
	WalFile		wal;
	TailName	tail;

	if (strlen(rest) < 9 || !is_upper_hex(rest, 8) || rest[8] != '/')
		return KIND_UNKNOWN;
	if (tail_file_parse(rest + 9, &tail) && strncmp(rest, rest + 9, 8) == 0)
		return KIND_TAIL;
	if (is_frontier(rest + 9) && strncmp(rest, rest + 9, 8) == 0)
		return KIND_FRONTIER;
	if (!wal_file_parse(rest + 9, &wal) || wal.timeline != hex_u32(rest))
		return KIND_UNKNOWN;
	return wal.kind;
}

static ObjectKind
backup_object_kind(const char *rest)
{
	char		id[PGDR_BACKUP_ID_MAX + 1];
	size_t		n = strcspn(rest, "/");

	if (n > PGDR_BACKUP_ID_MAX || rest[n] == '\0')
		return KIND_UNKNOWN;
	memcpy(id, rest, n);
	id[n] = '\0';
	rest += n + 1;
	if (!backup_id_valid(id))
		return KIND_UNKNOWN;
	if (strcmp(rest, "manifest") == 0)
		return KIND_MANIFEST;
	if (strncmp(rest, "pack-", 5) == 0 && strchr(rest, '/') == NULL && name_generation(rest + 5) > 0)
		return KIND_PACK;
	return KIND_UNKNOWN;
}

ObjectKind
object_kind(const char *name)
{
	size_t		sysid = strcspn(name, "/");
	const char *rest;

	if (!name_valid(name) || sysid > 20 || !is_decimal(name, sysid) || name[sysid] == '\0')
		return KIND_UNKNOWN;
	rest = name + sysid + 1;
	if (strncmp(rest, "wal/", 4) == 0)
		return wal_object_kind(rest + 4);
	if (strncmp(rest, "backup/", 7) == 0)
		return backup_object_kind(rest + 7);
	if (strncmp(rest, "lineage/", 8) == 0 && strchr(rest + 8, '/') == NULL &&
		name_generation(rest) > 0)
		return KIND_LINEAGE;
	if (strncmp(rest, "expire/", 7) == 0 && strchr(rest + 7, '/') == NULL && name_generation(rest) > 0)
		return KIND_EXPIRY;
	return KIND_UNKNOWN;
}

void
name_of_generation(ObjectName out, const char *prefix, uint32 generation)
{
	snprintf(out, sizeof(ObjectName), "%s%08u", prefix, generation);
}

void
name_keyring(ObjectName out, uint32 generation)
{
	name_of_generation(out, "keys/", generation);
}

void
name_lineage(ObjectName out, const char *sysid, uint32 generation)
{
	char		prefix[64];

	snprintf(prefix, sizeof(prefix), "%s/lineage/", sysid);
	name_of_generation(out, prefix, generation);
}

void
name_expiry(ObjectName out, const char *sysid, uint32 generation)
{
	char		prefix[64];

	snprintf(prefix, sizeof(prefix), "%s/expire/", sysid);
	name_of_generation(out, prefix, generation);
}

void
name_pack(ObjectName out, const char *sysid, const char *backup, uint32 number)
{
	snprintf(out, sizeof(ObjectName), "%s/backup/%s/pack-%08u", sysid, backup, number);
}

void
name_manifest(ObjectName out, const char *sysid, const char *backup)
{
	snprintf(out, sizeof(ObjectName), "%s/backup/%s/manifest", sysid, backup);
}

void
name_wal(ObjectName out, const char *sysid, const char *file)
{
	snprintf(out, sizeof(ObjectName), "%s/wal/%.8s/%s", sysid, file, file);
}

void
name_frontier(ObjectName out, const char *sysid, const char *segment)
{
	snprintf(out, sizeof(ObjectName), "%s/wal/%.8s/%.24s.frontier", sysid, segment, segment);
}

void
name_tail(ObjectName out, const char *sysid, const TailName *tail)
{
	snprintf(out, sizeof(ObjectName), "%s/wal/%.8s/%.24s.%08X.%08X", sysid, tail->segment,
			 tail->segment, tail->incarnation, tail->offset);
}

bool
tail_name_parse(const char *name, TailName *tail)
{
	const char *slash = strrchr(name, '/');

	return object_kind(name) == KIND_TAIL && tail_file_parse(slash + 1, tail);
}

void
wal_segment_name(char *out, TimeLineID tli, uint64 segno, uint32 segment_size)
{
	XLogFileName(out, tli, segno, segment_size);
}

uint64
wal_segment_number(const WalFile *wal, uint32 segment_size)
{
	return (uint64) wal->log * XLogSegmentsPerXLogId(segment_size) + wal->seg;
}

bool
lsn_parse(const char *text, XLogRecPtr *lsn)
{
	size_t		hi = strspn(text, "0123456789abcdefABCDEF");
	size_t		lo;

	if (hi < 1 || hi > 8 || text[hi] != '/')
		return false;
	lo = strspn(text + hi + 1, "0123456789abcdefABCDEF");
	if (lo < 1 || lo > 8 || text[hi + 1 + lo] != '\0')
		return false;
	*lsn = (XLogRecPtr) strtoul(text, NULL, 16) << 32 | strtoul(text + hi + 1, NULL, 16);
	return true;
}

void
lsn_format(char *out, XLogRecPtr lsn)
{
	snprintf(out, LSN_TEXT_MAX, "%X/%X", LSN_FORMAT_ARGS(lsn));
}

void
time_format(char *out, int64 us)
{
	time_t		seconds = (time_t) (us / 1000000);
	struct tm	tm;

	gmtime_r(&seconds, &tm);
	snprintf(out, TIME_TEXT_MAX, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
			 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
			 tm.tm_hour, tm.tm_min, tm.tm_sec, (int) (us % 1000000));
}

/* "+02", "-03:30", "Z"; seconds east of Greenwich. */
static bool
zone_parse(const char *p, int *offset)
{
	int			sign = *p == '-' ? -1 : 1;
	int			hours;
	int			minutes = 0;

	if ((*p == 'Z' || *p == 'z') && p[1] == '\0')
	{
		*offset = 0;
		return true;
	}
	if ((*p != '+' && *p != '-') || strlen(p) < 3 || !is_decimal(p + 1, 2))
		return false;
	hours = (p[1] - '0') * 10 + p[2] - '0';
	p += 3;
	if (*p == ':')
		p++;
	if (*p != '\0')
	{
		if (strlen(p) != 2 || !is_decimal(p, 2))
			return false;
		minutes = (p[0] - '0') * 10 + p[1] - '0';
	}
	*offset = sign * (hours * 3600 + minutes * 60);
	return hours <= 15 && minutes < 60;
}

/*
 * A strict subset of what PostgreSQL takes: date, time, and a zone that leaves
 * nothing to guess.
 */
bool
time_parse(const char *text, int64 *us)
{
	struct tm	tm = {0};
	int			offset;
	int			fraction = 0;
	const char *p = text + 19;
	time_t		seconds;

	if (strlen(text) < 20 ||
		!is_decimal(text, 4) || text[4] != '-' || !is_decimal(text + 5, 2) ||
		text[7] != '-' || !is_decimal(text + 8, 2) || (text[10] != ' ' && text[10] != 'T') ||
		!is_decimal(text + 11, 2) || text[13] != ':' || !is_decimal(text + 14, 2) ||
		text[16] != ':' || !is_decimal(text + 17, 2))
		return false;
	tm.tm_year = atoi(text) - 1900;
	tm.tm_mon = atoi(text + 5) - 1;
	tm.tm_mday = atoi(text + 8);
	tm.tm_hour = atoi(text + 11);
	tm.tm_min = atoi(text + 14);
	tm.tm_sec = atoi(text + 17);
	if (*p == '.')
	{
		int			scale = 100000;

		for (p++; *p >= '0' && *p <= '9'; p++, scale /= 10)
			fraction += (*p - '0') * scale;
	}
	while (*p == ' ')
		p++;
	if (!zone_parse(p, &offset) || tm.tm_year < 70 || tm.tm_year > 8000 ||
		tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 59)
		return false;
	{
		struct tm	asked = tm;

		/* timegm turns the 31st of June into the 1st of July: refuse that. */
		seconds = timegm(&tm);
		if (tm.tm_mday != asked.tm_mday || tm.tm_mon != asked.tm_mon)
			return false;
	}
	*us = ((int64) seconds - offset) * 1000000 + fraction;
	return true;
}

static int64
read_clock(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (int64) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int64 ahead;

void
time_set_ahead(int64 us)
{
	ahead = us;
}

int64
time_now(void)
{
	return read_clock(CLOCK_REALTIME) + ahead;
}

int64
monotonic_now(void)
{
	return read_clock(CLOCK_MONOTONIC);
}
