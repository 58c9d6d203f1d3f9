/*
 * s3_list.c
 *	  Listing and removing objects of the S3 store.
 *
 * A listing comes in pages.  Each page is parsed whole, sorted (a server gives
 * objects and common prefixes apart), and handed out.  Pages must advance: the
 * server's order is that of bytes, and one that repeats itself or goes back
 * would otherwise never end.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "net/xml.h"
#include "store/s3_private.h"

#define LIST_REPLY_MAX	(8 * 1024 * 1024)
#define REMOVE_AT_ONCE	1000

/* ---- a page ---- */

typedef struct Entry
{
	char	   *key;			/* whole; ends in '/' when it stands for what is below */
	uint64		size;
} Entry;

typedef struct Page
{
	Entry	   *entries;
	size_t		n;
	char		key[XML_TEXT_MAX];
	uint64		size;
	bool		is_listing;
	bool		truncated;
	bool		encoded;
	char		token[XML_TEXT_MAX];
} Page;

static void
page_free(Page *page)
{
	for (size_t i = 0; i < page->n; i++)
		free(page->entries[i].key);
	free(page->entries);
	free(page);
}

static void
add_entry(Page *page, const char *key, uint64 size)
{
	page->entries = array_room(page->entries, page->n, sizeof(Entry));
	page->entries[page->n++] = (Entry) {pg_strdup(key), size};
}

static bool
on_element(void *arg, const char *path, const char *text)
{
	Page	   *page = arg;

	if (strncmp(path, "/ListBucketResult", 17) != 0)
		return true;
	page->is_listing = true;
	path += 17;
	if (strcmp(path, "/Contents/Key") == 0)
		strlcpy(page->key, text, sizeof(page->key));
	else if (strcmp(path, "/Contents/Size") == 0)
		page->size = strtoull(text, NULL, 10);
	else if (strcmp(path, "/Contents") == 0)
	{
		add_entry(page, page->key, page->size);
		page->key[0] = '\0';
		page->size = 0;
	}
	else if (strcmp(path, "/CommonPrefixes/Prefix") == 0)
		add_entry(page, text, 0);
	else if (strcmp(path, "/IsTruncated") == 0)
		page->truncated = strcmp(text, "true") == 0;
	else if (strcmp(path, "/NextContinuationToken") == 0)
		strlcpy(page->token, text, sizeof(page->token));
	else if (strcmp(path, "/EncodingType") == 0)
		page->encoded = pg_strcasecmp(text, "url") == 0;
	return true;
}

static int
compare_entries(const void *a, const void *b)
{
	return strcmp(((const Entry *) a)->key, ((const Entry *) b)->key);
}

/* Undo the encoding that was asked for, since not every key is valid XML. */
static void
decode_keys(Page *page)
{
	for (size_t i = 0; page->encoded && i < page->n; i++)
	{
		char	   *key = page->entries[i].key;

		for (char *p = key; *p != '\0'; p++)
			if (*p == '+')
				*p = ' ';
		page->entries[i].key = url_decode(key);
		if (page->entries[i].key == NULL)	/* then it is a stranger as it stands */
			page->entries[i].key = key;
		else
			free(key);
	}
}

static bool
wrong_listing(Store *store, const char *why, DrError *err)
{
	dr_error(err, DR_IO, "could not list repository \"%s\": the server's answer is no listing", store->url);
	dr_detail(err, "Of the answer: %s.", why);
	return dr_hint(err, "Is the endpoint in the repository's URL an S3 server?");
}

