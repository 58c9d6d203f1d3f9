/*
 * keyring.c
 *	  Key files, repository.json and the keyring.
 *
 * The one idea: data is sealed with epoch keys, epoch keys with a file key,
 * and the file key once per recipient; so a change of recipient rewrites one
 * small object, never data.  Memory only: a crash leaves nothing behind.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/keyring.h"

#include <openssl/crypto.h>
#include <time.h>

#define MAGIC			"PGDRKEYS"
#define KEY_PREFIX		"pgdr-key-1-"
#define STANZA			128
#define STANZA_MAX		16
#define WRAPPED			104
#define EPOCH			48

StaticAssertDecl(WRAPPED == SEAL_PREFIX + SEAL_KEY + SEAL_TAG, "a sealed key");

enum
{
	STANZA_CLEAR = 0,
	STANZA_KEY_FILE = 1
};

/* ---- key files ---- */

static void
labelled_hash(const char *label, const uint8 key[SEAL_KEY], uint8 *out, size_t n)
{
	uint8		buf[64];
	uint8		hash[32];
	size_t		len = strlen(label);

	memcpy(buf, label, len);
	memcpy(buf + len, key, SEAL_KEY);
	sha256(buf, len + SEAL_KEY, hash);
	memcpy(out, hash, n);
	OPENSSL_cleanse(buf, sizeof(buf));
}

/* "pgdr-key-1-<64 hex>-<8 hex>", n characters. */
static bool
key_line_parse(const char *line, size_t n, Recipient *out)
{
	const char *hex = line + strlen(KEY_PREFIX);
	uint8		check[4];
	uint8		expected[4];

	if (n != strlen(KEY_PREFIX) + 64 + 1 + 8 ||
		strncmp(line, KEY_PREFIX, strlen(KEY_PREFIX)) != 0 ||
		!hex_decode(hex, out->key, SEAL_KEY) || hex[64] != '-' || !hex_decode(hex + 65, check, 4))
		return false;
	labelled_hash("pg_dr/1 key file", out->key, expected, 4);
	return memcmp(check, expected, 4) == 0;
}

bool
key_file_parse(const char *text, const char *file, Recipient *out, DrError *err)
{
	int			found = 0;

	memset(out, 0, sizeof(*out));
	for (const char *line = text; *line != '\0';)
	{
		size_t		n = strcspn(line, "\r\n");

		if (n > 0 && line[0] != '#' && (found++ > 0 || !key_line_parse(line, n, out)))
		{
			dr_error(err, DR_KEY, "key file \"%s\" is not a pg_dr key file", file);
			dr_detail(err, "It must hold exactly one line pgdr-key-1-..., whose check digits must fit.");
			return dr_hint(err, "Restore the key file from where you keep its copy.");
		}
		line += n;
		line += strspn(line, "\r\n");
	}
	if (found == 0)
	{
		dr_error(err, DR_KEY, "key file \"%s\" holds no key", file);
		return dr_hint(err, "Create one with: pg_dr key generate FILE");
	}
	labelled_hash("pg_dr/1 recipient", out->key, out->id, sizeof(out->id));
	return true;
}

void
key_file_generate(char *out)
{
	uint8		key[SEAL_KEY];
	uint8		check[4];
	char	   *p = out + strlen(KEY_PREFIX);

	random_bytes(key, sizeof(key));
	labelled_hash("pg_dr/1 key file", key, check, 4);
	strcpy(out, KEY_PREFIX);
	hex_encode(key, sizeof(key), p);
	p[64] = '-';
	hex_encode(check, sizeof(check), p + 65);
	OPENSSL_cleanse(key, sizeof(key));
}

/* ---- keyring ---- */

/* header || stanza's first 16 bytes, behind the label */
static size_t
wrap_context(const uint8 *header, const uint8 *stanza, uint8 *out)
{
	memcpy(out, "pg_dr/1 wrap", 12);
	memcpy(out + 12, header, SEAL_HEADER);
	memcpy(out + 12 + SEAL_HEADER, stanza, 16);
	return 12 + SEAL_HEADER + 16;
}

static void
payload_context(const uint8 *front, size_t front_n, const char *name, Bytes *out)
{
	bytes_append(out, "pg_dr/1 keyring", 15);
	bytes_append(out, front, front_n);
	bytes_append(out, name, strlen(name));
}

static bool
stanza_create(const uint8 *header, const Recipient *recipient, const uint8 *file_key,
			  uint8 stanza[STANZA], DrError *err)
{
	uint8		context[128];

	memset(stanza, 0, STANZA);
	if (recipient->none)
	{
		stanza[0] = STANZA_CLEAR;
		memcpy(stanza + 16, file_key, SEAL_KEY);
		return true;
	}
	stanza[0] = STANZA_KEY_FILE;
	memcpy(stanza + 8, recipient->id, 8);
	return message_seal(recipient->key, NULL, context, wrap_context(header, stanza, context),
						file_key, SEAL_KEY, stanza + 16, err);
}

