# A node that hangs (SIGSTOP): COMMIT returns within its bound, ROLLBACK at
# once, PREPARE within its own, and nobody else waits.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;
use Time::HiRes qw(time sleep);

my $c = DtxCluster->setup(nodes => [qw(a b d)], conf_c => 'dtx.connect_timeout = 8s');
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
# how long after its end the machine may take to notice something; a node that
# hangs would be waited for without an end
my $slack = 5;

sub state_of { return $o->ask('c', "SELECT state FROM dtx.nodes WHERE node = '$_[0]'"); }

# Let the node answer again; how long until nothing is prepared there.
sub resumed_and_clean
{
	my ($what) = @_;
	$c->resume('b');
	my $begun = time();
	ok($c->poll_until(sub { $o->prepared_count == 0 }, 20), "$what: b is clean again");
	my $took = time() - $begun;
	diag sprintf '%s: clean %.2f s after b answers again', $what, $took;
	cmp_ok($took, '<', 4.5, 'sooner than dtx.scan_interval');
	return;
}

is($o->ask('c', 'SHOW dtx.commit_wait'), '2s', 'dtx.commit_wait is 2s unless set');
is($o->ask('c', 'SHOW dtx.prepare_timeout'), '30s', 'dtx.prepare_timeout is 30s unless set');
# as long as it may take
$c->as_super(q{ALTER SERVER b OPTIONS (SET connect_timeout '10')});
is($o->attempt('COMMIT')->{said} . ' ' . $o->truth, 'committed committed', 'a transfer');
is(($c->transfer('c', 'd', 1))[0], 0, 'and one to d');

# --- COMMIT, with b hung after the decision; another session has prepared
# there as well and comes to its own second phase later.
my $other = DtxOutcome->new($c, id => 2);
$other->begin(before => q{SET dtx.commit_wait = '1min'});
$o->fault('record_written', 'sleep:8000');
$other->send_end;
$c->wait_for('the other session', sub { $o->fault_hits('record_written') > 0 });

$o->begin;
$o->fault('commit_begin', 'wait');
$o->send_end;
$c->wait_fault('commit_begin');
# the scanner will have to connect
$o->ask('b', q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
	WHERE usename = 'app' AND query !~ 'PREPARE TRANSACTION'});
$c->hang('b');
# (not the other one, which sleeps)
$o->{begun} = time();
$o->fault_reset;
my $answer = $o->answer;
is("$answer->{said} $answer->{state}", 'committed 01DTX', 'COMMIT succeeds with a WARNING');
like($answer->{text}, qr/1 of its branches has not confirmed.*node "b"/s, 'which names the node');
cmp_ok($answer->{seconds}, '>=', 2, 'it has waited for dtx.commit_wait');
cmp_ok($answer->{seconds}, '<', 2 + $slack, 'and no longer');
is(state_of('b'), 'slow', 'dtx.nodes says that b is slow');
is($o->ask('a', 'SELECT balance FROM account WHERE id = 1'), 998, 'a has committed');

# nobody else waits for what the scanner does about b
sub others_are_finished
{
	$o->fault('commit_begin', 'error');
	is(($c->transfer('c', 'd', 1))[0], 0, 'a transfer to d is left to the scanner');
	my $left_at = time();
	ok($c->poll_until(sub { $o->ask('d', 'SELECT count(*) FROM pg_prepared_xacts') == 0 }), 'which finishes it');
	cmp_ok(time() - $left_at, '<', 4.5, 'while b hangs');
	return;
}
others_are_finished();

$answer = $other->answer;
cmp_ok(time(), '<', $other->{begun} + 8 + $slack, 'the next one does not wait for b again');
is("$answer->{said} $answer->{state}", 'committed 01DTX', 'and succeeds with a WARNING too');

# --- nobody else waits
$answer = { seconds => -time() };
is(($c->transfer('a', 'd', 1, from_id => 3))[0], 0, 'a transfer from a to d');
cmp_ok($answer->{seconds} + time(), '<', $slack, 'does not wait');

# long enough for the back-off to grow
foreach (1 .. 2)
{
	sleep 0.6;
	others_are_finished();
}
is($o->ask('c', q{SELECT count(*) FROM dtx.branches WHERE node = 'b' AND state = 'pending'}), 2,
	'dtx.branches shows what b owes');
