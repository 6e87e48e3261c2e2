/*
 * lives.pml
 *		A coordinator that is followed by another incarnation of itself: a
 *		restart, a promoted standby that has everything, one that lacks the last
 *		commit, a backup recovered to some point, or a copy that runs beside it.
 *
 * One transaction over two nodes, prepared on both by the original, which
 * decides, or does not, and then may end.  The follower has the decision only
 * if it was not lost on the way.  It sends nothing until it is trusted or
 * adopted, and of a life that may have had more commits than it knows it holds
 * what it cannot prove, until an operator who knows the truth says so.
 */
#define N 2

mtype = { prepared, committed, aborted };
mtype = { nothing, restart, promotion, lossy, restore, copy };

mtype branch[N] = prepared;
bool decided = false;			/* by the original: the truth */
bool original = true;			/* it runs */
mtype step = nothing;			/* how the follower came to be */
bool has_row = false;			/* the follower has the decision */
bool adopted = false;			/* as the coordinator: the original is gone */
bool vouched = false;			/* for the earlier life: no commit of it is missing */
bool setting;					/* dtx.synchronous_failover */
bool held[N];

#ifdef COPY_IS_RESTART
#define looks_like_restart (step == restart || step == copy)
#else
#define looks_like_restart (step == restart)
#endif

inline check()
{
	assert(!(branch[0] == committed && branch[1] == aborted));
	assert(!(branch[1] == committed && branch[0] == aborted));
	assert(!(decided && (branch[0] == aborted || branch[1] == aborted)));
	assert(!(!decided && (branch[0] == committed || branch[1] == committed)));
}

proctype Original()
{
	byte i = 0;

	if
	:: atomic { original -> decided = true }
	:: true -> skip				/* it aborts */
	fi;
finish:
	do
	:: i < N && original ->
		if
		:: atomic { original && branch[i] == prepared ->
			if :: decided -> branch[i] = committed :: else -> branch[i] = aborted fi; check() }
		:: true -> skip
		fi;
		i++
	:: i == N || !original -> break
	od
}

/* The follower begins, from what the original had then or earlier. */
proctype Follower()
{
	byte i;

	if
	:: atomic { original = false; step = restart; has_row = decided }
	:: atomic { original = false; step = promotion; has_row = decided }
	/* a standby that was not synchronous, a backup: a commit may be missing */
	:: atomic { original = false; step = lossy; if :: has_row = decided :: has_row = false fi }
	:: atomic { original = false; step = restore; if :: has_row = decided :: has_row = false fi }
	/* the original goes on, and decides after the copy was made */
	:: atomic { step = copy; has_row = decided }
	fi;

life_start:						/* dtx_life_start */
	atomic {
		/* the setting says that every standby is synchronous; people are right about it */
		setting = (step == promotion);
#ifdef LOSSY_IS_SYNCHRONOUS
		setting = (step == promotion || step == lossy);
#endif
#ifdef RESTORE_IS_PROMOTION
		setting = (step == promotion || step == restore);
#endif
		if
		:: looks_like_restart -> adopted = true; vouched = true
		:: !looks_like_restart && setting -> adopted = true; vouched = true
		:: else -> skip
		fi };

resolver:
end_resolver:
	do
	:: atomic { (branch[0] == prepared || branch[1] == prepared) && adopted ->
		if :: branch[0] == prepared -> i = 0 :: branch[1] == prepared -> i = 1 fi;
claim:							/* dtx_life_claim, decide */
		if
		:: has_row -> branch[i] = committed; check()
#ifdef PRESUMED_ABORT_OVER_LIVES
		:: !has_row -> branch[i] = aborted; check()
#else
		:: !has_row && vouched -> branch[i] = aborted; check()
		:: !has_row && !vouched -> held[i] = true; goto wait
#endif
		fi }
	od;
wait:
end_wait:
	(vouched || has_row) -> goto resolver
}

/* Somebody who knows what happened: the original is off, and whether it had decided. */
proctype Operator()
{
end_operator:
	atomic { step != nothing && !adopted ->
		original = false;		/* made sure of, before dtx.adopt */
		adopted = true };
end_resolve:
	atomic { adopted && !vouched && (held[0] || held[1]) ->
		/* dtx.adopt(earlier life) if nothing is missing, else dtx.resolve */
		if
		:: decided == has_row -> vouched = true
		:: decided && !has_row -> has_row = true
		fi }
}

proctype Quiet()
{
end_quiet:
	timeout -> assert(step == nothing || original ||
		(branch[0] != prepared && branch[1] != prepared))
}

init
{
	atomic { run Original(); run Follower(); run Operator(); run Quiet() }
}
