# Sagas under faults at every point of their way, on the coordinator and on a
# participant: one that succeeds and one that is compensated end as they should,
# and everything was applied once.
use strict;
use warnings;
use DtxCluster;
use DtxSaga;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], extension_nodes => 1, preload_nodes => 1,
	conf => "dtx.scan_interval = 100ms\ndtx.max_backoff = 1s\ndtx.retry_interval = 50ms\ndtx.branch_lock_timeout = 1s");
plan skip_all => 'no fault points' unless $c->has_faults;
saga_setup($c);

my %wanted = (
	good => { state => 'committed', effects => 'a take action, b give action, c note action' },
	bad  => { state => 'aborted', effects =>
		'a take action, a take compensation, b give action, b give compensation, c note action, c note compensation' });
my $number = 0;

# True if it was done; psql may find its server gone at any moment.
sub attempt
{
	my ($sql, %opt) = @_;
	my ($rc, $stdout, $stderr) = eval { $c->app_psql($sql, %opt) };
	return (defined $rc && $rc == 0, $stderr);
}

# One saga of each kind with a fault; submitted for the workers, or driven by a
# session.
sub try_fault
{
	my ($where, $point, $action, $skip, $how) = @_;
	foreach my $kind (qw(good bad))
	{
		my $gid = 'gid' . ++$number;
		my $name = "$kind, $how: $action at $point" . ($skip ? " after $skip" : '') . ($where eq 'c' ? '' : " of $where");
		my $definition = saga_transfer('a', 'b', 10, refused => $kind eq 'bad');
		my $err = '';
		$c->fault($point, $action, $skip, node => $where);
		if ($how eq 'submitted')
		{
			# the crash may come before the answer
			attempt(saga_submit_sql($definition, $gid));
		}
		else
		{
			(undef, $err) = attempt("CALL dtx.saga_run(\$x\$$definition\$x\$, '$gid')");
		}
		if ($action eq 'crash_server')
		{
			$c->wait_down($where);
			$c->start($where);
		}
		$c->wait_for("$where", sub { (attempt('SELECT 1', node => $where))[0] });
		# what was not submitted for the crash is submitted now
		$c->wait_for('the submission', sub { (attempt(saga_submit_sql($definition, $gid)))[0] });
		my $state = saga_wait($c, $gid);
		my $effects = join ', ', sort(saga_effects($c, $gid));
		my $ok = is("$state: $effects", "$wanted{$kind}{state}: $wanted{$kind}{effects}", $name);
		diag join "\n", $err, saga_told($c, $gid), $c->as_super("SELECT * FROM dtx.transactions WHERE gid = '$gid'") unless $ok;
		eval { $c->fault_reset(node => $where) };
	}
	return;
}

foreach my $point (qw(flow_claimed flow_before_send flow_sent flow_answered flow_before_record flow_recorded
	local_before_commit local_committed))
{
	foreach my $action (qw(error terminate crash crash_server))
	{
		# in the middle, and in the beginning
		foreach my $skip ($action =~ /crash/ || $point =~ /local|claimed/ ? 0 : (0, 2))
		{
			try_fault('c', $point, $action, $skip, 'submitted');
		}
		try_fault('c', $point, $action, 1, 'run') if $point ne 'flow_claimed' && $action ne 'crash_server';
	}
}
foreach my $point (qw(apply_begin apply_before_commit))
{
	foreach my $action (qw(error terminate crash crash_server))
	{
		try_fault('b', $point, $action, $_, 'submitted') foreach $action =~ /crash/ ? 0 : (0, 1);
	}
}
is($c->as_super(q{SELECT count(*) FROM dtx.stuck}), 0, 'nothing is stuck');
$c->check_invariants;
done_testing();
