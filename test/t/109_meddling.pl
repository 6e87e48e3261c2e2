# Row 16 of docs/faults.md: somebody ends a prepared branch by hand, at every
# moment of a transaction.  035_behind.pl looks closer at Pa, D and R.
use strict;
use warnings;
use DtxCluster;
use DtxFault;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => 'dtx.scan_interval = 50ms');
plan skip_all => 'no fault points' unless $c->has_faults;
my $f = DtxFault->new($c);
$f->attempt('COMMIT');
$f->truth;
sub letter { my ($letter) = $_[0] =~ /^(Pf|P|[A-Z])/; return $_[0] eq 'Pl' ? 'Pf' : $letter eq 'P' ? 'Pa' : $letter; }

# W: there is nothing prepared.  What would end the branch is refused before it is
# sent; what a superuser does by dblink is noticed at COMMIT: 035_behind.pl.
$f->stop_in('W');
$f->send_end(q{SELECT dtx.exec('b', 'COMMIT')});
my $answer = $f->answer;
is($answer->{state}, '0A000', 'COMMIT as the SQL of a branch is refused');
$f->go_on;
$f->cell('16 W', 'COMMIT in a branch', $f->verdict($answer), 'A');

# ROLLBACK PREPARED.  In Pf only a has prepared.
foreach my $column (qw(Pf Pl Pa Pr D Q R))
{
	my ($node, $number) = $column eq 'Pf' ? ('a', 1) : ('b', 2);
	$f->stop_in($column);
	my $gid = $f->gid;
	$c->as_super("ROLLBACK PREPARED '${gid}_$number'", node => $node);
	$answer = $f->go_on;
	is("$answer->{said} $answer->{state}", 'committed 01DTX', "$column: COMMIT succeeds with a WARNING");
	$f->wait_until('the branch to be held', sub { $f->ask('c', "SELECT state FROM dtx.stuck WHERE gid = '$gid' AND node = '$node'") eq 'held' });
	$f->cell('16 ' . letter($column), "$column, rolled back by hand: held",
		$f->ask('c', "SELECT reason || '; ' || (SELECT outcome FROM dtx.outcome(gid)) FROM dtx.stuck WHERE gid = '$gid'"),
		'decided to commit, but rolled back on the node by somebody else; committed');
	$c->as_super('UPDATE account SET balance = balance ' . ($node eq 'a' ? '-' : '+') . ' 1 WHERE id = 1', node => $node);
	$c->as_super("SELECT dtx.resolve('$gid', $number, 'committed', 'booked by hand')");
	is($f->verdict($answer), 'Cw', 'booked and settled by hand');
}

# What is to be rolled back may be rolled back by anybody.
$f->stop_in('Ru');
$c->as_super("ROLLBACK PREPARED '@{[ $f->gid ]}_$_'", node => $_ == 1 ? 'a' : 'b') foreach 1, 2;
$f->cell('16 R', 'Ru, rolled back by hand', $f->verdict($f->go_on), 'A');

# COMMIT PREPARED: right, if it is decided so later; the xid proves it.
foreach my $column (qw(Pl Pa Pr D Q R))
{
	$f->stop_in($column);
	$c->as_super("COMMIT PREPARED '@{[ $f->gid ]}_2'", node => 'b');
	$f->cell('16 ' . letter($column), "$column, committed by hand", $f->verdict($f->go_on), qr/^Cw?$/);
}
is($f->ask('c', q{SELECT count(*) FROM dtx.event WHERE event = 'held'}), 7, 'which is no alarm');

# It is not, if the transaction is rolled back then: mixed, and nothing is there
# by which anybody could see it.
$f->stop_in('Pf', before => q{SET dtx.prepare_timeout = '5s'});
$c->as_super("COMMIT PREPARED '@{[ $f->gid ]}_1'", node => 'a');
$answer = $f->answer;
$f->open_gate;
is($answer->{state}, '40003', 'COMMIT fails after a branch was committed by hand');
$f->cell('16 Pf', 'committed by hand, then rolled back: mixed, as docs/patterns.md says', $f->truth, 'mixed: 1 0 0');
$c->as_super('UPDATE account SET balance = balance + 1 WHERE id = 1', node => 'a');
$f->{seen} = $f->_look;

# F: there is nothing to end.
foreach my $column (qw(F Fl))
{
	$f->stop_in($column, before => 'RESET dtx.prepare_timeout');
	my ($rc, undef, $stderr) = $c->super_psql("ROLLBACK PREPARED '@{[ $f->gid ]}_2'", node => 'b');
	like($stderr, qr/does not exist/, "$column: there is nothing to end by hand");
	$answer = $f->go_on;
	is($answer->{said}, 'committed', 'and COMMIT succeeds');
	$f->cell('16 F', $column, $f->verdict($answer), 'C');
}

$f->all_shown;
$c->check_invariants(kept => $f->kept);
done_testing();
