/*
 * page.c
 *	  File classes and page verdicts.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/page.h"

#include <ctype.h>

#include "storage/bufpage.h"

/*
 * The checksum is eight-way parallel by design; let the compiler use what the
 * processor has.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("O3,unroll-loops")
#define WIDE __attribute__((target_clones("avx2", "default"), flatten))
#else
#define WIDE
#endif

/* The server's own algorithm; this is its one copy in the program. */
#include "storage/checksum.h"
#include "storage/checksum_impl.h"

static WIDE uint16
page_checksum(char *page, BlockNumber block)
{
	return pg_checksum_page(page, block);
}

bool
temp_relation_name(const char *name)
{
	const char *p = name;

	if (*p++ != 't' || !isdigit((unsigned char) *p))
		return false;
	p += strspn(p, "0123456789");
	if (*p++ != '_' || !isdigit((unsigned char) *p))
		return false;
	p += strspn(p, "0123456789");
	return *p == '\0' || *p == '_' || *p == '.';
}

bool
relation_file_parse(const char *name, RelationFile *out)
{
	static const struct
	{
		const char *suffix;
		FileClass	fork;
	}			forks[] = {{"_fsm", FILE_FSM}, {"_vm", FILE_VM}, {"_init", FILE_INIT}};
	const char *p;
	int			digits = (int) strspn(name, "0123456789");

	if (digits < 1 || digits > 10 || name[0] == '0')
		return false;
	out->fork = FILE_MAIN;
	out->segment = 0;
	out->oid_digits = digits;
	p = name + digits;
	for (int i = 0; i < (int) lengthof(forks); i++)
	{
		size_t		n = strlen(forks[i].suffix);

		if (strncmp(p, forks[i].suffix, n) == 0)
		{
			out->fork = forks[i].fork;
			p += n;
			break;
		}
	}
	if (*p == '.')
	{
		size_t		n = strspn(p + 1, "0123456789");

		if (n < 1 || n > 9 || p[1] == '0')
			return false;
		out->segment = (uint32) strtoul(p + 1, NULL, 10);
		p += 1 + n;
	}
	return *p == '\0';
}

/* Digits up to the next slash or the end. */
static const char *
skip_number(const char *p)
{
	size_t		n = strspn(p, "0123456789");

	return n > 0 ? p + n : NULL;
}

bool
relation_directory(const char *dir)
{
	const char *p;

	if (strcmp(dir, "global") == 0)
		return true;
	if (strncmp(dir, "base/", 5) == 0)
		return (p = skip_number(dir + 5)) != NULL && *p == '\0';
	/* pg_tblspc/<oid>/PG_15_202209061/<database> */
	if (strncmp(dir, "pg_tblspc/", 10) != 0)
		return false;
	p = strstr(dir, "/PG_");
	if (p == NULL || (p = strchr(p + 1, '/')) == NULL)
		return false;
	return (p = skip_number(p + 1)) != NULL && *p == '\0';
}

static bool
all_zero(const char *page)
{
	const uint64 *words = (const uint64 *) page;

	for (int i = 0; i < (int) (BLCKSZ / sizeof(uint64)); i++)
		if (words[i] != 0)
			return false;
	return true;
}

static bool
header_sane(const PageHeaderData *h)
{
	return (h->pd_flags & ~PD_VALID_FLAG_BITS) == 0 &&
		h->pd_lower <= h->pd_upper && h->pd_upper <= h->pd_special &&
		h->pd_special <= BLCKSZ && h->pd_special == MAXALIGN(h->pd_special);
}

PageVerdict
page_judge(char *page, uint32 block, bool checksums, XLogRecPtr start_lsn,
		   uint16 *expected, uint16 *found, XLogRecPtr *lsn, bool *sound)
{
	PageHeader	h = (PageHeader) page;

	/* pd_upper of 0 alone does not make a page new. */
	if (h->pd_upper == 0 && all_zero(page))
		return PAGE_OK;
	*lsn = PageXLogRecPtrGet(h->pd_lsn);
	*found = h->pd_checksum;
	*expected = checksums && h->pd_upper != 0 ? page_checksum(page, block) : *found;
	*sound = *expected == *found && h->pd_upper != 0 && header_sane(h);
	if (*lsn > start_lsn)
		return PAGE_NEW_LSN;
	return *sound ? PAGE_OK : PAGE_CORRUPT;
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