bool
keyring_create(const uint8 repository_id[16], const Recipient *recipient,
			   uint32 generation, Bytes *out, DrError *err)
{
	uint8		front[SEAL_HEADER + STANZA] = {0};
	uint8		file_key[SEAL_KEY];
	uint8		epoch[EPOCH];
	size_t		payload = sealed_size(EPOCH);
	int64		now = time_now();
	Bytes		context = {0};
	ObjectName	name;
	bool		ok;

	memcpy(front, MAGIC, 8);
	front[8] = 1;
	put_u32(front + 12, generation);
	memcpy(front + 16, repository_id, 16);
	put_u32(front + 32, 1);
	put_u32(front + 36, (uint32) payload);
	put_u64(front + 40, (uint64) now);

	random_bytes(file_key, sizeof(file_key));
	random_bytes(epoch, 8);
	put_u64(epoch + 8, (uint64) now);
	random_bytes(epoch + 16, SEAL_KEY);

	name_keyring(name, generation);
	ok = stanza_create(front, recipient, file_key, front + SEAL_HEADER, err);
	payload_context(front, sizeof(front), name, &context);
	bytes_append(out, front, sizeof(front));
	bytes_reserve(out, payload);
	ok = ok && message_seal(file_key, NULL, context.data, context.len, epoch, EPOCH,
							out->data + out->len, err);
	out->len += payload;
	bytes_free(&context);
	OPENSSL_cleanse(file_key, sizeof(file_key));
	OPENSSL_cleanse(epoch, sizeof(epoch));
	return ok;
}

static bool
keyring_damaged(DrError *err, const char *name, const char *why)
{
	dr_error(err, DR_DAMAGED, "keyring \"%s\" is damaged", name);
	return dr_detail(err, "%s", why);
}

/* Shape of header and stanzas; what follows them is for the cipher to judge. */
static bool
front_check(const uint8 *data, size_t n, const char *name, const uint8 *repository_id,
			DrError *err)
{
	static const uint8 zero[80];
	uint32		stanzas;

	if (n < SEAL_HEADER || memcmp(data, MAGIC, 8) != 0 || data[8] != 1)
		return keyring_damaged(err, name, "It does not begin as a keyring does.");
	if (memcmp(data + 9, zero, 3) != 0 || memcmp(data + 48, zero, 16) != 0)
		return keyring_damaged(err, name, "Reserved bytes are set.");
	if (memcmp(data + 16, repository_id, 16) != 0)
	{
		keyring_damaged(err, name, "Its repository id is not the one in \"" REPOSITORY_OBJECT "\".");
		return dr_hint(err, "One of the two is damaged or comes from another repository.");
	}
	if (get_u32(data + 12) != name_generation(name))
		return keyring_damaged(err, name, "Its generation is not the one in its name.");
	stanzas = get_u32(data + 32);
	if (stanzas < 1 || stanzas > STANZA_MAX ||
		n != SEAL_HEADER + (size_t) stanzas * STANZA + get_u32(data + 36))
		return keyring_damaged(err, name, "Its length is not what its header says.");
	for (uint32 i = 0; i < stanzas; i++)
	{
		const uint8 *s = data + SEAL_HEADER + i * STANZA;

		if (s[0] > STANZA_KEY_FILE || memcmp(s + 1, zero, 7) != 0 || memcmp(s + 120, zero, 8) != 0 ||
			(s[0] == STANZA_CLEAR &&
			 (memcmp(s + 8, zero, 8) != 0 || memcmp(s + 16 + SEAL_KEY, zero, WRAPPED - SEAL_KEY) != 0)))
			return keyring_damaged(err, name, "A recipient's entry is malformed.");
	}
	return true;
}

static bool
no_stanza(const uint8 *data, const char *name, const Recipient *recipient, DrError *err)
{
	uint32		stanzas = get_u32(data + 32);
	char		ids[STANZA_MAX * 17 + 1] = "";
	char		own[17];

	if (recipient->none)
	{
		dr_error(err, DR_KEY, "the repository is encrypted, but no key file was given");
		return dr_hint(err, "Give the key file that was configured when the repository was created.");
	}
	for (uint32 i = 0; i < stanzas; i++)
	{
		const uint8 *s = data + SEAL_HEADER + i * STANZA;
		size_t		len = strlen(ids);

		if (s[0] != STANZA_KEY_FILE)
			continue;
		ids[len] = ' ';
		hex_encode(s + 8, 8, ids + len + 1);
	}
	if (ids[0] == '\0')
	{
		dr_error(err, DR_KEY, "the repository is not encrypted, but a key file was given");
		return dr_hint(err, "If that is intended, say \"none\" instead of a key file; "
					   "if not, somebody replaced the repository.");
	}
	hex_encode(recipient->id, 8, own);
	dr_error(err, DR_KEY, "wrong key: the key file does not open this repository");
	dr_detail(err, "The key's id is %s; \"%s\" is for:%s.", own, name, ids);
	return dr_hint(err, "Give the key file that was configured when the repository was created.");
}

