# The background: killed at every point of its work it is started again and goes
# on; two of them at once do no harm.
use strict;
use warnings;
use DtxCluster;
use DtxOutcome;
use Test::More;
use Time::HiRes qw(time);

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => 'dtx.scan_interval = 50ms');
plan skip_all => 'no fault points' unless $c->has_faults;
my $o = DtxOutcome->new($c);
$o->attempt('COMMIT');
$o->truth;

sub worker { return $o->ask('c', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'dtx $_[0]'"); }

# A decided transaction that is left to the scanner, which stops at a point.
sub left_at
{
	my ($point) = @_;
	$o->calm;
	$o->begin;
	$o->fault('commit_begin', 'error');
	$o->fault($point, 'wait');
	$o->send_end;
	is($o->answer->{said}, 'committed', 'a transfer is left to the scanner');
	$c->wait_fault($point);
	return;
}

foreach my $point (qw(scan_begin scan_listed scan_before_finish scan_after_finish scan_before_forget))
{
	left_at($point);
	my $pid = worker('scanner');
	my $begun = time();
	$o->ask('c', "SELECT pg_terminate_backend($pid)");
	$c->wait_for('the end of the scanner', sub { worker('scanner') ne $pid });
	is($o->truth, 'committed', "terminated at $point: another one goes on");
	cmp_ok(time() - $begun, '<', 15, 'soon');
	$o->fault_reset;
}

foreach my $point (qw(scan_listed scan_after_finish))
{
	left_at($point);
	my $mark = $c->log_mark('c');
	kill 'KILL', worker('scanner');
	is($o->truth, 'committed', "killed at $point: the next one goes on");
	$c->wait_restarted('c', $mark);
	$o->forget_session;
}

# errors in it
foreach my $point (qw(scan_begin scan_listed scan_before_finish scan_after_finish scan_before_forget))
{
	$o->calm;
	$o->begin;
	$o->fault('commit_begin', 'error');
	$o->fault($point, 'nomem');
	$o->send_end;
	is($o->answer->{said} . ' ' . $o->truth, 'committed committed', "no memory at $point: it goes on");
	$o->fault_reset;
}
foreach my $point (qw(remote_send remote_is_busy remote_close))
{
	foreach my $k (0 .. 2)
	{
		$o->calm;
		$o->begin;
		$o->hold_scanner;
		$o->fault('commit_begin', 'error');
		$o->send_end;
		is($o->answer->{said}, 'committed', 'a transfer is left to the scanner');
		$o->fault_reset;
		$o->fault($point, 'error', $k);
		is($o->truth, 'committed', "error at its pass $k of $point: it goes on");
		$o->fault_reset;
	}
}

# the launcher
my $launcher = worker('launcher');
my $scanner = worker('scanner');
$o->ask('c', "SELECT pg_terminate_backend($launcher)");
$c->wait_for('another launcher', sub { my $now = worker('launcher'); $now ne '' && $now ne $launcher });
$o->ask('c', "SELECT pg_terminate_backend($scanner)");
$o->fault('commit_begin', 'error');
is($o->attempt('COMMIT')->{said} . ' ' . $o->truth, 'committed committed', 'the next launcher starts the next scanner');

# --- several resolvers at once
foreach my $round (1 .. 2)
{
	$o->calm;
	$o->hold_scanner;
	my @sessions = map { $c->app_session } 1 .. 8;
	my $n = 0;
	foreach my $session (@sessions)
	{
		$n++;
		# every other one rolled back
		$session->query($c->transfer_sql('a', 'b', 1, from_id => 1 + $n, to_id => 1 + $n, note => "round $round", end => 'SELECT 1'));
		$o->fault($n % 2 ? 'commit_begin' : 'prepare_sent', 'error');
		$session->{stderr} = '';
		$session->query('COMMIT');
		if ($n % 2) { unlike($session->{stderr}, qr/ERROR/, 'committed, and left') }
		else { like($session->{stderr}, qr/ERROR/, 'failed, and left') }
	}
	$_->quit foreach @sessions;
	my @operators = map { $c->super_session } 1 .. 2;
	$o->kill9('b') if $round == 2;
	$o->fault_reset;
	# somebody is slow between the list and what he does about it
	$o->fault('scan_listed', 'sleep:300');
	if ($round == 2)
	{
		$c->wait_for('b to be tried', sub { $o->ask('c', q{SELECT state FROM dtx.nodes WHERE node = 'b'}) eq 'failing' });
		$c->start('b');
	}
	$c->start_query($_, 'CALL dtx.recover()') foreach @operators;
	my @said = map { [ $c->finish_query($_) ] } @operators;
	$o->fault_reset;
	is(join('', map { $_->[1] } @said), '', 'two CALL dtx.recover() beside the scanner give no error');
	note join ' / ', map { $_->[0] } @said;
	ok($c->wait_clean(40), 'nothing is left');
	is($o->ask('c', "SELECT count(*) FROM ledger WHERE note = 'round $round'"), 4, 'four have committed');
	is(join(' ', map { $o->ask($_, 'SELECT sum(balance) FROM account WHERE id > 1') } qw(a b)),
		9000 - 4 * $round . ' ' . (9000 + 4 * $round), 'on both nodes, the others on none');
	$_->quit foreach @operators;
}
is($o->ask('c', 'SELECT count(*) FROM dtx.event'), 0, 'none of them has seen anything to wonder about');

# A resolver that looks while a session commits leaves its branches alone.
foreach my $point (qw(prepare_gathered record_written commit_begin))
{
	$o->calm;
	my $rolled_back = $o->ask('c', 'SELECT finished_rollback + finished_commit FROM dtx.stat');
	$o->begin;
	$o->fault($point, 'wait');
	$o->send_end;
	$c->wait_fault($point);
	is($o->ask('c', 'CALL dtx.recover()'), '0|0|0', "at $point dtx.recover() finds nothing to do");
	$o->fault_reset;
	my $answer = $o->answer;
	is("$answer->{said} $answer->{text}" . $o->truth, 'committed committed', 'and COMMIT succeeds undisturbed');
	is($o->ask('c', 'SELECT finished_rollback + finished_commit FROM dtx.stat'), $rolled_back, 'nobody else has ended a branch');
}

# A list that was taken before the decision: the decision is looked for later.
# (Whoever holds a list keeps other resolvers waiting.)
$o->calm;
$o->begin;
my $operator = $c->super_session;
$o->fault('record_written', 'sleep:2500');
$o->fault('commit_begin', 'error');
$o->send_end;
$c->wait_for('the row', sub { $o->fault_hits('record_written') > 0 });
$o->fault('scan_listed', 'wait');
$c->start_query($operator, 'CALL dtx.recover()');
$c->wait_fault('scan_listed');
is($o->prepared_count, 2, 'two branches are listed, undecided');
is($o->answer->{said}, 'committed', 'then it is decided, and left');
is($o->prepared_count, 2, 'while the resolver holds its list');
$o->fault_reset;
$c->finish_query($operator);
$operator->quit;
is($o->truth, 'committed', 'they are committed');

# A branch that nobody knows of any more, as a PREPARE that was very late.
$o->attempt('ROLLBACK', gid => 1);
my $gid = $o->gid;
$o->truth;
$c->as_super(q{ALTER SYSTEM SET dtx.sweep_interval = '1s'});
$c->as_super('SELECT pg_reload_conf()');
$o->calm;
$c->as_app("BEGIN; UPDATE account SET balance = balance + 1 WHERE id = 1; PREPARE TRANSACTION '${gid}_1'", node => 'a');
ok($c->poll_until(sub { $o->prepared_count == 0 }, 40), 'the sweep finds it');
is($o->ask('c', 'SELECT count(*) FROM dtx.stuck'), 0, 'and rolls it back');
$c->as_super(q{ALTER SYSTEM RESET dtx.sweep_interval});
$c->as_super('SELECT pg_reload_conf()');

# What dtx.recover() says.  The scanner is stopped in its sleep, where it holds
# nothing.
$o->calm;
my $pid = worker('scanner');
$c->wait_for('the scanner to sleep', sub {
	kill 'STOP', $pid;
	return 1 if $o->ask('c', "SELECT query FROM pg_stat_activity WHERE pid = $pid") eq 'dtx: sleeps';
	kill 'CONT', $pid;
	return 0;
});
$o->fault('commit_begin', 'error');
is($o->attempt('COMMIT')->{said}, 'committed', 'a transfer is left');
is($o->ask('c', 'CALL dtx.recover()'), '2|0|0', 'dtx.recover() counts what it has finished');
is($o->ask('c', 'CALL dtx.recover()'), '0|0|0', 'and nothing when there is nothing');
$o->begin;
$o->fault('commit_begin', 'wait');
$o->send_end;
$c->wait_fault('commit_begin');
$o->kill9('b');
$o->fault_reset;
is($o->answer->{said}, 'committed', 'a transfer with b gone');
is($o->ask('c', 'CALL dtx.recover()'), '1|1|0', 'dtx.recover() proves one branch and leaves one');
$c->start('b');
is($o->ask('c', 'CALL dtx.recover()'), '1|0|0', 'and finishes that when b is back');
kill 'CONT', $pid;
is($o->{c}->as_super("SELECT count(*) FROM ledger WHERE note = '$o->{note}'"), 1, 'which is committed');
$c->check_invariants;
done_testing();
