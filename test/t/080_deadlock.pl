# Deadlocks over several nodes: one transaction gives way with 40P01, and never
# without a deadlock.  Lock timeouts are far away: only the detector can end
# these waits.
use strict;
use warnings;
use DtxCluster;
use Test::More;

my $far = "dtx.branch_lock_timeout = '10min'
dtx.branch_idle_timeout = '10min'
dtx.prepare_timeout = '10min'
dtx.deadlock_interval = '200ms'
";
my $c = DtxCluster->setup(nodes => [qw(a b d)], conf_c => $far, conf_d => $far, preload_nodes => 1);
plan skip_all => 'no fault points' unless $c->has_faults;

# --- d is a coordinator as well, over the same two nodes
$c->as_super('CREATE EXTENSION dtx CASCADE', node => 'd');
foreach my $node (qw(a b))
{
	my $port = $c->server($node)->port;
	$c->as_super("CREATE SERVER $node FOREIGN DATA WRAPPER dblink_fdw
			OPTIONS (host '127.0.0.1', port '$port', dbname 'bank');
		GRANT USAGE ON FOREIGN SERVER $node TO app;
		CREATE USER MAPPING FOR app SERVER $node OPTIONS (user 'app', password '$DtxCluster::password')",
		node => 'd');
}
# --- and c is a node of its own
{
	my $port = $c->server('c')->port;
	$c->as_super("CREATE SERVER loop FOREIGN DATA WRAPPER dblink_fdw
			OPTIONS (host '127.0.0.1', port '$port', dbname 'bank', options '-c dtx.loopback=on');
		GRANT USAGE ON FOREIGN SERVER loop TO app;
		CREATE USER MAPPING FOR app SERVER loop OPTIONS (user 'app', password '$DtxCluster::password')");
}

my $found = 0;    # by both coordinators

sub found { return $c->as_super('SELECT deadlocks FROM dtx.stat') + $c->as_super('SELECT deadlocks FROM dtx.stat', node => 'd'); }

# A session in which a transaction is open.
sub begin
{
	my ($coordinator) = @_;
	my $s = $c->app_session(node => $coordinator || 'c');
	# the first statement on a node makes its age
	is(run($s, "BEGIN; SELECT dtx.exec('a', 'SELECT 1')"), '', 'a transaction begins');
	return $s;
}

# Run something that does not have to wait; returns what went wrong.
sub run
{
	my ($s, $sql) = @_;
	$c->start_query($s, $sql);
	my ($out, $err) = $c->finish_query($s);
	return $err;
}

# Lock a row, there or here.
sub lock_sql
{
	my ($node, $id) = @_;
	return "UPDATE account SET balance = balance WHERE id = $id" if $node eq 'here';
	return "SELECT dtx.exec('$node', 'UPDATE account SET balance = balance WHERE id = $id')";
}

sub take
{
	my ($s, $node, $id) = @_;
	is(run($s, lock_sql($node, $id)), '', "row $id of $node is locked");
	return;
}

sub want { my ($s, $node, $id) = @_; $c->start_query($s, lock_sql($node, $id)); return; }

# So many processes wait for a lock on a server.
sub wait_waiting
{
	my ($name, $count) = @_;
	$c->poll_until(sub {
		$c->as_super("SELECT count(*) FROM pg_locks WHERE NOT granted", node => $name) == $count })
	  or die "nobody waits on $name: " . $c->as_super('SELECT pid, locktype, mode, granted FROM pg_locks', node => $name)
	  . $c->as_super('SELECT pid, application_name, state, wait_event, query FROM pg_stat_activity', node => $name);
	return;
}

# One of them gets 40P01 and is over; the others come through, in the order
# given, and commit.
sub one_gives_way
{
	my ($what, $victim, @others) = @_;
	my ($out, $err) = $c->finish_query($victim);
	like($err, qr/ERROR:  deadlock detected over several nodes/, "$what: the youngest gives way");
	like($err, qr/DETAIL:  .*waits for .*blocked by/s, 'and is told why');
	run($victim, 'ROLLBACK');
	foreach my $other (@others)
	{
		(undef, $err) = $c->finish_query($other);
		is($err, '', 'another goes on');
		is(run($other, 'COMMIT'), '', 'and commits');
		$other->quit;
	}
	is(found(), ++$found, 'one deadlock is counted');
	$victim->quit;
	return $err;
}

sub state_line { my ($err) = @_; return $err =~ /ERROR:  (\w{5}):/ ? $1 : ''; }

# --- two transactions, two nodes
my ($one, $two) = (begin(), begin());
run($two, '\set VERBOSITY verbose');
take($one, 'a', 1);
take($two, 'b', 1);
want($one, 'b', 1);
wait_waiting('b', 1);
want($two, 'a', 1);
{
	my ($out, $err) = $c->finish_query($two);
	is(state_line($err), '40P01', 'two transactions: the younger one fails with 40P01');
	like($err, qr/on node "a" waits for ShareLock on transactionid/, 'it says where it waits');
	like($err, qr/on node "b" waits for/, 'and where the other does');
	like($err, qr/Statement: .*dtx\.exec\('a'/, 'with statements');
	run($two, 'ROLLBACK');
	(undef, $err) = $c->finish_query($one);
	is($err, '', 'the other goes on');
	is(run($one, 'COMMIT'), '', 'and commits');
	is(found(), ++$found, 'counted');
	like($c->log_text('c'), qr/deadlock over several nodes: transaction dtx_\w+ is rolled back|deadlock over several nodes: transaction dtx_/, 'it is in the log');
	$_->quit foreach $one, $two;
}

# --- an exception handler can catch it; what was done there is lost, though
($one, $two) = (begin(), begin());
take($one, 'a', 1);
take($two, 'b', 1);
want($one, 'b', 1);
wait_waiting('b', 1);
$c->start_query($two, q{DO $$ BEGIN
	PERFORM dtx.exec('a', 'UPDATE account SET balance = balance WHERE id = 1');
	EXCEPTION WHEN deadlock_detected THEN RAISE NOTICE 'caught'; END $$});
{
	my ($out, $err) = $c->finish_query($two);
	like($err, qr/NOTICE:  caught/, 'it can be caught');
	like(run($two, 'COMMIT'), qr/lost connection to node "a"/, 'but not committed');
	(undef, $err) = $c->finish_query($one);
	is($err, '', 'the other goes on');
	run($one, 'COMMIT');
	is(found(), ++$found, 'counted');
	$_->quit foreach $one, $two;
}

# --- three of them, and one waits here
my $three;
($one, $two, $three) = (begin(), begin(), begin());
take($one, 'here', 1);
take($two, 'a', 2);
take($three, 'b', 3);
take($one, 'b', 1);
want($one, 'a', 2);
want($two, 'b', 3);
wait_waiting('a', 1);
wait_waiting('b', 1);
want($three, 'here', 1);
one_gives_way('over three servers, waiting for a local row', $three, $two, $one);

# --- one alone: its branch waits for its own session
$one = begin();
take($one, 'here', 5);
want($one, 'loop', 5);
one_gives_way('a transaction that waits for itself', $one);

# --- two coordinators
($one, $two) = (begin('c'), begin('d'));
take($one, 'a', 1);
take($two, 'b', 1);
want($one, 'b', 1);
wait_waiting('b', 1);
want($two, 'a', 1);
one_gives_way('two coordinators', $two, $one);

# the other way round: the first is the younger one
($two, $one) = (begin('d'), begin('c'));
take($two, 'b', 1);
take($one, 'a', 1);
want($two, 'a', 1);
wait_waiting('a', 1);
want($one, 'b', 1);
one_gives_way('two coordinators, the other one', $one, $two);

# --- through a session that has nothing to do with dtx
my $plain = $c->app_session(node => 'a');
($one, $two) = (begin(), begin());
take($one, 'a', 1);
run($plain, 'BEGIN');
is(run($plain, lock_sql('here', 2)), '', 'an ordinary session has a row');
take($two, 'b', 1);
$c->start_query($plain, lock_sql('here', 1));
wait_waiting('a', 1);
want($one, 'b', 1);
wait_waiting('b', 1);
want($two, 'a', 2);
one_gives_way('through an ordinary session', $two, $one);
is(($c->finish_query($plain))[1], '', 'which goes on');
run($plain, 'ROLLBACK');
$plain->quit;

# --- PREPARE waits, in a deferred trigger, for a transaction that waits for
# what is prepared already
$c->as_super(q{
	CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN UPDATE account SET balance = balance WHERE id = 9; RETURN NULL; END $$;
	CREATE TABLE late (i int);
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION touch();
	GRANT INSERT ON late TO app}, node => 'b');
($one, $two) = (begin(), begin());
take($one, 'a', 1);
is(run($one, q{SELECT dtx.exec('b', 'INSERT INTO late VALUES (1)')}), '', 'a trigger will run at PREPARE');
take($two, 'b', 9);
$c->start_query($one, 'COMMIT');
wait_waiting('b', 1);
$c->wait_for('prepared on a', sub { grep { /^a / } $c->prepared });
want($two, 'a', 1);
one_gives_way('behind a prepared transaction', $two);
is(($c->finish_query($one))[1], '', 'the one in COMMIT comes through');
$one->quit;

# --- no deadlock, no victim: somebody waits for a prepared branch whose
# session is stopped, and for an idle transaction
sub collections { return $c->fault_hits('deadlock_collected'); }
$c->fault('prepare_gathered', 'wait');
$one = $c->app_session;
$c->start_query($one, $c->transfer_sql('a', 'b', 10));
$c->wait_fault('prepare_gathered');
($two, $three) = (begin(), begin());
take($three, 'b', 4);
want($two, 'a', 1);
wait_waiting('a', 1);
$c->fault('deadlock_collected', 'sleep:1', 1000000);    # to have it counted
my $before = collections();
$c->wait_for('a few collections', sub { collections() >= $before + 3 });
is($c->as_app(q{SELECT string_agg(concat_ws(' ', node, waiter ~ '^dtx_\w+_\*_\w+$', blocker ~ '^dtx_\w+_\*_\w+$', blocker_pid), ',') FROM dtx.waits}),
	'a t t', 'dtx.waits shows who waits, and that a prepared transaction is in the way');
is(found(), $found, 'a wait is no deadlock');
$c->fault_reset;
is(($c->finish_query($_))[1], '', 'it comes through') foreach $one, $two;
run($_, 'ROLLBACK') foreach $two, $three;
$_->quit foreach $one, $two, $three;

# --- no deadlock, no victim: what is in the way is of an earlier transaction of
# the same session.  First a process that has not heard that its connection is
# gone; then a branch that the scanner has not got to.
sub await_collections
{
	my ($count) = @_;
	$c->fault('deadlock_collected', 'sleep:1', 1000000);    # to have it counted
	my $begun = collections();
	$c->wait_for('a few collections', sub { collections() >= $begun + $count });
	return;
}
sub await_own_wait
{
	my ($name) = @_;
	$c->wait_for("a wait on $name", sub {
		$c->as_super(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE NOT l.granted AND a.application_name LIKE 'dtx:%'}, node => $name) == 1 });
	return;
}

$one = begin();
take($one, 'b', 8);
$c->start_query($one, q{SELECT pid FROM dtx.query('b', 'SELECT pg_backend_pid()') AS (pid int)});
my ($orphan) = $c->finish_query($one);
$c->start_query($one, 'SELECT pg_backend_pid()');
my ($session) = $c->finish_query($one);
kill 'STOP', $orphan;
want($one, 'b', 8);
$c->wait_for('the session to wait for b', sub {
	$c->as_super("SELECT count(*) FROM pg_stat_activity WHERE pid = $session AND state = 'active' AND query LIKE '%dtx.exec%'") == 1 });
$c->as_super("SELECT pg_cancel_backend($session)");
like(($c->finish_query($one))[1], qr/canceling statement due to user request/, 'a connection is given up, and its process holds a row');
run($one, 'ROLLBACK');
# what it has begun before can be told from what it begins now
is(run($one, "BEGIN; SELECT dtx.exec('a', 'SELECT 1')"), '', 'the session begins anew');
want($one, 'b', 8);
await_own_wait('b');
await_collections(4);
is(found(), $found, 'it waits for what it has left itself: no deadlock');
like($c->as_app(q{SELECT string_agg(concat_ws(' ', node, waiter ~ '^dtx_\w+_\*_\w+$', blocker, blocker_pid), ',') FROM dtx.waits}),
	qr/^b t $orphan$/, 'dtx.waits shows a process that belongs to nothing');
kill 'CONT', $orphan;
is(($c->finish_query($one))[1], '', 'it comes through');
is(run($one, 'COMMIT'), '', 'and commits');

# somebody waits all the time, so that the worker that looks does not depend on
# the scanner
($two, $three) = (begin(), begin());
take($two, 'a', 2);
want($three, 'a', 2);
await_own_wait('a');
await_collections(2);
# whoever does it: the scanner, or a worker of its own for one node
$c->fault('scan_before_finish', 'hold');
$c->fault('commit_begin', 'error');
like(run($one, $c->transfer_sql('b', 'd', 10, from_id => 3)), qr/have not confirmed it yet|has not confirmed it yet/, 'a branch is left to the scanner');
is(run($one, "BEGIN; SELECT dtx.exec('a', 'SELECT 1')"), '', 'the session begins anew');
want($one, 'b', 3);
await_own_wait('b');
await_collections(4);
is(found(), $found, 'it waits for what it has committed itself: no deadlock');
like($c->as_app(q{SELECT count(DISTINCT split_part(name, '_', 4)) FROM dtx.waits, unnest(ARRAY[waiter, blocker]) AS u(name) WHERE node = 'b'}),
	qr/^2$/, 'dtx.waits shows two transactions');
$c->fault_reset;
is(($c->finish_query($one))[1], '', 'it comes through');
is(run($one, 'COMMIT'), '', 'and commits');
run($two, 'ROLLBACK');
is(($c->finish_query($three))[1], '', 'and so does the other');
run($three, 'ROLLBACK');
$_->quit foreach $one, $two, $three;

# --- a cycle that is gone when its victim is to be told
($one, $two) = (begin(), begin());
$c->start_query($two, 'SELECT pg_backend_pid()');
my ($pid) = $c->finish_query($two);
take($one, 'a', 1);
take($two, 'b', 1);
$c->fault('deadlock_before_cancel', 'wait');
want($one, 'b', 1);
wait_waiting('b', 1);
want($two, 'a', 1);
$c->wait_fault('deadlock_before_cancel');
$c->as_super("SELECT pg_terminate_backend($pid)");
like(($c->finish_query($two))[1], qr/terminating connection/, 'the chosen one is over');
my $next = begin();
take($next, 'here', 7);
$c->fault_reset;
(undef, my $err) = $c->finish_query($one);
is($err, '', 'the other goes on');
is(run($one, 'COMMIT'), '', 'and commits');
is(run($next, 'SELECT pg_sleep(0.3)'), '', 'nobody else is hit');
is(run($next, 'COMMIT'), '', 'not even in a new transaction');
is(found(), $found, 'nothing is counted');
$_->quit foreach $one, $next;

# --- switched off, and on again
$c->as_super($_) foreach "ALTER SYSTEM SET dtx.deadlock_interval = 0", 'SELECT pg_reload_conf()';
$c->wait_for('the setting', sub { $c->as_super('SHOW dtx.deadlock_interval') eq '0' });
($one, $two) = (begin(), begin());
take($one, 'a', 1);
take($two, 'b', 1);
want($one, 'b', 1);
wait_waiting('b', 1);
want($two, 'a', 1);
wait_waiting('a', 1);
$before = $c->as_super('SELECT passes FROM dtx.stat');
$c->as_super('CALL dtx.recover()');
is(found(), $found, 'switched off, nothing is found');
$c->as_super($_) foreach "ALTER SYSTEM RESET dtx.deadlock_interval", 'SELECT pg_reload_conf()';
one_gives_way('switched on again', $two, $one);

# --- what it costs: nobody waits, so nobody is asked who is in the way
$c->as_super($_, node => 'a') foreach "ALTER SYSTEM SET log_statement = 'all'", 'SELECT pg_reload_conf()';
$c->wait_for('the setting', sub { $c->as_super('SHOW log_statement', node => 'a') eq 'all' });
my $mark = $c->log_mark('a');
$one = begin();
take($one, 'a', 1);
$c->wait_for('the last worker to leave', sub {
	$c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dtx deadlock worker'}) == 0 });
$mark = $c->log_mark('a');
run($one, 'SELECT pg_sleep(1)');
unlike($c->log_since('a', $mark), qr/pg_locks/, 'while nobody waits nothing is asked');
run($one, 'COMMIT');
$one->quit;

$c->check_invariants;
done_testing();
