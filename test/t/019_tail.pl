# The tail: what the server has flushed is in the repository a moment later, and
# before the commit returns when synchronous_standby_names says so.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IO::Select ();
use PgDr::Ledger;
use PgDr::Test qw(campaign run_program wait_until flip);
use Test::More;
use Time::HiRes qw(sleep time);

my $node = PgDr::Test->create('main', wal_segsize => 1, conf => <<'END');
pg_dr.wal_ship_interval = 200ms
restart_after_crash = on
autovacuum = off
END
my $ledger = PgDr::Ledger->new($node);
$node->full_backup;

sub pieces { return $node->objects(qr{/wal/[0-9A-F]{8}/[0-9A-F]{24}\.[0-9A-F]{8}\.[0-9A-F]{8}$}) }
sub tail { return $node->safe_psql('postgres', "SELECT $_[0] FROM dr.tail()") }

# Everything that is flushed is in the repository.
sub wait_shipped
{
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	$node->poll_query_until('postgres', "SELECT durable >= '$lsn' FROM dr.tail()") or die 'the tail is not shipped';
	return $lsn;
}

# --- it streams, reports as flushed what is durable, and an idle server ships nothing
$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
is($node->safe_psql('postgres', q{SELECT application_name, state, sync_state FROM pg_stat_replication}), 'pg_dr|streaming|async', 'a client of its own server');
$ledger->add(10);
wait_shipped();
cmp_ok(scalar(pieces()), '>', 0, 'pieces are in the repository');
wait_until('nothing waits', sub { tail('waiting_since IS NULL') eq 't' });
wait_until('the server is idle', sub {
		my @before = (scalar(pieces()), $node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()'));
		sleep 2;
		return 0 if $node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()') ne $before[1];
		is(scalar(pieces()), $before[0], 'an idle server ships nothing');
		return 1 });
like($node->safe_psql('postgres', q{SELECT status, detail FROM dr_status WHERE concern = 'recovery_point'}), qr{^ok\|0\.0 s: everything up to}, 'dr_status shows the recovery point');

# --- archived, the pieces are dropped
my $segment = $node->wait_archived;
wait_until('its pieces are gone', sub { !grep { /\Q$segment\E\./ } pieces() });
pass('the pieces of an archived segment are dropped');

# --- a restore while the server lives: what was tail when it was listed is archived a moment later.  Between the two
# the program is made to wait, for somebody to read its warnings.
my @unfinished = map { sprintf '%s/backup/29990101T000000Z-full-%06x/pack-00000001', $node->system_identifier, $_ } 1 .. 30;
for my $kind (qw(time lsn))
{
	$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
	$ledger->add(1);
	my $rows = $node->safe_psql('postgres', 'SELECT count(*) FROM ledger');
	sleep 0.1;
	my $target = $node->safe_psql('postgres', $kind eq 'time' ? 'SELECT clock_timestamp()' : 'SELECT pg_current_wal_insert_lsn()');
	sleep 0.1;
	$ledger->add(1);
	wait_shipped();
	my $living = PgDr::Test->new("living_$kind");
	$node->repository->write($_, 'x') for @unfinished;
	pipe(my $warnings, my $stderr) or die "pipe: $!";
	fcntl($stderr, 1031, 4096) or die "F_SETPIPE_SZ: $!";	# room for fewer than there are
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDERR, '>&', $stderr;
		open STDOUT, '>', '/dev/null';
		exec 'pg_dr', 'restore', $node->access, '--pgdata', $living->data_dir, "--target-$kind", $target, '--target-action', 'promote';
	}
	close $stderr;
	IO::Select->new($warnings)->can_read(60) or die 'no warnings';
	my $was_tail = $node->wait_archived;
	wait_until('its pieces are gone', sub { !grep { /\Q$was_tail\E\./ } pieces() });
	my $said = do { local $/; <$warnings> };
	waitpid $pid, 0;
	is($?, 0, "archived after it was listed: a $kind in it is no target behind the end") or diag $said =~ s/^.*warning.*\n//mgr;
	$node->repository->remove($_) for @unfinished;
	$living->own_address;
	$living->start;
	$living->wait_recovered;
	is($living->safe_psql('postgres', 'SELECT count(*) FROM ledger'), $rows, 'and is recovered to');
	$living->teardown_node;
}

