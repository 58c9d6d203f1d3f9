# A repository that is full, read-only or away, and a server that is not set up: clear errors,
# nothing lost, nothing listed that is not whole, and all is well when the cause is gone.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(wait_until);
use Test::More;

my $node = PgDr::Test->create('main', wal_segsize => 1);
$node->safe_psql('postgres', 'CREATE TABLE t AS SELECT g, gen_random_uuid() FROM generate_series(1, 50000) g');
$node->full_backup;
my $directory = $node->repository->is_directory;

# --- read-only
$node->repository->read_only;
refused('a read-only repository', $directory ? (qr/Permission denied/, qr/must own/) : (qr/AccessDenied/, qr/Allow/));
archiving_fails('a read-only repository');
$node->repository->writable;
$node->wait_archived;

# --- full.  test/run mounts a file system of 48 MB for this, or says that it can't.
SKIP:
{
	skip 'only directories: a full file system', 1 unless $directory;
	my $small = $ENV{PGDR_SMALL_FS} or skip 'NOT TESTED: a full file system (could not be mounted)', 1;
	my $home = $node->repository;
	move_repository(PgDr::Store->new($small));
	my $whole = $node->full_backup;
	fill($small);
	refused('a full repository', qr/No space left/, qr/Make room/);
	archiving_fails('a full repository');
	my @partial = grep { !/\Q$whole\E/ } $node->objects(qr{/backup/});
	is_deeply(\@partial, [], 'a failed backup leaves no packs that would need the room');
	unlink "$small/filler";
	$node->wait_archived;
	pass('archiving catches up when there is room');
	my $again = $node->full_backup;
	is_deeply([ $node->listed ], [ $whole, $again ], 'and backups are made again');
	$node->stop;
	move_repository($home);
}

# --- no room for the change map: the server goes on, backups read everything, and the map goes on where it was
SKIP:
{
	skip 'only once', 1 unless $directory;
	my $small = $ENV{PGDR_SMALL_FS} or skip 'NOT TESTED: no room for the change map (no file system could be mounted)', 1;
	$node->stop;
	moved_to($small, $node->data_dir . '/pg_dr/map');
	$node->start;
	$node->full_backup;
	fill($small);
	$node->safe_psql('postgres', 'UPDATE t SET g = g + 1; CHECKPOINT');
	my ($exit, $id, $err) = $node->psql('postgres', q{SELECT dr_backup('incremental')});
	is($exit, 0, 'no room for the change map: an incremental backup') or diag $err;
	like($err, qr/everything is read: /, 'reads everything, and says so');
	like($node->safe_psql('postgres', q{SELECT status, detail FROM dr_status WHERE concern = 'change_map'}), qr/^(warning|critical)\|.*No space left/, 'dr_status says why');
	unlink "$small/filler";
	$node->poll_query_until('postgres', q{SELECT state = 'mapping' FROM dr.change_map()});
	$node->safe_psql('postgres', 'DELETE FROM t WHERE g < 1000');
	($exit, $id, $err) = $node->psql('postgres', q{SELECT dr_backup('incremental')});
	is("$exit$err", 0, 'when there is room, the next one reads what changed');
	my $sum = $node->checksums;
	$node->wait_archived;
	is($node->restored('mapped', args => [ '--backup', $id ])->checksums, $sum, 'which restores');
	$node->stop;
	unlink $node->data_dir . '/pg_dr/map';
	rename "$small/map", $node->data_dir . '/pg_dr/map' or system_or_bail('mv', "$small/map", $node->data_dir . '/pg_dr/map');
	$node->start;
}

# --- no room for what recovery fetches ahead: it recovers all the same
SKIP:
{
	skip 'only once', 1 unless $directory;
	my $small = $ENV{PGDR_SMALL_FS} or skip 'NOT TESTED: no room ahead of recovery (no file system could be mounted)', 1;
	my $id = $node->full_backup;
	$node->safe_psql('postgres', 'INSERT INTO t SELECT g, gen_random_uuid() FROM generate_series(1, 200000) g');
	my $sum = $node->checksums;
	my $segments = $node->safe_psql('postgres', "SELECT ceil(pg_wal_lsn_diff(pg_current_wal_lsn(), start_lsn) / (1024 * 1024)) FROM dr_backups WHERE id = '$id'");
	cmp_ok($segments, '>', 10, 'recovery will keep many segments, as it does until a restart point');
	$node->wait_archived;
	my $copy = $node->restored('narrow', start => 0);
	moved_to($small, $copy->data_dir . '/pg_wal');
	fill($small);
	truncate "$small/filler", (-s "$small/filler") - ($segments + 4) * 1024 * 1024 or die $!;
	$copy->start;
	$copy->wait_recovered;
	is($copy->checksums, $sum, 'recovered with room for four more');
	$copy->stop;
	system_or_bail('rm', '-rf', "$small/pg_wal", "$small/filler");
}

