/* sql/pg_dr--1.0.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_dr" to load this file. \quit

-- Every object below is qualified; nobody's operators or functions but the server's get into a view.
SET LOCAL search_path TO pg_catalog, pg_temp;

--
-- The catalogue: an index of the repository.  It belongs to this cluster and can be
-- rebuilt by dr_sync(), so its rows are not dumped by pg_dump (no
-- pg_extension_config_dump): in another cluster they would be wrong.
--
CREATE SCHEMA dr;

CREATE TABLE dr.backup (
	id text PRIMARY KEY,
	repository text NOT NULL,
	system_identifier text NOT NULL,
	kind text NOT NULL CHECK (kind IN ('full', 'incremental')),
	label text,
	status text NOT NULL CHECK (status IN ('running', 'completed', 'completed with corruption',
		'failed', 'cancelled', 'interrupted', 'missing', 'damaged', 'expired')),
	requested_by text,
	started_at timestamptz NOT NULL,
	finished_at timestamptz,
	timeline bigint,
	start_lsn pg_lsn,
	stop_lsn pg_lsn,
	files bigint,
	bytes bigint,
	bytes_read bigint,
	bytes_changed bigint,
	bytes_stored bigint,
	bytes_referenced bigint,
	restore_bytes bigint,
	restore_requests bigint,
	packs bigint,
	parent text,
	full_scan text,
	manifest_sha256 bytea,
	corrupt_pages bigint,
	error text,
	verified_at timestamptz,
	verified_depth text,
	damaged_depth text
);
COMMENT ON TABLE dr.backup IS 'backups: one row each, from the moment the worker starts';
COMMENT ON COLUMN dr.backup.id IS 'name of the backup, also in the repository';
COMMENT ON COLUMN dr.backup.repository IS 'name of the repository in pg_dr.repositories';
COMMENT ON COLUMN dr.backup.system_identifier IS 'system identifier of the cluster';
COMMENT ON COLUMN dr.backup.kind IS 'full or incremental';
COMMENT ON COLUMN dr.backup.label IS 'what dr_backup was given';
COMMENT ON COLUMN dr.backup.status IS 'running, completed, completed with corruption, failed, cancelled, interrupted (the worker or server died), missing (not in the repository any more), damaged (its manifest can''t be opened, or dr_verify found it unsound: until it finds it sound again, nothing relies on it), expired (dr_expire removed it; packs that later backups need live on)';
COMMENT ON COLUMN dr.backup.requested_by IS 'role that called dr_backup; null when dr_sync found the backup';
COMMENT ON COLUMN dr.backup.started_at IS 'when the worker started';
COMMENT ON COLUMN dr.backup.finished_at IS 'when the manifest was durable, or the backup ended without';
COMMENT ON COLUMN dr.backup.timeline IS 'timeline at the start';
COMMENT ON COLUMN dr.backup.start_lsn IS 'recovery of this backup begins here';
COMMENT ON COLUMN dr.backup.stop_lsn IS 'recovery of this backup must reach at least this';
COMMENT ON COLUMN dr.backup.files IS 'files in the backup';
COMMENT ON COLUMN dr.backup.bytes IS 'bytes of these files';
COMMENT ON COLUMN dr.backup.bytes_read IS 'bytes that were read from the data directory';
COMMENT ON COLUMN dr.backup.bytes_changed IS 'bytes that had changed since the parent, as far as is known; what is copied whole counts whole';
COMMENT ON COLUMN dr.backup.bytes_stored IS 'bytes of the packs that it wrote';
COMMENT ON COLUMN dr.backup.bytes_referenced IS 'bytes that it uses of packs which earlier backups wrote';
COMMENT ON COLUMN dr.backup.restore_bytes IS 'bytes that a restore fetches, at most, without WAL';
COMMENT ON COLUMN dr.backup.restore_requests IS 'requests that a restore makes for them, at most';
COMMENT ON COLUMN dr.backup.packs IS 'packs written';
COMMENT ON COLUMN dr.backup.parent IS 'backup from which it takes what has not changed';
COMMENT ON COLUMN dr.backup.full_scan IS 'why an incremental backup read everything';
COMMENT ON COLUMN dr.backup.manifest_sha256 IS 'SHA-256 of the manifest as it is stored';
COMMENT ON COLUMN dr.backup.corrupt_pages IS 'pages whose checksum was wrong when they were read';
COMMENT ON COLUMN dr.backup.error IS 'why it is not completed';
COMMENT ON COLUMN dr.backup.verified_at IS 'when it was last found sound';
COMMENT ON COLUMN dr.backup.verified_depth IS 'and how deep dr_verify looked then: objects or pages';
COMMENT ON COLUMN dr.backup.damaged_depth IS 'how deep dr_verify looked when it found it unsound: only a verification of that depth takes it back';

CREATE TABLE dr.object (
	repository text NOT NULL,
	name text NOT NULL,
	size bigint NOT NULL,
	sha256 bytea,
	backup text NOT NULL REFERENCES dr.backup ON DELETE CASCADE,
	stored_at timestamptz NOT NULL,
	verified_at timestamptz,
	verified_depth text,
	PRIMARY KEY (repository, name)
);
CREATE INDEX object_backup_idx ON dr.object (backup);
COMMENT ON TABLE dr.object IS 'objects of backups, with the checksums against which the repository is held';
COMMENT ON COLUMN dr.object.repository IS 'name of the repository';
COMMENT ON COLUMN dr.object.name IS 'name of the object in the repository';
COMMENT ON COLUMN dr.object.size IS 'bytes as stored';
COMMENT ON COLUMN dr.object.sha256 IS 'SHA-256 as stored';
COMMENT ON COLUMN dr.object.backup IS 'backup that wrote it';
COMMENT ON COLUMN dr.object.stored_at IS 'when the catalogue learnt of it';
COMMENT ON COLUMN dr.object.verified_at IS 'when dr_verify last read it and found it sound; null when it has found it bad since';
COMMENT ON COLUMN dr.object.verified_depth IS 'and how deep it looked: objects or pages';

CREATE TABLE dr.wal_segment (
	repository text NOT NULL,
	timeline bigint NOT NULL,
	name text NOT NULL,
	object text NOT NULL,
	size bigint NOT NULL,
	sha256 bytea,
	archived_at timestamptz,
	ended_at timestamptz,
	problem text CHECK (problem IN ('missing', 'resized')),
	verified_at timestamptz,
	verified_depth text,
	PRIMARY KEY (repository, object)
);
COMMENT ON TABLE dr.wal_segment IS 'archived WAL files; the most recent ones may not be in it yet, view dr_wal_files has them all';
COMMENT ON COLUMN dr.wal_segment.repository IS 'name of the repository';
COMMENT ON COLUMN dr.wal_segment.timeline IS 'timeline, from the name';
COMMENT ON COLUMN dr.wal_segment.name IS 'name of the file: segment, timeline history, partial segment or backup history';
COMMENT ON COLUMN dr.wal_segment.object IS 'name of the object in the repository';
COMMENT ON COLUMN dr.wal_segment.size IS 'bytes as stored';
COMMENT ON COLUMN dr.wal_segment.sha256 IS 'SHA-256 as stored; null when only an inventory has seen it';
COMMENT ON COLUMN dr.wal_segment.archived_at IS 'when it was durable; null when only an inventory has seen it';
COMMENT ON COLUMN dr.wal_segment.ended_at IS 'when the server wrote to it last: what was committed later is in other segments; null when only an inventory has seen it';
COMMENT ON COLUMN dr.wal_segment.problem IS 'what the last inventory found: missing, or resized (it has another size than was stored); null: none';

COMMENT ON COLUMN dr.wal_segment.verified_at IS 'when dr_verify last read it and found it sound; null when it has found it bad since';
COMMENT ON COLUMN dr.wal_segment.verified_depth IS 'and how deep it looked: objects or pages';

CREATE TABLE dr.corrupt_page (
	backup text NOT NULL REFERENCES dr.backup ON DELETE CASCADE,
	path text NOT NULL,
	block bigint NOT NULL,
	expected integer NOT NULL,
	found integer NOT NULL,
	lsn pg_lsn NOT NULL,
	PRIMARY KEY (backup, path, block)
);
COMMENT ON TABLE dr.corrupt_page IS 'pages that were corrupt when a backup read them';
COMMENT ON COLUMN dr.corrupt_page.backup IS 'backup that found it';
COMMENT ON COLUMN dr.corrupt_page.path IS 'file, relative to the data directory';
COMMENT ON COLUMN dr.corrupt_page.block IS 'block of the relation, counted across its files';
COMMENT ON COLUMN dr.corrupt_page.expected IS 'checksum of the page''s content';
COMMENT ON COLUMN dr.corrupt_page.found IS 'checksum in the page''s header';
COMMENT ON COLUMN dr.corrupt_page.lsn IS 'LSN in the page''s header';

CREATE TABLE dr.probe (
	repository text NOT NULL,
	name text NOT NULL,
	status text NOT NULL CHECK (status IN ('ok', 'warning', 'critical')),
	detail text NOT NULL,
	hint text,
	probed_at timestamptz NOT NULL,
	PRIMARY KEY (repository, name)
);
COMMENT ON TABLE dr.probe IS 'how the store behaved when it was last probed: by dr_check(), or when the repository was created';
COMMENT ON COLUMN dr.probe.repository IS 'name of the repository';
COMMENT ON COLUMN dr.probe.name IS 'what was asked: create_only, create_only_race, ranged_read, list_after_put, remove; of S3 also content_md5, clock, object_lock, tls';
COMMENT ON COLUMN dr.probe.status IS 'ok, warning, critical';
COMMENT ON COLUMN dr.probe.detail IS 'what was found, and what it costs';
COMMENT ON COLUMN dr.probe.hint IS 'what to do about it';
COMMENT ON COLUMN dr.probe.probed_at IS 'when';

CREATE TABLE dr.verification (
	id text PRIMARY KEY,
	repository text NOT NULL,
	backup text NOT NULL,
	depth text NOT NULL CHECK (depth IN ('catalogue', 'objects', 'pages')),
	requested_by text NOT NULL,
	started_at timestamptz NOT NULL,
	ended_at timestamptz,
	backups bigint,
	objects bigint,
	bytes_read bigint,
	bytes_skipped bigint,
	findings bigint,
	verdict text CHECK (verdict IN ('sound', 'sound with warnings', 'unsound'))
);
COMMENT ON TABLE dr.verification IS 'what dr_verify did: one row for each call that came to its end';
COMMENT ON COLUMN dr.verification.id IS 'name of the run, in dr_progress while it lasts';
COMMENT ON COLUMN dr.verification.repository IS 'name of the repository';
COMMENT ON COLUMN dr.verification.backup IS 'the backup that was looked at, or all';
COMMENT ON COLUMN dr.verification.depth IS 'catalogue, objects, pages';
COMMENT ON COLUMN dr.verification.requested_by IS 'role that called dr_verify';
COMMENT ON COLUMN dr.verification.started_at IS 'when it began';
COMMENT ON COLUMN dr.verification.ended_at IS 'when it ended';
COMMENT ON COLUMN dr.verification.backups IS 'backups that were looked at';
COMMENT ON COLUMN dr.verification.objects IS 'objects that were read and found sound';
COMMENT ON COLUMN dr.verification.bytes_read IS 'bytes of packs and WAL that were read';
COMMENT ON COLUMN dr.verification.bytes_skipped IS 'bytes of packs and WAL that max_age spared';
COMMENT ON COLUMN dr.verification.findings IS 'rows in dr.finding';
COMMENT ON COLUMN dr.verification.verdict IS 'unsound: something that a restore needs is damaged; sound with warnings: something else is; sound';

CREATE TABLE dr.finding (
	verification text NOT NULL REFERENCES dr.verification ON DELETE CASCADE,
	number bigint NOT NULL,
	object text NOT NULL,
	problem text NOT NULL,
	affected_backups text[] NOT NULL,
	affected_files text[] NOT NULL,
	severity text NOT NULL CHECK (severity IN ('error', 'warning', 'notice')),
	hint text,
	PRIMARY KEY (verification, number)
);
COMMENT ON TABLE dr.finding IS 'what dr_verify found';
COMMENT ON COLUMN dr.finding.verification IS 'which run';
COMMENT ON COLUMN dr.finding.number IS 'from 1';
COMMENT ON COLUMN dr.finding.object IS 'name of the object in the repository';
COMMENT ON COLUMN dr.finding.problem IS 'what is wrong with it';
COMMENT ON COLUMN dr.finding.affected_backups IS 'backups that need it';
COMMENT ON COLUMN dr.finding.affected_files IS 'files of theirs that lie in it, the first 20, and how many more';
COMMENT ON COLUMN dr.finding.severity IS 'error: a restore needs it; warning: damaged, but none does; notice: worth knowing';
COMMENT ON COLUMN dr.finding.hint IS 'what to do about it';

--
-- Drills.  What the DBA wants of them is his own, and dumped.
--
CREATE TABLE dr.drill (
	id text PRIMARY KEY,
	repository text NOT NULL,
	scenario text NOT NULL CHECK (scenario IN ('latest', 'point_in_time', 'second_repository')),
	backup text,
	target text,
	status text NOT NULL CHECK (status IN ('running', 'passed', 'missed objective', 'failed', 'cancelled', 'interrupted')),
	requested_by text,
	started_at timestamptz NOT NULL,
	ended_at timestamptz,
	restore_time interval,
	recovery_time interval,
	start_time interval,
	checks_time interval,
	stop_time interval,
	remove_time interval,
	rto interval,
	rpo interval,
	rto_objective interval,
	rpo_objective interval,
	rto_met boolean,
	rpo_met boolean,
	recovery_point timestamptz,
	reached_lsn pg_lsn,
	bytes bigint,
	wal_bytes bigint,
	checks jsonb,
	directory text NOT NULL,
	kept text,
	error text
);
COMMENT ON TABLE dr.drill IS 'drills: one row each, from the moment the worker starts';
COMMENT ON COLUMN dr.drill.id IS 'name of the drill';
COMMENT ON COLUMN dr.drill.repository IS 'name of the repository in pg_dr.repositories';
COMMENT ON COLUMN dr.drill.scenario IS 'latest (the server is lost), point_in_time (damage is noticed late), second_repository (not yet)';
COMMENT ON COLUMN dr.drill.backup IS 'backup that was restored; before that, the one that was asked for';
COMMENT ON COLUMN dr.drill.target IS 'where recovery was to end; null: at the end of the WAL in the repository';
COMMENT ON COLUMN dr.drill.status IS 'running, passed, missed objective, failed, cancelled, interrupted (the worker or server died)';
COMMENT ON COLUMN dr.drill.requested_by IS 'role that called dr_drill';
COMMENT ON COLUMN dr.drill.started_at IS 'when the worker started';
COMMENT ON COLUMN dr.drill.ended_at IS 'when nothing of it was left';
COMMENT ON COLUMN dr.drill.restore_time IS 'from the beginning until every file was there';
COMMENT ON COLUMN dr.drill.recovery_time IS 'from then until the WAL was replayed';
COMMENT ON COLUMN dr.drill.start_time IS 'from then until the server took queries';
COMMENT ON COLUMN dr.drill.checks_time IS 'what the checks took; not a part of rto';
COMMENT ON COLUMN dr.drill.stop_time IS 'what stopping the server took';
COMMENT ON COLUMN dr.drill.remove_time IS 'what removing it all took';
COMMENT ON COLUMN dr.drill.rto IS 'recovery time: restore_time, recovery_time and start_time together';
COMMENT ON COLUMN dr.drill.rpo IS 'what a disaster at started_at would have lost: 0 when recovery came to what the server had flushed then, else the time since recovery_point';
COMMENT ON COLUMN dr.drill.rto_objective IS 'objective for rto when the drill ran';
COMMENT ON COLUMN dr.drill.rpo_objective IS 'objective for rpo when the drill ran';
COMMENT ON COLUMN dr.drill.rto_met IS 'whether it was met';
COMMENT ON COLUMN dr.drill.rpo_met IS 'whether it was met';
COMMENT ON COLUMN dr.drill.recovery_point IS 'the newest commit or heartbeat that came back';
COMMENT ON COLUMN dr.drill.reached_lsn IS 'where recovery ended';
COMMENT ON COLUMN dr.drill.bytes IS 'bytes of the restored files';
COMMENT ON COLUMN dr.drill.wal_bytes IS 'bytes of the WAL behind the backup''s start, up to the target';
COMMENT ON COLUMN dr.drill.checks IS 'what was checked: name, verdict (ok, failed, skipped), detail, ms (what it took)';
COMMENT ON COLUMN dr.drill.directory IS 'pg_dr.drill_directory when the drill ran';
COMMENT ON COLUMN dr.drill.kept IS 'the sandbox, when it was to be kept';
COMMENT ON COLUMN dr.drill.error IS 'why it has not passed';

CREATE TABLE dr.drill_check (
	name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 100),
	database text NOT NULL,
	sql text NOT NULL,
	expected text,
	scenario text CHECK (scenario IN ('latest', 'point_in_time', 'second_repository')),
	enabled boolean NOT NULL DEFAULT true
);
COMMENT ON TABLE dr.drill_check IS 'what every drill asks the restored server, as a superuser there; write access is for superusers only';
COMMENT ON COLUMN dr.drill_check.name IS 'name of the check';
COMMENT ON COLUMN dr.drill_check.database IS 'database in which it is asked';
COMMENT ON COLUMN dr.drill_check.sql IS 'a statement that returns one row';
COMMENT ON COLUMN dr.drill_check.expected IS 'what the first column of it must be, as text; null: null';
COMMENT ON COLUMN dr.drill_check.scenario IS 'drills of which scenario ask it; null: of every one';
COMMENT ON COLUMN dr.drill_check.enabled IS 'whether it is asked at all';

CREATE TABLE dr.objective (
	scenario text PRIMARY KEY CHECK (scenario IN ('latest', 'point_in_time', 'second_repository')),
	rto interval CHECK (rto > interval '0'),
	rpo interval CHECK (rpo > interval '0')
);
COMMENT ON TABLE dr.objective IS 'what a drill must not exceed; see dr_set_objective()';
COMMENT ON COLUMN dr.objective.scenario IS 'scenario of the drill';
COMMENT ON COLUMN dr.objective.rto IS 'longest recovery time; null: any';
COMMENT ON COLUMN dr.objective.rpo IS 'longest time of which commits may be lost; null: any';

CREATE TABLE dr.heartbeat (
	single boolean PRIMARY KEY DEFAULT true CHECK (single),
	at timestamptz NOT NULL
);
COMMENT ON TABLE dr.heartbeat IS 'one row, written about once a minute while the cluster is written to: its age in a restored cluster is what was lost';
COMMENT ON COLUMN dr.heartbeat.single IS 'true';
COMMENT ON COLUMN dr.heartbeat.at IS 'when it was written last';

SELECT pg_extension_config_dump('dr.drill_check', '');
SELECT pg_extension_config_dump('dr.objective', '');

--
-- What a DBA calls
--
CREATE FUNCTION @extschema@.dr_backup(kind text DEFAULT 'incremental', label text DEFAULT NULL,
	wait boolean DEFAULT true, fast boolean DEFAULT true)
RETURNS text
AS 'MODULE_PATHNAME', 'dr_backup'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.dr_backup(text, text, boolean, boolean) IS 'make a backup, return its id';

CREATE FUNCTION @extschema@.dr_cancel(backup text)
RETURNS void
AS 'MODULE_PATHNAME', 'dr_cancel'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.dr_cancel(text) IS 'stop a running backup or drill';

CREATE FUNCTION @extschema@.dr_check(OUT name text, OUT status text, OUT detail text, OUT hint text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_check'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.dr_check() IS 'check configuration, repository and archiving';

-- The catalogue's tables belong to the extension's owner; who may call this may have them rebuilt.
CREATE FUNCTION @extschema@.dr_sync(OUT what text, OUT name text, OUT detail text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_sync'
LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.dr_sync() IS 'rebuild the catalogue from the repository, return what changed';

-- It reads the checksums in dr.object, which belong to the extension's owner, and writes what it finds.
CREATE FUNCTION @extschema@.dr_verify(backup text DEFAULT 'latest', depth text DEFAULT 'objects',
	max_age interval DEFAULT NULL, max_rate bigint DEFAULT 0,
	OUT object text, OUT problem text, OUT affected_backups text[], OUT affected_files text[],
	OUT severity text, OUT hint text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_verify'
LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.dr_verify(text, text, interval, bigint) IS 'hold a backup (an id, latest, all) in the repository against manifest and catalogue, to a depth: catalogue (names and sizes), objects (SHA-256 and seals), pages (every page and WAL record); extend its lock; no rows: sound';

CREATE FUNCTION @extschema@.dr_check_pages(max_rate bigint DEFAULT 0,
	OUT path text, OUT relation text, OUT block bigint, OUT problem text, OUT sound_copy text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_check_pages'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.dr_check_pages(bigint) IS 'read the data files of the running server, return corrupt pages, and the newest backup that has a sound copy of each';

-- It updates the catalogue, which belongs to the extension's owner.
CREATE FUNCTION @extschema@.dr_expire(dry_run boolean DEFAULT true,
	OUT what text, OUT name text, OUT bytes bigint, OUT reason text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_expire'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.dr_expire(boolean) IS 'retention: show what pg_dr.retention keeps and what may go; with dry_run => false, mark what may go, and remove what was marked pg_dr.expire_grace ago';

CREATE FUNCTION @extschema@.dr_adopt()
RETURNS void
AS 'MODULE_PATHNAME', 'dr_adopt'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION @extschema@.dr_adopt() IS 'let this copy of the cluster write to the repository from now on';

--
-- Drills
--
-- It returns the row, which belongs to the extension's owner.
CREATE FUNCTION @extschema@.dr_drill(backup text DEFAULT 'latest', target_time timestamptz DEFAULT NULL,
	scenario text DEFAULT 'latest', keep boolean DEFAULT false, amcheck boolean DEFAULT true, wait boolean DEFAULT true)
RETURNS SETOF dr.drill
AS 'MODULE_PATHNAME', 'dr_drill'
LANGUAGE C VOLATILE ROWS 1 PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.dr_drill(text, timestamptz, text, boolean, boolean, boolean) IS 'restore a backup in a sandbox, recover, start and check it, measure RTO and RPO, remove it; returns the drill''s row';

CREATE FUNCTION @extschema@.dr_set_objective(scenario text, rto interval, rpo interval)
RETURNS void
AS $$
	DELETE FROM dr.objective AS o WHERE o.scenario = dr_set_objective.scenario;
	INSERT INTO dr.objective SELECT dr_set_objective.scenario, dr_set_objective.rto, dr_set_objective.rpo
	WHERE dr_set_objective.rto IS NOT NULL OR dr_set_objective.rpo IS NOT NULL;
$$
LANGUAGE SQL VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.dr_set_objective(text, interval, interval) IS 'what drills of a scenario must not exceed; null: any';

--
-- What is scheduled: an ERROR when all is not well, so that whoever runs it sees that
--
CREATE FUNCTION dr.run_backup(kind text DEFAULT 'incremental')
RETURNS text
AS $$
DECLARE
	made text := @extschema@.dr_backup(kind);
	state text;
BEGIN
	SELECT b.status INTO state FROM dr.backup AS b WHERE b.id = made;
	IF state IS DISTINCT FROM 'completed' THEN
		RAISE EXCEPTION 'backup % is %', made, coalesce(state, 'not in the catalogue')
			USING ERRCODE = 'data_corrupted', HINT = 'See table dr.corrupt_page.';
	END IF;
	RETURN made;
END $$
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION dr.run_backup(text) IS 'dr_backup(), as a job: an ERROR unless it completes without corrupt pages';

CREATE FUNCTION dr.run_verification(backup text DEFAULT 'all', depth text DEFAULT 'objects', max_age interval DEFAULT '30 days')
RETURNS void
AS $$
DECLARE
	findings bigint;
	first text;
BEGIN
	SELECT count(*), min(format('%s: %s', v.object, v.problem)) INTO findings, first
	FROM @extschema@.dr_verify(backup, depth, max_age) AS v WHERE v.severity <> 'notice';
	IF findings > 0 THEN
		RAISE EXCEPTION 'verification (%) found % problems', backup, findings
			USING ERRCODE = 'data_corrupted', DETAIL = first, HINT = 'Call dr_verify() for all of them.';
	END IF;
END $$
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION dr.run_verification(text, text, interval) IS 'dr_verify(), as a job: an ERROR when it finds anything worth more than a notice';

CREATE FUNCTION dr.run_drill(backup text DEFAULT 'latest', target_time timestamptz DEFAULT NULL, scenario text DEFAULT 'latest')
RETURNS text
AS $$
DECLARE
	d dr.drill;
BEGIN
	SELECT * INTO d FROM @extschema@.dr_drill(backup, target_time, scenario);
	IF d.status <> 'passed' THEN
		RAISE EXCEPTION 'drill % %: %', d.id, d.status, d.error
			USING ERRCODE = 'data_corrupted', HINT = 'See view dr_drills.';
	END IF;
	RETURN d.id;
END $$
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION dr.run_drill(text, timestamptz, text) IS 'dr_drill(), as a job: an ERROR unless it passes';

-- While a backup runs nothing is removed; it is waited for, an hour at most.
CREATE FUNCTION dr.run_expiry()
RETURNS bigint
AS $$
DECLARE
	until timestamptz := clock_timestamp() + interval '1 hour';
	removed bigint;
	stuck bigint;
	busy boolean;
	first text;
BEGIN
	LOOP
		SELECT count(*) FILTER (WHERE e.what ~ '^remove'), count(*) FILTER (WHERE e.what = 'could not remove'),
			coalesce(bool_and(e.reason ~ 'backup is running') FILTER (WHERE e.what = 'could not remove'), false),
			min(e.name || ': ' || e.reason) FILTER (WHERE e.what = 'could not remove')
		INTO removed, stuck, busy, first FROM @extschema@.dr_expire(false) AS e;
		EXIT WHEN NOT busy OR clock_timestamp() > until;
		PERFORM pg_sleep(5);
	END LOOP;
	IF stuck > 0 THEN
		RAISE EXCEPTION 'retention could not remove % objects', stuck USING ERRCODE = 'io_error', DETAIL = first;
	END IF;
	RETURN removed;
END $$
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION dr.run_expiry() IS 'dr_expire(false), as a job: an ERROR when something could not be removed';

-- Whoever schedules it must be allowed to call what the jobs call: they run as he.
CREATE FUNCTION dr.plan(plan text)
RETURNS TABLE (job text, schedule text, command text)
AS $$
BEGIN
	IF plan IS NULL OR plan NOT IN ('standard', 'nightly') THEN
		RAISE EXCEPTION '"%" is not a plan', plan
			USING ERRCODE = 'invalid_parameter_value', HINT = 'A plan is "standard" (incremental backups every 15 minutes) or "nightly" (one full backup a day).';
	END IF;
	RETURN QUERY
		SELECT v.job, v.schedule, v.command
		FROM (VALUES
			('standard', 'pg_dr incremental', '*/15 * * * *', $sql$SELECT dr.run_backup('incremental')$sql$),
			('nightly', 'pg_dr full', '15 1 * * *', $sql$SELECT dr.run_backup('full')$sql$),
			('', 'pg_dr verification', '20 3 * * *', 'SELECT dr.run_verification()'),
			('', 'pg_dr drill', '20 4 * * 0', 'SELECT dr.run_drill()'),
			('', 'pg_dr expiry', '50 5 * * *', 'SELECT dr.run_expiry()')) AS v(only_in, job, schedule, command)
		WHERE v.only_in IN ('', plan);
