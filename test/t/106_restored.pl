# Row 14 of docs/faults.md: the coordinator comes back from a cold copy, from a
# base backup and its archive up to a moment before the decisions (PITR), or
# stands beside the original as a clone, with transactions in every column.
use strict;
use warnings;
use Cwd;
use DtxCluster;
use DtxCopy;
use DtxFault;
use PostgreSQL::Test::Utils;
use Test::More;

my $c = DtxCluster->setup(nodes => [qw(a b)], conf => "log_connections = on\n", conf_c => "wal_level = replica
max_wal_senders = 4
archive_mode = on
archive_command = 'true'
dtx.scan_interval = 100ms
# all columns wait side by side
dtx.prepare_timeout = 10min
dtx.branch_lock_timeout = 10min
dtx.branch_idle_timeout = 10min");
plan skip_all => 'no fault points' unless $c->has_faults;
my $archive = Cwd::realpath(PostgreSQL::Test::Utils::tempdir('archive'));
$c->as_super("ALTER SYSTEM SET archive_command = 'cp %p $archive/%f.tmp && mv $archive/%f.tmp $archive/%f'");
$c->as_super('SELECT pg_reload_conf()');
my $f = DtxFault->new($c);
$f->attempt('COMMIT');
$f->truth;
$c->server('c')->backup('base');
$f->calm;
$f->attempt('COMMIT');
$f->truth;
$f->calm;
my $archived = $c->as_super(q{SELECT pg_walfile_name(pg_create_restore_point('before'))});

##########################################################################
# One transaction in each column
##########################################################################

# each with an account of its own
my %in;
my @columns = qw(W Pf Pl Pa Pr D Q F Fl);
foreach my $column (@columns)
{
	$in{$column} = DtxFault->new($c, id => 2 + keys %in, no_gate => 1);
	$in{$column}->begin_for($column);
}
# the last one stops the scanner before it forgets it
$in{$_}->bring_to($_) foreach @columns;
my %gid = map { $_ => $in{$_}->gid } @columns;
sub prepared_of { my ($column) = @_; return join ' ', grep { $in{$column}->branch_on($_) } qw(a b); }
my %prepared = map { $_ => prepared_of($_) } @columns;
is_deeply(\%prepared, { W => '', Pf => 'a', Pl => 'a b', Pa => 'a b', Pr => 'a b', D => 'a b', Q => 'b', F => '', Fl => '' },
	'transactions in all columns');

##########################################################################
# The coordinator is lost, and comes back in three ways, each in its turn
##########################################################################

$c->server('c')->backup('late');    # as the storage people do it, at work
$f->ask('c', 'SELECT pg_switch_wal()');
$f->wait_until('the archive', sub { -s "$archive/$archived" });
$f->kill9('c');
$_->forget_session foreach values %in;
# the nodes end what nobody has prepared; Pf goes on when the gate is opened
$in{Pf}->open_gate;
$f->wait_until('the node to notice', sub { !$f->backends('b', q{state LIKE 'idle in%' OR wait_event = 'advisory'}) });
%prepared = map { $_ => prepared_of($_) } @columns;
# in Pf b may have prepared when it was alone, and a session that sees its
# postmaster go still rolls back
note "Pf: $prepared{Pf}";
is($prepared{W}, '', 'in W there is nothing');

# What nodes hear from anybody's dblink.
my %mark;
sub mark { %mark = map { $_ => $c->log_mark($_) } qw(a b); return; }
sub heard { return join "\n", grep { /authorized: user=app/ } map { split /\n/, $c->log_since($_, $mark{$_}) } qw(a b); }
sub as_before
{
	my ($name) = @_;
	is_deeply({ map { $_ => prepared_of($_) } @columns }, \%prepared, $name);
	return;
}
my ($old) = $gid{D} =~ /^dtx_([0-9a-f]{16})_/;

# --- from the late backup: a clone
add_server($c, 'clone')->init_from_backup($c->server('c'), 'late');
# --- from the early backup and the archive, up to a moment before: PITR
add_server($c, 'pitr')->init_from_backup($c->server('c'), 'base');
$c->server('pitr')->append_conf('postgresql.conf', "restore_command = 'cp $archive/%f %p'
recovery_target_name = 'before'
recovery_target_action = promote");
append_to_file($c->server('pitr')->data_dir . '/recovery.signal', '');
# --- as it was: a cold copy
cold_copy($c, 'c', 'heir');
foreach my $name (qw(clone pitr heir))
{
	# that setting is about standbys, and a backup has it, too
	$c->server($name)->append_conf('postgresql.conf', "archive_mode = off\ndtx.synchronous_failover = on");
}

foreach my $case ([ 'clone', 'created, copy' ], [ 'pitr', 'created, restore' ], [ 'heir', 'created, copy' ])
{
	my ($name, $lives) = @$case;
	my @there = (node => $name);
	mark();
	$c->start($name);
	$f->wait_until('it to find out', sub { scanner_activity($c, @there) eq 'dtx: waits to be adopted' });
	is(state_lives($c, @there), $lives, "$name: it knows what it is");
	like(($c->transfer('a', 'b', 1, @there))[2], qr/not adopted as a coordinator/, "$name: it begins nothing");
	is($c->as_super("SELECT dtx.outcome('$gid{$_}')", @there), 'unknown', "$name, $_: what it cannot know it does not say")
	  foreach qw(W Pf Pl Pa Pr), $name eq 'pitr' ? qw(D Q F Fl) : ();
	is(heard(), '', "$name: the nodes hear nothing of it");
	as_before("$name: nor do they do anything");
	$f->cell('14 R', "$name, before it is adopted", 'nothing', 'nothing');

	# the clone is never adopted
	if ($name ne 'clone')
	{
		my $rows = $name eq 'heir';
		$c->as_super("SELECT dtx.adopt('@{[ present_life($c, @there) ]}', 'the original is gone')", @there);
		my $held = () = map { split / / } map { $prepared{$_} } qw(W Pf Pl Pa Pr), $rows ? () : qw(D Q F Fl);
		$f->wait_until('what is undecided here to be held', sub {
			$c->as_super(q{SELECT count(*) FROM dtx.branches WHERE state = 'held'}, @there) == $held });
		# and what is decided to be done, or proven
		like($c->as_super('CALL dtx.recover()', @there), qr/^\d+\|0\|$held$/, "$name, adopted: $held branches are held");
		foreach my $column (@columns)
		{
			my $cell = '14 ' . ($column =~ /^P[fl]$/ ? 'Pf' : $column =~ /^P/ ? 'Pa' : substr $column, 0, 1);
			my $decided = $rows && $column =~ /^(D|Q)$/;
			$f->cell($cell, "$column, $name, adopted", prepared_of($column), $decided ? '' : $prepared{$column});
			is($c->as_super("SELECT count(*) FROM dtx.stuck WHERE gid = '$gid{$column}' AND state = 'held'", @there),
				$decided ? 0 : scalar(my @list = split / /, $prepared{$column}), 'and what is left there is in dtx.stuck');
			is($c->as_super("SELECT dtx.outcome('$gid{$column}')", @there),
				$rows && $column =~ /^[DQF]/ ? 'committed' : 'unknown', 'with an outcome that is true');
		}
		like(($c->transfer('a', 'b', 1, @there, from_id => 1, to_id => 1))[2], qr/^$/, "$name, adopted: it is a coordinator");
	}
	$c->stop($name, 'fast') if $name ne 'heir';
}

# What was held is rolled back when the operator knows that nothing is missing.
my @heir = (node => 'heir');
$c->as_super("SELECT dtx.adopt('$old', 'it was a cold copy')", @heir);
{
	local $c->{names} = [qw(a b)];
	ok($c->wait_clean, 'nothing stays');
}
foreach my $column (@columns)
{
	my $id = $in{$column}{id};
	my $there = join ' ', $c->balance('a', $id) - 1000, $c->balance('b', $id) - 1000,
	  $c->as_super("SELECT count(*) FROM ledger WHERE note = '$in{$column}{note}'", @heir);
	is($there, $column =~ /^[DQF]/ ? '-1 1 1' : '0 0 0',
		"$column: " . ($column =~ /^[DQF]/ ? 'committed' : 'aborted') . ' on all three');
}
$f->cells_shown;
$f->wait_until('nothing to be stuck', sub { $c->as_super('SELECT count(*) FROM dtx.stuck', @heir) == 0 });
is($c->total(qw(a b)), 20000, 'no money was lost or made');
is(join("\n", $c->log_grep(qr/PANIC|TRAP:|terminated by signal (4|6|7|8|11)/, qw(c a b clone pitr heir))), '', 'no server has crashed by a bug');
done_testing();
