/*
 * guc.c
 *	  Settings.
 *
 * One idea: what can be seen to be wrong is refused when it is set, with the
 * reason; what can't (a missing key file) is reported by who needs it.  None of
 * the settings holds a secret, yet those that say where secrets and backups
 * are can be read by superusers only.
 *
 * A crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "pg_dr.h"
#include "protocol.h"

char	   *dr_repositories;
char	   *dr_encryption_key_file;
char	   *dr_credentials_file;
char	   *dr_database;
int			dr_jobs;
int			dr_compression_level;
int			dr_max_rate;
int			dr_archive_timeout;
char	   *dr_wal_conninfo;
int			dr_wal_ship_interval;
bool		dr_change_map;
int			dr_change_map_wal_limit;
char	   *dr_retention;
int			dr_expire_grace;
char	   *dr_drill_directory;
int			dr_drill_max_size;
int			dr_drill_memory;
char	   *dr_drill_preload;
char	   *dr_debug_hold_at;
int			dr_debug_clock;

/* ---- pg_dr.repositories: name=url, name=url ---- */

static bool
name_is_valid(const char *name)
{
	size_t		n = strlen(name);

	return n > 0 && n <= DR_REPOSITORY_NAME_MAX &&
		strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == n;
}

static bool
percent_encoding_is_valid(const char *url)
{
	for (const char *p = strchr(url, '%'); p != NULL; p = strchr(p + 1, '%'))
	{
		if (strspn(p + 1, "0123456789abcdefABCDEF") < 2 || strncmp(p + 1, "00", 2) == 0)
			return false;
	}
	return true;
}

/* Why a URL can't be used, or NULL. */
static char *
url_problem(const char *name, const char *url)
{
	for (const char *p = url; *p != '\0'; p++)
	{
		if ((unsigned char) *p <= ' ' || *p == 0x7f)
			return psprintf("The URL of repository \"%s\" contains a blank or a control character.", name);
	}
	if (strstr(url, "://") == NULL)
		return psprintf("The location of repository \"%s\" is not a URL.", name);
	if (strncmp(url, "file://", 7) != 0 && strncmp(url, "s3://", 5) != 0)
		return psprintf("The URL of repository \"%s\" has another scheme than file:// or s3://.", name);
	if (url[0] == 's' && !isalnum((unsigned char) url[5]))
		return psprintf("The URL of repository \"%s\" needs a bucket: s3://bucket/prefix.", name);
	if (url[0] == 'f' && (url[7] != '/' || url[8] == '\0'))
		return psprintf("The URL of repository \"%s\" needs an absolute path: file:///directory.", name);
	if (strlen(url) >= MAXPGPATH)
		return psprintf("The URL of repository \"%s\" is too long.", name);
	if (!percent_encoding_is_valid(url))
		return psprintf("The URL of repository \"%s\" has a malformed percent-encoding.", name);
	return NULL;
}

static char *
trimmed(char *text)
{
	char	   *end = text + strlen(text);

	while (end > text && isspace((unsigned char) end[-1]))
		*--end = '\0';
	while (isspace((unsigned char) *text))
		text++;
	return text;
}

/*
 * Take the value apart.  NULL and the first repository's name and URL (NULL,
 * too, when the value is empty), or why it is wrong.
 */
static char *
parse_repositories(const char *value, char **name, char **url)
{
	char	   *copy = pstrdup(value);
	char	   *item = trimmed(copy);
	char	   *comma;
	char	   *equals;
	char	   *scheme;
	char	   *problem;

	*name = *url = NULL;
	if (item[0] == '\0')
		return NULL;
	comma = strchr(item, ',');
	if (comma != NULL)
		*comma = '\0';
	equals = strchr(item, '=');
	scheme = strstr(item, "://");
	if (equals == NULL || (scheme != NULL && scheme < equals))
		return pstrdup("A repository is written as name=url.");
	*equals = '\0';
	*name = trimmed(item);
	*url = trimmed(equals + 1);
	if (!name_is_valid(*name))
		return psprintf("\"%s\" is not a repository's name: it is made of up to %d lower-case letters, digits and underscores.",
						*name, DR_REPOSITORY_NAME_MAX);
	problem = url_problem(*name, *url);
	if (problem == NULL && comma != NULL)
		problem = pstrdup("Only one repository is supported in this version; a comma in a URL is written as %2C.");
	return problem;
}

