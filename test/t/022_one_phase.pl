# One phase: the answer of the only branch that wrote is the decision.  Whoever
# loses it is told that he does not know.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)]);
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
my $balance = 1000;

sub start
{
	my ($sql) = @_;
	my $session = $o->session;
	$session->{stderr} = '';
	$session->query(($sql ? "$sql; " : '') . q{BEGIN;
		SELECT dtx.exec('b', 'SELECT 1');
		SELECT dtx.exec('a', 'UPDATE account SET balance = balance - 1 WHERE id = 1')});
	BAIL_OUT("cannot begin: $session->{stderr}") if $session->{stderr} =~ /ERROR/;
	$session->{stderr} = '';
	return;
}

# committed or aborted, as bank a tells when nobody works on it any more
sub truth
{
	$c->wait_for('the end of the branch', sub {
		$o->ask('a', q{SELECT count(*) FROM pg_stat_activity
			WHERE usename = 'app' AND (state LIKE 'idle in trans%' OR state = 'active')}) eq '0'
	});
	my $now = $o->ask('a', 'SELECT balance FROM account WHERE id = 1');
	my $was = $balance;
	$balance = $now;
	return $now == $was ? 'aborted' : $now == $was - 1 ? 'committed' : "$was, now $now";
}

sub is_counted
{
	my ($name) = @_;
	is($o->ask('c', 'SELECT one_phase, committed FROM dtx.stat'), $name, "one phase|two phases: $name");
	return;
}

# When it is used
start();
$o->send_end;
is($o->answer->{said} . ' ' . truth(), 'committed committed', 'one branch wrote, another read');
is_counted('1|0');
start();
$o->session->query('CREATE TEMP TABLE wrote_here (i int)');
$o->send_end;
is($o->answer->{said} . ' ' . truth(), 'committed committed', 'with a write here: two phases');
is_counted('1|1');
start('SET dtx.one_phase = off');
$o->send_end;
is($o->answer->{said} . ' ' . truth(), 'committed committed', 'dtx.one_phase = off: two phases');
is_counted('1|2');
start('SET dtx.one_phase = on; SET default_transaction_isolation = serializable');
$o->send_end;
is($o->answer->{said} . ' ' . truth(), 'committed committed', 'serializable: two phases');
is_counted('1|3');
start('RESET default_transaction_isolation');
$o->session->query('SELECT dtx.current_gid()');
$o->send_end;
is($o->answer->{said} . ' ' . truth(), 'committed committed', 'with dtx.current_gid(): two phases');
is_counted('1|4');

# Faults in the session
foreach my $case (
	# point, action, said, SQLSTATE, truth
	[ 'one_phase_before', 'error',     'aborted', 'XX000', 'aborted' ],
	[ 'one_phase_before', 'nomem',     'aborted', '53200', 'aborted' ],
	# he who is terminated stops where he would wait
	[ 'one_phase_before', 'terminate', 'lost',    '57P01', '(committed|aborted)' ],
	[ 'one_phase_sent',   'error',     'aborted', '08007', '(committed|aborted)' ],
	[ 'one_phase_sent',   'nomem',     'aborted', '08007', '(committed|aborted)' ],
	[ 'one_phase_sent',   'terminate', 'lost',    '57P01', '(committed|aborted)' ],
	# this ERROR comes from elsewhere than the node, and says so
	[ 'one_phase_done',   'error',     'aborted', '\w+',   'committed' ],
	[ 'one_phase_done',   'terminate', '(committed|lost)', '\w*', 'committed' ])
{
	my ($point, $action, $said, $state, $truth) = @$case;
	start();
	$o->fault($point, $action);
	$o->send_end;
	my $answer = $o->answer;
	$o->fault_reset;
	$o->forget_session if $action eq 'terminate';
	like("$answer->{said} " . ($answer->{state} || '') . ' ' . truth(), qr/^$said $state $truth$/, "$action at $point")
	  or diag $answer->{text};
	like($answer->{text}, qr/only branch had committed/, 'with a WARNING')
	  if $point eq 'one_phase_done' && $action eq 'error';
}

