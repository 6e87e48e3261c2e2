# Servers that are not set up as they should be: what still works, what is
# refused, and whether anyone is told what to do.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms
dtx.sweep_interval = 1s
dtx.max_backoff = 1s");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);
sub findings { return $c->as_super('SELECT severity, problem, hint FROM dtx.check_setup()', @_); }

($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1);
is($stderr, '', 'a transfer');
is(findings(), 'warning|fsync is off: a crash may lose decisions that nodes already follow|Set fsync to on.',
	'a finding about this very test, and no other');

##########################################################################
# Not preloaded
##########################################################################

my @bare = (node => 'a', db => 'bare');
$c->as_super('CREATE DATABASE bare', node => 'a');
is($c->as_super('SET client_min_messages = error; CREATE EXTENSION dtx CASCADE', @bare), '', 'the extension can be created without the library');
like(findings(@bare), qr/^error\|dtx was not loaded when the server started\|Add dtx to shared_preload_libraries in postgresql\.conf and restart the server\.$/,
	'dtx.check_setup() says what is missing');
foreach my $view (qw(nodes stuck transactions branches stat))
{
	($rc, $stdout, $stderr) = $c->super_psql("SELECT * FROM dtx.$view", @bare);
	is($rc, 0, "dtx.$view can be read") or diag $stderr;
}
$c->as_super("CREATE SERVER n FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host '127.0.0.1'); CREATE USER MAPPING FOR PUBLIC SERVER n", @bare);
my $gid = 'dtx_0123456789abcdef_1_0123456789abcdef';
foreach my $call ("SELECT dtx.exec('n', 'SELECT 1')", "SELECT * FROM dtx.query('n', 'SELECT 1') AS t(i int)",
	'SELECT dtx.current_gid()', "SELECT dtx.outcome('$gid')", 'CALL dtx.recover()', "SELECT dtx.check_node('n')",
	"SELECT dtx.resolve('$gid', 1, 'committed', 'why')", "SELECT dtx.adopt('0123456789abcdef', 'why')")
{
	($rc, $stdout, $stderr) = $c->super_psql($call, @bare);
	like($stderr, qr/ERROR:  dtx must be loaded when the server starts\nHINT:  Add dtx to shared_preload_libraries in postgresql\.conf and restart the server\./,
		"$call says what to do");
}
is($c->as_super('DROP SERVER n CASCADE; DROP EXTENSION dtx', @bare), '', 'and it can be dropped');

##########################################################################
# Another version
##########################################################################

my ($session, @branches) = open_in_doubt($c, 10, 2);
my $version = $c->as_super(q{SELECT extversion FROM pg_extension WHERE extname = 'dtx'});
$c->as_super(q{UPDATE pg_extension SET extversion = '9.9.9' WHERE extname = 'dtx'});
$c->wait_for('the scanner to notice', sub { $c->log_text('c') =~ /LOG:  dtx: SQL objects of database \d+ have version 9\.9\.9, the library has \Q$version\E/ });
pass('a version that does not fit is logged');
$c->wait_for('the scanner to leave', sub { scanner_activity($c) eq '' });
($rc, $stdout, $stderr) = $c->app_psql(q{SELECT dtx.exec('a', 'SELECT 1')});
like($stderr, qr/ERROR:  library and SQL objects of dtx have different versions.*HINT:  ALTER EXTENSION dtx UPDATE/s, 'dtx.exec says what to do');
like(findings(), qr/^error\|library and SQL objects of dtx have different versions\|ALTER EXTENSION dtx UPDATE/m, 'so does dtx.check_setup()');
($rc, $stdout, $stderr) = $c->super_psql('SELECT count(*) FROM dtx.stuck');
is($rc, 0, 'dtx.stuck can be read') or diag $stderr;
$c->as_super("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'");
end_session($session);
my $logged = () = $c->log_text('c') =~ /have version 9\.9\.9/g;
cmp_ok($logged, '<', 10, 'the log is not flooded');
$c->as_super(qq{UPDATE pg_extension SET extversion = '$version' WHERE extname = 'dtx'});
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1);
is($stderr, '', 'with the right version it works again');
ok($c->wait_clean(40), 'and nothing is left');

##########################################################################
# No room
##########################################################################

# one for the launcher, one for logical replication's
sub restart_with
{
	my ($sql) = @_;
	$c->as_super("ALTER SYSTEM SET $_", db => 'postgres') foreach split /; /, $sql;
	$c->stop('c', 'fast');
	$c->start('c');
	return;
}
restart_with('max_worker_processes = 2');
like(findings(), qr/^error\|the scanner of this database does not start: nothing would be recovered\|Raise max_worker_processes/m,
	'without room for a scanner dtx.check_setup() says so');
like(findings(), qr/^warning\|max_worker_processes is 2: /m, 'and warns of the setting');
($rc, $stdout, $stderr) = $c->app_psql(q{SET statement_timeout = '500ms'; SELECT dtx.exec('a', 'SELECT 1')});
like($stderr, qr/ERROR:  canceling statement due to statement timeout/, 'who waits for it can be cancelled');
ok($c->poll_until(sub { $c->log_text('c') =~ /LOG:  dtx: no room for a scanner/ }), 'the log says so');

# a scanner, but no worker for a failing node
restart_with('max_worker_processes = 3');
$c->fault('commit_begin', 'wait');
$session = $c->app_session;
$c->start_query($session, $c->transfer_sql('a', 'b', 100));
$c->wait_fault('commit_begin');
$c->stop('b', 'immediate');
$c->fault_reset;
$c->finish_query($session);
end_session($session);
$c->wait_for('the node to fail', sub { $c->as_super(q{SELECT state FROM dtx.nodes WHERE node = 'b'}) eq 'failing' });
$c->start('b');
ok($c->wait_clean(40), 'without room for another worker the scanner tries failing nodes itself');

$c->as_super('CREATE DATABASE second OWNER app', db => 'postgres');
$c->as_super('SET client_min_messages = error; CREATE EXTENSION dtx CASCADE;' . $c->node_sql('a'), db => 'second');
restart_with('max_worker_processes = 8; dtx.max_databases = 1');
wait_life($c);
like(findings(db => 'second'), qr/^error\|too many databases use dtx\|Raise dtx\.max_databases and restart the server\.$/m,
	'too many databases: dtx.check_setup() says so');
($rc, $stdout, $stderr) = $c->app_psql(q{SELECT dtx.exec('a', 'SELECT 1')}, db => 'second');
like($stderr, qr/ERROR:  too many databases use dtx\nHINT:  Raise dtx\.max_databases/, 'and so does dtx.exec');
restart_with('dtx.max_databases = 64; dtx.max_nodes = 1');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1);
like($stderr, qr/ERROR:  too many nodes\nHINT:  Raise dtx\.max_nodes/, 'too many nodes: dtx.exec says so');
like(findings(), qr{^error\|.*nodes.*dtx\.max_nodes}m, 'and so does dtx.check_setup(), for the other ones are not scanned');
restart_with('dtx.max_nodes = 512');

$c->check_invariants(name => 'in the end');
done_testing();
