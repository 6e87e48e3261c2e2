# Rows 1 to 3 of docs/faults.md: a participant's backend is terminated or killed,
# its server is killed, or hangs, at every moment of a transaction.
use strict;
use warnings;
use DtxCluster;
use DtxFault;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => "dtx.scan_interval = 100ms
dtx.connect_timeout = 2s", conf_b => "wal_level = replica
max_wal_senders = 4");
plan skip_all => 'no fault points' unless $c->has_faults;
my $f = DtxFault->new($c);
$f->attempt('COMMIT');
$f->truth;

##########################################################################
# 1: a backend
##########################################################################

my %expected = (
	W => 'A', Pf => 'A', Pa => 'Cw', Pr => 'Cw', D => 'Cw', Q => 'Cw', F => 'C', Fl => 'C', R => 'Cw', Ru => 'A');
# of the session's branch; R: of the scanner, which has another one
sub victims { return $f->backends('b', $_[0] =~ /^R/ ? 'true' : q{(state <> 'idle' OR query ~ 'PREPARE')}); }

foreach my $signal (qw(TERM KILL))
{
	foreach my $column (qw(W Pf Pa Pr D Q F Fl R Ru))
	{
		# in F and Fl it has answered, and is idle
		$f->stop_in($column);
		$f->signal($signal, 'b', victims($column));
		my $answer = $f->go_on;
		my ($letter) = $column =~ /^(Pf|Pa|Pr|[A-Z])/;
		$letter = 'Pa' if $letter eq 'Pr';
		$f->cell("1 $letter", "$column, $signal", $f->verdict($answer), $expected{$column});
		is($answer->{state}, '08006', 'the client hears that the connection is lost') if $column =~ /^(W|Pf)$/;
	}
}

# Prepared, and then the backend is gone before it could say so: it waits for a
# standby of b that is not there.
sub standby_of_b
{
	my ($name) = @_;
	$c->as_super("SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = '$name'", node => 'b');
	$c->as_super('SELECT pg_reload_conf()', node => 'b');
	$f->wait_until('the setting', sub { $f->ask('b', 'SHOW synchronous_standby_names') eq $name });
	return;
}
foreach my $signal (qw(TERM KILL))
{
	$f->calm;
	standby_of_b('nobody');
	$f->begin(gid => 1);
	$f->hold_scanner;
	$f->send_end;
	my @pids;
	$f->wait_until('PREPARE to wait', sub { @pids = $f->backends('b', q{wait_event = 'SyncRep'}) });
	is($f->prepared_on('b'), 1, 'b has prepared, and its answer waits for a standby');
	$f->signal($signal, 'b', @pids);
	my $answer = $f->answer;
	is($f->prepared_on('b'), 1, "$signal: COMMIT has failed, and b is prepared all the same");
	standby_of_b('');
	$f->fault_reset;
	$f->cell('1 Pf', "$signal of a backend that has prepared", $f->verdict($answer), 'A');
}

##########################################################################
# 2: the server
##########################################################################

foreach my $column (qw(W Pf Pa Pr D Q F Fl R Ru))
{
	$f->stop_in($column);
	$f->kill9('b');
	$f->fault_reset if $column eq 'Pf';
	my $answer = $column eq 'Pf' ? $f->answer : $f->go_on;
	$f->wait_until('b to be missed', sub { $f->ask('c', q{SELECT state FROM dtx.nodes WHERE node = 'b'}) eq 'failing' })
	  if $column =~ /^R/;
	$c->start('b');
	my ($letter) = $column =~ /^(Pf|P|[A-Z])/;
	$letter = 'Pa' if $letter eq 'P';
	$f->cell("2 $letter", "$column, b is away for the answer", $f->verdict($answer), $expected{$column});
}
# prepared, but not told
$f->calm;
standby_of_b('nobody');
$f->begin(gid => 1);
$f->send_end;
$f->wait_until('PREPARE to wait', sub { $f->backends('b', q{wait_event = 'SyncRep'}) });
$f->kill9('b');
my $answer = $f->answer;
$c->server('b')->append_conf('postgresql.auto.conf', "synchronous_standby_names = ''\n");
$c->start('b');
$f->cell('2 Pf', 'killed when it had prepared and not yet said so', $f->verdict($answer), 'A');

