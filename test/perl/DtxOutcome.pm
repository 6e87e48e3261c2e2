# What tests of commit and recovery share: one transfer of 1 unit from bank a
# to bank b with a line in the ledger, under some fault, and what became of it
# as the client and as the servers tell it.
#
#     use DtxOutcome;
#     my $o = DtxOutcome->new($c);
#     my $said = $o->attempt('COMMIT');     what the client heard
#     is($o->truth, 'committed', ...);      what is true on all servers
package DtxOutcome;

use strict;
use warnings;

use Carp;
use DtxCluster;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# How long a loaded machine may take for what is done at once, in seconds.  Less
# than dtx.sweep_interval, which would make up for what was not done.
our $patience = 45;

# Orphans become children of this test, which can reap them at once; init takes
# a second or two, and so long a killed server cannot be started again.
BEGIN
{
	# prctl(PR_SET_CHILD_SUBREAPER, 1); where it is not, all goes as before
	my %prctl = (x86_64 => 157, aarch64 => 167);
	my $number = $prctl{ (POSIX::uname())[4] };
	syscall($number, 36, 1, 0, 0, 0) if $^O eq 'linux' && $number;
}

# new($c): the cluster, with nodes a and b; id => 2: another account than 1, so
# that two of them are not in each other's way.
sub new
{
	my ($class, $c, %opt) = @_;
	my $self = bless { c => $c, number => 0, id => 1, %opt }, $class;
	$self->{seen} = $self->_look;
	return $self;
}

# The session of app that attempts use; made anew after it was lost.  A server
# that is starting is waited for.
sub session
{
	my ($self) = @_;
	return $self->{session} if $self->{session};
	$self->{c}->wait_for('a connection', sub { $self->{session} = eval { $self->{c}->app_session } }, $patience);
	$self->{session}->query('\\set VERBOSITY verbose');
	return $self->{session};
}

sub forget_session
{
	my ($self) = @_;
	my $session = delete $self->{session} or return;
	eval { $session->quit };
	return;
}

# One value from a server, as superuser, by a connection that is kept.  A
# server that is starting is waited for.
sub ask
{
	my ($self, $name, $sql) = @_;
	my $end = time() + $patience;
	while (time() < $end)
	{
		my $session = $self->{asking}{$name} ||= eval { $self->{c}->super_session(node => $name) };
		if ($session)
		{
			my $value = eval { $session->query($sql) };
			return $value if !$@ && $session->{stderr} eq '';
			croak "$sql: $session->{stderr}" if $session->{stderr} =~ /ERROR/;
			$self->stop_asking($name);
		}
		sleep 0.05;
	}
	croak "no answer from $name";
}

sub stop_asking
{
	my ($self, $name) = @_;
	my $session = delete $self->{asking}{$name} or return;
	eval { $session->quit };
	return;
}

# What of dtx is prepared on the nodes now.
sub prepared_count
{
	my ($self) = @_;
	my $sum = 0;
	$sum += $self->ask($_, q{SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'dtx\_%'})
	  foreach @{ $self->{c}{nodes} };
	return $sum;
}

# Faults of the coordinator, by the same connection.
sub fault
{
	my ($self, $point, $action, $skip) = @_;
	$self->ask('c', "SELECT public.dtx_fault('$point', '$action', " . ($skip || 0) . ')');
	return;
}
sub fault_hits { my ($self, $point) = @_; return $self->ask('c', "SELECT public.dtx_fault_hits('$point')"); }
sub fault_reset { my ($self) = @_; $self->ask('c', 'SELECT public.dtx_fault_reset()'); return; }

# Begin a transfer and stop before its end.  Options: before => SQL for the
# session, with => more SQL, gid => 1: ask for its gid, which gid() tells.
sub begin
{
	my ($self, %opt) = @_;
	my $c = $self->{c};
	my $id = $self->{id};
	$self->{note} = "transfer $id." . ++$self->{number};
	my $with = join '; ', grep { defined } $opt{with}, $opt{gid} ? 'SELECT dtx.current_gid()' : ();
	my $sql = ($opt{before} ? "$opt{before};\n" : '')
	  . $c->transfer_sql('a', 'b', 1, note => $self->{note},
		from_id => $id, to_id => $id, end => $with || 'SELECT 1');
	my $session = $self->session;
	my $stdout = $session->query($sql);
	($self->{gid}) = $stdout =~ /(dtx_[0-9a-f_]+)/;
	croak "transfer did not begin: $session->{stderr}" if $session->{stderr} =~ /ERROR|FATAL/;
	$session->{stderr} = '';
	return $session;
}

sub gid { return $_[0]->{gid}; }

# Send the end without waiting for the answer, and take it in: a hash of
#     said     committed | aborted | lost     what the client may believe
#     state    SQLSTATE of the error or warning, if there was one
#     text     all messages
#     seconds  how long it took
sub send_end
{
	my ($self, $end) = @_;
	$self->{begun} = time();
	$self->{c}->start_query($self->session, $end || 'COMMIT');
	return;
}

