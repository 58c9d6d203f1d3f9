# The change map: every block that differs between two moments is in it, whatever happens to the
# server in between, and where it can't know, it says so.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::ChangeMap;
use PgDr::Ledger;
use PgDr::Test qw(campaign random_seed wait_until);
use File::Path ();
use Test::More;
use Time::HiRes qw(sleep time);

random_seed();
my $node = PgDr::Test->create('main', wal_segsize => 1, conf => <<'END');
pg_dr.wal_ship_interval = 0
autovacuum = off
max_prepared_transactions = 2
max_replication_slots = 2
wal_keep_size = 0
END
my $data = $node->data_dir;
my $timeline = 1;
my $ledger = PgDr::Ledger->new($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub state { return sql("SELECT $_[0] FROM dr.change_map()") }
sub status { return sql(q{SELECT status, detail, hint FROM dr_status WHERE concern = 'change_map'}) }
sub slots { return sql(q{SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'pg_dr_change_map'}) }
sub wait_mapping { return $node->poll_query_until('postgres', q{SELECT state = 'mapping' FROM dr.change_map()}) // die 'the map is not kept' }
sub path_of { return sql("SELECT pg_relation_filepath('$_[0]')") }
sub set { $node->append_conf('postgresql.conf', $_[0]); $node->reload; return }

# A redo pointer up to which everything is in files.
sub checkpoint
{
	wait_mapping();
	for (1 .. 20)
	{
		sql('CHECKPOINT');
		my $redo = sql('SELECT redo_lsn FROM pg_control_checkpoint()');
		for (1 .. 30)
		{
			return PgDr::ChangeMap::lsn($redo) if state("durable >= '$redo'") eq 't';
			sleep 0.1;
		}
	}
	die 'no checkpoint comes to be in a file';
}

sub since { return PgDr::ChangeMap->known($data, $timeline, $_[0], checkpoint()) }

# Run it between two checkpoints; what the map says of that.
sub changes
{
	my ($code) = @_;
	my $from = checkpoint();
	if (ref $code) { $code->() }
	else { sql($_) for split /;\n/, $code }
	return since($from);
}

# ------------------------------------------------------------- copies of files

# Every main fork of a logged relation: path => content, whole relations.
sub main_forks
{
	my (%content, %paths);
	for my $dir ('global', map { s{^\Q$data\E/}{}r } glob("$data/base/*"), glob("$data/pg_tblspc/*/PG_*/*"))
	{
		my %names = map { s{.*/}{}r => 1 } glob "$data/$dir/*";
		$paths{"$dir/$_"} = 1 for grep { /^(\d+)(?:\.\d+)?$/ && !$names{"$1_init"} } keys %names;
	}
	for my $path (sort { ($a =~ /\.(\d+)$/ ? $1 : 0) <=> ($b =~ /\.(\d+)$/ ? $1 : 0) } keys %paths)
	{
		$content{ $path =~ s/\.\d+$//r } .= slurp_file("$data/$path");
	}
	return \%content;
}

# SP-GiST keeps in block 0 which pages it used last, and logs no change of that: a hint, an older one is as good.
sub hint_pages
{
	return map { $_ => 1 } split /\n/, sql(q{SELECT pg_relation_filepath(c.oid) FROM pg_class AS c JOIN pg_am AS a ON a.oid = relam WHERE amname = 'spgist'});
}

# What differs and is not in the map: must be nothing.
sub unclaimed
{
	my ($map, $before, $after) = @_;
	my %hint_page = hint_pages();
	my @missed;
	my $differing = 0;
	for my $path (sort keys %{ { %$before, %$after } })
	{
		my ($old, $new) = ($before->{$path}, $after->{$path});
		if (!defined $old || !defined $new)
		{
			push @missed, $path . (defined $new ? ' is new' : ' is gone') unless $map->claims($path, 0);
			next;
		}
		next if $old eq $new;
		push @missed, "$path was shortened" if length $new < length $old && !$map->claims($path, length($new) / 8192);
		for (my $block = 0; $block * 8192 < length $old && $block * 8192 < length $new; $block++)
		{
			next if substr($old, $block * 8192, 8192) eq substr($new, $block * 8192, 8192);
			next if $block == 0 && $hint_page{$path};
			$differing++;
			push @missed, sprintf '%s block %d (%X/%X)', $path, $block, unpack 'VV', substr $new, $block * 8192, 8 unless $map->claims($path, $block);
		}
	}
	note "$differing blocks differ, $map->{files} files";
	return @missed;
}

# ------------------------------------------------------------------ it begins

wait_mapping();
is(slots(), 1, 'a slot keeps WAL for it');
like(status(), qr/^ok\|all changes since \S+ are known, \d+ bytes of WAL wait to be read\|$/, 'dr_status says since when');
my $begin = checkpoint();
is((stat((PgDr::ChangeMap::files($data))[0]{path}))[2] & 07777, 0600, 'its files are the server\'s');
is(sql(q{SELECT restart_lsn = durable FROM pg_replication_slots, dr.change_map() WHERE slot_name = 'pg_dr_change_map'}), 't', 'the slot follows the files');

# ------------------------------------------------ what exactly must be there

sql('CREATE TABLE t (id int PRIMARY KEY, v text) WITH (fillfactor = 90); INSERT INTO t SELECT i, repeat(i::text, 100) FROM generate_series(1, 20000) i; VACUUM FREEZE t');
my $map = changes('UPDATE t SET v = v WHERE id = 10000');
my ($t, $t_pkey) = map { path_of($_) } 't', 't_pkey';
my $block = sql('SELECT (ctid::text::point)[0]::int FROM t WHERE id = 10000');
ok($map->claims($t, $block), 'an update: the row\'s block');
cmp_ok(scalar(keys %{ $map->relation($t)->{blocks} }), '<=', 3, 'and hardly more');
is($map->relation($t)->{limit}, undef, 'nothing was cut off');
$map = changes('SELECT count(*) FROM t');
is(scalar(keys %{ $map->relation($t)->{blocks} }), 0, 'nothing changed: nothing is marked');

$map = changes('INSERT INTO t SELECT i, repeat(i::text, 100) FROM generate_series(20001, 20100) i');
ok($map->claims($t, sql('SELECT (ctid::text::point)[0]::int FROM t WHERE id = 20100')), 'an insert: its block');
cmp_ok(scalar(keys %{ $map->relation($t_pkey)->{blocks} }), '>', 0, 'and the index\'s');

my $pages = sql(q{SELECT pg_relation_size('t') / 8192});
$map = changes("DELETE FROM t WHERE id > 5000;\nVACUUM t");
my $left = sql(q{SELECT pg_relation_size('t') / 8192});
cmp_ok($left, '<', $pages, "vacuum shortens it from $pages to $left");
is($map->relation($t)->{limit}, $left, 'the limit is where it was cut');
$map = changes("INSERT INTO t SELECT i, repeat(i::text, 100) FROM generate_series(5001, 15000) i;\nDELETE FROM t WHERE id > 8000;\nVACUUM t;\nINSERT INTO t SELECT i, repeat(i::text, 100) FROM generate_series(8001, 18000) i");
cmp_ok($map->relation($t)->{limit}, '<', sql(q{SELECT pg_relation_size('t') / 8192}), 'cut and grown again: the lowest limit stays');

$map = changes('TRUNCATE t');
is($map->relation($t)->{limit}, 0, 'TRUNCATE: nothing of the old file is left');
is($map->relation(path_of('t'))->{limit}, 0, 'and the new one begins empty');
$map = changes("CREATE TABLE gone AS SELECT 1 AS i;\nCREATE TABLE stays AS SELECT 1 AS i");
my $gone = path_of('gone');
is($map->relation($gone)->{limit}, 0, 'CREATE TABLE');
$map = changes("DROP TABLE gone;\nINSERT INTO stays VALUES (2)");
is($map->relation($gone)->{limit}, 0, 'DROP TABLE');
is($map->relation(path_of('stays'))->{limit}, undef, 'another one is not concerned');
sql('CREATE TABLE gone AS SELECT 1 AS i');
$gone = path_of('gone');
$map = changes("BEGIN; DROP TABLE gone; PREPARE TRANSACTION 'p'");
is($map->relation($gone)->{limit}, undef, 'prepared: not yet gone');
$map = changes("COMMIT PREPARED 'p'");
is($map->relation($gone)->{limit}, 0, 'COMMIT PREPARED');
my $aborted;
$map = changes(sub {
		$aborted = (split /\n/, sql("BEGIN; CREATE TABLE aborted AS SELECT 1 AS i; SELECT pg_relation_filepath('aborted'); ROLLBACK"))[0] });
is($map->relation($aborted)->{limit}, 0, 'ROLLBACK of a CREATE TABLE');
$map = changes('CLUSTER pg_class USING pg_class_oid_index');
is($map->relation(path_of('pg_class'))->{limit}, 0, 'a mapped relation that is rewritten');

# A chunk that becomes a bitmap; more than 4096 blocks of one relation.
sql(q{CREATE TABLE wide (id int, v text) WITH (fillfactor = 10); INSERT INTO wide SELECT i, repeat('x', 700) FROM generate_series(1, 5000) i; VACUUM FREEZE wide});
$map = changes('UPDATE wide SET id = id + 1');
my $wide = $map->relation(path_of('wide'));
cmp_ok(scalar(keys %{ $wide->{blocks} }), '>=', 5000, 'every block of a large relation: ' . keys %{ $wide->{blocks} });
sql('DROP TABLE wide');

# --- databases and tablespaces
for my $strategy (qw(wal_log file_copy))
{
	$map = changes("CREATE DATABASE $strategy STRATEGY $strategy");
	my $oid = sql("SELECT oid FROM pg_database WHERE datname = '$strategy'");
	ok($map->{whole}{"1663/$oid"}, "CREATE DATABASE STRATEGY $strategy: all of it");
	$map = changes("DROP DATABASE $strategy");
	ok($map->{whole}{"1663/$oid"}, 'and DROP DATABASE');
}
mkdir $node->basedir . '/space';
$map = changes("CREATE TABLESPACE space LOCATION '@{[$node->basedir]}/space'");
my $space = sql(q{SELECT oid FROM pg_tablespace WHERE spcname = 'space'});
ok($map->{whole}{$space}, 'CREATE TABLESPACE');
sql('CREATE TABLE apart (i int) TABLESPACE space');
$map = changes('INSERT INTO apart VALUES (1)');
ok($map->claims(path_of('apart'), 0) && !$map->everything(path_of('apart')), 'a relation in it is followed like any other');
sql('CREATE DATABASE mover');
my $mover = sql(q{SELECT oid FROM pg_database WHERE datname = 'mover'});
$map = changes('ALTER DATABASE mover SET TABLESPACE space');
ok($map->{whole}{"1663/$mover"} && $map->{whole}{"$space/$mover"}, 'ALTER DATABASE SET TABLESPACE: here and there');
$map = changes("DROP DATABASE mover;\nDROP TABLE apart;\nDROP TABLESPACE space");
ok($map->{whole}{$space}, 'DROP TABLESPACE');

# ------------------------------------------------------------------- it rests

my $files = state('files');
sleep 4;
is(state('files'), $files, 'an idle cluster writes no files');

# -------------------------- everything that differs, whatever happens between

my $next = 0;
my @operations = (
	sub { 'INSERT INTO r SELECT i, i % 97, repeat(md5(i::text), 1 + i % 40) FROM generate_series(1, ' . int(rand 3000) . ') i' },
	sub { 'UPDATE r SET k = k + 1 WHERE id % ' . (2 + int rand 20) . ' = 0' },
	sub { 'DELETE FROM r WHERE ctid IN (SELECT ctid FROM r ORDER BY ctid DESC LIMIT ' . int(rand 4000) . ')' },
	sub { 'VACUUM r' },
	sub { 'VACUUM FREEZE r' },
	sub { 'VACUUM FULL r' },
	sub { 'REINDEX TABLE r' },
	sub { 'TRUNCATE r' },
	sub { $next++; "CREATE TABLE extra_$next AS SELECT * FROM r LIMIT 500" },
	sub { 'DROP TABLE IF EXISTS extra_' . int(rand(1 + $next)) },
	sub { 'BEGIN; INSERT INTO r SELECT * FROM r LIMIT 500; ROLLBACK' },
	sub { 'SELECT count(*) FROM r' },
	sub { q{CREATE TEMP TABLE x AS SELECT * FROM r} },
	sub { 'INSERT INTO u SELECT generate_series(1, 1000)' },
	sub { 'ALTER TABLE u SET ' . (rand 2 < 1 ? 'LOGGED' : 'UNLOGGED') },
	sub { q{SELECT lo_from_bytea(0, repeat('large', 1000)::bytea) FROM generate_series(1, 20)} },
	sub { q{CREATE DATABASE d STRATEGY } . (rand 2 < 1 ? 'wal_log' : 'file_copy') },
	sub { 'DROP DATABASE IF EXISTS d' },
	sub { 'ANALYZE' },
	sub { 'CHECKPOINT' },
	sub { 'SELECT pg_switch_wal()' });

sub random_operations
{
	for (1 .. $_[0])
	{
		my $operation = $operations[ rand @operations ]->();
		note $operation;
		$node->psql('postgres', $operation);
	}
	return;
}

sub worker { return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_dr change map'}) }

sub terminate_worker
{
	my $pid = worker();
	sql("SELECT pg_terminate_backend($pid)") if $pid;
	return;
}

my %disturbances = (
	none => sub { },
	restart => sub { $node->restart },
	'kill -9' => sub { $node->machine_dies; $node->start },
	terminated => sub { terminate_worker(); random_operations(3); wait_mapping(); terminate_worker() });

sql(q{CREATE TABLE r (id int, k int, v text); CREATE INDEX ON r (k); CREATE INDEX ON r USING hash (id); CREATE INDEX ON r USING brin (id);
	CREATE INDEX ON r USING gin (to_tsvector('simple', v)); CREATE INDEX ON r USING gist (point(id, k)); CREATE INDEX ON r USING spgist (v);
	CREATE UNLOGGED TABLE u (i int); CREATE SEQUENCE s});
my $known_from = state('known_from');
for my $run (1 .. $ENV{PGDR_RUNS} // (campaign() ? 30 : 1))
{
	for my $what (sort keys %disturbances)
	{
		my $from = checkpoint();
		my $before = main_forks();
		my $load = $ledger->start if $what ne 'none';
		random_operations(12);
		$disturbances{$what}->();
		random_operations(8);
		kill 'TERM', $load->{pid} if $load;
		$ledger->finish($load) if $load;
		checkpoint();
		my $after = main_forks();	# sessions that end, and hint bits, change things after that checkpoint's redo pointer, too
		is(join(', ', unclaimed(since($from), $before, $after)), '', "run $run, $what: everything that differs is in the map");
		is(state('known_from'), $known_from, 'which never lost its way');
	}
}

# The test can tell: without its files, differences are unclaimed.
my $from = checkpoint();
my $before = main_forks();
sql('INSERT INTO r VALUES (1, 1, 1)');
checkpoint();
isnt(join(', ', unclaimed(bless({ files => 0, relations => {}, whole => {} }, 'PgDr::ChangeMap'), $before, main_forks())), '', 'the comparison finds what an empty map would miss');

# ----------------------------------------------------- it can't know, and says so

# --- the slot is gone when the server comes back
sql('INSERT INTO r VALUES (1, 1, 1)');
$node->stop;
my $end = (PgDr::ChangeMap::files($data))[-1]{to};
File::Path::rmtree("$data/pg_replslot/pg_dr_change_map");
append_to_file("$data/pg_dr/map/00000001.0000000000000001.0000000000000002.tmp", 'half a file');
my $offset = -s $node->logfile;
$node->start;
wait_mapping();
like(slurp_file($node->logfile, $offset), qr/WARNING:  the change map begins anew at .*: replication slot "pg_dr_change_map" is not there.*The next incremental backup reads everything/s, 'the slot was dropped: the log says so');
like(status(), qr/^ok\|all changes since.*began anew at.*is not there/, 'and dr_status');
is(scalar(glob "$data/pg_dr/map/*.tmp"), undef, 'what a crash left in the directory is removed');
cmp_ok(PgDr::ChangeMap::lsn(state('known_from')), '>', $end, 'what lies between is not called known');
ok(!eval { since($from) }, 'and is a hole in the files');
like($@, qr/hole/, 'that is found');

# --- it is behind by more than it may be
checkpoint();
set('pg_dr.change_map_wal_limit = 4MB');
$offset = -s $node->logfile;
my $pid = worker();
kill 'STOP', $pid;
sql(q{CREATE TABLE bulk AS SELECT repeat('x', 1000) FROM generate_series(1, 12000) i});
kill 'CONT', $pid;
$node->wait_for_log(qr/WARNING:  the change map begins anew at .*: it was behind by more than pg_dr.change_map_wal_limit \(4 MB\)/, $offset);
pass('a limit: it lets the WAL go, and says so');
$from = checkpoint();
ok(eval { PgDr::ChangeMap->known($data, 1, PgDr::ChangeMap::lsn(state('known_from')), $from) }, 'from then on everything is known again');

# Without lagging, a checkpoint that is far away is no reason.
$offset = -s $node->logfile;
for (1 .. 24) { sql(q{INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 500) i}); sleep 0.15 }
unlike(slurp_file($node->logfile, $offset), qr/begins anew/, 'it keeps up between checkpoints that are far from each other');
set('pg_dr.change_map_wal_limit = 4GB');

# --- the server takes the WAL away
checkpoint();
$offset = -s $node->logfile;
set("max_slot_wal_keep_size = 1MB\nmax_wal_size = 2MB\nmin_wal_size = 2MB");
$pid = worker();
kill 'STOP', $pid;
sql(q{INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 12000) i});
$node->wait_archived;
my $asked = $node->start_backup('CHECKPOINT');	# waits for the worker to let the slot go
$node->wait_for_log(qr/terminating process $pid to release replication slot/, $offset);
kill 'CONT', $pid;
$asked->();
$node->wait_for_log(qr/WARNING:  the change map begins anew at .*: replication slot "pg_dr_change_map" was invalidated/, $offset);
pass('max_slot_wal_keep_size: it begins anew, and says so');
wait_mapping();
set('max_slot_wal_keep_size = -1');

# --- off, and on again
set('pg_dr.change_map = off');
$node->poll_query_until('postgres', q{SELECT state = 'off' FROM dr.change_map()});
is(slots(), 0, 'off: the slot is dropped');
is(scalar(() = PgDr::ChangeMap::files($data)), 0, 'and the files are removed');
like(status(), qr/^warning\|off: pg_dr.change_map is off\|.*incremental backups read everything/, 'dr_status says what it costs');

# --- no slot to be had
sql(q{SELECT pg_create_physical_replication_slot('a'), pg_create_physical_replication_slot('b')});
$offset = -s $node->logfile;
set('pg_dr.change_map = on');
$node->wait_for_log(qr/WARNING:  could not keep the change map: all replication slots are in use/, $offset);
like(status(), qr/^warning\|failed at .*all replication slots are in use\|.*max_replication_slots.*read everything/, 'no slot is free: dr_status says so');
sql(q{SELECT pg_drop_replication_slot('a'), pg_drop_replication_slot('b')});
wait_mapping();
is(() = slurp_file($node->logfile, $offset) =~ /could not keep the change map/g, 1, 'it was said once, and tried again');
is(slots(), 1, 'on: it begins anew');
$from = checkpoint();
like(status(), qr/^ok\|all changes since/, 'dr_status is content');

# --- not wanted any more: it holds nothing
my $key = $node->{key_file};
set("pg_dr.encryption_key_file = ''");
$node->poll_query_until('postgres', q{SELECT state = 'off' FROM dr.change_map()});
is(slots(), 0, 'without a repository it holds nothing');
set("pg_dr.encryption_key_file = '$key'");
wait_mapping();

# --- files that are not true, and those that are old
checkpoint();
sql('INSERT INTO r VALUES (1, 1, 1)');
checkpoint();
$node->stop;
my @files = PgDr::ChangeMap::files($data);
my ($untrue, $old) = ("$data/pg_dr/map/00000001.0000000000000028.00000FFF00000028", $files[0]{path});
append_to_file($untrue, 'not true');
utime time() - 11 * 86400, time() - 11 * 86400, $old;
$offset = -s $node->logfile;
$node->start;
wait_mapping();
ok(!-e $untrue, 'a file that ends behind the end of WAL is removed');
like(slurp_file($node->logfile, $offset), qr/WARNING:  removing file "pg_dr.map.00000001\.0000000000000028\.00000FFF00000028"/, 'and the log says so');
wait_until('an old file is removed', sub { !-e $old });
pass('a file of 11 days is removed');

# --- its last file is damaged: it is not continued
checkpoint();
$node->stop;
my ($last) = sort { $b->{to} <=> $a->{to} } PgDr::ChangeMap::files($data);
PgDr::Test::flip($last->{path}, 0);
$offset = -s $node->logfile;
$node->start;
wait_mapping();
like(slurp_file($node->logfile, $offset), qr/begins anew at .*: its last file is damaged/, 'a damaged last file is not continued');

# --- a standby holds nothing back; promoted, it begins on its timeline
checkpoint();
$node->stop;
append_to_file("$data/standby.signal", '');
$node->start;
wait_until('the slot is dropped', sub { slots() eq '0' });
pass('what a former primary left is dropped by the standby');
like(status(), qr/^ok\|a standby keeps no change map/, 'which keeps no map');
$offset = -s $node->logfile;
$node->promote;
$timeline = 2;
$node->wait_for_log(qr/the change map begins on a new timeline/, $offset);
my $place;	# wherever there is room
$map = changes(sub { $place = sql(q{INSERT INTO r VALUES (1, 1, 1) RETURNING (ctid::text::point)[0]::int}) });
ok($map->claims(path_of('r'), $place), 'promoted, it begins on the new timeline');
is((sort { $b <=> $a } map { $_->{timeline} } PgDr::ChangeMap::files($data))[0], 2, 'with files of its own');
$node->stop;

done_testing();
