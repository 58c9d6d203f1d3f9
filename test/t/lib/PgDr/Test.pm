# What the tests of pg_dr have in common: a PostgreSQL::Test::Cluster that knows
# its repository.
#
#   my $node = PgDr::Test->create('main');            # initdb, settings, start, CREATE EXTENSION
#   my $id = $node->full_backup;
#   my $before = $node->checksums;
#   $node->destroy;                                   # kill -9 and rm -rf
#   my $again = $node->restored('again', args => ['--target-immediate']);
#   is($again->checksums, $before);
#
# A node of restored() has the same repository, and no extension settings of its
# own but those in its restored postgresql.conf: like any copy it may not archive
# before dr_adopt().  What is in the repository, $node->repository tells: PgDr/Store.pm.
#
# With PGDR_STORE=s3 the same tests have it in a bucket.  What only directories can do
# is skipped then, part by part, and said.
package PgDr::Test;

use strict;
use warnings;
use parent 'PostgreSQL::Test::Cluster';

use Carp;
use Exporter ();
use File::Path ();
use FindBin;
use IPC::Run ();
use IPC::SysV qw(IPC_RMID);
use JSON::PP ();
use PgDr::Store;
use PostgreSQL::Test::Utils ();
use Test::More;
use Time::HiRes qw(usleep time);

our @EXPORT_OK = qw(run_program hold_and_kill flip wait_until campaign random_seed process_gone pretend_recovery);
sub import { goto &Exporter::import }

my $TIMEOUT = $PostgreSQL::Test::Utils::timeout_default;

# The long random trials: test/run --campaign.
sub campaign { return $ENV{PGDR_CAMPAIGN} ? 1 : 0 }

# Random trials name their seed, PGDR_SEED repeats them.
sub random_seed
{
	my $seed = $ENV{PGDR_SEED} // int(time() * 1000) % 2**31;
	srand($seed);
	note "PGDR_SEED=$seed";
	return $seed;
}

sub wait_until
{
	my ($what, $condition, $seconds) = @_;
	my $end = time() + ($seconds // $TIMEOUT);
	while (time() < $end)
	{
		my $got = $condition->();
		return $got if $got;
		usleep(50_000);
	}
	croak "timed out waiting until $what";
}

sub process_gone
{
	my ($pid) = @_;
	return 1 unless kill(0, $pid);
	# A zombie is gone for us: someone else's to reap.  It may go while we look.
	open my $stat, '<', "/proc/$pid/stat" or return 1;
	my $line = <$stat>;
	return !defined $line || $line =~ /\) Z /;
}

# ------------------------------------------------------------------ programs

