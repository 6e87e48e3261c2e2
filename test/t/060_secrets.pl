# An ordinary role works end to end over passwords that the nodes ask for, and
# what is secret stays so: in logs, views and messages, whatever fails.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use PostgreSQL::Test::Utils;
use Test::More;

# everything that dtx causes would be logged, were it said
my $c = DtxCluster->setup(nodes => [qw(a b)], conf => "log_min_messages = debug1
log_min_error_statement = error
log_error_verbosity = verbose
log_connections = on", conf_c => "dtx.scan_interval = 100ms
dtx.sweep_interval = 1s
dtx.max_backoff = 1s
dtx.stuck_after = 0
log_statement = none");
plan skip_all => 'no fault points' unless $c->has_faults;
my ($rc, $stdout, $stderr);
my $secret = 'gR4n!te-0815';
my $seen = '';    # every message and every row that anybody got

sub app { my ($sql, %opt) = @_; ($rc, $stdout, $stderr) = $c->app_psql($sql, %opt); $seen .= $stdout . $stderr; return $stderr; }
sub super { my ($sql, %opt) = @_; ($rc, $stdout, $stderr) = $c->super_psql($sql, %opt); $seen .= $stdout . $stderr; return $stderr; }

# the fixture's own statements are not what is tested
my %start = map { $_ => $c->log_mark($_) } qw(c a b);
$c->as_super("SET log_min_messages = panic; SET log_min_error_statement = panic; SET log_min_duration_statement = -1;
	ALTER ROLE app PASSWORD '$secret'", node => $_) foreach qw(a b);
$c->as_super("SET log_min_messages = panic; SET log_min_error_statement = panic;
	ALTER USER MAPPING FOR app SERVER $_ OPTIONS (SET password '$secret')") foreach qw(a b);

##########################################################################
# What an ordinary role may do
##########################################################################

is($c->as_app('SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication FROM pg_roles WHERE rolname = current_user'),
	'f', 'the role has no right of its own');
is($c->as_app(q{SELECT count(*) FROM pg_auth_members WHERE member = 'app'::regrole}), 0, 'and is member of none');
is(app($c->transfer_sql('a', 'b', 100)), '', 'it transfers over two nodes');
is($c->balance('a') . '/' . $c->balance('b'), '900/1100', 'whose money moves');
like(join("\n", $c->log_grep(qr/connection authenticated: identity="app" method=scram-sha-256/, 'a')), qr/./,
	'with the password that the node asked for');

# (test/sql/rights.sql has it all)
# rules are no secret
foreach my $table (split /\n/, $c->as_super(q{SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'dtx'::regnamespace
	AND relname <> 'error_rule'}))
{
	like(app("SELECT * FROM dtx.$table"), qr/permission denied for table $table/, "dtx.$table cannot be read");
}
foreach my $call ('CALL dtx.recover()', q{SELECT dtx.resolve('dtx_0123456789abcdef_1_0123456789abcdef', 1, 'committed', 'why')},
	q{SELECT dtx.adopt('0123456789abcdef', 'why')})
{
	like(app($call), qr/permission denied for (function|procedure)/, "revoked: $call");
}
foreach my $setting (qw(dtx.synchronous_failover dtx.scan_interval dtx.stuck_after dtx.max_nodes))
{
	like(app("SET $setting = 1"), qr/permission denied to set parameter|cannot be changed/, "cannot be set: $setting");
}
is(app("SELECT * FROM dtx.$_"), '', "dtx.$_ can be read") foreach qw(nodes stuck transactions branches stat);
is(app('SELECT * FROM dtx.check_setup()'), '', 'so can dtx.check_setup()');
is(app("SELECT * FROM dtx.check_node('a')"), '', 'and dtx.check_node()');

##########################################################################
# Each way in which opening a connection fails
##########################################################################

my ($pa, $pb) = map { $c->server($_)->port } qw(a b);
my $hba = $c->server('b')->data_dir . '/pg_hba.conf';
my $hba_text = slurp_file($hba);
sub set_hba
{
	my ($text) = @_;
	open my $file, '>', $hba or die $!;
	print $file $text;
	close $file;
	$c->server('b')->reload;
	return;
}
sub option { my ($sql) = @_; $c->as_super("SET log_min_messages = panic; ALTER SERVER b OPTIONS ($sql)"); return; }
my $free = PostgreSQL::Test::Cluster::get_free_port();
my @failure = (
	[ 'nobody listens', sub { option("SET port '$free'") }, sub { option("SET port '$pb'") }, qr/could not connect to node "b"/ ],
	[ 'no such host', sub { option("SET host 'no-such-host.invalid'") }, sub { option("SET host '127.0.0.1'") }, qr/could not connect to node "b"/ ],
	[ 'no such database', sub { option("SET dbname 'nowhere'") }, sub { option("SET dbname 'bank'") }, qr/could not connect to node "b"/ ],
	[ 'another password', sub { $c->as_super("SET log_min_messages = panic; ALTER ROLE app PASSWORD 'other'", node => 'b') },
		sub { $c->as_super("SET log_min_messages = panic; ALTER ROLE app PASSWORD '$secret'", node => 'b') }, qr/could not connect to node "b".*password authentication failed/s ],
	[ 'no entry in pg_hba.conf', sub { set_hba("local all all trust\n") }, sub { set_hba($hba_text) }, qr/could not connect to node "b"/ ],
	[ 'trust', sub { set_hba("local all all trust\nhost all all 127.0.0.1/32 trust\n") }, sub { set_hba($hba_text) },
		qr/could not connect to node "b"/ ],
	[ 'hangs', sub { $c->hang('b') }, sub { $c->resume('b') }, qr/could not connect to node "b"/ ]);
foreach my $failure (@failure)
{
	my ($name, $break, $repair, $expected) = @$failure;
	$break->();
	# in a transaction, by itself, and by the functions that look
	like(app($c->transfer_sql('a', 'b', 1)), $expected, "$name: dtx.exec fails");
	my $told = $stderr;
	if ($name ne 'hangs')    # which takes its time
	{
		app("SELECT * FROM dtx.check_node('b')");
		$told .= $stdout . $stderr;
		like($stdout, qr/^error\|could not connect to node "b"/m, "$name: dtx.check_node() tells");
	}
	$c->wait_for('the scanner to fail', sub { $c->as_super(q{SELECT state FROM dtx.nodes WHERE node = 'b'}) eq 'failing' });
	app('SELECT * FROM dtx.nodes; SELECT * FROM dtx.stuck');
	$told .= $stdout . $stderr;
	# that is the address of the one who asks
	$told =~ s/no pg_hba\.conf entry for host "127\.0\.0\.1"//g;
	unlike($told, qr/127\.0\.0\.1|no-such-host|$pb|$free|\bport\b|host "/, "$name: nobody is told where it is");
	$repair->();
	$c->wait_for('the node to be reachable', sub { $c->as_super(q{SELECT state FROM dtx.nodes WHERE node = 'b'}) eq 'reachable' });
}

##########################################################################
# Connections that are lost, and branches left to the scanner
##########################################################################

foreach my $point ('prepare_sent', 'commit_begin')
{
	$c->fault($point, 'wait');
	my $session = $c->app_session;
	$c->start_query($session, $c->transfer_sql('a', 'b', 1));
	$c->wait_fault($point);
	$c->stop('b', 'immediate');
	$c->fault_reset;
	my ($out, $err) = $c->finish_query($session);
	$seen .= $out . $err;
	like($err, qr/node "b"/, "node killed at $point: the message names it");
	unlike($err, qr/127\.0\.0\.1|$pb/, 'and not its address');
	end_session($session);
	app("SELECT * FROM dtx.$_") foreach qw(nodes stuck transactions branches stat);
	super("SELECT * FROM dtx.$_") foreach qw(nodes stuck transactions branches stat event life node decision branch);
	$c->start('b');
	ok($c->wait_clean(40), 'it is ended all the same');
}
app(q{SELECT dtx.exec('a', 'SELEC'); SELECT dtx.exec('nowhere', 'SELECT 1'); SELECT dtx.exec('a', 'SELECT 1/0')});
super('SELECT name, setting FROM pg_settings; SELECT query FROM pg_stat_activity; SELECT * FROM pg_stat_activity', node => $_)
  foreach qw(c a b);
super('SELECT * FROM pg_prepared_xacts', node => $_) foreach qw(a b);

##########################################################################
# The search
##########################################################################

my $planted = qr/\Q$secret\E|\Q$DtxCluster::password\E/;
unlike($seen, $planted, 'no message and no view shows a password');
foreach my $name (qw(c a b))
{
	my @lines = grep { /$planted/ } split /\n/, $c->log_since($name, $start{$name});
	is(join("\n", @lines), '', "nor does the log of $name");
}
like($c->log_since('c', $start{c}), qr/dtx: node "b" cannot be scanned/, 'though the log tells of failures');
is(join("\n", grep { /LOG: .*dtx: / && /127\.0\.0\.1|no-such-host/ && !/no pg_hba\.conf entry/ }
		split /\n/, $c->log_since('c', $start{c})), '', 'without addresses');
is($c->total, 30000, 'no money was lost or made');
done_testing();
