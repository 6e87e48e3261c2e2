# An operator acts while an answer is being written down: what he says of a step
# stays, and nobody waits for him who need not.
use strict;
use warnings;
use DtxCluster;
use DtxSaga;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], extension_nodes => 1, conf_c => "
dtx.retry_interval = 100ms
");
plan skip_all => 'no fault points' unless $c->has_faults;
saga_setup($c);
my $saga = saga_transfer('a', 'b', 10, local => 0);
my $run = sub { my ($gid) = @_; return "CALL dtx.saga_run(\$x\$$saga\$x\$, '$gid')" };
# its node is known, and reached
$c->as_app($run->('warm up'));

# By a worker, and by a session of its own.
sub start
{
	my ($how, $gid) = @_;
	if ($how eq 'worker')
	{
		saga_submit($c, $saga, $gid);
		return;
	}
	my $session = $c->app_session;
	$c->start_query($session, $run->($gid));
	return $session;
}

sub finish
{
	my ($session) = @_;
	return unless $session;
	is(join('', $c->finish_query($session)), 'committed', 'the session hears of it');
	$session->quit;
	return;
}

my $told = sub { my ($gid) = @_; return $c->as_super("SELECT state || ' ' || COALESCE(result::text, '-') FROM dtx.steps WHERE gid = '$gid' AND name = 'give'") };

foreach my $how (qw(worker session))
{
	# the second step is answered: done
	$c->fault('flow_answered', 'wait', 1);
	my $session = start($how, "$how 1");
	$c->wait_fault('flow_answered');
	$c->as_super(qq{SELECT dtx.skip_step('$how 1', 'give', '{"by": "hand"}', 'it takes too long')});
	$c->fault_reset;
	is(saga_wait($c, "$how 1"), 'committed', "$how: a step is skipped while its answer comes in");
	is($told->("$how 1"), 'skipped {"by": "hand"}', 'what the operator said stays');
	finish($session);

	# he has not committed yet when it is written down
	$c->fault('flow_answered', 'wait', 1);
	$session = start($how, "$how 2");
	$c->wait_fault('flow_answered');
	my $operator = $c->super_session;
	$c->start_query($operator, qq{BEGIN; SELECT dtx.skip_step('$how 2', 'give', '{"by": "hand"}', 'it takes too long')});
	$c->finish_query($operator);
	$c->fault_reset;
	$c->wait_for('who writes it down to wait for him', sub {
		$c->as_super(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND l.locktype = 'transactionid'
			AND (a.backend_type = 'dtx flow worker' OR a.query LIKE '%saga_run%')}) > 0 });
	$c->start_query($operator, 'COMMIT');
	$c->finish_query($operator);
	is(saga_wait($c, "$how 2"), 'committed', "$how: a step is being skipped when its answer is written down");
	is($told->("$how 2"), 'skipped {"by": "hand"}', 'what the operator said stays');
	finish($session);

	# he gives it up: the answer counts
	$c->fault('flow_answered', 'wait', 1);
	$session = start($how, "$how 3");
	$c->wait_fault('flow_answered');
	$c->start_query($operator, qq{BEGIN; SELECT dtx.skip_step('$how 3', 'give', '{"by": "hand"}', 'it takes too long')});
	$c->finish_query($operator);
	$c->fault_reset;
	$c->start_query($operator, 'ROLLBACK');
	$c->finish_query($operator);
	is(saga_wait($c, "$how 3"), 'committed', "$how: he changes his mind");
	like($told->("$how 3"), qr/^done /, 'the answer counts');
	finish($session);

	# he has the flow's row only: that is not waited for, and the answer is not lost
	$c->fault('flow_answered', 'wait', 1);
	$session = start($how, "$how 4");
	$c->wait_fault('flow_answered');
	$c->start_query($operator, "BEGIN; SELECT dtx.pause('$how 4', 'wait')");
	$c->finish_query($operator);
	$c->fault_reset;
	$c->wait_for('the answer to be written down', sub { $told->("$how 4") =~ /^done / });
	is(saga_state($c, "$how 4"), 'running', "$how: a flow that somebody has locked is not written over");
	$c->start_query($operator, "SELECT dtx.resume('$how 4', 'go on'); COMMIT");
	$c->finish_query($operator);
	is(saga_wait($c, "$how 4"), 'committed', 'it goes on when he has let go of it');
	is(join(', ', saga_effects($c, "$how 4")), 'a take action, b give action', 'nothing is sent twice');
	finish($session);
	$operator->quit;

	# the flow has been changed since it was read
	$c->fault('flow_answered', 'wait', 1);
	$session = start($how, "$how 5");
	$c->wait_fault('flow_answered');
	$c->as_super("SELECT dtx.pause('$how 5', 'wait')");
	$c->fault_reset;
	$c->wait_for('the answer to be written down', sub { $told->("$how 5") =~ /^done / });
	is($c->as_super("SELECT state, paused FROM dtx.transactions WHERE gid = '$how 5'"), 'running|t', "$how: a flow that was paused stays so");
	$session->quit if $session;	# which has got its answer: it is paused
	$c->as_super("SELECT dtx.resume('$how 5', 'go on')");
	is(saga_wait($c, "$how 5"), 'committed', 'until it is resumed');
}

# a submission that fails at commit leaves nothing, and the session goes on
my $session = $c->app_session;
$c->fault('flow_before_record', 'error');
$c->start_query($session, $run->('never'));
my (undef, $error) = $c->finish_query($session);
like($error, qr/fault point "?flow_before_record/, 'the transaction of a submission fails');
$c->fault_reset;
is($c->as_super(q{SELECT count(*) FROM dtx.transaction WHERE name = 'never'}), 0, 'nothing is submitted');
$c->start_query($session, $run->('never'));
is(join('', $c->finish_query($session)), 'committed', 'the same session can submit it');
$session->quit;
is(join(', ', saga_effects($c, 'never')), 'a take action, b give action', 'and it is done once');
# of the steps that were skipped, and done all the same, the operator knows better
$c->as_super(q{DELETE FROM effect WHERE step = 'give' AND gid ~ ' [12]$'}, node => 'b');
$c->check_invariants;
done_testing();