# --- the machine is lost: all that was shipped comes back, to a moment in the tail, too
$ledger->add(100);
my $n = $node->safe_psql('postgres', 'SELECT max(n) FROM ledger');
my $lsn = wait_shipped();
$ledger->add(100);
wait_shipped();
$node->stop('immediate');
is($ledger->missing($node->restored('whole')), 0, 'what was in the tail comes back');
my $point = $node->restored('point', args => [ '--target-lsn', $lsn, '--target-action', 'promote' ]);
is($point->safe_psql('postgres', 'SELECT max(n) FROM ledger'), $n, 'and a location in it can be recovered to');
my ($none, $exit, undef, $err) = $node->try_restore('beyond', '--target-lsn', '0/FF000000');
isnt($exit, 0, 'one beyond it is refused');
like($err, qr/can't be reached/, 'with what can be reached');
my ($high, $low) = $err =~ m{every location from \S+ to ([0-9A-F]+)/([0-9A-F]+) can};
my $at_last = $node->restored('at_last', args => [ '--target-lsn', "$high/$low", '--target-action', 'promote' ]);
is($ledger->missing($at_last), 0, 'which can: it is where the last record begins');
(undef, $exit) = $node->try_restore('in_last', '--target-lsn', sprintf '%s/%X', $high, hex($low) + 1);
isnt($exit, 0, 'in that record there is none');
$_->teardown_node for $at_last, $point;

# --- a new incarnation: crashes overwrite what had been shipped
my $incarnations = 0;
for my $crash (1 .. 3)
{
	$node->start unless $crash > 1 && $node->raw_connect_works;
	$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
	my $load = $ledger->start;
	sleep 1;
	$node->machine_dies;
	$ledger->finish($load);
	$node->start;
	$node->poll_query_until('postgres', q{SELECT state = 'streaming' AND durable IS NOT NULL FROM dr.tail()});
	is($ledger->missing($node), 0, "crash $crash: the server itself lost nothing");
	$ledger->add(5);
	wait_shipped();
	my %seen = map { /\.([0-9A-F]{8})\.[0-9A-F]{8}$/ ? (hex $1 => 1) : () } pieces();
	cmp_ok((sort { $b <=> $a } keys %seen, 0)[0], '>=', 1, "crash $crash: pieces of incarnation " . join(' ', sort keys %seen));
	my $copy = $node->restored("crash_$crash");
	is($ledger->missing($copy), 0, "crash $crash: and the repository has it all");
	is($copy->checksums, $node->checksums, "crash $crash: to the last row");
	$copy->teardown_node;
}

# --- the child dies at its steps, and the server does
for my $step (qw(tail.sealed tail.stored))
{
	for my $victim (qw(child machine))
	{
		my $offset = -s $node->logfile;
		$node->hold_at($step);
		$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
		$ledger->add(1);
		$node->wait_held($step, $offset);
		$node->append_conf('postgresql.conf', "pg_dr.debug_hold_at = ''");
		if ($victim eq 'child') { $node->reload; kill 9, $node->wal_agent }
		else { $node->machine_dies; $node->start }
		$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
		$ledger->add(1);
		wait_shipped();
		my $copy = $node->restored("${step}_$victim" =~ s/\./_/r);
		is($ledger->missing($copy), 0, "$step, $victim dies: nothing is missing");
		$copy->teardown_node;
	}
}

# --- commits that return only when they are in the repository
$node->append_conf('postgresql.conf', "synchronous_standby_names = 'pg_dr'\npg_dr.wal_ship_interval = 1s");
$node->reload;
$node->poll_query_until('postgres', q{SELECT synchronous FROM dr.tail()});
for my $run (1 .. (campaign() ? 20 : 3))
{
	my $load = $ledger->start(2);
	sleep 0.5 + rand;
	$node->machine_dies;
	my $acknowledged = $ledger->finish($load);
	cmp_ok($acknowledged, '>', 0, "run $run: $acknowledged commits were acknowledged");
	my $copy = $node->restored("synchronous_$run", conf => "synchronous_standby_names = ''\n");
	is($ledger->missing($copy), 0, "run $run: no acknowledged commit is missing");
	$copy->teardown_node;
	$node->start;
	$node->poll_query_until('postgres', q{SELECT synchronous FROM dr.tail()});
}
my $id = $node->full_backup;
is($node->safe_psql('postgres', "SELECT status FROM dr_backups WHERE id = '$id'"), 'completed', 'a backup does not wait for itself');

# --- the store is away: commits wait, nothing is lost, nothing hangs for ever
SKIP:
{
	skip 'the way to this store is not ours to cut', 1 unless $node->repository->is_directory;
	$node->repository->away;
	my $load = $ledger->start;
	sleep 2;
	my $waiting = $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'});
	cmp_ok($waiting, '>', 0, 'the store is away: commits wait');
	$node->repository->back;
	$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query_start < now() - interval '5 s'});
	pass('it is back: they go on');
	kill 'TERM', $load->{pid};
	$ledger->finish($load);
}