static bool
file_key_open(const uint8 *data, const char *name, const Recipient *recipient,
			  uint8 file_key[SEAL_KEY], DrError *err)
{
	uint32		stanzas = get_u32(data + 32);

	for (uint32 i = 0; i < stanzas; i++)
	{
		const uint8 *s = data + SEAL_HEADER + i * STANZA;
		uint8		context[128];
		uint8		plain[WRAPPED];
		char		what[PGDR_OBJECT_NAME_MAX + 16];
		size_t		n;

		if (recipient->none && s[0] == STANZA_CLEAR)
		{
			memcpy(file_key, s + 16, SEAL_KEY);
			return true;
		}
		if (recipient->none || s[0] != STANZA_KEY_FILE || memcmp(s + 8, recipient->id, 8) != 0)
			continue;			/* K1 */
		snprintf(what, sizeof(what), "keyring \"%s\"", name);
		if (!message_open(recipient->key, context, wrap_context(data, s, context),
						  s + 16, WRAPPED, plain, &n, what, err))
			return false;
		memcpy(file_key, plain, SEAL_KEY);
		OPENSSL_cleanse(plain, sizeof(plain));
		return true;
	}
	return no_stanza(data, name, recipient, err);
}

bool
keyring_open(const uint8 *data, size_t n, const char *name, const uint8 repository_id[16],
			 const Recipient *recipient, Keyring *out, DrError *err)
{
	uint8		file_key[SEAL_KEY];
	size_t		front_n;
	size_t		plain_n;
	uint8	   *plain;
	Bytes		context = {0};
	char		what[PGDR_OBJECT_NAME_MAX + 16];
	bool		ok;

	if (!front_check(data, n, name, repository_id, err) ||
		!file_key_open(data, name, recipient, file_key, err))
		return false;
	front_n = SEAL_HEADER + (size_t) get_u32(data + 32) * STANZA;
	payload_context(data, front_n, name, &context);
	plain = pg_malloc(n);
	snprintf(what, sizeof(what), "keyring \"%s\"", name);
	ok = message_open(file_key, context.data, context.len, data + front_n, n - front_n,
					  plain, &plain_n, what, err);
	bytes_free(&context);
	if (ok && (plain_n == 0 || plain_n % EPOCH != 0 || plain_n / EPOCH > KEYRING_MAX_EPOCHS))
		ok = keyring_damaged(err, name, "It does not hold a whole number of keys.");
	if (ok)
	{
		memset(out, 0, sizeof(*out));
		out->generation = name_generation(name);
		memcpy(out->repository_id, repository_id, 16);
		out->n = (int) (plain_n / EPOCH);
		for (int i = 0; i < out->n; i++)
		{
			memcpy(out->epochs[i].id, plain + i * EPOCH, 8);
			out->epochs[i].created = (int64) get_u64(plain + i * EPOCH + 8);
			memcpy(out->epochs[i].key, plain + i * EPOCH + 16, SEAL_KEY);
		}
	}
	OPENSSL_cleanse(plain, n);
	OPENSSL_cleanse(file_key, sizeof(file_key));
	free(plain);
	return ok;
}

const EpochKey *
keyring_find(const Keyring *keyring, const uint8 id[8])
{
	for (int i = keyring->n - 1; i >= 0; i--)
		if (memcmp(keyring->epochs[i].id, id, 8) == 0)
			return &keyring->epochs[i];
	return NULL;
}

/* ---- repository.json ---- */

void
repository_text(const uint8 id[16], int64 created, char *out)
{
	char		hex[33];
	char		when[32];
	char		check[17];
	uint8		hash[32];
	struct tm	tm;
	time_t		t = (time_t) created;
	int			n;

	hex_encode(id, 16, hex);
	gmtime_r(&t, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	n = snprintf(out, REPOSITORY_TEXT_MAX,
				 "{\"pg_dr\":\"repository\",\"format\":1,\"id\":\"%s\",\"created\":\"%s\"", hex, when);
	sha256(out, n, hash);
	hex_encode(hash, 8, check);
	snprintf(out + n, REPOSITORY_TEXT_MAX - n, ",\"check\":\"%s\"}\n", check);
}

bool
repository_parse(const char *text, size_t n, uint8 id[16], DrError *err)
{
	static const char head[] = "{\"pg_dr\":\"repository\",\"format\":1,\"id\":\"";
	static const char middle[] = "\",\"created\":\"";
	const size_t id_at = sizeof(head) - 1;
	const size_t created_at = id_at + 32 + sizeof(middle) - 1;
	char		expected[REPOSITORY_TEXT_MAX];
	char		created[21] = "";
	int64		us;

	if (n > created_at + 20 && memcmp(text, head, id_at) == 0 && hex_decode(text + id_at, id, 16))
	{
		memcpy(created, text + created_at, 20);
		if (time_parse(created, &us))
		{
			repository_text(id, us / 1000000, expected);
			if (strlen(expected) == n && memcmp(expected, text, n) == 0)
				return true;
		}
	}
	dr_error(err, DR_DAMAGED, "object \"" REPOSITORY_OBJECT "\" is damaged");
	dr_detail(err, "It is not the text that identifies a pg_dr repository of format 1.");
	return dr_hint(err, "It was written once and never changes: bring back a copy of it.");
}
