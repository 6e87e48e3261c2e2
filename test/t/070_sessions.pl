# A hundred sessions at once.
use strict;
use warnings;
use DtxCluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $sessions = 100;
my $each = 4;
my $c = DtxCluster->setup(nodes => [qw(a b)], conf => 'max_connections = 300
max_prepared_transactions = 250');

my $dir = PostgreSQL::Test::Utils::tempdir('sessions');
my $sql = join '', map {
	my $n = $_;
	# one order of locks for all; every third one is undone
	$c->transfer_sql('a', 'b', $n % 2 ? 3 : -3, from_id => 1 + $n % 10, to_id => 1 + $n % 10, note => 'done',
		end => $n % 3 ? 'COMMIT' : 'ROLLBACK')
} 1 .. $each;
append_to_file("$dir/one.sql", "\\set ON_ERROR_STOP on\n$sql");

my $start = time();
my @pids;
$c->_as_app(undef, sub {
	my ($server) = @_;
	local @ENV{qw(PGHOST PGPORT PGDATABASE)} = ('127.0.0.1', $server->port, 'bank');
	foreach my $n (1 .. $sessions)
	{
		my $pid = fork();
		die "fork: $!" unless defined $pid;
		exec 'sh', '-c', "exec psql -XAtq -f $dir/one.sql >/dev/null 2>$dir/$n.err" if $pid == 0;
		push @pids, $pid;
	}
});
my $failed = 0;
foreach my $pid (@pids)
{
	waitpid $pid, 0;
	$failed++ if $? != 0;
}
note sprintf '%d sessions, %d transactions each, %.1f s', $sessions, $each, time() - $start;
is($failed, 0, "$sessions sessions at once, none of which fails")
  or diag join '', map { slurp_file($_) } (glob "$dir/*.err")[ 0 .. 9 ];
my $committed = $sessions * grep { $_ % 3 } 1 .. $each;
is($c->ledger_count('done'), $committed, 'what they committed is there, what they undid is not');
is($c->as_super('SELECT committed FROM dtx.stat'), $committed, 'dtx.stat has counted them');
$c->check_invariants(name => 'after all');
$c->wait_for('the connections to be closed', sub {
	$c->as_super(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'}, node => 'a') <= 1 });
pass('no connection is left but that of the scanner');
done_testing();
