# The change map's files, read by code of its own: src/change_map_format.h, in Perl.
#
#   my @files = PgDr::ChangeMap::files($data_dir);                      # {timeline, from, to, path}, by their begin
#   my $map = PgDr::ChangeMap->known($data_dir, $timeline, $from, $to); # dies with "hole at ..."
#   $map->claims('base/5/16384', 7);                                    # may block 7 have changed?
#   $map->relation('base/5/16384');                                     # {limit => N or undef, blocks => {7 => 1}}
package PgDr::ChangeMap;

use strict;
use warnings;
use Carp;
use PostgreSQL::Test::Utils ();

my @crc_table = map {
	my $c = $_;
	$c = $c & 1 ? ($c >> 1) ^ 0x82F63B78 : $c >> 1 for 1 .. 8;
	$c;
} 0 .. 255;

sub crc32c
{
	my $crc = 0xFFFFFFFF;
	$crc = ($crc >> 8) ^ $crc_table[ ($crc ^ $_) & 0xFF ] for unpack 'C*', $_[0];
	return $crc ^ 0xFFFFFFFF;
}

sub lsn { my ($high, $low) = split m{/}, $_[0]; return (hex($high) << 32) + hex $low }

sub files
{
	my ($data_dir) = @_;
	my @files;
	for my $path (glob "$data_dir/pg_dr/map/*")
	{
		$path =~ m{/([0-9A-F]{8})\.([0-9A-F]{16})\.([0-9A-F]{16})$} or croak "what is $path?";
		push @files, { timeline => hex $1, from => hex $2, to => hex $3, path => $path };
	}
	return sort { $a->{from} <=> $b->{from} || $a->{to} <=> $b->{to} } @files;
}

# ------------------------------------------------------------------ one file

sub read_file
{
	my ($file) = @_;
	my $bytes = PostgreSQL::Test::Utils::slurp_file($file->{path});
	my $map = { relations => {}, whole => {} };
	my $at = 0;
	my $take = sub {
		my ($template, $n) = @_;
		croak "$file->{path} is too short" if $at + $n > length($bytes) - 4;
		$at += $n;
		return unpack $template, substr $bytes, $at - $n, $n;
	};

	my ($magic, $version, $flags, undef, $timeline, undef, $from, $to, $entries, undef) = $take->('a8VVQ<VVQ<Q<Q<Q<', 64);
	croak "$file->{path}: checksum" if crc32c(substr $bytes, 0, -4) != unpack 'V', substr $bytes, -4;
	croak "$file->{path}: header" if $magic ne 'PGDRCMAP' || $version != 1 || $timeline != $file->{timeline} || $from != $file->{from} || $to != $file->{to};
	if ($flags & 1) { my ($n) = $take->('v', 2); ($map->{unsafe}) = $take->("a$n", $n) }
	for (1 .. $entries)
	{
		my ($type) = $take->('a', 1);
		if ($type eq 'T') { $map->{whole}{ $take->('V', 4) } = 1 }
		elsif ($type eq 'D') { $map->{whole}{ join '/', $take->('VV', 8) } = 1 }
		elsif ($type eq 'R') { read_relation($map, $take) }
		else { croak "$file->{path}: type $type" }
	}
	croak "$file->{path}: rest" if $at != length($bytes) - 4;
	return $map;
}

sub read_relation
{
	my ($map, $take) = @_;
	my ($spc, $db, $rel, $limit, $chunks) = $take->('V5', 20);
	my $relation = $map->{relations}{"$spc/$db/$rel"} = { blocks => {}, limit => $limit == 0xFFFFFFFF ? undef : $limit };
	for (1 .. $chunks)
	{
		my ($number, $count) = $take->('VV', 8);
		my @blocks = $count <= 4096 ? $take->("v$count", 2 * $count) : do {
			my @bits = split //, ($take->('b65536', 8192))[0];
			grep { $bits[$_] } 0 .. $#bits;
		};
		croak "$count blocks?" if @blocks != $count;
		$relation->{blocks}{ $number * 65536 + $_ } = 1 for @blocks;
	}
	return;
}

# -------------------------------------------------------------------- several

sub known
{
	my ($class, $data_dir, $timeline, $from, $to) = @_;
	my $self = bless { relations => {}, whole => {}, files => 0 }, $class;
	my $at = $from;
	for my $file (grep { $_->{timeline} == $timeline && $_->{to} > $from && $_->{from} < $to } files($data_dir))
	{
		croak sprintf 'hole at %X', $at if $file->{from} > $at;
		$self->add(read_file($file));
		$at = $file->{to} if $file->{to} > $at;
	}
	croak sprintf 'hole at %X', $at if $at < $to;
	return $self;
}

sub add
{
	my ($self, $map) = @_;
	croak "unsafe: $map->{unsafe}" if defined $map->{unsafe};
	$self->{files}++;
	$self->{whole}{$_} = 1 for keys %{ $map->{whole} };
	while (my ($key, $theirs) = each %{ $map->{relations} })
	{
		my $mine = $self->{relations}{$key} //= { blocks => {} };
		$mine->{blocks}{$_} = 1 for keys %{ $theirs->{blocks} };
		$mine->{limit} = $theirs->{limit} if defined $theirs->{limit} && (!defined $mine->{limit} || $theirs->{limit} < $mine->{limit});
	}
	return;
}

# Tablespace, database, relation of a path; the segment is not among them.
sub key
{
	my ($path) = @_;
	return (1664, 0, $1) if $path =~ m{^global/(\d+)};
	return (1663, $1, $2) if $path =~ m{^base/(\d+)/(\d+)};
	return ($1, $2, $3) if $path =~ m{^pg_tblspc/(\d+)/[^/]+/(\d+)/(\d+)};
	croak "what is $path?";
}

sub relation { my ($self, $path) = @_; return $self->{relations}{ join '/', key($path) } // { blocks => {} } }

sub everything
{
	my ($self, $path) = @_;
	my ($spc, $db) = key($path);
	return $self->{whole}{$spc} || $self->{whole}{"$spc/$db"};
}

sub claims
{
	my ($self, $path, $block) = @_;
	my $relation = $self->relation($path);
	return $self->everything($path) || $relation->{blocks}{$block} || (defined $relation->{limit} && $block >= $relation->{limit});
}

1;
