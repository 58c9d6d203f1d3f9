/*
 * report.h
 *	  What the program tells people: errors in PostgreSQL's style, sizes, progress.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_REPORT_H
#define PGDR_REPORT_H

#include "core/error.h"

/* "pg_dr: error: ...", DETAIL and HINT on standard error. */
extern void report_error(const DrError *err);
extern void report_warning(const char *fmt,...) pg_attribute_printf(1, 2);

/* "1.5 GB"; out has at least 32 bytes. */
extern void format_size(uint64 bytes, char *out);

/* A bar on a terminal, nothing elsewhere.  "last" ends the line. */
extern void report_progress(const char *what, uint64 done, uint64 total, int64 started, bool last);

/* For step_hold_at in commands that people run. */
extern void announce_held(const char *step);

#endif							/* PGDR_REPORT_H */
