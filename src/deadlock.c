/*-------------------------------------------------------------------------
 *
 * deadlock.c
 *		Deadlocks over several nodes.
 *
 *		PostgreSQL finds cycles of waits within one server.  A global
 *		transaction waits on one server and holds locks on another, so that
 *		nobody sees a cycle that goes through it.  When a session has waited for
 *		a node, or here, for longer than dtx.deadlock_interval, the scanner has a
 *		worker of its own find out:
 *
 *		look		does anybody wait for that long, on a node with open branches or
 *					here?
 *		collect		who waits for whom, from all of them side by side
 *		search		for cycles; what belongs to one session's global transaction is
 *					one vertex
 *		collect		once more, a moment later
 *		choose		the youngest transaction of a cycle that is still the same; over
 *					several coordinators, which see no other's age, the one whose wait
 *					began last
 *
 *		The chosen one's session raises 40P01 (session.c).
 *
 * (1) A cycle counts when each of its waits was there in two collections with
 *	   the same process, transaction and beginning: no wait of a moment ago is
 *	   taken for one of now.  Each session of it waited all the time between,
 *	   and so for one and the same transaction.  What an earlier one of the
 *	   session has left on a node, a process that has not heard of its end or
 *	   a prepared branch, is not the session (separate_former()).
 * (2) A node that does not answer is left out, with all its waits: less is
 *	   found then, but nothing wrong.
 * (3) A cycle within one server through processes alone is left to that
 *	   server.
 * (4) A transaction of another coordinator is left to that one's scanner, which
 *	   sees the same cycle; if it does not, one of ours gives way after all.
 * (5) While no session waits for long nothing is sent to any node.
 * (6) Connecting can block: that is why the scanner does not do it itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "deadlock.h"
#include "fault.h"
#include "guc.h"
#include "node.h"
#include "remote.h"
#include "resolver.h"
#include "session.h"
#include "store.h"

/* A node that takes longer to answer is left out: to the look, to the rest. */
#define LOOK_MS 500
#define ANSWER_MS 2000
/* Between the two collections. */
#define PAUSE_MS 100
/* So long another coordinator has to act. */
#define LEFT_TO_OTHERS_MS 5000
#define REMEMBERED 16
/* So much of a statement is shown. */
#define STATEMENT_SHOWN 200

/* A place where processes wait. */
typedef struct Place
{
	char	   *node;			/* NULL: this server */
	Oid			serverid;
	DtxConnection *connection;
	bool		answered;
} Place;

/* Who waits, or is waited for. */
typedef struct Vertex
{
	uint64		life;			/* a session with a global transaction, or zero: */
	uint32		session;
	uint64		nonce;			/* not zero: an earlier transaction of it, prepared */
	int			place;
	int			pid;
} Vertex;

typedef struct Wait
{
	int			place;
	Vertex		waiter;
	Vertex		blocker;
	int			waiter_pid;
	int			blocker_pid;	/* 0: a prepared transaction */
	char	   *key;			/* process, transaction, beginning */
	uint64		began;			/* microseconds, by the clock over there */
	char	   *lock;
	char	   *user;
	char	   *statement;
	double		seconds;
	double		waiter_age;		/* of its transaction, in seconds; -1: unknown */
	double		blocker_age;
	uint64		blocker_nonce;	/* of a prepared transaction */
	int			mark;			/* of the search */
} Wait;

/* -------------------------------------------------------------- collecting */

#define LOOK_SQL \
	"SELECT pg_catalog.concat(pg_catalog.count(*), ','," \
	" (pg_catalog.to_regprocedure('dtx.sessions()') IS NOT NULL)::int)" \
	" FROM pg_catalog.pg_locks WHERE NOT granted AND waitstart OPERATOR(pg_catalog.<)" \
	" (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => %.3f))"

/*
 * Each wait and who is in its way.  pg_blocking_pids has 0 for prepared
 * transactions: those that hold a lock on the same thing in a mode that is in
 * conflict.
 */
