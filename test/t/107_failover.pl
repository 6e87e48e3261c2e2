# Rows 15 and 15b of docs/faults.md: a participant is lost with transactions in
# every column, and a standby of it is promoted: one that has everything, then
# one that has nothing of them; then a cold copy from before takes its place.
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

# Fl first: it is over when the others begin.  Qx: as Q, but b has committed as
# well, and nobody has read its answer.
my @columns = qw(Fl W Pf Pl Pa Pr D Q Qx R);
my %id = map { $columns[$_] => 1 + $_ } 0 .. 9;
my %in;
sub letter { my ($letter) = $_[0] =~ /^(Pf|P|[A-Z])/; return $_[0] eq 'Pl' ? 'Pf' : $letter eq 'P' ? 'Pa' : $letter; }

# Left to the scanner, which is stopped.
sub leave
{
	my ($column, $point, $skip) = @_;
	my $g = $in{$column};
	$g->{column} = $column;
	$f->fault($point, 'error', $skip);
	$g->send_end;
	$g->{left} = $g->answer;
	return;
}

sub bring_all
{
	$f->calm;
	foreach my $column (@columns)
	{
		$in{$column} = DtxFault->new($c, id => $id{$column}, no_gate => 1, outcomes => $f->{outcomes});
		# nobody writes down where it has been when the scanner is stopped
		$in{$column}->session->query(q{SELECT dtx.exec('a', 'SELECT 1'), dtx.exec('b', 'SELECT 1')});
	}
	$f->hold_scanner;
	$in{Fl}->begin_for('Fl');
	$in{Fl}->send_end;
	$in{Fl}{column} = 'Fl';
	$in{Fl}{left} = $in{Fl}->answer;
	is($f->ask('c', 'SELECT count(*) FROM dtx.decision'), 1, 'one has committed, and is not forgotten yet');
	my @others = grep { $_ ne 'Fl' } @columns;
	$in{$_}->begin_for($_) foreach @others;
	foreach my $column (@others)
	{
		if ($column eq 'R') { leave('R', 'commit_begin') }
		elsif ($column eq 'Qx')
		{
			leave('Qx', 'commit_sent', 1);
			$f->wait_until('COMMIT PREPARED', sub { $in{Qx}->branch_on('a') + $in{Qx}->branch_on('b') == 0 });
		}
		else { $in{$column}->bring_to($column) }
	}
	return;
}

# Let all of them go on; returns what their clients hear.
sub release_all
{
	$f->fault_reset;
	$in{W}->send_end;
	return map { $_ => $in{$_}{left} || $in{$_}->answer } @columns;
}

# The balance of an account has changed, on each node, since bring_all.
sub changes
{
	my ($g) = @_;
	my $now = $g->_look;
	return join ' ', $g->{seen}{a} - $now->{a}, $now->{b} - $g->{seen}{b};
}

##########################################################################
# 15: the standby is synchronous
##########################################################################

standby('sync');
$c->as_super(q{ALTER SYSTEM SET synchronous_standby_names = 'sync'}, node => 'b');
$c->as_super('SELECT pg_reload_conf()', node => 'b');
$f->wait_until('the synchronous standby', sub { $f->ask('b', q{SELECT sync_state FROM pg_stat_replication}) eq 'sync' });
bring_all();
failover('sync', sub { $c->server('sync')->promote });
delete $_->{asking}{b} foreach $f, values %in;
my %answer = release_all();
my %expected = (W => 'A', Pf => 'A', Pl => 'Cw', Pa => 'Cw', Pr => 'Cw', D => 'Cw', Q => 'Cw', R => 'Cw', Fl => 'C');
foreach my $column (grep { $_ ne 'Qx' } @columns)
{
	$f->cell('15 ' . letter($column), "$column, a synchronous standby is promoted", $in{$column}->verdict($answer{$column}), $expected{$column});
}
# what a new timeline says of an xid is no proof: it may have been handed out again
my $gid = $in{Qx}->gid;
$f->wait_until('the branch to be held', sub { $f->ask('c', qq{SELECT state FROM dtx.stuck WHERE gid = '$gid' AND node = 'b'}) eq 'held' });
$f->cell('15 Q', 'Qx, its COMMIT PREPARED was done, but the answer is lost: held',
	$f->ask('c', qq{SELECT reason FROM dtx.stuck WHERE gid = '$gid' AND node = 'b'}),
	'decided to commit, but not prepared on the node, which was promoted or restored since');
