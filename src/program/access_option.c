/*
 * access_option.c
 *	  The options that every command with a repository takes; with nothing of
 *	  what they are needed for (wal_ask.h).
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/access.h"

bool
access_option(Access *a, int option, const char *value)
{
	if (option == OPT_REPOSITORY)
		a->url = value;
	else if (option == OPT_KEY_FILE)
		a->key_file = value;
	else if (option == OPT_CREDENTIALS_FILE)
		a->credentials_file = value;
	else if (option == OPT_SYSTEM_IDENTIFIER)
		a->system_identifier = value;
	else
		return false;
	return true;
}