static bool
check_repositories(char **newval, void **extra, GucSource source)
{
	char	   *name;
	char	   *url;
	char	   *problem = parse_repositories(*newval, &name, &url);

	if (problem == NULL)
		return true;
	GUC_check_errdetail("%s", problem);
	return false;
}

bool
dr_primary_repository(char **name, char **url)
{
	return parse_repositories(dr_repositories, name, url) == NULL && *name != NULL;
}

/* ---- files that hold secrets ---- */

static bool
check_key_file(char **newval, void **extra, GucSource source)
{
	const char *value = *newval;

	if (value[0] == '\0' || strcmp(value, "none") == 0)
		return true;
	if (!is_absolute_path(value) || strlen(value) >= MAXPGPATH)
	{
		GUC_check_errdetail("The value must be an absolute path, or \"none\" for no encryption.");
		return false;
	}
	return true;
}

static bool
check_credentials_file(char **newval, void **extra, GucSource source)
{
	if ((*newval)[0] == '\0' || (is_absolute_path(*newval) && strlen(*newval) < MAXPGPATH))
		return true;
	GUC_check_errdetail("The value must be an absolute path.");
	return false;
}

/* ---- pg_dr.retention: pitr 7d, daily 7, weekly 4, monthly 12, yearly 3 ---- */

/* Which rule an item is, or -1; its number is from 1 to 100000. */
static int
retention_rule(const char *item)
{
	static const char *const rules[] = {"pitr", "daily", "weekly", "monthly", "yearly"};
	size_t		n = strspn(item, "abcdefghijklmnopqrstuvwxyz");
	const char *number = item + n + strspn(item + n, " \t");
	const char *unit = number + strspn(number, "0123456789");
	long		count = unit - number <= 6 ? strtol(number, NULL, 10) : 0;

	if (number == item + n || count < 1 || count > 100000)
		return -1;
	for (int i = 0; i < lengthof(rules); i++)
	{
		if (strlen(rules[i]) == n && strncmp(item, rules[i], n) == 0)
			return (i == 0 ? strlen(unit) == 1 && strchr("hdw", *unit) != NULL : *unit == '\0') ? i : -1;
	}
	return -1;
}

/* The program takes the same text apart (src/core/retention.c). */
static bool
check_retention(char **newval, void **extra, GucSource source)
{
	char	   *rest = pstrdup(*newval);
	char	   *item;
	int			seen = 0;

	if (trimmed(pstrdup(*newval))[0] == '\0')
		return true;
	while ((item = strsep(&rest, ",")) != NULL)
	{
		int			rule = retention_rule(item = trimmed(item));

		if (rule < 0)
			GUC_check_errdetail("\"%s\" is not a rule.", item);
		else if (seen & (1 << rule))
			GUC_check_errdetail("\"%s\" is a rule for the second time.", item);
		else
		{
			seen |= 1 << rule;
			continue;
		}
		GUC_check_errhint("Write it as in: pitr 7d, daily 7, weekly 4, monthly 12, yearly 3. Each is optional; pitr is in hours (h), days (d) or weeks (w). Empty: everything is kept.");
		return false;
	}
	return true;
}

/* ---- pg_dr.debug_hold_at ---- */

static bool
check_hold_at(char **newval, void **extra, GucSource source)
{
#define STEP_NAME(name, where) name,
	static const char *const steps[] = {PGDR_STEPS(STEP_NAME)};
#undef STEP_NAME

	if ((*newval)[0] == '\0')
		return true;
	for (int i = 0; i < lengthof(steps); i++)
	{
		if (strcmp(*newval, steps[i]) == 0)
			return true;
	}
	GUC_check_errdetail("There is no such step.");
	return false;
}

