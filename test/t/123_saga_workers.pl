# Several workers for sagas, and sessions that drive theirs: each step is applied
# once, whoever is killed; workers come back, and forget what is old.
use strict;
use warnings;
use DtxCluster;
use DtxSaga;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], extension_nodes => 1,
	conf => "dtx.scan_interval = 100ms\ndtx.retry_interval = 50ms\ndtx.retry_max_interval = 500ms\nmax_worker_processes = 30",
	conf_c => "dtx.workers = 3\ndtx.retention = 10min");
plan skip_all => 'no fault points' unless $c->has_faults;
saga_setup($c);
sub unfinished { return $c->as_super(q{SELECT count(*) FROM dtx.transaction WHERE finished_at IS NULL}); }
sub states { return $c->as_super(qq{SELECT string_agg(state || ' ' || n, ', ' ORDER BY state) FROM
	(SELECT state, count(*) AS n FROM dtx.transaction WHERE name LIKE '$_[0]%' GROUP BY state) s}); }

##########################################################################
# Many sagas, submitted and driven side by side
##########################################################################

# every fifth is refused
my $load = q{DO $x$ BEGIN FOR i IN 1 .. 60 LOOP
	PERFORM dtx.saga_submit((CASE WHEN i % 5 = 0 THEN $y$} . saga_transfer('a', 'b', 1, refused => 1, local => 0)
  . q{$y$ ELSE $y$} . saga_transfer('b', 'a', 1, local => 0) . q{$y$ END)::jsonb, 'NAME ' || i);
	COMMIT; END LOOP; END $x$};