#define WAIT_COLUMNS 13
static const char wait_sql[] =
"WITH conflict(wanted, held) AS (VALUES"
" ('AccessShareLock', '{AccessExclusiveLock}'::text[]),"
" ('RowShareLock', '{ExclusiveLock,AccessExclusiveLock}'),"
" ('RowExclusiveLock', '{ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),"
" ('ShareUpdateExclusiveLock', '{ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),"
" ('ShareLock', '{RowExclusiveLock,ShareUpdateExclusiveLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),"
" ('ShareRowExclusiveLock', '{RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),"
" ('ExclusiveLock', '{RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'),"
" ('AccessExclusiveLock', '{AccessShareLock,RowShareLock,RowExclusiveLock,ShareUpdateExclusiveLock,ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}')),"
" locks AS MATERIALIZED (SELECT * FROM pg_locks),"
" waits AS (SELECT DISTINCT ON (pid) * FROM locks WHERE NOT granted AND pid IS NOT NULL AND waitstart IS NOT NULL ORDER BY pid)"
" SELECT DISTINCT w.pid::text, %s, a.backend_xid::text, (EXTRACT(epoch FROM w.waitstart) * 1000000)::bigint::text,"
" w.mode || ' on ' || w.locktype || COALESCE(' ' || w.transactionid::text,"
"  CASE WHEN w.database = (SELECT oid FROM pg_database WHERE datname = current_database()) THEN ' ' || w.relation::regclass::text"
"  ELSE ' ' || w.relation::text END, ''),"
" b.pid::text, %s, p.gid, a.usename::text, a.query,"
" EXTRACT(epoch FROM clock_timestamp() - w.waitstart)::text,"
" %s, %s"
" FROM waits w JOIN pg_stat_activity a ON a.pid = w.pid"
" CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b(pid)"
" LEFT JOIN pg_stat_activity c ON c.pid = b.pid AND b.pid <> 0"
"%s"
" LEFT JOIN LATERAL (SELECT x.gid FROM locks h"
"  JOIN conflict k ON k.wanted = w.mode AND h.mode = ANY (k.held)"
"  JOIN locks t ON t.pid IS NULL AND t.locktype = 'transactionid' AND t.granted AND t.virtualtransaction = h.virtualtransaction"
"  JOIN pg_prepared_xacts x ON x.transaction = t.transactionid"
"  WHERE b.pid = 0 AND h.pid IS NULL AND h.granted AND h.locktype = w.locktype"
"  AND h.database IS NOT DISTINCT FROM w.database AND h.relation IS NOT DISTINCT FROM w.relation"
"  AND h.page IS NOT DISTINCT FROM w.page AND h.tuple IS NOT DISTINCT FROM w.tuple"
"  AND h.virtualxid IS NOT DISTINCT FROM w.virtualxid AND h.transactionid IS NOT DISTINCT FROM w.transactionid"
"  AND h.classid IS NOT DISTINCT FROM w.classid AND h.objid IS NOT DISTINCT FROM w.objid"
"  AND h.objsubid IS NOT DISTINCT FROM w.objsubid) p ON true";

#define AGE(process) "EXTRACT(epoch FROM clock_timestamp() - " process ".xact_start)::text"

/*
 * Where dtx is installed, sessions that coordinate have a name as well; it is
 * that of what they have open, whose age here says nothing.
 */
static char *
make_wait_sql(bool has_sessions)
{
	return psprintf(wait_sql,
					has_sessions ? "COALESCE(s.identity, a.application_name)" : "a.application_name",
					has_sessions ? "COALESCE(r.identity, c.application_name)" : "c.application_name",
					has_sessions ? "CASE WHEN s.identity IS NULL THEN " AGE("a") " END" : AGE("a"),
					has_sessions ? "CASE WHEN r.identity IS NULL THEN " AGE("c") " END" : AGE("c"),
					has_sessions ? " LEFT JOIN dtx.sessions() s ON s.pid = a.pid LEFT JOIN dtx.sessions() r ON r.pid = c.pid" : "");
}

/* A session of a coordinator by its name, or the process itself. */
static void
set_vertex(Vertex *vertex, int place, int pid, const char *identity)
{
	memset(vertex, 0, sizeof(Vertex));
	if (identity != NULL && dtx_identity_parse(identity, &vertex->life, &vertex->session))
		return;
	vertex->life = 0;
	vertex->session = 0;
	vertex->place = place;
	vertex->pid = pid;
}

static bool
same_vertex(const Vertex *a, const Vertex *b)
{
	return a->life == b->life && a->session == b->session &&
		a->nonce == b->nonce && a->place == b->place && a->pid == b->pid;
}

/* Of what a branch was sent, the part that is not dtx's own. */
static char *
users_part(char *statement)
{
	char	   *own = strstr(statement, "EXECUTE dtx_begin(");
	char	   *rest;

	if (own == NULL)
		own = strstr(statement, "SET LOCAL dtx.branch = '");
	rest = own ? strstr(own, "; ") : NULL;
	if (rest != NULL)
		statement = rest + 2;
	statement[pg_mbcliplen(statement, (int) strlen(statement), STATEMENT_SHOWN)] = '\0';
	return statement;
}