# --- the archiver lags: commits do not wait for it, what is in pieces only is no gap
$node->poll_query_until('postgres', q{SELECT synchronous AND durable >= pg_current_wal_flush_lsn() FROM dr.tail()});
$node->wait_archived;
my $archiver = $node->archiver;
kill 'STOP', $archiver;
for (1 .. 3)
{
	$ledger->add(3);
	$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
}
$ledger->add(3);
my $committed = wait_shipped();
is($node->safe_psql('postgres', 'SELECT isempty(gaps), last_lsn >= ' . "'$committed'" . ' FROM dr_wal'), 't|t', 'whole segments in pieces are no gap');
is($node->safe_psql('postgres', "SELECT bool_and(latest_lsn >= '$committed') FROM dr_recovery_windows"), 't', 'nor the end of a window');
like($node->safe_psql('postgres', q{SELECT status || detail FROM dr_status WHERE concern = 'recovery_window'}), qr/^okthe newest backup, \Q$id\E, can be recovered to/, 'dr_status says so');

# --- a new child does not know how far the archiver has come: no piece of what comes behind that
kill 9, $node->wal_agent;
$node->poll_query_until('postgres', q{SELECT synchronous AND durable IS NULL FROM dr.tail()});
my @behind = map { $node->safe_psql('postgres', q{
	SET synchronous_commit = local; SELECT pg_logical_emit_message(true, '', repeat('x', 50000)) IS NULL;
	SELECT pg_walfile_name(pg_switch_wal())}) =~ s/.*\n//sr } 1 .. 2;
sleep 2;
is(scalar(grep { /\Q$behind[1]\E\./ } pieces()), 0, 'behind what is left to the archiver there are no pieces');
kill 'CONT', $archiver;
$node->poll_query_until('postgres', q{SELECT durable >= pg_current_wal_flush_lsn() FROM dr.tail()});
pass('until that is archived');
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''");
$node->reload;
$node->poll_query_until('postgres', q{SELECT NOT synchronous FROM dr.tail()});

# --- nobody told the archiver of a segment: that the next one is archived does not make up for it
$archiver = $node->archiver;
kill 'STOP', $archiver;
my @marked = map { $ledger->add(3); $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())') } 1 .. 2;
my $marks = $node->data_dir . '/pg_wal/archive_status';
unlink "$marks/$marked[0].ready" or die "$marked[0].ready: $!";
kill 'CONT', $archiver;
wait_until('the next one is archived', sub { -e "$marks/$marked[1].done" });
sleep 2;
ok(!$node->archived($marked[0]), 'a segment that lost its mark is not archived');
is(tail("durable < upper(dr.segment_range('$marked[0]'))"), 't', 'and nothing behind it is called durable');
kill 9, $node->wal_agent;
wait_until('it is marked again', sub { $node->archived($marked[0]) });
wait_shipped();

# --- idle: what is said to be recoverable is
my ($possible, $detail);
wait_until('the server is idle', sub {
		($possible, $detail) = split /\|/, $node->safe_psql('postgres', 'SELECT possible, detail FROM dr_can_recover(now())');
		return $detail =~ /Nothing has been written since: restore without a target/ });
is($possible, 'f', 'a moment behind the last commit is none to recover to, and what to do instead is said');
my $latest = $node->safe_psql('postgres', 'SELECT max(latest_time) FROM dr_recovery_windows');
($possible, $detail) = split /\|/, $node->safe_psql('postgres', "SELECT possible, detail FROM dr_can_recover('$latest'::timestamptz - interval '2 s')");
is($possible, 't', 'one before it is');

# --- damage: a piece that does not open is never handed to recovery
my ($rows, $last_archived) = split /\|/, $node->safe_psql('postgres', 'SELECT count(*), pg_current_wal_insert_lsn() FROM ledger');
$node->wait_archived;
$ledger->add(3);
wait_shipped();
$node->stop('immediate');
my ($piece) = sort { $a cmp $b } pieces();
my $bytes = $node->repository->read($piece);
$node->repository->flip($piece);
($none, $exit, undef, $err) = $node->try_restore('damaged');
isnt($exit, 0, 'a damaged piece: a restore to the end is refused');
like($err, qr/\Q$piece\E/, 'and names it');
my $short = $node->restored('before_damaged', args => [ '--target-lsn', $last_archived, '--target-action', 'promote' ]);
is($short->safe_psql('postgres', 'SELECT count(*) FROM ledger'), $rows, 'one to a location before it does not come upon it');
$short->teardown_node;
my ($name) = $piece =~ m{/([0-9A-F]{24})\.};
($exit) = run_program('wal-get', '--system-identifier', $node->system_identifier, $node->access, $name, $node->basedir . '/w');
cmp_ok($exit, '>', 125, 'wal-get aborts recovery');
$node->repository->write($piece, $bytes);
($exit) = run_program('wal-get', '--system-identifier', $node->system_identifier, $node->access, $name, $node->basedir . '/w');
is($exit, 0, 'sound again, it is handed out');
my ($reader_exit, $theirs) = $node->reader('segment', $node->wal_object($name));
is($reader_exit, 0, 'the independent reader puts it together');
my $ours = slurp_file($node->basedir . '/w');
ok($ours eq $theirs . "\0" x (length($ours) - length($theirs)) && length($ours) == 1 << 20, 'to the same bytes');
(($reader_exit) = $node->reader('verify'));
is($reader_exit, 0, 'and finds no problem');

# --- a power failure takes the mark that a segment waits for the archiver (wal_keep_size keeps the server
# from setting it again)
$node->append_conf('postgresql.conf', "wal_keep_size = 1GB\nautovacuum = off");
$node->start;
$node->wait_archived;
my $held = -s $node->logfile;
$node->hold_at('archive.read');
my $unmarked = $node->safe_psql('postgres', q{SELECT pg_create_restore_point('x') IS NULL; SELECT pg_walfile_name(pg_switch_wal())}) =~ s/.*\n//sr;
$node->wait_held('archive.read', $held);
$ledger->add(1);
$node->machine_dies;
unlink $node->data_dir . "/pg_wal/archive_status/$unmarked.ready" or die "$unmarked.ready: $!";
$node->append_conf('postgresql.conf', "pg_dr.debug_hold_at = ''");
$node->start;
wait_until('the mark is set again', sub { $node->archived($unmarked) });
pass('a segment that lost its mark in a crash is archived');
wait_shipped();
$node->append_conf('postgresql.conf', 'wal_keep_size = 0');
$node->stop('immediate');

# --- pg_hba.conf refuses: said, with the line to add; archiving goes on
$node->start;
my $hba = $node->data_dir . '/pg_hba.conf';
my $text = slurp_file($hba);
unlink $hba;
append_to_file($hba, "local all all trust\n");
my $offset = -s $node->logfile;
$node->reload;
kill 9, $node->wal_agent;
$node->wait_for_log(qr/could not ship the tail.*pg_hba.*local replication postgres peer/s, $offset);
pass('where pg_hba.conf refuses, the log has the line to add');
like($node->safe_psql('postgres', q{SELECT status || detail || hint FROM dr_status WHERE concern = 'recovery_point'}), qr/^warning.*only whole segments.*local replication/s, 'and dr_status');
$node->wait_archived;
pass('archiving goes on without the tail');
unlink $hba;
append_to_file($hba, $text);
$node->reload;
$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
pass('put right, it streams again');

# --- another cluster's conninfo, and none
$offset = -s $node->logfile;
$node->append_conf('postgresql.conf', "pg_dr.wal_conninfo = 'host=/nowhere'");
$node->reload;
$node->wait_for_log(qr/could not ship the tail.*nowhere/s, $offset);
pass('a way that leads nowhere is said');
$node->append_conf('postgresql.conf', "pg_dr.wal_conninfo = ''\npg_dr.wal_ship_interval = 0");
$node->reload;
$node->poll_query_until('postgres', q{SELECT state = 'off' FROM dr.tail()});
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_replication'), 0, 'an interval of 0: no tail');

# --- a server that was set back within the open segment: a new incarnation would hide, and remove, what it lost
$node->append_conf('postgresql.conf', 'pg_dr.wal_ship_interval = 200ms');
$node->reload;
sub exchange
{
	my ($from, $to) = @_;
	rename $node->data_dir, $node->data_dir . $to or die $!;
	rename $node->data_dir . $from, $node->data_dir or die $!;
	return;
}
$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
$ledger->add(3);
wait_shipped();
$node->stop('immediate');
system_or_bail('cp', '-a', $node->data_dir, $node->data_dir . '.older');
$node->start;
$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
$ledger->add(3);
wait_shipped();
my $open = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
$node->stop('immediate');
exchange('.older', '.newer');
my @shipped = pieces();
$offset = -s $node->logfile;
$node->start;
$node->wait_for_log(qr/could not ship the tail.*has not written.*records of unfinished segment "$open" up to.*restore from the repository/s, $offset);
pass('a server that was set back within the open segment is told so');
$node->stop('fast');
ok(!$node->archived($open), 'its archiver does not take that segment, though the server ends it');
is(join(' ', pieces()), join(' ', @shipped), 'and what it lost is left');
my $found = $node->restored('set_back');
is($ledger->missing($found), 0, 'and can be restored');
$found->teardown_node;
exchange('.newer', '.older');
system_or_bail('rm', '-rf', $node->data_dir . '.older');
$node->start;
$node->poll_query_until('postgres', q{SELECT state = 'streaming' FROM dr.tail()});
wait_shipped();
pass('the one that has it goes on');

# --- a server that was set back: the repository has more of its timeline than it has written
$node->stop;
system_or_bail('cp', '-a', $node->data_dir, $node->data_dir . '.older');
$node->start;
$node->wait_archived for 1 .. 3;
$node->stop;
system_or_bail('rm', '-rf', $node->data_dir);
rename $node->data_dir . '.older', $node->data_dir or die $!;
my @before = pieces();
$offset = -s $node->logfile;
$node->start;
$node->wait_for_log(qr/could not ship the tail.*the repository has WAL of timeline 1 that this server has not written.*archived.*promote it/s, $offset);
pass('a server that was set back is told so');
is($node->safe_psql('postgres', q{CREATE TABLE lost AS SELECT 1; SELECT durable IS NULL OR durable < pg_current_wal_lsn() FROM dr.tail()}), 't', 'what it writes is not called durable');
like($node->safe_psql('postgres', q{SELECT status || detail FROM dr_status WHERE concern = 'recovery_point'}), qr/^warning.*has not written/, 'dr_status says so');
sleep 2;
is(join(' ', pieces()), join(' ', @before), 'and it ships nothing');
$node->stop('immediate');

# --- a copy of a server that lives, in the same repository: it takes the tail over, and the server is told
my $original = PgDr::Test->create('original', wal_segsize => 1, conf => "pg_dr.wal_ship_interval = 200ms\nautovacuum = off\n");
$original->full_backup;
$original->poll_query_until('postgres', q{SELECT durable >= pg_current_wal_flush_lsn() FROM dr.tail()});
my $clone = PgDr::Test->new('clone');
my @family = $original->family;
kill 'STOP', @family;
system_or_bail('cp', '-a', $original->data_dir, $clone->data_dir);
unlink $clone->data_dir . '/postmaster.pid';
$clone->own_address;
$clone->start;
$clone->poll_query_until('postgres', q{SELECT durable >= pg_current_wal_flush_lsn() FROM dr.tail()});
pass('a copy of a server ships, while that does nothing');
$offset = -s $original->logfile;
kill 'CONT', @family;
$original->safe_psql('postgres', 'CREATE TABLE t (a int)');
wait_until('it is told', sub {
		$original->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
		return substr(slurp_file($original->logfile), $offset) =~ /could not ship the tail.*another server ships the tail of timeline 1.*It has begun incarnation.*dr_adopt/s });
like($original->safe_psql('postgres', q{SELECT status || detail FROM dr_status WHERE concern = 'recovery_point'}), qr/^warning/, 'once it writes, it is told');
$original->safe_psql('postgres', 'SELECT dr_adopt()');
$clone->stop('fast');
$original->safe_psql('postgres', 'INSERT INTO t VALUES (2)');
$original->poll_query_until('postgres', q{SELECT durable >= pg_current_wal_flush_lsn() FROM dr.tail()});
pass('adopted, it ships again');
$original->wait_archived;
my $again = $original->restored('again');
is($again->checksums, $original->checksums, 'and all of it can be restored');
$_->stop('immediate') for $again, $original;

done_testing();
