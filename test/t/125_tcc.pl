# TCC under faults: the session, the coordinator or a participant ends at each
# point of it, answers get lost, tries come late, participants coordinate.
use strict;
use warnings;
use DtxCluster;
use Test::More;
use Time::HiRes qw(sleep time);

my $c = DtxCluster->setup(nodes => [qw(a b)], extension_nodes => 1, preload_nodes => 1,
	conf => "dtx.scan_interval = '200ms'\ndtx.sweep_interval = '1s'\ndtx.retry_interval = '100ms'\n");

# fault points of a participant
$c->as_super(q{
	CREATE FUNCTION public.dtx_fault(point text, action text, skip int DEFAULT 0)
		RETURNS void AS '$libdir/dtx', 'dtx_fault' LANGUAGE C;
	CREATE FUNCTION public.dtx_fault_reset() RETURNS void AS '$libdir/dtx', 'dtx_fault_reset' LANGUAGE C},
	node => 'b') if $c->has_faults;

# Money is reserved, then taken or given back.
$c->as_app('ALTER TABLE account ADD frozen bigint NOT NULL DEFAULT 0', node => $_) foreach qw(a b);
$c->as_app(q{CREATE FUNCTION reserve(node name, amount int, gid text DEFAULT NULL) RETURNS jsonb LANGUAGE sql AS $$
	SELECT dtx.tcc_try(node,
		'UPDATE account SET balance = balance - $1, frozen = frozen + $1 WHERE id = 1 RETURNING frozen',
		'UPDATE account SET frozen = frozen - $1 WHERE id = 1',
		'UPDATE account SET balance = balance + $1, frozen = frozen - $1 WHERE id = 1',
		jsonb_build_array(amount), gid) $$});

sub account { return $c->as_super('SELECT balance, frozen FROM account WHERE id = 1', node => $_[0]); }
sub accounts { return join ' ', map { account($_) } qw(a b); }
sub tried { my ($node) = @_; return $c->as_super(q{SELECT count(*) FROM dtx.barrier WHERE state = 'tried'}, node => $node); }
sub open_tries { return tried('a') + tried('b'); }
sub unfinished { return $c->as_super('SELECT count(*) FROM dtx.transaction WHERE finished_at IS NULL'); }
sub settle
{
	my ($name) = @_;
	my $ok = $c->poll_until(sub { open_tries() == 0 && unfinished() == 0 && $c->prepared_count == 0 }, 60);
	ok($ok, "$name: everything has ended") or diag open_tries() . ' open, ' . unfinished() . ' unfinished';
	return;
}

# What the accounts are when so much was taken from both.
my $taken = 0;
sub expect
{
	my ($name, $more) = @_;
	$taken += $more;
	settle($name);
	my $left = 1000 - $taken;
	is(accounts(), "$left|0 $left|0", $more ? "$name: confirmed on both" : "$name: cancelled on both");
	return;
}

my $transfer = "BEGIN; SELECT reserve('a', 1); SELECT reserve('b', 1);\n"
  . "INSERT INTO ledger (note, amount) VALUES ('tcc', 1);\n";

##########################################################################
# Without faults
##########################################################################

$c->as_app($transfer . 'COMMIT');
is(accounts(), '999|0 999|0', 'COMMIT has confirmed, at once');
expect('COMMIT', 1);
$c->as_app($transfer . 'ROLLBACK');
expect('ROLLBACK', 0);
is($c->as_super(q{SELECT count(*) FROM dtx.node WHERE tries}), 2, 'where there are tries is written down');

# a session that ends
my $session = $c->app_session;
$session->query_safe($transfer);
is(accounts(), '998|1 998|1', 'others see what is reserved');
$session->quit;
expect('the client leaves', 0);
foreach my $how (qw(terminate))
{
	$session = $c->app_session;
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe($transfer);
	$c->as_super("SELECT pg_${how}_backend($pid)");
	expect("pg_${how}_backend", 0);
	eval { $session->quit };
}
# while it is in progress nobody touches it, however often he looks
$session = $c->app_session;
$session->query_safe($transfer);
$c->as_super('CALL dtx.recover()') for 1 .. 3;
is(accounts(), '998|1 998|1', 'what is in progress is left alone');
$session->query_safe('COMMIT');
expect('after that', 1);
$session->quit;

##########################################################################
# The coordinator
##########################################################################

