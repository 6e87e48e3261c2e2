/*
 * commit.pml
 *		Atomic commit: one global transaction over two nodes, by a session, two
 *		resolvers, a crash of the coordinator, and somebody who asks.
 *
 * What may happen: any PREPARE is refused, arrives late, or not at all; any
 * COMMIT PREPARED is lost; the session ends at any moment; the server crashes
 * at any moment, its xid is handed out again if it was not durable; a node
 * fails over and has lost a COMMIT PREPARED (LOSSY_NODE) or a PREPARE
 * (LOSSY_PREPARE); the client chooses two phases, one phase, or PREPARE
 * TRANSACTION, which somebody else ends later (subtree).
 *
 * A mutant is a weakening, by a symbol; each has to be refuted.  Labels are
 * those of the table in docs/architecture.md.
 */
#define N 2

mtype = { work, prepared, committed, aborted, lost, only_read };	/* a branch */
mtype = { running, local_prepared, decided, rolled_back };	/* the transaction here */
mtype = { none, yes, no };						/* an answer */
mtype = { two_phase, one_phase, subtree };

mtype branch[N] = work;
mtype answer[N] = none;
bool preparing[N];				/* PREPARE, or COMMIT in one phase, is under way */
bool done[N];					/* proven committed, as far as the coordinator knows */
bool held[N];

mtype here = running;
mtype kind = two_phase;
bool flushed = false;			/* the commit record here is on disk */
bool forgotten = false;			/* the status row is deleted */
bool alive = true;				/* the session */
bool phase_two = false;			/* its slot in shared memory */
bool crashed = false;			/* there was a restart: another life */
bool xid_again = false;			/* the xid was handed out once more, and committed */
bool told_committed = false;	/* the client was */
bool local_wrote = false;		/* the coordinator has rows of its own */
mtype heard = none;				/* what somebody was told by dtx.outcome: yes, no */
bool failed_over = false;

#define row_visible (here == decided && !forgotten)
#define in_progress ((here == running && alive) || here == local_prepared)
#define writers_are_two (kind != one_phase)

#ifdef ONE_PHASE_OF_TWO
#define others_answered (answer[1] == yes)
#else
#define others_answered true
#endif

/* I1, I2: all or nothing, and as the coordinator has decided */
inline check()
{
	assert(!(branch[0] == committed && branch[1] == aborted));
	assert(!(branch[1] == committed && branch[0] == aborted));
	assert(!(here == decided && (branch[0] == aborted || branch[1] == aborted)));
	assert(!(here == rolled_back && writers_are_two &&
		(branch[0] == committed || branch[1] == committed)));
	assert(!(here == rolled_back && local_wrote && branch[0] == committed));
	assert(!(told_committed && here != decided && kind != one_phase));
	assert(!(told_committed && kind == one_phase && branch[0] == aborted));
}

/* ---------------------------------------------------------------- a node */

proctype Node(byte i)
{
end_node:
	do
	/* a PREPARE arrives, now or late; the answer reaches the session if it is there */
	:: atomic { branch[i] == work && preparing[i] && kind != one_phase ->
		preparing[i] = false;
		if
		:: branch[i] = prepared;
			if :: alive && !crashed -> answer[i] = yes :: true -> skip fi
		:: branch[i] = aborted;
#ifdef NO_TAG
			/* the command tag is not looked at: ROLLBACK passes for PREPARE */
			if :: alive && !crashed -> answer[i] = yes :: true -> skip fi
#else
			if :: alive && !crashed -> answer[i] = no :: true -> skip fi
#endif
		fi;
		check() }
	/* one phase: the node's commit is the decision */
	:: atomic { branch[i] == work && preparing[i] && kind == one_phase ->
		preparing[i] = false;
		if
		:: branch[i] = committed;
			if :: alive && !crashed -> answer[i] = yes :: true -> skip fi
		:: branch[i] = aborted;
			if :: alive && !crashed -> answer[i] = no :: true -> skip fi
		fi;
		check() }
	/* nobody is at the other end any more */
	:: atomic { branch[i] == work && !preparing[i] && (!alive || crashed) ->
		branch[i] = aborted; check() }
#ifdef LOSSY_NODE
	/* promoted from a standby that has the PREPARE and not the COMMIT PREPARED */
	:: atomic { branch[i] == committed && kind != one_phase && !failed_over ->
		failed_over = true; branch[i] = prepared }
#endif
#ifdef LOSSY_PREPARE
	:: atomic { branch[i] == prepared && !failed_over ->
		failed_over = true; branch[i] = lost }
#endif
	od
}

