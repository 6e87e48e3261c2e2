# Rows 9 and 12 of docs/faults.md: prepared slots are used up, or there are none;
# two who resolve the same branches at once.
use strict;
use warnings;
use DtxCluster;
use DtxFault;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_b => "max_prepared_transactions = 2
wal_level = replica
max_wal_senders = 4
", conf_c => "dtx.scan_interval = 100ms");
plan skip_all => 'no fault points' unless $c->has_faults;
my $f = DtxFault->new($c);
$f->attempt('COMMIT');
$f->truth;
$c->as_super('CREATE TABLE other (i int); GRANT ALL ON other TO PUBLIC', node => 'b');
sub letter { my ($letter) = $_[0] =~ /^(Pf|P|[A-Z])/; return $_[0] eq 'Pl' ? 'Pf' : $letter eq 'P' ? 'Pa' : $letter; }
my %expected = (W => 'A', Pf => 'A', Pl => 'C', Pa => 'C', Pr => 'C', D => 'C', Q => 'C', F => 'C', Fl => 'C', R => 'Cw', Ru => 'A');

##########################################################################
# 9: slots
##########################################################################

# Others take all that is left.  (In Pf PostgreSQL has not asked for one yet: its
# deferred triggers run before.)
foreach my $column (qw(W Pf Pl Pa Pr D Q F Fl R Ru))
{
	$f->stop_in($column);
	my @taken;
	foreach my $i (1 .. 3)
	{
		my ($rc, undef, $stderr) = $c->super_psql("BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'other $i'", node => 'b');
		push @taken, "other $i" if $rc == 0;
	}
	is(scalar @taken, $column =~ /^(W|Pf|F|Fl)$/ ? 2 : 1, "$column: others have all prepared slots of b");
	my $answer = $f->go_on;
	if ($column =~ /^(W|Pf)$/)
	{
		is($answer->{state}, '53200', 'COMMIT fails');
		like($answer->{text}, qr/max_prepared_transactions.*node "b"/s, 'and says why, and where');
	}
	$f->cell('9 ' . letter($column), "$column, all slots are taken", $f->verdict($answer), $expected{$column});
	$c->as_super("ROLLBACK PREPARED '$_'", node => 'b') foreach @taken;
}

# None at all, from the beginning: told at COMMIT, or by dtx.check_node().
$f->calm;
$f->ask('b', 'ALTER SYSTEM SET max_prepared_transactions = 0');
$c->stop('b', 'fast');
$c->start('b');
like($c->as_app(q{SELECT severity, problem FROM dtx.check_node('b')}), qr/^error\|.*prepared/m, 'dtx.check_node() tells that there are none');
$f->stop_in('W');
my $answer = $f->go_on;
is($answer->{state}, '55000', 'COMMIT fails');
like($answer->{text}, qr/max_prepared_transactions.*node "b"/s, 'and says why, and where');
$f->cell('9 W', 'there are no slots', $f->verdict($answer), 'A');
$f->ask('b', 'ALTER SYSTEM SET max_prepared_transactions = 2');
$c->stop('b', 'fast');
$c->start('b');

# Fewer than are in use: PostgreSQL does not start, and loses nothing.
foreach my $column (qw(D R))
{
	$f->stop_in($column);
	$c->as_super('ALTER SYSTEM SET max_prepared_transactions = 0', node => 'b');
	$f->kill9('b');
	ok(!$c->server('b')->start(fail_ok => 1), "$column: a server with fewer slots than are in use does not start");
	$c->server('b')->{_pid} = undef;
	$answer = $f->go_on;
	$c->server('b')->append_conf('postgresql.auto.conf', 'max_prepared_transactions = 2');
	$c->start('b');
	$f->cell("9 $column", 'restarted with no slots, then with some', $f->verdict($answer), 'Cw');
}

##########################################################################
# 12: two resolvers
##########################################################################

# One lists the branches and is stopped; another one comes along; both go on.
my $operator = $c->super_session;
foreach my $column (qw(W Pf Pl Pa Pr D Q F Fl))
{
	my $events = $f->ask('c', 'SELECT count(*) FROM dtx.event');
	$f->stop_in($column);
	# the scanner, unless that waits already
	if ($column ne 'Fl')
	{
		$f->fault('scan_listed', 'sleep:100');
		$f->wait_until('the scanner to list', sub { $f->fault_hits('scan_listed') > 0 });
	}
	$c->start_query($operator, 'CALL dtx.recover()');
	if ($column eq 'Fl') { $f->fault_reset }
	my ($stdout, $stderr) = $c->finish_query($operator);
	# what has answered already is proven, and that is all
	like("$stdout$stderr", $column =~ /^(Q|F)/ ? qr/^\d\|0\|0$/ : qr/^0\|0\|0$/, "$column: both leave it alone");
	$f->cell('12 ' . letter($column), "$column, two resolvers look", $f->verdict($f->go_on), $column eq 'W' ? 'C' : 'C');
	is($f->ask('c', 'SELECT count(*) FROM dtx.event'), $events, 'without an alarm');
}
foreach my $column (qw(R Ru))
{
	foreach my $at (qw(scan_listed scan_before_finish scan_after_finish))
	{
		my $events = $f->ask('c', 'SELECT count(*) FROM dtx.event');
		$f->stop_in($column, at => $at);
		$c->start_query($operator, 'CALL dtx.recover()');
		my $answer = $f->go_on;
		my ($stdout, $stderr) = $c->finish_query($operator);
		is($stderr, '', "$column: an operator comes while the scanner stands at $at");
		$f->cell("12 R", "$column, the scanner at $at, and an operator", $f->verdict($answer), $column eq 'R' ? 'Cw' : 'A');
		is($f->ask('c', 'SELECT count(*) FROM dtx.event'), $events, 'without an alarm');
	}
}

# The session's COMMIT PREPARED is at work on b (it waits for a standby there),
# and the scanner comes: the branch is busy (55000), then gone; no alarm.
sub standby_of_b
{
	my ($name) = @_;
	$c->as_super("SET synchronous_commit = local; ALTER SYSTEM SET synchronous_standby_names = '$name'", node => 'b');
	$c->as_super('SELECT pg_reload_conf()', node => 'b');
	$f->wait_until('the setting', sub { $f->ask('b', 'SHOW synchronous_standby_names') eq $name });
	return;
}
$f->stop_in('D', before => q{SET dtx.commit_wait = '200ms'});
standby_of_b('nobody');
$answer = $f->go_on;
is($answer->{state}, '01DTX', 'COMMIT PREPARED takes its time on b');
my $passes = $f->ask('c', 'SELECT passes FROM dtx.stat');
$f->wait_until('some passes', sub { $f->ask('c', 'SELECT passes FROM dtx.stat') > $passes + 3 });
is($f->prepared_on('b'), 1, 'the branch is busy');
standby_of_b('');
$f->cell('12 D', 'the session is at it on the node, and the scanner comes', $f->verdict($answer), 'Cw');
is($f->ask('c', q{SELECT count(*) FROM dtx.event}), 0, 'without an alarm');

# Two scanners for one database cannot be: the second one leaves.  Two databases
# with the same nodes leave each other's branches alone: 041_template.pl.
$operator->quit;
$f->all_shown;
$c->check_invariants(kept => $f->kept);
done_testing();
