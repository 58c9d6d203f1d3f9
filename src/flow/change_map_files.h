/*
 * change_map_files.h
 *	  The change map of a range of WAL, from the files that the module wrote.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_CHANGE_MAP_FILES_H
#define PGDR_CHANGE_MAP_FILES_H

#include "core/change_map.h"

/*
 * What changed in [from, to) of a timeline, and perhaps a little more.  False
 * when the files don't prove that it is all: *err says what is missing, damaged
 * or unsafe.
 */
extern bool change_map_load(const char *data_directory, const char *system_identifier, TimeLineID tli,
							XLogRecPtr from, XLogRecPtr to, ChangeMap **out, DrError *err);

#endif							/* PGDR_CHANGE_MAP_FILES_H */