/* ----------------------------------------------------------- the session */

/* abort_callback: tells nodes without waiting; what it cannot tell is left */
inline abort_callback()
{
	here = rolled_back;
	phase_two = false;
	check()
}

proctype Session()
{
	byte i = 0;

	if
	:: kind = two_phase
	:: kind = one_phase
	:: kind = subtree
	fi;
#ifdef ONE_PHASE_WITH_LOCAL
	if :: kind == one_phase -> local_wrote = true :: else -> skip fi;
#endif
	if
	:: atomic { kind == one_phase ->
#ifdef ONE_PHASE_OF_TWO
		/* two writers, one after the other */
		preparing[0] = true; preparing[1] = true
#else
		branch[1] = only_read;
		preparing[0] = true
#endif
		}
		goto one
	:: else -> skip
	fi;

phase_one:						/* prepare_all */
	atomic { phase_two = true; preparing[0] = true; preparing[1] = true };
	do
	:: atomic { alive && !crashed && answer[0] == yes && answer[1] == yes -> break }
	:: atomic { alive && !crashed && (answer[0] == no || answer[1] == no) ->
		abort_callback(); alive = false } goto over
	:: atomic { alive && !crashed -> abort_callback(); alive = false } goto over	/* cancel, timeout */
	:: !alive || crashed -> goto over
	od;

decision:						/* record, and PostgreSQL's commit */
	if
	:: atomic { alive && !crashed && kind == two_phase ->
		here = decided;
#ifdef SYNC_OFF
		flushed = false;
#else
		flushed = true;
#endif
		check() }
	:: atomic { alive && !crashed && kind == subtree ->
		/* prepare_callback */
		here = local_prepared; flushed = true; phase_two = false; alive = false } goto over
#ifndef ABORT_AFTER_PRE_PREPARE
	:: atomic { alive && !crashed && kind == subtree ->
		/* an error after it was prepared: branches are left alone */
		here = local_prepared; flushed = true; phase_two = false; alive = false } goto over
#else
	:: atomic { alive && !crashed && kind == subtree ->
		here = local_prepared; flushed = true; phase_two = false; alive = false;
		/* the ABORT callback takes the error for an abort */
		if :: branch[0] == prepared -> branch[0] = aborted :: else -> skip fi;
		if :: branch[1] == prepared -> branch[1] = aborted :: else -> skip fi } goto over
#endif
	:: !alive || crashed -> goto over
	fi;

finish_forward:					/* commit_callback */
	do
	:: i < N && alive && !crashed ->
		if
		:: atomic { branch[i] == prepared -> branch[i] = committed; done[i] = true; check() }
		:: atomic { branch[i] == prepared -> branch[i] = committed; check() }	/* the answer is lost */
		:: true -> skip			/* so is the message */
		fi;
		i++
	:: i == N || !alive || crashed -> break
	od;
	atomic { if
	:: alive && !crashed ->
		told_committed = true;
		phase_two = false;		/* leave_to_scanner */
#ifdef FORGET_EARLY
		forgotten = true;
#else
		if :: done[0] && done[1] -> forgotten = true :: else -> skip fi;
#endif
		check()
	:: else -> skip
	fi };
	goto over;

one:							/* commit_one_phase */
	do
	:: atomic { alive && !crashed && answer[0] == yes && others_answered -> told_committed = true; here = decided; flushed = true; forgotten = true; check(); break }
	:: atomic { alive && !crashed && answer[0] == no -> here = rolled_back; break }
	:: atomic { alive && !crashed -> here = rolled_back; break }	/* 08007: not known */
	:: !alive || crashed -> break
	od;
over:
	atomic { if :: here == running && !crashed -> abort_callback() :: else -> skip fi;
		alive = false; phase_two = false }
}

/* The session is terminated, or the whole server crashes and starts again. */
proctype Crash()
{
	if
	:: atomic { alive && here == running -> alive = false; here = rolled_back; phase_two = false; check() }
	:: atomic { !crashed -> crashed = true; alive = false; phase_two = false;
		if
		:: here == running -> here = rolled_back;
			if :: xid_again = true :: true -> skip fi
		:: here == decided && !flushed ->
			/* the commit record may be lost */
			if :: here = rolled_back :: true -> skip fi
		:: else -> skip
		fi;
		check() }
	:: true -> skip
	fi
}

