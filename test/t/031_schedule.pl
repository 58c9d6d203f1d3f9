# The usual plan as jobs of the real pg_cron: they run, and one that fails says so there.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgDr::Test qw(wait_until campaign);
use Test::More;

my $node = PgDr::Test->create('main', wal_segsize => 1, start => 0);
my $drills = $node->basedir . '/drills';
mkdir $drills, 0700;
$node->append_conf('postgresql.conf', "pg_dr.drill_directory = '$drills'\nmax_worker_processes = 16\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_dr');
sub sql { return $node->safe_psql('postgres', $_[0]) }
sub error_of { my (undef, undef, $err) = $node->psql('postgres', $_[0]); return $err }

# --- without pg_cron
for my $statement ('SELECT dr_schedule()', 'SELECT dr_unschedule()')
{
	like(error_of($statement), qr/ERROR: +extension pg_cron is not installed in database "postgres".*DETAIL: .*SELECT dr\.run_drill\(\);.*HINT: .*shared_preload_libraries/s, "$statement says what to do, and what else could be done");
}
like(error_of(q{SELECT dr_schedule('hourly')}), qr/"hourly" is not a plan|not installed/, 'a plan must be one');
like(error_of(q{SELECT * FROM dr.plan('hourly')}), qr/"hourly" is not a plan.*HINT/s, 'and is told');
is(sql(q{SELECT string_agg(job, ',') FROM dr.plan('standard')}), 'pg_dr incremental,pg_dr verification,pg_dr drill,pg_dr expiry', 'the standard plan');
is(sql(q{SELECT string_agg(job, ',') FROM dr.plan('nightly')}), 'pg_dr full,pg_dr verification,pg_dr drill,pg_dr expiry', 'the nightly one');

# --- what the jobs call, by hand
my $made = sql(q{SELECT dr.run_backup('full')});
like($made, qr/-full-/, 'dr.run_backup');
is(sql('SELECT dr.run_verification()'), '', 'dr.run_verification');
like(sql('SELECT dr.run_drill()'), qr/-drill-/, 'dr.run_drill');
is(sql('SELECT dr.run_expiry()'), 0, 'dr.run_expiry');
my ($pack) = $node->objects(qr{\Q$made\E/pack-});
my $bytes = $node->repository->read($pack);
$node->repository->flip($pack);
is(sql('SELECT dr.run_verification()'), '', 'what was proven within 30 days is not read again,');
like(error_of('SELECT dr.run_verification(max_age => NULL)'), qr/ERROR: +verification \(all\) found \d+ problems.*DETAIL: .*pack-/s, 'a finding is an ERROR');
like(error_of('SELECT dr.run_drill()'), qr/ERROR: +drill \S+ failed: .*damaged.*HINT: .*dr_drills/s, 'and a drill that failed');
$node->repository->remove($pack);
$node->repository->write($pack, $bytes);
$node->repository->remove(my $name = "$pack");
like(error_of('SELECT dr.run_verification()'), qr/ERROR/, 'a lost object, too');
$node->repository->write($name, $bytes);

# --- with it
SKIP:
{
	sql('SELECT 1');
	skip 'NOT TESTED: pg_cron is not installed', 1 if sql(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_cron'}) eq '0';
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_dr, pg_cron'\ncron.host = '" . $node->host . "'\n");
	$node->restart;
	sql('CREATE EXTENSION pg_cron');
	is(sql('SELECT string_agg(job || $$ $$ || schedule, $$,$$) FROM dr_schedule()'),
		'pg_dr incremental */15 * * * *,pg_dr verification 20 3 * * *,pg_dr drill 20 4 * * 0,pg_dr expiry 50 5 * * *', 'dr_schedule says what it installed');
	sql(q{SELECT cron.schedule('mine', '0 0 1 1 *', 'SELECT 1')});
	is(sql(q{SELECT count(*) FROM dr_schedule('nightly', drill => false)}), 3, 'another plan takes its place');
	is(sql(q{SELECT string_agg(jobname, ',' ORDER BY jobname) FROM cron.job}), 'mine,pg_dr expiry,pg_dr full,pg_dr verification', 'and only its own');
	is(sql('SELECT count(*) FROM dr_unschedule()'), 3, 'dr_unschedule');
	is(sql(q{SELECT string_agg(jobname, ',') FROM cron.job}), 'mine', 'leaves the others');

	# Every minute, the least that pg_cron knows; the drill is to fail.
	sql(q{INSERT INTO dr.drill_check VALUES ('wrong', 'postgres', 'SELECT 1', '2')});
	sql('SELECT dr_schedule()');
	sql(q{SELECT cron.alter_job(jobid, schedule := '* * * * *') FROM cron.job WHERE jobname LIKE 'pg_dr %'});
	my $details = q{SELECT j.jobname || ' ' || r.status || ' ' || r.return_message FROM cron.job_run_details AS r JOIN cron.job AS j USING (jobid)
		WHERE r.status IN ('succeeded', 'failed') ORDER BY r.runid};
	wait_until('four jobs have run', sub { sql("SELECT count(DISTINCT split_part(d, ' ', 2)) FROM ($details) AS d(d)") == 4 }, 150);
	my $ran = sql($details);
	sql('SELECT count(*) FROM dr_unschedule()');
	note $ran;
	like($ran, qr/^pg_dr incremental succeeded/m, 'the backup has run');
	like($ran, qr/^pg_dr verification succeeded/m, 'the verification');
	like($ran, qr/^pg_dr expiry succeeded/m, 'retention');
	like($ran, qr/^pg_dr drill failed.*assertion wrong/m, 'the drill that failed is a job that failed, and says why');
	is(sql(q{SELECT count(*) > 0 FROM dr_backups WHERE kind = 'incremental' AND status = 'completed'}), 't', 'the backup is there');
	wait_until('no drill runs', sub { sql('SELECT count(*) FROM dr_progress') eq '0' });
	is(sql(q{SELECT string_agg(DISTINCT status, ',') FROM dr_drills WHERE started_at > (SELECT min(start_time) FROM cron.job_run_details)}), 'failed', 'and the drill\'s row');
}

# --- the heartbeat: about once a minute while others write, and not for its own sake
sql('CREATE TABLE activity (a int)');
wait_until('there is a heartbeat', sub { sql('SELECT count(*) FROM dr.heartbeat') eq '1' }, 120);
my $beat = sql('SELECT at FROM dr.heartbeat');
SKIP:
{
	skip 'in campaigns only: an idle cluster has no heartbeat', 1 unless campaign();
	sql('SELECT pg_sleep(130)');
	$beat = sql('SELECT at FROM dr.heartbeat');
	sql('SELECT pg_sleep(150)');
	is(sql('SELECT at FROM dr.heartbeat'), $beat, 'an idle cluster has no heartbeat');
}
$node->wait_archived;	# it may have been committed just now
ok(sql("SELECT recovery_point >= '$beat' FROM dr_drill(amcheck => false)") eq 't', 'a drill finds it again');
$node->stop;
done_testing();
