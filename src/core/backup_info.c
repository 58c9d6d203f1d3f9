/*
 * backup_info.c
 *	  First and last record of a manifest as JSON.
 *
 * One table says which key belongs to which member, for both directions.
 *
 * Copyright (c) 2026, pg_dr contributors
 */
#include "core/backup_info.h"

typedef enum FieldType
{
	F_TEXT,						/* char *, may be null */
	F_TEXT_REQUIRED,			/* char * */
	F_ID,						/* char array: backup id */
	F_KIND,						/* char array: full, incremental */
	F_SYSID,					/* char array */
	F_U32,
	F_U64,
	F_BOOL,
	F_LSN,
	F_TIME
} FieldType;

typedef struct Field
{
	const char *key;
	FieldType	type;
	size_t		offset;
} Field;

#define FIELD(name, type)	{#name, type, offsetof(BackupInfo, name)}

static const Field begin_fields[] = {
	FIELD(id, F_ID),
	FIELD(kind, F_KIND),
	FIELD(label, F_TEXT),
	FIELD(system_identifier, F_SYSID),
	FIELD(server_version_num, F_U32),
	FIELD(control_version, F_U32),
	FIELD(catalog_version, F_U32),
	FIELD(block_size, F_U32),
	FIELD(segment_blocks, F_U32),
	FIELD(wal_segment_size, F_U32),
	FIELD(data_checksums, F_BOOL),
	FIELD(timeline, F_U32),
	FIELD(start_lsn, F_LSN),
	FIELD(started_at, F_TIME),
	FIELD(data_directory, F_TEXT_REQUIRED),
	FIELD(config_directory, F_TEXT),
	FIELD(host, F_TEXT),
	FIELD(parent, F_TEXT),
	FIELD(lineage, F_U32),
};

static const Field end_fields[] = {
	FIELD(stop_lsn, F_LSN),
	FIELD(stop_timeline, F_U32),
	FIELD(stopped_at, F_TIME),
	FIELD(files, F_U64),
	FIELD(directories, F_U64),
	FIELD(frames, F_U64),
	FIELD(bytes, F_U64),
	FIELD(bytes_read, F_U64),
	FIELD(bytes_changed, F_U64),
	FIELD(bytes_stored, F_U64),
	FIELD(packs, F_U64),
	FIELD(bytes_referenced, F_U64),
	FIELD(inherited_packs, F_U64),
	FIELD(restore_bytes, F_U64),
	FIELD(restore_requests, F_U64),
	FIELD(corrupt_pages, F_U64),
	FIELD(full_scan, F_TEXT),
};

/* Too long, or nobody else's business, for a summary. */
static const Field text_fields[] = {
	FIELD(backup_label, F_TEXT_REQUIRED),
	FIELD(tablespace_map, F_TEXT),
};

static json_t *
field_encode(const void *member, FieldType type)
{
	char		text[64];

	switch (type)
	{
		case F_TEXT:
		case F_TEXT_REQUIRED:
			return *(char *const *) member ? json_string(*(char *const *) member) : json_null();
		case F_ID:
		case F_KIND:
		case F_SYSID:
			return json_string(member);
		case F_U32:
			return json_integer(*(const uint32 *) member);
		case F_U64:
			return json_integer((json_int_t) *(const uint64 *) member);
		case F_BOOL:
			return json_boolean(*(const bool *) member);
		case F_LSN:
			lsn_format(text, *(const XLogRecPtr *) member);
			return json_string(text);
		case F_TIME:
			time_format(text, *(const int64 *) member);
			return json_string(text);
	}
	return NULL;
}

static bool
text_decode(json_t *value, char *member, FieldType type)
{
	const char *text = json_string_value(value);

	if (text == NULL)
		return false;
	switch (type)
	{
		case F_ID:
			return backup_id_valid(text) && strcpy(member, text);
		case F_KIND:
			return (strcmp(text, "full") == 0 || strcmp(text, "incremental") == 0) &&
				strcpy(member, text);
		case F_SYSID:
			return system_identifier_valid(text) && strcpy(member, text);
		case F_LSN:
			return lsn_parse(text, (XLogRecPtr *) member);
		case F_TIME:
			return time_parse(text, (int64 *) member);
		default:
			free(*(char **) member);
			*(char **) member = pg_strdup(text);
			return true;
	}
}

