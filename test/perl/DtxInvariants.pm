# What must hold after every run: the invariants of atomic commit, in one place.
#
#     use DtxInvariants;
#     my %broken = DtxInvariants::broken($c, kept => 3);
#
# DtxCluster's check_invariants makes tests of them.  Each is a function that
# returns what is wrong, one string for each violation; all servers have to be
# up.  t/112_checker.pl plants violations to see them found.
#
#     I1   atomicity                all branches of a transaction or none; "fates"
#     I2   decisions are stable     dtx.outcome says what it said; "outcomes"
#     I3   no orphan                nothing of dtx is prepared anywhere
#     I4   no false resolution      no branch of a committed transaction was rolled back
#     I5   no double apply          a value of "fates" is there once; what steps of sagas did (DtxSaga.pm)
#                                   is there once, and not at all after they were undone
#     I7   conservation             money is neither lost nor made, nothing is negative
#     I8   nobody else's            prepared transactions in "foreign" are still there
#     I9   no crash by a bug        PANIC, assertions, sanitizers, a COMMIT that hangs
#     I10  horizons                 no transaction of dtx stays open
#     I11  the journal is bounded   dtx.decision is empty, dtx.committed has "kept" rows
#     I12  what is stuck is seen    every row of dtx.stuck has age, reason and call
#     I13  no secret                the planted password is in no log and no view
#     I14  flat                     the scanner's memory and connections; "scanner"
#
# I6 is about messages, which do not exist yet.  I15, the branch's xid at PREPARE
# is that of its first statement, is what the marker in every branch guards: see
# t/109_meddling.pl and the regression test "borrow".
package DtxInvariants;

use strict;
use warnings;

use List::Util qw(sum);

# In the order in which they are looked at.
our @all = (
	[ I3  => 'no transaction is left prepared',          \&orphans ],
	[ I7  => 'no money was lost or made',                \&conservation ],
	[ I11 => 'dtx.decision has forgotten what is over',  \&journal ],
	[ I1  => 'every transaction is there whole or not at all', \&atomicity ],
	[ I2  => 'no outcome has changed',                   \&stability ],
	[ I4  => 'nothing committed was rolled back',        \&false_resolution ],
	[ I5  => 'no step of a saga was applied twice, or half',    \&effects ],
	[ I8  => 'what is somebody else\'s was left alone',  \&foreign ],
	[ I9  => 'no server has crashed by a bug, no COMMIT hangs', \&crashes ],
	[ I10 => 'no transaction of dtx stays open',         \&horizons ],
	[ I12 => 'what is stuck says why, and what to call', \&stuck ],
	[ I13 => 'no password is to be seen',                \&secrets ],
	[ I14 => 'the scanner is as large as it was',        \&scanner ]);

# name => violations, of those that have any.
sub broken
{
	my ($c, %opt) = @_;
	return map {
		my @found = $_->[2]->($c, %opt);
		@found ? ($_->[0] => \@found) : ()
	} @all;
}

sub lines { return split /\n/, $_[0]; }

sub orphans
{
	my ($c, %opt) = @_;
	my @stuck = $opt{stuck} ? lines($c->as_super(q{SELECT gid || '_' || to_hex(branch) FROM dtx.stuck WHERE gid IS NOT NULL})) : ();
	my @left;
	$c->poll_until(sub {
		@left = grep { my $l = $_; !grep { index($l, $_) >= 0 } @stuck } $c->prepared;
		return !@left;
	}, $opt{timeout} || 60);
	return map { "prepared on $_" } @left;
}

sub conservation
{
	my ($c, %opt) = @_;
	my @names = @{ $c->{names} };
	my $wanted = $opt{total} || DtxCluster::opening_balance() * @names;
	my $total = $c->total;
	return (($total == $wanted ? () : "there are $total, and should be $wanted"),
		map {
			my $n = $c->as_super('SELECT count(*) FROM account WHERE balance < 0', node => $_);
			$n > 0 ? "$n accounts of $_ are negative" : ()
		} @names);
}

