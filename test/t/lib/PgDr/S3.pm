# Object storage that misbehaves when told to: the scripted S3 server and the
# TCP proxy of test/servers, and the program talking to them.
#
#   my $s3 = PgDr::S3->scripted;                      # or scripted('--page', 3)
#   $s3->rules({ method => 'PUT', status => 503, code => 'SlowDown', times => 2 });
#   my @events = $s3->agent($s3->url('prefix'), { op => 'check' });
#   my $proxy = $s3->proxy; $proxy->tell('delay 20');
package PgDr::S3;

use strict;
use warnings;

use Carp;
use File::Basename qw(dirname);
use File::Path qw(make_path);
use File::Temp ();
use FindBin;
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils ();
use PgDr::Test qw(run_program);

my $SERVERS = "$FindBin::Bin/../servers";
my $directory = File::Temp::tempdir('pgdr_s3_XXXXXX', CLEANUP => 1, DIR => PostgreSQL::Test::Utils::tempdir_short());

sub file
{
	my ($name, $text, $mode) = @_;
	make_path(dirname("$directory/$name"));
	open my $file, '>', "$directory/$name" or croak "$name: $!";
	print $file $text;
	close $file or croak "$name: $!";
	chmod $mode // 0600, "$directory/$name";
	return "$directory/$name";
}

sub credentials
{
	my ($access, $secret, $token) = @_;
	return file(sprintf('credentials.%d', ++$PgDr::S3::files),
		"[default]\naws_access_key_id = $access\naws_secret_access_key = $secret\n"
		  . (defined $token ? "aws_session_token = $token\n" : ''));
}

# A process that says its port on its first line and ends with its standard input.
sub start
{
	my ($class, %self) = @_;
	my $self = bless { %self, in => '', out => '', err => '' }, $class;
	$self->{run} = IPC::Run::start($self->{command}, '<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		IPC::Run::timeout(3600));
	$self->{run}->pump until $self->{out} =~ /\n/ || !$self->{run}->pumpable;
	$self->{out} =~ s/^(\d+)\n// or croak "@{ $self->{command} }: $self->{err}";
	$self->{port} = $1;
	return $self;
}

sub stop
{
	my ($self) = @_;
	$self->{run}->kill_kill(grace => 1) if $self->{run};
	delete $self->{run};
	return;
}

sub DESTROY { local ($?, $@, $!); $_[0]->stop; return }

# ---------------------------------------------------------- the scripted server

sub scripted
{
	my ($class, @arguments) = @_;
	my $self = $class->start(command => [ "$SERVERS/s3-scripted", @arguments ]);
	$self->{scheme} = grep({ $_ eq '--tls' } @arguments) ? 'https' : 'http';
	$self->{credentials} = credentials('AKIDSCRIPTED', 'secret-of-scripted');
	return $self;
}

# A certificate for 127.0.0.1, or for another name: (certificate, key)
sub certificate
{
	my ($name) = @_;
	my @paths = map { "$directory/$name.$_" } 'pem', 'key';
	PostgreSQL::Test::Utils::system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', "/CN=$name",
		'-addext', 'subjectAltName=' . ($name =~ /^[\d.]+$/ ? "IP:$name" : "DNS:$name"), '-out', $paths[0], '-keyout', $paths[1]);
	return @paths;
}

sub control
{
	my ($self, $order) = @_;
	my $reply = HTTP::Tiny->new->post("http://127.0.0.1:$self->{port}/_control", { content => JSON::PP::encode_json($order) });
	croak "control: $reply->{status} $reply->{content}" if $reply->{status} != 200;
	return JSON::PP::decode_json($reply->{content});
}

sub rules { my ($self, @rules) = @_; $self->control({ rules => \@rules }); return }