/* What a session of this server has open; NULL if that is not known here. */
static const DtxSession *
session_of(List *sessions, const Vertex *vertex)
{
	ListCell   *cell;

	if (vertex->nonce != 0)
		return NULL;
	foreach(cell, sessions)
	{
		const DtxSession *session = lfirst(cell);

		if (session->name.life == vertex->life &&
			DTX_NONCE_SESSION(session->name.nonce) == vertex->session)
			return session;
	}
	return NULL;
}

/*
 * Is a transaction on a node, of that age in seconds, older than the global one
 * that its session has open?  Each age is by the clock of one server, and the
 * global one's is taken after the other, so that it is not the smaller one for
 * a branch of its own; clocks may differ in speed.
 */
static bool
is_older(double age, const DtxSession *session, TimestampTz now)
{
	double		open = (double) (now - (TimestampTz) session->name.begun) / USECS_PER_SEC;

	return age >= 0 && open >= 0 && age > open * 1.01;
}

/*
 * Not everything under a session's name is of the transaction that it has open.
 * The process of a connection that was lost may not have heard of it, and has
 * the locks of an earlier transaction; so has a branch that is still to be
 * committed.  They stand for themselves: they go away by themselves, or by the
 * scanner, and nobody who waits for them waits for the session.
 * sessions are those of after the collection.
 */
static void
separate_former(List *waits, List *sessions)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *cell;

	foreach(cell, waits)
	{
		Wait	   *wait = lfirst(cell);
		const DtxSession *session = session_of(sessions, &wait->waiter);

		if (session != NULL && is_older(wait->waiter_age, session, now))
			set_vertex(&wait->waiter, wait->place, wait->waiter_pid, NULL);
		session = session_of(sessions, &wait->blocker);
		if (session == NULL)
			continue;
		if (wait->blocker_nonce == 0)
		{
			if (is_older(wait->blocker_age, session, now))
				set_vertex(&wait->blocker, wait->place, wait->blocker_pid, NULL);
		}
		else if (wait->blocker_nonce != session->name.nonce)
			wait->blocker.nonce = wait->blocker_nonce;
	}
}

/* Turn a row of wait_sql into a wait. */
static List *
add_wait(List *waits, int place, char **value)
{
	Wait	   *wait = palloc0(sizeof(Wait));
	DtxGid		gid;

	wait->place = place;
	wait->waiter_pid = atoi(value[0]);
	wait->blocker_pid = value[5] ? atoi(value[5]) : 0;
	set_vertex(&wait->waiter, place, wait->waiter_pid, value[1]);
	if (wait->blocker_pid != 0)
		set_vertex(&wait->blocker, place, wait->blocker_pid, value[6]);
	else if (value[7] != NULL && dtx_gid_parse(value[7], &gid))
	{
		wait->blocker.life = gid.life;
		wait->blocker.session = DTX_NONCE_SESSION(gid.nonce);
		wait->blocker_nonce = gid.nonce;
	}
	else
		return waits;			/* somebody else's, who waits for nobody */
	wait->key = psprintf("%d/%s/%s/%s/%s/%s", place, value[0], value[2] ? value[2] : "",
						 value[3] ? value[3] : "", value[5] ? value[5] : "", value[7] ? value[7] : "");
	wait->began = value[3] ? strtou64(value[3], NULL, 10) : 0;
	wait->lock = value[4] ? value[4] : "a lock";
	wait->user = value[8] ? value[8] : "";
	wait->statement = users_part(value[9] ? value[9] : pstrdup(""));
	wait->seconds = value[10] ? atof(value[10]) : 0;
	wait->waiter_age = value[11] ? atof(value[11]) : -1;
	wait->blocker_age = value[12] ? atof(value[12]) : -1;
	return lappend(waits, wait);
}

/* This server's waits. */
static List *
collect_here(List *waits)
{
	int			count;
	char	 ***rows = dtx_store_rows(make_wait_sql(true), WAIT_COLUMNS, &count);

	for (int i = 0; i < count; i++)
		waits = add_wait(waits, 0, rows[i]);
	return waits;
}

static bool
anybody_waits_here(void)
{
	int			count;
	char	 ***rows = dtx_store_rows(psprintf(LOOK_SQL, dtx_deadlock_interval_ms / 1000.0), 1, &count);

	return count == 1 && atoi(rows[0][0]) > 0;
}

/* Inside PG_CATCH: a node that fails is left out. */
static void
leave_out(Place *place, MemoryContext context)
{
	MemoryContextSwitchTo(context);
	FlushErrorState();
	dtx_remote_close(place->connection);
	place->answered = false;
}

