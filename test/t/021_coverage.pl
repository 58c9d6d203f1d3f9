# What WAL covers, as SQL: gaps, recovery windows, dr_can_recover; and a restore
# that would have to cross a gap is refused before anything is written.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IPC::Run ();
use PgDr::Test qw(wait_until run_program pretend_recovery);
use Test::More;
use Time::HiRes qw(sleep);

my $node = PgDr::Test->create('main', wal_segsize => 1, conf => "pg_dr.wal_ship_interval = 0\n");
sub sql { return $node->safe_psql('postgres', $_[0]) }
sql('CREATE TABLE t (a int); CREATE TABLE noise (a text)');
my $first = $node->full_backup;

# A commit, its LSN and time, and the segment that it is in, archived.
my $value = 0;
sub step
{
	my $n = ++$value;
	sql('INSERT INTO noise SELECT md5(random()::text) FROM generate_series(1, 2000)');	# more than a chunk
	sql("INSERT INTO t VALUES ($n)");
	my ($lsn, $at) = split /\|/, sql('SELECT pg_current_wal_lsn(), clock_timestamp()');
	sleep 0.1;
	return { n => $n, lsn => $lsn, at => $at, segment => $node->wait_archived };
}
my @steps = map { step() } 1 .. 5;
wait_until('notes', sub { $node->archived("$steps[-1]{segment}.frontier") });

# --- no gap
is(sql("SELECT count(*), bool_and(isempty(gaps)), bool_and(coverage @> '$steps[-1]{lsn}'::pg_lsn) FROM dr_wal"), '1|t|t', 'one timeline, no gaps');
is(sql("SELECT backup, latest_lsn >= '$steps[-1]{lsn}', earliest_time < latest_time FROM dr_recovery_windows"), "$first|t|t", 'one window');
is(sql("SELECT possible, backup FROM dr_can_recover('$steps[2]{at}')"), "t|$first", 'a moment in it can be recovered');
like(sql(q{SELECT possible, detail FROM dr_can_recover('2001-01-01')}), qr/^f\|The oldest backup is consistent from/, 'one before it cannot');
like(sql(q{SELECT possible, detail FROM dr_can_recover(now() + '1 day')}), qr/^f\|The repository has the WAL up to/, 'nor one after it');
like(sql(q{SELECT possible, detail FROM dr_can_recover('infinity')}), qr/^f\|That is no moment/, 'nor none');
like(sql(q{SELECT status, detail FROM dr_status WHERE concern = 'recovery_point'}), qr/^ok\|\d+ s: only whole segments/, 'the recovery point without a tail');

# --- what was said can be done: the very statement
my ($target) = sql("SELECT detail FROM dr_can_recover('$steps[2]{at}')") =~ /--target-time '([^']+)'/;
my $copy = $node->restored('time', args => [ '--target-time', $target, '--target-action', 'promote' ]);
is($copy->safe_psql('postgres', 'SELECT max(a) FROM t'), 3, 'recovered to the moment');
$copy->teardown_node;

# --- the last location is where the last record begins; behind it nothing can be reached, in the rest of its segment neither
my $end = sql("SELECT upper(dr.segment_range('$steps[-1]{segment}'))");
my $last_location;
for my $beyond ($end, sql("SELECT '$end'::pg_lsn - 100"), sub { sql("SELECT '$last_location'::pg_lsn + 1") })
{
	my $to = ref $beyond ? $beyond->() : $beyond;
	my (undef, $exit, undef, $err) = $node->try_restore('end_' . $to =~ s{/}{_}r, '--target-lsn', $to);
	isnt($exit, 0, "no record begins at $to or behind it: refused");
	like($err, qr/No record begins there or behind it: give an earlier location, or none/, 'and says what to do');
	($last_location) = $err =~ /every location from \S+ to (\S+) can/;
}
$copy = $node->restored('last', args => [ '--target-lsn', $last_location, '--target-action', 'promote' ]);
is($copy->safe_psql('postgres', 'SELECT max(a) FROM t'), $value, "the last one, $last_location, can be");
$copy->teardown_node;

# --- damage to one segment in the middle; the LSN range is named, a target beyond is refused, one before is not
my ($before, $hit, $after) = @steps[1, 2, 3];
my ($low, $high) = map { sql("SELECT $_(dr.segment_range('$hit->{segment}'))") } 'lower', 'upper';
my %object = map { $_ => $node->wal_object($_->{segment}) } @steps;
my ($mine, $other) = map { $node->repository->read($object{$_}) } $hit, $before;
my $restores = 0;