my $run = 'CREATE PROCEDURE run_many(who text) LANGUAGE plpgsql AS $x$ DECLARE s text; BEGIN FOR i IN 1 .. 20 LOOP
	CALL dtx.saga_run($y$' . saga_transfer('a', 'b', 1) . q{$y$, who || ' ' || i, state => s); END LOOP; END $x$};
$c->as_app($run);
my @sessions = map { $c->app_session } 1 .. 5;
$c->start_query($sessions[0], $load =~ s/NAME/load one/r);
$c->start_query($sessions[1], $load =~ s/NAME/load two/r);
$c->start_query($sessions[$_], "CALL run_many('run $_')") foreach 2 .. 4;
foreach my $session (@sessions)
{
	my (undef, $stderr) = $c->finish_query($session);
	is($stderr, '', 'a session has submitted its sagas, or driven them');
}
ok($c->poll_until(sub { unfinished() == 0 }, 60), 'all of them end');
is(states('load'), 'aborted 24, committed 96', 'as they should');
is(states('run'), 'committed 60', 'those of sessions, too');
ok($c->poll_until(sub { flow_workers($c) == 3 }), 'there are three workers');

# workers are killed while they work
foreach my $signal (qw(TERM KILL))
{
	my $mark = $c->log_mark('c');
	saga_answer($c, 'b', 'give', 'action', 'unknown', 'ongoing');
	saga_submit($c, saga_transfer('a', 'b', 1, local => 0), "$signal $_") foreach 1 .. 30;
	my @workers = flow_workers($c);
	kill $signal, $signal eq 'KILL' ? $workers[0] : @workers;
	$c->wait_restarted('c', $mark) if $signal eq 'KILL';
	is(join(' ', map { saga_wait($c, "$signal $_") } 1 .. 30), join(' ', ('committed') x 30), "SIG$signal: others take over");
	$c->wait_for('the workers to come back', sub { my %old = map { $_ => 1 } @workers; flow_workers($c) >= ($signal eq 'TERM' ? 3 : 1) && !grep { $old{$_} } flow_workers($c) });
}
saga_answer($c, 'b', 'give', 'action');

# another number of workers: everything has somebody still
saga_answer($c, 'b', 'give', 'action', ('unknown') x 1000);
saga_submit($c, saga_transfer('a', 'b', 1, local => 0), "number $_") foreach 1 .. 12;
saga_await_attempt($c, "number $_", 'give', 1) foreach 1 .. 12;
foreach my $number (1, 4)
{
	$c->as_super("ALTER SYSTEM SET dtx.workers = $number");
	$c->as_super('SELECT pg_reload_conf()');
	$c->wait_for("$number workers", sub { flow_workers($c) == $number });
}
saga_answer($c, 'b', 'give', 'action');
is(join(' ', map { saga_wait($c, "number $_") } 1 .. 12), join(' ', ('committed') x 12), 'another number of workers takes over');

##########################################################################
# A session that drives its saga and goes
##########################################################################

my $again = saga_transfer('a', 'b', 1);
foreach my $how (qw(cancel terminate timeout))
{
	my $gid = "session $how";
	saga_answer($c, 'b', 'give', 'action', ('unknown') x 1000);
	my $session = $c->app_session;
	my $pid = $session->query('SELECT pg_backend_pid()');
	$session->query("SET statement_timeout = '5s'") if $how eq 'timeout';
	$c->start_query($session, "CALL dtx.saga_run(\$x\$$again\$x\$, '$gid')");
	saga_await_attempt($c, $gid, 'give', 1);
	is($c->as_super("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $pid"), 1, 'a session drives its saga');
	$c->as_super("SELECT pg_${how}_backend($pid)") unless $how eq 'timeout';
	my (undef, $stderr) = $c->finish_query($session);
	like($stderr, $how eq 'terminate' ? qr/terminating connection/ : qr/canceling statement/, "$how: it hears of it");
	saga_answer($c, 'b', 'give', 'action');
	is(saga_wait($c, $gid), 'committed', 'and the workers go on');
	is(join(', ', sort(saga_effects($c, $gid))), 'a take action, b give action, c note action', 'once');
	next if $how eq 'terminate';
	is($c->as_super("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = $pid"), 0, 'it claims nothing any more');
	$session->query('RESET statement_timeout');
	$c->start_query($session, "CALL dtx.saga_run(\$x\$$again\$x\$, '$gid again')");
	is(join('', $c->finish_query($session)), 'committed', 'and may drive another one');
	$session->quit;
}

# who calls for one that a session drives waits for it, and takes over
saga_answer($c, 'b', 'give', 'action', ('unknown') x 1000);
my ($first, $second) = map { $c->app_session } 1 .. 2;
$c->start_query($first, "CALL dtx.saga_run(\$x\$$again\$x\$, 'two sessions')");
saga_await_attempt($c, 'two sessions', 'give', 1);
$c->start_query($second, "CALL dtx.saga_run(\$x\$$again\$x\$, 'two sessions')");
$c->wait_for('the second one', sub { $c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%saga_run%two sessions%' AND pid <> pg_backend_pid() AND state = 'active'}) == 2 });
saga_answer($c, 'b', 'give', 'action');
is(join('', $c->finish_query($_)), 'committed', 'both hear how it has ended') foreach $first, $second;
is(join(', ', sort(saga_effects($c, 'two sessions'))), 'a take action, b give action, c note action', 'it was done once');
$_->quit foreach $first, $second, @sessions;

# read, and ended by somebody else before it was claimed: it is left alone
saga_answer($c, 'b', 'refuse', 'action', 'refused');
my $once = '{"steps": [{"name": "refuse", "node": "b", "action": "SELECT sample(1, 1)", "compensation": "SELECT sample(1, -1)"}]}';
$c->as_super('ALTER SYSTEM SET dtx.workers = 0');
$c->as_super('SELECT pg_reload_conf()');
$c->wait_for('no workers', sub { flow_workers($c) == 0 });
saga_submit($c, $once, 'raced');
my $scanner = $c->super_session;
$c->fault('flow_read', 'wait');
$c->start_query($scanner, 'CALL dtx.scan_once()');
$c->wait_fault('flow_read');
my (undef, undef, $err) = $c->app_psql("CALL dtx.saga_run(\$x\$$once\$x\$, 'raced')");
like($err, qr/refuse says no/, 'refused while somebody else was about to claim it');
saga_answer($c, 'b', 'refuse', 'action');
$c->fault_reset;
is(join('', $c->finish_query($scanner)), '0', 'who sends nothing of it');
is(join(', ', saga_effects($c, 'raced')), '', 'and nothing is applied');
is(saga_state($c, 'raced'), 'aborted', 'since it is over');
$scanner->quit;
$c->as_super('ALTER SYSTEM RESET dtx.workers');
$c->as_super('SELECT pg_reload_conf()');

##########################################################################
# Retention
##########################################################################

saga_answer($c, 'b', 'give', 'action', ('unknown') x 1000);
saga_submit($c, saga_transfer('a', 'b', 1, local => 0, retry => '{"interval": "1 h", "max_interval": "1 h"}'), 'open');
saga_await_attempt($c, 'open', 'give', 1);
saga_answer($c, 'b', 'give', 'action');
saga_submit($c, saga_transfer('a', 'b', 1, local => 0), "later $_") foreach 1 .. 5;
saga_wait($c, "later $_") foreach 1 .. 5;
$c->check_invariants(log => 0, total => 29_999, name => 'invariants, before anything is forgotten');
my $rows = $c->as_super('SELECT count(*) FROM dtx.barrier', node => 'a');
cmp_ok($rows, '>', 200, 'participants remember');
$c->as_super(q{UPDATE dtx.transaction SET finished_at = finished_at - interval '11 min' WHERE finished_at IS NOT NULL AND name NOT LIKE 'later%'});
# a new scanner looks at once
$c->as_super(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'dtx scanner' AND datname = 'bank'});
ok($c->poll_until(sub { $c->as_super('SELECT count(*) FROM dtx.transaction') == 6 }, 90), 'what ended long ago is forgotten');
is($c->as_super(q{SELECT count(*) FROM dtx.step s WHERE NOT EXISTS (SELECT FROM dtx.transaction t WHERE t.xid = s.xid AND t.nonce = s.nonce)}), 0,
	'with its steps');
is($c->as_super(q{SELECT count(*) FROM dtx.transactions WHERE gid = 'open'}), 1, 'not what is open');
# the watermark, which a worker looks up every ten seconds, goes with an operation
saga_submit($c, saga_transfer('a', 'b', 1, local => 0), 'last');
is(saga_wait($c, 'last'), 'committed', 'another saga');
my $open_xid = $c->as_super(q{SELECT xid FROM dtx.transaction WHERE name = 'open'});
ok($c->poll_until(sub {
	saga_submit($c, saga_transfer('a', 'b', 1, local => 0), 'poke ' . int(rand 1e9));
	$c->as_super("SELECT count(*) FROM dtx.barrier WHERE xid < '$open_xid'", node => 'a') == 0 }, 60), 'participants forget, too');
is($c->as_super("SELECT count(*) FROM dtx.barrier WHERE xid = '$open_xid'", node => 'a'), 1,
	'but nothing of what is open');
$c->as_super(q{SELECT dtx.retry_now('open', 'go on')});
is(saga_wait($c, 'open'), 'committed', 'which goes on');
is(join(', ', sort(saga_effects($c, 'open'))), 'a take action, b give action', 'once');
ok($c->poll_until(sub { unfinished() == 0 }, 60), 'all is over');
$c->check_invariants(log => 0);
done_testing();