/* Fetch so many results, of which only the one before the last has rows for us. */
static bool
fetch(Place *place, int results, int wanted, int columns, DtxResult *result)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool ok = false;

	PG_TRY();
	{
		for (int i = 1; i <= results; i++)
		{
			DtxResult	other;

			dtx_remote_get(place->connection, dtx_text_columns(i == wanted ? columns : 1),
						   context, i == wanted ? result : &other);
		}
		ok = dtx_remote_drain(place->connection);
	}
	PG_CATCH();
	{
		leave_out(place, context);
	}
	PG_END_TRY();
	return ok;
}

/* Wait for the answers of all places that were asked, for a while. */
static void
wait_for_answers(List *places, int timeout_ms)
{
	DtxTime		deadline = dtx_later(dtx_now(), timeout_ms);
	bool		all = false;
	ListCell   *cell;

	while (!all)
	{
		DtxConnection *waiting[16];
		int			count = 0;
		int64		left_ms = (deadline - dtx_now()) / 1000;

		all = true;
		foreach(cell, places)
		{
			Place	   *place = lfirst(cell);

			if (place->connection == NULL || !place->connection->open ||
				!place->connection->waiting || place->answered)
				continue;
			switch (dtx_remote_poll(place->connection))
			{
				case DTX_ANSWER_THERE:
					place->answered = true;
					break;
				case DTX_ANSWER_UNKNOWN:
					dtx_remote_close(place->connection);
					break;
				case DTX_ANSWER_NONE:
					if (left_ms <= 0)
					{
						dtx_remote_close(place->connection);
					}
					else
					{
						all = false;
						if (count < lengthof(waiting))
							waiting[count++] = place->connection;
					}
			}
		}
		CHECK_FOR_INTERRUPTS();
		if (!all)
			dtx_remote_pause(waiting, count, (int) Min(left_ms, 50));
	}
}

/* Ask all places something; those that answered are marked. */
static void
ask(List *places, const char *(*sql) (Place *place, int *results), int timeout_ms)
{
	ListCell   *cell;

	foreach(cell, places)
	{
		Place	   *place = lfirst(cell);
		int			results;
		const char *text;

		if (place->connection == NULL || !place->connection->open)
			continue;
		place->answered = false;
		text = sql(place, &results);
		if (text != NULL && !dtx_remote_send(place->connection, text, results))
			dtx_remote_close(place->connection);
	}
	wait_for_answers(places, timeout_ms);
}

static const char *
look_sql(Place *place, int *results)
{
	*results = 1;
	return psprintf(LOOK_SQL, dtx_deadlock_interval_ms / 1000.0);
}

static const char *
collect_sql(Place *place, int *results)
{
	*results = 4;
	return psprintf("BEGIN READ ONLY; SET LOCAL search_path TO pg_catalog, pg_temp; %s; COMMIT",
					make_wait_sql(place->connection->has_sessions));
}

static void
begin(MemoryContext context)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
}

