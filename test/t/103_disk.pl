# Rows 8 and 8b of docs/faults.md: disks that are full, that fail, and servers
# that die in the middle of a flush, at every moment of a transaction.
use strict;
use warnings;
use DtxCluster;
use DtxFault;
use Test::More;

# Nobody but the backend itself writes and flushes its WAL.
my $quiet = "fsync = on
wal_writer_delay = 10s
wal_writer_flush_after = 1GB
bgwriter_delay = 10s
autovacuum = off
checkpoint_timeout = 1h
";
my $c = DtxCluster->setup(nodes => [qw(a b)], conf_b => $quiet, conf_c => "${quiet}dtx.scan_interval = 100ms");
plan skip_all => 'no fault points' unless $c->has_faults;
my $f = DtxFault->new($c);
plan skip_all => 'servers do not take the shim' unless $f->preload_shim('b') && $f->preload_shim('c');
$f->attempt('COMMIT');
$f->truth;

sub letter { my ($letter) = $_[0] =~ /^(Pf|P|[A-Z])/; return $_[0] eq 'Pl' ? 'Pf' : $letter eq 'P' ? 'Pa' : $letter; }
my %expected = (W => 'A', Pf => 'A', Pl => 'Cw', Pa => 'Cw', Pr => 'Cw', D => 'Cw', Q => 'Cw', F => 'C', Fl => 'C', R => 'Cw', Ru => 'A');

# A server that has fallen over its disk: it tries to start anew by itself,
# which may fail on the same disk.
sub bring_back
{
	my ($name, $mark) = @_;
	$f->wait_until("$name to fall", sub {
		$c->log_since($name, $mark) =~ /terminating any other active server processes|database system is shut down/
		  || !$c->_postmaster_alive($name) });
	$f->mend_disk($name);
	# up, or down for good
	$f->wait_until("$name to settle", sub {
		!$c->_postmaster_alive($name)
		  || ($c->log_since($name, $mark) =~ /all server processes terminated.*ready to accept connections/s
			&& ($c->super_psql('SELECT 1', node => $name, timeout => 60))[0] == 0) });
	return if $c->_postmaster_alive($name);
	$f->kill9($name);
	$f->start_with_shim($name);
	return;
}

##########################################################################
# 8: the participant
##########################################################################

# W: no room for the rows of a statement
$f->stop_in('W');
$f->break_disk('b', 'grow ENOSPC /base/');
$f->send_end(q{SELECT dtx.exec('b', 'INSERT INTO account SELECT i, repeat(''x'', 1000), 0 FROM generate_series(100, 10000) i')});
my $answer = $f->answer;
is($answer->{state}, '53100', 'no room on b: the statement fails');
like($answer->{text}, qr/No space left on device.*node "b"/s, 'and says why, and where');
$f->send_end;
$f->answer;
$f->mend_disk('b');
$f->cell('8 W', 'no room for the rows of a statement', $f->verdict($answer), 'A');

# No room for WAL, or a disk that does not flush, is a PANIC of PostgreSQL on b.
foreach my $rule ('write ENOSPC pg_wal/', 'fsync EIO pg_wal/', 'fsync KILL! pg_wal/', 'fsync DOWN! pg_wal/')
{
	foreach my $column (qw(Pf Pa Pr D Q R Ru))
	{
		next if $rule !~ /ENOSPC/ && $column =~ /^(Pr|Ru)$/;
		# the scanner looks when b is back, not while it comes and goes
		$f->stop_in($column);
		my $mark = $c->log_mark('b');
		my ($pid) = $f->backends('b', q{query ~ 'PREPARE TRANS'});
		$f->break_disk('b', $rule);
		$answer = $f->go_on;
		bring_back('b', $mark);
		like($c->log_since('b', $mark), $rule =~ /KILL/ ? qr/\(PID \Q$pid\E\) was terminated by signal 9/ : qr/PANIC:  could not (write|fdatasync)/,
			"$column, $rule: it is the branch that meets it") unless $rule =~ /DOWN/ || $column =~ /^R/;
		like($c->log_since('b', $mark), qr/recovering prepared transaction/, 'who died in the flush had prepared all the same')
		  if $column eq 'Pf' && $rule =~ /fsync/;
		$f->cell('8 ' . letter($column), "$column, $rule on b", $f->verdict($answer), $expected{$column});
	}
}

# F: nothing is asked of b any more
foreach my $column (qw(F Fl))
{
	$f->stop_in($column);
	$f->break_disk('b', 'write ENOSPC pg_wal/', 'grow ENOSPC /base/');
	$answer = $f->go_on;
	$f->mend_disk('b');
	$f->cell('8 F', "$column, no room on b", $f->verdict($answer), 'C');
}