$c->as_super($f->ask('c', qq{SELECT call FROM dtx.stuck WHERE gid = '$gid' AND node = 'b'}));
$f->wait_until('it to be closed', sub { $f->ask('c', 'SELECT count(*) FROM dtx.stuck') eq '0' });
is($in{Qx}->verdict($answer{Qx}), 'Cw', 'the operator looks, and says so');

##########################################################################
# 15b: the standby lacks all of it
##########################################################################

$c->as_super(q{ALTER SYSTEM RESET synchronous_standby_names}, node => 'b');
$f->calm;
standby('behind');
$c->stop('behind', 'fast');
bring_all();
failover('behind', sub { $c->start('behind'); $c->server('behind')->promote });
delete $_->{asking}{b} foreach $f, values %in;
%answer = release_all();
foreach my $column (qw(W Pf))
{
	$f->cell("15b $column", 'a standby that lacks it is promoted', $in{$column}->verdict($answer{$column}), 'A');
}
# they were confirmed when that was true: nobody is asked again
$f->cell('15b F', 'the loss of what b had confirmed is not noticed', "$answer{Fl}{said} " . changes($in{Fl}), 'committed 1 0');
my @held = qw(Pl Pa Pr D Q Qx R);
$f->wait_until('the others to be held', sub { $f->ask('c', q{SELECT count(*) FROM dtx.stuck WHERE state = 'held'}) eq @held });
$f->ask('c', 'CALL dtx.recover()') foreach 1, 2;
foreach my $column (@held)
{
	my $gid = $in{$column}->gid;
	$f->cell('15b ' . letter($column), "$column, a standby that lacks it is promoted: held, never taken for done",
		$f->ask('c', qq{SELECT node, state, reason FROM dtx.stuck WHERE gid = '$gid'}),
		'b|held|decided to commit, but not prepared on the node, which was promoted or restored since');
	is("$answer{$column}{said} " . changes($in{$column}) . ' ' . $f->ask('c', "SELECT dtx.outcome('$gid')"), 'committed 1 0 committed',
		'the others have it, as the client was told');
}

# book by hand what is missing, then settle it
foreach my $column (@held, 'Fl')
{
	$c->as_super("UPDATE account SET balance = balance + 1 WHERE id = $id{$column}", node => 'b');
	next if $column eq 'Fl';
	$c->as_super("SELECT dtx.resolve('@{[ $in{$column}->gid ]}', 2, 'committed', 'booked by hand')");
}
$f->wait_until('nothing to be stuck', sub { $f->ask('c', 'SELECT count(*) FROM dtx.stuck') eq '0' });
pass('which an operator settles');
$f->{outcomes}{ $in{$_}->gid } = 'committed' foreach @held, 'Fl';

##########################################################################
# 15b: a cold copy from before takes its place
##########################################################################

$f->{seen} = $f->_look;
foreach my $column (qw(D Q R))
{
	$f->calm;
	my $data = $c->server('b')->data_dir;
	$f->ask('b', 'CHECKPOINT');
	$f->kill9('b');
	system_or_bail('cp', '-a', $data, "$data.saved");
	$c->start('b');
	$f->stop_in($column);
	$f->kill9('b');
	my $answer = $f->go_on;
	system_or_bail('rm', '-rf', $data);
	system_or_bail('mv', "$data.saved", $data);
	unlink "$data/postmaster.pid";
	$c->start('b');
	$f->wait_until('the branch to be held', sub { $f->ask('c', q{SELECT state FROM dtx.stuck WHERE node = 'b'}) eq 'held' });
	$f->cell("15b $column", 'an older copy of the server: held, never taken for done',
		$f->ask('c', q{SELECT reason FROM dtx.stuck WHERE node = 'b'}), 'decided to commit, but not prepared on the node, which cannot tell what became of it');
	$c->as_super('UPDATE account SET balance = balance + 1 WHERE id = 1', node => 'b');
	$c->as_super("SELECT dtx.resolve('@{[ $f->gid ]}', 2, 'committed', 'booked by hand')");
	is($f->verdict($answer), 'Cw', 'booked and settled by hand');
}

$f->all_shown;
is(join("\n", $c->log_grep(qr/PANIC|TRAP:|terminated by signal (4|6|7|8|11)/, qw(c a sync behind))), '', 'no server has crashed by a bug');
$c->check_invariants(kept => $f->kept);
done_testing();
