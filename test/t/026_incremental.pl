# Incremental backups: what they read, what they take from others, and that each restores by itself.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use PgDr::Pages;
use PgDr::Test qw(run_program wait_until);
use PostgreSQL::Test::Utils ();
use Test::More;

my $BLOCK = 8192;

sub row
{
	my ($node, $id) = @_;
	my %row;
	@row{qw(kind parent bytes bytes_read bytes_changed bytes_stored bytes_referenced restore_bytes restore_requests full_scan start_lsn)} =
	  split /\|/, $node->safe_psql('postgres', "SELECT kind, parent, bytes, bytes_read, bytes_changed, bytes_stored,
		bytes_referenced, restore_bytes, restore_requests, full_scan, start_lsn FROM dr_backups WHERE id = '$id'"), -1;
	return \%row;
}

sub incremental
{
	my ($node) = @_;
	my ($exit, $id, $err) = $node->psql('postgres', "SELECT dr_backup('incremental')");
	is($exit, 0, 'an incremental backup') or diag $err;
	return wantarray ? ($id, row($node, $id), $err) : $id;
}

# From repository and key alone: rows, pages, amcheck, checksums.
my $copies = 0;
sub restores
{
	my ($node, $id, $what, $before) = @_;
	my $copy = $node->restored('copy' . ++$copies, args => [ '--backup', $id ], start => 0);
	$node->safe_psql('postgres', 'CHECKPOINT');
	my ($compared, @problems) = PgDr::Pages::differences($node->data_dir, $copy->data_dir, row($node, $id)->{start_lsn});
	is(join("\n", @problems[ 0 .. ($#problems > 20 ? 20 : $#problems) ]), '', "$what: $compared pages are the cluster's") if !defined $before;
	$copy->start;
	$copy->wait_recovered;
	is($copy->checksums, $before // $node->checksums, "$what: every row");
	$copy->sound($what);
	$copy->destroy;
	return;
}

my $node = PgDr::Test->create('main', conf => "autovacuum = off\npg_dr.wal_ship_interval = 200ms\n");
sub sql { return $node->safe_psql('postgres', $_[0]) }

# ---- without a parent

{
	my ($id, $row, $err) = incremental($node);
	like($id, qr/-full-/, 'the first backup is a full one');
	like($err, qr/NOTICE:.*taking a full backup: there is no complete one of this timeline yet/, 'and that is said');
	is($row->{bytes_read}, $row->{bytes}, 'it reads everything');
	is($row->{parent} . $row->{full_scan}, '', 'no parent, and no excuse');
}

# ---- reads what changed

sql('CREATE TABLE big (a int PRIMARY KEY, b text); ALTER TABLE big ALTER b SET STORAGE PLAIN;
	INSERT INTO big SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 40000) g; VACUUM ANALYZE big');
my $full = $node->full_backup;
{
	my ($id, $row) = incremental($node);
	like($id, qr/-incremental-/, 'an incremental one now');
	is($row->{parent}, $full, 'its parent is the newest');
	is($row->{full_scan}, '', 'the change map proves what is unchanged');
	cmp_ok($row->{bytes_read}, '<', $row->{bytes} / 6, "nothing changed: $row->{bytes_read} of $row->{bytes} bytes read");
	cmp_ok($row->{bytes_stored}, '<', 5_000_000, "and $row->{bytes_stored} stored");
	cmp_ok($row->{bytes_referenced}, '>', 0, 'the rest is referenced');
	my $idle = $row->{bytes_read};

	sql('UPDATE big SET b = upper(b) WHERE a % 500 = 0');
	my ($second, $changed) = incremental($node);
	is($changed->{parent}, $id, 'the next one has this one as parent');
	cmp_ok($changed->{bytes_read} - $idle, '<', 3 * 1024 * 1024, 'reads what the update has touched');
	cmp_ok($changed->{bytes_read} - $idle, '>', 80 * $BLOCK, 'and all of that');
	my ($exit, $out) = $node->program('verify', '--backup', $second);
	is($exit, 0, 'pg_dr verify finds it sound') or diag $out;
	is(($node->reader('verify'))[0], 0, 'and so does the independent reader') if -x "$FindBin::Bin/../vectors/reader.py";
	restores($node, $second, 'an update');
}

# ---- truncated, then extended by pages that WAL doesn't mention; chains; several segments

sub truncate_and_extend
{
	my ($pages, $keep, $again, $what) = @_;
	sql("CREATE TABLE t (a int, b text); ALTER TABLE t ALTER b SET STORAGE PLAIN;
		INSERT INTO t SELECT g, repeat('x', 7000) FROM generate_series(1, $pages) g;
		CREATE TABLE more (a int, b text); INSERT INTO more SELECT g + 10000000, repeat('y', 1000) FROM generate_series(1, $again) g");
	my $file = $node->basedir . '/more.txt';
	sql("VACUUM t; COPY more TO '$file'");
	$node->full_backup;
	for my $round (1 .. 3)
	{
		my $left = int($keep / $round);
		sql("DELETE FROM t WHERE a > $left; VACUUM t");
		sql("COPY t FROM '$file'");
		my ($id, $row) = incremental($node);
		is($row->{full_scan}, '', "$what, round $round: nothing else is read");
		restores($node, $id, "$what, round $round") if $pages < 10000 || $round == 3;
	}
	sql('DROP TABLE t, more');
	return;
}
truncate_and_extend(1000, 100, 300, 'truncate and extend');
SKIP:
{
	skip 'a gigabyte in a bucket', 1 if ($ENV{PGDR_STORE} // 'file') ne 'file';
	truncate_and_extend(131072 + 600, 131072 + 40, 300, 'in the second segment');
}

# ---- whatever the map does not know is read

sub everything_is_read
{
	my ($what, $why, $break) = @_;
	$break->();
	sql("UPDATE big SET b = b || '.' WHERE a % 1000 = 1");
	my ($id, $row, $err) = incremental($node);
	like($err, qr/WARNING:.*everything is read: .*$why/s, "$what: said");
	like($row->{full_scan}, qr/$why/, "$what: and recorded");
	is($row->{bytes_read}, $row->{bytes}, "$what: everything is read");
	is($row->{parent} . $row->{bytes_referenced}, '0', "$what: nothing is taken from elsewhere");
	restores($node, $id, $what);
	return;
}

sub map_files { my @files = sort glob $node->data_dir . "/pg_dr/map/*"; return @files }

everything_is_read('a damaged map file', qr/map/, sub {
		sql('UPDATE big SET b = lower(b) WHERE a % 100 = 3; CHECKPOINT');
		wait_until('there is a map file', sub { map_files() });
		PgDr::Test::flip($_) for map_files() });
everything_is_read('a missing map file', qr/map/, sub {
		sql('CHECKPOINT; UPDATE big SET b = lower(b) WHERE a % 100 = 5; CHECKPOINT');
		wait_until('there is a map file', sub { map_files() });
		unlink map_files() });
everything_is_read('the map switched off', qr/off/, sub {
		$node->append_conf('postgresql.conf', 'pg_dr.change_map = off');
		$node->reload;
		sql('SELECT pg_sleep(1)') });
$node->append_conf('postgresql.conf', 'pg_dr.change_map = on');
$node->reload;
wait_until('the map is there again', sub { sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'pg_dr_change_map'") eq 't' });
everything_is_read('a hole in the map', qr/map/, sub { });
{
	my $before = incremental($node);
	my ($pack) = $node->objects(qr{\Q$before\E/pack-});
	my ($copy) = $node->repository->read($pack);
	everything_is_read('a pack of the parent is gone', qr/\Q$pack\E.*missing/, sub { $node->repository->remove($pack) });
	$node->repository->write($pack, $copy);
}

# ---- what was corrupt in the parent is not taken from it

{
	my $path = sql("SELECT pg_relation_filepath('big')");
	sql('CHECKPOINT');
	my $file = $node->data_dir . "/$path";
	my $sound = PgDr::Pages::slurp($file);
	PgDr::Test::flip($file, 100 * $BLOCK + 4000, 16);
	my (undef, $id, $err) = $node->psql('postgres', "SELECT dr_backup('full')");
	like($err, qr/holds 1 corrupt pages/, 'a backup of a corrupt page');
	open my $out, '+<:raw', $file or die;
	seek $out, 100 * $BLOCK, 0;
	print $out substr $sound, 100 * $BLOCK, $BLOCK;
	close $out;
	my ($next, $row) = incremental($node);
	is($row->{parent}, $id, 'it is a parent all the same');
	is(sql("SELECT status FROM dr_backups WHERE id = '$next'"), 'completed', 'the page was read again, and is sound now');
	restores($node, $next, 'a corrupt page of the parent, repaired');
}

# ---- a copy that was adopted has no parent

{
	my $copy = $node->restored('adopted', conf => "pg_dr.wal_ship_interval = 200ms\n");
	$copy->safe_psql('postgres', 'SELECT dr_adopt()');
	my ($id, $row, $err) = incremental($copy);
	like($id, qr/-full-/, 'another timeline begins with a full backup');
	($id, $row) = incremental($copy);
	is($row->{full_scan}, '', 'and goes on from it');
	restores($copy, $id, 'on the new timeline');
	$copy->destroy;
}

# ---- every backup restores by itself, and the last one for not much more than a full one

{
	my $own = PgDr::Test->create('chain', conf => "autovacuum = off\npg_dr.wal_ship_interval = 0\n");
	my $length = PgDr::Test::campaign() ? 100 : 12;
	$own->safe_psql('postgres', 'CREATE TABLE t (a int PRIMARY KEY, b text, c int) WITH (fillfactor = 80);
		INSERT INTO t SELECT g, md5(g::text) || md5((-g)::text), 0 FROM generate_series(1, 60000) g');
	$own->full_backup;
	my (%state, @ids);
	for my $round (1 .. $length)
	{
		$own->safe_psql('postgres', "UPDATE t SET c = $round, b = md5(b) || b FROM generate_series(1, 400) g WHERE a = 1 + (g * 7919 * $round) % 60000");
		$own->safe_psql('postgres', 'VACUUM t') if $round % 10 == 0;
		my ($id, $row) = incremental($own);
		is($row->{full_scan}, '', "round $round: the map has it");
		$state{$id} = $own->checksums;
		push @ids, $id;
	}
	my $last = row($own, $ids[-1]);
	my $fresh = row($own, $own->full_backup);
	cmp_ok($last->{restore_bytes}, '<=', 1.5 * $fresh->{restore_bytes}, "the last restores for $last->{restore_bytes} bytes, a full one for $fresh->{restore_bytes}");
	for my $id (map { $ids[$_] } 0, int($#ids / 2), $#ids)
	{
		my $target = $own->safe_psql('postgres', "SELECT stop_lsn FROM dr_backups WHERE id = '$id'");
		my $copy = $own->restored("chain_$id", args => [ '--backup', $id, '--target-immediate', '--target-action', 'promote' ]);
		is($copy->checksums, $state{$id}, "$id of a chain of $length");
		$copy->sound($id);
		$copy->destroy;
	}
	$own->stop;
}

$node->stop;
done_testing();
