# Faults at exact moments of a transaction: the cells of docs/faults.md.
#
# A DtxFault is a DtxOutcome whose transfer can be stopped in a column of that
# table, and which remembers the cells that it has shown:
#
#     use DtxCluster;
#     use DtxFault;
#     my $f = DtxFault->new($c);
#     $f->stop_in('D');                 a transfer is decided, nothing is sent
#     ... something terrible ...
#     my $answer = $f->go_on;           what the client hears
#     $f->cell('1 D', 'its backend killed', $f->verdict($answer), 'Cw');
#     ...
#     $f->all_shown;                    every cell that docs/faults.md says is here
#
# Columns, and what waits where:
#
#     W    the transfer is begun, nobody has said COMMIT
#     Pf   a is prepared, b is in the middle of PREPARE (in a deferred trigger)
#     Pl   both are prepared, their answers are not read yet
#     Pa   all answers are read, undecided
#     Pr   the status row is written, undecided
#     D    decided, nothing sent
#     Q    a has committed, b has not been asked to
#     F    all have committed, the session is about to say so
#     Fl   the client has its answer, the scanner is about to forget
#     R    the transfer was left decided to the scanner, which is about to end
#          a branch
#     Ru   the same, undecided
#
# A verdict is what the table says:
#
#     A       the client got an error, nothing is there
#     C  Cw   the client heard COMMIT, all is there; w: with the WARNING 01DTX
#     U-A U-C the client got no answer; nothing is there, all is there
#
# and something longer for what must not be.  It includes that dtx.outcome() says
# the same, then and when all_shown() asks once more.
package DtxFault;

use strict;
use warnings;

use Carp;
use Cwd;
use DtxCluster;
use DtxOutcome;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @ISA = qw(DtxOutcome);

my %point = (
	Pl => 'prepare_sent', Pa => 'prepare_gathered', Pr => 'record_written',
	D  => 'commit_begin', Q  => 'commit_sent', F => 'commit_done', Fl => 'scan_before_forget');

# The advisory lock in whose wait a branch stops in PREPARE.
my $gate = 4711;

my $objects = 0;

# new($c): makes on node b what column Pf needs.
sub new
{
	my ($class, $c, %opt) = @_;
	# the number is part of the note in the ledger
	my $self = DtxOutcome::new($class, $c, outcomes => {}, shown => {}, number => 1000 * $objects++, %opt);
	$self->make_gate('b') unless $opt{no_gate};
	return $self;
}

# The table gate on a node: a transaction with a row for it waits in PREPARE
# while the gate is closed.
sub make_gate
{
	my ($self, $node) = @_;
	# nothing is kept locked: a session lock, given back at once
	$self->{c}->as_super(qq{
		CREATE TABLE gate (i int);
		CREATE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql AS
			'BEGIN PERFORM pg_advisory_lock_shared($gate), pg_advisory_unlock_shared($gate); RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON gate DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION pass_gate();
		GRANT ALL ON gate TO app}, node => $node);
	return;
}

sub close_gate { my ($self) = @_; $self->ask('b', "SELECT pg_advisory_lock($gate)"); return; }

# What goes through may take the server down before it has answered: then the
# lock is gone as well, and is not to be asked for again.
sub open_gate
{
	my ($self) = @_;
	my $session = $self->{asking}{b} or return;
	my $answered = eval { $session->query('SELECT pg_advisory_unlock_all()'); 1 };
	$self->stop_asking('b') unless $answered && $session->{stderr} eq '';
	return;
}

# What asks a server meanwhile must not hang with it.
sub wait_until
{
	my ($self, $what, $code) = @_;
	return $self->{c}->wait_for($what, $code, $DtxOutcome::patience);
}

sub wait_point
{
	my ($self, $point) = @_;
	return $self->wait_until("a wait at $point",
		sub { $self->ask('c', "SELECT public.dtx_fault_waiting('$point')") eq 't' });
}

# Its own branch on a node is prepared?
sub branch_on
{
	my ($self, $node) = @_;
	return $self->ask($node, "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE '@{[ $self->gid ]}%'");
}