/* ---- definitions ---- */

static void
define_places(void)
{
	DefineCustomStringVariable("pg_dr.repositories",
							   "Where backups and WAL are kept: name=url.",
							   "A URL is file:///directory or s3://bucket/prefix?endpoint=...; a comma in it is written as %2C.",
							   &dr_repositories, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_repositories, NULL, NULL);
	DefineCustomStringVariable("pg_dr.encryption_key_file",
							   "File that holds the key of the repositories; \"none\" switches encryption off.",
							   NULL,
							   &dr_encryption_key_file, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_key_file, NULL, NULL);
	DefineCustomStringVariable("pg_dr.credentials_file",
							   "File with the access keys of object storage, as AWS's tools write it.",
							   "Empty: the environment, web identity, container or instance metadata, as AWS's tools do.",
							   &dr_credentials_file, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_credentials_file, NULL, NULL);

	/* Loaded too late, we are not allowed to define what only a start may set. */
	DefineCustomStringVariable("pg_dr.database",
							   "Database of the extension and its catalogue.",
							   NULL,
							   &dr_database, "postgres",
							   process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP,
							   0, NULL, NULL, NULL);
}

static void
define_effort(void)
{
	DefineCustomIntVariable("pg_dr.jobs",
							"Threads of the program per job.",
							NULL,
							&dr_jobs, 2, 1, 64, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dr.compression_level",
							"Level of zstd.",
							NULL,
							&dr_compression_level, 1, 1, 19, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dr.max_rate",
							"Bytes per second that a backup reads at most; 0 is no limit.",
							NULL,
							&dr_max_rate, 0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_BYTE,
							NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dr.archive_timeout",
							"How long a backup waits for its WAL to reach the repository while nothing arrives.",
							NULL,
							&dr_archive_timeout, 600, 1, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
}

static void
define_tail(void)
{
	DefineCustomStringVariable("pg_dr.wal_conninfo",
							   "How the WAL worker's program connects to this server to stream its WAL.",
							   "Empty: by the first socket directory, as the bootstrap superuser.",
							   &dr_wal_conninfo, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dr.wal_ship_interval",
							"How often the unfinished WAL segment is shipped: the recovery point; 0 ships finished segments only.",
							NULL,
							&dr_wal_ship_interval, 1000, 0, 3600 * 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
}

static void
define_change_map(void)
{
	DefineCustomBoolVariable("pg_dr.change_map",
							 "Keep which blocks WAL changes, so that incremental backups read only those.",
							 "It holds a replication slot; off drops it. Switch it off before the module is taken out of shared_preload_libraries.",
							 &dr_change_map, true, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dr.change_map_wal_limit",
							"How much WAL may be kept from removal for the change map; beyond that it begins anew.",
							NULL,
							&dr_change_map_wal_limit, 4096, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
}

static void
define_retention(void)
{
	DefineCustomStringVariable("pg_dr.retention",
							   "What dr_expire() keeps: pitr (every moment of so long), and the newest backup of so many days, weeks, months, years.",
							   "Empty: everything is kept.",
							   &dr_retention, "pitr 7d, daily 7, weekly 4, monthly 12", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   check_retention, NULL, NULL);
	DefineCustomIntVariable("pg_dr.expire_grace",
							"How long what dr_expire() has marked stays before it may be removed.",
							NULL,
							&dr_expire_grace, 24 * 3600, 0, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
}

static bool
check_drill_directory(char **newval, void **extra, GucSource source)
{
	const char *value = *newval;

	if (value[0] == '\0' || (is_absolute_path(value) && strlen(value) < MAXPGPATH - PGDR_BACKUP_ID_MAX - 64))
		return true;
	GUC_check_errdetail("The value must be an absolute path.");
	return false;
}

static void
define_drill(void)
{
	DefineCustomStringVariable("pg_dr.drill_directory",
							   "Directory in which dr_drill() may restore a cluster for a while.",
							   "It must exist, belong to the server's user, and be writable by nobody else. Empty: no drills.",
							   &dr_drill_directory, "", PGC_SIGHUP, 0,
							   check_drill_directory, NULL, NULL);
	DefineCustomIntVariable("pg_dr.drill_max_size",
							"Largest cluster that a drill restores; 0 is no limit but the free space.",
							NULL,
							&dr_drill_max_size, 0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dr.drill_memory",
							"Memory that the server of a drill may use, about.",
							"Half of it are shared buffers.",
							&dr_drill_memory, 256, 32, INT_MAX, PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomStringVariable("pg_dr.drill_preload",
							   "Libraries that the server of a drill loads at its start: those without which it can't recover.",
							   "Nothing that acts by itself may be among them.",
							   &dr_drill_preload, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
}

/* For tests. */
static void
define_debugging(void)
{
	DefineCustomIntVariable("pg_dr.debug_clock",
							"Seconds that the clock of backups and retention is ahead; for tests.",
							NULL,
							&dr_debug_clock, 0, INT_MIN, INT_MAX, PGC_SIGHUP,
							GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE | GUC_SUPERUSER_ONLY,
							NULL, NULL, NULL);
	DefineCustomStringVariable("pg_dr.debug_hold_at",
							   "Step at which the next process that reaches it waits for ever; for tests.",
							   NULL,
							   &dr_debug_hold_at, "", PGC_SIGHUP,
							   GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE | GUC_SUPERUSER_ONLY,
							   check_hold_at, NULL, NULL);
}

TimestampTz
dr_now(void)
{
	return GetCurrentTimestamp() + dr_debug_clock * USECS_PER_SEC;
}

void
dr_define_settings(void)
{
	define_places();
	define_effort();
	define_tail();
	define_change_map();
	define_retention();
	define_drill();
	define_debugging();
}

/* ---- redaction ---- */

static char *
replace_all(char *text, const char *what, const char *with)
{
	StringInfoData out;
	char	   *hit;

	if (what[0] == '\0' || strstr(text, what) == NULL)
		return text;
	initStringInfo(&out);
	while ((hit = strstr(text, what)) != NULL)
	{
		appendBinaryStringInfo(&out, text, hit - text);
		appendStringInfoString(&out, with);
		text = hit + strlen(what);
	}
	appendStringInfoString(&out, text);
	return out.data;
}

/* Of a URL that was accepted. */
static char *
percent_decoded(const char *url)
{
	char	   *out = palloc(strlen(url) + 1);
	char	   *to = out;
	unsigned int c;

	for (; *url != '\0'; url++)
	{
		if (*url == '%' && sscanf(url + 1, "%2x", &c) == 1)
		{
			*to++ = (char) c;
			url += 2;
		}
		else
			*to++ = *url;
	}
	*to = '\0';
	return out;
}

char *
dr_redacted(const char *text)
{
	char	   *copy = pstrdup(text);
	char	   *name;
	char	   *url;

	if (strcmp(dr_encryption_key_file, "none") != 0)
		copy = replace_all(copy, dr_encryption_key_file, "(key file)");
	copy = replace_all(copy, dr_credentials_file, "(credentials file)");
	if (dr_primary_repository(&name, &url))
	{
		char	   *place = strstr(url, "://") + 3;

		copy = replace_all(copy, url, "(repository)");
		url[strcspn(url, "?")] = '\0';	/* the program shows it without parameters */
		copy = replace_all(copy, url, "(repository)");
		copy = replace_all(copy, place, "(repository)");
		copy = replace_all(copy, percent_decoded(place), "(repository)");
	}
	return copy;
}

const char *
dr_shown(const char *text)
{
	if (MyBackendType != B_BACKEND || superuser_arg(GetOuterUserId()))
		return text;
	return dr_redacted(text);
}
