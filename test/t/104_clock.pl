# Row 13 of docs/faults.md: the wall clock of the coordinator, or of a
# participant, jumps by a day, at every moment of a transaction.  No decision
# changes, and nobody waits a day for what takes a second.
use strict;
use warnings;
use DtxCluster;
use DtxFault;
use Test::More;
use Time::HiRes qw(time);

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms
dtx.max_backoff = 1s
dtx.connect_timeout = 2s");
plan skip_all => 'no fault points' unless $c->has_faults;
my $f = DtxFault->new($c);
plan skip_all => 'servers do not take the shim' unless $f->preload_shim('b') && $f->preload_shim('c');
$f->attempt('COMMIT');
$f->truth;

my $day = 86400;
my %expected = (W => 'C', Pf => 'C', Pl => 'C', Pa => 'C', Pr => 'C', D => 'C', Q => 'C', F => 'C', Fl => 'C', R => 'Cw', Ru => 'A');
sub letter { my ($letter) = $_[0] =~ /^(Pf|P|[A-Z])/; return $_[0] eq 'Pl' ? 'Pf' : $letter eq 'P' ? 'Pa' : $letter; }
sub jump
{
	my ($name, $seconds) = @_;
	$f->set_clock($name, $seconds);
	is($f->ask($name, "SELECT abs(extract(epoch FROM clock_timestamp()) - @{[ time() + $seconds ]}) < 100"), 't', "the clock of $name is $seconds s off");
	return;
}

foreach my $name (qw(c b))
{
	foreach my $off ($day, -$day)
	{
		foreach my $column (qw(W Pf Pl Pa Pr D Q F Fl R Ru))
		{
			$f->stop_in($column);
			jump($name, $off);
			my $answer = $f->go_on;
			$f->cell('13 ' . letter($column), "$column, the clock of $name jumps by $off s", $f->verdict($answer), $expected{$column});
			$f->set_clock($name, 0);
		}
	}
}

# Time limits and pauses that run while the clock jumps.
foreach my $off ($day, -$day)
{
	$f->stop_in('Pf', before => q{SET dtx.prepare_timeout = '3s'});
	$f->set_clock('c', $off);
	my $answer = $f->answer;
	is($answer->{state}, '40003', 'dtx.prepare_timeout ends COMMIT all the same');
	$f->open_gate;
	$f->cell('13 Pf', "dtx.prepare_timeout runs, the clock jumps by $off s", $f->verdict($answer), 'A');
	$f->set_clock('c', 0);

	$f->stop_in('D', before => q{SET dtx.commit_wait = '300ms'; RESET dtx.prepare_timeout});
	$c->hang('b');
	$f->release;
	$f->set_clock('c', $off);
	$answer = $f->answer;
	$c->resume('b');
	$f->cell('13 D', "dtx.commit_wait runs, the clock jumps by $off s", $f->verdict($answer), 'Cw');
	$f->set_clock('c', 0);

	$f->stop_in('R', before => 'RESET dtx.commit_wait');
	$f->kill9('b');
	$answer = $f->go_on;
	$f->wait_until('a pause', sub { $f->ask('c', q{SELECT failure_count > 2 FROM dtx.nodes WHERE node = 'b'}) eq 't' });
	$f->set_clock('c', $off);
	$f->start_with_shim('b');
	$f->cell('13 R', "a node is away, the clock jumps by $off s", $f->verdict($answer), 'Cw');
	$f->set_clock('c', 0);
}

# A PREPARE that arrives a long time after: the sweep finds it.
$c->as_super(q{ALTER SYSTEM SET dtx.sweep_interval = '1s'});
$c->as_super('SELECT pg_reload_conf()');
foreach my $off ($day, -$day)
{
	$f->attempt('ROLLBACK', gid => 1);
	$f->truth;
	$f->calm;
	$f->set_clock('c', $off);
	$c->as_app("BEGIN; UPDATE account SET balance = balance + 1 WHERE id = 1; PREPARE TRANSACTION '@{[ $f->gid ]}_1'", node => 'a');
	ok($c->poll_until(sub { $f->prepared_count == 0 }, 40), "row 13 R: sweeps go on when the clock jumps by $off s");
	$f->set_clock('c', 0);
}

# What is decided is kept whatever the clock says: a branch waits for its node
# through forty days.
$f->stop_in('D', gid => 1);
$f->kill9('b');
my $answer = $f->go_on;
$f->set_clock('c', 40 * $day);
my $forgotten = $f->ask('c', 'SELECT passes FROM dtx.stat');
$f->wait_until('some passes', sub { $f->ask('c', 'SELECT passes FROM dtx.stat') > $forgotten + 3 });
is($f->ask('c', 'SELECT count(*) FROM dtx.decision'), 1, 'a decision that waits for a node is not forgotten by age');
$f->set_clock('c', 0);
$f->start_with_shim('b');
$f->cell('13 F', 'forty days later', $f->verdict($answer), 'Cw');

$f->all_shown;
$c->check_invariants(kept => $f->kept);
done_testing();