# --- the server is not set up
for my $case (
	[ 'wal_level = minimal', "wal_level = minimal\nmax_wal_senders = 0\narchive_mode = off\n", qr/wal_level|archive_mode/, 'wal_level' ],
	[ 'archive_mode = off', "archive_mode = off\n", qr/archive_mode/, 'archive_mode' ],
	[ 'not preloaded', "shared_preload_libraries = ''\n", qr/shared_preload_libraries/, 'preload' ])
{
	my ($what, $settings, $message, $line) = @$case;
	my $conf = slurp_file($node->data_dir . '/postgresql.conf');
	# As README says: no server starts with a slot and without the WAL that a slot is for.
	$node->append_conf('postgresql.conf', 'pg_dr.change_map = off');
	$node->reload;
	$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_replication_slots');
	$node->append_conf('postgresql.conf', $settings);
	$node->restart;
	refused($what, $message, qr/./);
	my ($exit, $out, $err) = $node->psql('postgres', "SELECT status, hint IS NOT NULL FROM dr_check() WHERE name = '$line'");
	is($out, 'critical|t', "$what: dr_check says so, and what to do");
	unlink $node->data_dir . '/postgresql.conf';
	$node->append_conf('postgresql.conf', $conf);
	$node->restart;
}
my $sum = $node->checksums;
$node->full_backup;
$node->wait_archived;
$node->destroy;
is($node->restored('copy')->checksums, $sum, 'after all of that the last backup restores');

sub refused
{
	my ($what, $message, $hint) = @_;
	my @before = $node->listed;
	my ($exit, undef, $err) = $node->psql('postgres', q{SELECT dr_backup('full')});
	isnt($exit, 0, "$what: dr_backup fails");
	like($err, $message, "$what: and says why");
	like($err, qr/HINT: .*$hint/, "$what: and what to do");
	is_deeply([ $node->listed ], \@before, "$what: what was there is there");
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_dr backup'"), 0, "$what: no worker is left");
	return;
}

# The segment waits in pg_wal and is counted as a failure.
sub archiving_fails
{
	my ($what) = @_;
	my $failed = $node->safe_psql('postgres', 'SELECT failed_count FROM pg_stat_archiver');
	my $segment = $node->safe_psql('postgres', q{
		SELECT pg_create_restore_point('x') IS NULL; SELECT pg_walfile_name(pg_switch_wal())}) =~ s/.*\n//sr;
	$node->poll_query_until('postgres', "SELECT failed_count > $failed FROM pg_stat_archiver");
	ok(-e $node->data_dir . "/pg_wal/archive_status/$segment.ready", "$what: the segment waits in pg_wal");
	ok(!$node->archived($segment), "$what: and is not in the repository");
	is($node->safe_psql('postgres', q{SELECT status FROM dr_status WHERE concern = 'archiving'}), 'critical', "$what: dr_status says so");
	return;
}

sub fill
{
	my ($small) = @_;
	open my $filler, '>', "$small/filler" or die $!;
	1 while syswrite $filler, "\0" x 4096;
	close $filler;
	return;
}

# A directory lies there now, with a link where it was.
sub moved_to
{
	my ($small, $path) = @_;
	my ($name) = $path =~ m{([^/]+)$};
	system_or_bail('mv', $path, "$small/$name");
	symlink "$small/$name", $path or die $!;
	return;
}

sub move_repository
{
	my ($to) = @_;
	$node->{repository} = $to;
	$node->append_conf('postgresql.conf', $to->settings);
	$node->{_pid} ? $node->reload : $node->start;
	return;
}

done_testing();
