# Where a repository is, for tests: a directory or a bucket, looked into and
# damaged by the same methods.
#
#   my $repository = PgDr::Store->new($home);          # as PGDR_STORE says: "file" (default) or "s3"
#   append $repository->settings to postgresql.conf, pass $repository->arguments to the program
#   $repository->flip($repository->objects(qr{/pack-}));
#
# $home is a directory for what belongs to it: the objects, or credentials and
# copies of objects.  Names are names of objects.
#
# A test that is about S3 says so, whatever PGDR_STORE is, and may ask the server itself:
#
#   my $bucket = PgDr::Store::S3::make_bucket('--object-lock');
#   my $node = PgDr::Test->create('main', store => [ kind => 's3', bucket => $bucket,
#       query => { lock => 'governance', lock_days => 1, create_only => 'check' } ]);	# Ceph 16 ignores If-None-Match where it keeps versions
#   my @versions = @{ PgDr::Store::S3::tool('versions', $bucket, $node->repository->key('keys/')) };
package PgDr::Store;

use strict;
use warnings;

use Carp;

# new(HOME, kind => 'file', name => 'repository'), and for s3: bucket => NAME, prefix => '' or 'a/b', query => { further
# parameters of the URL }, severable => 1 when the test wants away() and back()
sub new
{
	my ($class, $home, %options) = @_;
	my $kind = $options{kind} // $ENV{PGDR_STORE} // 'file';
	my $self = bless { home => $home, name => $options{name} // 'repository' },
	  { file => 'PgDr::Store::File', s3 => 'PgDr::Store::S3' }->{$kind} // croak "unknown store \"$kind\"";
	$self->make(%options);
	return $self;
}

# Tests that are about directories as such ask; they skip, aloud, where it isn't one.
sub is_directory { return 0 }

sub settings
{
	my ($self, $name) = @_;
	return "pg_dr.repositories = '" . ($name // 'main') . '=' . $self->url . "'\n";
}

sub arguments { return ('--repository', $_[0]->url) }

# Names of all objects, sorted; those that match, when a pattern is given.
sub objects
{
	my ($self, $pattern) = @_;
	my @found = sort grep { !$pattern || $_ =~ $pattern } $self->names;
	return @found;
}

sub exists { return defined $_[0]->size($_[1]) }

# Invert $length bytes of an object from $offset on (default: 8 bytes in its middle).
sub flip
{
	my ($self, $name, $offset, $length) = @_;
	my $bytes = $self->read($name);
	$offset //= int(length($bytes) / 2);
	$length //= 8;
	$length = length($bytes) - $offset if $offset + $length > length $bytes;
	substr($bytes, $offset, $length) ^= "\xff" x $length;
	$self->write($name, $bytes);
	return;
}

sub copy
{
	my ($self, $from, $to) = @_;
	$self->write($to, $self->read($from));
	return;
}

sub slurp
{
	my ($path) = @_;
	open my $file, '<:raw', $path or croak "$path: $!";
	local $/;
	return <$file> // '';
}

sub spew
{
	my ($path, $bytes) = @_;
	open my $file, '>:raw', $path or croak "$path: $!";
	print $file $bytes;
	close $file or croak "$path: $!";
	return;
}

# ---------------------------------------------------------------- a directory
package PgDr::Store::File;

use strict;
use warnings;
use parent -norequire, 'PgDr::Store';

use Carp;
use File::Basename qw(dirname);
use File::Find ();
use File::Path qw(make_path);

sub make
{
	my ($self) = @_;
	$self->{directory} = "$self->{home}/$self->{name}";
	-d $self->{directory} or mkdir $self->{directory} or croak "$self->{directory}: $!";
	return;
}

sub is_directory { return 1 }
sub place { return $_[0]->{directory} }
sub url { return 'file://' . $_[0]->{directory} }
sub absent_url { return $_[0]->url . '.absent' }
sub empty_url { return "file://$_[0]->{home}" }
sub path { return "$_[0]->{directory}/$_[1]" }
sub local_copy { return $_[0]->{directory} }
sub size { return (stat $_[0]->path($_[1]))[7] }
sub read { return PgDr::Store::slurp($_[0]->path($_[1])) }

sub names
{
	my ($self) = @_;
	my @names;
	File::Find::find({ no_chdir => 1, wanted => sub {
			$File::Find::prune = 1 if m{/\.tmp$};
			push @names, substr($_, 1 + length $self->{directory}) if -f;
		} }, $self->{directory});
	return @names;
}

sub write
{
	my ($self, $name, $bytes) = @_;
	my $path = $self->path($name);
	make_path(dirname($path));
	chmod 0600, $path;
	PgDr::Store::spew($path, $bytes);
	return;
}

sub remove
{
	my ($self, $name) = @_;
	unlink $self->path($name) or croak $self->path($name) . ": $!";
	return;
}

# Out of reach, and back again.
sub away
{
	my ($self) = @_;
	rename $self->{directory}, "$self->{directory}.away" or croak "$self->{directory}: $!";
	PgDr::Store::spew($self->{directory}, "in the way\n");
	return;
}

sub back
{
	my ($self) = @_;
	unlink $self->{directory};
	rename "$self->{directory}.away", $self->{directory} or croak "$self->{directory}: $!";
	return;
}

# What is there can be read, and nothing be added or removed.
sub read_only { $_[0]->mode_of_directories(0500); return }
sub writable { $_[0]->mode_of_directories(0700); return }

sub mode_of_directories
{
	my ($self, $mode) = @_;
	my @directories;
	File::Find::find({ no_chdir => 1, wanted => sub { push @directories, $_ if -d } }, $self->{directory});
	chmod $mode, $_ or croak "$_: $!" for @directories;
	return;
}

# --------------------------------------------------------------------- S3
package PgDr::Store::S3;

use strict;
use warnings;
use parent -norequire, 'PgDr::Store';

use Carp;
use File::Basename qw(basename);
use FindBin;
use IPC::Open2 qw(open2);
use JSON::PP ();
use Test::More;

my $tool_program = "$FindBin::Bin/../servers/s3-tool";
my ($tool, $to_tool, $from_tool);
my ($owner, @made);

# Where test/run's server is: (endpoint, plain_endpoint, ca, access_key, secret_key, admin).
sub server
{
	my %server;
	for (qw(ENDPOINT PLAIN_ENDPOINT CA ACCESS_KEY SECRET_KEY ADMIN))
	{
		$server{ lc $_ } = $ENV{"PGDR_S3_$_"}
		  // BAIL_OUT("PGDR_S3_$_ is not set: this test needs an S3 server; test/run and test/servers/ceph start one");
	}
	return %server;
}

# One command of test/servers/s3-tool, which runs as long as this test does; what it returns.
sub tool
{
	my (@command) = @_;
	local $SIG{PIPE} = 'IGNORE';
	unless ($tool)
	{
		server();
		$tool = open2($from_tool, $to_tool, $tool_program, 'serve');
		$owner = $$;
	}
	print $to_tool JSON::PP::encode_json(\@command), "\n";
	$to_tool->flush;
	my $answer = JSON::PP::decode_json(<$from_tool> // croak 's3-tool has died');
	croak "s3-tool @command: $answer->{error}" if exists $answer->{error};
	return $answer->{ok};
}

# A bucket that goes when the test ends.
sub make_bucket
{
	my (@options) = @_;
	my ($test) = $FindBin::Script =~ /^(\w+)/;
	my $bucket = sprintf '%s-%08x', lc($test =~ s/_/-/gr), rand 2**32;
	tool('make-bucket', $bucket, @options);
	push @made, $bucket;
	return $bucket;
}

END
{
	my $status = $?;
	if ($tool && $owner == $$)
	{
		for my $bucket (@made) { eval { tool('remove-bucket', $bucket); 1 } or note $@ }
		close $to_tool;
		waitpid $tool, 0;
	}
	$? = $status;
}

my $common_bucket;

sub make
{
	my ($self, %options) = @_;
	my %server = server();
	$self->{bucket} = $options{bucket} // ($common_bucket //= make_bucket());
	my $prefix = $options{prefix} // basename($self->{home}) . "/$self->{name}";
	$self->{prefix} = $prefix eq '' ? '' : "$prefix/";
	$self->{credentials} = "$self->{home}/$self->{name}.credentials";
	PgDr::Store::spew($self->{credentials}, <<"END");
[default]
aws_access_key_id = $server{access_key}
aws_secret_access_key = $server{secret_key}
END
	chmod 0600, $self->{credentials};
	$self->{query} = { endpoint => $server{endpoint}, region => 'us-east-1', ca_file => $server{ca}, %{ $options{query} // {} } };
	if ($options{severable})
	{
		$self->{way} = tool('open-way');
		$self->{query}{endpoint} = "https://127.0.0.1:$self->{way}";
	}
	return;
}

sub place { return $_[0]->{bucket} }
sub url { return $_[0]->url_of("$_[0]->{bucket}/$_[0]->{prefix}" =~ s{/$}{}r) }
sub absent_url { return $_[0]->url_of('absent-' . $_[0]->{bucket}) }
sub empty_url { return $_[0]->url_of("$_[0]->{bucket}/empty") }

sub url_of
{
	my ($self, $place) = @_;
	return "s3://$place?" . join '&', map {
		my $value = $self->{query}{$_} =~ s{([^A-Za-z0-9._~:/-])}{sprintf '%%%02X', ord $1}ger;
		"$_=$value" } sort keys %{ $self->{query} };
}

sub settings
{
	my ($self, $name) = @_;
	return $self->SUPER::settings($name) . "pg_dr.credentials_file = '$self->{credentials}'\n";
}

sub arguments
{
	my ($self) = @_;
	return ($self->SUPER::arguments, '--credentials-file', $self->{credentials});
}

sub key { return $_[0]->{prefix} . $_[1] }
sub names { my ($self) = @_; return map { substr $_->[0], length $self->{prefix} } @{ tool('list', $self->{bucket}, $self->{prefix}) } }
sub size { return tool('size', $_[0]->{bucket}, $_[0]->key($_[1])) }
sub remove { tool('delete', $_[0]->{bucket}, $_[0]->key($_[1])); return }
sub copy { tool('copy', $_[0]->{bucket}, $_[0]->key($_[1]), $_[0]->key($_[2])); return }

sub read
{
	my ($self, $name) = @_;
	my $file = "$self->{home}/$self->{name}.read";
	tool('get', $self->{bucket}, $self->key($name), $file);
	return PgDr::Store::slurp($file);
}

sub write
{
	my ($self, $name, $bytes) = @_;
	my $file = "$self->{home}/$self->{name}.write";
	PgDr::Store::spew($file, $bytes);
	tool('put', $self->{bucket}, $self->key($name), $file);
	return;
}

# A directory with the same objects; fetches what has changed since the last time.
sub local_copy
{
	my ($self) = @_;
	my $directory = "$self->{home}/$self->{name}.copy";
	tool('mirror', $self->{bucket}, $self->{prefix}, $directory);
	return $directory;
}

sub away { tool('close-way', $_[0]->{way} // croak 'not severable'); return }
sub back { tool('open-way', $_[0]->{way}); return }

sub writable { tool('delete-bucket-policy', $_[0]->{bucket}); return }

sub read_only
{
	my ($self) = @_;
	my $file = "$self->{home}/$self->{name}.policy";
	PgDr::Store::spew($file, JSON::PP::encode_json({ Version => '2012-10-17', Statement => [ {
				Effect => 'Deny', Principal => '*', Action => [ 's3:PutObject', 's3:DeleteObject' ],
				Resource => ["arn:aws:s3:::$self->{bucket}/$self->{prefix}*"] } ] }));
	tool('put-bucket-policy', $self->{bucket}, $file);
	return;
}

1;