SKIP:
{
	skip 'no fault points', 1 unless $c->has_faults;
	# point, is it decided?
	foreach my $at ([ tcc_try_before => 0 ], [ tcc_try_sent => 0 ], [ tcc_try_done => 0 ], [ record_written => 0 ], [ commit_begin => 1 ], [ tcc_confirm_sent => 1 ], [ commit_done => 1 ])
	{
		my ($point, $decided) = @$at;
		foreach my $how (qw(crash crash_server error terminate))
		{
			my $before = $c->ledger_count('tcc');
			my $mark = $c->log_mark('c');
			$c->fault($point, $how);
			my ($rc, undef, $stderr) = $c->app_psql($transfer . 'COMMIT');
			my $name = "$how at $point";
			if ($how eq 'crash_server') { $c->wait_down; $c->start('c') }
			elsif ($how eq 'crash') { $c->wait_restarted('c', $mark) }
			else
			{
				like($stderr, qr/fault point|terminating|closed the connection/i, "$name: an error") unless $decided || "$how $point" eq 'terminate record_written';
			}
			$c->fault_reset;
			# the local transaction decides; a signal just before that may come too late
			my $committed = $c->ledger_count('tcc') - $before;
			is($committed, $decided, "$name: decided or not") unless "$how $point" eq 'terminate record_written';
			expect($name, $committed);
		}
	}
	foreach my $how (qw(crash crash_server error))
	{
		my $mark = $c->log_mark('c');
		$c->fault('tcc_cancel_sent', $how);
		$c->app_psql($transfer . 'ROLLBACK');
		if ($how eq 'crash_server') { $c->wait_down; $c->start('c') }
		elsif ($how eq 'crash') { $c->wait_restarted('c', $mark) }
		$c->fault_reset;
		expect("$how at tcc_cancel_sent", 0);
	}
	is($c->ledger_count('tcc'), $taken, 'what is committed here is confirmed there, and nothing else');

	# a worker that crashes while it confirms
	foreach my $point (qw(flow_sent flow_before_record flow_recorded))
	{
		my $mark = $c->log_mark('c');
		$c->fault($point, 'crash');
		$c->app_psql("SELECT dtx.tcc_begin('$point'); BEGIN; SELECT reserve('a', 1, '$point'); SELECT reserve('b', 1, '$point');"
			  . "SELECT dtx.tcc_confirm('$point'); COMMIT");
		$c->wait_restarted('c', $mark);
		$c->fault_reset;
		expect("a crash of a worker at $point", 1);
	}
}

##########################################################################
# A participant
##########################################################################

SKIP:
{
	skip 'no fault points', 1 unless $c->has_faults;
	# it dies before and after the try is committed there
	foreach my $at ([ apply_begin => 'before it has confirmed', 1 ], [ apply_before_commit => 'while it confirms', 1 ])
	{
		my ($point, $name, $decided) = @$at;
		my $mark = $c->log_mark('b');
		$c->fault($point, 'crash', 0, node => 'b');
		my ($rc, undef, $stderr) = $c->app_psql($transfer . 'COMMIT');
		is($rc, 0, "$name: the client has its COMMIT");
		like($stderr, qr/transaction is committed, but 1 of its branches has not confirmed it yet/, 'and a warning');
		$c->wait_restarted('b', $mark);
		expect("participant dies $name", 1);
	}
	my $mark = $c->log_mark('b');
	$c->fault('apply_before_commit', 'crash', 0, node => 'b');
	$c->app_psql($transfer . 'ROLLBACK');
	$c->wait_restarted('b', $mark);
	expect('participant dies while it cancels', 0);
}
# killed while nobody looks
$session = $c->app_session;
$session->query_safe($transfer);
$c->kill9('b');
$c->start('b');
my (undef, $stderr);
$session->query('COMMIT');
like($session->{stderr}, qr/has not confirmed it yet/, 'the connection is gone at COMMIT');
$session->{stderr} = '';
expect('participant killed before COMMIT', 1);
$session->query_safe($transfer);
$c->kill9('b');
$session->query('ROLLBACK');
$c->start('b');
expect('participant killed before ROLLBACK', 0);
# a connection that was kept and is dead is replaced
$c->kill9('b');
$c->start('b');
$session->query_safe($transfer . 'COMMIT');
expect('a kept connection that died', 1);
$session->quit;

##########################################################################
# Late, hung
##########################################################################