END $$
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION dr.plan(text) IS 'the jobs of a plan, for pg_cron or any other scheduler';

CREATE FUNCTION dr.require_pg_cron(plan text)
RETURNS void
AS $$
BEGIN
	IF EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'pg_cron') THEN
		RETURN;
	END IF;
	RAISE EXCEPTION 'extension pg_cron is not installed in database "%"', current_database()
		USING ERRCODE = 'undefined_object',
			DETAIL = (SELECT 'Any other scheduler will do: ' || string_agg(format('%s  %s;', p.schedule, p.command), '  |  ')
					  FROM dr.plan(plan) AS p),
			HINT = 'Add pg_cron to shared_preload_libraries, set cron.database_name to this database, restart the server, and run CREATE EXTENSION pg_cron.';
END $$
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION dr.require_pg_cron(text) IS 'an ERROR, with what to schedule elsewhere, unless pg_cron is there';

CREATE FUNCTION @extschema@.dr_unschedule()
RETURNS TABLE (job text, schedule text, command text)
AS $$
BEGIN
	PERFORM dr.require_pg_cron('standard');
	RETURN QUERY EXECUTE
		'WITH mine AS MATERIALIZED (SELECT j.jobid, j.jobname::text AS name, j.schedule, j.command FROM cron.job AS j
				WHERE j.jobname LIKE ''pg\_dr %'' AND j.username = current_user::text)
		 SELECT m.name, m.schedule, m.command FROM mine AS m WHERE cron.unschedule(m.jobid) ORDER BY m.jobid';
