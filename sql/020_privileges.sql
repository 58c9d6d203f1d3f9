-- Nothing for PUBLIC, reading for pg_monitor, the rest by GRANT.
CREATE ROLE regress_dr_nobody;
CREATE ROLE regress_dr_watcher IN ROLE pg_monitor;
CREATE ROLE regress_dr_operator;

SET ROLE regress_dr_nobody;
SELECT dr_backup('full');
SELECT dr_cancel('x');
SELECT dr_adopt();
SELECT dr_sync();
SELECT dr_check();
SELECT dr_verify();
SELECT dr_check_pages();
SELECT dr_expire();
SELECT dr_drill();
SELECT dr_set_objective('latest', '1 h', '1 min');
SELECT dr_schedule();
SELECT dr.run_drill();
SELECT * FROM dr_drills;
SELECT * FROM dr.drill_check;
SELECT * FROM dr_backups;
SELECT * FROM dr_status;
SELECT * FROM dr_wal;
SELECT * FROM dr_progress;
SELECT * FROM dr.backup;
SELECT * FROM dr.jobs();
SELECT count(*) FROM pg_settings WHERE name IN ('pg_dr.repositories', 'pg_dr.encryption_key_file');
RESET ROLE;

SET ROLE regress_dr_watcher;
SELECT count(*) FROM dr_backups;
SELECT count(*) > 0 FROM dr_status;
SELECT count(*) >= 0 FROM dr_wal;
SELECT count(*) FROM dr_progress;
SELECT count(*) FROM dr.object;
SELECT count(*) FROM dr.corrupt_page;
SELECT count(*) FROM dr.verification;
SELECT count(*) FROM dr.finding;
SELECT count(*) FROM dr_drills;
SELECT count(*) FROM dr.objective;
SELECT count(*) FROM dr.drill_check;
INSERT INTO dr.drill_check VALUES ('x', 'postgres', 'SELECT 1', '1');
SELECT count(*) > 0 FROM dr_check();
-- where repository and key are is not for its eyes
SELECT count(*) FROM dr_check() WHERE detail ~ 'dr\.key|file://' OR hint ~ 'dr\.key';
SELECT dr_backup('full');
SELECT dr_sync();
DELETE FROM dr.backup;
RESET ROLE;

GRANT EXECUTE ON FUNCTION dr_backup(text, text, boolean, boolean), dr_sync() TO regress_dr_operator;
SET ROLE regress_dr_operator;
SET client_min_messages = warning;
SELECT dr_backup('full', 'by the operator') ~ '^\d{8}T\d{6}Z-full-[0-9a-f]{6}$' AS made;
SELECT count(*) >= 0 AS synced FROM dr_sync();
SELECT count(*) FROM dr.backup;
RESET client_min_messages;
RESET ROLE;
SELECT kind, label, status, requested_by, corrupt_pages, error FROM dr_backups;

REVOKE EXECUTE ON FUNCTION dr_backup(text, text, boolean, boolean), dr_sync() FROM regress_dr_operator;
DROP ROLE regress_dr_nobody, regress_dr_watcher, regress_dr_operator;
