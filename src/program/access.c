/*
 * access.c
 *	  The repository and the cluster that a command's options name.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "program/access.h"

#include "flow/inventory.h"

bool
access_open(const Access *a, bool impatient, Repository *repo, DrError *err)
{
	RepositoryAccess access = {.url = a->url, .key_file = a->key_file, .credentials_file = a->credentials_file,
	.impatient = impatient, .list_top = impatient};

	return repository_open(repo, &access, false, err);
}

bool
access_open_for_recovery(const Access *a, bool wait, Repository *repo, DrError *err)
{
	if (!access_open(a, wait, repo, err))
		return false;
	if (wait)
		store_set_patience(repo->store, STORE_PATIENCE_PERSON);
	return true;
}

const char *
access_missing(const Access *a)
{
	if (a->url == NULL)
		return "--repository is required";
	if (a->key_file == NULL)
		return "--key-file is required (\"none\" for a repository without encryption)";
	if (a->system_identifier != NULL && !system_identifier_valid(a->system_identifier))
		return "--system-identifier must be a decimal number";
	return NULL;
}

bool
access_choose_system(const Access *a, Repository *repo, char *out, DrError *err)
{
	Listing		l;
	char		all[512] = "";
	bool		found = false;

	if (!inventory_systems(repo, &l, err))
		return false;
	for (size_t i = 0; i < l.n; i++)
	{
		size_t		len = strlen(all);

		snprintf(all + len, sizeof(all) - len, " %s", l.names[i]);
		if (a->system_identifier == NULL ? l.n == 1 : strcmp(a->system_identifier, l.names[i]) == 0)
		{
			strlcpy(out, l.names[i], 21);
			found = true;
		}
	}
	if (!found && l.n == 0)
		dr_error(err, DR_ABSENT, "repository \"%s\" holds no cluster yet", repo->store->url);
	else if (!found && a->system_identifier != NULL)
	{
		dr_error(err, DR_ABSENT, "repository \"%s\" holds nothing of cluster %s", repo->store->url, a->system_identifier);
		dr_detail(err, "It holds:%s.", all);
	}
	else if (!found)
	{
		dr_error(err, DR_CONFIG, "repository \"%s\" holds more than one cluster", repo->store->url);
		dr_detail(err, "They are:%s.", all);
		dr_hint(err, "Choose one with --system-identifier.");
	}
	listing_free(&l);
	return found;
}