/* WAL is written at some time, whoever waits for it. */
proctype Flush() { end_flush: atomic { here == decided && !flushed -> flushed = true } }

/* COMMIT PREPARED or ROLLBACK PREPARED on the coordinator, from anywhere. */
proctype Ender()
{
end_ender:
	if
	:: atomic { here == local_prepared -> here = decided; check() }
	:: atomic { here == local_prepared -> here = rolled_back; check() }
	fi
}

/* ---------------------------------------------------------- the resolver */

/* A decision has the branch, and it is not prepared there. */
#define open_and_gone(k) (row_visible && !phase_two && !done[k] && !held[k] && branch[k] != prepared)

/* The node says what became of the branch's xid. */
inline check_open(k)
{
#ifdef GONE_IS_DONE
	done[k] = true
#else
	if
	:: branch[k] == committed -> done[k] = true
	:: else -> held[k] = true
	fi
#endif
}

/* One of the scanner, a node worker, dtx.recover(): over and over. */
proctype Resolver()
{
	byte i;
	bool commit;
#ifdef SNAPSHOT_FIRST
	bool seen;
#endif

again:
end_resolver:
	if
	:: branch[0] == prepared -> i = 0
	:: branch[1] == prepared -> i = 1
	:: atomic { open_and_gone(0) -> check_open(0) } goto forget
	:: atomic { open_and_gone(1) -> check_open(1) } goto forget
#ifdef ONE_LOOK
	:: !in_progress && branch[0] != prepared && branch[1] != prepared -> goto over
#endif
	fi;

listed:							/* decide */
#ifdef SNAPSHOT_FIRST
	seen = row_visible;
#endif
	if :: phase_two -> goto again :: else -> skip fi;
#ifdef AGE
	skip;						/* old enough: whatever it is */
#elif defined(SUBTREE_IS_GONE)
	if :: here == running && alive -> goto again :: else -> skip fi;
#else
	if :: in_progress -> goto again :: else -> skip fi;
#endif
	atomic {
#ifdef SNAPSHOT_FIRST
		commit = seen
#elif defined(NO_COMMIT_LOG)
		commit = row_visible
#elif defined(XID_OF_ANOTHER_LIFE)
		commit = row_visible || here == decided || xid_again
#else
		/* the row; or it is forgotten, and the commit log has the xid */
		commit = row_visible || here == decided
#endif
	};

finish:							/* job_finish, job_finished */
	atomic { if
	:: branch[i] == prepared && commit -> branch[i] = committed; done[i] = true; check()
	:: branch[i] == prepared && !commit -> branch[i] = aborted; check()
	:: else -> skip				/* gone: proves nothing */
	fi };

forget:							/* dtx_store_forget_done */
	atomic { if
	:: row_visible && done[0] && done[1] ->
		forgotten = true;
		/* gone is not committed */
		assert(branch[0] != lost && branch[1] != lost)
	:: else -> skip
	fi };
	goto again;
over:
	skip
}

/* ---------------------------------------------------------- dtx.outcome() */

proctype Asker()
{
	mtype said;
	byte times = 0;

	do
	:: times < 2 && kind != one_phase ->
		times++;
		said = none;
		if
		:: in_progress -> skip
		:: else ->
			atomic { if
#ifdef NO_ROW_IS_ABORTED
			:: row_visible -> said = yes
			:: else -> said = no
#else
			/* the row, then the commit log */
			:: here == decided -> said = yes
			:: here == rolled_back -> said = no
			:: else -> skip
#endif
			fi;
			assert(said == none || heard == none || said == heard);
			if :: said != none -> heard = said :: else -> skip fi }
		fi
	:: times == 2 || kind == one_phase -> break
	od
}

/* When nothing moves any more, nothing is left prepared that nobody holds. */
proctype Quiet()
{
end_quiet:
	timeout ->
	assert(!(branch[0] == prepared && here != local_prepared));
	assert(!(branch[1] == prepared && here != local_prepared));
	assert(!(here == decided && kind != one_phase &&
		((branch[0] == lost && !held[0] && !forgotten) || (branch[1] == lost && !held[1] && !forgotten))))
}

init
{
	atomic {
		run Node(0); run Node(1);
		run Session(); run Crash(); run Ender();
#ifdef SYNC_OFF
		run Flush();
#endif
		run Resolver();
#ifndef ONE_RESOLVER
		run Resolver();
#endif
		run Asker();
		run Quiet()
	}
}