# Requests since the log was cleared: [method, key, query, status, bytes], those that match.
sub requests
{
	my ($self, $method, $key) = @_;
	return grep { $_->[0] =~ /^(?:$method)$/ && $_->[1] =~ ($key // qr//) } @{ $self->control({})->{log} };
}

# ------------------------------------------------------------------- the proxy

sub proxy
{
	my ($self, $port) = @_;
	my $program = "$directory/proxy";
	PostgreSQL::Test::Utils::system_or_bail('gcc', '-O2', '-pthread', '-o', $program, "$SERVERS/proxy.c") unless -x $program;
	my $proxy = PgDr::S3->start(command => [ $program, $port // $self->{port} ]);
	@$proxy{qw(scheme credentials)} = @$self{qw(scheme credentials)} if ref $self;
	return $proxy;
}

# A command, and what the proxy says to it.
sub tell
{
	my ($self, $line) = @_;
	$self->{out} = '';
	$self->{in} .= "$line\n";
	$self->{run}->pump until $self->{out} =~ /\n/;
	croak "proxy: $self->{out}" if $self->{out} =~ /^what/;
	return $self->{out};
}

# A repository of a PgDr::Test: seen through $via, a proxy, or directly.
sub repository
{
	my ($self, $prefix, $via, %parameters) = @_;
	return bless { s3 => $self, prefix => $prefix, url => ($via // $self)->url($prefix, %parameters) }, 'PgDr::S3::Repository';
}

package PgDr::S3::Repository;

sub url { return $_[0]->{url} }
sub settings { return "pg_dr.repositories = 'main=$_[0]->{url}'\npg_dr.credentials_file = '$_[0]->{s3}{credentials}'\n" }
sub arguments { return ('--repository', $_[0]->{url}, '--credentials-file', $_[0]->{s3}{credentials}) }
sub exists { my ($self, $name) = @_; return scalar grep { $_ eq $name } $self->objects }

sub objects
{
	my ($self, $pattern) = @_;
	my @names = map { m{^bucket/\Q$self->{prefix}\E/(.*)} ? $1 : () } @{ $self->{s3}->control({})->{objects} };
	return grep { !$pattern || $_ =~ $pattern } @names;
}

package PgDr::S3;

# ----------------------------------------------------------------- the program

sub url
{
	my ($self, $prefix, %parameters) = @_;
	my $bucket = delete $parameters{bucket} // 'bucket';
	$parameters{endpoint} //= "$self->{scheme}://127.0.0.1:$self->{port}";
	return "s3://$bucket/$prefix?" . join '&', map { "$_=$parameters{$_}" } sort keys %parameters;
}

sub key_file
{
	my $path = "$directory/dr.key";
	if (!-e $path)
	{
		my ($exit, undef, $err) = run_program('key', 'generate', $path);
		croak $err if $exit != 0;
	}
	return $path;
}

sub program
{
	my ($self, $url, $command, @rest) = @_;
	return run_program($command, '--repository', $url, '--key-file', key_file(), '--credentials-file', $self->{credentials}, @rest);
}

# pg_dr agent: opens the repository (an array reference: with other values than usual) and runs
# ops; the events of all of them.  An op { sleep => N } is none.
sub agent
{
	my ($self, $url, @ops) = @_;
	my $options = @ops && ref $ops[0] eq 'ARRAY' ? { @{ shift @ops } } : {};
	my $data = "$directory/data";
	make_path("$data/pg_dynshmem");
	my $open = { op => 'open', protocol => 1, version => version(), repository_name => 'main', repository => $url,
		key_file => key_file(), credentials_file => $self->{credentials}, system_identifier => '7', data_directory => $data,
		wal_segment_size => 16 * 1024 * 1024, jobs => 2, compression_level => 1, max_rate => 0, hold_at => '', writer => JSON::PP::true, %$options };
	delete $open->{$_} for grep { !defined $open->{$_} } keys %$open;
	my ($in, $out, $err) = ('', '', '');
	my $run = IPC::Run::start([ 'pg_dr', 'agent' ], '<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(180));
	my @events;
	for my $op ($open, @ops)
	{
		if ($op->{sleep}) { sleep $op->{sleep}; next }
		$in .= JSON::PP::encode_json($op) . "\n";
		for (;;)
		{
			$run->pump until $out =~ /\n/ || !$run->pumpable;
			last unless $out =~ s/^(.*)\n//;
			my $event = JSON::PP::decode_json($1);
			push @events, $event unless $event->{event} =~ /^(hello|alive)$/;
			last if $event->{event} =~ /^(done|error)$/;
		}
		last if !@events || $events[-1]{event} eq 'error';
	}
	$run->kill_kill(grace => 5);
	return @events;
}

sub version
{
	my (undef, $out) = run_program('--version');
	return $out =~ /(\d+\.\d+\.\d+)/ ? $1 : croak "version: $out";
}

# The words of the last event, if it is an error.
sub error_of
{
	my ($event) = @_;
	return '' if !$event || $event->{event} ne 'error';
	return join ' | ', map { $event->{$_} // '' } qw(message detail hint);
}

1;
