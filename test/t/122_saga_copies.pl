# Sagas and what becomes of their coordinator: restarted, crashed, copied, and
# replaced by a standby; with what was committed and what was not.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use DtxSaga;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], extension_nodes => 1,
	conf => "dtx.scan_interval = 100ms\ndtx.max_backoff = 1s\ndtx.retry_interval = 100ms\ndtx.retry_max_interval = 1s",
	conf_c => "wal_level = replica\nmax_wal_senders = 10");
plan skip_all => 'no fault points' unless $c->has_faults;
saga_setup($c);
my $good = 'a take action, b give action, c note action';
sub effects_of { my ($gid) = @_; return join ', ', sort(saga_effects($c, $gid)); }

##########################################################################
# Restart, crash
##########################################################################

foreach my $mode (qw(fast immediate))
{
	saga_answer($c, 'b', 'give', 'action', ('unknown') x 1000);
	saga_submit($c, saga_transfer('a', 'b', 1), $mode);
	saga_await_attempt($c, $mode, 'give', 1);
	$c->stop('c', $mode);
	saga_answer($c, 'b', 'give', 'action');
	$c->start('c');
	is(saga_wait($c, $mode), 'committed', "$mode stop in the middle of a saga: it goes on by itself");
	is(effects_of($mode), $good, 'once');
}

# committed is committed, whatever synchronous_commit says
$c->as_super('ALTER SYSTEM SET synchronous_commit = off');
$c->as_super('ALTER SYSTEM SET wal_writer_delay = 10000');
$c->as_super('SELECT pg_reload_conf()');
foreach my $point (qw(flow_sent flow_recorded))
{
	foreach my $skip (0, 1)
	{
		my $gid = "durable $point $skip";
		$c->fault($point, 'crash_server', $skip);
		eval { saga_submit($c, saga_transfer('a', 'b', 1, refused => 1), $gid) };
		$c->wait_down('c');
		$c->start('c');
		is($c->as_super("SELECT count(*) FROM dtx.transactions WHERE gid = '$gid'"), 1, "$gid: what was sent was not forgotten");
		is(saga_wait($c, $gid), 'aborted', 'and is compensated');
	}
}
$c->as_super('ALTER SYSTEM RESET synchronous_commit');
$c->as_super('ALTER SYSTEM RESET wal_writer_delay');
$c->as_super('SELECT pg_reload_conf()');

##########################################################################
# A copy beside its original
##########################################################################

saga_answer($c, 'b', 'give', 'action', ('unknown') x 1000);
saga_submit($c, saga_transfer('a', 'b', 1), "copied $_") foreach 1 .. 3;
saga_await_attempt($c, "copied $_", 'give', 1) foreach 1 .. 3;
$c->stop('c', 'fast');
cold_copy($c, 'c', 'copy');
my @copy = (node => 'copy');
$c->start('copy');
$c->wait_for('it to find out', sub { scanner_activity($c, @copy) eq 'dtx: waits to be adopted' });
saga_answer($c, 'b', 'give', 'action');
is(scalar(flow_workers($c, @copy)), 0, 'in a copy nobody drives flows');
my (undef, undef, $err) = $c->app_psql(saga_submit_sql(saga_transfer('a', 'b', 1), 'new'), @copy);
like($err, qr/not adopted as a coordinator/, 'it accepts none');
(undef, undef, $err) = $c->app_psql(q{CALL dtx.saga_run('{"steps": [{"name": "x", "node": "a", "action": "SELECT 1"}]}', 'copied 1')}, @copy);
like($err, qr/not adopted as a coordinator/, 'and drives none for a session');
(undef, undef, $err) = $c->super_psql(q{CALL dtx.scan_once()}, @copy);
like($err, qr/not adopted as a coordinator/, 'nor for an operator');
is($c->as_super("SELECT dtx.retry_now('copied 1', 'why not')", @copy), '', 'who may still say something');
is(saga_state($c, "copied $_", @copy), 'running', 'nothing happens') foreach 1 .. 3;
is($c->as_super(q{SELECT count(*) FROM effect WHERE gid LIKE 'copied%'}, node => 'b'), 0, 'on no node');

# the original goes on beside it
$c->start('c');
is(saga_wait($c, 'copied 1'), 'committed', 'the original goes on');
is(effects_of('copied 1'), $good, 'once');
is(saga_wait($c, "copied $_"), 'committed', "saga $_") foreach 2, 3;

# ... and is lost: the copy takes over, and asks for what was done already
$c->stop('c', 'immediate');
$c->as_super("SELECT dtx.adopt('@{[ present_life($c, @copy) ]}', 'the original is gone')", @copy);
is(saga_wait($c, "copied $_", @copy), 'committed', "adopted, the copy goes on with saga $_") foreach 1 .. 3;
foreach my $gid (map { "copied $_" } 1 .. 3)
{
	my @effects = map { my $name = $_; map { "$name $_" } split /\n/, $c->as_super("SELECT step || ' ' || operation FROM effect WHERE gid = '$gid'", node => $name) } qw(a b);
	is(join(', ', @effects), 'a take action, b give action', 'and nothing was applied twice');
}
$c->stop('copy', 'fast');
$c->start('c');

##########################################################################
# A standby
##########################################################################

$c->server('c')->backup('base');
add_server($c, 'standby')->init_from_backup($c->server('c'), 'base', has_streaming => 1);
$c->server('standby')->append_conf('postgresql.conf', 'dtx.synchronous_failover = on');
$c->start('standby');
$c->as_super("ALTER SYSTEM SET synchronous_standby_names = 'standby'");
$c->as_super('SELECT pg_reload_conf()');
$c->wait_for('the synchronous standby', sub {
	$c->as_super(q{SELECT sync_state FROM pg_stat_replication WHERE application_name = 'standby'}) eq 'sync' });
saga_answer($c, 'b', 'give', 'action', ('unknown') x 1000);
my @standby = (node => 'standby');
saga_submit($c, saga_transfer('a', 'b', 1), 'failover good');
saga_submit($c, saga_transfer('a', 'b', 1), 'failover bad');
saga_await_attempt($c, $_, 'give', 1) foreach 'failover good', 'failover bad';
is(saga_state($c, 'failover good', @standby), 'running', 'a standby shows sagas');
is(scalar(flow_workers($c, @standby)), 0, 'and drives none');
(undef, undef, $err) = $c->super_psql(q{SELECT dtx.saga_compensate('failover bad', 'x')}, @standby);
like($err, qr/ERROR: .*(read-only|recovery|standby)/, 'nor does anybody act on them there');
$c->as_super(q{SELECT dtx.saga_compensate('failover bad', 'not wanted')});
$c->kill9('c');
saga_answer($c, 'b', 'give', 'action');
$c->server('standby')->promote;
is(saga_wait($c, 'failover good', @standby), 'committed', 'the promoted standby goes on');
is(saga_wait($c, 'failover bad', @standby), 'aborted', 'forward and backward');
my @effects = map { my $name = $_; map { "$name $_" } split /\n/, $c->as_super("SELECT gid || ' ' || step || ' ' || operation FROM effect
	WHERE gid LIKE 'failover%' ORDER BY 1", node => $name) } qw(a b);
is(join(', ', @effects), 'a failover bad take action, a failover bad take compensation, a failover good take action, b failover good give action',
	'and applies nothing twice');
is($c->total(qw(a b)), 20000, 'no money was lost or made');
done_testing();