static void
commit(MemoryContext context)
{
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/* Does anybody wait for long?  No transaction is open while nodes answer. */
static bool
look(List *places, MemoryContext context)
{
	bool		somebody;
	ListCell   *cell;

	ask(places, look_sql, LOOK_MS);
	begin(context);
	somebody = anybody_waits_here();
	foreach(cell, places)
	{
		Place	   *place = lfirst(cell);
		DtxResult	result;
		char	   *value;
		int			count;
		int			has_sessions;

		if (place->connection == NULL || !place->answered ||
			!fetch(place, 1, 1, 1, &result))
			continue;
		value = dtx_result_value(&result, 0);
		if (value == NULL || sscanf(value, "%d,%d", &count, &has_sessions) != 2)
			continue;
		place->connection->has_sessions = has_sessions != 0;
		somebody = somebody || count > 0;
	}
	commit(context);
	return somebody;
}

static List *
collect(List *places, MemoryContext context)
{
	List	   *waits = NIL;
	ListCell   *cell;

	ask(places, collect_sql, ANSWER_MS);
	begin(context);
	waits = collect_here(waits);
	foreach(cell, places)
	{
		Place	   *place = lfirst(cell);
		DtxResult	result;
		TupleTableSlot *slot;

		if (place->connection == NULL || !place->answered ||
			!fetch(place, 4, 3, WAIT_COLUMNS, &result) || result.rows == NULL)
			continue;
		slot = MakeSingleTupleTableSlot(result.desc, &TTSOpsMinimalTuple);
		while (tuplestore_gettupleslot(result.rows, true, false, slot))
		{
			char	   *value[WAIT_COLUMNS];

			slot_getallattrs(slot);
			for (int i = 0; i < WAIT_COLUMNS; i++)
				value[i] = slot->tts_isnull[i] ? NULL : TextDatumGetCString(slot->tts_values[i]);
			if (value[0] != NULL)
				waits = add_wait(waits, foreach_current_index(cell), value);
		}
		ExecDropSingleTupleTableSlot(slot);
	}
	commit(context);
	DTX_FAULT("deadlock_collected");
	return waits;
}

/* --------------------------------------------------------------- searching */

/*
 * Follow waits from a vertex.  Returns the waits of a cycle, in order, when
 * one of them leads back into the path.
 */
static List *
follow(List *waits, List *path, Vertex *vertex)
{
	ListCell   *cell;

	check_stack_depth();
	foreach(cell, path)
		if (same_vertex(&((Wait *) lfirst(cell))->waiter, vertex))
			return list_copy_tail(path, foreach_current_index(cell));
	foreach(cell, waits)
	{
		Wait	   *wait = lfirst(cell);
		List	   *cycle;

		if (wait->mark != 0 || !same_vertex(&wait->waiter, vertex))
			continue;
		wait->mark = 1;			/* whatever it leads to is looked at once */
		cycle = follow(waits, lappend(list_copy(path), wait), &wait->blocker);
		if (cycle != NIL)
			return cycle;
	}
	return NIL;
}

/* Does it go through processes of one server alone? */
static bool
is_local(List *cycle)
{
	for (int i = 0; i < list_length(cycle); i++)
	{
		Wait	   *wait = list_nth(cycle, i);
		Wait	   *next = list_nth(cycle, (i + 1) % list_length(cycle));

		if (wait->place != next->place || wait->blocker_pid != next->waiter_pid)
			return false;
	}
	return true;
}

/* All cycles that no server can see by itself, as far as they share no wait. */
static List *
search(List *waits)
{
	List	   *cycles = NIL;
	ListCell   *cell;

	foreach(cell, waits)
	{
		Wait	   *wait = lfirst(cell);
		List	   *cycle;

		if (wait->mark != 0)
			continue;
		cycle = follow(waits, NIL, &wait->waiter);
		if (cycle != NIL && !is_local(cycle))
			cycles = lappend(cycles, cycle);
	}
	return cycles;
}

static bool
was_there(List *waits, Wait *wait)
{
	ListCell   *cell;

	foreach(cell, waits)
		if (strcmp(((Wait *) lfirst(cell))->key, wait->key) == 0)
			return true;
	return false;
}

static bool
all_were_there(List *waits, List *cycle)
{
	ListCell   *cell;

	foreach(cell, cycle)
		if (!was_there(waits, lfirst(cell)))
			return false;
	return true;
}

/* ---------------------------------------------------------------- choosing */

/*
 * The name of its transaction without the xid; of another coordinator's, with
 * the part of the nonce that is the session's.
 */
static char *
vertex_name(List *sessions, const Vertex *vertex)
{
	const DtxSession *session = session_of(sessions, vertex);
	uint64		nonce = session != NULL ? session->name.nonce : vertex->nonce;

	return nonce != 0 ?
		psprintf("dtx_%016llx_*_%016llx", (unsigned long long) vertex->life,
				 (unsigned long long) nonce) :
		psprintf("dtx_%016llx_*_%08x", (unsigned long long) vertex->life, vertex->session);
}

static void
append_vertex(StringInfo text, List *sessions, const Vertex *vertex, int pid)
{
	if (vertex->life != 0)
		appendStringInfo(text, "transaction %s", vertex_name(sessions, vertex));
	else
		appendStringInfoString(text, "a transaction of another session");
	if (pid != 0)
		appendStringInfo(text, " (process %d)", pid);
}

/* What the session of a transaction of this server is doing, and its role. */
static const char *
statement_of(List *sessions, const Vertex *vertex, Oid *roleid)
{
	const DtxSession *session = session_of(sessions, vertex);
	int			count;
	char	 ***rows;

	*roleid = InvalidOid;
	if (session == NULL)
		return NULL;
	rows = dtx_store_rows(psprintf("SELECT pg_catalog.left(pg_catalog.btrim(pg_catalog.regexp_replace("
								   "query, '\\s+', ' ', 'g'), ' ;'), %d) FROM pg_catalog.pg_stat_activity"
								   " WHERE pid = %d", STATEMENT_SHOWN, (int) session->pid), 1, &count);
	*roleid = session->roleid;
	return count == 1 && rows[0][0] != NULL ? rows[0][0] : NULL;
}

/*
 * The cycle in words, a line for each wait.  Statements of a role are shown to
 * that role; to everybody (InvalidOid) in the server's log.
 */
static char *
describe(List *places, List *sessions, List *cycle, Oid reader)
{
	StringInfoData text;
	ListCell   *cell;

	initStringInfo(&text);
	foreach(cell, cycle)
	{
		Wait	   *wait = lfirst(cell);
		Place	   *place = list_nth(places, wait->place);
		Oid			roleid;
		const char *statement = statement_of(sessions, &wait->waiter, &roleid);
		int			line;

		if (foreach_current_index(cell) > 0)
			appendStringInfoChar(&text, '\n');
		line = text.len;
		append_vertex(&text, sessions, &wait->waiter, wait->waiter_pid);
		text.data[line] = pg_toupper((unsigned char) text.data[line]);
		if (place->node != NULL)
			appendStringInfo(&text, " on node \"%s\"", place->node);
		else
			appendStringInfoString(&text, " on the coordinator");
		appendStringInfo(&text, " waits for %s; blocked by ", wait->lock);
		append_vertex(&text, sessions, &wait->blocker, wait->blocker_pid);
		appendStringInfoChar(&text, '.');
		if (statement != NULL && (!OidIsValid(reader) || reader == roleid))
			appendStringInfo(&text, "\n  Statement: %s", statement);
	}
	return text.data;
}

/* Cycles that were left to other coordinators, and since when. */
static struct
{
	uint32		hash;
	DtxTime		since;
	DtxTime		seen;
}			remembered[REMEMBERED];

/* Has this one been left to them for long? */
static bool
was_left(List *cycle)
{
	uint32		hash = 0;
	int			oldest = 0;
	DtxTime		now = dtx_now();
	ListCell   *cell;

	foreach(cell, cycle)
	{
		Wait	   *wait = lfirst(cell);

		hash ^= hash_bytes((unsigned char *) wait->key, (int) strlen(wait->key));
	}
	for (int i = 0; i < REMEMBERED; i++)
	{
		if (remembered[i].hash == hash)
		{
			remembered[i].seen = now;
			return dtx_exceeds(remembered[i].since, now, LEFT_TO_OTHERS_MS);
		}
		if (remembered[i].seen < remembered[oldest].seen)
			oldest = i;
	}
	remembered[oldest].hash = hash;
	remembered[oldest].since = remembered[oldest].seen = now;
	return false;
}

static bool
is_younger(const DtxTransactionName *a, const DtxTransactionName *b)
{
	return a->begun > b->begun || (a->begun == b->begun && a->nonce > b->nonce);
}

/* Did it begin to wait later? */
static bool
is_later(const Wait *a, const Wait *b)
{
	return a->began > b->began ||
		(a->began == b->began && a->waiter.session > b->waiter.session);
}

/* Does one of these give way already?  A server may be seen as two nodes. */
static bool
has_any(List *cycle, List *told)
{
	ListCell   *cell;
	ListCell   *other;

	foreach(cell, cycle)
		foreach(other, told)
			if (same_vertex(&((Wait *) lfirst(cell))->waiter, lfirst(other)))
				return true;
	return false;
}

/*
 * Have one transaction of the cycle give way, and add its session to those.
 * sessions are those of this server between the two collections.
 */
static void
resolve(DtxDatabase *database, List *places, List *sessions, List *cycle, List **told)
{
	uint64		life = pg_atomic_read_u64(&database->life);
	const DtxSession *youngest = NULL;
	Vertex	   *chosen = NULL;
	Wait	   *last = NULL;
	bool		others = false;
	ListCell   *cell;
	char	   *detail;

	foreach(cell, cycle)
	{
		Wait	   *wait = lfirst(cell);
		const DtxSession *session;

		if (wait->waiter.life == 0)
			continue;
		if (last == NULL || is_later(wait, last))
			last = wait;
		if (wait->waiter.life != life)
		{
			others = true;
			continue;
		}
		session = session_of(sessions, &wait->waiter);
		if (session != NULL && (youngest == NULL || is_younger(&session->name, &youngest->name)))
		{
			youngest = session;
			chosen = &wait->waiter;
		}
	}
	if (chosen == NULL)
		return;
	if (others && last->waiter.life == life && session_of(sessions, &last->waiter) != NULL)
	{
		chosen = &last->waiter;
		youngest = session_of(sessions, chosen);
	}
	else if (others && !was_left(cycle))
		return;
	detail = describe(places, sessions, cycle, youngest->roleid);
	DTX_FAULT("deadlock_before_cancel");
	if (!dtx_session_cancel(&youngest->name, detail))
		return;					/* it is over */
	*told = lappend(*told, chosen);
	dtx_count(DTX_STAT_DEADLOCKS, 1);
	ereport(LOG,
			(errmsg("dtx: deadlock over several nodes: transaction dtx_%016llx_*_%016llx is rolled back",
					(unsigned long long) youngest->name.life,
					(unsigned long long) youngest->name.nonce),
			 errdetail_internal("%s", describe(places, sessions, cycle, InvalidOid))));
}

/* ------------------------------------------------------------------ rounds */

/* This server, and nodes with open branches that can be asked without delay. */
static List *
make_places(MemoryContext context)
{
	List	   *places = list_make1(palloc0(sizeof(Place)));
	ListCell   *cell;
	ListCell   *role;

	begin(context);
	foreach(cell, dtx_store_nodes())
	{
		DtxNodeRow *row = lfirst(cell);
		DtxNode    *node = dtx_node_state(MyDatabaseId, row->serverid, false);
		Place	   *place;

		if (node == NULL || pg_atomic_read_u32(&node->open_branches) == 0 ||
			dtx_node_is_suspect(node))
			continue;
		place = palloc0(sizeof(Place));
		place->serverid = row->serverid;
		place->node = GetForeignServer(row->serverid)->servername;
		foreach(role, row->roles)
		{
			if (!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(lfirst_oid(role)),
									   ObjectIdGetDatum(row->serverid)) &&
				!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
									   ObjectIdGetDatum(row->serverid)))
				continue;
			place->connection = dtx_resolver_connection(row->serverid, place->node, lfirst_oid(role));
			if (place->connection->open)
				break;
		}
		if (place->connection != NULL)
			places = lappend(places, place);
	}
	commit(context);
	foreach(cell, places)
	{
		Place	   *place = lfirst(cell);

		if (place->connection == NULL ||
			(place->connection->open && !place->connection->stale && !place->connection->waiting))
			continue;
		begin(context);
		PG_TRY();
		{
			dtx_remote_connect(place->connection);
			commit(context);
		}
		PG_CATCH();
		{
			leave_out(place, context);
			AbortCurrentTransaction();
			MemoryContextSwitchTo(context);
		}
		PG_END_TRY();
	}
	return places;
}