END $$
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.dr_unschedule() IS 'take the jobs of dr_schedule() out of pg_cron; returns them';

CREATE FUNCTION @extschema@.dr_schedule(plan text DEFAULT 'standard', drill boolean DEFAULT true)
RETURNS TABLE (job text, schedule text, command text)
AS $$
#variable_conflict use_column
BEGIN
	PERFORM dr.require_pg_cron(plan);
	PERFORM * FROM @extschema@.dr_unschedule();
	RETURN QUERY EXECUTE
		'SELECT p.job, p.schedule, p.command FROM dr.plan($1) AS p
		 WHERE ($2 OR p.job <> ''pg_dr drill'') AND cron.schedule(p.job, p.schedule, p.command) > 0' USING plan, drill;
END $$
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.dr_schedule(text, boolean) IS 'schedule backups, verification, drills and retention with pg_cron, in place of what was scheduled so before; returns the jobs';

--
-- What the views read
--
CREATE FUNCTION dr.jobs(OUT backup text, OUT kind text, OUT label text, OUT phase text,
	OUT requested_by text, OUT caller_pid integer, OUT worker_pid integer, OUT started_at timestamptz,
	OUT bytes_done bigint, OUT bytes_total bigint, OUT files_done bigint, OUT files_total bigint,
	OUT bytes_stored bigint, OUT cancel_requested boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_jobs_running'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION dr.jobs() IS 'running backups, verifications and checks of pages, from shared memory';
COMMENT ON FUNCTION dr.jobs() IS 'running backups and drills, from shared memory';

CREATE FUNCTION dr.recent_segments(OUT repository text, OUT timeline bigint, OUT name text,
	OUT object text, OUT size bigint, OUT sha256 bytea, OUT archived_at timestamptz, OUT ended_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_recent_segments'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION dr.recent_segments() IS 'archived WAL files that a reader may not find in table dr.wal_segment yet, from shared memory';

CREATE FUNCTION dr.timelines(OUT timeline bigint, OUT begins pg_lsn, OUT ends pg_lsn,
	OUT first_segment pg_lsn, OUT next_segment pg_lsn)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_timelines'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION dr.timelines() IS 'the way that led to the cluster''s timeline: where each began and ended, and the segments (from first_segment to before next_segment) that recovery takes from it';

CREATE FUNCTION dr.tail(OUT repository text, OUT state text, OUT timeline bigint, OUT segment pg_lsn, OUT durable pg_lsn,
	OUT waiting_since timestamptz, OUT shipped_at timestamptz, OUT synchronous boolean, OUT pieces bigint, OUT bytes bigint,
	OUT sender_pid integer, OUT error text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_tail'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION dr.tail() IS 'how the tail of the WAL is shipped: off, starting, streaming or failed; everything before durable is in the repository, what was written until shipped_at is in it as pieces, what came since waiting_since is not';

CREATE FUNCTION dr.change_map(OUT state text, OUT timeline bigint, OUT known_from pg_lsn, OUT durable pg_lsn, OUT mapped pg_lsn,
	OUT files bigint, OUT bytes bigint, OUT error text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_change_map_state'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION dr.change_map() IS 'how the change map stands: off, starting, mapping or failed; what changed from known_from on is in files up to durable, and read up to mapped; files and bytes written since the server started';

-- A range of pg_lsn, and its multirange: what there is of WAL.
CREATE TYPE dr.lsnrange AS RANGE (SUBTYPE = pg_lsn, MULTIRANGE_TYPE_NAME = dr.lsnmultirange);
COMMENT ON TYPE dr.lsnrange IS 'a range of WAL locations';

-- One expression, so that the planner takes it for one: there are many segments.
CREATE FUNCTION dr.segment_range(name text)
RETURNS dr.lsnrange
LANGUAGE SQL STABLE PARALLEL SAFE
RETURN CASE WHEN name IS NOT NULL THEN
	dr.lsnrange(
		'0/0'::pg_lsn + (('x' || substr(name, 9, 8))::bit(32)::bigint::numeric * 4294967296
			+ ('x' || substr(name, 17, 8))::bit(32)::bigint * pg_size_bytes(current_setting('wal_segment_size'))),
		'0/0'::pg_lsn + (('x' || substr(name, 9, 8))::bit(32)::bigint::numeric * 4294967296
			+ (('x' || substr(name, 17, 8))::bit(32)::bigint + 1) * pg_size_bytes(current_setting('wal_segment_size')))) END;
COMMENT ON FUNCTION dr.segment_range(text) IS 'the WAL locations that a segment holds';

CREATE FUNCTION dr.state(OUT concern text, OUT status text, OUT detail text, OUT hint text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dr_state'
LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION dr.state() IS 'the rows of view dr_status that need no table';

CREATE FUNCTION dr.lock_days()
RETURNS integer
AS 'MODULE_PATHNAME', 'dr_lock_days'
LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION dr.lock_days() IS 'for how many days the repository locks what is stored; null: it does not';

--
-- Views
--
CREATE VIEW @extschema@.dr_backups AS
	SELECT id, repository, kind, label, status, requested_by, started_at, finished_at,
		finished_at - started_at AS duration, timeline, start_lsn, stop_lsn, parent, files, bytes,
		bytes_read, bytes_changed, bytes_stored, bytes_referenced, restore_bytes, restore_requests, full_scan,
		corrupt_pages, error, verified_at, verified_depth
	FROM dr.backup
	WHERE system_identifier = (SELECT c.system_identifier::text FROM pg_control_system() AS c)
	ORDER BY started_at, id;
COMMENT ON VIEW @extschema@.dr_backups IS 'the backups of this cluster, oldest first';

CREATE VIEW @extschema@.dr_progress AS
	SELECT backup, kind, label, phase, requested_by, caller_pid, worker_pid, started_at,
		bytes_done, bytes_total,
		CASE WHEN bytes_total > 0 THEN round(100.0 * least(bytes_done, bytes_total) / bytes_total, 1) END AS percent,
		files_done, files_total, bytes_stored, cancel_requested
	FROM dr.jobs();
COMMENT ON VIEW @extschema@.dr_progress IS 'the backups, drills, verifications and checks of pages that are running';

CREATE VIEW @extschema@.dr_drills AS
	SELECT id, repository, scenario, backup, target, status, requested_by, started_at, ended_at, rto, rto_objective, rto_met,
		rpo, rpo_objective, rpo_met, restore_time, recovery_time, start_time, checks_time, stop_time, remove_time,
		recovery_point, reached_lsn, bytes, wal_bytes,
		(bytes / nullif(extract(epoch FROM restore_time), 0))::bigint AS restore_rate,
		(wal_bytes / nullif(extract(epoch FROM recovery_time), 0))::bigint AS recovery_rate,
		checks, kept, error
	FROM dr.drill
	ORDER BY started_at, id;
COMMENT ON VIEW @extschema@.dr_drills IS 'the drills, oldest first; rates are in bytes per second';

CREATE VIEW @extschema@.dr_wal_files AS
	SELECT repository, timeline, name AS file, object, size, sha256, archived_at, ended_at, problem
	FROM dr.wal_segment
	UNION ALL
	SELECT r.repository, r.timeline, r.name, r.object, r.size, r.sha256, r.archived_at, r.ended_at, NULL
	FROM dr.recent_segments() AS r
	WHERE NOT EXISTS (SELECT 1 FROM dr.wal_segment AS w
					  WHERE w.repository = r.repository AND w.object = r.object);
COMMENT ON VIEW @extschema@.dr_wal_files IS 'the WAL files in the repository: segments, timeline histories, partial segments and backup histories';

-- This cluster's segments, and behind them what the tail has of the next one.
CREATE VIEW dr.wal_coverage AS
	SELECT repository, timeline, dr.segment_range(file) AS range, size, ended_at, problem
	FROM @extschema@.dr_wal_files
	WHERE file ~ '^[0-9A-F]{24}$'
		AND starts_with(object, (SELECT c.system_identifier::text || '/' FROM pg_control_system() AS c))
	UNION ALL
	-- From the last archived segment on, all before durable is in pieces: with synchronous commits several segments may be.
	SELECT t.repository, t.timeline, dr.lsnrange(least(t.segment, a.until), t.durable), 0, t.shipped_at, NULL
	FROM dr.tail() AS t
		LEFT JOIN LATERAL (SELECT upper(dr.segment_range(max(f.file COLLATE "C"))) AS until
						   FROM @extschema@.dr_wal_files AS f
						   WHERE f.repository = t.repository AND f.timeline = t.timeline AND f.file ~ '^[0-9A-F]{24}$'
							   AND starts_with(f.object, (SELECT c.system_identifier::text || '/' FROM pg_control_system() AS c))) AS a ON true
	WHERE t.repository IS NOT NULL AND t.state = 'streaming' AND t.durable > t.segment AND t.shipped_at IS NOT NULL;
COMMENT ON VIEW dr.wal_coverage IS 'which WAL locations are in the repository: one row per segment, and one for the tail';

CREATE VIEW @extschema@.dr_wal AS
	SELECT repository, timeline, lower(whole) AS first_lsn, upper(whole) AS last_lsn, segments, bytes, coverage,
		dr.lsnmultirange(whole) - coverage AS gaps, ended_at
	FROM (SELECT repository, timeline, dr.lsnrange(min(lower(range)), max(upper(range))) AS whole,
			count(*) FILTER (WHERE problem IS NULL) AS segments, sum(size) FILTER (WHERE problem IS NULL) AS bytes,
			coalesce(range_agg(range) FILTER (WHERE problem IS NULL), dr.lsnmultirange()) AS coverage,
			max(ended_at) FILTER (WHERE problem IS NULL) AS ended_at
		  FROM dr.wal_coverage
		  GROUP BY repository, timeline) AS t
	ORDER BY repository, timeline;
COMMENT ON VIEW @extschema@.dr_wal IS 'the WAL in the repository, per timeline: what it covers, and the gaps (between a backup that retention keeps for long and what pitr needs there is one)';

-- Along the way that led to this cluster's timeline.
CREATE VIEW @extschema@.dr_recovery_windows AS
	WITH way AS MATERIALIZED (
		SELECT c.repository, c.range, c.ended_at
		FROM dr.wal_coverage AS c JOIN dr.timelines() AS t ON t.timeline = c.timeline
		WHERE c.problem IS NULL AND lower(c.range) >= t.first_segment
			AND (t.next_segment IS NULL OR lower(c.range) < t.next_segment)),
	rows AS (
		SELECT repository, unnest(range_agg(range)) AS range FROM way GROUP BY repository)
	SELECT b.id AS backup, b.repository, b.kind, b.timeline, b.stop_lsn AS earliest_lsn, b.finished_at AS earliest_time,
		upper(r.range) AS latest_lsn,
		(SELECT max(w.ended_at) FROM way AS w
		 WHERE w.repository = r.repository AND upper(w.range) = upper(r.range)) AS latest_time
	FROM @extschema@.dr_backups AS b
		JOIN dr.timelines() AS t ON t.timeline = b.timeline AND (t.ends IS NULL OR b.stop_lsn <= t.ends)
		LEFT JOIN rows AS r ON r.repository = b.repository AND r.range @> b.start_lsn AND upper(r.range) >= b.stop_lsn
	WHERE b.status IN ('completed', 'completed with corruption')
	ORDER BY b.stop_lsn;
COMMENT ON VIEW @extschema@.dr_recovery_windows IS 'for each backup, from where to where recovery can go without a gap; latest_lsn null: WAL that the backup itself needs is missing';

CREATE FUNCTION @extschema@.dr_can_recover(target timestamptz, OUT possible boolean, OUT backup text, OUT detail text)
RETURNS record
AS $$
	SELECT best.backup IS NOT NULL, best.backup,
		CASE WHEN best.backup IS NOT NULL THEN
				format('Restore with --target-time %L.', to_char(target AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US+00'))
			WHEN target IS NULL OR NOT isfinite(target) THEN 'That is no moment.'
			WHEN a.backups = 0 THEN 'There is no complete backup.'
			WHEN target < a.earliest THEN format('The oldest backup is consistent from %s on.', a.earliest)
			WHEN a.latest IS NULL THEN 'The catalogue does not know when the WAL in the repository was written.'
			WHEN target > a.latest AND NOT a.gap THEN format('The repository has the WAL up to %s.', a.latest)
				|| CASE WHEN target <= now() AND EXISTS (SELECT 1 FROM dr.tail() AS t WHERE t.shipped_at = a.latest AND t.waiting_since IS NULL)
					THEN ' Nothing has been written since: restore without a target.' ELSE '' END
			ELSE format('WAL is missing: from the last backup before that moment, recovery comes to %s.',
				coalesce((SELECT max(w.latest_lsn)::text FROM @extschema@.dr_recovery_windows AS w WHERE w.earliest_time <= target), 'nothing'))
		END
	FROM (SELECT count(*) AS backups, min(earliest_time) AS earliest, max(latest_time) AS latest,
			EXISTS (SELECT 1 FROM dr.wal_coverage WHERE lower(range) >= max(w.latest_lsn)) AS gap
		  FROM @extschema@.dr_recovery_windows AS w) AS a
		LEFT JOIN LATERAL (
			SELECT w.backup FROM @extschema@.dr_recovery_windows AS w
			WHERE w.earliest_time <= target AND w.latest_time >= target AND isfinite(target)
			ORDER BY w.earliest_time DESC LIMIT 1) AS best ON true
$$
LANGUAGE SQL STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.dr_can_recover(timestamptz) IS 'can the cluster be recovered to this moment? with which backup, or why not';

-- What the last drill measured, and what would be lost now: what the shipped WAL does not hold yet.
CREATE VIEW dr.objective_state AS
	SELECT o.scenario, coalesce(d.rto > o.rto, false) AS rto_missed, coalesce(p.lost > o.rpo OR d.rpo > o.rpo, false) AS rpo_missed,
		(o.rto IS NOT NULL AND d.rto IS NULL) OR (o.rpo IS NOT NULL AND p.lost IS NULL AND d.rpo IS NULL) AS rpo_unknown,
		concat_ws(', ', o.scenario,
			'RTO ' || coalesce(date_trunc('milliseconds', d.rto)::text, 'not measured') || ' of ' || o.rto,
			'RPO ' || coalesce(date_trunc('milliseconds', coalesce(p.lost, d.rpo))::text, 'not measured') || ' of ' || o.rpo) AS detail
	FROM dr.objective AS o
		LEFT JOIN LATERAL (SELECT rto, rpo FROM dr.drill AS d
						   WHERE d.scenario = o.scenario AND d.status IN ('passed', 'missed objective')
						   ORDER BY d.ended_at DESC LIMIT 1) AS d ON true
		LEFT JOIN LATERAL (SELECT coalesce(now() - t.waiting_since, interval '0') AS lost FROM dr.tail() AS t
						   WHERE t.state = 'streaming' AND o.scenario = 'latest') AS p ON true;
COMMENT ON VIEW dr.objective_state IS 'the objectives, and how they stand';

-- Without a promise to hold it against, a week without a backup is worth a warning.
CREATE VIEW @extschema@.dr_status AS
	SELECT 'backup' AS concern,
		CASE WHEN b.id IS NULL THEN 'critical'
			WHEN b.status <> 'completed' OR b.finished_at < now() - interval '7 days' THEN 'warning'
			ELSE 'ok' END AS status,
		CASE WHEN b.id IS NULL THEN 'there is no complete backup'
			ELSE format('last complete backup: %s, %s, %s old', b.id, b.status,
				date_trunc('second', now() - b.finished_at)) END AS detail,
		CASE WHEN b.id IS NULL THEN 'Call dr_backup(''full'').'
			WHEN b.status <> 'completed' THEN 'See table dr.corrupt_page.'
			WHEN b.finished_at < now() - interval '7 days' THEN 'Schedule dr_backup.' END AS hint
	FROM (SELECT 1) AS one
		LEFT JOIN (SELECT id, status, finished_at FROM dr.backup
				   WHERE status IN ('completed', 'completed with corruption')
					   AND system_identifier = (SELECT c.system_identifier::text FROM pg_control_system() AS c)
				   ORDER BY finished_at DESC LIMIT 1) AS b ON true
	UNION ALL
	-- What the archiver stores now is of no use to a backup that can't be recovered so far.
	SELECT 'recovery_window',
		CASE WHEN w.latest_lsn < c.until OR w.backup IS NOT NULL AND w.latest_lsn IS NULL THEN 'critical' ELSE 'ok' END,
		CASE WHEN w.backup IS NULL THEN 'there is no complete backup'
			WHEN w.latest_lsn IS NULL THEN format('the newest backup, %s, can''t be recovered: WAL that itself needs is missing', w.backup)
			WHEN w.latest_lsn < c.until THEN format('the newest backup, %s, can be recovered to %s only, of %s that the repository has: what lies between is missing',
				w.backup, w.latest_lsn, c.until)
			ELSE format('the newest backup, %s, can be recovered to %s', w.backup, w.latest_lsn) END,
		CASE WHEN w.latest_lsn < c.until OR w.backup IS NOT NULL AND w.latest_lsn IS NULL THEN 'Call dr_backup(''full'').' END
	FROM (SELECT 1) AS one
		LEFT JOIN (SELECT backup, repository, latest_lsn FROM @extschema@.dr_recovery_windows ORDER BY earliest_lsn DESC LIMIT 1) AS w ON true
		LEFT JOIN LATERAL (SELECT max(upper(c.range)) AS until FROM dr.wal_coverage AS c
						   WHERE c.repository = w.repository
							   AND c.timeline = (SELECT t.timeline FROM dr.timelines() AS t WHERE t.ends IS NULL)) AS c ON true
	UNION ALL
	SELECT 'store',
		CASE WHEN bool_or(status = 'critical') THEN 'critical' WHEN bool_or(status = 'warning') THEN 'warning' ELSE 'ok' END,
		CASE WHEN count(*) = 0 THEN 'not probed yet'
			ELSE format('probed %s ago: %s', date_trunc('second', now() - max(probed_at)),
				coalesce(string_agg(detail, '; ' ORDER BY name) FILTER (WHERE status <> 'ok'), 'it keeps its promises')) END,
		CASE WHEN count(*) = 0 THEN 'Call dr_check().' ELSE string_agg(DISTINCT hint, ' ') FILTER (WHERE status <> 'ok') END
	FROM dr.probe
	UNION ALL
	SELECT 'verification',
		CASE WHEN v.verdict = 'unsound' THEN 'critical'
			WHEN v.id IS NULL OR v.verdict <> 'sound' OR v.ended_at < now() - interval '7 days' OR o.stale > 0 THEN 'warning'
			ELSE 'ok' END,
		CASE WHEN v.id IS NULL THEN 'nothing has been verified'
			ELSE format('last verification: %s to depth %s, %s, %s ago', v.backup, v.depth, v.verdict, date_trunc('second', now() - v.ended_at)) END
			|| CASE WHEN o.stale > 0 THEN format('; %s of %s objects of backups were not verified in the last 35 days', o.stale, o.objects) ELSE '' END,
		CASE WHEN v.verdict <> 'sound' THEN 'See table dr.finding.'
			WHEN v.id IS NULL OR v.ended_at < now() - interval '7 days' OR o.stale > 0
			THEN 'Call dr_verify(''all'', max_age => ''30 days''), or schedule it.' END
	FROM (SELECT count(*) AS objects,
			count(*) FILTER (WHERE coalesce(verified_at, '-infinity') < now() - interval '35 days'
							 AND stored_at < now() - interval '2 days') AS stale
		  FROM dr.object) AS o
		LEFT JOIN (SELECT id, backup, depth, verdict, ended_at FROM dr.verification
				   WHERE verdict IS NOT NULL ORDER BY ended_at DESC LIMIT 1) AS v ON true
	UNION ALL
	-- A verification extends a lock of which less than half is left.
	SELECT 'locks',
		CASE WHEN l.until < now() THEN 'critical' WHEN l.until < now() + make_interval(days => l.days) / 4 THEN 'warning' ELSE 'ok' END,
		format('of what backups need, the first lock ends on %s', l.until::date),
		CASE WHEN l.until < now() + make_interval(days => l.days) / 4 THEN 'Call dr_verify(''all''): it extends locks.' END
	FROM (SELECT d.days, min(greatest(o.stored_at + make_interval(days => d.days), o.verified_at + make_interval(days => d.days) / 2)) AS until
		  FROM dr.lock_days() AS d(days) JOIN dr.object AS o ON d.days IS NOT NULL
			  JOIN dr.backup AS b ON b.id = o.backup AND b.status IN ('completed', 'completed with corruption', 'expired')
		  GROUP BY d.days) AS l
	UNION ALL
	SELECT 'drill',
		CASE WHEN d.status = 'failed' THEN 'critical'
			WHEN d.id IS NULL OR d.status <> 'passed' OR d.ended_at < now() - interval '35 days' THEN 'warning'
			ELSE 'ok' END,
		CASE WHEN d.id IS NULL THEN 'no backup has been restored to try it'
			ELSE format('last drill: %s, %s, %s ago%s', d.id, d.status, date_trunc('second', now() - d.ended_at), ': ' || d.error) END,
		CASE WHEN d.id IS NULL AND current_setting('pg_dr.drill_directory', true) = '' THEN 'Set pg_dr.drill_directory and call dr_drill().'
			WHEN d.id IS NULL OR d.ended_at < now() - interval '35 days' THEN 'Call dr_drill(), or schedule it.'
			WHEN d.status <> 'passed' THEN 'See view dr_drills.' END
	FROM (SELECT 1) AS one
		LEFT JOIN (SELECT id, status, ended_at, error FROM dr.drill
				   WHERE status IN ('passed', 'missed objective', 'failed') ORDER BY ended_at DESC LIMIT 1) AS d ON true
	UNION ALL
	SELECT 'objective',
		CASE WHEN bool_or(rto_missed OR rpo_missed) THEN 'critical' WHEN bool_or(rpo_unknown) THEN 'warning' ELSE 'ok' END,
		coalesce(string_agg(detail, '; ' ORDER BY scenario), 'no objective is set'),
		CASE WHEN bool_or(rto_missed) THEN 'Recovery takes too long: see view dr_drills for which part of it.'
			WHEN bool_or(rpo_missed) THEN 'Too much would be lost now: see concerns archiving and recovery_point.'
			WHEN bool_or(rpo_unknown) THEN 'Call dr_drill().' END
	FROM dr.objective_state
	UNION ALL
	SELECT concern, status, detail, hint FROM dr.state();
COMMENT ON VIEW @extschema@.dr_status IS 'is the cluster safe? one row per concern, cheap enough for monitoring';

--
-- Privileges: nothing for everybody, reading for pg_monitor, the rest by the DBA's own GRANT
--
REVOKE ALL ON FUNCTION @extschema@.dr_backup(text, text, boolean, boolean), @extschema@.dr_cancel(text),
	@extschema@.dr_check(), @extschema@.dr_sync(), @extschema@.dr_verify(text, text, interval, bigint),
	@extschema@.dr_check_pages(bigint), @extschema@.dr_expire(boolean),
	@extschema@.dr_adopt(), @extschema@.dr_drill(text, timestamptz, text, boolean, boolean, boolean),
	@extschema@.dr_set_objective(text, interval, interval), @extschema@.dr_schedule(text, boolean), @extschema@.dr_unschedule(),
	dr.run_backup(text), dr.run_verification(text, text, interval), dr.run_drill(text, timestamptz, text), dr.run_expiry(),
	dr.plan(text), dr.require_pg_cron(text),
	@extschema@.dr_can_recover(timestamptz), dr.jobs(), dr.recent_segments(), dr.state(), dr.timelines(), dr.tail(),
	dr.change_map(), dr.lock_days(), dr.segment_range(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION dr.jobs(), dr.recent_segments(), dr.state(), dr.timelines(), dr.tail(), dr.change_map(), dr.lock_days(), dr.segment_range(text),
	@extschema@.dr_can_recover(timestamptz), @extschema@.dr_check() TO pg_monitor;
GRANT USAGE ON SCHEMA dr TO pg_monitor;
GRANT SELECT ON dr.backup, dr.object, dr.wal_segment, dr.corrupt_page, dr.probe, dr.verification, dr.finding, dr.drill, dr.objective, dr.heartbeat, dr.objective_state,
	@extschema@.dr_drills, dr.wal_coverage, @extschema@.dr_backups, @extschema@.dr_progress, @extschema@.dr_wal, @extschema@.dr_wal_files,
	@extschema@.dr_recovery_windows, @extschema@.dr_status TO pg_monitor;
