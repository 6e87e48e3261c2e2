# Transfers between four databases by many clients, while their servers are
# killed: no money is lost, nothing is half done, and no answer was wrong.
#
# The faults follow from a seed, which is printed; DTX_SEED=n repeats one, as far
# as the timing of the machine lets it.
use strict;
use warnings;
use DtxCluster;
use DtxCopy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{DTX_SEED} || int(rand 1_000_000);
my $seconds = $ENV{DTX_SECONDS} || 10;
my $clients = 6;
srand $seed;
diag "DTX_SEED=$seed";

my @nodes = qw(a b d);
my @names = (@nodes, 'c');
my $c = DtxCluster->setup(nodes => \@nodes, conf => 'max_prepared_transactions = 100', conf_c => "dtx.branch_lock_timeout = 3s
dtx.connect_timeout = 2s
dtx.prepare_timeout = 4s
dtx.commit_wait = 1s
dtx.scan_interval = 200ms
dtx.sweep_interval = 2s
dtx.max_backoff = 1s");
foreach my $name (@names)
{
	$c->as_super('CREATE TABLE mark (id text PRIMARY KEY); ALTER TABLE mark OWNER TO app', node => $name);
}

##########################################################################
# Clients: every transfer leaves its mark in the three databases it changes
##########################################################################

my $dir = PostgreSQL::Test::Utils::tempdir('kills');
my %ends;    # id => [two names]
sub transfer_with_marks
{
	my ($id) = @_;
	# one order of locks for all
	my ($from, $to) = @names[ sort { $a <=> $b } (sort { rand() <=> 0.5 } 0 .. $#names)[ 0, 1 ] ];
	my $amount = (rand() < 0.5 ? -1 : 1) * (1 + int rand 200);
	my $account = 1 + int rand 10;
	$ends{$id} = [ $from, $to ];
	my $sql = $c->transfer_sql($from, $to, $amount, from_id => $account, to_id => $account, note => $id,
		end => join(";\n", (map { $_ eq 'c' ? "INSERT INTO mark VALUES ('$id')" :
				"SELECT dtx.exec('$_', 'INSERT INTO mark VALUES (\$1)', ARRAY['$id'])" } $from, $to), 'COMMIT'));
	$sql =~ s/^BEGIN;/BEGIN;\nSELECT 'gid $id ' || dtx.current_gid();/ if rand() < 0.3;
	return "\\echo id $id\n$sql\\echo end $id :SQLSTATE\n";
}
my @pids;
foreach my $client (1 .. $clients)
{
	mkdir "$dir/$client" or die $!;
	foreach my $file (100 .. 199)
	{
		append_to_file("$dir/$client/$file.sql", join '', map { transfer_with_marks("$client.$file.$_") } 0 .. 9);
	}
	$c->_as_app(undef, sub {
		local @ENV{qw(PGHOST PGPORT PGDATABASE PGCONNECT_TIMEOUT)} = ('127.0.0.1', $_[0]->port, 'bank', 3);
		my $pid = fork();
		die "fork: $!" unless defined $pid;
		exec 'sh', '-c', "for f in $dir/$client/*.sql; do
			[ ! -e $dir/stop ] || exit 0
			until psql -XAtc 'SELECT 1' >/dev/null 2>&1; do [ ! -e $dir/stop ] || exit 0; sleep 0.1; done
			psql -XAt -f \$f >>$dir/$client/out 2>>$dir/$client/err
			done" if $pid == 0;
		push @pids, $pid;
	});
}

# and somebody who recovers all the time, in the middle of everything
append_to_file("$dir/recover.sql", "CALL dtx.recover();\nSELECT pg_sleep(0.05);\n" x 10);
{
	my $server = $c->server('c');
	local @ENV{qw(PGHOST PGPORT PGDATABASE)} = ($server->host, $server->port, 'bank');
	my $pid = fork();
	die "fork: $!" unless defined $pid;
	exec 'sh', '-c', "while [ ! -e $dir/stop ]; do
		psql -XAtq -f $dir/recover.sql >/dev/null 2>&1; sleep 0.1
		done" if $pid == 0;
	push @pids, $pid;
}

##########################################################################
# Faults
##########################################################################

sub pick { return $_[ int rand @_ ]; }
sub backend
{
	my ($name, $type) = @_;
	my ($rc, $out) = $c->super_psql("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'
		AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1", node => $name, db => 'postgres', timeout => 60);
	return $rc == 0 && $out =~ /^\d+$/ ? $out : undef;
}
# after a crash the server starts anew by itself
sub up { my ($name) = @_; return $c->wait_for("$name to be up", sub { ($c->super_psql('SELECT 1', node => $name, timeout => 60))[0] == 0 }); }
my %fault = (
	'kill a node' => sub { my $n = pick(@nodes); $c->kill9($n); sleep rand 0.5; $c->start($n); $n },
	'kill a session of a node' => sub { my $n = pick(@nodes); my $p = backend($n, 'client backend'); kill 'KILL', $p if $p; up($n); $n },
	'hang a node' => sub { my $n = pick(@nodes); $c->hang($n); sleep 0.3 + rand 1.5; $c->resume($n); $n },
	'kill the coordinator' => sub { $c->kill9('c'); sleep rand 0.3; $c->start('c'); '' },
	'kill a session of the coordinator' => sub { my $p = backend('c', 'client backend'); kill 'KILL', $p if $p; up('c'); '' },
	'terminate the scanner' => sub { my $p = backend('c', 'dtx scanner'); kill 'TERM', $p if $p; '' },
	'kill the scanner' => sub { my $p = backend('c', 'dtx scanner'); kill 'KILL', $p if $p; up('c'); '' });
my @points = qw(prepare_before prepare_sent prepare_gathered record_written commit_begin commit_sent commit_wait
  commit_done abort_begin scan_listed scan_before_finish scan_after_finish scan_before_forget);
$fault{'crash at a point'} = sub {
	my ($point, $action) = (pick(@points), pick(qw(crash crash error terminate)));
	$c->super_psql("SELECT public.dtx_fault('$point', '$action', @{[ int rand 5 ]})", timeout => 60);
	"$point $action"
} if $c->has_faults;
# so slow that recovery passes by
$fault{'sleep at a point'} = sub {
	my $point = pick(qw(prepare_gathered record_written record_written commit_begin scan_listed scan_before_finish));
	$c->super_psql("SELECT public.dtx_fault('$point', 'sleep:400')", timeout => 60);
	sleep 0.4;
	$point
} if $c->has_faults;

# each kind once, then at random
my @plan = sort { rand() <=> 0.5 } sort(keys %fault), ('sleep at a point') x ($c->has_faults ? 2 : 0);
my $begun = time();
my @done;
while (time() - $begun < $seconds)
{
	sleep 0.1 + rand 0.4;
	my $kind = @plan ? shift @plan : pick(sort keys %fault);
	push @done, sprintf '%.1f %s %s', time() - $begun, $kind, $fault{$kind}->();
}
append_to_file("$dir/stop", '');
up($_) foreach @names;
$c->fault_reset if $c->has_faults;
waitpid $_, 0 foreach @pids;
up($_) foreach @names;
note join "\n", @done;

##########################################################################
# What became of it
##########################################################################

ok($c->wait_clean(60), 'nothing is left prepared');

my %marked;
foreach my $name (@names)
{
	$marked{$name}{$_} = 1 foreach split /\n/, $c->as_super('SELECT id FROM mark', node => $name);
}
my %ledger = map { $_ => 1 } split /\n/, $c->as_super('SELECT note FROM ledger');

my %count = (committed => 0, refused => 0, lost => 0);
my (@half, @wrong, %gid, %answer);
foreach my $client (1 .. $clients)
{
	my $id;
	foreach my $line (split /\n/, -e "$dir/$client/out" ? slurp_file("$dir/$client/out") : '')
	{
		if ($line =~ /^id (\S+)$/) { $id = $1; $answer{$id} = 'lost' }
		elsif ($line =~ /^gid (\S+) (dtx_\S+)$/) { $gid{$1} = $2 }
		elsif ($line eq 'COMMIT') { $answer{$id} = 'committed' }
		elsif ($line =~ /^end (\S+) (\S+)$/ && $answer{$1} ne 'committed')
		{
			# a connection that is lost, or an outcome that is said to be unknown
			$answer{$1} = $2 =~ /^(08|57P)/ ? 'lost' : 'refused';
		}
	}
}
foreach my $id (sort keys %answer)
{
	$count{ $answer{$id} }++;
	my $there = grep { $marked{$_}{$id} } @{ $ends{$id} };
	push @half, "$id: ledger @{[ $ledger{$id} || 0 ]}, $there of @{ $ends{$id} }"
	  if $there != ($ledger{$id} ? 2 : 0);
	push @wrong, "$id: $answer{$id}, but ledger @{[ $ledger{$id} || 0 ]}"
	  if $answer{$id} eq 'committed' && !$ledger{$id} || $answer{$id} eq 'refused' && $ledger{$id};
}
note join ', ', map { "$count{$_} $_" } sort keys %count;
is(join("\n", @half), '', 'every transfer is on all of its databases, or on none');
is(join("\n", @wrong), '', 'what a client was told is true');
cmp_ok($count{committed}, '>', 50, 'many transfers were committed in between');

my @named = grep { defined $gid{$_} } grep { $answer{$_} } sort keys %answer;
cmp_ok(scalar @named, '>', 10, 'many of them knew their name');
my %outcome = map { split /\|/ } split /\n/, $c->as_super(
	'SELECT id, dtx.outcome(gid) FROM (VALUES ' . join(', ', map { "('$_', '$gid{$_}')" } @named)
	  . ') AS v(id, gid)');
is(join("\n", grep { $outcome{$_} ne ($ledger{$_} ? 'committed' : 'aborted') } @named), '',
	scalar(@named) . ' answers of dtx.outcome() are true, ' . grep({ $answer{$_} eq 'lost' } @named) . ' of them for clients that got none');

$c->check_invariants;
diag map { "$_\n" } "DTX_SEED=$seed", @done unless Test::More->builder->is_passing;
done_testing();
