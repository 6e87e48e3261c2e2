# What has no success for longer than dtx.stuck_after is told: once, and when it
# is over.
use strict;
use warnings;
use DtxCluster;
use DtxSaga;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], extension_nodes => 1,
	conf_c => "dtx.stuck_after = 1s\ndtx.scan_interval = 200ms\ndtx.retry_interval = 50ms\ndtx.retry_max_interval = 200ms\n");
saga_setup($c);
sub alerts
{
	my ($gid) = @_;
	return $c->as_super(qq{SELECT string_agg(concat_ws(' ', node, branch, state, ended_at IS NOT NULL), ',' ORDER BY number)
		FROM dtx.alert WHERE gid = '$gid'});
}
sub await_alert { my ($gid, $wanted) = @_; return $c->wait_for("alerts: $wanted", sub { alerts($gid) eq $wanted }); }

# --- a node that answers with an error that may go away
my $listener = $c->super_session;
$listener->query('LISTEN dtx_alert');
my $mark = $c->log_mark('c');
saga_answer($c, 'b', 'give', 'action', ('unknown') x 1000);
saga_submit($c, saga_transfer('a', 'b', 1), 'unknown');
await_alert('unknown', 'b 3 pending f');
pass('a step without success raises an alert');
is($c->as_super(q{SELECT count(*) FROM dtx.alert a JOIN dtx.stuck s USING (gid, branch, node, state, call)}), 1, 'as dtx.stuck has it');
is($c->as_super(q{SELECT call FROM dtx.alert}), q{SELECT dtx.retry_now('unknown', 'why')}, 'it says what to call');
is($c->as_super(q{SELECT last_error FROM dtx.alert}), 'give has trouble', 'and what the node said');
like($c->log_since('c', $mark), qr/alert: branch 3 of "unknown" on node "b": action of step "give" has no success after \d+ attempts/,
	'with a message');
like($listener->query('SELECT 1'), qr/Asynchronous notification "dtx_alert" with payload "1"/, 'whoever listens is told');
my $attempts = saga_attempts($c, 'unknown', 'give');
saga_await_attempt($c, 'unknown', 'give', $attempts + 10);
$c->as_app($c->as_super(q{SELECT call FROM dtx.alert}));
saga_await_attempt($c, 'unknown', 'give', $attempts + 20);
is(alerts('unknown'), 'b 3 pending f', 'it is raised once, also when an operator has it tried again');
# while it is paused nobody need be told
$c->as_app(q{SELECT dtx.pause('unknown', 'for the test')});
await_alert('unknown', 'b 3 pending t');
is($c->as_super('SELECT state, call FROM dtx.stuck'), q{paused|SELECT dtx.resume('unknown', 'why')}, 'who pauses it, ends it');
$c->as_app(q{SELECT dtx.resume('unknown', 'for the test')});
await_alert('unknown', 'b 3 pending t,b 3 pending f');
# on its way back the action is not tried any more, but the compensation
saga_answer($c, 'a', 'take', 'compensation', ('unknown') x 1000);
$c->as_app(q{SELECT dtx.saga_compensate('unknown', 'for the test')});
$c->wait_for('the compensation', sub { $c->as_super('SELECT reason FROM dtx.stuck') =~ /^compensation of step "take" has no success/ });
$c->wait_for('its alert', sub { $c->as_super(q{SELECT reason FROM dtx.alert WHERE ended_at IS NULL}) =~ /^compensation of step "take" has no success/ });
pass('a compensation without success raises another one');
saga_answer($c, 'a', 'take', 'compensation');
is(saga_wait($c, 'unknown'), 'aborted', 'it ends');
$c->wait_for('the end of alerts', sub { $c->as_super('SELECT count(*) FROM dtx.alert WHERE ended_at IS NULL') == 0 });
pass('with its end its alerts are over');

# --- without another attempt; in a session, whose workers know nothing of it
saga_answer($c, 'b', 'give', 'action', 'unknown');
saga_submit($c, saga_transfer('a', 'b', 1, retry => '{"interval": "1 h", "max_interval": "1 h"}'), 'later');
await_alert('later', 'b 3 pending f');
$c->as_app(q{SELECT dtx.retry_now('later', 'for the test')});
is(saga_wait($c, 'later'), 'committed', 'tried again it succeeds');
await_alert('later', 'b 3 pending t');
saga_answer($c, 'b', 'give', 'action', ('unknown') x 1000);
my $session = $c->app_session;
$c->start_query($session, 'CALL dtx.saga_run($x$' . saga_transfer('a', 'b', 1) . q{$x$, 'session')});
await_alert('session', 'b 3 pending f');
# after a restart there is one still
$c->kill9('c');
$c->start('c');
eval { $session->quit };
saga_await_attempt($c, 'session', 'give', saga_attempts($c, 'session', 'give') + 5);
is(alerts('session'), 'b 3 pending f', 'a restart does not raise it again');
saga_answer($c, 'b', 'give', 'action');
is(saga_wait($c, 'session'), 'committed', 'it ends');
await_alert('session', 'b 3 pending t');

# --- "not done yet" is an answer
saga_answer($c, 'b', 'give', 'action', ('ongoing') x 1000);
saga_submit($c, saga_transfer('a', 'b', 1), 'ongoing');
saga_await_attempt($c, 'ongoing', 'give', 30);
is($c->as_super(q{SELECT now() - sent_at > '1s' FROM dtx.steps WHERE gid = 'ongoing' AND name = 'give'}), 't', 'asked for long');
is($c->as_super('SELECT count(*) FROM dtx.stuck'), 0, 'what is going on is not stuck');
saga_answer($c, 'b', 'give', 'action');
is(saga_wait($c, 'ongoing'), 'committed', 'it ends');
is(alerts('ongoing'), '', 'and raised no alert');

$listener = undef;
$c->check_invariants;
done_testing();
