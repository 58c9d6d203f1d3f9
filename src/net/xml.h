/*
 * xml.h
 *	  Reading the small XML documents that web services answer with.
 *
 * Replies are hostile: entity and document type declarations are refused, depth
 * and texts are bounded.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#ifndef PGDR_XML_H
#define PGDR_XML_H

#include "core/error.h"

#define XML_PATH_MAX	256
#define XML_TEXT_MAX	4096

/*
 * Called at the end of every element, with its path ("/ListBucketResult/Contents/Key",
 * without namespace prefixes) and the text directly in it.  Return false to stop.
 */
typedef bool (*XmlFn) (void *arg, const char *path, const char *text);

/* False: it is not such a document, and why holds a clause that says what is wrong. */
extern bool xml_scan(const void *data, size_t n, XmlFn fn, void *arg, const char **why);

/* The text of the first element with this path, into out; false when there is none. */
extern bool xml_text(const void *data, size_t n, const char *path, char *out, size_t size);

#endif							/* PGDR_XML_H */