sub journal
{
	my ($c, %opt) = @_;
	my $rows = sub { $c->as_super('SELECT count(*) FROM dtx.decision') };
	$c->poll_until(sub { $rows->() == 0 }, $opt{timeout} || 60);
	my $left = $rows->();
	my $kept = defined $opt{kept} ? $c->as_super('SELECT count(*) FROM dtx.committed') : 0;
	return (($left ? "$left rows in dtx.decision" : ()),
		(defined $opt{kept} && $kept != $opt{kept} ? "$kept outcomes are kept, and should be $opt{kept}" : ()));
}

# fates => [ { gid, answer => committed | aborted | unknown,
#              there => [ how often each of its effects is there ] }, ... ]
sub atomicity
{
	my ($c, %opt) = @_;
	my @found;
	foreach my $t (@{ $opt{fates} || [] })
	{
		my @there = @{ $t->{there} };
		my $sum = sum(0, @there);
		push @found, "$t->{gid}: an effect is there more than once" if grep { $_ > 1 } @there;
		push @found, "$t->{gid} is there in part: @there" if $sum > 0 && grep { $_ == 0 } @there;
		push @found, "$t->{gid}: the client heard COMMIT, and it is not there"
		  if $t->{answer} eq 'committed' && @there && $sum == 0;
		push @found, "$t->{gid}: the client heard an error, and it is there"
		  if $t->{answer} eq 'aborted' && $sum > 0;
	}
	return @found;
}

# What steps of sagas have written down, where tests have DtxSaga.pm.  A saga
# that is not over may have done a part.
sub effects
{
	my ($c, %opt) = @_;
	return unless $c->as_super(q{SELECT to_regclass('public.effect') IS NOT NULL}) eq 't';
	my (%count, @found);
	foreach my $name (@{ $c->{names} })
	{
		foreach (lines($c->as_super(q{SELECT gid, step, operation, count(*) FROM effect WHERE gid IS NOT NULL
			GROUP BY 1, 2, 3}, node => $name)))
		{
			my ($gid, $step, $operation, $count) = split /\|/;
			push @found, "$gid: $operation of $step on $name was applied $count times" if $count > 1;
			$count{$gid}{$step}{$operation} += $count;
		}
	}
	my %state = map { split /\|/ } lines($c->as_super(q{SELECT gid, state FROM dtx.transactions WHERE pattern = 'saga'}));
	my %done;
	foreach (lines($c->as_super(q{SELECT gid, name FROM dtx.steps WHERE pattern = 'saga' AND state = 'done' AND operation = 'action'})))
	{
		my ($gid, $step) = split /\|/;
		$done{$gid}{$step} = 1;
	}
	foreach my $gid (sort keys %count)
	{
		# forgotten, or of another test
		my $state = $state{$gid} or next;
		foreach my $step (sort keys %{ $count{$gid} })
		{
			my $did = $count{$gid}{$step}{action} || 0;
			my $undid = $count{$gid}{$step}{compensation} || 0;
			push @found, "$gid: $step was compensated without having been done" if $undid > $did;
			push @found, "$gid is committed, and $step was compensated" if $state eq 'committed' && $undid;
			push @found, "$gid is committed, and $step was done, but not settled" if $state eq 'committed' && !$done{$gid}{$step};
			push @found, "$gid is aborted, and $step was not compensated" if $state eq 'aborted' && $did && !$undid;
		}
	}
	return @found;
}

# outcomes => { gid => what dtx.outcome has said }
sub stability
{
	my ($c, %opt) = @_;
	my %said = %{ $opt{outcomes} || {} };
	return unless %said;
	my $values = join ', ', map { "('$_')" } sort keys %said;
	my %now = map { split /\|/ } lines($c->as_super(
		"SELECT gid, dtx.outcome(gid) FROM (VALUES $values) v(gid)"));
	return map { "$_ was $said{$_}, and is $now{$_}" }
	  grep { $said{$_} =~ /^(committed|aborted)$/ && $now{$_} ne $said{$_} } sort keys %said;
}