# The server, which reads ahead, does not come upon the damage before it comes to the target.
sub before_damage
{
	my ($what, $expected, @target) = @_;
	my $copy = $node->restored('before' . ++$restores, args => [ @target, '--target-action', 'promote' ]);
	is($copy->safe_psql('postgres', 'SELECT max(a) FROM t'), $expected, "$what: recovered to @target, before it");
	$copy->teardown_node;
	return;
}

for my $case (
	[ 'dropped', sub { $node->repository->remove($object{$hit}) }, 1 ],
	[ 'cut', sub { $node->repository->write($object{$hit}, substr $mine, 0, length($mine) - 100) }, 1 ],
	[ 'cut at a chunk', sub { $node->repository->write($object{$hit}, substr $mine, 0, 64 + 56 + 16400) }, 1 ],
	[ 'emptied', sub { $node->repository->write($object{$hit}, '') }, 1 ],
	[ 'extended', sub { $node->repository->write($object{$hit}, $mine . 'x' x 50) }, 1 ],
	[ 'swapped', sub { $node->repository->write($object{$hit}, $other) }, length($mine) != length($other) ])
{
	my ($what, $damage, $seen) = @$case;
	$damage->();
	if ($seen)
	{
		like(sql('SELECT what, name FROM dr_sync()'), qr/^WAL (missing|changed)\|\Q$object{$hit}\E$/m, "$what: the inventory finds it");
		is(sql('SELECT gaps FROM dr_wal'), "{[$low,$high)}", "$what: a gap, with its range");
		is(sql('SELECT latest_lsn FROM dr_recovery_windows'), $low, "$what: the window ends before it");
		like(sql("SELECT possible, detail FROM dr_can_recover('$after->{at}')"), qr/^f\|.*\Q$low\E/, "$what: a moment behind it can't be recovered");
		is(sql("SELECT possible FROM dr_can_recover('$before->{at}')"), 't', "$what: one before it can");
	}
	for my $beyond ([], [ '--target-lsn', $after->{lsn} ], [ '--target-time', $after->{at} ])
	{
		my ($none, $exit, undef, $err) = $node->try_restore('refused' . ++$restores, @$beyond);
		isnt($exit, 0, "$what: a restore beyond is refused: @$beyond");
		like($err, $beyond->[0] && $beyond->[0] eq '--target-lsn' && $what eq 'dropped' ? qr/\Q$low\E/ : qr/\Q$hit->{segment}\E.*\Q$low\E/s, "$what: and says what is missing: @$beyond");
		ok(!-e $none->data_dir || !slurp_dir_names($none->data_dir), "$what: nothing is written: @$beyond");
	}
	before_damage($what, $before->{n}, '--target-lsn', $before->{lsn});
	before_damage($what, $steps[0]{n}, '--target-time', $steps[0]{at});
	$node->repository->write($object{$hit}, $mine);
	sql('SELECT count(*) FROM dr_sync()');
	is(sql('SELECT isempty(gaps) FROM dr_wal'), 't', "$what: brought back, the gap is closed");
}

# --- inside, where only recovery looks, and a restore only close to its target
$node->repository->flip($object{$hit});
before_damage('flipped', $before->{n}, '--target-lsn', $before->{lsn});
for my $to ($hit->{lsn}, sql("SELECT '$low'::pg_lsn + 100"))
{
	my ($none, $exit, undef, $err) = $node->try_restore('refused' . ++$restores, '--target-lsn', $to);
	isnt($exit, 0, "flipped: a restore into it is refused: $to");
	like($err, qr/\Q$hit->{segment}\E.*damaged.*\Q$low\E/s, 'and says what is damaged');
}
$node->repository->write($object{$hit}, $mine);
my $sound = $node->restored('sound', args => [ '--target-lsn', $before->{lsn}, '--target-action', 'promote' ]);
is($sound->safe_psql('postgres', 'SHOW recovery_prefetch'), 'try', 'where all is sound, the server may read ahead');
$sound->teardown_node;
my $at_once = $node->restored('at_once', args => [ '--target-immediate', '--target-action', 'promote' ]);
is($at_once->safe_psql('postgres', 'SHOW recovery_prefetch'), 'try', 'to the end of the backup, too');
$at_once->teardown_node;