##########################################################################
# 3: it hangs
##########################################################################

# All of b, or only the backend of the branch.
foreach my $what (qw(b backend))
{
	my @pids;
	my $hang = sub {
		@pids = victims('');
		if ($what eq 'b') { $c->hang('b') } else { kill 'STOP', @pids }
	};
	my $resume = sub { if ($what eq 'b') { $c->resume('b') } else { kill 'CONT', @pids } };
	my $limits = q{SET dtx.prepare_timeout = '2s'; SET dtx.commit_wait = '300ms'};
	my $name = $what eq 'b' ? 'all of b' : 'one backend';

	# a statement is cancelled
	$f->stop_in('W', before => $limits);
	$hang->();
	$f->send_end(q{SET LOCAL statement_timeout = 300; SELECT dtx.exec('b', 'SELECT 1')});
	$answer = $f->answer;
	is($answer->{state}, '57014', "$name hangs: a statement there can be cancelled");
	$f->go_on;    # COMMIT, which says ROLLBACK
	$resume->();
	$f->cell('3 W', "$name, then COMMIT", $f->verdict($answer), 'A');

	# PREPARE arrives when nobody waits for it any more
	$f->stop_in('W', before => $limits);
	$f->hold_scanner;
	$hang->();
	$f->send_end;
	$answer = $f->answer;
	is($answer->{state}, '40003', 'COMMIT gives up after dtx.prepare_timeout');
	$resume->();
	$f->wait_until('the late PREPARE', sub { $f->prepared_on('b') == 1 });
	$f->fault_reset;
	$f->cell('3 Pf', "$name, a late PREPARE is swept", $f->verdict($answer), 'A');

	# the same, but the scanner has looked before it arrives
	if ($what eq 'backend')
	{
		$f->stop_in('W');
		$hang->();
		$f->send_end;
		$answer = $f->answer;
		my $passes = $f->ask('c', 'SELECT passes FROM dtx.stat');
		$f->wait_until('some passes', sub { $f->ask('c', 'SELECT passes FROM dtx.stat') > $passes + 2 });
		$resume->();
		$f->wait_until('the late PREPARE', sub { $f->prepared_on('b') == 1
			|| $c->log_text('c') =~ /branch "\Q@{[ $f->gid ]}\E_2" on node "b" rolled back/ });
		$f->cell('3 Pf', 'one backend, it prepares after the scanner has looked', $f->verdict($answer), 'A');
	}

	# in the middle of PREPARE
	$f->stop_in('Pf');
	$hang->();
	$answer = $f->answer;
	is($answer->{state}, '40003', 'COMMIT gives up after dtx.prepare_timeout');
	$resume->();
	$f->open_gate;
	$f->cell('3 Pf', "$name, in the middle of PREPARE", $f->verdict($answer), 'A');

	foreach my $column (qw(Pa Pr D Q F Fl R Ru))
	{
		# the scanner has a backend of its own
		next if $what eq 'backend' && $column =~ /^(R|F)/;
		$f->stop_in($column, before => $limits);
		$hang->();
		$answer = $f->go_on;
		$f->wait_until('a, which hangs not', sub { $f->prepared_on('a') == 0 });
		# another session's connection can end it while its own backend hangs
		$f->wait_until('b, by another backend', sub { $f->prepared_on('b') == 0 }) if $what eq 'backend';
		$resume->();
		my ($letter) = $column =~ /^(P|[A-Z])/;
		$letter = 'Pa' if $letter eq 'P';
		$f->cell("3 $letter", "$column, $name", $f->verdict($answer), $expected{$column});
	}
}

$f->all_shown;
$c->check_invariants(kept => $f->kept);
done_testing();