sub false_resolution
{
	my ($c, %opt) = @_;
	return if defined $opt{log} && !$opt{log};
	my %rolled = map { /branch "(dtx_\w+)_[0-9a-f]+" on node "\w+" rolled back/ ? ($1 => 1) : () }
	  $c->log_grep(qr/rolled back/, $c->{coordinator});
	return unless %rolled;
	my $values = join ', ', map { "('$_')" } sort keys %rolled;
	return map { "a branch of $_ was rolled back" } lines($c->as_super(
		"SELECT gid FROM (VALUES $values) v(gid) WHERE dtx.outcome(gid) = 'committed'"));
}

# foreign => [ "node gid", ... ]
sub foreign
{
	my ($c, %opt) = @_;
	return map {
		my ($node, $gid) = split / /, $_, 2;
		$c->as_super("SELECT count(*) FROM pg_prepared_xacts WHERE gid = '$gid'",
			node => $node, db => 'postgres') == 1 ? () : "$gid on $node is gone"
	} @{ $opt{foreign} || [] };
}

sub crashes
{
	my ($c, %opt) = @_;
	my @hanging = map {
		my $name = $_;
		map { "$name: $_" } lines($c->as_super(
			q{SELECT pid || ': ' || query FROM pg_stat_activity WHERE state = 'active' AND query ~* '^commit'
				AND clock_timestamp() - state_change > interval '60 s'}, node => $name))
	} @{ $c->{names} };
	return @hanging if defined $opt{log} && !$opt{log};
	return (@hanging, $c->log_grep(
		qr/PANIC|TRAP:|terminated by signal (4|6|7|8|11)|AddressSanitizer|runtime error:/));
}

sub horizons
{
	my ($c) = @_;
	return map {
		my $name = $_;
		map { "$name: $_" } lines($c->as_super(
			q{SELECT backend_type || ' ' || application_name || ': ' || query FROM pg_stat_activity
			   WHERE (backend_type LIKE 'dtx %' OR application_name LIKE 'dtx:%') AND backend_xmin IS NOT NULL
				 AND clock_timestamp() - xact_start > interval '60 s'}, node => $name))
	} @{ $c->{names} };
}

sub stuck
{
	my ($c) = @_;
	return map { "dtx.stuck says too little of $_" } lines($c->as_super(
		q{SELECT COALESCE(gid, '?') FROM dtx.stuck WHERE age IS NULL OR reason IS NULL OR call IS NULL}));
}

sub secrets
{
	my ($c, %opt) = @_;
	my $password = $DtxCluster::password;
	my @views = lines($c->as_super(q{SELECT c.oid::regclass FROM pg_class c
		WHERE c.relnamespace = 'dtx'::regnamespace AND c.relkind IN ('r', 'v')
		  AND c.relname NOT IN ('waits')}));
	my $sql = join ' UNION ALL ', map { "SELECT '$_' FROM $_ t WHERE t::text LIKE '%$password%'" } @views;
	my @found = map { "it is in $_" } lines($c->as_super($sql));
	return @found if defined $opt{log} && !$opt{log};
	return (@found, $c->log_grep(qr/\Q$password\E/));
}

# scanner => { memory => kB at the start, connections => at the start }
sub scanner
{
	my ($c, %opt) = @_;
	my $was = $opt{scanner} or return;
	my $is = scanner_size($c) or return;
	# twice as much may be caches; what leaks in a long run is more
	return (($is->{memory} > 2 * $was->{memory} + 20_000 ? "it has $is->{memory} kB, and had $was->{memory}" : ()),
		($is->{sockets} > $was->{sockets} + 2 * @{ $c->{nodes} } + 4 ? "it has $is->{sockets} sockets, and had $was->{sockets}" : ()));
}

# What the scanner needs now, of its own; undef if none runs.
sub scanner_size
{
	my ($c) = @_;
	my $pid = $c->as_super(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dtx scanner'
		AND datname = 'bank'});
	return unless $pid && open my $status, '<', "/proc/$pid/status";
	my ($anonymous) = map { /^RssAnon:\s+(\d+)/ ? $1 : () } <$status>;
	my $sockets = grep { (readlink($_) || '') =~ /^socket:/ } glob "/proc/$pid/fd/*";
	return { pid => $pid, memory => $anonymous || 0, sockets => $sockets };
}

1;
