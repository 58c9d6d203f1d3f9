/*
 * config_files.c
 *	  What of the configuration lies outside of the data directory.
 *
 * One idea: the server is asked which files it reads, since only it knows what
 * is included from where.  A file that is included but sets nothing is not
 * listed by it; those are looked for where distributions put them.
 *
 * A crash here leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "postgres.h"

#include <sys/stat.h>

#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "backup.h"

/* Beside postgresql.conf, on Debian. */
static const char *const companions[] = {"start.conf", "pg_ctl.conf", "environment"};

static bool
is_outside(const char *path)
{
	char		canonical[MAXPGPATH];

	strlcpy(canonical, path, sizeof(canonical));
	canonicalize_path(canonical);
	return is_absolute_path(canonical) && !path_is_prefix_of_path(DataDir, canonical);
}

/* Once each, and only what is there: an included file need not exist. */
static void
add_file(Backup *b, const char *path)
{
	MemoryContext caller;
	struct stat st;
	ListCell   *cell;

	if (path == NULL || !is_outside(path) || stat(path, &st) != 0 || !S_ISREG(st.st_mode))
		return;
	foreach(cell, b->config_files)
	{
		if (strcmp((char *) lfirst(cell), path) == 0)
			return;
	}
	caller = MemoryContextSwitchTo(b->context);
	b->config_files = lappend(b->config_files, pstrdup(path));
	MemoryContextSwitchTo(caller);
}

static void
add_from_server(Backup *b)
{
	int			rc = SPI_execute("SELECT sourcefile FROM pg_catalog.pg_file_settings "
#if DR_HBA_INCLUDES
								 "UNION SELECT file_name FROM pg_catalog.pg_hba_file_rules "
								 "UNION SELECT file_name FROM pg_catalog.pg_ident_file_mappings "
#endif
								 "ORDER BY 1", true, 0);

	if (rc != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute returned %s", SPI_result_code_string(rc));
	for (uint64 i = 0; i < SPI_processed; i++)
		add_file(b, SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
}

static void
add_conf_d(Backup *b)
{
	char	   *path = psprintf("%s/conf.d", b->config_directory);
	DIR		   *dir = AllocateDir(path);
	struct dirent *de;

	if (dir == NULL)
		return;
	while ((de = ReadDirExtended(dir, path, LOG)) != NULL)
	{
		size_t		n = strlen(de->d_name);

		if (n > 5 && de->d_name[0] != '.' && strcmp(de->d_name + n - 5, ".conf") == 0)
			add_file(b, psprintf("%s/%s", path, de->d_name));
	}
	FreeDir(dir);
}

static void
find_config_directory(Backup *b)
{
	char		directory[MAXPGPATH];

	if (ConfigFileName == NULL || !is_outside(ConfigFileName))
		return;
	strlcpy(directory, ConfigFileName, sizeof(directory));
	canonicalize_path(directory);
	get_parent_directory(directory);
	b->config_directory = MemoryContextStrdup(b->context, directory);
}

void
dr_find_config_files(void *backup)
{
	Backup	   *b = backup;

	find_config_directory(b);
	add_file(b, ConfigFileName);
	add_file(b, HbaFileName);
	add_file(b, IdentFileName);
	add_from_server(b);
	if (b->config_directory == NULL)
		return;
	for (int i = 0; i < lengthof(companions); i++)
		add_file(b, psprintf("%s/%s", b->config_directory, companions[i]));
	add_conf_d(b);
}