/*
 * One look for deadlocks.  True if somebody gave way: there may be more of it.
 */
bool
dtx_deadlock_round(DtxDatabase *database)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "dtx deadlock",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *told = NIL;
	bool		again;
	List	   *places = make_places(context);

	if (list_length(places) > 1 && look(places, context))
	{
		List	   *before = collect(places, context);

		separate_former(before, dtx_sessions());
		if (search(before) != NIL)
		{
			List	   *sessions = dtx_sessions();
			List	   *now;
			ListCell   *cell;

			pg_usleep(PAUSE_MS * 1000L);
			CHECK_FOR_INTERRUPTS();
			now = collect(places, context);
			separate_former(now, dtx_sessions());
			begin(context);
			foreach(cell, search(now))
				if (all_were_there(before, lfirst(cell)) &&
					!has_any(lfirst(cell), told))
					resolve(database, places, sessions, lfirst(cell), &told);
			commit(context);
		}
	}
	again = told != NIL;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return again;
}

/* ------------------------------------------------------------------- views */

PG_FUNCTION_INFO_V1(dtx_sessions_list);
PG_FUNCTION_INFO_V1(dtx_wait_edges);

/* dtx.sessions(): processes of this server that coordinate, and the name. */
Datum
dtx_sessions_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	if (dtx_shared == NULL)
		return (Datum) 0;
	foreach(cell, dtx_sessions())
	{
		DtxSession *session = lfirst(cell);
		char		identity[DTX_IDENTITY_SIZE];
		Datum		values[2];
		bool		nulls[2] = {false, false};

		dtx_identity_format(session->name.life, DTX_NONCE_SESSION(session->name.nonce), identity);
		values[0] = Int32GetDatum(session->pid);
		values[1] = CStringGetTextDatum(identity);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

static void
put_waits(ReturnSetInfo *rsinfo, List *waits, const char *node)
{
	List	   *sessions = dtx_sessions();
	ListCell   *cell;

	separate_former(waits, sessions);
	foreach(cell, waits)
	{
		Wait	   *wait = lfirst(cell);
		Datum		values[8] = {0};
		bool		nulls[8] = {0};
		const Vertex *vertex[2] = {&wait->waiter, &wait->blocker};

		nulls[0] = node == NULL;
		if (node != NULL)
			values[0] = DirectFunctionCall1(namein, CStringGetDatum(node));
		for (int i = 0; i < 2; i++)
		{
			nulls[1 + 2 * i] = vertex[i]->life == 0;
			if (vertex[i]->life != 0)
				values[1 + 2 * i] = CStringGetTextDatum(vertex_name(sessions, vertex[i]));
		}
		values[2] = Int32GetDatum(wait->waiter_pid);
		values[4] = Int32GetDatum(wait->blocker_pid);
		nulls[4] = wait->blocker_pid == 0;
		values[5] = CStringGetTextDatum(wait->lock);
		values[6] = Float8GetDatum(wait->seconds);
		values[7] = CStringGetTextDatum(wait->statement);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* This server's waits, as the current user may see them. */
static List *
waits_here(void)
{
	MemoryContext caller = CurrentMemoryContext;
	int			guc_level = NewGUCNestLevel();
	List	   *waits = NIL;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(make_wait_sql(true), true, 0) != SPI_OK_SELECT)
		elog(ERROR, "dtx query failed");
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		char	   *value[WAIT_COLUMNS];

		for (int i = 0; i < WAIT_COLUMNS; i++)
			value[i] = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 1);
		waits = add_wait(waits, 0, value);
		MemoryContextSwitchTo(spi);
	}
	SPI_finish();
	AtEOXact_GUC(true, guc_level);
	return waits;
}

