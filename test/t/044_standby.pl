# A streaming standby of the coordinator: refuses to work while it is one, and
# once promoted is held until adopted, unless failover is said to be synchronous.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "wal_level = replica
max_wal_senders = 10
dtx.scan_interval = 100ms");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);

# "late" will miss something, "synced" will not
$c->server('c')->backup('base');
foreach my $name (qw(late synced))
{
	add_server($c, $name)->init_from_backup($c->server('c'), 'base', has_streaming => 1);
	$c->start($name);
}
$c->as_app(q{BEGIN; SELECT dtx.current_gid() AS g \gset
	SELECT dtx.exec('a', 'UPDATE account SET balance = balance - 1 WHERE id = 3'),
		dtx.exec('b', 'UPDATE account SET balance = balance + 1 WHERE id = 3');
	INSERT INTO ledger (note) VALUES (:'g');
	COMMIT});
my $asked = $c->as_super('SELECT note FROM ledger');
$c->server('c')->wait_for_catchup($c->server($_)) foreach qw(late synced);

##########################################################################
# While it is a standby
##########################################################################

my @late = (node => 'late');
my @synced = (node => 'synced');
($rc, $stdout, $stderr) = $c->app_psql(q{SELECT dtx.exec('a', 'SELECT 1')}, @late);
like($stderr, qr/ERROR:  dtx cannot be used on a standby\nHINT:  Connect to the primary/, 'dtx.exec is refused');
($rc, $stdout, $stderr) = $c->app_psql('SELECT dtx.current_gid()', @late);
like($stderr, qr/ERROR:  dtx cannot be used on a standby/, 'dtx.current_gid is refused');
($rc, $stdout, $stderr) = $c->super_psql('CALL dtx.recover()', @late);
like($stderr, qr/ERROR:  cannot execute dtx\.recover\(\) (in a read-only transaction|during recovery)/, 'dtx.recover is refused');
($rc, $stdout, $stderr) = $c->super_psql(q{SELECT dtx.adopt('0123456789abcdef', 'why')}, @late);
like($stderr, qr/ERROR: .*(read-only|recovery|standby)/, 'dtx.adopt is refused');
($rc, $stdout, $stderr) = $c->super_psql(q{SELECT dtx.resolve('dtx_0123456789abcdef_1_0123456789abcdef', 1, 'aborted', 'why')}, @late);
like($stderr, qr/ERROR: .*(read-only|recovery|standby)/, 'dtx.resolve is refused');
is($c->as_super('SELECT problem FROM dtx.check_setup() LIMIT 1', @late),
	'this server is a standby: dtx works on the primary only', 'dtx.check_setup() says why');
is($c->as_super("SELECT dtx.outcome('$asked')", @late), 'committed', 'it knows an outcome that has reached it');
is($c->as_super(q{SELECT dtx.outcome('dtx_0123456789abcdef_1_0123456789abcdef')}, @late), 'unknown', 'and no other');
foreach my $view (qw(nodes stuck transactions branches stat))
{
	($rc, $stdout, $stderr) = $c->super_psql("SELECT count(*) FROM dtx.$view", @late);
	is($rc, 0, "dtx.$view can be read") or diag $stderr;
}
is($c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^dtx'}, @late), 0,
	'no worker of dtx runs');

##########################################################################
# The primary is lost: "synced" has the decision, "late" has not
##########################################################################

$c->stop('late', 'fast');
$c->as_super("ALTER SYSTEM SET synchronous_standby_names = 'synced'", db => 'postgres');
$c->server('c')->reload;
$c->wait_for('the synchronous standby', sub {
	$c->as_super(q{SELECT sync_state FROM pg_stat_replication WHERE application_name = 'synced'}) eq 'sync' });
# an xid that has committed since the last checkpoint, and reached the standby
my $committed = sprintf 'dtx_%s_%x_0123456789abcdef', present_life($c), $c->as_super('SELECT pg_current_xact_id()');
my %doubt = leave_in_doubt($c);
$c->{names} = $c->{nodes};    # the primary stays away
$c->server('late')->append_conf('postgresql.conf', "log_connections = on");
my %mark = map { $_ => -s $c->server($_)->logfile } qw(a b);

$c->start('late');
$c->server('late')->promote;
$c->wait_for('it to find out', sub { scanner_activity($c, @late) eq 'dtx: waits to be adopted' });
is(state_lives($c, @late), 'created, promotion', 'a promotion is found out');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, @late);
like($stderr, qr/not adopted as a coordinator/, 'the promoted standby begins no transaction');
like($c->as_super('SELECT call FROM dtx.stuck', @late),
	qr/^SELECT dtx\.adopt\('@{[ present_life($c, @late) ]}', 'why'\)$/, 'dtx.stuck shows the call');
$c->stop('late', 'fast');

# a standby of what was not adopted is not adopted either, whatever is set
$c->server('late')->append_conf('postgresql.conf', "primary_conninfo = ''\ndtx.synchronous_failover = on");
$c->server('late')->set_standby_mode;
$c->start('late');
$c->server('late')->promote;
wait_life($c, @late);
is(state_lives($c, @late), 'created, promotion, promotion', 'promoted once more');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, @late);
like($stderr, qr/not adopted as a coordinator/, 'synchronous failover adopts nobody whose primary was not adopted');
is($c->prepared_count, 4, 'all branches are left');

$c->as_super("SELECT dtx.adopt('@{[ present_life($c, @late) ]}', 'failover')", @late);
$c->wait_for('branches to be held', sub {
	$c->as_super(q{SELECT count(*) FROM dtx.branches WHERE state = 'held'}, @late) == 4 });
is($c->as_super('CALL dtx.recover()', @late), '0|0|4',
	'adopted, it holds all of them: the decision is missing here, and nobody is rolled back for that');
is($c->prepared_count, 4, 'all branches are left');
my ($gid) = $doubt{decided}[0] =~ /(dtx_.*)_\d+$/;
is($c->as_super("SELECT dtx.outcome('$gid')", @late), 'unknown', 'it does not know the outcome of the lost decision');

##########################################################################
# Synchronous failover
##########################################################################

$c->server('synced')->append_conf('postgresql.conf', 'dtx.synchronous_failover = on');
$c->server('synced')->reload;
$c->server('synced')->promote;
ok($c->wait_clean, 'a synchronous standby, said to be one, ends all branches at its promotion');
is(state_lives($c, @synced), 'created, promotion', 'by itself');
is(join(' ', map { $c->balance('a', $_) . '/' . $c->balance('b', $_) } 1, 2), '900/1100 1000/1000',
	'what was decided is committed, the rest rolled back');
is($c->as_super("SELECT dtx.outcome('$asked')", @synced), 'committed', 'it knows older outcomes');
is($c->as_super("SELECT dtx.outcome('$committed')", @synced), 'unknown',
	'what has committed, and has no row, is not taken for aborted');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, @synced);
is($stderr, '', 'and goes on');
$c->wait_for('the other one to see that they are gone', sub {
	$c->as_super(q{SELECT count(*) FROM dtx.stuck}, @late) == 0 });
is($c->total(qw(a b)), 20000, 'no money was lost or made');
is(join("\n", $c->log_grep(qr/PANIC|TRAP:|terminated by signal (4|6|7|8|11)/, qw(c late synced a b))), '',
	'no server has crashed by a bug');

done_testing();
