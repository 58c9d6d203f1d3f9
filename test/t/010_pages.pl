# Corrupt pages: found, named, loud; the backup is made all the same, and a page that
# only looks corrupt is not called so.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(flip);
use Test::More;

my $node = PgDr::Test->create('main', conf => "autovacuum = off\n");
$node->safe_psql('postgres', q{
	CREATE TABLE good AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g;
	CREATE TABLE bad AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g;
	CREATE TABLE mapped AS SELECT g, repeat('x', 1000) FROM generate_series(1, 2000) g;
	CREATE UNLOGGED TABLE forgotten AS SELECT generate_series(1, 5000) a;
	DELETE FROM mapped WHERE g % 2 = 0;
	VACUUM mapped;
	CHECKPOINT});
my %path = map { $_ => $node->safe_psql('postgres', "SELECT pg_relation_filepath('$_')") } qw(good bad mapped);
my $sum = $node->safe_psql('postgres', 'SELECT count(*), sum(hashtext(t::text)) FROM good t');
my $pages = $node->safe_psql('postgres', q{SELECT pg_relation_size('bad') / 8192});

is_deeply([ corrupt() ], [], 'a sound cluster has no corrupt page');

# --- damage on disk, while the server is down and has nothing of it in memory
$node->stop;
my $bad = $node->data_dir . "/$path{bad}";
flip($bad, 3 * 8192 + 4000);                                  # in the tuples
overwrite($bad, 5 * 8192, pack('VV', 0xffffffff, 0xffffff00)); # its LSN lies beyond all WAL
overwrite($bad, 7 * 8192 + 4096, "\0" x 4096);                # torn in its middle
overwrite($bad, 9 * 8192, "\0" x 24);                         # a header of zeros before data
overwrite($bad, 11 * 8192, "\0" x 8192);                      # a new page: sound
overwrite($bad, ($pages - 1) * 8192 + 8, "\x12\x34");         # the checksum itself, last page
flip($node->data_dir . "/$path{mapped}_fsm", 4000);           # the server makes that one again
my @wrong = (3, 5, 7, 9, $pages - 1);
$node->start;

my ($exit, $id, $err) = $node->psql('postgres', q{SELECT dr_backup('full')});
is($exit, 0, 'the backup is made');
like($err, qr/WARNING: .*corrupt/, 'and says that there are corrupt pages');
like($err, qr/HINT/, 'and what to do');
is($node->safe_psql('postgres', "SELECT status || ' ' || corrupt_pages FROM dr_backups WHERE id = '$id'"),
	'completed with corruption ' . @wrong, 'its row says so');
is_deeply([ corrupt($id) ], [ map { "$path{bad} $_" } @wrong ], 'each page is named, and no other');
is($node->safe_psql('postgres', "SELECT count(*) FROM dr.corrupt_page WHERE backup = '$id' AND block = 3 AND expected <> found"), 1,
	'with both checksums');
is($node->safe_psql('postgres', q{SELECT status FROM dr_status WHERE concern = 'backup'}), 'warning', 'dr_status warns');
is((grep { $_->{id} eq $id } $node->listing)[0]{corrupt_pages}, scalar @wrong, 'pg_dr list knows');
is(($node->reader('verify'))[0], 0, 'its manifest is whole');

# --- what was corrupt is restored as it was, what was sound is sound
$node->wait_archived;
$node->destroy;
my ($copy, $status, $out) = $node->try_restore('copy');
is($status, 0, 'it restores');
like($out, qr/corrupt/i, 'and says what it is');
$copy->own_address;
$copy->start;
$copy->wait_recovered;
is($copy->safe_psql('postgres', 'SELECT count(*), sum(hashtext(t::text)) FROM good t'), $sum, 'sound tables are sound');
is($copy->safe_psql('postgres', 'SELECT count(*) FROM forgotten'), 0, 'an unlogged table is empty');
isnt(($copy->psql('postgres', 'SELECT count(*) FROM bad'))[0], 0, 'the server finds the damage where it was');
$copy->stop;
my ($checked) = run_command([ 'pg_checksums', '--check', '-D', $copy->data_dir ]);
# One with a header of zeros counts as new in some majors.
like($checked, qr/^Bad checksums:\s*(@{[ scalar @wrong ]}|@{[ @wrong - 1 ]})$/m, 'pg_checksums counts the same pages');

sub corrupt
{
	my $backup = shift // $node->full_backup;
	return split /\n/, $node->safe_psql('postgres', "SELECT path || ' ' || block FROM dr.corrupt_page WHERE backup = '$backup' ORDER BY path, block");
}

sub overwrite
{
	my ($file, $offset, $bytes) = @_;
	open my $handle, '+<:raw', $file or die "$file: $!";
	seek $handle, $offset, 0;
	print $handle $bytes;
	close $handle or die "$file: $!";
	return;
}

done_testing();
