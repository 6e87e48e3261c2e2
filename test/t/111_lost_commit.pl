# Row 15b F and Q of docs/faults.md: a standby of a participant is promoted that
# has the PREPARE of a transaction and lacks its COMMIT PREPARED, which the
# coordinator had an answer for and has forgotten.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use DtxFault;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf_b => "wal_level = replica
max_wal_senders = 4
", conf_c => 'dtx.scan_interval = 100ms
# all columns wait side by side
dtx.prepare_timeout = 10min
dtx.branch_lock_timeout = 10min
dtx.branch_idle_timeout = 10min');
plan skip_all => 'no fault points' unless $c->has_faults;
my $f = DtxFault->new($c);

# A standby of b, and the same server under another port for the coordinator.
sub standby
{
	my ($name) = @_;
	$c->server('b')->backup($name);
	my $standby = add_server($c, $name);
	$standby->init_from_backup($c->server('b'), $name, has_streaming => 1);
	$standby->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'");
	$c->start($name);
	$c->server('b')->wait_for_catchup($standby);
	my $ports = join ',', map { $c->server($_)->port } 'b', $name;
	$c->as_super("ALTER SERVER b OPTIONS (SET host '127.0.0.1,127.0.0.1', SET port '$ports')");
	return;
}

# b dies, and from now on b is the server of that name.
sub failover
{
	my ($name, $promote) = @_;
	$f->kill9('b');
	$promote->();
	$c->{server}{b} = $c->server($name);
	return;
}

##########################################################################
# One transaction in each column, and what became of it
##########################################################################


my $n = 0;
# asked: somebody may ask for its outcome, and so its name is kept; crash: the
# coordinator has had one since
foreach my $case ([ 1, 0 ], [ 0, 0 ], [ 0, 1 ], [ 1, 1 ])
{
	my ($asked, $crash) = @$case;
	my $name = 'half' . ++$n;
	standby($name);
	$f->calm;
	$f->begin(gid => $asked);
	$f->fault('commit_begin', 'wait');
	$f->send_end;
	$f->wait_point('commit_begin');
	my ($gid) = $f->ask('b', 'SELECT gid FROM pg_prepared_xacts') =~ /(dtx_.*)_2$/;
	$c->server('b')->wait_for_catchup($c->server($name));
	$c->stop($name, 'fast');
	$f->fault_reset;
	my $answer = $f->answer;
	is("$answer->{said}$answer->{text}", 'committed', 'COMMIT, and all have confirmed it');
	$f->wait_until('it to be forgotten', sub { $f->ask('c', 'SELECT count(*) FROM dtx.decision') eq '0' });
	if ($crash)
	{
		$f->kill9('c');
		$f->forget_session;
		$c->start('c');
		$f->calm;
	}
	my $mark = $c->log_mark('c');
	failover($name, sub { $c->start($name); $c->server($name)->promote });
	delete $f->{asking}{b};
	# or the scanner has seen that already
	ok($f->prepared_on('b') == 1 || $c->log_since('c', $mark) =~ /had lost the commit of this branch/,
		'the promoted standby has the branch prepared again');
	$c->poll_until(sub { $f->ask('c', 'CALL dtx.recover()'); $f->prepared_on('b') == 0
		|| $f->ask('c', q{SELECT count(*) FROM dtx.stuck WHERE state = 'held'}) eq '1' }, 40);
	is($f->ask('c', "SELECT dtx.outcome('$gid')"), 'committed', 'dtx.outcome() says committed') if $asked || !$crash;
	$f->cell('15b F', 'it is committed again' . ($asked ? ', asked for' : '') . ($crash ? ', after a crash of the coordinator' : ''), $f->truth, 'committed');
	$f->{outcomes}{$gid} = 'committed' if $asked;
	is(join("\n", grep { /\Q$gid\E/ && /rolled back/ } split /\n/, $c->log_text('c')), '', 'nothing of a committed transaction is rolled back');
}
$f->all_shown;
$c->check_invariants(kept => $f->kept);
done_testing();
