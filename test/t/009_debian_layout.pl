# Configuration outside of the data directory, as Debian does it: it is in every
# backup, and goes where --config-dir says or into the data directory.
use strict;
use warnings;
use File::Path qw(make_path rmtree);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test;
use Test::More;

my $node = PgDr::Test->create('main', wal_segsize => 1, start => 0);
my $etc = PostgreSQL::Test::Utils::tempdir_short() . '/15/main';
make_path("$etc/conf.d");
for my $file (qw(postgresql.conf pg_hba.conf pg_ident.conf))
{
	rename $node->data_dir . "/$file", "$etc/$file" or die $!;
}
append_to_file("$etc/postgresql.conf", <<"END");
data_directory = '@{[$node->data_dir]}'
hba_file = '$etc/pg_hba.conf'
ident_file = '$etc/pg_ident.conf'
include_dir 'conf.d'
END
append_to_file("$etc/conf.d/10-ours.conf", "work_mem = 5MB\n");
append_to_file("$etc/start.conf", "manual\n");
append_to_file("$etc/pg_hba.conf", "# ours\n");

start_with($node, $etc);
$node->safe_psql('postgres', 'CREATE EXTENSION pg_dr; CREATE TABLE t AS SELECT generate_series(1, 1000) a');
my $id = $node->full_backup;
my $sum = $node->checksums;
$node->wait_archived;
$node->destroy($etc);

# Put where Debian wants it.
my $config = PostgreSQL::Test::Utils::tempdir_short() . '/etc';
my ($debian, $exit, undef, $err) = $node->try_restore('debian', '--config-dir', $config);
is($exit, 0, 'restore with --config-dir') or diag $err;
like(slurp_file("$config/pg_hba.conf"), qr/^# ours$/m, 'pg_hba.conf is back');
is(slurp_file("$config/conf.d/10-ours.conf"), "work_mem = 5MB\n", 'included files are back');
like(slurp_file("$config/postgresql.conf"), qr/^include_dir 'conf\.d'$/m, 'postgresql.conf is back');
ok(!-e $debian->data_dir . '/conf.d', 'and not in the data directory');

# Into the data directory: a plain pg_ctl start must do.
my $plain = $node->restored('plain');
is($plain->checksums, $sum, 'restored without --config-dir: a plain start recovers it');
is($plain->safe_psql('postgres', 'SHOW work_mem'), '5MB', 'with the settings it had');
is($plain->safe_psql('postgres', 'SHOW data_directory'), $plain->data_dir, 'in its own place');
like($plain->safe_psql('postgres', 'SHOW hba_file'), qr/^\Q@{[$plain->data_dir]}\E/, 'with its own pg_hba.conf');

# The same again over what is there: files that the first restore put into the data directory are
# not of the backup, those in a place of their own are kept beside.
$plain->stop;
($exit, undef, $err) = $node->program('restore', '--delta', '--pgdata', $plain->data_dir);
is($exit, 0, 'restore --delta without --config-dir') or diag $err;
is(join(' ', glob($plain->data_dir . '/*.before-restore*')), '', 'nothing was in the way');
$plain->own_address;
$plain->start;
$plain->wait_recovered;
is($plain->checksums, $sum, 'and a plain start recovers it');
is($plain->safe_psql('postgres', 'SHOW work_mem'), '5MB', 'with the settings it had');
$plain->sound;
append_to_file("$config/pg_hba.conf", "# changed\n");
for my $n ('', '.2')
{
	($exit, undef, $err) = $node->program('restore', '--delta', '--pgdata', $debian->data_dir, '--config-dir', $config);
	is($exit, 0, "restore --delta with --config-dir$n") or diag $err;
	unlike(slurp_file("$config/pg_hba.conf"), qr/^# changed$/m, 'pg_hba.conf is that of the backup');
	like(slurp_file("$config/pg_hba.conf.before-restore"), qr/^# changed$/m, 'and what was there is beside it');
	ok(-e "$config/pg_hba.conf.before-restore$n", "as pg_hba.conf.before-restore$n");
}

done_testing();

# Cluster.pm's start() knows no configuration outside of the data directory.
sub start_with
{
	my ($node, $etc) = @_;
	$node->command_ok([ 'pg_ctl', '-w', '-D', $etc, '-l', $node->logfile, '-o', '--cluster-name=' . $node->name, 'start' ], 'started');
	$node->_update_pid(1);
	return;
}