# The program (or another, { program => NAME }) with any arguments: (exit code, stdout, stderr); a signal's number is negative.
sub run_program
{
	my (@arguments) = @_;
	my $options = ref $arguments[-1] eq 'HASH' ? pop @arguments : {};
	local %ENV = (%ENV, %{ $options->{env} // {} });
	my ($out, $err) = ('', '');
	my $program = $options->{program} // 'pg_dr';
	note join ' ', $program, @arguments;
	IPC::Run::run([ $program, @arguments ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout($options->{timeout} // $TIMEOUT));
	my $exit = $? & 127 ? -($? & 127) : $? >> 8;
	note "exit $exit\n$err" if $exit != 0;
	return ($exit, $out, $err);
}

# The program, killed when it comes to a step (src/protocol.h): what it said until then.
sub hold_and_kill
{
	my ($step, @arguments) = @_;
	local $ENV{PG_DR_HOLD_AT} = $step;
	my $err = '';
	my $run = IPC::Run::start([ 'pg_dr', @arguments ], '<', \undef, '>', \my $out, '2>', \$err, IPC::Run::timeout(60));
	$run->pump until $err =~ /held at step/ || !$run->pumpable;
	$run->kill_kill(grace => 0);
	return $err;
}

# A directory that wal-get takes for that of a server that recovers, until its postmaster.pid is removed: where
# recovery would have a segment.
sub pretend_recovery
{
	my ($directory) = @_;
	File::Path::make_path("$directory/pg_wal/archive_status");
	PostgreSQL::Test::Utils::append_to_file("$directory/postmaster.pid", "$$\n");
	PostgreSQL::Test::Utils::append_to_file("$directory/recovery.signal", '');
	return "$directory/pg_wal/RECOVERYXLOG";
}

# Invert $length bytes of a file from $offset on (default: 8 bytes in its middle).
sub flip
{
	my ($path, $offset, $length) = @_;
	$length //= 8;
	$offset //= int((-s $path) / 2);
	chmod 0600, $path;
	open my $file, '+<:raw', $path or croak "$path: $!";
	seek $file, $offset, 0;
	read($file, my $bytes, $length);
	seek $file, $offset, 0;
	print $file $bytes ^ ("\xff" x length $bytes);
	close $file or croak "$path: $!";
	return;
}

# --------------------------------------------------------------- the cluster

# create(NAME, encryption => 1, wal_segsize => MB, initdb => [...], conf => TEXT, start => 1,
#        store => [ what PgDr::Store->new takes ])
sub create
{
	my ($class, $name, %options) = @_;
	my $node = $class->new($name);
	my $top = $node->basedir;
	my $encryption = $options{encryption} // 1;

	$node->{repository} = $options{repository} // PgDr::Store->new($top, @{ $options{store} // [] });
	$node->{key_file} = $encryption ? "$top/dr.key" : 'none';
	if ($encryption)
	{
		my ($exit, undef, $err) = run_program('key', 'generate', "$top/dr.key");
		BAIL_OUT("pg_dr key generate: $err") if $exit != 0;
	}
	$node->init(extra => [
		'-k', '-E', 'UTF8', '--no-locale', '-U', 'postgres',
		'--wal-segsize', $options{wal_segsize} // 16, @{ $options{initdb} // [] } ]);
	$node->append_conf('postgresql.conf', <<"END" . $node->repository->settings . ($options{conf} // ''));
wal_level = replica
max_wal_senders = 4
max_connections = 40
shared_buffers = 16MB
max_wal_size = 256MB
dynamic_shared_memory_type = mmap
log_statement = none
shared_preload_libraries = 'pg_dr'
archive_mode = on
archive_library = 'pg_dr'
pg_dr.encryption_key_file = '$node->{key_file}'
END
	$ENV{PGUSER} = 'postgres';
	return $node unless $options{start} // 1;
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_dr');
	return $node;
}

sub repository { return $_[0]->{repository} }

# Another empty repository of the same kind, for this node to use from now on.
sub change_repository
{
	my ($self, $name) = @_;
	$self->{repository} = PgDr::Store->new($self->basedir, name => $name);
	$self->append_conf('postgresql.conf', $self->repository->settings($name));
	$self->reload;
	# Every process must have read it.
	$self->safe_psql('postgres', 'SELECT pg_sleep(0.5)');
	return $self->repository;
}

# The options that every command of the program wants, for this repository; others, given so: (key_file => FILE, url => URL).
sub access
{
	my ($self, %other) = @_;
	my @arguments = ($self->repository->arguments, '--key-file', $other{key_file} // $self->{key_file});
	$arguments[1] = $other{url} if defined $other{url};
	return @arguments;
}

# A command of the program against this repository.
sub program
{
	my ($self, $command, @rest) = @_;
	return run_program($command, $self->access, @rest);
}

# The independent reader: (exit code, output).
sub reader
{
	my ($self, $command, @rest) = @_;
	my ($out) = ('');
	IPC::Run::run([ "$FindBin::Bin/../vectors/reader.py", $command, '--repository', $self->repository->local_copy, '--key-file', $self->{key_file}, @rest ],
		'<', \undef, '>&', \$out);
	return ($? >> 8, $out);
}

sub full_backup
{
	my ($self) = @_;
	my $id = $self->safe_psql('postgres', "SELECT dr_backup('full')");
	like($id, qr/^\d{8}T\d{6}Z-full-[0-9a-f]{6}$/, "backup $id");
	return $id;
}

sub system_identifier
{
	my ($self) = @_;
	return $self->{system_identifier} //=
	  $self->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()');
}

# Ids of the complete backups that `pg_dr list` shows: what another machine would believe.
sub listed
{
	my ($self) = @_;
	return map { $_->{id} } grep { $_->{state} !~ /^(incomplete|damaged)$/ } $self->listing;
}

sub listing
{
	my ($self) = @_;
	my ($exit, $out, $err) = $self->program('list', '--json');
	croak "pg_dr list: $err" if $exit != 0;
	return map { @{ $_->{backups} } } @{ JSON::PP::decode_json($out) };
}

# Everything that is written so far is in the repository; returns the last segment's name.  Several files
# are on their way at once, so an earlier one may come after it: that they are all there is what the server
# has been told, in its order.
sub wait_archived
{
	my ($self) = @_;
	my $segment = $self->safe_psql('postgres', q{
		SELECT pg_create_restore_point('wait_archived') IS NULL;
		SELECT pg_walfile_name(pg_switch_wal())});
	$segment =~ s/.*\n//s;
	wait_until("$segment is archived",
		sub { $self->archived($segment) && !-e $self->data_dir . "/pg_wal/archive_status/$segment.ready" });
	return $segment;
}

# Every process of the server.
sub family
{
	my ($self) = @_;
	return $self->{_pid} ? ($self->{_pid}, descendants($self->{_pid})) : ();
}

# kill -9 of the postmaster; returns when every process of the server is gone.  A machine that went down
# leaves neither a zombie, which would look like a running server to the next one, nor shared memory.
sub machine_dies
{
	my ($self) = @_;
	my @family = $self->family;
	my $pid_file = $self->data_dir . '/postmaster.pid';
	my $memory = -e $pid_file && (split /\n/, PostgreSQL::Test::Utils::slurp_file($pid_file))[6];
	$self->kill9;
	wait_until('the server is gone', sub { !grep { !process_gone($_) } @family });
	shmctl($1, IPC_RMID, 0) if $memory && $memory =~ /^\s*\d+\s+(\d+)/;
	unlink $pid_file, $self->host . '/.s.PGSQL.' . $self->port . '.lock';
	return;
}

# Every process of the server is gone, then every file of it.
sub destroy
{
	my ($self, @directories) = @_;
	$self->system_identifier if $self->{_pid};
	$self->machine_dies;
	File::Path::rmtree([ $self->data_dir, @directories ]);
	return;
}

# `pg_dr restore` into a new node: (node, exit, stdout, stderr)
sub try_restore
{
	my ($self, $name, @arguments) = @_;
	my $options = ref $arguments[-1] eq 'HASH' ? pop @arguments : {};
	my $node = ref($self)->new($name);
	@$node{qw(repository key_file)} = @$self{qw(repository key_file)};
	my @result = $self->program('restore', '--pgdata', $node->data_dir, @arguments, $options);
	return ($node, @result);
}

# restored(NAME, args => [...], conf => TEXT, start => 1, wait => 1): a restored node, running and out of recovery.
sub restored
{
	my ($self, $name, %options) = @_;
	my ($node, $exit, undef, $err) = $self->try_restore($name, @{ $options{args} // [] });
	is($exit, 0, "$name: pg_dr restore") or BAIL_OUT($err);
	$node->own_address($options{conf});
	return $node unless $options{start} // 1;
	$node->start;
	$node->wait_recovered if $options{wait} // 1;
	return $node;
}

# The restored configuration is the old cluster's: last settings win.
sub own_address
{
	my ($self, $more) = @_;
	$self->append_conf('postgresql.conf',
		"port = @{[$self->port]}\nunix_socket_directories = '@{[$self->host]}'\nlisten_addresses = ''\n" . ($more // ''));
	return;
}

# Also while the server is down: then psql may be gone before it has read the query, and IPC::Run dies of that.
sub poll_query_until
{
	my ($self, @query) = @_;
	my $end = time() + $TIMEOUT;
	for (;;)
	{
		my $found = eval { $self->SUPER::poll_query_until(@query) };
		return $found unless $@;
		die $@ unless $@ =~ /Broken pipe/ && time() < $end;
		usleep(50_000);
	}
}

sub wait_recovered
{
	my ($self) = @_;
	$self->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()')
	  or croak 'recovery does not end';
	return;
}

# A server that must not come up, or not stay: the part of its log that says why.  (The base
# class' start() gives up when the server is gone before it could look.)
sub start_fails
{
	my ($self) = @_;
	my $offset = -s $self->logfile // 0;
	my $pid_file = $self->data_dir . '/postmaster.pid';
	PostgreSQL::Test::Utils::run_log([ 'pg_ctl', '-w', '-D', $self->data_dir, '-l', $self->logfile, 'start' ]);
	# A pg_ctl that saw a hot standby says yes although recovery aborts a moment later.
	wait_until('recovery aborts', sub { !-e $pid_file });
	return PostgreSQL::Test::Utils::slurp_file($self->logfile, $offset);
}

# ------------------------------------------------------------------- contents

# One line per table, sequence and set of large objects of every database; pg_dr's own catalogue
# is left out, it rightly differs between a cluster and its copy.
sub checksums
{
	my ($self) = @_;
	my @lines;
	for my $database (split /\n/, $self->safe_psql('postgres',
			'SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1'))
	{
		my @relations = split /\n/, $self->safe_psql($database, q{
			SELECT quote_ident(nspname) || '.' || quote_ident(relname)
			FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
			WHERE relkind IN ('r', 'm', 'S') AND relpersistence = 'p'
			  AND (nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'dr') OR relname = 'pg_largeobject')
			ORDER BY 1});
		push @lines, $self->safe_psql($database, join ';',
			map { "SELECT '$database $_ ' || count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM $_ t" }
			@relations) if @relations;
	}
	return join "\n", @lines;
}

# What PostgreSQL itself can say about a cluster's soundness; stops the node.
sub sound
{
	my ($self, $name) = @_;
	$name //= $self->name;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$self->command_ok([ 'pg_amcheck', '--all', '--install-missing', '--heapallindexed', '--parent-check' ],
		"$name: pg_amcheck finds nothing");
	$self->stop;
	$self->command_ok([ 'pg_checksums', '--check', '-D', $self->data_dir ], "$name: pg_checksums finds nothing");
	return;
}

# --------------------------------------------------------------- repository

# Is this WAL file in the repository?
sub archived { my ($self, $file) = @_; return $self->repository->exists($self->wal_object($file)) }

# The object of a WAL file: 000000010000000000000003, 00000002.history, ...
sub wal_object
{
	my ($self, $file) = @_;
	return $self->system_identifier . '/wal/' . substr($file, 0, 8) . "/$file";
}

sub objects { my ($self, $pattern) = @_; return $self->repository->objects($pattern) }

# --------------------------------------------------- children, steps, deaths

# Every process below a process.
sub descendants
{
	my ($root) = @_;
	my %children;
	for my $stat (glob '/proc/[0-9]*/stat')
	{
		open my $file, '<', $stat or next;
		my $line = <$file> // next;
		push @{ $children{$2} }, $1 if $line =~ /^(\d+) \(.*\) \S (\d+)/s;
	}
	my @found = @{ $children{$root} // [] };
	for (my $i = 0; $i < @found; $i++) { push @found, @{ $children{ $found[$i] } // [] } }
	return @found;
}

# Pids of the server's `pg_dr agent` children, those of the archiver and the WAL worker not among them.
sub agents
{
	my ($self) = @_;
	my %others = map { $_ => 1 } grep { defined } $self->archiver, $self->wal_worker;
	return grep { command_line($_) =~ /pg_dr\0agent/ && !$others{ parent($_) } } descendants($self->{_pid});
}

sub archiver_agent { return $_[0]->agent_of($_[0]->archiver) }
sub wal_agent { return $_[0]->agent_of($_[0]->wal_worker) }

sub agent_of
{
	my ($self, $process) = @_;
	return $process && (grep { command_line($_) =~ /pg_dr\0agent/ } descendants($process))[0];
}

sub archiver { return $_[0]->process(qr/: archiver/) }
sub wal_worker { return $_[0]->process(qr/: pg_dr WAL worker/) }

sub process
{
	my ($self, $title) = @_;
	return (grep { command_line($_) =~ $title } descendants($self->{_pid}))[0];
}

sub command_line
{
	open my $file, '<', "/proc/$_[0]/cmdline" or return '';
	local $/;
	return <$file> // '';
}

sub parent
{
	open my $file, '<', "/proc/$_[0]/stat" or return 0;
	return <$file> =~ /\) \S (\d+)/ ? $1 : 0;
}

# dr_backup() in a session of its own: returns a function that waits for its end, (exit, stdout, stderr).
sub start_backup
{
	my ($self, $sql) = @_;
	my ($out, $err) = ('', '');
	my $run = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $self->connstr('postgres'), '-c', $sql // "SELECT dr_backup('full')" ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout($TIMEOUT));
	return sub {
		$run->finish;
		return ($? >> 8, $out, $err);
	};
}

# The next process that comes to this step waits there (src/protocol.h); '' for none.
sub hold_at
{
	my ($self, $step) = @_;
	$self->append_conf('postgresql.conf', "pg_dr.debug_hold_at = '$step'");
	$self->reload;
	return;
}

sub wait_held
{
	my ($self, $step, $offset) = @_;
	return $self->wait_for_log(qr/held at (step )?"?\Q$step\E/, $offset // 0);
}

# Does it take a connection just now?
sub raw_connect_works
{
	my ($self) = @_;
	return PostgreSQL::Test::Utils::run_log([ 'pg_isready', '-q', '-h', $self->host, '-p', $self->port ]);
}

# The server has not restarted since: neither postmaster nor shared memory.
sub alive_since
{
	my ($self) = @_;
	return $self->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
}

1;