resumed_and_clean('COMMIT');
$c->wait_for('b', sub { state_of('b') eq 'reachable' });
is($o->truth . ' ' . $other->truth, 'committed committed', 'and has committed both');
$other->forget_session;

# --- no waiting at all
$o->calm;
$answer = $o->attempt('COMMIT', before => 'SET dtx.commit_wait = 0');
is($answer->{said} . $answer->{text} . ' ' . $o->truth, 'committed committed', 'dtx.commit_wait = 0 gives no WARNING');
$o->calm;
$o->begin;
$o->fault('commit_begin', 'wait');
$o->send_end;
$c->wait_fault('commit_begin');
$c->hang('b');
$o->{begun} = time();
$o->fault_reset;
$answer = $o->answer;
is($answer->{said}, 'committed', 'nor does it wait for a node that hangs');
cmp_ok($answer->{seconds}, '<', 1.9, 'not even a bit');
resumed_and_clean('COMMIT without waiting');
is($o->truth, 'committed', 'and all is committed');

# --- before the decision, and with one branch committed
foreach my $point (qw(prepare_gathered commit_sent))
{
	$o->calm;
	$o->begin(before => q{SET dtx.commit_wait = '300ms'});
	$o->fault($point, 'wait');
	$o->send_end;
	$c->wait_fault($point);
	$c->hang('b');
	$o->fault_reset;
	my $begun = time();
	$answer = $o->answer;
	is("$answer->{said} $answer->{state}", 'committed 01DTX', "b hangs at $point: COMMIT succeeds with a WARNING");
	cmp_ok(time() - $begun, '<', 1.9, 'within its bound');
	resumed_and_clean($point);
	is($o->truth, 'committed', 'and all is committed');
}

# --- ROLLBACK
$o->calm;
$o->begin(before => 'RESET dtx.commit_wait');
$c->hang('b');
$o->send_end('ROLLBACK');
$answer = $o->answer;
is($answer->{said}, 'committed', 'ROLLBACK succeeds');
cmp_ok($answer->{seconds}, '<', $slack, 'at once');
$c->resume('b');
is($o->truth, 'aborted', 'and changes nothing');
my $begun = time();
$o->ask('b', 'UPDATE account SET owner = owner WHERE id = 1');
cmp_ok(time() - $begun, '<', $slack, 'b has given up its locks');

# --- PREPARE
$o->calm;
$o->begin(before => q{SET dtx.prepare_timeout = '700ms'});
$c->hang('b');
$o->send_end;
$answer = $o->answer;
is("$answer->{said} $answer->{state}", 'aborted 40003', 'COMMIT with a node that does not prepare fails');
like($answer->{text}, qr/node "b" did not prepare its branch within dtx\.prepare_timeout/, 'and says which and why');
cmp_ok($answer->{seconds}, '>=', 0.7, 'after dtx.prepare_timeout');
cmp_ok($answer->{seconds}, '<', 0.7 + $slack, 'and no later');
# the scanner has a connection, and waits for an answer, though not for ever
others_are_finished();
ok($c->poll_until(sub { state_of('b') eq 'failing' }), 'dtx.nodes says that b is failing');
like($o->ask('c', q{SELECT last_error FROM dtx.nodes WHERE node = 'b'}), qr/does not answer|could not connect/, 'and why');
$c->resume('b');
$c->poll_until(sub { $o->ask('b', 'SELECT count(*) FROM pg_prepared_xacts') > 0 }, 0.2);
resumed_and_clean('PREPARE');
is($o->truth, 'aborted', 'nothing of it is left');

# --- a statement can be cancelled
$o->calm;
$o->begin;
$c->hang('b');
$o->send_end(q{SET statement_timeout = 500; SELECT dtx.exec('b', 'SELECT 1')});
$answer = $o->answer;
is("$answer->{said} $answer->{state}", 'aborted 57014', 'statement_timeout ends a statement on a node that hangs');
cmp_ok($answer->{seconds}, '<', 0.5 + $slack, 'in time');
$o->send_end('ROLLBACK');
cmp_ok($o->answer->{seconds}, '<', $slack, 'and its transaction ends at once');
$c->resume('b');
is($o->truth, 'aborted', 'with nothing changed');

$c->check_invariants;
done_testing();
