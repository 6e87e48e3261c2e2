# Row 17 of docs/faults.md: another transaction manager has the coordinator's part
# prepared, and the coordinator is stopped or killed before that one decides.
# (postgres_fdw in the same transaction: 024_refused.pl.)
use strict;
use warnings;
use DtxCluster;
use DtxFault;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => 'dtx.scan_interval = 100ms');
plan skip_all => 'no fault points' unless $c->has_faults;
my $f = DtxFault->new($c);
$f->attempt('COMMIT');
$f->truth;

my %between = (
	'nothing' => sub { },
	'a restart' => sub { $c->stop('c', 'fast'); $c->start('c') },
	'a crash' => sub { $f->kill9('c'); $c->start('c') },
	'a crash of a node' => sub { $f->kill9('b'); $c->start('b') });
foreach my $end (qw(COMMIT ROLLBACK))
{
	foreach my $what (sort keys %between)
	{
		$f->calm;
		my $answer = $f->attempt(q{PREPARE TRANSACTION 'outer'}, gid => 1);
		my $gid = $f->gid;
		is("$answer->{said} " . $f->prepared_count, 'committed 2', 'the coordinator is prepared, and both nodes');
		$between{$what}->();
		$f->forget_session if $what =~ /^a (restart|crash)$/;
		$f->ask('c', 'CALL dtx.recover()') foreach 1, 2;
		is($f->prepared_count, 2, "$what: who has not been told leaves the branches alone");
		is($f->ask('c', "SELECT dtx.outcome('$gid')"), 'in progress', 'and dtx.outcome() says so');
		$c->as_app("$end PREPARED 'outer'");
		$answer->{said} = 'aborted' if $end eq 'ROLLBACK';
		$f->cell('17 W', "$end PREPARED of the outer transaction, after $what", $f->verdict($answer), $end eq 'COMMIT' ? 'C' : 'A');
	}
}

# It cannot be prepared when a branch cannot.
foreach my $column (qw(Pf Pa))
{
	$f->calm;
	$f->begin_for($column);
	$f->fault('prepare_gathered', 'error') if $column eq 'Pa';
	$f->send_end(q{PREPARE TRANSACTION 'outer'});
	if ($column eq 'Pf')
	{
		$f->wait_until('PREPARE on b', sub { $f->backends('b', q{wait_event = 'advisory'}) });
		$f->signal('TERM', 'b', $f->backends('b', q{wait_event = 'advisory'}));
		$f->open_gate;
	}
	$f->cell("17 $column", "$column, PREPARE TRANSACTION of the outer transaction fails", $f->verdict($f->answer), 'A');
}

$f->all_shown;
$c->check_invariants(kept => $f->kept);
done_testing();
