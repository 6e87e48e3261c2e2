# Rows 5, 6, 7 and 10 of docs/faults.md: the coordinator's session or scanner is
# terminated or killed, its server is killed, somebody cancels, or the client
# goes away, at every moment of a transaction.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use DtxFault;
use Test::More;
use Time::HiRes qw(sleep);

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_c => 'dtx.scan_interval = 100ms');
plan skip_all => 'no fault points' unless $c->has_faults;
my $f = DtxFault->new($c);
$f->attempt('COMMIT');
$f->truth;

sub scanner { return $f->ask('c', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dtx scanner'}); }
sub letter { my ($letter) = $_[0] =~ /^(Pf|P|[A-Z])/; $letter = 'Pa' if $letter eq 'P'; $letter = 'Pf' if $_[0] eq 'Pl'; return $letter; }
my @columns = qw(W Pf Pl Pa Pr D Q F Fl R Ru);
my %ends = (map({ $_ => 'aborted' } qw(W Pf Pl Pa Pr Ru)), map { $_ => 'committed' } qw(D Q F Fl R));

##########################################################################
# 5: the session's backend
##########################################################################

foreach my $signal (qw(TERM KILL))
{
	foreach my $column (@columns)
	{
		$f->stop_in($column);
		my $mark = $c->log_mark('c');
		my ($pid) = $f->backends('c');
		kill $signal, $pid;
		if ($signal eq 'KILL') { $c->wait_restarted('c', $mark) }
		# in PREPARE and before, interrupts are served at once
		elsif ($column =~ /^(W|Pf|Pl|Pa|Pr)$/)
		{
			$f->wait_until('its end', sub { !$f->backends('c', "pid = $pid") });
		}
		$f->open_gate if $column eq 'Pf';
		my $answer = $column eq 'W' ? do { $f->send_end; $f->answer } : $f->go_on(released => $column eq 'Pf');
		$f->forget_session;
		# in the callbacks and after, it may have heard COMMIT
		my $u = uc substr $ends{$column}, 0, 1;
		$f->cell('5 ' . letter($column), "$column, $signal", $f->verdict($answer),
			$signal eq 'KILL' && $column !~ /^(Fl|R)/ ? "U-$u"
			: $column eq 'R' ? 'Cw' : $column eq 'Ru' ? 'A' : $column eq 'Fl' ? 'C' : qr/^(U-)?$u$/);
	}
}

##########################################################################
# 6: the server
##########################################################################

foreach my $column (@columns)
{
	$f->stop_in($column);
	$f->kill9('c');
	$f->open_gate if $column eq 'Pf';
	my $answer = $column eq 'W' ? do { $f->send_end; $f->answer } : delete $f->{left} || $f->answer;
	$f->forget_session;
	$c->start('c');
	my $u = uc substr $ends{$column}, 0, 1;
	$f->cell('6 ' . letter($column), "$column, the server killed", $f->verdict($answer),
		$column eq 'R' ? 'Cw' : $column eq 'Ru' ? 'A' : $column eq 'Fl' ? 'C' : "U-$u");
}

##########################################################################
# 7: the scanner
##########################################################################

# 7 R, killed at each of its points: 034_workers.pl
foreach my $column (@columns)
{
	$f->stop_in($column);
	my $pid = scanner();
	kill 'TERM', $pid;
	$f->wait_until('the end of the scanner', sub { scanner() ne $pid });
	my $answer = $f->go_on;
	$f->cell('7 ' . letter($column), "$column, the scanner terminated", $f->verdict($answer),
		$column eq 'R' ? 'Cw' : $ends{$column} eq 'committed' || $column =~ /^(W|P)/ ? 'C' : 'A');
}
# killed, it takes the server with it, as any process of PostgreSQL does
foreach my $column (qw(W Pl D R))
{
	$f->stop_in($column);
	$f->signal('KILL', 'c', scanner());
	my $answer = $column eq 'W' ? do { $f->send_end; $f->answer } : $f->go_on;
	$f->forget_session;
	my $u = uc substr $ends{$column}, 0, 1;
	$f->cell('7 ' . letter($column), "$column, the scanner killed", $f->verdict($answer), $column eq 'R' ? 'Cw' : "U-$u");
}
# Q: what the session could not finish stays until there is a scanner again
$f->stop_in('Q');
my $pid = scanner();
kill 'STOP', $pid;
$f->signal('TERM', 'b', $f->backends('b', q{query ~ 'PREPARE TRANSACTION'}));
my $answer = $f->go_on;
is("$answer->{said} $answer->{state} " . $f->prepared_on('b'), 'committed 01DTX 1', 'without a scanner a branch stays prepared');
kill 'TERM', $pid;
kill 'CONT', $pid;
$f->cell('7 Q', 'ended by the next scanner', $f->verdict($answer), 'Cw');

##########################################################################
# 10: time limits, cancel, the client goes away
##########################################################################

my %cancel = (
	cancel => sub {
		my ($pid) = $f->backends('c');
		kill 'INT', $pid;
	},
	'statement_timeout' => sub { sleep 0.3 },    # set before COMMIT
	'client gone' => sub {
		$f->session->{run}->kill_kill(grace => 0);
	});
foreach my $how (sort keys %cancel)
{
	foreach my $column (@columns)
	{
		# a limit that ends before it goes on, for its last statement only
		$f->calm;
		$f->begin_for($column, before => 'RESET statement_timeout');
		$f->session->query('SET statement_timeout = 200') if $how eq 'statement_timeout';
		$f->bring_to($column);
		$cancel{$how}->() unless $column =~ /^(Fl|R)/ && $how eq 'cancel';
		# the gate is waited for on b: statement_timeout is off there as well in PREPARE
		my $answer;
		if ($how eq 'client gone')
		{
			$f->release unless $column eq 'W';
			delete $f->{left};
			$f->forget_session;
			$answer = { said => 'lost', text => '' };
		}
		elsif ($how eq 'cancel' && $column =~ /^(Pf|Pl|Pa|Pr)$/)
		{
			# while it waits, not when it goes on
			$answer = $f->answer;
			$f->release;
		}
		else { $answer = $f->go_on }
		my $got = $f->verdict($answer);
		my $expected = $ends{$column} eq 'committed' ? ($column eq 'R' ? 'Cw' : 'C') : 'A';
		# nobody says COMMIT; who waits in PREPARE does not look at the client
		if ($how eq 'client gone') { $expected = $column =~ /^(Pf|Pl|Pa|Pr)$/ ? qr/^U-[AC]$/ : $expected =~ /^C/ ? 'U-C' : 'U-A' }
		# it runs a statement no more; COMMIT has its own limits
		elsif ($column =~ /^W/ || ($how eq 'statement_timeout' && $column =~ /^P/)) { $expected = 'C' }
		$f->cell('10 ' . letter($column), "$column, $how", $got, $expected);
		is($answer->{state}, '57014', 'the client hears why') if $how eq 'cancel' && $column =~ /^(Pf|Pl|Pa|Pr)$/;
	}
}
$f->session->query('RESET statement_timeout');
# W, while a statement runs: 024_refused.pl
# R: nobody's limits are the scanner's
$c->as_super(q{ALTER DATABASE bank SET statement_timeout = '1ms'; ALTER DATABASE bank SET lock_timeout = '1ms';
	ALTER DATABASE bank SET idle_in_transaction_session_timeout = '1ms'});
my $limited = scanner();
$f->signal('TERM', 'c', $limited);
$f->wait_until('a scanner with these settings', sub { scanner() !~ /^(\Q$limited\E)?$/ });
foreach my $column (qw(R Ru))
{
	$f->stop_in($column);
	$f->cell('10 R', "$column, with limits of a millisecond for the database", $f->verdict($f->go_on), $column eq 'R' ? 'Cw' : 'A');
}
$c->as_super(q{ALTER DATABASE bank RESET ALL}, db => 'postgres');
# a cancel of the scanner is no end of it
foreach my $at (qw(scan_begin scan_listed scan_before_finish scan_after_finish))
{
	$f->stop_in('R', at => $at);
	my $pid = scanner();
	$f->ask('c', "SELECT pg_cancel_backend($pid)");
	$f->cell('10 R', "the scanner cancelled at $at", $f->verdict($f->go_on), 'Cw');
}

$f->all_shown;
$c->check_invariants(kept => $f->kept);
done_testing();