/* One page, the first behind "after" or the one that token says; NULL: err is set. */
static Page *
fetch_page(Store *store, const char *prefix, const char *after, bool deep, const char *token, DrError *err)
{
	Page	   *page = NULL;
	HttpReply	reply = {0};
	S3Call		call = {.verb = "list", .method = "GET", .reply_max = LIST_REPLY_MAX,
		.query = {{"list-type", "2"}, {"encoding-type", "url"}, {"max-keys", "1000"},
	{"prefix", prefix}}};
	const char *why = "it is another document";
	int			n = 4;

	if (!deep)
		call.query[n++] = (SignPair) {"delimiter", "/"};
	if (after[0] != '\0')
		call.query[n++] = (SignPair) {"start-after", after};
	if (token[0] != '\0')
		call.query[n++] = (SignPair) {"continuation-token", token};
	if (s3_call(store, &call, &reply, err) == S3_DONE)
	{
		page = pg_malloc0(sizeof(*page));
		if (!xml_scan(reply.body.data, reply.body.len, on_element, page, &why) || !page->is_listing)
		{
			wrong_listing(store, why, err);
			page_free(page);
			page = NULL;
		}
	}
	http_reply_free(&reply);
	if (page != NULL)
	{
		decode_keys(page);
		if (page->n > 1)
			qsort(page->entries, page->n, sizeof(Entry), compare_entries);
	}
	return page;
}

/* ---- listing ---- */

static bool
hand_out(Store *store, const Entry *entry, const char *prefix, StoreListFn fn, void *arg, DrError *err)
{
	const char *root = s3_of(store)->prefix;
	size_t		n_root = strlen(root);
	const char *name = entry->key + n_root;
	size_t		n;
	ObjectName	bare;

	/* A console's "folder" is an object with the prefix as its name. */
	if (strcmp(entry->key, prefix) == 0)
		return true;
	if (strncmp(entry->key, prefix, strlen(prefix)) != 0)
		return wrong_listing(store, "it holds keys that were not asked for", err);
	n = strlen(name);
	strlcpy(bare, name, sizeof(bare));
	if (n > 0 && n <= PGDR_OBJECT_NAME_MAX && name[n - 1] == '/')
		bare[n - 1] = '\0';
	if (n > PGDR_OBJECT_NAME_MAX || !name_valid(bare))
	{
		store->strangers++;		/* T3 */
		return true;
	}
	return fn(arg, name, entry->size, err);
}

static bool
hand_out_page(Store *store, const Page *page, const char *prefix, const char *after, bool deep,
			  StoreListFn fn, void *arg, DrError *err)
{
	for (size_t i = 0; i < page->n; i++)
	{
		const char *key = page->entries[i].key;

		/* A server may not know start-after. */
		if (strcmp(key, after) <= 0 && after[0] != '\0')
			continue;
		/* Seen deep, a name that ends in a slash is an object that a console made. */
		if (deep && key[0] != '\0' && key[strlen(key) - 1] == '/')
			continue;
		if (!hand_out(store, &page->entries[i], prefix, fn, arg, err))
			return false;
	}
	return true;
}

bool
s3_list(Store *store, const char *prefix, const char *after, bool deep, StoreListFn fn, void *arg,
		DrError *err)
{
	char		whole[S3_KEY_MAX + 1];
	char		behind[S3_KEY_MAX + 1] = "";
	char	   *last = pg_strdup("");
	char		token[XML_TEXT_MAX] = "";
	bool		more = true;
	bool		ok = true;

	snprintf(whole, sizeof(whole), "%s%s", s3_of(store)->prefix, prefix);
	if (after[0] != '\0')
		snprintf(behind, sizeof(behind), "%s%s", s3_of(store)->prefix, after);
	while (ok && more)
	{
		Page	   *page = fetch_page(store, whole, behind, deep, token, err);

		ok = page != NULL;
		if (!ok)
			break;
		more = page->truncated;
		if (page->n > 0 && strcmp(page->entries[0].key, last) <= 0 && last[0] != '\0')
			ok = wrong_listing(store, "it does not advance from page to page", err);
		else if (more && (page->n == 0 || page->token[0] == '\0'))
			ok = wrong_listing(store, "it says that more follows, but not where", err);
		else
			ok = hand_out_page(store, page, whole, behind, deep, fn, arg, err);
		strlcpy(token, page->token, sizeof(token));
		if (page->n > 0)
		{
			free(last);
			last = pg_strdup(page->entries[page->n - 1].key);
		}
		page_free(page);
	}
	free(last);
	return ok;
}

