-- What dr_backup refuses before it begins.
SELECT dr_backup('ful');
SELECT dr_backup(NULL);
SELECT dr_backup('full', wait => NULL);
SELECT dr_backup('full', repeat('x', 300));
SELECT dr_backup('full', E'two\nlines');
SELECT dr_cancel('no such backup');
SELECT dr_cancel(NULL) IS NULL AS nothing;

-- with settings that are not there
ALTER SYSTEM SET pg_dr.repositories = '';
SELECT pg_reload_conf();
\c -
SELECT dr_backup('full');
SELECT dr_sync();
SELECT dr_adopt();
SELECT name, status, detail, hint FROM dr_check() WHERE name IN ('program', 'repositories', 'repository');
ALTER SYSTEM RESET pg_dr.repositories;
ALTER SYSTEM SET pg_dr.encryption_key_file = '';
SELECT pg_reload_conf();
\c -
SELECT dr_backup('full');
ALTER SYSTEM RESET pg_dr.encryption_key_file;
ALTER SYSTEM SET archive_library = '';
SELECT pg_reload_conf();
\c -
SELECT dr_backup('full');
SELECT name, status, detail, hint FROM dr_check() WHERE name IN ('archive_library', 'archiving');
ALTER SYSTEM RESET archive_library;
SELECT pg_reload_conf();
\c -

-- in a database without a catalogue
CREATE DATABASE regress_dr_other;
\c regress_dr_other
CREATE EXTENSION pg_dr;
SELECT dr_backup('full');
SELECT dr_sync();
\c contrib_regression
DROP DATABASE regress_dr_other;
