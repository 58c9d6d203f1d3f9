# Verification: every kind of damage is found at the depth that the README's table says, with
# the object and the backups named, and nothing else; what is sound is not read twice; what is
# unsound is not relied on.  And corrupt pages in the running cluster.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use IPC::Run ();
use PgDr::Test qw(campaign flip random_seed run_program wait_until);
use PostgreSQL::Test::Utils ();
use Test::More;

random_seed();

my @depths = qw(catalogue objects pages);
my $node = PgDr::Test->create('main', wal_segsize => 1, conf => "autovacuum = off\npg_dr.retention = ''\n");
my $repository = $node->repository;
sub sql { return $node->safe_psql('postgres', $_[0]) }
sub wal_of { return $node->wal_object(sql("SELECT pg_walfile_name($_[1]) FROM dr_backups WHERE id = '$_[0]'")) }

sql('CREATE TABLE big AS SELECT g, md5(g::text) AS t FROM generate_series(1, 40000) g; CREATE INDEX ON big (g)');
my $full = $node->full_backup;
wait_until('the change map runs', sub { sql('SELECT state FROM dr.change_map()') eq 'mapping' });
sql('UPDATE big SET t = t WHERE g <= 2000; CHECKPOINT');
my $increment = sql("SELECT dr_backup('incremental')");
is(sql("SELECT kind || ' ' || (bytes_referenced > 0) FROM dr_backups WHERE id = '$increment'"), 'incremental true', 'an incremental backup shares packs');
$node->wait_archived;
wait_until('housekeeping has written what was archived', sub { sql('SELECT count(*) FROM dr.recent_segments()') == 0 });

# ---- sound

for my $depth (@depths)
{
	for my $backup ('latest', 'all', $full)
	{
		is(sql("SELECT * FROM dr_verify('$backup', '$depth')"), '', "$backup is sound at depth $depth");
		my ($exit, $out, $err) = $node->program('verify', '--backup', $backup, '--depth', $depth);
		is("$exit$err", '0', "pg_dr verify says so, too");
	}
}
is(sql("SELECT count(*), count(*) FILTER (WHERE verdict = 'sound'), sum(findings) FROM dr.verification"), '9|9|0', 'each run has its row');
is(sql("SELECT string_agg(DISTINCT verified_depth, ' ') FROM dr_backups"), 'pages', 'each backup says how deep it was verified last');

# ---- the damage table

my ($pack) = $node->objects(qr{\Q$full\E/pack-});
my ($own) = $node->objects(qr{\Q$increment\E/pack-});
my ($manifest) = $node->objects(qr{\Q$increment\E/manifest});
my $segment = wal_of($full, 'start_lsn');
my $last = wal_of($increment, 'stop_lsn - 1');
my $both = "{$full,$increment}";
my $size = $repository->size($pack);

# Where a sealed object has which bytes: header 64, salt 24, commitment 32, then chunks of 16384 and a tag of 16.
my %regions = (header => 20, 'key id' => 36, salt => 70, commitment => 100, 'first chunk' => 130, tag => 120 + 16384 + 3);
sub region { my ($name, $where) = @_; return $where eq 'last chunk' ? $repository->size($name) - 30 : $where eq 'last tag' ? $repository->size($name) - 1 : $regions{$where} }