# --- what the archiver noted before the damage comes into the table after it was found: that clears nothing
my $launcher = $node->process(qr/: pg_dr launcher/);
kill 'STOP', $launcher;		# its housekeeping writes the notes
my ($fresh) = (step(), step());
my $fresh_object = $node->wal_object($fresh->{segment});
my $whole_object = $node->repository->read($fresh_object);
$node->repository->write($fresh_object, substr $whole_object, 0, length($whole_object) - 100);
like(sql('SELECT what, name FROM dr_sync()'), qr/^WAL changed\|\Q$fresh_object\E$/m, 'what the archiver has just stored is cut, and found');
my $gap = sql("SELECT dr.lsnmultirange(dr.segment_range('$fresh->{segment}'))");
is(sql('SELECT gaps FROM dr_wal'), $gap, 'it is a gap');
like(sql(q{SELECT status, detail FROM dr_status WHERE concern = 'recovery_window'}), qr/^critical\|the newest backup, \Q$first\E, can be recovered to \S+ only/, 'dr_status says so');
my ($last) = (step(), step());
kill 'CONT', $launcher;
wait_until('housekeeping', sub { sql("SELECT count(*) FROM dr.wal_segment WHERE name = '$last->{segment}'") });
is(sql('SELECT gaps FROM dr_wal'), $gap, 'the gap stays');
$node->repository->write($fresh_object, $whole_object);
sql('SELECT count(*) FROM dr_sync()');
is(sql('SELECT isempty(gaps) FROM dr_wal'), 't', 'until an inventory finds the segment whole');

sub slurp_dir_names { return grep { !/^\.\.?$/ } slurp_dir($_[0]) }

# --- across a timeline switch: promotion of a copy in the middle, the old timeline goes on elsewhere
my $second = $node->full_backup;
my @later = map { step() } 1 .. 2;
$node->wait_archived;
$node->stop;
my $new = $node->restored('new', args => [ '--target-lsn', $later[0]{lsn}, '--target-action', 'promote', '--backup', $second ]);
$new->safe_psql('postgres', 'SELECT dr_adopt()');
$new->safe_psql('postgres', 'INSERT INTO t VALUES (100)');
my $late = $new->safe_psql('postgres', 'SELECT clock_timestamp()');
sleep 0.1;
$new->safe_psql('postgres', 'INSERT INTO t VALUES (101)');	# the server wants to see a commit behind its target
$new->wait_archived;
$new->safe_psql('postgres', 'SELECT count(*) FROM dr_sync()');
is($new->safe_psql('postgres', 'SELECT count(*), bool_and(isempty(gaps)) FROM dr_wal'), '2|t', 'two timelines');
is($new->safe_psql('postgres', "SELECT string_agg(backup, ' ' ORDER BY backup), count(DISTINCT latest_lsn) FROM dr_recovery_windows"),
	join(' ', sort $first, $second) . '|1', 'both backups reach across the switch');
is($new->safe_psql('postgres', "SELECT possible, backup FROM dr_can_recover('$late')"), "t|$second", 'a moment on the new timeline');
for my $backup ($first, $second)
{
	my $across = $new->restored("across_$backup", args => [ '--backup', $backup, '--target-time', $late, '--target-action', 'promote' ]);
	is($across->safe_psql('postgres', 'SELECT max(a), count(*) FROM t'), '100|' . ($later[0]{n} + 1), "$backup: recovered to it");
	$across->teardown_node;
}

# --- a timeline of which the history is archived and nothing else: what it was left from ends there
my ($switch, $segment) = split /\|/, $new->safe_psql('postgres', "SELECT begins, to_hex((first_segment - '0/0')::bigint / (1 << 20)) FROM dr.timelines() WHERE timeline = 2");
$segment = sprintf '%08X%08X%08X', 1, hex($segment) >> 12, hex($segment) & 0xfff;
my $child = '00000002' . substr $segment, 8;
my $bytes_of_child = $node->repository->read($node->wal_object($child));
my ($newest) = reverse sort $node->objects(qr{/wal/00000002/[0-9A-F]{24}$});
wait_until('the newest segment is noted', sub { scalar $node->objects(qr{^\Q$newest\E\.frontier$}) });
$node->repository->remove($_) for $node->wal_object($child), $node->objects(qr{/wal/00000002/.*\.frontier$});
my $server = $node->basedir . '/server';
my $to = pretend_recovery($server);
my @wal_get = ('wal-get', '--system-identifier', $node->system_identifier, $node->access);
is((run_program(@wal_get, $segment, $to))[0], 0, 'the old timeline by itself is whole');
my $whole = slurp_file($to);
is((run_program(@wal_get, $child, $to))[0], 1, "the new timeline's first segment is not there");
is((run_program(@wal_get, $segment, $to))[0], 0, "then the old timeline's");
my $offset = sprintf '%d', $new->safe_psql('postgres', "SELECT ('$switch'::pg_lsn - '0/0') % (1 << 20)");
is(slurp_file($to), substr($whole, 0, $offset) . "\0" x ((1 << 20) - $offset), 'ends where the new one begins');
isnt(substr($whole, $offset), "\0" x ((1 << 20) - $offset), 'and had more');
$node->repository->write($node->wal_object($child), $bytes_of_child);

