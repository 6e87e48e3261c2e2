# Limits of a transaction and of a role, and alerts for what does not end.
use strict;
use warnings;
use DtxCluster;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.stuck_after = 1s\ndtx.scan_interval = 300ms\n");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);

# --- branches of a transaction
my $two_branches = q{BEGIN; SELECT dtx.exec('a', 'SELECT 1'); SELECT dtx.exec('b', 'SELECT 1'); COMMIT};
$c->as_super('ALTER ROLE app SET dtx.max_branches = 1');
($rc, $stdout, $stderr) = $c->app_psql("\\set VERBOSITY verbose\n$two_branches");
like($stderr, qr/53400: too many branches in a global transaction/, 'one branch too many is refused');
$c->as_super('ALTER ROLE app RESET dtx.max_branches');
is(($c->app_psql($two_branches))[2], '', 'two are fine otherwise');
like(($c->app_psql('SET dtx.max_branches = 1000'))[2], qr/permission denied/, 'only a superuser sets the limit');

# --- open transactions of a role
$c->as_super('ALTER ROLE app SET dtx.max_transactions = 1');
my $first = $c->app_session;
$first->query(q{BEGIN; SELECT dtx.exec('a', 'SELECT 1')});
($rc, $stdout, $stderr) = $c->app_psql("\\set VERBOSITY verbose\nSELECT dtx.exec('a', 'SELECT 1')");
like($stderr, qr/53400: too many global transactions for role "app"/, 'a second one at the same time is refused');
is(($c->super_psql('SELECT dtx.current_gid() IS NOT NULL'))[1], 't', 'another role has its own');
$first->query('COMMIT');
is(($c->app_psql(q{SELECT dtx.exec('a', 'SELECT 1')}))[2], '', 'the next one is fine');
# one that dies gives its place back
$first->query(q{BEGIN; SELECT dtx.exec('a', 'SELECT 1')});
$c->as_super(q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
	WHERE usename = 'app' AND state = 'idle in transaction'});
is(($c->app_psql(q{SELECT dtx.exec('a', 'SELECT 1')}))[2], '', 'also when the session has died');
$c->as_super('ALTER ROLE app RESET dtx.max_transactions');

# --- alerts
sub alerts { return $c->as_super(q{SELECT string_agg(concat_ws(' ', node, branch, state, ended_at IS NOT NULL), ',' ORDER BY number) FROM dtx.alert}); }
is(alerts(), '', 'no alerts so far');
my $listener = $c->super_session;
$listener->query('LISTEN dtx_alert');
my $mark = $c->log_mark('c');
$c->fault('commit_begin', 'error');
$c->fault('scan_begin', 'wait');
$c->start_query($first = $c->app_session, $c->transfer_sql('a', 'b', 10));
$c->finish_query($first);
$c->kill9('b');
$c->fault_reset;
$c->wait_for('an alert', sub { alerts() ne '' });
is(alerts(), 'b 2 pending f', 'a branch that cannot be finished raises an alert');
like($c->log_since('c', $mark), qr/alert: branch 2 of "dtx_\w+" on node "b": the node is not reached since/, 'and a message');
like($c->as_super(q{SELECT call FROM dtx.alert}), qr/CALL dtx\.recover\(\)/, 'it says what to call');
like($listener->query('SELECT 1'), qr/Asynchronous notification "dtx_alert" with payload "1"/, 'whoever listens is told');
my $passes = $c->as_super('SELECT passes FROM dtx.stat');
$c->wait_for('more passes', sub { $c->as_super('SELECT passes FROM dtx.stat') > $passes + 3 });
is(alerts(), 'b 2 pending f', 'it is raised once');
$c->start('b');
$c->wait_for('its end', sub { alerts() eq 'b 2 pending t' });
pass('and is over when the branch is');
is($c->as_app('SELECT has_table_privilege(\'dtx.alert\', \'SELECT\')'), 'f', 'not everybody may read alerts');
ok($c->wait_clean, 'all is clean');
$_->quit foreach $listener, $first;
$c->check_invariants;
done_testing();
