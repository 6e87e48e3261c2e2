# TCC when the coordinator is not sure of its past, when a participant has lost
# its, and when the network loses answers.
use strict;
use warnings;
use DtxCluster qw(netns);
use Test::More;
use Time::HiRes qw(sleep);

my $c = DtxCluster->setup(nodes => ['a'], extension_nodes => 1,
	conf => "dtx.scan_interval = '200ms'\ndtx.sweep_interval = '1s'\ndtx.retry_interval = '100ms'\n");
$c->as_app('ALTER TABLE account ADD frozen bigint NOT NULL DEFAULT 0', node => 'a');
$c->as_app(q{CREATE FUNCTION reserve(id int, gid text DEFAULT NULL) RETURNS jsonb LANGUAGE sql AS $$
	SELECT dtx.tcc_try('a',
		'UPDATE account SET balance = balance - 1, frozen = frozen + 1 WHERE id = $1 RETURNING frozen',
		'UPDATE account SET frozen = frozen - 1 WHERE id = $1',
		'UPDATE account SET balance = balance + 1, frozen = frozen - 1 WHERE id = $1', jsonb_build_array(id), gid) $$});
sub accounts { return $c->as_super(q{SELECT string_agg(balance || '+' || frozen, ' ' ORDER BY id) FROM account WHERE id <= 3}, node => 'a'); }
sub becomes
{
	my ($wanted, $name) = @_;
	$c->poll_until(sub { accounts() eq $wanted }, 60);
	return is(accounts(), $wanted, $name);
}

##########################################################################
# A participant that has lost what it was told
##########################################################################

my $gid = $c->as_app('BEGIN; SELECT dtx.current_gid(); SELECT reserve(1); COMMIT');
$gid =~ s/\n.*//s;
is($c->as_app("SELECT dtx.wait('$gid', '60s')"), 'committed', 'a TCC transaction');
is(accounts(), '999+0 1000+0 1000+0', 'is confirmed');
$c->as_super(q{UPDATE dtx.barrier SET state = 'tried' WHERE state = 'confirmed'; UPDATE account SET frozen = 1 WHERE id = 1}, node => 'a');
becomes('999+0 1000+0 1000+0', 'the confirm is lost there, and given again');
is($c->as_super("SELECT event FROM dtx.event WHERE gid = '$gid'"), 'confirmed again', 'and that is written down');
$c->as_app(q{SELECT dtx.tcc_begin('x'); SELECT reserve(2, 'x'); SELECT dtx.tcc_cancel('x')});
is($c->as_app("SELECT dtx.wait('x', '60s')"), 'aborted', 'another one');
$c->as_super(q{UPDATE dtx.barrier SET state = 'tried' WHERE state = 'cancelled'; UPDATE account SET balance = 999, frozen = 1 WHERE id = 2}, node => 'a');
becomes('999+0 1000+0 1000+0', 'the same with a cancel');
# a try that is lost there cannot be confirmed
$c->as_app(q{SELECT dtx.tcc_begin('y'); SELECT reserve(2, 'y')});
$c->as_super(q{DELETE FROM dtx.barrier WHERE state = 'tried'; UPDATE account SET balance = 1000, frozen = 0 WHERE id = 2}, node => 'a');
$c->as_app(q{SELECT dtx.tcc_confirm('y')});
is($c->as_app("SELECT dtx.wait('y', '60s')"), 'held', 'a try that is lost there waits for a person');
like($c->as_super(q{SELECT reason FROM dtx.transactions WHERE gid = 'y'}), qr/TCC branch was never tried here/, 'who is told why');
$c->as_super(q{SELECT dtx.force_end('y', 'aborted', 'test')});

##########################################################################
# Lost answers
##########################################################################

SKIP:
{
	skip 'no fault points', 1 unless $c->has_faults;
	# the try is applied, and its answer gets lost
	my $session = $c->app_session;
	$session->query_safe('BEGIN; SELECT reserve(3); SAVEPOINT s');
	$c->as_app('BEGIN; UPDATE account SET owner = owner WHERE id = 2; SELECT pg_sleep(0); COMMIT', node => 'a');
	my $blocker = $c->app_session(node => 'a');
	$blocker->query_safe('BEGIN; UPDATE account SET owner = owner WHERE id = 2');
	$c->start_query($session, 'SELECT reserve(2)');
	$c->wait_for('the try to wait', sub {
		$c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'}, node => 'a') == 1 });
	$c->cut('a', 'sport');
	$c->super_psql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'}, node => 'a');
	$c->wait_for('the try to be applied', sub {
		$c->as_super(q{SELECT count(*) FROM dtx.barrier WHERE state = 'tried'}, node => 'a') == 2 });
	my (undef, $stderr) = $c->finish_query($session);
	like($stderr, qr/lost connection to node "a"/, 'the caller is told that the connection is lost');
	is($session->query_safe('ROLLBACK TO s; SELECT 1'), 1, 'only the subtransaction has failed');
	$c->heal;
	$session->query('COMMIT');
	$session->quit;
	eval { $blocker->quit };
	becomes('999+0 1000+0 999+0', 'the one is cancelled, the other confirmed');
}

##########################################################################
# Lives
##########################################################################

my @sessions = map { $c->app_session } 1 .. 2;
$sessions[$_]->query_safe('BEGIN; SELECT reserve(' . ($_ + 1) . ')') foreach 0, 1;
my $before = accounts();
is($before, '998+1 999+1 999+0', 'two are tried');
$c->hang('c');    # none of them sees another one die
$c->kill9('c');
eval { $_->quit } foreach @sessions;
# what a copy of its files looks like
my $file = $c->server('c')->data_dir . '/PG_VERSION';
system('cp', $file, "$file.copy") == 0 && rename "$file.copy", $file or die "$file: $!";
$c->start('c');
$c->wait_for('the life to begin', sub {
	($c->super_psql(q{SELECT count(*) FROM dtx.stuck WHERE call LIKE '%dtx.adopt%'}))[1] eq '1' });
sleep 2.5;
is(accounts(), $before, 'a copy cancels nothing');
$c->as_super($c->as_super(q{SELECT call FROM dtx.stuck WHERE call LIKE '%dtx.adopt%'}));
$c->wait_for('tries to be held', sub { $c->as_super(q{SELECT count(*) FROM dtx.stuck WHERE reason LIKE 'a try of TCC%'}) == 2 });
is(accounts(), $before, 'nor does an adopted one: the original may have committed');
$c->as_super(q{CREATE TABLE call AS SELECT gid, branch FROM dtx.stuck WHERE reason LIKE 'a try of TCC%' ORDER BY gid LIMIT 1});
$c->as_super(q{SELECT dtx.resolve(gid, branch, 'committed', 'test') FROM call});
$c->wait_for('one of them to end', sub { $c->as_super(q{SELECT count(*) FROM dtx.stuck WHERE reason LIKE 'a try of TCC%'}) == 1 });
like(accounts(), qr/^(998\+0 999\+1|998\+1 999\+0) 999\+0$/, 'an operator has it confirmed');
$c->as_super(q{SELECT dtx.adopt(dtx.life_text(parent), 'test') FROM dtx.life ORDER BY number DESC LIMIT 1});
$c->wait_for('the other to end', sub { $c->as_super('SELECT count(*) FROM dtx.stuck') == 0 });
like(accounts(), qr/^(998\+0 1000\+0|999\+0 999\+0) 999\+0$/, 'or says that nothing is missing, and it is cancelled');
is($c->as_super('SELECT count(*) FROM dtx.branch'), 0, 'nothing is left of them');

$c->check_invariants(total => 20_000 - 3);
done_testing;
