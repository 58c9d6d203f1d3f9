/*
 * step.c
 *	  Named steps at which a test can hold the program.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/step.h"

#include <string.h>
#include <unistd.h>

static const char *hold_at = "";
static void (*announce_held) (const char *step);

void
step_hold_at(const char *step, void (*announce) (const char *step))
{
	hold_at = step;
	announce_held = announce;
}

void
step_reached(const char *step)
{
	if (hold_at[0] == '\0' || strcmp(step, hold_at) != 0)
		return;
	announce_held(step);
	for (;;)
		pause();
}