# [what, object, damage, least depth, affected backups, further objects that are named, pattern of the problem]
my @table;
for my $row ([ 'shared pack', $pack, $both ], [ 'own pack', $own, "{$increment}" ], [ 'manifest', $manifest, "{$increment}" ],
	[ 'segment', $segment, "{$full}" ], [ 'last segment', $last, "{$increment}" ])
{
	my ($what, $name, $affected) = @$row;
	my $read = $what eq 'manifest' ? 'catalogue' : 'objects';     # manifests are read at every depth
	push @table, [ "$what deleted", $name, sub { $repository->remove($name) }, 'catalogue', $affected, qr/does not exist/ ],
	  [ "$what cut", $name, sub { $repository->write($name, substr $repository->read($name), 0, -1) }, 'catalogue', $affected ],
	  [ "$what emptied", $name, sub { $repository->write($name, '') }, 'catalogue', $affected ],
	  [ "$what appended to", $name, sub { $repository->write($name, $repository->read($name) . 'x') }, 'catalogue', $affected ];
	for my $where ('header', 'key id', 'salt', 'commitment', 'first chunk', 'tag', 'last chunk', 'last tag')
	{
		next if region($name, $where) >= $repository->size($name);
		push @table, [ "$what: bit flipped in its $where", $name, sub { flip_bit($name, region($name, $where)) }, $read, $affected ];
	}
}
my ($other) = grep { $_ ne $segment && $_ ne $last } $node->objects(qr{/wal/[0-9A-F]{8}/[0-9A-F]{24}$});
push @table,
  [ 'a segment renamed', $segment, sub { $repository->copy($segment, "$segment.renamed"); $repository->remove($segment) }, 'catalogue', "{$full}" ],
  [ 'a segment in the place of another', $segment, sub { my $bytes = $repository->read($last); $repository->write($segment, $bytes) },
	$repository->size($last) == $repository->size($segment) ? 'objects' : 'catalogue', "{$full}" ],
  [ 'a pack in the place of another', $own, sub { $repository->copy($pack, $own) }, 'catalogue', "{$increment}" ],
  [ 'the older manifest in the place of the newer', $manifest, sub { $repository->copy($manifest =~ s/\Q$increment\E/$full/r, $manifest) }, 'catalogue', "{$increment}" ];

for my $row (@table)
{
	my ($what, $name, $damage, $least, $affected, $words) = @$row;
	my $bytes = $repository->read($name);
	$damage->();
	check_depths($what, $name, $least, $affected, $words);
	$repository->write($name, $bytes);
	$repository->remove("$segment.renamed") if $repository->exists("$segment.renamed");
}

# An additional object is seen, and no harm.
$repository->write("$pack.x", 'x');
is(sql("SELECT object, severity FROM dr_verify('$full', 'catalogue')"), "$pack.x|notice", 'an object that no manifest lists is a notice');
is(($node->program('verify', '--backup', 'all'))[0], 0, 'and no damage to pg_dr verify');
$repository->remove("$pack.x");

# Rows of the catalogue that somebody changed.
for my $row (
	[ 'another hash of a pack', "UPDATE dr.object SET sha256 = sha256('x') WHERE name = '$pack'", $pack, 'catalogue', $both, qr/recorded/ ],
	[ 'another size of a pack', "UPDATE dr.object SET size = size + 1 WHERE name = '$pack'", $pack, 'catalogue', $both, qr/recorded/ ],
	[ 'another hash of a manifest', "UPDATE dr.object SET sha256 = sha256('x') WHERE name = '$manifest'", $manifest, 'catalogue', "{$increment}", qr/recorded/ ],
	[ 'another hash of a segment', "UPDATE dr.wal_segment SET sha256 = sha256('x') WHERE object = '$segment'", $segment, 'objects', "{$full}", qr/recorded/ ],
	[ 'another size of a segment', "UPDATE dr.wal_segment SET size = size + 1 WHERE object = '$segment'", $segment, 'catalogue', "{$full}", qr/recorded/ ],
	[ 'a row of a pack deleted', "DELETE FROM dr.object WHERE name = '$pack'", $pack, 'catalogue', $both, qr/does not know/ ],
	[ 'a row of a segment deleted', "DELETE FROM dr.wal_segment WHERE object = '$segment'", $segment, 'catalogue', "{$full}", qr/does not know/ ],
	[ 'a row of an object that never was', "INSERT INTO dr.object SELECT repository, '$pack.9', 1, sha256('x'), backup, now() FROM dr.object WHERE name = '$pack'",
		"$pack.9", 'catalogue', '{}', qr/does not exist/ ],
	[ 'a row of a segment that never was', "INSERT INTO dr.wal_segment SELECT repository, timeline, name, replace(object, '0000', '000F'), 1, sha256, archived_at, ended_at FROM dr.wal_segment WHERE object = '$segment'",
		undef, 'catalogue', '{}', qr/does not exist/ ])
{
	my ($what, $change, $name, $least, $affected, $words) = @$row;
	sql('CREATE TABLE kept_object AS TABLE dr.object; CREATE TABLE kept_wal AS TABLE dr.wal_segment');
	sql($change);
	$name //= sql("SELECT object FROM dr.wal_segment WHERE object NOT IN (SELECT object FROM kept_wal)");
	check_depths($what, $name, $least, $affected, $words, catalogue => 1);
	sql('TRUNCATE dr.object, dr.wal_segment; INSERT INTO dr.object TABLE kept_object; INSERT INTO dr.wal_segment TABLE kept_wal; DROP TABLE kept_object, kept_wal');
}
is(sql("SELECT count(*) FROM dr_verify('all', 'pages')"), 0, 'with everything put right all is sound');
is(sql("SELECT count(*) FROM dr_backups WHERE status <> 'completed'"), 0, 'and called so');

