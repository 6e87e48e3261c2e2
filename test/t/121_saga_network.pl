# Sagas over a network that loses requests and answers, and nodes that hang, are
# away, or are slow: nothing is applied twice, and nobody waits for another node.
use strict;
use warnings;
use DtxCluster qw(netns);
use DtxSaga;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], extension_nodes => 1,
	conf => "dtx.scan_interval = 100ms\ndtx.max_backoff = 1s\ndtx.retry_interval = 100ms\ndtx.retry_max_interval = 1s
dtx.branch_lock_timeout = 500ms\ndtx.step_timeout = 1s\ndtx.connect_timeout = 2s");
saga_setup($c);
my %done = (
	good => 'committed: a take action, b give action, c note action',
	bad  => 'aborted: a take action, a take compensation, b give action, b give compensation, c note action, c note compensation');
sub came_to { my ($gid) = @_; return saga_wait($c, $gid) . ': ' . join ', ', sort(saga_effects($c, $gid)); }
my $number = 0;

# a connection is there, and used
saga_submit($c, saga_transfer('a', 'b', 1), 'first');
is(came_to('first'), $done{good}, 'a saga');

##########################################################################
# Requests and answers that are lost
##########################################################################

foreach my $lost ([ 'the answer', 'sport' ], [ 'the request', 'dport' ], [ 'all', undef ])
{
	my ($what, $direction) = @$lost;
	foreach my $node (qw(a b))
	{
		foreach my $kind (qw(good bad))
		{
			my $gid = 'lost' . ++$number;
			$c->cut($node, $direction);
			saga_submit($c, saga_transfer('a', 'b', 1, refused => $kind eq 'bad'), $gid);
			saga_await_attempt($c, $gid, $node eq 'a' ? 'take' : 'give', 1);
			is(saga_state($c, $gid), 'running', "$what of $node is lost: it goes on trying");
			$c->heal;
			is(came_to($gid), $done{$kind}, "$kind, $what of $node was lost: applied once");
		}
	}
}

##########################################################################
# A participant that hangs, and one that is away
##########################################################################

foreach my $node (qw(a b))
{
	my $gid = "hung $node";
	$c->hang($node);
	# the other one is none the worse for it
	my $other = $node eq 'a' ? 'b' : 'a';
	saga_submit($c, saga_transfer('a', 'b', 1), $gid);
	saga_submit($c, saga_transfer($other, $other, 1), "beside $node");
	is(saga_wait($c, "beside $node"), 'committed', "$node hangs: sagas of $other do not");
	saga_await_attempt($c, $gid, $node eq 'a' ? 'take' : 'give', 1);
	$c->resume($node);
	is(came_to($gid), $done{good}, "$node has hung: applied once");
}

$c->stop('b', 'immediate');
saga_submit($c, saga_transfer('a', 'b', 1), "away $_") foreach 1 .. 5;
saga_submit($c, saga_transfer('a', 'b', 1, retry => '{"interval": "1 h", "max_interval": "1 h"}'), 'patient');
saga_await_attempt($c, $_, 'give', 1) foreach 'patient', map { "away $_" } 1 .. 5;
saga_submit($c, saga_transfer('a', 'a', 1), 'only a');
is(saga_wait($c, 'only a'), 'committed', 'b is away: sagas of a go on');
$c->start('b');
is(came_to("away $_"), $done{good}, "b is back: saga $_ goes on") foreach 1 .. 5;
is(came_to('patient'), $done{good}, 'also one that would have waited for an hour');

##########################################################################
# A late request, after a refusal of a later attempt
##########################################################################

# The session on b is stopped with the first attempt in its hands; the second
# one is refused, and the saga is over; then the first one goes on.
SKIP:
{
	saga_answer($c, 'b', 'give', 'action', 'ok', ('refused') x 20);
	# it has read nothing yet: stop the session that is kept
	saga_submit($c, saga_transfer('a', 'b', 0, local => 0), 'warm');
	my $pid = $c->as_super(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'dtx flow'
		AND state = 'idle' ORDER BY backend_start DESC LIMIT 1}, node => 'b');
	is(saga_wait($c, 'warm'), 'committed', 'a connection is kept');
	$pid = $c->as_super(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'dtx flow'
		AND state = 'idle' ORDER BY backend_start DESC LIMIT 1}, node => 'b');
	kill 'STOP', $pid;
	saga_submit($c, saga_transfer('a', 'b', 7, local => 0), 'late');
	is(saga_wait($c, 'late', timeout => 90), 'aborted', 'the second attempt is refused');
	kill 'CONT', $pid;
	$c->wait_for('the session to go', sub {
		$c->as_super("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid", node => 'b') == 0 });
	is(join(', ', saga_effects($c, 'late')), 'a take action, a take compensation', 'and the first one comes too late');
	saga_answer($c, 'b', 'give', 'action');
}

##########################################################################
# Slow steps
##########################################################################

# those that sleep until they are told otherwise do not delay anybody
saga_answer($c, 'a', 'sleeper', 'action', 'sleep');
my $sleeper = '{"name": "sleeper", "node": "a", "timeout": "10 min", "action": "SELECT * FROM sample(1, 0)", "compensation": "SELECT * FROM sample(1, 0)"}';
saga_submit($c, qq({"steps": [$sleeper]}), "sleeps $_") foreach 1 .. 3;
saga_submit($c, saga_transfer('a', 'a', 1), "quick $_") foreach 1 .. 20;
is(join(' ', map { saga_wait($c, "quick $_") } 1 .. 20), join(' ', ('committed') x 20), 'quick steps do not wait for slow ones on the same node');
saga_submit($c, saga_transfer('b', 'b', 1), "quick b $_") foreach 1 .. 20;
is(join(' ', map { saga_wait($c, "quick b $_") } 1 .. 20), join(' ', ('committed') x 20), 'nor on another node');
is(join(' ', map { saga_state($c, "sleeps $_") } 1 .. 3), 'running running running', 'while those are still at it');
saga_answer($c, 'a', 'sleeper', 'action');
is(join(' ', map { saga_wait($c, "sleeps $_") } 1 .. 3), 'committed committed committed', 'and come to their end');

$c->check_invariants(log => 0);
done_testing();