# How many of dtx are prepared there.
sub prepared_on
{
	my ($self, $node) = @_;
	return $self->ask($node, q{SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'dtx\_%'});
}

# Begin a transfer and stop it in a column.  Options as begin's, and for R and Ru
# at => the point where the scanner stops.
sub stop_in
{
	my ($self, $column, %opt) = @_;
	$self->calm;
	$self->begin_for($column, %opt);
	return $self->bring_to($column, %opt);
}

# The same in two steps, for several transfers at once, each with a DtxFault.
sub begin_for
{
	my ($self, $column, %opt) = @_;
	if ($column eq 'Pf')
	{
		$self->close_gate;
		$opt{with} = join '; ', grep { defined } $opt{with}, q{SELECT dtx.exec('b', 'INSERT INTO gate VALUES (1)')};
	}
	$self->begin(%opt, gid => 1);
	return;
}

sub bring_to
{
	my ($self, $column, %opt) = @_;
	my $at = $opt{at} || 'scan_before_finish';
	$self->{column} = $column;
	return $self if $column eq 'W';
	if ($column =~ /^R/)
	{
		$self->fault($at, 'wait');
		$self->fault($column eq 'R' ? 'commit_begin' : 'prepare_sent', 'error');
		$self->send_end;
		$self->{left} = $self->answer;
		$self->wait_point($at);
		return $self;
	}
	$self->fault($point{$column}, 'wait') if $point{$column};
	$self->send_end;
	if ($column eq 'Fl')
	{
		$self->{left} = $self->answer;
		$self->wait_point($point{$column});
	}
	elsif ($column eq 'Pf')
	{
		$self->wait_until('PREPARE on b', sub {
			$self->ask('b', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory' AND usename = 'app'}) eq '1' });
		$self->wait_until('PREPARE on a', sub { $self->branch_on('a') == 1 });
	}
	else
	{
		$self->wait_point($point{$column});
		$self->wait_until('PREPARE', sub { $self->branch_on('a') + $self->branch_on('b') == 2 }) if $column eq 'Pl';
		$self->wait_until('COMMIT PREPARED on a', sub { $self->branch_on('a') == 0 }) if $column eq 'Q';
	}
	return $self;
}

# Let the transfer go on, without waiting for its answer.
sub release
{
	my ($self) = @_;
	return $self->send_end if $self->{column} eq 'W';
	return $self->open_gate if $self->{column} eq 'Pf';
	# a coordinator that was killed has forgotten its faults
	eval { $self->fault_reset };
	return;
}

# Let the transfer go on; returns what the client hears, or has heard.
sub go_on
{
	my ($self, %opt) = @_;
	$self->release unless $opt{released};
	return delete $self->{left} || $self->answer;
}

sub verdict
{
	my ($self, $answer, %opt) = @_;
	my $truth = $self->truth(%opt);
	my $gid = $self->gid;
	my $outcome = '';
	# until a killed session is noticed, its transaction is in progress
	$self->{c}->poll_until(sub { ($outcome = $self->ask('c', "SELECT dtx.outcome('$gid')")) ne 'in progress' }, $DtxOutcome::patience);
	return "$answer->{said}, $truth, but dtx.outcome() says $outcome" if $truth ne $outcome;
	$self->{outcomes}{$gid} = $outcome;
	return "$answer->{said}, but $truth: $answer->{text}" if $answer->{said} ne 'lost' && $answer->{said} ne $truth;
	my $letter = uc substr $truth, 0, 1;
	return "U-$letter" if $answer->{said} eq 'lost';
	return $letter . ($truth eq 'committed' && ($answer->{state} || '') eq '01DTX' ? 'w' : '');
}

# One cell of the table, "row column".  $expected may be a pattern.
sub cell
{
	my ($self, $cell, $what, $got, $expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$self->{shown}{$cell}++;
	return ref $expected ? like($got, $expected, "row $cell: $what") : is($got, $expected, "row $cell: $what");
}

# The number of outcomes that are kept for those who may ask.
sub kept { my ($self) = @_; return scalar grep { $_ eq 'committed' } values %{ $self->{outcomes} }; }

# dtx.outcome() still says what it has said, and every cell for which
# docs/faults.md names this test was shown.
sub all_shown
{
	my ($self) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $outcomes = $self->{outcomes};
	my @changed = grep { $self->ask('c', "SELECT dtx.outcome('$_')") ne $outcomes->{$_} } sort keys %$outcomes;
	is("@changed", '', 'dtx.outcome() says what it has said before');
	return $self->cells_shown;
}

# The second half of it, for a test without its coordinator.
sub cells_shown
{
	my ($self) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($top) = grep { -e "$_/docs/faults.md" } '.', $ENV{TESTDIR} || '.', '../..';
	my ($file) = $0 =~ m{([^/]+)$};
	my %named = map { $_ => 1 } slurp_file("$top/docs/faults.md") =~ /`\Q$file\E` "row ([^"]+)"/g;
	is(join(', ', grep { !$self->{shown}{$_} } sort keys %named), '', "docs/faults.md names no cell that $file does not show");
	is(join(', ', grep { !$named{$_} } sort keys %{ $self->{shown} }), '', 'and all that it does');
	return;
}

##########################################################################
# Processes
##########################################################################

# The backends of app on a server that match.
sub backends
{
	my ($self, $name, $where) = @_;
	return split /\n/, $self->ask($name, q{SELECT pid FROM pg_stat_activity WHERE usename = 'app' AND }
		  . ($where || 'true') . ' ORDER BY xact_start, query_start');
}

# Signal processes of a server; after a KILL, wait until it has started anew.
sub signal
{
	my ($self, $signal, $name, @pids) = @_;
	croak 'nobody to signal' unless @pids;
	my $mark = $self->{c}->log_mark($name);
	kill $signal, @pids;
	if ($signal eq 'KILL') { $self->{c}->wait_restarted($name, $mark) }
	elsif ($signal eq 'TERM')
	{
		my $list = join ',', @pids;
		$self->wait_until('the end of ' . $list, sub {
			$self->ask($name, "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($list)") eq '0' });
	}
	return;
}

##########################################################################
# Disks and clocks: test/shim/faultshim.c
##########################################################################

# Let a server run with the shim; restarts it.  False where that does not work
# (a server under the sanitizers preloads other things).
sub preload_shim
{
	my ($self, $name) = @_;
	my $c = $self->{c};
	# the server is in another directory
	my $dir = $self->{shim_dir} ||= Cwd::realpath(PostgreSQL::Test::Utils::tempdir('shim'));
	if (!$self->{shim})
	{
		my ($top) = grep { -e "$_/test/shim/faultshim.c" } '.', $ENV{TESTDIR} || '.', '../..';
		system_or_bail(qw(gcc -O1 -shared -fPIC -o), "$dir/faultshim.so", "$top/test/shim/faultshim.c", '-ldl');
		$self->{shim} = "$dir/faultshim.so";
	}
	append_to_file("$dir/$name.clock", pack 'q', 0) unless -e "$dir/$name.clock";
	$c->stop($name, 'fast');
	$self->start_with_shim($name);
	my $pid = $c->server($name)->{_pid};
	return slurp_file("/proc/$pid/maps") =~ /faultshim/;
}

sub start_with_shim
{
	my ($self, $name) = @_;
	local $ENV{LD_PRELOAD} = $self->{shim};
	local $ENV{DTX_SHIM} = "$self->{shim_dir}/$name";
	$self->{c}->start($name);
	return;
}

# break_disk('b', 'fsync EIO pg_wal/', ...), mend_disk('b')
sub break_disk
{
	my ($self, $name, @rules) = @_;
	my $file = "$self->{shim_dir}/$name";
	append_to_file("$file.new", join "\n", @rules, '');
	rename "$file.new", $file or die "$file: $!";
	return;
}
sub mend_disk { my ($self, $name) = @_; unlink "$self->{shim_dir}/$name"; return; }

# The wall clock of a server, in seconds off.
sub set_clock
{
	my ($self, $name, $seconds) = @_;
	open my $file, '+<', "$self->{shim_dir}/$name.clock" or die $!;
	binmode $file;
	syswrite $file, pack('q', $seconds * 1_000_000) or die $!;
	close $file;
	return;
}

1;