# The participant's backend stops before the try arrives; rolled back meanwhile.
sub try_pid
{
	return $c->as_super(q{SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'dtx:%'
		AND query NOT LIKE '%dtx.branch%' ORDER BY backend_start DESC LIMIT 1}, node => 'b');
}
$session = $c->app_session;
$session->query_safe("BEGIN; SELECT reserve('b', 1); COMMIT; UPDATE ledger SET note = note WHERE false");
$taken = 0;
$c->as_super('UPDATE account SET balance = 1000', node => $_) foreach qw(a b);
settle('before');
{
	my $pid = try_pid();
	$session->query_safe("BEGIN; SELECT dtx.tcc_try('b', 'SELECT 1', NULL, NULL)");
	# only now: the session over there has been prepared for this transaction
	kill 'STOP', $pid;
	$c->start_query($session, "SELECT reserve('b', 1)");
	$c->wait_for('the session to wait', sub {
		$c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%reserve(%' AND state = 'active' AND pid <> pg_backend_pid()}) == 1 });
	sleep 0.2;
	$c->as_super(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%reserve(%' AND state = 'active' AND pid <> pg_backend_pid()});
	my ($out, $err) = $c->finish_query($session);
	like($err, qr/canceling statement due to user request/, 'the try is not waited for any more');
	$session->query_safe('ROLLBACK');
	$c->wait_for('the cancel to come first', sub {
		$c->as_super(q{SELECT count(*) FROM dtx.barrier WHERE state = 'void'}, node => 'b') == 1 });
	my $mark = $c->log_mark('b');
	kill 'CONT', $pid;
	$c->wait_for('the late try to be over', sub {
		$c->as_super("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid", node => 'b') == 0 });
	is(tried('b'), 0, 'a late try does nothing');
	is(account('b'), '1000|0', 'nothing at all');
	expect('a late try', 0);
}

# A server that hangs: COMMIT does not wait longer than dtx.commit_wait.
$session->query_safe("SET dtx.commit_wait = '300ms'");
$session->query_safe($transfer);
$c->hang('b');
{
	my $begun = time();
	$session->query('COMMIT');
	cmp_ok(time() - $begun, '<', 15, 'COMMIT waits no longer than it may');
	like($session->{stderr}, qr/has not confirmed it yet/, 'and says so');
	$session->{stderr} = '';
	is(account('a'), '999|0', 'the other one is confirmed');
}
$c->resume('b');
expect('b goes on', 1);
$session->query_safe($transfer);
$c->hang('b');
$session->query('ROLLBACK');
is(account('a'), '999|0', 'a is cancelled while b hangs') or 1;
$c->resume('b');
expect('b goes on again', 0);
$session->quit;

##########################################################################
# Several transactions
##########################################################################

# who registers and who decides wait for each other
$c->as_app(q{SELECT dtx.tcc_begin('race')});
my $one = $c->app_session;
my $two = $c->app_session;
$one->query_safe(q{BEGIN; SELECT reserve('a', 1, 'race')});
$c->start_query($two, q{SELECT dtx.tcc_confirm('race')});
sleep 0.3;
ok(!$c->query_finished($two), 'the decision waits for a try that is not registered yet');
$one->query_safe('COMMIT');
$c->finish_query($two);
settle('race');
is(accounts(), '998|0 999|0', 'and includes it');
$one->query(q{SELECT reserve('b', 1, 'race')});
like($one->{stderr}, qr/cannot add a try to TCC transaction "race"/, 'no try comes late');
$one->{stderr} = '';
# the deadline, too
$c->as_app(q{SELECT dtx.tcc_begin('deadline', '3s')});
$one->query_safe(q{BEGIN; SELECT reserve('b', 1, 'deadline')});
sleep 3.5;
is($c->as_super(q{SELECT state FROM dtx.transactions WHERE gid = 'deadline'}), 'running', 'the deadline waits for it as well');
$one->query_safe('COMMIT');
is($c->as_app(q{SELECT dtx.wait('deadline', '30s')}), 'aborted', 'and then cancels');
settle('deadline');
is(accounts(), '998|0 999|0', 'all of it');
# a worker that has read it before the try is registered
SKIP:
{
	skip 'no fault points', 2 unless $c->has_faults;
	$c->as_app(q{SELECT dtx.tcc_begin('read', '3s')});
	$one->query_safe(q{BEGIN; SELECT reserve('b', 1, 'read')});
	$c->fault('flow_fetched', 'wait');
	$c->wait_fault('flow_fetched');
	# what it has read may be something else: it has to be this
	sleep 3.5;
	$c->fault_reset;
	$c->fault('flow_fetched', 'wait');
	$c->wait_fault('flow_fetched');
	$one->query_safe('COMMIT');
	$c->fault_reset;
	is($c->as_app(q{SELECT dtx.wait('read', '30s')}), 'aborted', 'a deadline that was seen before a try');
	settle('read');
	is(accounts(), '998|0 999|0', 'cancels that as well');
}
# a deadlock between tries and branches of two sessions, on two nodes
$one->query_safe(q{BEGIN; SELECT dtx.exec('b', 'UPDATE account SET owner = owner WHERE id = 2')});
$two->query_safe(q{BEGIN; SELECT dtx.exec('a', 'UPDATE account SET owner = owner WHERE id = 2')});
$c->start_query($one, q{SELECT dtx.tcc_try('a', 'UPDATE account SET owner = owner WHERE id = 2', NULL, NULL)});
sleep 0.3;
{
	my $begun = time();
	$c->start_query($two, q{SELECT dtx.exec('b', 'UPDATE account SET owner = owner WHERE id = 2')});
	my @errors = grep { /deadlock/ } map { ($c->finish_query($_))[1] } $one, $two;
	is(@errors, 1, 'a deadlock is found');
	cmp_ok(time() - $begun, '<', 9, 'before a lock timeout');
}
$_->query('ROLLBACK') foreach $one, $two;
settle('a deadlock');
$one->quit;
$two->quit;

##########################################################################
# A participant that coordinates
##########################################################################

# a is a coordinator for b
$c->as_super($c->node_sql('b'), node => 'a');
$c->as_app(q{
	CREATE FUNCTION nested(what text, amount int) RETURNS jsonb LANGUAGE plpgsql AS $$
	DECLARE
		g text := 'nested in ' || (SELECT gid || ' ' || step FROM dtx.saga_context());
		r jsonb;
	BEGIN
		IF what = 'try' THEN
			PERFORM dtx.tcc_begin(g);
			UPDATE account SET balance = balance - amount, frozen = frozen + amount WHERE id = 1;
			r := dtx.tcc_try('b',
				'UPDATE account SET balance = balance - $1, frozen = frozen + $1 WHERE id = 1 RETURNING frozen',
				'UPDATE account SET frozen = frozen - $1 WHERE id = 1',
				'UPDATE account SET balance = balance + $1, frozen = frozen - $1 WHERE id = 1',
				jsonb_build_array(amount), g);
		ELSIF what = 'confirm' THEN
			UPDATE account SET frozen = frozen - amount WHERE id = 1;
			PERFORM dtx.tcc_confirm(g);
		ELSE
			UPDATE account SET balance = balance + amount, frozen = frozen - amount WHERE id = 1;
			PERFORM dtx.tcc_cancel(g);
		END IF;
		RETURN r;
	END $$}, node => 'a');
sub nested_unfinished { return $c->as_super('SELECT count(*) FROM dtx.transaction WHERE finished_at IS NULL', node => 'a'); }
foreach my $end (qw(COMMIT ROLLBACK))
{
	my $before = $end eq 'COMMIT' ? '998|0 999|0' : '997|0 998|0';
	is($c->as_app(q{BEGIN; SELECT dtx.tcc_try('a', 'SELECT nested(''try'', $1::int)', 'SELECT nested(''confirm'', $1::int)',
		'SELECT nested(''cancel'', $1::int)', '[1]');} . " $end"), '{"nested": {"frozen": 1}}', "a nested try, $end");
	settle('nested');
	ok($c->poll_until(sub { nested_unfinished() == 0 && open_tries() == 0 }), 'on both levels');
	is(accounts(), '997|0 998|0', $end eq 'COMMIT' ? 'confirmed' : 'cancelled');
}
# one that fails inside is nowhere
my ($rc, undef, $err) = $c->app_psql(q{SELECT dtx.tcc_try('a', 'SELECT nested(''try'', 5000)', NULL, 'SELECT nested(''cancel'', 5000)')});
like($err, qr/violates check constraint/, 'refused inside');
settle('refused inside');
is(accounts(), '997|0 998|0', 'leaves nothing');
is(nested_unfinished(), 0, 'on either level');

$c->check_invariants(total => 10 * 1000 * 3 - 3 - 2);
done_testing;
