# Retention: what a policy keeps stays whole and restorable, what it does not keep goes in two steps,
# and every way in which that can be interrupted or refused leaves backups that have all that they need.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(wait_until);
use Test::More;
use Time::Local qw(timegm);

my @steps = slurp_file("$FindBin::Bin/../../src/protocol.h") =~ /^\s*X\("(expire\.[a-z._]+)",/mg;
is(scalar @steps, 4, "the steps are known: @steps");

# A Monday, noon: days and weeks must not depend on when the test runs.
my $monday = timegm(0, 0, 12, 7, 0, 2030);
my $node = PgDr::Test->create('main', wal_segsize => 1, conf => <<'END');
pg_dr.wal_ship_interval = 0
pg_dr.expire_grace = 0
pg_dr.retention = 'pitr 3d, daily 2, weekly 2'
END
my $repository = $node->repository;
my $sysid = $node->system_identifier;
sub sql { return $node->safe_psql('postgres', $_[0]) }

sub set
{
	my ($name, $value) = @_;
	$node->append_conf('postgresql.conf', "$name = '$value'");
	$node->reload;
	wait_until("$name is $value", sub { sql("SELECT setting FROM pg_settings WHERE name = '$name' UNION SELECT current_setting('$name')") =~ /^\Q$value\E$/m });
	return;
}

my $today;
sub day
{
	$today = $_[0];
	set('pg_dr.debug_clock', $monday + int($today * 86400) - time());
	return;
}

# A backup on a day, then commits in segments of their own; each is an object with id, day, LSN and time of a commit, value.
sql('CREATE TABLE t (a int); CREATE TABLE noise (a text)');
my $value = 0;
sub write_some
{
	my %made = (value => ++$value);
	sql("INSERT INTO t VALUES ($value)");
	@made{qw(lsn)} = sql('SELECT pg_current_wal_lsn()');
	$node->wait_archived;
	sql('INSERT INTO noise SELECT md5(random()::text) FROM generate_series(1, 10000)');
	$node->wait_archived;
	return \%made;
}
my $day = 19;
my %b;
sub next_backup { my ($days) = @_; $day += $days; return $b{$day} = backup($day) }
sub backup
{
	day($_[0]);
	my $id = $node->full_backup;
	return { id => $id, day => $_[0], %{ write_some() } };
}

# dr_expire() as { what => { name => reason } }
sub expire
{
	my ($dry_run) = @_;
	my %rows;
	for my $line (split /\n/, sql("SELECT what, name, bytes, reason FROM dr_expire($dry_run)"))
	{
		my ($what, $name, $bytes, $reason) = split /\|/, $line, 4;
		note $line;
		$rows{$what}{$name} = $reason;
	}
	return \%rows;
}
sub names { my ($rows, $what) = @_; return join ' ', sort keys %{ $rows->{$what} // {} } }
sub ids { return join ' ', sort map { $_->{id} } @_ }

# Of this cluster alone.
sub listed_here { return grep { $repository->exists("$sysid/backup/$_/manifest") } $node->listed }

# Every backup that is listed is whole.
sub all_whole
{
	my ($when) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $id ($node->listed)
	{
		is(sql("SELECT object, problem FROM dr_verify('$id')"), '', "$when: $id is whole");
	}
	return;
}

# --- nothing to do
$b{0} = backup(0);
my $rows = expire('true');
is(names($rows, 'keep backup'), $b{0}{id}, 'the only backup stays');
like($rows->{'keep backup'}{ $b{0}{id} }, qr/^newest/, 'because it is the newest');
is(join(' ', sort keys %$rows), join(' ', 'keep backup', $rows->{'remove wal'} ? 'remove wal' : ()), 'and nothing else but WAL from before it is there');

# --- weeks of backups
$b{$_} = backup($_) for 1, 7, 8, 14, 16, 18, 19;
day(20);
my @stay = @b{ 8, 16, 18, 19 };
my @go = @b{ 0, 1, 7, 14 };
my @before = $repository->objects;
$rows = expire('true');
is(names($rows, 'keep backup'), ids(@stay), 'a dry run says what stays');
is(names($rows, 'remove backup'), ids(@go), 'and what may go');
like($rows->{'keep backup'}{ $b{8}{id} }, qr/^weekly 2030-W03$/, 'the week before');
like($rows->{'keep backup'}{ $b{16}{id} }, qr/^base of pitr: every moment of the last 3d$/, 'the base');
like($rows->{'keep backup'}{ $b{18}{id} }, qr/^daily 2030-01-25$/, 'the day before');
like($rows->{'keep backup'}{ $b{19}{id} }, qr/^newest; daily 2030-01-26; weekly 2030-W04$/, 'the newest');
is(scalar keys %{ $rows->{'remove wal'} }, 2, 'WAL goes before and behind the one that is kept for its week');
sub gone { my %now = map { $_ => 1 } $repository->objects; return grep { !$now{$_} } @_ }	# the archiver may add to them
is_deeply([ gone(@before) ], [], 'it removes nothing');
is(join(' ', $repository->objects(qr{/expire/})), '', 'and marks nothing');

# --- first it is marked, and nothing goes
$rows = expire('false');
is(names($rows, 'remove backup') . names($rows, 'remove pack') . names($rows, 'remove wal'), '', 'the first run removes nothing');
like(names($rows, 'mark'), qr/^1: \S+ 1: \S+ \Q@{[ids(@go)]}\E$/, 'it marks');
is_deeply([ gone(@before) ], [], 'and everything is there');
is(join(' ', $repository->objects(qr{/expire/})), "$sysid/expire/00000001", 'the mark is an object');

# --- the grace period
set('pg_dr.expire_grace', 3600);
$rows = expire('false');
is(names($rows, 'remove backup'), '', 'nothing goes before its time');
like($rows->{mark}{ $b{0}{id} }, qr/^no rule keeps it; marked, may go after 2030-01-27T13/, 'which is said');
set('pg_dr.expire_grace', 0);

# --- a policy that keeps more takes things out of the mark
set('pg_dr.retention', 'pitr 3d, daily 2, weekly 3');
$rows = expire('true');
is(names($rows, 'keep backup'), ids($b{1}, @stay), 'another week stays');
set('pg_dr.retention', 'pitr 3d, daily 2, weekly 2');

# --- then it goes
my ($first_needed) = map { sql("SELECT pg_walfile_name(start_lsn) FROM dr_backups WHERE id = '$_->{id}'") } $b{16};
my @island = map { split /\|/, sql("SELECT pg_walfile_name(start_lsn), pg_walfile_name(stop_lsn) FROM dr_backups WHERE id = '$_->{id}'") } $b{8};
$rows = expire('false');
is(names($rows, 'remove backup'), ids(@go), 'the next run removes what was marked');
is(names($rows, 'could not remove'), '', 'all of it');
is_deeply([ sort $node->listed ], [ split ' ', ids(@stay) ], 'the others are there');
is(scalar(grep { my $id = $_->{id}; $repository->objects(qr{/\Q$id\E/}) } @go), 0, 'without a pack of what went');
my @segments = map { /([0-9A-F]{24})$/ ? $1 : () } $repository->objects(qr{/wal/});
is_deeply([ grep { $_ lt $first_needed } @segments ], [ grep { $_ ge $island[0] && $_ le $island[1] } @segments ], 'before the base, only WAL that the old backup needs');
is(join(' ', grep { $_ eq $island[0] || $_ eq $island[1] || $_ eq $first_needed } @segments), join(' ', sort keys %{ { map { $_ => 1 } @island, $first_needed } }), 'which is there');
is(sql(q{SELECT string_agg(id, ' ' ORDER BY id) FROM dr_backups WHERE status = 'expired'}), ids(@go), 'the catalogue says so');
is(sql(q{SELECT string_agg(DISTINCT backup, ' ' ORDER BY backup) FROM dr.object}), ids(@stay), 'and has no objects of theirs');
is(sql(q{SELECT what, name FROM dr_sync()}), '', 'the inventory misses nothing');
is(sql(q{SELECT string_agg(backup, ' ' ORDER BY backup) FROM dr_recovery_windows WHERE latest_lsn IS NOT NULL}), ids(@stay), 'every backup that stays has a window');
is(sql("SELECT count(DISTINCT latest_lsn) FROM dr_recovery_windows"), 2, 'the old one has its own');
all_whole('after removal');
my ($unsound, $said) = $node->reader('verify');
is($unsound, 0, 'and an independent reader finds nothing') or diag $said;

# --- each restores; the old one to where it is consistent, and no further
my $n = 0;
for my $backup (@b{ 16, 18, 19 })
{
	my $copy = $node->restored('copy' . ++$n, args => [ '--backup', $backup->{id} ]);
	is($copy->safe_psql('postgres', 'SELECT count(*) FROM t'), $value, "backup of day $backup->{day}: recovered to the end");
	$copy->teardown_node;
}
for my $moment (@b{ 16, 18 })
{
	my $copy = $node->restored('copy' . ++$n, args => [ '--target-lsn', $moment->{lsn}, '--target-action', 'promote', '--backup', $b{16}{id} ]);
	is($copy->safe_psql('postgres', 'SELECT max(a) FROM t'), $moment->{value}, "the base leads to day $moment->{day}");
	$copy->teardown_node;
}
my $old = $node->restored('old', args => [ '--backup', $b{8}{id}, '--target-immediate', '--target-action', 'promote' ]);
is($old->safe_psql('postgres', 'SELECT max(a) FROM t'), $b{7}{value}, 'the old one has what it had');
# a copy may look, and not remove
$old->safe_psql('postgres', 'SELECT count(*) FROM dr_expire()');
my (undef, undef, $err) = $old->psql('postgres', 'SELECT * FROM dr_expire(false)');
like($err, qr/may not write to the repository/, 'a copy removes nothing');
$old->teardown_node;
my (undef, $exit);
(undef, $exit, undef, $err) = $node->try_restore('refused', '--backup', $b{8}{id});
isnt($exit, 0, 'it does not lead past its gap');
like($err, qr/is missing from the repository/, 'and says so');

# --- what is done is marked no longer
expire('false');
expire('false');
is(join(' ', $repository->objects(qr{/expire/})), '', 'no mark is left');

# --- killed at every step: what is there is whole, and the next run ends it
for my $step (@steps)
{
	next_backup(9);
	expire('false') unless $step eq 'expire.marked';
	my @were = $node->listed;
	my $offset = -s $node->logfile;
	$node->hold_at($step);
	my $finish = $node->start_backup('SELECT count(*) FROM dr_expire(false)');
	$node->wait_held($step, $offset);
	kill 9, $node->agents;
	my ($failed) = $finish->();
	isnt($failed, 0, "$step: dr_expire fails when its child dies");
	$node->hold_at('');
	wait_until('nothing is held', sub { sql('SHOW pg_dr.debug_hold_at') eq '' });
	all_whole($step);
	my $found = sql('SELECT what, name FROM dr_sync()');
	unlike($found, qr/missing/, "$step: the inventory misses nothing");
	if ($step eq 'expire.manifest_removed')
	{
		is(scalar($node->listed), @were - 1, "$step: one is gone");
		like($found, qr/^backup expired\|/m, "$step: which the inventory says");
	}
	expire('false') for 1 .. 2;
	is(names(expire('false'), 'could not remove'), '', "$step: the next ones go on");
	my @listed = $node->listed;
	my %left = map { m{/backup/([^/]+)/} ? ($1 => 1) : () } $repository->objects;
	is_deeply([ sort keys %left ], [ sort @listed ], "$step: nothing is left of what went");
	is(sql('SELECT what, name FROM dr_sync()'), '', "$step: nor is anything missing");
}

# --- a backup at work, and one that was killed
next_backup(9);
my $offset = -s $node->logfile;
$node->hold_at('backup.pack_stored');
my $finish = $node->start_backup;
$node->wait_held('backup.pack_stored', $offset);
my $id = sql('SELECT backup FROM dr_progress');
my @packs = $repository->objects(qr{/\Q$id\E/});
ok(@packs > 0, 'a backup has stored something');
$node->hold_at('');
day($day + 30);
$rows = expire('false');
is($rows->{'keep backup'}{$id}, 'in progress', 'it is in progress');
expire('false');
is_deeply([ $repository->objects(qr{/\Q$id\E/}) ], \@packs, 'and is not touched');
kill 9, $node->agents;
$finish->();
$rows = expire('false');
like($rows->{'keep backup'}{$id}, qr/interrupted less than 7 days ago/, 'nor when it is interrupted, for a while');
next_backup(8);
$rows = expire('false');
like($rows->{mark}{$id}, qr/^interrupted/, 'after a week it is marked');
is_deeply([ $repository->objects(qr{/\Q$id\E/}) ], \@packs, 'and there');
$rows = expire('false');
is(names($rows, 'remove pack') =~ /\Q$id\E/ ? 1 : 0, 1, 'then it goes');
is_deeply([ $repository->objects(qr{/\Q$id\E/}) ], [], 'all of it');

# --- a clock that jumps
my $kept = names(expire('true'), 'keep backup');
day($day + 3000);
is(names(expire('true'), 'keep backup'), $kept, 'a clock that runs ahead of everything makes nothing expire');
day($day - 3000);
$rows = expire('true');
is(names($rows, 'remove backup'), '', 'nor one that runs behind');
like($rows->{'keep backup'}{ $b{$day}{id} }, qr/in the future/, 'which is said');
day($day);

# --- what is not ours, and what is another's
my @foreign = ("$sysid/backup/notes.txt", "$sysid/wal/00000001/README", "$sysid/other");
my $other = $sysid + 1;
my @others = ("$other/backup/20200101T000000Z-full-0a1b2c/pack-00000001", "$other/wal/00000001/000000010000000000000001");
$repository->write($_, 'x') for @foreign, @others;
next_backup(9);
$rows = expire('false');
is(names($rows, 'unknown'), join(' ', sort @foreign), 'names that are not ours are reported');
expire('false');
is(scalar(grep { $repository->exists($_) } @foreign, @others), 5, 'and stay, as does another cluster');

# --- a manifest that nobody can read
next_backup(9);
$rows = expire('false');
ok(names($rows, 'mark'), 'something is marked');
my ($manifest) = $repository->objects(qr{/\Q$b{$day}{id}\E/manifest});
my $bytes = $repository->read($manifest);
$repository->flip($manifest);
@before = $repository->objects;
$rows = expire('false');
is(names($rows, 'could not remove'), $manifest, 'a damaged manifest is named');
my %there = map { $_ => 1 } $repository->objects;
is_deeply([ grep { !$there{$_} } @before ], [], 'and nothing goes');
$repository->write($manifest, $bytes);

# --- a pack that is missing: that backup counts for nothing, its neighbours stay
my ($pack) = $repository->objects(qr{/\Q$b{$day}{id}\E/pack-00000001});
$bytes = $repository->read($pack);
$repository->remove($pack);
$rows = expire('true');
like($rows->{'keep backup'}{ $b{$day}{id} }, qr/^a pack is missing, but it would be kept otherwise: newest/, 'a backup without a pack');
like($rows->{'keep backup'}{ $b{ $day - 9 }{id} }, qr/^newest/, 'the one before it takes its place');
$repository->write($pack, $bytes);

# --- a store that does not let go
SKIP:
{
	skip 'only directories are told so by their modes', 4 unless $repository->is_directory;
	my @manifests = $repository->objects(qr{/manifest$});
	chmod 0500, $repository->path($_ =~ s{/manifest$}{}r) for @manifests;
	@before = $repository->objects(qr{/backup/});
	$rows = expire('false');
	like((values %{ $rows->{'could not remove'} })[0], qr/could not remove/, 'what can not be removed is said');
	is_deeply([ $repository->objects(qr{/backup/}) ], \@before, 'and is there');
	chmod 0700, $repository->path($_ =~ s{/manifest$}{}r) for @manifests;
	all_whole('refused');
	expire('false');
	isnt(scalar $repository->objects(qr{/backup/}), scalar @before, 'the next run removes it');
}
all_whole('in the end');

# --- empty: everything stays
set('pg_dr.retention', '');
next_backup(100);
$rows = expire('true');
is(join(' ', sort keys %$rows), 'keep backup unknown', 'an empty policy keeps everything');

# --- and it can all be lost
my $sum = $node->checksums;
$node->wait_archived;
$node->destroy;
my $last = $node->restored('last', args => [ '--system-identifier', $sysid ]);
is($last->checksums, $sum, 'what is left restores');

# --- on another timeline, which began in what is left
my $base = $b{$day};
$node = $last;
sql('SELECT dr_adopt()');
set('pg_dr.retention', 'pitr 1d, daily 1');
next_backup(9);
expire('false') for 1 .. 3;
is(join(' ', sort { $a cmp $b } listed_here()), ids($base, $b{$day}), 'the newest stays, and the base, which is of the timeline before');
is(scalar(grep { $repository->exists($_) } @others), 2, 'still nothing else is touched');
like(join(' ', $repository->objects(qr{/wal/00000001/[0-9A-F]{24}$})), qr{^\S*\Q@{[sql("SELECT pg_walfile_name(start_lsn) FROM dr_backups WHERE id = '$base->{id}'") =~ s/^.{8}/00000001/r]}\E}, 'the WAL of that begins with it');
is($repository->exists($node->wal_object('00000002.history')), 1, 'the history is there');
my $across = $node->restored('across', args => [ '--system-identifier', $sysid, '--backup', $base->{id}, '--target-lsn', $b{$day}{lsn}, '--target-action', 'promote' ]);
is($across->safe_psql('postgres', 'SELECT max(a) FROM t'), $b{$day}{value}, 'the base leads across');
$across->teardown_node;
$node->sound;

done_testing();
