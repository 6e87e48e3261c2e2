# Histories of transactions that append to lists and read them, and what must
# not show in them.  The idea is that of Elle (list-append histories): since
# every value is appended once and by one transaction, a list that was read
# tells which versions came before it, and by whom.
#
#     my $h = DtxHistory->new;
#     $h->add($line) while ...;               as test/chaos/client.c writes them
#     $h->final($node, $key, \@items);        what is there at the end
#     my %found = $h->anomalies;              name => [ what, ... ]
#
# Names, after Adya: G0 (a cycle of writes), G1a (a read of what was rolled
# back), G1b (a read of what was not the last of its transaction), G1c (a cycle
# of writes and reads), lost (an update that another one did not see),
# order (a list that is not a beginning of the last one).  Cycles are looked
# for on each node: no server but a coordinator knows of others.  What the
# coordinator adds: "skew" are sums that were read without dtx.snapshot in the
# middle of a commit, which may happen; "snapshot" are sums that were read with
# it and are wrong, which may not.
package DtxHistory;

use strict;
use warnings;

sub new
{
	my ($class, %opt) = @_;
	return bless { transactions => [], final => {}, by => {}, total => $opt{total}, count => {} }, $class;
}

sub add
{
	my ($self, $line) = @_;
	chomp $line;
	my ($name, $kind, $answer, $gid, $operations) = split /\t/, $line;
	return unless defined $operations;    # of a client that was killed
	my %t = (name => $name, kind => $kind, answer => $answer, gid => $gid, operations => []);
	$self->{count}{"$kind $answer"}++;
	foreach my $operation ($operations eq '-' ? () : split / /, $operations)
	{
		my ($what, $node, $key, $value) = split /:/, $operation;
		if ($what eq 's') { $t{sum} = $node; next; }
		next if $what eq 'm';
		# operations of flows: node, and a name that is theirs alone
		if ($what =~ /^[tuf]$/) { push @{ $t{flow} }, { what => $what, node => $node, name => $key }; next; }
		push @{ $t{operations} }, { what => $what, list => "$node $key", node => $node,
			$what eq 'r' ? (items => [ split /,/, $value || '' ]) : (value => $value) };
		$self->{by}{"$node $key"}{$value} = { transaction => \%t, what => $what } if $what ne 'r';
	}
	push @{ $self->{transactions} }, \%t;
	return;
}

sub final
{
	my ($self, $node, $key, $items) = @_;
	$self->{final}{"$node $key"} = $items;
	return;
}

# For DtxInvariants: every transaction that writes, and how often each of its
# effects is there.  $ledger: gid => number of rows.
sub fates
{
	my ($self, $ledger) = @_;
	my %times;
	foreach my $list (keys %{ $self->{final} })
	{
		$times{$list}{$_}++ foreach @{ $self->{final}{$list} };
	}
	my %answer = (ok => 'committed', fail => 'aborted', unknown => 'unknown');
	return map {
		my $t = $_;
		{ gid => $t->{gid}, answer => $answer{ $t->{answer} },
			there => [ $ledger->{ $t->{gid} } || 0,
				map { $times{ $_->{list} }{ $_->{value} } || 0 } grep { $_->{what} eq 'a' } @{ $t->{operations} } ] };
	} grep { $_->{gid} ne '-' && $_->{kind} !~ /^(saga|run)$/ } @{ $self->{transactions} };
}

# What is wrong with sagas and TCC.  $state: gid of a saga => its state;
# $committed: gid of a transaction with TCC => 1; $effects: name => { what => times }.
sub flows
{
	my ($self, $state, $committed, $effects) = @_;
	my @found;
	foreach my $t (grep { $_->{flow} || $_->{kind} =~ /^(saga|run)$/ } @{ $self->{transactions} })
	{
		my $is_saga = $t->{kind} ne 'tcc';
		my $end = $is_saga ? $state->{ $t->{gid} } || 'none' : $committed->{ $t->{gid} } ? 'committed' : 'aborted';

		# what a client was told is true
		push @found, "$t->{gid}: $t->{kind} was answered \"$t->{answer}\", and is $end"
		  if $t->{kind} eq 'saga' && ($t->{answer} eq 'ok' ? $end eq 'none' : $t->{answer} eq 'fail' && $end ne 'none')
		  || $t->{kind} eq 'run' && ($t->{answer} eq 'ok' ? $end ne 'committed' : $t->{answer} eq 'fail' && $end ne 'aborted');
		push @found, "$t->{gid} is $end" if $is_saga && $end !~ /^(committed|aborted|none)$/;
		foreach my $o (@{ $t->{flow} || [] })
		{
			my %e = %{ $effects->{ $o->{name} } || {} };
			my ($do, $yes, $undo) = $is_saga ? qw(action none compensation) : qw(try confirm cancel);
			my ($did, $confirmed, $undone) = map { $e{$_} || 0 } $do, $yes, $undo;
			my $kept = $end eq 'committed' && $o->{what} ne 'u';
			push @found, "$t->{gid}, $o->{name} on $o->{node}, which is $end: " . join(', ', map { "$_ $e{$_}" } sort keys %e)
			  if $did > 1 || $confirmed > 1 || $undone > 1
			  || ($kept ? $did != 1 || $undone || (!$is_saga && $confirmed != 1) : $did != $undone || $confirmed);
		}
	}
	return @found;
}