# A prepared transaction that cannot be written at a checkpoint stays in WAL.
$f->stop_in('Pa');
$f->break_disk('b', 'fsync EIO pg_twophase');
my ($rc, undef, $stderr) = $c->super_psql('CHECKPOINT', node => 'b');
isnt($rc, 0, 'a checkpoint fails that cannot write the branch down') or diag $stderr;
$f->kill9('b');
$f->mend_disk('b');
my $mark = $c->log_mark('b');
$f->start_with_shim('b');
if ($c->log_since('b', $mark) =~ /recovering prepared transaction/)
{
	$f->cell('8 Pa', 'a checkpoint that cannot write the branch, then a crash', $f->verdict($f->go_on), 'Cw');
}
else
{
	# PostgreSQL 18 itself loses the prepared transaction then: it removes what
	# the checkpoint has left, and does not take it from WAL either
	$answer = $f->go_on;
	$f->wait_until('the branch to be held', sub { $f->ask('c', q{SELECT state FROM dtx.stuck WHERE node = 'b'}) eq 'held' });
	$f->cell('8 Pa', 'a checkpoint that cannot write the branch, then a crash: lost by PostgreSQL, held',
		$f->ask('c', q{SELECT reason FROM dtx.stuck WHERE node = 'b'}), 'decided to commit, but rolled back on the node by somebody else');
	$c->as_super('UPDATE account SET balance = balance + 1 WHERE id = 1', node => 'b');
	$c->as_super("SELECT dtx.resolve('@{[ $f->gid ]}', 2, 'committed', 'booked by hand')");
	is($f->verdict($answer), 'Cw', 'booked and settled by hand');
}

##########################################################################
# 8b: the coordinator
##########################################################################

# W: no room for the local part
$f->stop_in('W');
$f->break_disk('c', 'grow ENOSPC /base/');
$f->send_end(q{INSERT INTO ledger (note) SELECT repeat('x', 1000) FROM generate_series(1, 10000)});
$answer = $f->answer;
is($answer->{state}, '53100', 'no room on the coordinator: the statement fails');
$f->send_end;
$f->answer;
$f->mend_disk('c');
$f->cell('8b W', 'no room for the rows of a statement', $f->verdict($answer), 'A');

# Pf: no room for the status row
my $decision = $f->ask('c', q{SELECT pg_relation_filepath('dtx.decision')});
$c->as_super('VACUUM FULL dtx.decision') if $f->ask('c', q{SELECT pg_relation_size('dtx.decision')}) > 0;
$decision = $f->ask('c', q{SELECT pg_relation_filepath('dtx.decision')});
is($f->ask('c', q{SELECT pg_relation_size('dtx.decision')}), 0, 'the status table is empty');
$f->stop_in('Pf');
$f->break_disk('c', "grow ENOSPC $decision");
$answer = $f->go_on;
is($answer->{state}, '53100', 'no room for the status row: COMMIT fails');
$f->mend_disk('c');
$f->cell('8b Pf', 'no room for the status row', $f->verdict($answer), 'A');

# Pa: the commit record cannot be written, or not flushed, or the server dies
# in that flush.  What became of it is known when it is up again.
foreach my $case ([ 'write ENOSPC pg_wal/', 'A' ], [ 'fsync EIO pg_wal/', 'C' ], [ 'fsync KILL! pg_wal/', 'C' ], [ 'fsync DOWN! pg_wal/', 'C' ])
{
	my ($rule, $truth) = @$case;
	foreach my $column (qw(Pa Pr))
	{
		$f->stop_in($column);
		my $mark = $c->log_mark('c');
		$f->break_disk('c', $rule);
		$answer = $f->go_on;
		bring_back('c', $mark);
		$f->forget_session;
		$f->cell('8b Pa', "$column, $rule", $f->verdict($answer), "U-$truth");
	}
}

# D, Q: nothing is written here.  F, R: what is written is tried again.
foreach my $column (qw(D Q F Fl R Ru))
{
	$f->stop_in($column);
	$f->break_disk('c', 'grow ENOSPC /base/', 'create ENOSPC /base/');
	$answer = $f->go_on;
	is($answer->{said}, $column eq 'Ru' ? 'aborted' : 'committed', "$column, no room in the coordinator's tables: the answer");
	$f->wait_until('the nodes', sub { $f->prepared_on('a') + $f->prepared_on('b') == 0 });
	$f->mend_disk('c');
	$f->cell('8b ' . letter($column), "$column, no room in the coordinator's tables", $f->verdict($answer),
		$column eq 'R' ? 'Cw' : $column eq 'Ru' ? 'A' : 'C');
}
foreach my $column (qw(F Fl R Ru))
{
	$f->stop_in($column);
	my $mark = $c->log_mark('c');
	$f->break_disk('c', 'write ENOSPC pg_wal/');
	$answer = $f->go_on;
	# whoever writes next meets it
	$c->super_psql('SELECT pg_switch_wal()', timeout => 60);
	bring_back('c', $mark);
	$f->forget_session;
	$f->cell('8b ' . letter($column), "$column, no room for the coordinator's WAL", $f->verdict($answer),
		$column eq 'R' ? 'Cw' : $column eq 'Ru' ? 'A' : qr/^(U-)?C$/);
}

$f->all_shown;
# PANIC is what PostgreSQL does about its WAL
$c->check_invariants(kept => $f->kept, log => 0);
done_testing();
