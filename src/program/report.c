/*
 * report.c
 *	  What the program tells people.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/report.h"

#include <unistd.h>

#include "core/names.h"

void
report_error(const DrError *err)
{
	fprintf(stderr, "pg_dr: error: %s\n", err->message);
	if (err->detail[0] != '\0')
		fprintf(stderr, "DETAIL:  %s\n", err->detail);
	if (err->hint[0] != '\0')
		fprintf(stderr, "HINT:  %s\n", err->hint);
}

void
report_warning(const char *fmt,...)
{
	va_list		args;

	fprintf(stderr, "pg_dr: warning: ");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\n");
}

void
format_size(uint64 bytes, char *out)
{
	static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB", "PB"};
	double		value = (double) bytes;
	int			unit = 0;

	for (; value >= 1000 && unit < (int) lengthof(units) - 1; unit++)
		value /= 1024;
	snprintf(out, 32, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

void
report_progress(const char *what, uint64 done, uint64 total, int64 started, bool last)
{
	char		have[32];
	char		all[32];
	char		rate[32];
	char		bar[31];
	double		seconds = (time_now() - started) / 1e6;
	int			fill = total > 0 ? (int) (30.0 * done / total) : 30;

	if (!isatty(STDERR_FILENO))
		return;
	for (int i = 0; i < 30; i++)
		bar[i] = i < fill ? '#' : '.';
	bar[30] = '\0';
	format_size(done, have);
	format_size(total, all);
	format_size(seconds > 0 ? (uint64) (done / seconds) : 0, rate);
	fprintf(stderr, "\r%s [%s] %s of %s, %s/s \033[K%s", what, bar, have, all, rate, last ? "\n" : "");
}

void
announce_held(const char *step)
{
	fprintf(stderr, "held at step %s\n", step);
	fflush(stderr);
}