/* ---- removing ---- */

static void
append_text(Bytes *b, const char *text)
{
	bytes_append(b, text, strlen(text));
}

/* Names and prefixes are of a grammar without anything to escape. */
static void
remove_request(const S3 *s3, const char *const *names, size_t n, Bytes *out)
{
	append_text(out, "<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Quiet>true</Quiet>");
	for (size_t i = 0; i < n; i++)
	{
		append_text(out, "<Object><Key>");
		append_text(out, s3->prefix);
		append_text(out, names[i]);
		append_text(out, "</Key></Object>");
	}
	append_text(out, "</Delete>");
}

static bool
remove_one(Store *store, const char *name, DrError *err)
{
	S3Call		call = {.verb = "remove", .method = "DELETE", .name = name};
	HttpReply	reply = {0};
	S3Result	r = s3_call(store, &call, &reply, err);

	http_reply_free(&reply);
	return r == S3_DONE || r == S3_ABSENT;
}

/* The errors within a reply that says 200, but for objects that are gone already. */
typedef struct RemoveErrors
{
	char		key[XML_TEXT_MAX];
	char		code[64];
	char		message[256];
	bool		found;
} RemoveErrors;

static bool
on_remove_element(void *arg, const char *path, const char *text)
{
	RemoveErrors *e = arg;

	if (strcmp(path, "/DeleteResult/Error/Key") == 0)
		strlcpy(e->key, text, sizeof(e->key));
	else if (strcmp(path, "/DeleteResult/Error/Code") == 0)
		strlcpy(e->code, text, sizeof(e->code));
	else if (strcmp(path, "/DeleteResult/Error/Message") == 0)
		strlcpy(e->message, text, sizeof(e->message));
	else if (strcmp(path, "/DeleteResult/Error") == 0)
		e->found = strcmp(e->code, "NoSuchKey") != 0;
	return !e->found;
}

static bool
remove_batch(Store *store, const char *const *names, size_t n, DrError *err)
{
	char		md5[S3_MD5_SIZE];
	char		hex[33];
	Bytes		body = {0};
	HttpReply	reply = {0};
	S3Call		call = {.verb = "remove objects from", .method = "POST", .query = {{"delete", ""}}};
	RemoveErrors errors = {0};
	const char *why;
	bool		ok;

	remove_request(s3_of(store), names, n, &body);
	s3_content_md5(body.data, body.len, md5, hex);
	call.body = body.data;
	call.body_length = body.len;
	call.headers[0] = (SignPair) {"content-md5", md5};
	call.headers[1] = (SignPair) {"content-type", "application/xml"};
	ok = s3_call(store, &call, &reply, err) == S3_DONE;
	if (ok)
		xml_scan(reply.body.data, reply.body.len, on_remove_element, &errors, &why);
	if (errors.found)
	{
		S3Answer	answer = {.status = reply.status};
		size_t		n_root = strlen(s3_of(store)->prefix);

		strlcpy(answer.code, errors.code, sizeof(answer.code));
		strlcpy(answer.message, errors.message, sizeof(answer.message));
		call.verb = "remove";
		call.name = strlen(errors.key) > n_root ? errors.key + n_root : errors.key;
		ok = s3_error(store, &call, &answer, err) == S3_DONE;
	}
	bytes_free(&body);
	http_reply_free(&reply);
	return ok;
}

bool
s3_remove(Store *store, const char *const *names, size_t n, DrError *err)
{
	bool		ok = true;

	if (n == 1)
		return remove_one(store, names[0], err);
	for (size_t i = 0; ok && i < n; i += REMOVE_AT_ONCE)
		ok = remove_batch(store, names + i, Min(n - i, REMOVE_AT_ONCE), err);
	return ok;
}
