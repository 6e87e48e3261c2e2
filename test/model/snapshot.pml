/*
 * snapshot.pml
 *		Reads over nodes between the second phases of a coordinator's commits
 *		(dtx.snapshot), and restore points at such a moment.
 *
 * Two transactions over two nodes: one is committed by a session, or left to the
 * scanner half-way, the other was prepared here and is ended by somebody else.  One
 * reader, who takes a snapshot of each node, or names a restore point on the
 * coordinator and on each node.
 */
#define T 2
#define N 2

bool on_node[4];				/* T * N: committed there */
bool decided[T];
bool finished[T];				/* its session, or the scanner, has seen all of it */
bool forgotten[T];

byte sessions = 0;				/* holders of the quiet lock */
byte scanners = 0;
bool held_off = false;			/* no session begins a phase two */
bool alone = false;				/* no scanner either */

#define at(t, n) on_node[(t) * N + (n)]

/* the reader cannot go on: for a snapshot it may be unknown that it is forgotten */
#ifdef POINT
#define open(t) (decided[t] && !forgotten[t])
#else
#define open(t) (decided[t] && !finished[t])
#endif

inline hold_off() {				/* dtx_quiet_hold_off */
#ifndef NO_LOCK
	atomic { !held_off -> sessions++ }
#else
	sessions++
#endif
}

/* Reader: waits until nothing is left, then nobody does anything. */
inline hold_up() {
	skip;
look:							/* dtx_quiet_begin */
	atomic { sessions == 0 && !held_off -> held_off = true };
#ifdef UNFINISHED_IS_FINE
	atomic { scanners == 0 -> alone = true }
#else
rest:							/* come_to_rest */
	if
	:: !open(0) && !open(1) -> skip
	:: open(0) || open(1) -> held_off = false; goto look
	fi;
	atomic { scanners == 0 -> alone = true }	/* dtx_quiet_alone */
#ifndef ONE_LOOK
	;
	if
	:: open(0) || open(1) -> alone = false; goto rest	/* dtx_quiet_admit */
	:: else -> skip
	fi
#endif
#endif
}

proctype Session(byte t)
{
	hold_off();
	decided[t] = true;
	if
	:: at(t, 0) = true;
		if
		:: at(t, 1) = true; atomic { finished[t] = true }
		:: true -> skip			/* left to the scanner */
		fi
	:: true -> skip
	fi;
	if :: finished[t] -> forgotten[t] = true :: else -> skip fi;
	sessions--
}

/* COMMIT PREPARED of a local transaction: its branches are the scanner's. */
proctype Ender(byte t) { decided[t] = true }

proctype Scanner()
{
	byte t;
	byte n;

end_scanner:
	do
	:: atomic { decided[0] && !finished[0] && !(at(0, 0) && at(0, 1)) -> t = 0 };
		goto finish
	:: atomic { decided[1] && !finished[1] && !(at(1, 0) && at(1, 1)) -> t = 1 };
		goto finish
	:: atomic { decided[0] && !finished[0] && at(0, 0) && at(0, 1) -> finished[0] = true; forgotten[0] = true }
	:: atomic { decided[1] && !finished[1] && at(1, 0) && at(1, 1) -> finished[1] = true; forgotten[1] = true }
	od;
finish:							/* may_finish, job_finish, finish_over */
#ifdef SCANNER_IGNORES
	if :: n = 0 :: n = 1 fi;
	at(t, n) = true;
#else
	atomic { !alone -> scanners++ };	/* dtx_quiet_enter */
	if :: n = 0 :: n = 1 fi;
	at(t, n) = true;
	scanners--;
#endif
	goto end_scanner
}

proctype Reader()
{
	bool seen[4];
	byte n = 0;

	hold_up();
	do
	:: n < N -> atomic { seen[n] = at(0, n); seen[N + n] = at(1, n); n++ }
	:: n == N -> break
	od;
	alone = false;
	held_off = false;
	assert(seen[0] == seen[1]);
	assert(seen[2] == seen[3])
}

/* After recovery to the point: what the coordinator knows, and what nodes have. */
proctype Point()
{
	bool knows[T];
	bool gone[T];
	bool has[4];
	byte n = 0;

	hold_up();
#ifdef NODES_FIRST
	do
	:: n < N -> atomic { has[n] = at(0, n); has[N + n] = at(1, n); n++ }
	:: n == N -> break
	od;
#endif
	atomic { knows[0] = decided[0]; knows[1] = decided[1]; gone[0] = forgotten[0]; gone[1] = forgotten[1] };
#ifndef NODES_FIRST
	do
	:: n < N -> atomic { has[n] = at(0, n); has[N + n] = at(1, n); n++ }
	:: n == N -> break
	od;
#endif
	alone = false;
	held_off = false;
	/* what a node has committed, the coordinator has decided, and forgotten:
	   nobody could prove it after the recovery; what it has forgotten, all
	   nodes have committed */
	assert(!((has[0] || has[1]) && !(knows[0] && gone[0])));
	assert(!((has[2] || has[3]) && !(knows[1] && gone[1])));
	assert(!(gone[0] && !(has[0] && has[1])));
	assert(!(gone[1] && !(has[2] && has[3])))
}

init
{
	atomic { run Session(0); run Ender(1); run Scanner();
#ifdef POINT
		run Point()
#else
		run Reader()
#endif
	}
}
