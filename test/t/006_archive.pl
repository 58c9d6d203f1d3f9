# The archive module: idempotent, never overwriting, durable before it says yes.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(wait_until);
use Test::More;

my $node = PgDr::Test->create('main', wal_segsize => 1, store => [ severable => 1 ]);
my $since = $node->alive_since;
my $status = $node->data_dir . '/pg_wal/archive_status';

# --- the same again is success: a crash between upload and .done offers it twice
my $segment = $node->wait_archived;
my $object = $node->wal_object($segment);
my $stored = $node->repository->read($object);
wait_until('.done', sub { -e "$status/$segment.done" });
rename "$status/$segment.done", "$status/$segment.ready" or die $!;
$node->wait_archived;
wait_until('.done again', sub { -e "$status/$segment.done" });
ok($node->repository->read($object) eq $stored, 'the same segment again: accepted, and the object is the first one');

# --- other bytes under the name: refused for ever, both named, nothing overwritten
my $next = $node->safe_psql('postgres', q{
	SELECT pg_create_restore_point('x') IS NULL; SELECT pg_walfile_name(pg_current_wal_insert_lsn())}) =~ s/.*\n//sr;
my $taken = $node->wal_object($next);
$node->repository->copy($object, $taken);
my $offset = -s $node->logfile;
my $failed = $node->safe_psql('postgres', 'SELECT failed_count FROM pg_stat_archiver');
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
$node->poll_query_until('postgres', "SELECT failed_count > $failed FROM pg_stat_archiver");
pass('a name that is taken counts in pg_stat_archiver');
my $log = slurp_file($node->logfile, $offset);
like($log, qr/\Q$next\E/, 'the log names the segment');
like($log, qr/\Q$taken\E/, 'and the object');
ok($node->repository->read($taken) eq $stored, 'the object is not overwritten');
ok(-e "$status/$next.ready", 'the segment still waits');
is($node->alive_since, $since, 'an error in the callback is no crash');

# --- put right, it goes on by itself
$node->repository->remove($taken);
$node->wait_archived;
ok($node->repository->exists($taken), 'the archiver goes on when the cause is gone');
is($node->safe_psql('postgres', 'SELECT last_archived_wal >= ' . "'$next'" . ' FROM pg_stat_archiver'), 't', 'and says so');

# --- a repository that is not there: failure, not loss
$node->repository->away;
$failed = $node->safe_psql('postgres', 'SELECT failed_count FROM pg_stat_archiver');
my $waiting = $node->safe_psql('postgres', q{SELECT pg_create_restore_point('y'); SELECT pg_walfile_name(pg_switch_wal())}) =~ s/.*\n//sr;
$node->poll_query_until('postgres', "SELECT failed_count > $failed FROM pg_stat_archiver");
ok(-e "$status/$waiting.ready", 'an absent store: the segment waits');
$node->repository->back;
wait_until('the segment arrives', sub { $node->archived($waiting) });
pass('and arrives when the store is back');

# --- a smart shutdown lets clients stay, and meanwhile the archiver has as much time as ever
my $client = $node->start_backup('SELECT pg_sleep(15)');
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
my $slow = $node->archiver_agent;
kill 'STOP', $slow;
my $kept = $node->safe_psql('postgres', q{SELECT pg_create_restore_point('s') IS NULL; SELECT pg_walfile_name(pg_switch_wal())}) =~ s/.*\n//sr;
system "(sleep 12; kill -CONT $slow) </dev/null >/dev/null 2>&1 &";
$offset = -s $node->logfile;
$node->stop('smart');
$client->();
unlike(slurp_file($node->logfile, $offset), qr/has not taken the file/, 'a smart shutdown takes no time from the archiver');
ok($node->archived($kept), 'which has archived before the server stops');
$node->start;

# --- shutdown: the last user WAL is in the repository although the workers are gone
my $id = $node->full_backup;
$node->safe_psql('postgres', 'CREATE TABLE last_words AS SELECT generate_series(1, 1000) a');
my $last = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_insert_lsn())');
my $sum = $node->checksums;
$node->system_identifier;
$node->stop('fast');
ok($node->archived($last), 'a fast shutdown archives the last segment');
my $copy = $node->restored('copy');
is($copy->checksums, $sum, 'which brings back what was written last');

# --- a copy has no token: it waits, and says so, until it is adopted
$copy->wait_for_log(qr/lineage|adopt/);
pass('a copy says that it does not archive');
$failed = $copy->safe_psql('postgres', 'SELECT failed_count FROM pg_stat_archiver');
my $foreign = $copy->safe_psql('postgres', q{SELECT pg_create_restore_point('z'); SELECT pg_walfile_name(pg_switch_wal())}) =~ s/.*\n//sr;
$copy->poll_query_until('postgres', 'SELECT failed_count > 0 FROM pg_stat_archiver');
ok(!$node->archived($foreign), 'a copy does not archive');
my ($exit, undef, $err) = $copy->psql('postgres', q{SELECT dr_backup('full')});
isnt($exit, 0, 'nor make backups');
like($err, qr/adopt/, 'and its error says what to do');

# --- the original, started again, is still the writer
$node->start;
$node->wait_archived;
pass('the original archives as before');

