# pg_rewind, which runs a restore_command itself and reads two data directories,
# of one that has just been promoted and of one that is to follow it: the process
# that fetches ahead of recovery is in neither.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Ledger;
use PgDr::Test qw(run_program wait_until);
use Test::More;

my $node = PgDr::Test->create('main', wal_segsize => 1, conf => "pg_dr.wal_ship_interval = 500ms\n");
my $ledger = PgDr::Ledger->new($node);
$node->full_backup;
$ledger->add(10);
my $standby = $node->restored('standby', args => ['--standby'], wait => 0);
my $restore_command = $standby->safe_psql('postgres', 'SHOW restore_command');
wait_until('the standby has what the primary had', sub { $standby->safe_psql('postgres', 'SELECT count(*) FROM ledger') >= 10 });

# --- both write on; what the old primary needs to find the point at which they part is only in the repository
$node->safe_psql('postgres', 'CHECKPOINT');
my $common = $node->safe_psql('postgres', 'SELECT pg_walfile_name(redo_lsn) FROM pg_control_checkpoint()');
my $last = $node->wait_archived;
wait_until('the standby has replayed it', sub {
		$standby->safe_psql('postgres', "SELECT pg_last_wal_replay_lsn() >= '" . $node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()') . "'") eq 't' });
ok(-S $standby->data_dir . '/pg_wal/pg_dr.spool/socket', 'a process fetches ahead');
$standby->promote;
$standby->safe_psql('postgres', "CHECKPOINT; INSERT INTO ledger SELECT 1000");
$node->safe_psql('postgres', 'CREATE TABLE lost AS SELECT 1 AS a');
$node->stop('fast');
unlink map { $node->data_dir . "/pg_wal/$_" } grep { /^[0-9A-F]{24}$/ && $_ le $last } slurp_dir($node->data_dir . '/pg_wal');
$node->append_conf('postgresql.conf', "restore_command = '" . $restore_command =~ s/'/''/gr . "'\n");
sleep 2;						# it looks once a second
my ($exit, undef, $err) = run_program('--restore-target-wal', '--source-server', $standby->connstr('postgres') . ' user=postgres',
	'--target-pgdata', $node->data_dir, { program => 'pg_rewind' });
is($exit, 0, 'pg_rewind is through');
ok(!-e $node->data_dir . '/pg_wal/pg_dr.spool', 'nothing stayed behind');

# --- it follows
$node->own_address("restore_command = '" . $restore_command =~ s/'/''/gr . "'\n");
append_to_file($node->data_dir . '/standby.signal', '');
$standby->safe_psql('postgres', 'SELECT dr_adopt()');
$standby->wait_archived;
$node->start;
wait_until('the old primary follows the new one', sub { $node->safe_psql('postgres', 'SELECT count(*) FROM ledger WHERE n = 1000') == 1 }, 60);
is($node->safe_psql('postgres', q{SELECT to_regclass('lost') IS NULL}), 't', 'and has nothing of its own');
$_->stop for $node, $standby;

done_testing();
