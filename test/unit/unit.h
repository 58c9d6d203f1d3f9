/*
 * unit.h
 *	  What every unit test includes.
 */
#ifndef PGDR_UNIT_H
#define PGDR_UNIT_H

#include "postgres_fe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

/* cmocka is chatty about macros that c.h has too. */
#include <cmocka.h>

#include "core/error.h"

/* True, or the test fails with the error's words. */
#define assert_ok(call, err) \
	do { \
		if (!(call)) \
			fail_msg("%s: %s %s", #call, (err).message, (err).detail); \
	} while (0)

#endif							/* PGDR_UNIT_H */
