# A coordinator that vanishes in the middle of a branch does not keep the
# node's locks: neither when it is dead, nor when it only looks so.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;
use Time::HiRes qw(time);

my $c = DtxCluster->setup(nodes => [qw(a b)]);
my $o = DtxOutcome->new($c);
is($o->ask('c', 'SHOW dtx.branch_idle_timeout'), '1min', 'dtx.branch_idle_timeout is 60s unless set');
is($o->ask('c', 'SHOW dtx.branch_lock_timeout'), '10s', 'dtx.branch_lock_timeout is 10s unless set');

sub branches { return $o->ask($_[0], q{SELECT count(*) FROM pg_stat_activity
	WHERE usename = 'app' AND state IN ('active', 'idle in transaction')}); }
sub locks { return $o->ask('b', q{SELECT count(*) FROM pg_stat_activity
	WHERE usename = 'app' AND wait_event_type = 'Lock'}); }

# How long until the nodes have given up what the session did there.
sub freed
{
	my ($what, $bound) = @_;
	my $begun = time();
	ok($c->poll_until(sub { branches('a') + branches('b') == 0 }), "$what: the branches end");
	my $took = time() - $begun;
	note sprintf '%s: %.2f s', $what, $took;
	cmp_ok($took, '<', $bound, "within $bound s");
	foreach my $node (qw(a b))
	{
		my ($rc) = $c->super_psql(q{SET lock_timeout = '100ms'; UPDATE account SET owner = owner WHERE id = 1}, node => $node);
		is($rc, 0, "the row is free on $node");
	}
	return;
}

# what a branch of ours really asks the node for
$o->begin(before => q{SET dtx.branch_idle_timeout = '1s'; SET dtx.branch_lock_timeout = '7s'});
is($o->session->query(q{SELECT * FROM dtx.query('b', $$SELECT current_setting('idle_in_transaction_session_timeout'),
	current_setting('lock_timeout'), current_setting('client_connection_check_interval')$$) AS t(i text, l text, c text)}),
	'1s|7s|1s', 'the node knows the limits');

# --- idle in the branch
$c->hang('c');
freed('the coordinator hangs', 20);
$c->resume('c');
$o->send_end;
my $answer = $o->answer;
is("$answer->{said} $answer->{state} " . $o->truth, 'aborted 08006 aborted', 'its COMMIT fails then');
like($answer->{text}, qr/lost connection to node "[ab]"/, 'and says that a node is lost');

$o->begin(before => 'RESET dtx.branch_idle_timeout; RESET dtx.branch_lock_timeout');
$o->kill9('c');
$o->forget_session;
freed('the coordinator is killed', 20);
$c->start('c');
is($o->truth, 'aborted', 'nothing is committed');

# --- waiting for a lock in the branch
foreach my $how (qw(killed hangs))
{
	my $rival = $c->super_session(node => 'b');
	$rival->query('BEGIN; UPDATE account SET owner = owner WHERE id = 2');
	$o->begin($how eq 'hangs' ? (before => q{SET dtx.branch_lock_timeout = '2s'; SET dtx.branch_idle_timeout = '1s'}) : ());
	$o->send_end(q{SELECT dtx.exec('b', 'UPDATE account SET owner = owner WHERE id = 2')});
	$c->wait_for('the lock', sub { locks() eq '1' });
	if ($how eq 'killed') { $o->kill9('c') } else { $c->hang('c') }
	freed("the coordinator $how while its branch waits for a lock", 9);
	$rival->quit;
	if ($how eq 'killed')
	{
		$o->forget_session;
		$c->start('c');
	}
	else
	{
		$c->resume('c');
		$answer = $o->answer;
		is("$answer->{said} $answer->{state}", 'aborted 55P03', 'the lock was given up');
		$o->send_end('COMMIT');
		$o->answer;
	}
	is($o->truth, 'aborted', 'nothing is committed');
}

# --- busy in the branch
$o->begin;
$o->send_end(q{SELECT dtx.exec('b', 'SELECT pg_sleep(60)')});
$c->wait_for('the sleep', sub { $o->ask('b', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}) eq '1' });
$o->kill9('c');
$o->forget_session;
freed('the coordinator is killed while its branch works', 20);
$c->start('c');
is($o->truth, 'aborted', 'nothing is committed');

# --- one backend of it killed, not the server
$o->begin;
$o->send_end(q{SELECT dtx.exec('b', 'SELECT pg_sleep(60)')});
$c->wait_for('the sleep', sub { $o->ask('b', q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}) eq '1' });
$o->ask('c', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'});
is($o->answer->{said}, 'lost', 'a session that is terminated');
freed('a session is terminated', 20);
is($o->truth, 'aborted', 'nothing is committed');

$c->check_invariants;
done_testing();
