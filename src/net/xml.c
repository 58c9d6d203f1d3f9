/*
 * xml.c
 *	  Reading the small XML documents that web services answer with, by expat.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "net/xml.h"

#include <expat.h>
#include <limits.h>

typedef struct Scan
{
	XML_Parser	parser;
	XmlFn		fn;
	void	   *arg;
	const char *why;
	char		path[XML_PATH_MAX];
	size_t		path_length;
	char		text[XML_TEXT_MAX];
	size_t		text_length;
} Scan;

static void
stop(Scan *s, const char *why)
{
	if (s->why == NULL)
		s->why = why;
	XML_StopParser(s->parser, XML_FALSE);
}

static const char *
local_name(const char *name)
{
	const char *colon = strrchr(name, ':');

	return colon ? colon + 1 : name;
}

static void XMLCALL
on_start(void *arg, const XML_Char *name, const XML_Char **attributes)
{
	Scan	   *s = arg;
	size_t		n = strlen(local_name(name));

	if (s->path_length + n + 2 > sizeof(s->path))
	{
		stop(s, "its elements are nested too deep");
		return;
	}
	s->path[s->path_length] = '/';
	memcpy(s->path + s->path_length + 1, local_name(name), n + 1);
	s->path_length += n + 1;
	s->text_length = 0;
}

static void XMLCALL
on_text(void *arg, const XML_Char *text, int n)
{
	Scan	   *s = arg;

	if (s->text_length + n >= sizeof(s->text))
	{
		stop(s, "a text in it is too long");
		return;
	}
	memcpy(s->text + s->text_length, text, n);
	s->text_length += n;
}

static void XMLCALL
on_end(void *arg, const XML_Char *name)
{
	Scan	   *s = arg;

	s->text[s->text_length] = '\0';
	if (!s->fn(s->arg, s->path, s->text))
		stop(s, "stopped");
	s->path_length -= strlen(local_name(name)) + 1;
	s->path[s->path_length] = '\0';
	s->text_length = 0;
}

static void XMLCALL
on_doctype(void *arg, const XML_Char *name, const XML_Char *sysid, const XML_Char *pubid, int subset)
{
	stop(arg, "it has a document type declaration");
}

bool
xml_scan(const void *data, size_t n, XmlFn fn, void *arg, const char **why)
{
	Scan	   *s = pg_malloc0(sizeof(*s));
	bool		ok;

	s->fn = fn;
	s->arg = arg;
	s->parser = XML_ParserCreate(NULL);
	*why = "there is no memory for it";
	ok = s->parser != NULL && n <= INT_MAX;
	if (ok)
	{
		XML_SetUserData(s->parser, s);
		XML_SetElementHandler(s->parser, on_start, on_end);
		XML_SetCharacterDataHandler(s->parser, on_text);
		XML_SetStartDoctypeDeclHandler(s->parser, on_doctype);
		ok = XML_Parse(s->parser, data, (int) n, 1) == XML_STATUS_OK;
		*why = s->why ? s->why : "it is not well-formed XML";
	}
	if (s->parser != NULL)
		XML_ParserFree(s->parser);
	free(s);
	return ok;
}

typedef struct Wanted
{
	const char *path;
	char	   *out;
	size_t		size;
	bool		found;
} Wanted;

static bool
take_text(void *arg, const char *path, const char *text)
{
	Wanted	   *w = arg;

	if (strcmp(path, w->path) != 0)
		return true;
	strlcpy(w->out, text, w->size);
	w->found = true;
	return false;
}

bool
xml_text(const void *data, size_t n, const char *path, char *out, size_t size)
{
	Wanted		w = {path, out, size, false};
	const char *why;

	xml_scan(data, n, take_text, &w, &why);
	return w.found;
}
