/*
 * generations.h
 *	  The newest of numbered objects: keys/00000001, lineage/00000001, ...
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_GENERATIONS_H
#define PGDR_GENERATIONS_H

#include "store/store.h"

typedef struct Newest
{
	uint32		generation;		/* 0: there is none */
	ObjectName	name;
	Bytes		raw;			/* as stored; the caller frees it */
} Newest;

/*
 * What has the highest number below prefix ("keys/").  One round trip while
 * there is only the first: it is fetched while the listing is under way.
 */
extern bool newest_generation(Store *store, const char *prefix, size_t max, Newest *out, DrError *err);

#endif							/* PGDR_GENERATIONS_H */
