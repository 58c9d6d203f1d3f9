-- A backup, seen from SQL.
SET client_min_messages = warning;
SELECT dr_backup('full', 'a label') AS id \gset
RESET client_min_messages;
SELECT kind, label, status, repository, duration IS NOT NULL AS timed, stop_lsn > start_lsn AS moved,
	files > 0 AS files, bytes > 0 AS bytes, bytes_stored > 0 AS stored, corrupt_pages, error
FROM dr_backups WHERE id = :'id';
SELECT regexp_replace(name, '^.*/', '') AS object, size > 0 AS size, length(sha256) AS sha256
FROM dr.object WHERE backup = :'id' AND name !~ 'pack-0000000[2-9]' ORDER BY name;
SELECT encode(sha256, 'hex') = encode(manifest_sha256, 'hex') AS same
FROM dr.object JOIN dr.backup ON backup.id = backup WHERE backup = :'id' AND name ~ '/manifest$';
-- its first and last segment are in the repository
SELECT count(*) FROM dr_wal_files, dr_backups AS b
WHERE b.id = :'id' AND file IN (pg_walfile_name(b.start_lsn), pg_walfile_name(b.stop_lsn));
SELECT count(*) FROM dr_progress;
SELECT concern, status FROM dr_status WHERE concern <> 'archiving';
-- it is what was stored
SELECT object, problem FROM dr_verify();
SELECT name, status FROM dr_check() WHERE name NOT IN ('fsync', 'archiving', 'archive_command');
-- it is not running any more
DO $$ BEGIN PERFORM dr_cancel(id) FROM dr_backups; EXCEPTION WHEN undefined_object THEN RAISE NOTICE 'refused'; END $$;
-- the kind is incremental unless said otherwise
SELECT dr_backup(label => 'an increment') ~ '-incremental-' AS made;
-- what the catalogue forgot, the repository knows
DELETE FROM dr.backup WHERE id = :'id';
SELECT what, name = :'id' AS it, detail FROM dr_sync() WHERE what <> 'WAL added';
SELECT label, status, requested_by FROM dr_backups WHERE id = :'id';
SELECT what FROM dr_sync() WHERE what <> 'WAL added';
-- what it remembers and the repository doesn't have is damage
UPDATE dr.object SET sha256 = '\x00' WHERE backup = :'id' AND name ~ '/manifest$';
INSERT INTO dr.backup (id, repository, system_identifier, kind, status, started_at)
	SELECT '20200101T000000Z-full-000000', 'main', system_identifier, 'full', 'completed', '2020-01-01' FROM pg_control_system();
INSERT INTO dr.wal_segment (repository, timeline, name, object, size)
	SELECT 'main', 1, '000000010000000000000000', system_identifier || '/wal/00000001/000000010000000000000000', 1 FROM pg_control_system();
SELECT what, regexp_replace(name, '^.*/', '') AS name, detail FROM dr_sync() WHERE what <> 'WAL added' ORDER BY what;
SELECT status, error FROM dr_backups WHERE id = '20200101T000000Z-full-000000';
