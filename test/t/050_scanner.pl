# Scanners: one per database that has dtx, there when needed, and in nobody's way.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms
dtx.sweep_interval = 1s
dtx.max_backoff = 1s
log_connections = on
allow_in_place_tablespaces = on");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);
my @postgres = (db => 'postgres');

# As superuser in a database that is not the coordinator's; must be quick.
sub quick
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($rc, $stdout, $stderr) = $c->super_psql($sql, @postgres, timeout => 45);
	return is($stderr, '', $name || $sql);
}
sub scanners
{
	return $c->as_super(q{SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity
		WHERE backend_type = 'dtx scanner'}, @postgres);
}
sub nodes_prepared { local $c->{names} = $c->{nodes}; return $c->prepared_count; }

##########################################################################
# Started without anyone asking
##########################################################################

# a second coordinator in the same server
my $more = 'CREATE EXTENSION dtx CASCADE; CREATE TABLE ledger (note text, amount bigint); ALTER TABLE ledger OWNER TO app;'
  . join '', map { $c->node_sql($_) } qw(a b);
$c->as_super('CREATE DATABASE bank2 OWNER app', @postgres);
$c->as_super($more, db => 'bank2');
$c->as_super('CREATE DATABASE plain', @postgres);

my ($session, @branches) = open_in_doubt($c, 10, 2);
$c->fault('commit_begin', 'crash_server');
$c->transfer('a', 'b', 100, db => 'bank2');
$c->wait_down;
end_session($session);
is(nodes_prepared(), 4, 'branches of two databases are in doubt');
my $mark = $c->log_mark('c');
$c->start('c');
{
	local $c->{names} = $c->{nodes};
	ok($c->wait_clean(40), 'after a restart both databases end them');
}
unlike($c->log_since('c', $mark), qr/connection authorized: .*database=(bank|plain)/, 'without anyone connecting');
is($c->balance('a') . '/' . $c->balance('a', 2), '900/1000', 'as they were decided');
$c->wait_for('the scanners to settle', sub { scanners() eq 'bank bank2' });
pass('scanners run where dtx is, and nowhere else');
is($c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dtx launcher' AND datname IS NULL},
	@postgres), 1, 'the launcher is connected to no database');

my $pid = $c->as_super(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dtx scanner' AND datname = 'bank'}, @postgres);
$c->as_super("SELECT pg_terminate_backend($pid)", @postgres);
$c->wait_for('another scanner', sub { $c->as_super(qq{SELECT count(*) FROM pg_stat_activity
	WHERE backend_type = 'dtx scanner' AND datname = 'bank' AND pid <> $pid}, @postgres) == 1 });
is(state_lives($c), 'created, restart', 'a scanner that was terminated comes back, in the same life');

##########################################################################
# Commands that need a database for themselves
##########################################################################

quick('CREATE DATABASE fresh');
quick('CREATE DATABASE copy1 TEMPLATE bank');
quick('ALTER DATABASE bank2 RENAME TO bank3');
$c->wait_for('the scanner of the renamed database', sub { scanners() =~ /bank3/ });
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, db => 'bank3');
is($stderr, '', 'where transactions go on');
quick("CREATE TABLESPACE elsewhere LOCATION ''");
quick('ALTER DATABASE bank3 SET TABLESPACE elsewhere');
($rc, $stdout, $stderr) = $c->transfer('a', 'b', 1, db => 'bank3');
is($stderr, '', 'where they go on as well');

# while a worker is just connecting to a node that hangs
$c->hang('b');
$c->wait_for('the node to fail', sub { $c->as_super(q{SELECT state FROM dtx.nodes WHERE node = 'b'}) eq 'failing' });
quick('CREATE DATABASE copy2 TEMPLATE bank', 'CREATE DATABASE ... TEMPLATE while a node hangs');
quick('ALTER DATABASE bank3 RENAME TO bank2', 'ALTER DATABASE ... RENAME while a node hangs');
$c->resume('b');
quick('DROP DATABASE copy1');
quick('DROP DATABASE copy2');

##########################################################################
# DROP DATABASE
##########################################################################

$c->wait_for('the nodes to be clean', sub { ($c->super_psql('DROP DATABASE bank2', @postgres))[2] eq '' });
pass('DROP DATABASE with a scanner and nothing in doubt');
$c->as_super('CREATE DATABASE bank2 OWNER app', @postgres);
$c->as_super($more, db => 'bank2');
$c->fault('commit_begin', 'wait');
$session = $c->app_session(db => 'bank2');
$c->start_query($session, $c->transfer_sql('a', 'b', 100));
$c->wait_fault('commit_begin');
$c->stop('b', 'immediate');
$c->fault_reset;
($stdout, $stderr) = $c->finish_query($session);
like($stderr, qr/WARNING:  transaction is committed, but 1 of its branches has not confirmed it yet/,
	'one branch is left in the database made anew');
end_session($session);
($rc, $stdout, $stderr) = $c->super_psql('DROP DATABASE bank2', @postgres);
like($stderr, qr/ERROR:  database "bank2" may have unfinished branches on its nodes/, 'DROP DATABASE is refused');
like($stderr, qr/HINT: .*WITH \(FORCE\)/, 'with a hint');
quick('DROP DATABASE bank2 WITH (FORCE)');
$c->start('b');
is(scalar(@branches = $c->prepared), 1, 'then nobody ends its branch');
my ($gid) = $branches[0] =~ / (.*)/;
$c->as_super("COMMIT PREPARED '$gid'", node => 'b');

##########################################################################
# Templates
##########################################################################

$c->as_super('CREATE EXTENSION dtx CASCADE', db => 'template1');
$c->as_super($c->node_sql('a'), db => 'template1');
($rc, $stdout, $stderr) = $c->app_psql(q{SELECT dtx.exec('a', 'SELECT 1')}, db => 'template1');
like($stderr, qr/ERROR:  a template database cannot be a coordinator/, 'a template cannot be a coordinator');
quick('CREATE DATABASE child', 'CREATE DATABASE from a template1 that has dtx');
unlike(scanners(), qr/template1/, 'no scanner runs in a template');
($rc, $stdout, $stderr) = $c->app_psql(q{SELECT dtx.exec('a', 'SELECT 1')}, db => 'child');
is($stderr, '', 'what was made from it is a coordinator');
is(state_lives($c, db => 'child'), 'created', 'of its own');
$c->as_super('DROP EXTENSION dtx CASCADE', db => 'template1');

$c->as_super('ALTER DATABASE child IS_TEMPLATE true', @postgres);
$c->wait_for('the scanner to leave', sub { scanners() !~ /child/ });
pass('a database that becomes a template loses its scanner');
quick('CREATE DATABASE grandchild TEMPLATE child');
$c->as_super('ALTER DATABASE child IS_TEMPLATE false', @postgres);
($rc, $stdout, $stderr) = $c->app_psql(q{SELECT dtx.exec('a', 'SELECT 1')}, db => 'child');
is($stderr, '', 'and one that is none any more works again');

is($c->total(qw(a b)), 20000, 'no money was lost or made');
is(join("\n", $c->log_grep(qr/PANIC|TRAP:|terminated by signal (4|6|7|8|11)/)), '', 'no server has crashed by a bug');
done_testing();