# --- adopted, the copy is the writer, with its history; the original must lose, clearly
$copy->safe_psql('postgres', 'SELECT dr_adopt()');
wait_until('the copy archives', sub { $node->archived($foreign) });
wait_until('its timeline history is archived', sub { $node->archived("00000002.history") });
$offset = -s $node->logfile;
$node->safe_psql('postgres', 'SELECT pg_sleep(1.1)');	# the archiver asks who the writer is once a second
my $lost = $node->safe_psql('postgres', q{SELECT pg_create_restore_point('a'); SELECT pg_walfile_name(pg_switch_wal())}) =~ s/.*\n//sr;
$node->wait_for_log(qr/lineage|adopt/, $offset);
ok(!$node->archived($lost), 'the original does not archive any more');
ok(scalar($node->objects(qr{\.backup$})) >= 1, 'backup history files are archived');

# --- the child dies while nothing happens: the next segment starts a new one
kill 9, $copy->archiver_agent // 0;
$copy->wait_archived;
pass('a dead child is replaced');

# --- SIGTERM to the archiver's child, SIGTERM to the archiver: nothing worse than a retry
kill 'TERM', $copy->archiver;
$copy->wait_archived;
pass('a new archiver goes on');

# --- failover: what the lost primary had begun is archived by the standby, as .partial
$copy->safe_psql('postgres', 'ALTER SYSTEM RESET ALL');	# its own recovery's settings
$copy->backup('base');
my $standby = PgDr::Test->new('standby');
@$standby{qw(repository key_file)} = @$node{qw(repository key_file)};
$standby->init_from_backup($copy, 'base', has_streaming => 1);
$standby->start;
$offset = -s $copy->logfile;
$copy->append_conf('postgresql.conf', "pg_dr.wal_conninfo = '" . $standby->connstr =~ s/'/''/gr . " user=postgres'");
$copy->reload;
$copy->wait_for_log(qr/could not ship the tail.*leads to another server of this cluster/s, $offset);
pass('the tail is not taken from a standby');
# What it had not archived, the standby has received and takes for archived.
$copy->hold_at('archive.read');
for my $n (1 .. 3)
{
	$copy->safe_psql('postgres', "CREATE TABLE received_$n AS SELECT generate_series(1, 1000) AS a");
	$copy->safe_psql('postgres', 'SELECT pg_switch_wal()');
}
$copy->safe_psql('postgres', 'CREATE TABLE begun AS SELECT 1 AS a');
$copy->wait_for_catchup($standby);
$copy->machine_dies;
$standby->append_conf('postgresql.conf', "pg_dr.wal_conninfo = ''");
$standby->promote;
$standby->safe_psql('postgres', 'SELECT dr_adopt()');
$standby->wait_archived;
$standby->wait_for_log(qr/archived 3 WAL segments of older timelines/);
my $across = $standby->restored('across', args => [ '--backup', $id ]);
is($across->checksums, $standby->checksums, 'a backup from before reaches across the failover');
$across->stop;
$standby->poll_query_until('postgres', q{SELECT isempty(gaps) FROM dr_wal WHERE timeline = 2});
is($standby->safe_psql('postgres', q{SELECT status FROM dr_status WHERE concern = 'recovery_window'}), 'ok', 'and dr_status knows');
ok($node->archived('00000003.history'), 'the standby archives its history');
is(scalar($node->objects(qr{/wal/00000002/[0-9A-F]{24}\.partial$})), 1, 'and the last segment of the old timeline, as .partial');

# --- an empty repository for a cluster of a later timeline: its history was archived long ago, elsewhere
my $sums = $standby->checksums;
$standby->change_repository('second');
$standby->full_backup;
$standby->wait_archived;
ok($standby->archived('00000003.history'), 'the backup brings its timeline history');
my $elsewhere = $standby->restored('elsewhere');
is($elsewhere->checksums, $sums, 'and restores');
$elsewhere->stop;

$exit = ($node->reader('verify'))[0];
is($exit, 0, 'the independent reader finds no problem');
$standby->stop;
$node->stop('immediate');

# --- a data directory that was rolled back to an older copy: the names are taken by a history that it has
# left.  What stands there is not this backup's WAL, so there is no backup
my $rolled = PgDr::Test->create('rolled', wal_segsize => 1);
$rolled->wait_archived;
$rolled->stop;
system_or_bail('cp', '-a', $rolled->data_dir, $rolled->data_dir . '.older');
$rolled->start;
$rolled->wait_archived for 1 .. 6;
$rolled->stop;
system_or_bail('rm', '-rf', $rolled->data_dir);
rename $rolled->data_dir . '.older', $rolled->data_dir or die $!;
$rolled->start;
my $finish = $rolled->start_backup;
$rolled->poll_query_until('postgres', q{SELECT phase LIKE 'waiting for WAL%' FROM dr_progress});
$rolled->wait_for_log(qr/already archived with other content/);
sleep 2;
like($rolled->safe_psql('postgres', q{SELECT phase FROM dr_progress}), qr/^waiting for WAL/, 'rolled back: a backup waits for WAL of its own');
$rolled->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ 'dr_backup' AND pid <> pg_backend_pid()});
isnt(($finish->())[0], 0, 'and does not complete');
is(scalar($rolled->listed), 0, 'nor is one listed');
$rolled->stop('immediate');
done_testing();