static bool
field_decode(json_t *value, void *member, FieldType type)
{
	json_int_t	n = json_integer_value(value);

	switch (type)
	{
		case F_U32:
			*(uint32 *) member = (uint32) n;
			return json_is_integer(value) && n >= 0 && n <= PG_UINT32_MAX;
		case F_U64:
			*(uint64 *) member = (uint64) n;
			return json_is_integer(value) && n >= 0;
		case F_BOOL:
			*(bool *) member = json_is_true(value);
			return json_is_boolean(value);
		case F_TEXT:
			return json_is_null(value) || text_decode(value, member, type);
		default:
			return text_decode(value, member, type);
	}
}

static void
fields_encode(json_t *object, const BackupInfo *info, const Field *fields, int n)
{
	for (int i = 0; i < n; i++)
	{
		json_t	   *value = field_encode((const char *) info + fields[i].offset, fields[i].type);

		/* A path or label that is not UTF-8 has no JSON form. */
		json_object_set_new(object, fields[i].key, value ? value : json_string("?"));
	}
}

static bool
fields_decode(json_t *object, BackupInfo *info, const Field *fields, int n)
{
	for (int i = 0; i < n; i++)
	{
		json_t	   *value = json_object_get(object, fields[i].key);

		if (!field_decode(value, (char *) info + fields[i].offset, fields[i].type))
			return false;
	}
	return true;
}

static char *
object_text(json_t *object)
{
	char	   *text = json_dumps(object, JSON_COMPACT);

	json_decref(object);
	return text;
}

char *
backup_info_begin_json(const BackupInfo *info)
{
	json_t	   *object = json_object();

	fields_encode(object, info, begin_fields, lengthof(begin_fields));
	json_object_set_new(object, "program_version", json_string(PGDR_VERSION));
	return object_text(object);
}

char *
backup_info_end_json(const BackupInfo *info)
{
	json_t	   *object = json_object();

	fields_encode(object, info, end_fields, lengthof(end_fields));
	fields_encode(object, info, text_fields, lengthof(text_fields));
	return object_text(object);
}

/* Sizes that others compute with: refuse what no server has. */
static bool
sizes_sane(const BackupInfo *info)
{
	uint32		ws = info->wal_segment_size;

	return info->block_size == BLCKSZ && info->segment_blocks > 0 &&
		ws >= 1024 * 1024 && ws <= 1024 * 1024 * 1024 && (ws & (ws - 1)) == 0 &&
		info->timeline > 0 && info->lineage > 0;
}

/* Only an incremental backup has a parent, and that is another one. */
static bool
parent_sane(const BackupInfo *info)
{
	return info->parent == NULL ||
		(backup_id_valid(info->parent) && strcmp(info->parent, info->id) != 0 && strcmp(info->kind, "incremental") == 0);
}

bool
backup_info_parse_begin(BackupInfo *info, const char *text, size_t n)
{
	json_t	   *object = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
	bool		ok = fields_decode(object, info, begin_fields, lengthof(begin_fields)) &&
		sizes_sane(info) && parent_sane(info);

	json_decref(object);
	return ok;
}

bool
backup_info_parse_end(BackupInfo *info, const char *text, size_t n)
{
	json_t	   *object = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
	bool		ok = fields_decode(object, info, end_fields, lengthof(end_fields)) &&
		fields_decode(object, info, text_fields, lengthof(text_fields)) &&
		info->stop_timeline > 0 && info->stop_lsn >= info->start_lsn;

	json_decref(object);
	return ok;
}

json_t *
backup_info_summary(const BackupInfo *info)
{
	json_t	   *object = json_object();

	fields_encode(object, info, begin_fields, lengthof(begin_fields));
	fields_encode(object, info, end_fields, lengthof(end_fields));
	json_object_set_new(object, "state", json_string(info->corrupt_pages > 0 ?
													 "completed with corruption" : "completed"));
	return object;
}

void
backup_info_free(BackupInfo *info)
{
	free(info->label);
	free(info->data_directory);
	free(info->config_directory);
	free(info->host);
	free(info->parent);
	free(info->full_scan);
	free(info->backup_label);
	free(info->tablespace_map);
	memset(info, 0, sizeof(*info));
}
