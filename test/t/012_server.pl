# The module inside the server: what others put in its way, and what it must not do by itself.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(campaign);
use Test::More;

# --- before CREATE EXTENSION: tables of the right name are not ours, however they got there
my $node = PgDr::Test->create('main', wal_segsize => 1, start => 0, conf => "log_min_messages = debug1\npg_dr.repositories = ''\n");
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE mallory LOGIN; GRANT CREATE ON DATABASE postgres TO mallory');
$node->safe_psql('postgres', <<'END', extra_params => [ '-U', 'mallory' ]);
CREATE SCHEMA dr;
CREATE FUNCTION dr.f() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	ALTER ROLE mallory SUPERUSER;
	RETURN 'running';
END $$;
CREATE VIEW dr.backup AS SELECT 'x'::text AS id, dr.f() AS status, system_identifier::text, ''::text AS repository FROM pg_control_system();
CREATE TABLE dr.object (); CREATE TABLE dr.wal_segment (); CREATE TABLE dr.corrupt_page ();
GRANT USAGE ON SCHEMA dr TO PUBLIC;
GRANT SELECT ON dr.backup TO PUBLIC;
END
$node->restart;
ok(housekeepings(5) > 0, 'housekeeping looks for the catalogue');
is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', 'and touches nothing that is not the extension\'s');
isnt(($node->psql('postgres', 'CREATE EXTENSION pg_dr'))[0], 0, 'CREATE EXTENSION refuses a schema that is there');
$node->safe_psql('postgres', 'DROP SCHEMA dr CASCADE');

# --- another role's operators don't get into the views
$node->safe_psql('postgres', <<'END');
CREATE SCHEMA ext AUTHORIZATION mallory;
CREATE FUNCTION ext.times(numeric, bigint) RETURNS numeric LANGUAGE sql AS 'SELECT 666::numeric';
CREATE OPERATOR ext.* (LEFTARG = numeric, RIGHTARG = bigint, FUNCTION = ext.times);
CREATE EXTENSION pg_dr SCHEMA ext;
END
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM pg_depend d JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND d.refobjid = o.oid
	WHERE oprnamespace = 'ext'::regnamespace AND d.classid = 'pg_rewrite'::regclass}), 0, 'views use the server\'s operators only');
$node->safe_psql('postgres', 'DROP EXTENSION pg_dr; DROP SCHEMA ext CASCADE; CREATE EXTENSION pg_dr');

# --- created, but not configured: nothing to do, so nothing is started again and again
housekeepings(2);
cmp_ok(housekeepings(4), '<=', 1, 'without a repository housekeeping is not started for ever');

# --- what one repository has is not missing in another
$node->append_conf('postgresql.conf', "log_min_messages = warning\n" . $node->repository->settings);
$node->reload;
$node->safe_psql('postgres', 'SELECT pg_sleep(0.5)');
my $id = $node->full_backup;
my $second = $node->change_repository('second');
my $place = $second->place;
my $other = $node->full_backup;
unlike($node->safe_psql('postgres', 'SELECT * FROM dr_sync()'), qr/missing/, 'a backup in another repository is not missing in this one');
is($node->safe_psql('postgres', "SELECT status FROM dr_backups WHERE id = '$id'"), 'completed', 'its row stays');

# --- where the repository is, is not for everybody's eyes, least of all when it fails
$node->safe_psql('postgres', 'CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE operator LOGIN;
	GRANT EXECUTE ON FUNCTION dr_backup(text, text, boolean, boolean), dr_sync(), dr_adopt() TO operator');
my $identity = $second->read('repository.json');
$second->remove('repository.json');
for my $case ([ 'watcher', 'SELECT * FROM dr_check()' ], [ 'watcher', 'SELECT * FROM dr_status' ],
	[ 'operator', q{SELECT dr_backup('full')} ], [ 'operator', 'SELECT * FROM dr_sync()' ], [ 'operator', 'SELECT dr_adopt()' ])
{
	my ($role, $sql) = @$case;
	my (undef, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
	unlike("$out$err", qr/\Q$place\E|\Q$node->{key_file}\E/, "$sql tells $role no place");
	like("$out$err", qr/repository/, "$sql tells $role what is wrong") unless $sql =~ /status/;
}
like(($node->psql('postgres', 'SELECT * FROM dr_check()'))[1], qr/\Q$place\E/, 'a superuser is told');
$second->write('repository.json', $identity);

# --- an idle cluster stays idle: rows make no segments that make rows
SKIP:
{
	skip 'in campaigns only', 1 unless campaign();
	$node->append_conf('postgresql.conf', "archive_timeout = 1s\ncheckpoint_timeout = 30s");
	$node->reload;
	$node->safe_psql('postgres', 'SELECT pg_sleep(200)');	# autovacuum and the last heartbeat come first
	my $before = $node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
	$node->safe_psql('postgres', 'SELECT pg_sleep(130)');
	is($node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()'), $before, 'an idle cluster writes no WAL');
}
$node->stop;

# How often housekeeping is started within some seconds.
sub housekeepings
{
	my ($seconds) = @_;
	my $offset = -s $node->logfile;
	$node->safe_psql('postgres', "SELECT pg_sleep($seconds)");
	my @starts = slurp_file($node->logfile, $offset) =~ /starting background worker process "pg_dr housekeeping"/g;
	return scalar @starts;
}

done_testing();