# Did it happen?  Whoever got no answer is known by what is there.
sub _happened
{
	my ($self, $t) = @_;
	return 1 if $t->{answer} eq 'ok';
	return 0 if $t->{answer} eq 'fail';
	$t->{happened} = grep {
		my $o = $_;
		$o->{what} eq 'a' && grep { $_ == $o->{value} } @{ $self->{final}{ $o->{list} } || [] }
	} @{ $t->{operations} } unless defined $t->{happened};
	return $t->{happened};
}

# A cycle in { from => { to => 1 } }, as a list of names, or nothing.
sub _cycle
{
	my ($edges) = @_;
	my %done;
	foreach my $start (sort keys %$edges)
	{
		next if $done{$start};
		my @path = ([ $start, sort keys %{ $edges->{$start} } ]);
		my %on = ($start => 1);
		while (@path)
		{
			my $next = splice @{ $path[-1] }, 1, 1 if @{ $path[-1] } > 1;
			if (!defined $next)
			{
				my $last = pop @path;
				delete $on{ $last->[0] };
				$done{ $last->[0] } = 1;
			}
			elsif ($on{$next}) { return map { $_->[0] } @path, [$next]; }
			elsif (!$done{$next})
			{
				push @path, [ $next, sort keys %{ $edges->{$next} || {} } ];
				$on{$next} = 1;
			}
		}
	}
	return;
}

sub anomalies
{
	my ($self) = @_;
	my (%found, %ww, %wwr, %seen);
	my $add = sub { my ($name, $what) = @_; push @{ $found{$name} }, $what; };

	foreach my $list (sort keys %{ $self->{final} })
	{
		my ($node) = split / /, $list;
		my $before;
		foreach my $value (@{ $self->{final}{$list} })
		{
			my $by = $self->{by}{$list}{$value};
			if (!$by) { $add->('G1a', "$value in $list is by nobody"); next; }
			my $t = $by->{transaction};
			$add->('G1a', "$value in $list is of $t->{name}, which was rolled back")
			  if $by->{what} eq 'x' || $t->{answer} eq 'fail';
			$ww{$node}{$before}{ $t->{name} } = $wwr{$node}{$before}{ $t->{name} } = 1
			  if defined $before && $before ne $t->{name};
			$before = $t->{name};
		}
	}
	foreach my $t (grep { $self->_happened($_) } @{ $self->{transactions} })
	{
		my @operations = @{ $t->{operations} };
		if (defined $t->{sum} && defined $self->{total} && $t->{sum} != $self->{total})
		{
			$add->($t->{kind} eq 'snapshot' ? 'snapshot' : 'skew', "$t->{name} read $t->{sum}");
		}
		foreach my $i (0 .. $#operations)
		{
			my $read = $operations[$i];
			next unless $read->{what} eq 'r';
			my ($node, $list) = @$read{qw(node list)};
			my @items = @{ $read->{items} };
			my @final = @{ $self->{final}{$list} || [] };
			$add->('order', "$t->{name} read $list as @items")
			  if join(',', @items) ne join(',', @final >= @items ? @final[ 0 .. $#items ] : @final, @items > @final ? '?' : ());
			foreach my $value (@items)
			{
				my $by = $self->{by}{$list}{$value};
				$add->('G1a', "$t->{name} read $value in $list, which was rolled back")
				  if !$by || $by->{transaction}{answer} eq 'fail' || ($by->{what} eq 'x' && $by->{transaction} != $t);
			}
			if (@items && (my $by = $self->{by}{$list}{ $items[-1] }))
			{
				my $writer = $by->{transaction};
				my ($last) = reverse grep { $_->{what} eq 'a' && $_->{list} eq $list } @{ $writer->{operations} };
				$add->('G1b', "$t->{name} read $list up to $items[-1] of $writer->{name}, which went on")
				  if $writer != $t && $last && $last->{value} ne $items[-1];
				$wwr{$node}{ $writer->{name} }{ $t->{name} } = 1 if $writer != $t;
			}
			# a list that was locked, read, and written back
			my $next = $operations[ $i + 1 ];
			next unless $next && $next->{what} eq 'a' && $next->{list} eq $list;
			my @others = grep { my $by = $self->{by}{$list}{$_}; $by && $by->{transaction} != $t } @items;
			my $version = "$list after " . (@others ? $others[-1] : 'nothing') . ' of ' . scalar(@others);
			$add->('lost', "$t->{name} and $seen{$version} both changed $version")
			  if $seen{$version} && $seen{$version} ne $t->{name};
			$seen{$version} = $t->{name};
		}
	}
	foreach my $node (sort keys %wwr)
	{
		my @g0 = _cycle($ww{$node} || {});
		my @g1c = _cycle($wwr{$node});
		$add->('G0', "on $node: " . join ' -> ', @g0) if @g0;
		$add->('G1c', "on $node: " . join ' -> ', @g1c) if @g1c;
	}
	return %found;
}

sub counts { return %{ $_[0]->{count} }; }

1;
