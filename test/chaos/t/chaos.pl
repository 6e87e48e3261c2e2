# Random faults under load: see test/chaos/run.
use strict;
use warnings;
use DtxCluster qw(netns);
use DtxHistory;
use DtxInvariants;
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my ($seed, $minutes, $clients) = @ENV{qw(DTX_CHAOS_SEED DTX_CHAOS_MINUTES DTX_CHAOS_CLIENTS)};
# lists stay short enough to be read and written whole
my $keys = max(8, 4 * $minutes);
my @nodes = qw(a b d e);
my $begun = time();
my $limit_ms = 3000;

sub say_at { note sprintf "%6.1f s  %s", time() - $begun, $_[0]; return; }

# Numbers of our own, so that a seed means the same everywhere.
my $state = $seed;
sub dice
{
	my ($sides) = @_;
	$state = ($state * 1103515245 + 12345) % 2147483648;
	return int(($state / 2147483648) * $sides);
}
sub pick { return $_[ dice(scalar @_) ]; }
sub between { my ($from, $to) = @_; return $from + ($to - $from) * dice(1000) / 1000; }

say_at("seed $seed, $minutes minutes, $clients clients");
my $c = DtxCluster->setup(nodes => \@nodes, extension_nodes => 1, conf => "
log_min_messages = warning
deadlock_timeout = 200ms
max_prepared_transactions = 60
", conf_c => "
dtx.scan_interval = 200ms
dtx.sweep_interval = 2s
dtx.max_backoff = 1s
dtx.prepare_timeout = ${limit_ms}ms
dtx.commit_wait = 500ms
dtx.connect_timeout = 2s
dtx.branch_lock_timeout = 2s
dtx.branch_idle_timeout = 8s
dtx.deadlock_interval = 500ms
dtx.retry_interval = 100ms
dtx.retry_max_interval = 2s
dtx.step_timeout = 5s
dtx.workers = 2
log_min_messages = log
");
plan skip_all => 'no fault points' unless $c->has_faults;
$c->as_super('CREATE TABLE list (key int PRIMARY KEY, items bigint[] NOT NULL);
	INSERT INTO list SELECT i, ARRAY[]::bigint[] FROM generate_series(1, ' . $keys . ') i;
	ALTER TABLE list OWNER TO app;
	CREATE TABLE effect (gid text, name text, what text);
	CREATE TABLE purse (id int PRIMARY KEY, balance bigint NOT NULL, held bigint NOT NULL DEFAULT 0);
	INSERT INTO purse SELECT i, 1000 FROM generate_series(1, 10) i;
	ALTER TABLE effect OWNER TO app; ALTER TABLE purse OWNER TO app', node => $_) foreach @nodes;
my $total = $c->total(@nodes);

##########################################################################
# Load
##########################################################################

my $dir = $ENV{TESTDIR} . '/tmp_check/chaos';
my @clients;
foreach my $number (1 .. $clients)
{
	my $conninfo = 'host=127.0.0.1 dbname=bank user=app port=' . $c->server->port
	  . " password=$DtxCluster::password connect_timeout=3 tcp_user_timeout=20000 keepalives_idle=5";
	my $pid = fork();
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDOUT, '>', "$dir/$number.history" or die $!;
		open STDERR, '>', "$dir/$number.err" or die $!;
		exec $ENV{DTX_CHAOS_CLIENT}, $conninfo, $seed, $number, join('', @nodes), 10, $keys;
	}
	push @clients, $pid;
}

##########################################################################
# Faults.  Each does its harm, waits, and heals.
##########################################################################

my @points = qw(prepare_before prepare_sent prepare_gathered record_written commit_begin commit_sent
  commit_wait commit_done abort_begin abort_sent branch_begin one_phase_before one_phase_sent one_phase_done
  scan_begin scan_listed scan_before_finish scan_after_finish scan_before_forget snapshot_quiet
  flow_before_send flow_sent flow_answered flow_before_record flow_recorded
  remote_send remote_get remote_is_busy remote_answered remote_close);

# A signal to some backend of a server that works for a client or for dtx.
sub signal_backend
{
	my ($name, $signal, $which) = @_;
	my @pids = split /\n/, $c->as_super("SELECT pid FROM pg_stat_activity WHERE $which ORDER BY pid", node => $name, timeout => 10);
	kill $signal, pick(@pids) if @pids;
	return;
}

sub wait_up
{
	my ($name) = @_;
	$c->wait_for("$name to be up", sub { my ($rc) = eval { $c->super_psql('SELECT 1', node => $name, timeout => 20) }; return defined $rc && $rc == 0 });
	return;
}

my $planted = 0;
my %faults = (
	kill_node => sub {
		my $node = pick(@nodes);
		return ($node, sub { $c->kill9($node) }, sub { $c->start($node) });
	},
	kill_coordinator => sub { return ('c', sub { $c->kill9('c') }, sub { $c->start('c') }); },
	stop_node => sub {
		my $node = pick(@nodes);
		my $mode = pick(qw(fast immediate));
		return ("$node $mode", sub { $c->stop($node, $mode) }, sub { $c->start($node) });
	},
	stop_coordinator => sub {
		my $mode = pick(qw(fast immediate));
		return ("c $mode", sub { $c->stop('c', $mode) }, sub { $c->start('c') });
	},
	hang_node => sub {
		my $node = pick(@nodes);
		return ($node, sub { $c->hang($node) }, sub { $c->resume($node) });
	},
	hang_coordinator => sub { return ('c', sub { $c->hang('c') }, sub { $c->resume('c') }); },
	cut => sub {
		my $node = pick(@nodes);
		my $direction = pick(undef, 'dport', 'sport');
		return ("$node " . ($direction || 'both'), sub { $c->cut($node, $direction) }, sub { $c->heal });
	},
	kill_backend => sub {
		my $name = pick('c', 'c', @nodes);
		return ($name, sub { signal_backend($name, 'KILL', q{usename = 'app'}) }, sub { wait_up($name) });
	},
	end_backend => sub {
		my $name = pick('c', 'c', @nodes);
		return ($name, sub { signal_backend($name, 'TERM', q{usename = 'app'}) }, sub { });
	},
	cancel => sub {
		my $name = pick('c', 'c', @nodes);
		return ($name, sub { signal_backend($name, 'INT', q{usename = 'app'}) }, sub { });
	},
	end_scanner => sub {
		my $signal = pick(qw(TERM TERM KILL));
		return ($signal, sub { signal_backend('c', $signal, q{backend_type LIKE 'dtx %'}) }, sub { wait_up('c') });
	},
	point => sub {
		my $point = pick(@points);
		my $action = pick(qw(error error crash terminate sleep:300 sleep:1500 nomem crash_server));
		return ("$point $action", sub { $c->fault($point, $action, dice(4)) },
			sub {
				$c->_postmaster_alive('c') ? wait_up('c') : do { $c->kill9('c'); $c->start('c') };
				$c->fault_reset;
			});
	},
	no_slots => sub {
		my $node = pick(@nodes);
		my @gids = map { "theirs_$planted" . "_$_" } 1 .. 60;
		$planted++;
		return ($node,
			sub {
				# as many as there is room for
				$c->super_psql("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '$_'",
					node => $node, db => 'postgres', timeout => 10) foreach @gids[ 0 .. 5 ];
				$c->super_psql(join('', map { "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '$_';\n" } @gids[ 6 .. 59 ]),
					node => $node, db => 'postgres', timeout => 30);
			},
			sub {
				wait_up($node);
				my @left = split /\n/, $c->as_super(q{SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'theirs%'},
					node => $node, db => 'postgres');
				$c->as_super("ROLLBACK PREPARED '$_'", node => $node, db => 'postgres') foreach @left;
			});
	});
my @kinds = $ENV{DTX_CHAOS_FAULTS} ? split(/ /, $ENV{DTX_CHAOS_FAULTS}) : sort keys %faults;

my %count;
my $scanner;
my $stuck_commits = 0;
my %outcomes;
while (time() - $begun < $minutes * 60)
{
	my $kind = pick(@kinds);
	my ($what, $harm, $heal) = $faults{$kind}->();
	my $harmed_for = between(0.1, 3);
	sleep between(0.1, 1.5);
	if (!$scanner && time() - $begun > 10)
	{
		$scanner = eval { DtxInvariants::scanner_size($c) };
	}
	say_at("$kind $what");
	$count{$kind}++;
	# the server may be down by another one: that is no error of ours
	eval { $harm->(); 1 } or say_at('  ' . (split /\n/, $@)[0]);
	sleep $harmed_for;
	eval { $heal->(); 1 } or do { say_at('  healing: ' . (split /\n/, $@)[0]); };
	foreach my $name ('c', @nodes)
	{
		next if $c->_postmaster_alive($name);
		say_at("  $name is down");
		$c->kill9($name);
		$c->start($name);
	}
	# what some transactions became, to be asked again at the end
	my ($rc, $out) = eval { $c->super_psql('SELECT gid, dtx.outcome(gid) FROM (SELECT note AS gid FROM ledger '
		  . 'ORDER BY id DESC LIMIT 3) l', timeout => 10) };
	%outcomes = (%outcomes, map { split /\|/ } split /\n/, $out || '') if defined $rc && $rc == 0;
}

##########################################################################
# Healing
##########################################################################

$c->heal;
foreach my $name ('c', @nodes)
{
	$c->resume($name);
	if (!$c->_postmaster_alive($name)) { $c->kill9($name); $c->start($name); }
	wait_up($name);
}
$c->fault_reset;
my $healed = time();
say_at('healed');

# no client hangs: each ends with its transaction
kill 'TERM', @clients;
my $stuck = 0;
foreach my $pid (@clients)
{
	my $ended = $c->poll_until(sub { waitpid($pid, 1) == $pid || $? == -1 }, 60);
	next if $ended;
	$stuck++;
	kill 'KILL', $pid;
	waitpid $pid, 0;
}
is($stuck, 0, 'every client came to its end');
ok($c->poll_until(sub { $c->prepared_count == 0 }, 60), 'nothing is prepared a minute after healing')
  or diag join ' ', $c->prepared;
my $clean = time() - $healed;
my $unfinished = q{SELECT count(*) FROM dtx.transactions WHERE pattern <> 'commit' AND finished_at IS NULL};
ok($c->poll_until(sub { $c->as_super($unfinished) == 0 }, 60), 'every saga has come to its end')
  or diag $c->as_super(q{SELECT t, p FROM dtx.transactions t LEFT JOIN dtx.steps p USING (gid) WHERE t.pattern <> 'commit' AND t.finished_at IS NULL LIMIT 20});
ok($c->poll_until(sub { !grep { $c->as_super(q{SELECT count(*) FROM dtx.barrier WHERE state = 'tried'}, node => $_) } @nodes }, 60),
	'every TCC branch is confirmed or cancelled')
  or diag map { $c->as_super(q{SELECT * FROM dtx.barrier WHERE state = 'tried' LIMIT 5}, node => $_) } @nodes;
my $flows_clean = time() - $healed;

my $history = DtxHistory->new(total => $total);
foreach my $number (1 .. $clients)
{
	open my $file, '<', "$dir/$number.history" or die $!;
	$history->add($_) while <$file>;
}
foreach my $node (@nodes)
{
	foreach my $row (split /\n/, $c->as_super(q{SELECT key, array_to_string(items, ',') FROM list}, node => $node))
	{
		my ($key, $items) = split /\|/, $row;
		$history->final($node, $key, [ split /,/, $items || '' ]);
	}
}
my %ledger = map { split /\|/ } split /\n/, $c->as_super('SELECT note, count(*) FROM ledger GROUP BY 1');
my @fates = $history->fates(\%ledger);

# what nobody answered is known by dtx.outcome, and by what is there
my @unknown = grep { $_->{answer} eq 'unknown' } @fates;
my $unknown = @unknown;
if (@unknown)
{
	my %outcome = map { split /\|/ } split /\n/, $c->as_super('SELECT gid, dtx.outcome(gid) FROM (VALUES '
		  . join(', ', map { "('$_->{gid}')" } @unknown) . ') v(gid)');
	is(join(' ', grep { $_->{answer} !~ /^(committed|aborted)$/ }
				map { { gid => $_->{gid}, answer => $outcome{ $_->{gid} } } } @unknown) ? 'some are not' : '', '',
		'every COMMIT without an answer has an outcome');
	$_->{answer} = $outcome{ $_->{gid} } foreach @unknown;
	%outcomes = (%outcomes, %outcome);
}
my $size = eval { DtxInvariants::scanner_size($c) };
my $grown = $scanner && $size && $scanner->{pid} == $size->{pid} ? $scanner : undef;
$c->check_invariants(fates => \@fates, outcomes => \%outcomes, timeout => 30, scanner => $grown);

# sagas and TCC: each operation once, all or nothing, no money lost
my %state = map { split /\|/ } split /\n/, $c->as_super(q{SELECT gid, state FROM dtx.transactions WHERE pattern = 'saga'});
my (%effects, $purse, $held);
foreach my $node (@nodes)
{
	foreach my $row (split /\n/, $c->as_super('SELECT name, what, count(*) FROM effect GROUP BY 1, 2', node => $node))
	{
		my ($name, $what, $times) = split /\|/, $row;
		$effects{$name}{$what} += $times;
	}
	$purse += $c->as_super('SELECT sum(balance) FROM purse', node => $node);
	$held += $c->as_super('SELECT sum(held) FROM purse', node => $node);
}
my @wrong = $history->flows(\%state, \%ledger, \%effects);
is(join("\n", @wrong > 10 ? @wrong[ 0 .. 9 ] : @wrong), '', 'sagas and TCC: each operation once, all or nothing');
is($purse, 10 * 1000 * @nodes, 'no money of theirs is lost or made');
is($held, 0, 'and none is held');

my %found = $history->anomalies;
my $skew = delete $found{skew};
foreach my $name (qw(G0 G1a G1b G1c lost order snapshot))
{
	my @what = @{ $found{$name} || [] };
	is(join("\n", map { substr $_, 0, 200 } @what[ 0 .. (@what > 5 ? 4 : $#what) ]), '', "history: no $name");
}

my %counts = $history->counts;
my $all = 0;
$all += $_ foreach values %counts;
ok($all > 10 * $minutes, 'there was load');
note map { sprintf "%-20s %d\n", $_, $counts{$_} } sort keys %counts;
note 'faults: ', join ', ', map { "$_ $count{$_}" } sort keys %count;
note sprintf "seed %d: %d transactions, %d COMMITs without an answer, %d reads without a snapshot saw half of a commit, "
  . "all clean %.1f s after healing, sagas and TCC %.1f s; scanner %s kB", $seed, $all, $unknown, scalar(@{ $skew || [] }), $clean, $flows_clean,
  $size ? $size->{memory} : '?';
unlink glob "$dir/*" if Test::More->builder->is_passing;
done_testing();