sub answer
{
	my ($self) = @_;
	my $session = $self->session;
	my ($stdout, $stderr) = $self->{c}->finish_query($session);
	my $lost = $stderr =~ /FATAL|connection to server was lost/ || !$session->{run}->pumpable;
	my %answer = (
		seconds => time() - $self->{begun},
		text    => $stderr,
		said    => $lost ? 'lost' : $stderr =~ /^(psql:\S+ )?ERROR/m ? 'aborted' : 'committed',
	);
	$answer{state} = $1 if $stderr =~ /^(?:psql:\S+ )?(?:ERROR|WARNING|FATAL):  ([0-9A-Z]{5}):/m;
	$self->forget_session if $lost;
	return \%answer;
}

# All of it at once.  Options: as begin's, and armed => sub called just before
# the end is sent.
sub attempt
{
	my ($self, $end, %opt) = @_;
	$self->begin(%opt);
	$opt{armed}->() if $opt{armed};
	$self->send_end($end);
	return $self->answer;
}

sub _look
{
	my ($self) = @_;
	my $sql = 'SELECT balance FROM account WHERE id = ' . $self->{id};
	return { a => $self->ask('a', $sql), b => $self->ask('b', $sql) };
}

# What became of the last transfer: committed, aborted, or what is mixed.
# Waits until nothing is left prepared.  Each transfer is asked about once.
sub truth
{
	my ($self, %opt) = @_;
	my $c = $self->{c};
	return 'still prepared: ' . join ', ', $c->prepared
	  unless $c->poll_until(sub { $self->prepared_count == 0 }, $opt{timeout} || $patience);
	my $now = $self->_look;
	my $parts = join ' ', $self->{seen}{a} - $now->{a}, $now->{b} - $self->{seen}{b},
	  $self->ask('c', "SELECT count(*) FROM ledger WHERE note = '$self->{note}'");
	$self->{seen} = $now;
	return $parts eq '1 1 1' ? 'committed' : $parts eq '0 0 0' ? 'aborted' : "mixed: $parts";
}

# The client's answer must be true; when it lost it, anything goes but a mix.
sub answer_is_true
{
	my ($self, $answer, $name, %opt) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $truth = $self->truth(%opt);
	return ok(1, "$name: $answer->{said}, $truth")
	  if $truth eq $answer->{said}
	  || ($answer->{said} eq 'lost' && $truth =~ /^(committed|aborted)$/);
	fail("$name: $answer->{said}, $truth");
	diag $answer->{text};
	return 0;
}

# Wait until the scanner has nothing to do: armed faults are for the session.
sub calm
{
	my ($self) = @_;
	my $c = $self->{c};
	# nodes are looked at when they are used for the first time
	if ($self->ask('c', 'SELECT count(*) FROM dtx.nodes') == 0)
	{
		$self->attempt('COMMIT');
		$self->truth;
	}
	return if $c->poll_until(sub {
		$self->ask('c', q{SELECT (SELECT count(*) FROM dtx.nodes WHERE state <> 'reachable')
			+ (SELECT count(*) FROM dtx.branches WHERE state <> 'done')
			+ (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dtx node worker')}) eq '0';
	}, $patience);
	diag $self->ask('c', $_) foreach
		q{SELECT n::text || ' at ' || clock_timestamp() FROM dtx.nodes n},
		q{SELECT b::text FROM dtx.branches b}, q{SELECT d::text FROM dtx.decision d},
		q{SELECT pid, wait_event, state, query FROM pg_stat_activity WHERE backend_type LIKE 'dtx%'};
	croak 'the scanner still has something to do';
}

# Stop the scanner before its next pass, until fault_reset: it would take faults
# of points that sessions have as well.
sub hold_scanner
{
	my ($self) = @_;
	$self->fault('scan_begin', 'wait');
	$self->{c}->wait_for('the scanner to stop', sub {
		$self->ask('c', q{SELECT public.dtx_fault_waiting('scan_begin')}) eq 't';
	}, $patience);
	return;
}

# Start a server that killed itself, or was killed.
sub restart
{
	my ($self, $name) = @_;
	my $c = $self->{c};
	$name = $c->{coordinator} unless defined $name;
	$self->reap($name, sub { $c->wait_down($name) });
	$c->start($name);
	$self->forget_session if $name eq $c->{coordinator};
	return;
}

# Kill a server now; start() brings it back.
sub kill9
{
	my ($self, $name) = @_;
	$self->reap($name, sub { $self->{c}->kill9($name) });
	return;
}

sub reap
{
	my ($self, $name, $code) = @_;
	my $pid = $self->{c}->server($name)->{_pid};
	$code->();
	waitpid $pid, 0 if defined $pid;
	return;
}

1;
