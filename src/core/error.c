/*
 * error.c
 *	  Errors as values.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/error.h"

bool
dr_error(DrError *err, DrCode code, const char *fmt,...)
{
	va_list		args;

	err->code = code;
	err->detail[0] = err->hint[0] = '\0';
	va_start(args, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, args);
	va_end(args);
	return false;
}

bool
dr_detail(DrError *err, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	vsnprintf(err->detail, sizeof(err->detail), fmt, args);
	va_end(args);
	return false;
}

bool
dr_hint(DrError *err, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	vsnprintf(err->hint, sizeof(err->hint), fmt, args);
	va_end(args);
	return false;
}

const char *
dr_code_name(DrCode code)
{
	static const char *const names[] = {
		[DR_CONFIG] = "config",
		[DR_REFUSED] = "refused",
		[DR_KEY] = "key",
		[DR_ABSENT] = "absent",
		[DR_CONFLICT] = "conflict",
		[DR_LINEAGE] = "lineage",
		[DR_DAMAGED] = "damaged",
		[DR_IO] = "io",
		[DR_CANCELLED] = "cancelled",
		[DR_INTERNAL] = "internal",
	};

	return names[code];
}