/*
 * dtx.wait_edges(): who waits for whom, here and on all nodes that the current
 * user has a mapping for, by connections of its own.  A node that cannot be
 * asked is told by a WARNING.
 */
Datum
dtx_wait_edges(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext caller = CurrentMemoryContext;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	dtx_require_preload();
	put_waits(rsinfo, waits_here(), NULL);
	foreach(cell, dtx_store_nodes())
	{
		Oid			serverid = ((DtxNodeRow *) lfirst(cell))->serverid;
		Place		place = {0};

		if (dtx_server_aclcheck(serverid, GetUserId()) != ACLCHECK_OK ||
			(!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(GetUserId()),
									ObjectIdGetDatum(serverid)) &&
			 !SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
									ObjectIdGetDatum(serverid))))
			continue;
		place.node = GetForeignServer(serverid)->servername;
		place.connection = dtx_remote_new(serverid, place.node, GetUserId(), "dtxwaits");
		PG_TRY();
		{
			List	   *places = list_make1(&place);
			List	   *waits = NIL;
			DtxResult	result;
			char	   *value;
			int			count;
			int			has_sessions = 0;

			dtx_remote_connect(place.connection);
			dtx_remote_run(place.connection, psprintf(LOOK_SQL, 0.0), &result);
			value = dtx_result_value(&result, 0);
			if (value != NULL)
				(void) sscanf(value, "%d,%d", &count, &has_sessions);
			place.connection->has_sessions = has_sessions != 0;
			(void) dtx_remote_drain(place.connection);
			ask(places, collect_sql, ANSWER_MS);
			if (!place.answered || !fetch(&place, 4, 3, WAIT_COLUMNS, &result))
				ereport(WARNING,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("node \"%s\" did not answer: its waits are not shown", place.node)));
			else if (result.rows != NULL)
			{
				TupleTableSlot *slot = MakeSingleTupleTableSlot(result.desc, &TTSOpsMinimalTuple);

				while (tuplestore_gettupleslot(result.rows, true, false, slot))
				{
					char	   *field[WAIT_COLUMNS];

					slot_getallattrs(slot);
					for (int i = 0; i < WAIT_COLUMNS; i++)
						field[i] = slot->tts_isnull[i] ? NULL : TextDatumGetCString(slot->tts_values[i]);
					if (field[0] != NULL)
						waits = add_wait(waits, 1, field);
				}
				ExecDropSingleTupleTableSlot(slot);
				put_waits(rsinfo, waits, place.node);
			}
		}
		PG_CATCH();
		{
			ErrorData  *error;

			MemoryContextSwitchTo(caller);
			error = CopyErrorData();
			if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			{
				dtx_remote_free(place.connection);
				PG_RE_THROW();
			}
			FlushErrorState();
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("node \"%s\" could not be asked: its waits are not shown", place.node),
					 errdetail_internal("%s", error->message)));
		}
		PG_END_TRY();
		dtx_remote_free(place.connection);
	}
	return (Datum) 0;
}
