# Months of incremental backups under a grandfather-father-son policy: whatever is kept restores,
# nothing is left that nobody names, and the newest backup costs a restore little more than a full one.
# Forty backups in every run, two hundred with --campaign.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";

use PgDr::Test qw(campaign wait_until);
use PostgreSQL::Test::Utils;
use Test::More;

my $BACKUPS = campaign() ? 200 : 40;
my $STEP = campaign() ? 9 * 3600 : 40 * 3600;	# about 70 days either way

my $node = PgDr::Test->create('main', wal_segsize => 4, conf => <<'END');
autovacuum = off
pg_dr.wal_ship_interval = 0
pg_dr.expire_grace = 0
pg_dr.retention = 'pitr 2d, daily 7, weekly 4, monthly 3'
END
sub sql { return $node->safe_psql('postgres', $_[0]) }

my $clock = 0;
sub advance
{
	$clock += $_[0];
	$node->append_conf('postgresql.conf', "pg_dr.debug_clock = $clock");
	$node->reload;
	wait_until('the clock is set', sub { sql('SHOW pg_dr.debug_clock') eq $clock });
	return;
}

sub expire { return map { [ split /\|/ ] } split /\n/, sql('SELECT what, name, reason FROM dr_expire(false)') }

# Names of the packs that some manifest lists, by the independent reader.
sub named_packs
{
	my ($exit, $out) = $node->reader('packs');
	is($exit, 0, 'the independent reader lists packs') or diag $out;
	return split /\n/, $out;
}

sql('CREATE TABLE t (a int PRIMARY KEY, b text, c int) WITH (fillfactor = 85); CREATE INDEX ON t (c);
	INSERT INTO t SELECT g, md5(g::text) || md5((-g)::text), g % 1000 FROM generate_series(1, 60000) g;
	CREATE TABLE log (a int, b text)');
$node->full_backup;
my (%rows, @made, $scans);
for my $round (1 .. $BACKUPS)
{
	advance($STEP);
	sql("UPDATE t SET c = $round FROM generate_series(1, 300) g WHERE a = 1 + (g::bigint * 7919 * ($round + 13)) % 60000;
		INSERT INTO log SELECT $round * 200 + g, repeat(md5(g::text), 20) FROM generate_series(1, 200) g;
		DELETE FROM log WHERE a < $round * 200 - 5000");
	sql('VACUUM') if $round % 7 == 0;
	my $id = sql(q{SELECT dr_backup()});
	push @made, $id;
	$scans++ if sql("SELECT full_scan IS NOT NULL FROM dr_backups WHERE id = '$id'") eq 't';
	$rows{$id} = $node->checksums;
	expire() if $round % 5 == 0;
}
is($scans // 0, 0, "none of $BACKUPS backups read everything");
expire() for 1 .. 2;

my @kept = $node->listed;
cmp_ok(scalar @kept, '<', 25, scalar(@kept) . ' are kept');
cmp_ok(scalar @kept, '>', 8, 'which are not too few');
is($kept[-1], $made[-1], 'the newest among them');
is_deeply([ sort { $a cmp $b } $node->objects(qr{/pack-}) ], [ sort { $a cmp $b } named_packs() ], 'every pack is named by a manifest, and every named one is there');
is(($node->reader('verify'))[0], 0, 'the independent reader finds every one sound');

for my $id (@kept)
{
	next unless exists $rows{$id};
	my $copy = $node->restored("copy_$id", args => [ '--backup', $id, '--target-immediate', '--target-action', 'promote' ]);
	is($copy->checksums, $rows{$id}, "$id restores");
	$copy->sound($id) if $id eq $kept[0] || $id eq $kept[-1];
	$copy->destroy;
}

my ($cost, $packs) = split /\|/, sql("SELECT restore_bytes, restore_requests FROM dr_backups WHERE id = '$kept[-1]'");
my ($fresh) = sql(q{SELECT restore_bytes FROM dr_backups WHERE id = '} . $node->full_backup . q{'});
cmp_ok($cost, '<=', 1.5 * $fresh, "restoring the newest fetches $cost bytes in $packs requests, a full backup $fresh");
$node->stop;
done_testing();
