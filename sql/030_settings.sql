-- What can be seen to be wrong is refused when it is set.
SELECT name, vartype, context, unit, boot_val, min_val, max_val
FROM pg_settings WHERE name LIKE 'pg\_dr.%' ORDER BY name COLLATE "C";
SET pg_dr.repositories = 'main=file:///backups';
SET pg_dr.nonsense = 1;
ALTER SYSTEM SET pg_dr.database = 'other';
ALTER SYSTEM RESET pg_dr.database;

ALTER SYSTEM SET pg_dr.repositories = '/backups';
ALTER SYSTEM SET pg_dr.repositories = 'file:///backups';
ALTER SYSTEM SET pg_dr.repositories = 'main=/backups';
ALTER SYSTEM SET pg_dr.repositories = 'main=';
ALTER SYSTEM SET pg_dr.repositories = 'main=ftp://host/prefix';
ALTER SYSTEM SET pg_dr.repositories = 'main=s3:///prefix';
ALTER SYSTEM SET pg_dr.credentials_file = 'relative';
ALTER SYSTEM SET pg_dr.repositories = 'main=file://backups';
ALTER SYSTEM SET pg_dr.repositories = 'main=file:///';
ALTER SYSTEM SET pg_dr.repositories = 'main=file://user:secret@host/backups';
ALTER SYSTEM SET pg_dr.repositories = 'Main=file:///backups';
ALTER SYSTEM SET pg_dr.repositories = 'my main=file:///backups';
ALTER SYSTEM SET pg_dr.repositories = '=file:///backups';
ALTER SYSTEM SET pg_dr.repositories = 'main=file:///back ups';
ALTER SYSTEM SET pg_dr.repositories = 'main=file:///back%ups';
ALTER SYSTEM SET pg_dr.repositories = 'main=file:///backups%00';
ALTER SYSTEM SET pg_dr.repositories = 'main=file:///a, second=file:///b';
ALTER SYSTEM SET pg_dr.repositories = 'main=file:///a,b';
ALTER SYSTEM SET pg_dr.repositories = '  main = file:///a%2Cb  ';
ALTER SYSTEM SET pg_dr.encryption_key_file = 'dr.key';
ALTER SYSTEM SET pg_dr.jobs = 0;
ALTER SYSTEM SET pg_dr.compression_level = 99;
ALTER SYSTEM SET pg_dr.max_rate = '100MB';
ALTER SYSTEM SET pg_dr.debug_hold_at = 'nowhere';
ALTER SYSTEM RESET ALL;
