# Sagas for tests: what their steps call, and what came of it.
#
#     use DtxCluster;
#     use DtxSaga;
#     my $c = DtxCluster->setup(nodes => [qw(a b)], extension_nodes => 1);
#     saga_setup($c);
#     saga_answer($c, 'b', 'give', 'action', qw(unknown refused));
#     saga_submit($c, saga_transfer('a', 'b', 100), 'gid');
#     is(saga_wait($c, 'gid'), 'aborted', '...');
#     is(join("\n", saga_effects($c, 'gid')), '...', '...');
#
# Steps call sample(account, amount), which is in test/sql/common/sample.psql: it
# moves money, or answers as the test has said, and writes to the table effect
# what was applied.  DtxCluster's check_invariants finds effects that are there
# twice, or should not be there (I5).
package DtxSaga;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(saga_setup saga_answer saga_transfer saga_submit saga_submit_sql saga_wait saga_state
  saga_told saga_effects saga_attempts saga_await_attempt flow_workers);

# Make what steps call, on every server of the cluster.
sub saga_setup
{
	my ($c) = @_;
	my ($top) = grep { -e "$_/test/sql/common/sample.psql" } '.', $ENV{TESTDIR} || '.', '../..';
	my $sql = slurp_file("$top/test/sql/common/sample.psql");
	foreach my $name (@{ $c->{names} })
	{
		$c->as_super("SET ROLE app; $sql", node => $name);
		# faults of participants
		next if $name eq $c->{coordinator} || !$c->has_faults;
		$c->super_psql(q{CREATE FUNCTION public.dtx_fault(point text, action text, skip int DEFAULT 0)
			RETURNS void AS '$libdir/dtx', 'dtx_fault' LANGUAGE C;
			CREATE FUNCTION public.dtx_fault_reset() RETURNS void AS '$libdir/dtx', 'dtx_fault_reset' LANGUAGE C;
			CREATE FUNCTION public.dtx_fault_hits(point text) RETURNS bigint AS '$libdir/dtx', 'dtx_fault_hits' LANGUAGE C;
			CREATE FUNCTION public.dtx_fault_waiting(point text) RETURNS boolean AS '$libdir/dtx', 'dtx_fault_waiting' LANGUAGE C},
			node => $name);
	}
	return;
}

# What the next attempts of a step on a node answer; none: as it should be.
sub saga_answer
{
	my ($c, $node, $step, $operation, @answers) = @_;
	my $list = join ',', @answers;
	$c->as_super("DELETE FROM sample_answer WHERE step = '$step' AND operation = '$operation';"
		  . (@answers ? "INSERT INTO sample_answer VALUES ('$step', '$operation', '{$list}')" : ''),
		node => $node);
	return;
}

# The definition of a saga that moves money from one node to another, with a
# step at the coordinator between the two.  Options: refused => 1 has a last step
# that the second node refuses; retry, timeout as in definitions (JSON); steps =>
# more of them (JSON), before the last; local => 0 without the one here; account.
sub saga_transfer
{
	my ($from, $to, $amount, %opt) = @_;
	my $id = $opt{account} || 1;
	my $step = sub {
		my ($name, $node, $by) = @_;
		$node = $node ? qq{"node": "$node", } : '';
		return qq({"name": "$name", $node"action": "SELECT * FROM sample(\$1, \$2)", )
		  . qq("compensation": "SELECT * FROM sample(\$1, -(\$2::bigint))", "args": [$id, $by]});
	};
	my @steps = ($step->('take', $from, -$amount));
	push @steps, $step->('note', undef, 0) unless defined $opt{local} && !$opt{local};
	push @steps, $step->('give', $to, $amount);
	push @steps, $opt{steps} if $opt{steps};
	push @steps, qq({"name": "check", "node": "$to", "action": "SELECT 1 / 0"}) if $opt{refused};
	my $retry = $opt{retry} || '{"interval": "50 ms", "max_interval": "200 ms"}';
	my $more = join '', map { $opt{$_} ? qq("$_": $opt{$_}, ) : '' } qw(timeout recovery concurrent);
	return qq({$more"retry": $retry, "steps": [) . join(', ', @steps) . ']}';
}

sub saga_submit_sql
{
	my ($definition, $gid) = @_;
	return "SELECT dtx.saga_submit(\$definition\$$definition\$definition\$, '$gid')";
}

# As app; dies if it is refused.
sub saga_submit
{
	my ($c, $definition, $gid, %opt) = @_;
	return $c->as_app(saga_submit_sql($definition, $gid), %opt);
}

# Until it is over or held, also while servers crash; its state then.
sub saga_wait
{
	my ($c, $gid, %opt) = @_;
	my $state = '';
	$c->poll_until(sub {
		# psql may find its server gone at any moment
		my ($rc, $stdout) = eval { $c->super_psql("SELECT dtx.wait('$gid', '2 s')", %opt) };
		$state = $stdout if defined $rc && $rc == 0;
		return $state =~ /^(committed|aborted|held)$/;
	}, $opt{timeout} || 60);
	return $state;
}

sub saga_state
{
	my ($c, $gid, %opt) = @_;
	return $c->as_super("SELECT state FROM dtx.transactions WHERE gid = '$gid'", %opt);
}

# Its steps, as "name operation state".
sub saga_told
{
	my ($c, $gid, %opt) = @_;
	return split /\n/, $c->as_super(qq{SELECT name || ' ' || operation || ' ' || state FROM dtx.steps
		WHERE gid = '$gid' ORDER BY step, operation}, %opt);
}

# What was applied for it, as "node step operation", in order on each node.
sub saga_effects
{
	my ($c, $gid) = @_;
	return map {
		my $name = $_;
		map { "$name $_" } split /\n/,
		  $c->as_super("SELECT step || ' ' || operation FROM effect WHERE gid = '$gid' ORDER BY number", node => $name)
	} @{ $c->{names} };
}

sub saga_attempts
{
	my ($c, $gid, $step, $operation) = @_;
	return $c->as_super("SELECT attempt_count FROM dtx.steps WHERE gid = '$gid' AND name = '$step' AND operation = '"
		  . ($operation || 'action') . q{'}) || 0;
}

sub saga_await_attempt
{
	my ($c, $gid, $step, $times, $operation) = @_;
	return $c->wait_for("attempt $times of $step", sub { saga_attempts($c, $gid, $step, $operation) >= $times });
}

# The processes that drive flows, in the database bank of a server.
sub flow_workers
{
	my ($c, %opt) = @_;
	return split /\n/, $c->as_super(
		q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dtx flow worker' ORDER BY pid}, %opt);
}

1;