# What fails here while the answer is read is no refusal of the node.
foreach my $k (0 .. 5)
{
	start();
	$o->fault('remote_get', 'nomem', $k);
	$o->send_end;
	my $answer = $o->answer;
	my $hit = $o->fault_hits('remote_get') > $k;
	$o->fault_reset;
	my $truth = truth();
	last if !$hit;
	# once COMMIT is known to be done, nothing that follows matters
	like("$answer->{said} " . ($answer->{state} || '') . " $truth", qr/^(aborted 08007 (committed|aborted)|committed  committed)$/,
		"no memory for answer $k: not known") or diag $answer->{text};
}

# Crashes
foreach my $case ([ 'one_phase_before', 'aborted' ], [ 'one_phase_sent', '(committed|aborted)' ],
	[ 'one_phase_done', 'committed' ])
{
	my ($point, $truth) = @$case;
	foreach my $action (qw(crash crash_server))
	{
		start();
		$o->fault($point, $action);
		$o->send_end;
		my $answer = $o->answer;
		$o->restart if $action eq 'crash_server';
		like("$answer->{said} " . truth(), qr/^lost $truth$/, "$action at $point");
		$o->ask('c', 'SELECT 1');
	}
}

# The node does not answer
$c->as_super(q{
	CREATE TABLE slow (seconds float);
	CREATE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM pg_sleep(NEW.seconds); RETURN NULL; END';
	CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION take_time();
	CREATE TABLE unsure (i int UNIQUE DEFERRABLE INITIALLY DEFERRED);
	GRANT ALL ON slow, unsure TO app}, node => 'a');

sub start_slow { start($_[1]); $o->session->query(qq{SELECT dtx.exec('a', 'INSERT INTO slow VALUES ($_[0])')}); return; }

start_slow(20, 'SET dtx.prepare_timeout = 300');
$o->send_end;
my $answer = $o->answer;
is("$answer->{said} $answer->{state}", 'aborted 08007', 'no answer within dtx.prepare_timeout: not known');
cmp_ok($answer->{seconds}, '<', 10, 'soon after it');
truth();

start_slow(20, 'RESET dtx.prepare_timeout');
my $pid = $o->ask('c', q{SELECT pid FROM pg_stat_activity WHERE usename = 'app'});
$o->send_end;
$c->wait_for('COMMIT on the node', sub { $o->ask('a', q{SELECT count(*) FROM pg_stat_activity
	WHERE wait_event = 'PgSleep'}) eq '1' });
$o->ask('c', "SELECT pg_cancel_backend($pid)");
$answer = $o->answer;
is("$answer->{said} $answer->{state}", 'aborted 08007', 'cancelled while it waits: not known');
truth();

foreach my $how (qw(terminated killed))
{
	start_slow(20);
	$o->send_end;
	$c->wait_for('COMMIT on the node', sub { $o->ask('a', q{SELECT count(*) FROM pg_stat_activity
		WHERE wait_event = 'PgSleep'}) eq '1' });
	if ($how eq 'killed')
	{
		$o->kill9('a');
		$c->start('a');
	}
	else
	{
		$o->ask('a', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
	}
	$answer = $o->answer;
	is("$answer->{said} $answer->{state} " . truth(), 'aborted 08007 aborted', "the node is $how: not known");
}

# The node refuses: that is known.
start();
$o->session->query(q{SELECT dtx.exec('a', 'INSERT INTO unsure VALUES (1), (1)')});
$o->send_end;
$answer = $o->answer;
is("$answer->{said} $answer->{state} " . truth(), 'aborted 23505 aborted', 'a deferred constraint at COMMIT');
like($answer->{text}, qr/node "a"/, 'with the name of the node');
is($o->attempt('COMMIT')->{said}, 'committed', 'the session goes on');
$balance = $o->ask('a', 'SELECT balance FROM account WHERE id = 1');

is($o->ask('a', 'SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is prepared');
done_testing();
