-- What CREATE EXTENSION makes, and that each of it says what it is for.
SELECT extname, extversion, nspname FROM pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace WHERE extname = 'pg_dr';
SELECT pg_describe_object(classid, objid, 0) AS object
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND classid <> 'pg_type'::regclass	-- 17 lists row types
	AND pg_describe_object(classid, objid, 0) !~ 'lsn(multi)?range($|\()'	-- what a range type brings along
	AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_dr')
ORDER BY pg_describe_object(classid, objid, 0) COLLATE "C";
-- relations, columns of tables, and functions without a comment
SELECT c.oid::regclass FROM pg_class AS c
WHERE relnamespace = 'dr'::regnamespace AND relkind = 'r' AND obj_description(c.oid, 'pg_class') IS NULL;
SELECT attrelid::regclass, attname FROM pg_attribute
WHERE attrelid IN ('dr.backup'::regclass, 'dr.object'::regclass, 'dr.wal_segment'::regclass, 'dr.corrupt_page'::regclass,
		'dr.drill'::regclass, 'dr.drill_check'::regclass, 'dr.objective'::regclass, 'dr.heartbeat'::regclass)
	AND attnum > 0 AND col_description(attrelid, attnum) IS NULL;
SELECT proname FROM pg_proc WHERE proname ~ '^dr_' AND obj_description(oid, 'pg_proc') IS NULL;
-- pg_dump leaves the catalogue's rows alone, and takes what the DBA wrote
SELECT extconfig::regclass[] FROM pg_extension WHERE extname = 'pg_dr';
-- it can go and come back, to any schema
DROP EXTENSION pg_dr;
SELECT to_regnamespace('dr'), to_regproc('dr_backup');
CREATE SCHEMA "Disaster 1";
CREATE EXTENSION pg_dr SCHEMA "Disaster 1";
SELECT count(*) FROM "Disaster 1".dr_backups;
SELECT count(*) > 0 FROM "Disaster 1".dr_status;
DROP EXTENSION pg_dr;
DROP SCHEMA "Disaster 1";
CREATE EXTENSION pg_dr;
