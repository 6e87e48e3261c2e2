# dtx.send: a random walk against an oracle, and what is outstanding when
# something dies.
use strict;
use warnings;
use DtxCluster;
use Test::More;
use Time::HiRes qw(sleep);

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms
dtx.branch_lock_timeout = 5s
");

##########################################################################
# A random walk: the same statements as a plain transaction of one server
##########################################################################

my $seed = $ENV{DTX_SEED} || int rand 1_000_000;
note "seed $seed (DTX_SEED=$seed)";
srand $seed;
my @nodes = qw(a b);
$c->as_super("CREATE TABLE walk (id int PRIMARY KEY, v int CHECK (v >= 0)); INSERT INTO walk SELECT i, 100 FROM generate_series(1, 5) i;
	ALTER TABLE walk OWNER TO app", node => $_) foreach @nodes;
$c->as_super("CREATE TABLE walk_$_ (id int PRIMARY KEY, v int CHECK (v >= 0)); INSERT INTO walk_$_ SELECT i, 100 FROM generate_series(1, 5) i;
	ALTER TABLE walk_$_ OWNER TO app") foreach @nodes;

# A transaction both ways: over nodes, and here.
sub walk
{
	my (@over, @here);
	my $depth = 0;
	foreach my $step (1 .. 2 + int rand 8)
	{
		my $node = $nodes[ rand @nodes ];
		my ($id, $by) = (1 + int rand 5, int(rand 60) - 25);
		my $what = rand;
		if ($what < 0.6)
		{
			push @over, sprintf(q{SELECT dtx.%s('%s', 'UPDATE walk SET v = v + $1 WHERE id = $2', ARRAY['%d', '%d'])},
				rand() < 0.7 ? 'send' : 'exec', $node, $by, $id);
			push @here, "UPDATE walk_$node SET v = v + $by WHERE id = $id";
		}
		elsif ($what < 0.75)
		{
			$depth++;
			push @$_, "SAVEPOINT s$depth" foreach \@over, \@here;
		}
		elsif ($what < 0.9 && $depth > 0)
		{
			my $to = 1 + int rand $depth;
			push @$_, "ROLLBACK TO s$to" foreach \@over, \@here;
			$depth = $to;
		}
		elsif ($depth > 0)
		{
			my $to = 1 + int rand $depth;
			push @$_, "RELEASE s$to" foreach \@over, \@here;
			$depth = $to - 1;
		}
	}
	return (\@over, \@here);
}

# In a failed transaction both go on to the end; only what is there counts,
# when no savepoint has saved a part that the other one lost.
my ($committed, $failed, $different) = (0, 0, 0);
for my $round (1 .. 200)
{
	my ($over, $here) = walk();
	my (undef, undef, $here_err) = $c->app_psql("\\set ON_ERROR_STOP 0\nBEGIN;\n" . join(";\n", @$here) . ";\nROLLBACK;");
	# a refusal of dtx.send comes up later than it would here: then only "all or
	# nothing" is promised, so let only those through that nothing refuses
	if ($here_err) { $failed++; next if rand() < 0.5; }
	my (undef, undef, $err) = $c->app_psql("BEGIN;\n" . join(";\n", @$over) . ";\nCOMMIT;");
	if ($here_err)
	{
		$different++, diag join "\n", @$over if !$err;
		next;
	}
	$committed++ if !$err;
	diag "$err\n" . join "\n", @$over if $err;
	$c->app_psql("BEGIN;\n" . join(";\n", @$here) . ";\nCOMMIT;") if !$err;
}
ok($committed > 50, "$committed random transactions committed, $failed would be refused");
is($different, 0, 'what is refused here is refused there');
is($c->as_super('SELECT string_agg(id || \':\' || v, \' \' ORDER BY id) FROM walk', node => $_),
	$c->as_super("SELECT string_agg(id || ':' || v, ' ' ORDER BY id) FROM walk_$_"), "and $_ has what one server has")
  foreach @nodes;

##########################################################################
# Something dies while statements are outstanding
##########################################################################

# ends by being killed only
my $endless = q{SELECT dtx.send('b', 'UPDATE account SET balance = balance + 1 WHERE id = 1 AND pg_sleep(600) IS NOT NULL')};
my $session = $c->app_session;

# the node's session, while the statement runs
$c->start_query($session, "BEGIN; SELECT dtx.exec('a', 'UPDATE account SET balance = balance - 1 WHERE id = 1'); $endless; SELECT 'sent'");
my ($out) = $c->finish_query($session);
like($out, qr/sent/, 'dtx.send does not wait');
$c->wait_for('it to run', sub { $c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, node => 'b') > 0 });
$c->as_super(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'}, node => 'b');
$c->start_query($session, 'COMMIT');
my (undef, $err) = $c->finish_query($session);
like($err, qr/lost connection to node "b"|terminating connection/, 'its node goes: COMMIT says so');
is($c->balance('a') + $c->balance('b'), 2000, 'and nothing is there');

# the same, and the next use of the node says so
$c->start_query($session, "BEGIN; $endless; SELECT 'sent'");
$c->finish_query($session);
$c->wait_for('it to run', sub { $c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}, node => 'b') > 0 });
$c->as_super(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'}, node => 'b');
$c->start_query($session, "SELECT dtx.exec('b', 'SELECT 1'); ROLLBACK");
(undef, $err) = $c->finish_query($session);
like($err, qr/lost connection to node "b"|terminating connection/, 'or the next use of the node does');

# a refusal, and a savepoint from before it
$c->start_query($session, q{BEGIN; SAVEPOINT s;
	SELECT dtx.send('b', 'UPDATE account SET balance = balance - 100000 WHERE id = 1');
	SELECT dtx.exec('b', 'SELECT 1');
	ROLLBACK TO s;
	SELECT dtx.send('b', 'UPDATE account SET balance = balance + 5 WHERE id = 2');
	SELECT dtx.send('a', 'UPDATE account SET balance = balance - 5 WHERE id = 2');
	COMMIT});
(undef, $err) = $c->finish_query($session);
like($err, qr/account_balance_check/, 'a refusal comes up at the next use');
is($c->balance('b', 2) . ' ' . $c->balance('a', 2), '1005 995', 'and a savepoint from before it saves the rest');

# a node that hangs at COMMIT
$c->start_query($session, q{BEGIN; SET LOCAL dtx.prepare_timeout = '500ms';
	SELECT dtx.send('a', 'UPDATE account SET balance = balance - 1 WHERE id = 1'), dtx.send('b', 'UPDATE account SET balance = balance + 1 WHERE id = 1')});
$c->finish_query($session);
# (whatever uses a node waits for what was sent to it before, without a limit)
$c->wait_for('b to answer', sub { $c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'idle in transaction'}, node => 'b') == 1 });
$c->hang('b');
$c->start_query($session, q{SELECT dtx.send('b', 'SELECT 1'); COMMIT});
(undef, $err) = $c->finish_query($session);
$c->resume('b');
like($err, qr/ERROR/, 'a node that hangs: COMMIT gives up');
$c->wait_clean;
is($c->balance('a') + $c->balance('b'), 2000, 'and nothing is there');

# the coordinator dies
my $victim = $c->app_session;
$c->start_query($victim, "BEGIN; SELECT dtx.send('a', 'UPDATE account SET balance = balance - 1 WHERE id = 1'); $endless; SELECT 'sent'");
$c->finish_query($victim);
$c->kill9('c');
eval { $victim->quit };
eval { $session->quit };
$c->start('c');
ok($c->poll_until(sub { $c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'}, node => 'b') == 0 }),
	'the coordinator dies with statements outstanding: the node notices')
  or diag $c->as_super(q{SELECT pid, state, wait_event, xact_start, query FROM pg_stat_activity WHERE usename = 'app'}, node => 'b');
is($c->balance('a') + $c->balance('b'), 2000, 'nothing is there');
is(($c->transfer('a', 'b', 1))[2], '', 'and nothing is locked');

$c->check_invariants;
done_testing();
