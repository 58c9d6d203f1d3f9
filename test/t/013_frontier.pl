# Did recovery reach the end of the archive?  A restored cluster says so, and says it when not.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(wait_until);
use Test::More;

my $node = PgDr::Test->create('main', wal_segsize => 1);
$node->safe_psql('postgres', 'CREATE TABLE t (a int)');
$node->full_backup;
$node->safe_psql('postgres', 'INSERT INTO t SELECT generate_series(1, 50000)');
my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
my $early = $node->wait_archived;
$node->safe_psql('postgres', 'INSERT INTO t VALUES (0)');
my $before = $node->wait_archived;
$node->safe_psql('postgres', 'INSERT INTO t VALUES (-1)');
my $last = $node->wait_archived;
wait_until('the end of the archive is noted', sub { $node->archived("$last.frontier") });
$node->destroy;

my $whole = $node->restored('whole');
is($whole->safe_psql('postgres', 'SELECT count(*) FROM t'), 50002, 'everything is there');
like(recovery($whole), qr/^ok\|.*\Q$last\E/, 'a cluster that recovered all says so');
like($whole->safe_psql('postgres', q{SELECT status FROM dr_check() WHERE name = 'recovery'}), qr/^ok$/, 'and dr_check does');
$whole->stop;

my $target = $node->restored('target', args => [ '--target-lsn', $lsn, '--target-action', 'promote' ]);
like(recovery($target), qr/^ok\|.*target.*\Q$lsn\E/, 'one that was to end earlier is fine, too');
$target->stop;

# Somebody's own restore_command that calls the end too early: by two segments, by the last one.
for my $end ($early, $before)
{
	my ($short, $exit) = $node->try_restore("ends_$end");
	is($exit, 0, "up to $end: restore");
	$short->own_address;
	cut_short($short, $end);
	$short->start;
	$short->wait_recovered;
	cmp_ok($short->safe_psql('postgres', 'SELECT count(*) FROM t'), '<', 50002, "up to $end: rows are missing");
	like(recovery($short), qr/^critical\|.*\Q$last\E/, "up to $end: dr_status says so");
	is($short->safe_psql('postgres', q{SELECT status || (hint IS NOT NULL) FROM dr_check() WHERE name = 'recovery'}), 'criticaltrue', "up to $end: dr_check, too");
	$short->stop;
}

sub recovery
{
	my ($cluster) = @_;
	return $cluster->safe_psql('postgres', q{SELECT status, detail FROM dr_status WHERE concern = 'recovery'});
}

# Let restore_command say "not there" for what follows a segment.
sub cut_short
{
	my ($cluster, $end) = @_;
	my $conf = $cluster->data_dir . '/postgresql.auto.conf';
	my ($command) = slurp_file($conf) =~ /^restore_command = '(.*)'$/m or die 'no restore_command';
	my $script = $cluster->basedir . '/short.sh';
	$command =~ s/''/'/g;
	$command =~ s/%f/\$1/g;
	$command =~ s/%p/\$2/g;
	append_to_file($script, "[ \"\$1\" \\> $end ] && exit 1\nexec $command\n");
	append_to_file($conf, "restore_command = 'sh $script %f %p'\n");
	return;
}

done_testing();