# --- what recovery runs for each file needs the program only where no process works ahead, or for others
my $quick = "$server/pg_dr-wal-get";
system_or_bail('cp', $node->config_data('--bindir') . '/pg_dr-wal-get', $quick);
shift @wal_get;
unlink $to;
is((run_program(@wal_get, $segment, $to, { program => $quick }))[0], 0, 'by the process that works ahead');
is(-s $to, 1 << 20, 'the file is there');
is((run_program(@wal_get, '0000000100000000000000F0', $to, { program => $quick }))[0], 1, 'or it says that there is none');
my ($alone, undef, $why) = run_program(@wal_get, '--wait', $segment, $to, { program => $quick });
cmp_ok($alone, '>', 125, 'with other options it wants the program, which is not beside it');
like($why, qr{could not execute "\Q$server\E/pg_dr"}, 'and says so');
unlink "$server/postmaster.pid";

# --- a statement may begin before housekeeping writes what was archived, and look into memory after that: it
# finds all the same what it has to find, or there would be gaps in what has none
my ($in, $out) = ("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 'begun' FROM dr.wal_segment LIMIT 1;\n", '');
my $reader = IPC::Run::start([ 'psql', '-XAtq', '-d', $new->connstr('postgres') ], '<', \$in, '>', \$out, '2>&1', IPC::Run::timeout(180));
$reader->pump until $out =~ /begun/;
my $written = $new->wait_archived;
$new->safe_psql('postgres', "SELECT pg_create_restore_point('many'), pg_switch_wal()") for 1 .. 70;	# which is worth writing at once
$new->wait_archived;
$new->poll_query_until('postgres', "SELECT count(*) = 1 FROM dr.wal_segment WHERE name = '$written'");
sleep 2;
my $latest = $new->wait_archived;
$in .= "SELECT 'gaps ' || count(*) FROM dr_wal WHERE NOT isempty(gaps);
	SELECT count(*) || ' of ' || '$written' FROM dr_wal_files WHERE file = '$written';
	SELECT count(*) || ' of ' || '$latest' FROM dr_wal_files WHERE file = '$latest';\n\\q\n";
$reader->finish;
is($out, "begun\ngaps 0\n1 of $written\n1 of $latest\n", 'a snapshot from before finds every segment once');
is($new->safe_psql('postgres', "SELECT count(*) FROM dr_wal_files WHERE file = '$written'"), 1, 'and so does a new one');
$new->poll_query_until('postgres', "SELECT count(*) = 0 FROM dr.recent_segments() WHERE name = '$written'");
pass('then memory lets go of it');

# --- privileges: monitoring may look
$new->safe_psql('postgres', 'CREATE ROLE watcher LOGIN IN ROLE pg_monitor');
is($new->safe_psql('postgres', 'SET ROLE watcher; SELECT count(*) FROM dr_wal; SELECT count(*) > 0 FROM dr_recovery_windows; SELECT possible FROM dr_can_recover(now()) ') =~ s/\n/ /gr,
	'2 t f', 'pg_monitor may look');

# --- a record that takes several segments, of which the last one is lost: nothing in it can be reached, what lies before can
$new->safe_psql('postgres', 'INSERT INTO t VALUES (102)');
my ($giant, $from) = split /\|/, $new->safe_psql('postgres', 'SELECT l, pg_walfile_name(l) FROM pg_current_wal_insert_lsn() l');
my $upto = $new->safe_psql('postgres', q{SELECT pg_walfile_name(pg_logical_emit_message(false, 'giant', repeat('x', 3500000)) - 1048576)});
wait_until('its segments are archived', sub { $node->archived($upto) });
$new->machine_dies;
cmp_ok(hex substr($upto, 16), '>', 1 + hex substr($from, 16), 'several segments of it are archived');
for my $into (0, 1_500_000)
{
	my ($high, $low) = split m{/}, $giant;
	my (undef, $exit, undef, $err) = $node->try_restore("giant_$into", '--target-lsn', sprintf '%s/%X', $high, hex($low) + 8 + $into);
	isnt($exit, 0, "$into bytes into it: refused");
	like($err, qr/No record begins there or behind it/, 'and says why');
	($last_location) = $err =~ /every location from \S+ to (\S+) can/;
}
cmp_ok(hex $last_location =~ s{/}{0000}r, '<=', hex $giant =~ s{/}{0000}r, "the last location is not behind its beginning, $giant");
$copy = $node->restored('before_giant', args => [ '--target-lsn', $last_location, '--target-action', 'promote' ]);
is($copy->safe_psql('postgres', 'SELECT max(a) FROM t'), 102, "and can be recovered to: $last_location");
$copy->stop;

done_testing();
