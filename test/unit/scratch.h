/*
 * scratch.h
 *	  A directory for a test's repositories, removed when it ends.
 */
#ifndef PGDR_SCRATCH_H
#define PGDR_SCRATCH_H

#include <sys/stat.h>

#include "flow/repository.h"

static char top[64];

static int
make_top(void **state)
{
	strcpy(top, "/tmp/pgdr_t_unit.XXXXXX");
	return mkdtemp(top) == NULL ? -1 : 0;
}

static int
remove_top(void **state)
{
	char		command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", top);
	return system(command);
}

/* An empty one of its own in it. */
static inline Repository
new_repository(void)
{
	static int	n;
	Repository	repo;
	DrError		err;
	char		url[96];
	RepositoryAccess access = {.url = url,.key_file = "none"};

	snprintf(url, sizeof(url), "file://%s/%d", top, n++);
	assert_int_equal(mkdir(url + 7, 0700), 0);
	assert_ok(repository_open(&repo, &access, true, &err), err);
	return repo;
}

#endif							/* PGDR_SCRATCH_H */