# Every depth from the least on names the object, the backups, and nothing else; those before find nothing.
sub check_depths
{
	my ($what, $name, $least, $affected, $words, %options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $sees = 0;
	for my $depth (@depths)
	{
		$sees ||= $depth eq $least;
		my @found = grep { !/\.renamed\|/ } split /\n/, sql("SELECT object, affected_backups, severity, problem FROM dr_verify('all', '$depth')");
		is(join("\n", map { (split /\|/)[0] } @found), $sees ? $name : '', "$what: " . ($sees ? 'found' : 'not seen') . " at depth $depth")
		  or diag join "\n", @found;
		next unless $sees;
		is((split /\|/, $found[0] // '')[1], $affected, "$what: and the backups that need it");
		like($found[0], $words, "$what: with the reason") if $words;
		next if $options{catalogue};
		my ($exit, undef, $err) = $node->program('verify', '--backup', 'all', '--depth', $depth);
		# Without the catalogue nobody knows a segment's size.
		next if $exit == 0 && $depth eq 'catalogue' && $name =~ m{/wal/} && $repository->exists($name);
		# That the manifest is gone, only the catalogue knows; here are packs without one.
		next if $exit == 0 && $name =~ /manifest$/ && !$repository->exists($name);
		is($exit, 1, "$what: pg_dr verify fails at depth $depth");
		like($err, qr/\Q$name\E/, "$what: and names it");
	}
}

sub flip_bit
{
	my ($name, $at, $bit) = @_;
	my $bytes = $repository->read($name);
	substr($bytes, $at, 1) ^= chr(1 << ($bit // 3));
	$repository->write($name, $bytes);
	return;
}

# ---- single bits, anywhere in the repository

{
	my %left = map { $_ => $repository->size($_) } grep { !m{^probe/} } $node->objects;
	my $trials = campaign() ? 1000 : 25;
	my $found = 0;
	while ($trials > 0)
	{
		# Several objects at a time; one alone when others are not looked at without it: nothing opens
		# without a keyring, and a manifest that can't be read does not tell of its packs.
		my (%bytes, %in);
		my @names = sort { rand() <=> 0.5 } keys %left;
		my $alone = qr{^keys|^repository|/manifest$};
		@names = rand() < 0.2 ? (grep { /$alone/ } @names)[0] : (grep { !/$alone/ } @names)[ 0 .. 4 ];
		for my $name (grep { defined } @names)
		{
			last if $trials == 0;
			$bytes{$name} = $repository->read($name);
			$in{$name} = int rand length $bytes{$name};
			flip_bit($name, $in{$name}, int rand 8);
			$trials--;
		}
		my ($exit, undef, $err) = $node->program('verify', '--backup', 'all');
		isnt($exit, 0, 'flipped bits are noticed');
		for my $name (sort keys %bytes)
		{
			$err =~ /\Q$name\E/ ? $found++ : diag("bit flipped at $in{$name} of $name was not found:\n$err");
			$repository->write($name, $bytes{$name});
		}
	}
	is($found, campaign() ? 1000 : 25, 'every flipped bit is found');
	is(($node->program('verify', '--backup', 'all'))[0], 0, 'and all is sound again');
}

# ---- what was proven is not read again

sub last_run { return sql('SELECT bytes_read, bytes_skipped > 0, verdict FROM dr.verification ORDER BY started_at DESC, id DESC LIMIT 1') }

for my $depth ('objects', 'pages')
{
	sql("SELECT * FROM dr_verify('latest', '$depth', max_age => '0')");
	like(last_run(), qr/^[1-9]\d*\|f\|sound$/, "depth $depth: nothing is new enough for an age of 0");
	is(sql("SELECT count(*) FROM dr_verify('latest', '$depth', max_age => '30 days')"), 0, "depth $depth: once more");
	is(last_run(), '0|t|sound', "depth $depth: a second run reads no data");
}
sql("SELECT * FROM dr_verify('latest', 'objects')");
sql("SELECT * FROM dr_verify('latest', 'pages', max_age => '1 day')");
like(last_run(), qr/^[1-9]/, 'what was proven to a lesser depth is read');
sql("SELECT * FROM dr_verify('all', 'objects', max_age => '1 day')");
{
	my $bytes = $repository->read($pack);
	$repository->remove($pack);
	is(sql("SELECT object FROM dr_verify('latest', 'objects', max_age => '1 day')"), $pack, 'what is missing is missing, whenever it was proven');
	$repository->write($pack, $bytes);
	flip_bit($pack, 5000);
	is(sql("SELECT object FROM dr_verify('latest', 'objects', max_age => '1 day')"), $pack, 'what was found bad is read again');
	$repository->write($pack, $bytes);
	is(sql("SELECT object FROM dr_verify('latest', 'objects', max_age => '1 day')"), '', 'and sound when it came back');
	is(sql("SELECT status FROM dr_backups WHERE id = '$full'"), 'damaged', 'the other backup that shares it was not looked at');
	is(sql("SELECT object FROM dr_verify('all', 'objects', max_age => '1 day')"), '', 'until it is');
	is(sql("SELECT count(*) FROM dr_backups WHERE status <> 'completed'"), 0, 'and completed again');
}

# ---- what is unsound is not relied on

{
	my $bytes = $repository->read($own);
	my $now = sql('SELECT clock_timestamp()');
	sql('INSERT INTO big VALUES (0)');
	$node->wait_archived;
	my $moment = sql("SELECT finished_at + interval '1 millisecond' FROM dr_backups WHERE id = '$increment'");
	is(sql("SELECT backup FROM dr_can_recover('$moment')"), $increment, 'the newest backup is chosen');
	flip_bit($own, 2000);
	is(sql("SELECT object, affected_files <> '{}' FROM dr_verify()"), "$own|t", 'files that lie in it are named');
	is(sql("SELECT status, damaged_depth FROM dr.backup WHERE id = '$increment'"), 'damaged|objects', 'the backup is called damaged');
	like(sql("SELECT error FROM dr_backups WHERE id = '$increment'"), qr/\Q$own\E/, 'with the reason');
	is(sql("SELECT backup FROM dr_can_recover('$moment')"), $full, 'another one is chosen');
	is(sql("SELECT count(*) FROM dr_recovery_windows WHERE backup = '$increment'"), 0, 'it has no recovery window');
	unlike(sql("SELECT detail FROM dr_status WHERE concern = 'backup'"), qr/\Q$increment\E/, 'dr_status does not count it');
	sql('SELECT dr_sync()');
	is(sql("SELECT status FROM dr_backups WHERE id = '$increment'"), 'damaged', 'an inventory does not take that back');
	my $next = sql("SELECT dr_backup('incremental')");
	# From before the increment there may be no change map any more; then it reads everything.
	isnt(sql("SELECT parent FROM dr_backups WHERE id = '$next'"), $increment, 'the next increment is not based on it');
	is(sql("SELECT object FROM dr_verify('$increment', 'catalogue')"), '', 'its names and sizes are right');
	is(sql("SELECT status FROM dr_backups WHERE id = '$increment'"), 'damaged', 'which does not make it sound');
	$repository->write($own, $bytes);
	is(sql("SELECT object FROM dr_verify('$increment')"), '', 'the object came back');
	is(sql("SELECT status, damaged_depth, error FROM dr.backup WHERE id = '$increment'"), 'completed||', 'and so did the status');

	# The program has only the repository.
	my ($newest) = $node->objects(qr{\Q$next\E/pack-});
	$bytes = $repository->read($newest);
	$repository->remove($newest);
	my ($copy, $exit, undef, $err) = $node->try_restore('passed_over', '--target-immediate');
	is($exit, 0, 'a restore passes over a backup that lacks a pack') or diag $err;
	like($err, qr/backup \Q$next\E can't be used: object "\Q$newest\E" does not exist/, 'and says so');
	(undef, $exit, undef, $err) = $node->try_restore('refused', '--backup', $next, '--target-immediate');
	is($exit, 1, 'when it is asked for by name it is refused');
	like($err, qr/object "\Q$newest\E" does not exist/, 'with the reason');
	$repository->write($newest, substr $bytes, 1);
	(undef, $exit, undef, $err) = $node->try_restore('resized', '--backup', $next, '--target-immediate');
	like($err, qr/\Q$newest\E.*bytes, not/s, 'a pack of another size is refused, too');
	$repository->write($newest, $bytes);
}

# ---- seen, slowed down, cancelled

{
	my $run = $node->start_backup("SELECT * FROM dr_verify('all', max_rate => 100000)");
	wait_until('it is in dr_progress', sub { sql("SELECT count(*) FROM dr_progress WHERE kind = 'verification' AND phase = 'reading' AND bytes_total > 0") == 1 });
	my $id = sql("SELECT backup FROM dr_progress WHERE kind = 'verification'");
	sql("SELECT dr_cancel('$id')");
	my ($exit, undef, $err) = $run->();
	isnt($exit, 0, 'a verification can be cancelled');
	like($err, qr/canceling statement/, 'as the statement that it is');
	is(sql("SELECT count(*) FROM dr_progress"), 0, 'nothing of it is left');
	is(sql("SELECT count(*) FROM dr.verification WHERE id = '$id'"), 0, 'nor a row');
	wait_until('its program is gone', sub { !$node->agents });
	my $begin = time;
	is(($node->program('verify', '--backup', $full, '--max-rate', int($repository->size($pack) / 3)))[0], 0, 'pg_dr verify --max-rate');
	cmp_ok(time - $begin, '>=', 2, 'takes its time');
}
for my $row ([ "dr_verify('nonsense')", qr/not the id of a backup/ ], [ "dr_verify('all', 'deep')", qr/not a depth/ ],
	[ "dr_verify(NULL)", qr/must not be null/ ], [ "dr_verify('all', max_rate => -1)", qr/negative/ ], [ "dr_check_pages(-1)", qr/negative/ ])
{
	my (undef, undef, $err) = $node->psql('postgres', "SELECT $row->[0]");
	like($err, $row->[1], "$row->[0] is refused");
}

# ---- corrupt pages of the running cluster

is(sql('SELECT count(*) FROM dr_check_pages()'), 0, 'a sound cluster has no corrupt page');
{
	my $path = sql("SELECT pg_relation_filepath('big')");
	sql('CREATE TABLE later AS SELECT generate_series(1, 1000) AS a');
	my $new = sql("SELECT pg_relation_filepath('later')");
	my $newest = sql('SELECT max(id COLLATE "C") FROM dr_backups');
	$node->stop;
	flip($node->data_dir . "/$path", 100 * 8192 + 5000);
	flip($node->data_dir . "/$new", 2 * 8192 + 5000);
	flip($node->data_dir . "/$path", 120 * 8192, 4);	# an LSN beyond the end of all WAL
	$node->start;
	my @expected = sort "$path|big|100|$newest", "$path|big|120|$newest", "$new|later|2|";
	is_deeply([ sort split /\n/, sql('SELECT path, relation, block, sound_copy FROM dr_check_pages()') ], \@expected,
		'corrupt pages are named, and the newest backup with a sound copy');
	is(sql("SELECT sound_copy FROM dr_check_pages() WHERE relation = 'big' AND block = 100"), $newest, 'again');
	my (undef, $id) = $node->psql('postgres', "SELECT dr_backup('full')");
	is(sql("SELECT string_agg(path || ' ' || block, ',' ORDER BY path, block) FROM dr.corrupt_page WHERE backup = '$id'"),
		join(',', map { /^(.*?)\|\w+\|(\d+)\|/ ? "$1 $2" : () } sort { $a =~ /^(.*?)\|/; my $x = $1; $b =~ /^(.*?)\|/; $x cmp $1 || ($a =~ /\|(\d+)\|/)[0] <=> ($b =~ /\|(\d+)\|/)[0] } @expected),
		'the next backup finds the same pages');
	is(sql("SELECT count(*) FROM dr_verify('$id', 'pages')"), 0, 'what is recorded as corrupt is no finding');
	is(sql("SELECT sound_copy FROM dr_check_pages() WHERE relation = 'big' AND block = 100"), $newest, 'a backup of the corrupt page has no sound copy');
	is(sql("SELECT count(*) FROM dr_progress"), 0, 'nothing is left in dr_progress');
}

# What the backup left out as harmless, because the server makes it again, shows what depth pages looks at.
{
	sql('CREATE TABLE mapped AS SELECT g, repeat($$x$$, 1000) FROM generate_series(1, 2000) g; DELETE FROM mapped WHERE g % 2 = 0; VACUUM mapped; CHECKPOINT');
	my $map = sql("SELECT pg_relation_filepath('mapped')") . '_fsm';
	$node->stop;
	flip($node->data_dir . "/$map", 4000);
	$node->start;
	my (undef, $id) = $node->psql('postgres', "SELECT dr_backup('full')");
	is(sql("SELECT count(*) FROM dr_verify('$id', 'objects')"), 0, 'a page that was stored corrupt and not recorded is not seen at depth objects');
	is(sql("SELECT affected_files, severity, problem ~ '^1 page in it is corrupt' FROM dr_verify('$id', 'pages')"), "{$map}|warning|t", 'but at depth pages');
	is(sql("SELECT verdict FROM dr.verification ORDER BY started_at DESC, id DESC LIMIT 1"), 'sound with warnings', 'which is the verdict');
	sql('UPDATE mapped SET g = g WHERE g < 10');
	(undef, $id) = $node->psql('postgres', "SELECT dr_backup('incremental')");
	is(sql("SELECT DISTINCT affected_files FROM dr_verify('all', 'pages') WHERE '$id' = ANY (affected_backups)"), "{$map}", 'in an increment, too');
}

# Pages that the server writes just then are not called corrupt; nor is what it stores just then missing or unknown.
{
	$node->command_ok([ 'pgbench', '-i', '-q', '-s', 2, $node->connstr('postgres') ], 'load');
	my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-T', 15, $node->connstr('postgres') ], '>', \my $out, '2>', \my $err);
	sql("SELECT dr_backup('full', wait => false)");
	for my $depth (@depths, @depths)
	{
		is(sql("SELECT object, problem FROM dr_verify('all', '$depth') WHERE severity <> 'warning'"), '', "under load, and while a backup is made: depth $depth");
	}
	sql("CHECKPOINT"), is(sql("SELECT count(*) FROM dr_check_pages() WHERE relation LIKE 'pgbench%'"), 0, 'under load nothing is called corrupt') for 1 .. 3;
	$load->kill_kill;
}
$node->stop;
done_testing();
