/*-------------------------------------------------------------------------
 *
 * snapshot.c
 *		What needs to see every global transaction whole: consistent reads
 *		over nodes, and restore points of all of them.
 *
 *		look		wait until phase two of all commits is over (quiet.c), then
 *					for the scanner to finish what they have left
 *					-> act		nothing is left, and the scanner is kept out, too
 *					-> look		it gets no further: let go, later once more
 *		act			snapshots, or restore points, on all nodes side by side
 *
 * (1) A commit that is decided before is finished on these nodes before; one
 *	   that is decided after begins its phase two after.
 * (2) The coordinator's restore point comes before those of the nodes: what
 *	   they have committed by then, it knows of by then.  What is decided is
 *	   finished, and forgotten, before it.
 * (3) Connections are opened, and proven alive, before commits are held up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "branch.h"
#include "compat.h"
#include "deadline.h"
#include "fault.h"
#include "guc.h"
#include "node.h"
#include "quiet.h"
#include "remote.h"
#include "store.h"
#include "twophase.h"

/* With commits held up, between two looks at what the scanner has to do. */
#define REST_PAUSE_MS 2
/* If the scanner has finished nothing for so long, commits go on. */
#define STALL_MS 100
/* For so long at most, if it does not finish everything meanwhile. */
#define LOOK_AGAIN_MS 1000
#define LOOK_MS 50

PG_FUNCTION_INFO_V1(dtx_snapshot);
PG_FUNCTION_INFO_V1(dtx_create_restore_point);

/*
 * Branches on these nodes that are decided and not known to have committed,
 * as a list of servers.  If so asked, *unforgotten says whether the scanner
 * has to forget others that are.
 */
static List *
list_unfinished(DtxDatabase *database, List *serverids, bool *unforgotten)
{
	uint64	   *finished;
	int			count;
	List	   *result;

	/* in this order: what is finished may be forgotten at any time */
	count = dtx_database_finished(database, &finished);
	result = dtx_store_unfinished(pg_atomic_read_u64(&database->life), finished, count, serverids);
	if (unforgotten != NULL)
		*unforgotten = count > 0;
	pfree(finished);
	return result;
}

/* Have the scanner finish what is left, now. */
static void
hurry(DtxDatabase *database, List *serverids)
{
	ListCell   *cell;

	foreach(cell, serverids)
	{
		DtxNode    *node = dtx_node_state(MyDatabaseId, lfirst_oid(cell), false);

		if (node != NULL)
			dtx_node_hurry(node);
	}
	dtx_database_wake(database);
}

static void
wait_ms(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Inside PG_CATCH: commits go on.  Raises the error, which may be that they
 * were held up for too long.
 */
DTX_NORETURN static void
too_late(MemoryContext caller, const char *what, const char *hint)
{
	bool		late = dtx_deadline_passed() && geterrcode() == ERRCODE_QUERY_CANCELED;

	dtx_deadline_stop();
	if (!late)
		PG_RE_THROW();
	MemoryContextSwitchTo(caller);
	FlushErrorState();
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("%s within dtx.lockout_timeout", what),
			 errhint("%s", hint)));
}

/*
 * While no session commits: wait until nothing is half done on the nodes, and
 * if so asked, nothing that is done is left in the status table; then keep the
 * scanner out, too.  False, with a node in *where, if it gets no further.
 */
static bool
come_to_rest(DtxDatabase *database, List *serverids, bool forgotten, Oid *where)
{
	DtxTime		begun = dtx_now();
	DtxTime		moved_at = begun;
	int			least = PG_INT32_MAX;
	bool		alone = false;

	for (;;)
	{
		bool		unforgotten = false;
		List	   *unfinished = list_unfinished(database, serverids, forgotten ? &unforgotten : NULL);
		int			left = list_length(unfinished);

		if (left > 0)
			*where = linitial_oid(unfinished);
		if (left == 0 && !unforgotten)
		{
			/* a local transaction that is prepared may have been ended since */
			if (alone)
				return true;
			dtx_quiet_alone();
			alone = true;
			continue;
		}
		if (alone)
			dtx_quiet_admit();
		alone = false;
		if (left < least)
		{
			least = left;
			moved_at = dtx_now();
			hurry(database, unfinished);
		}
		else if (left > 0 &&
				 (dtx_exceeds(moved_at, dtx_now(), STALL_MS) ||
				  dtx_exceeds(begun, dtx_now(), dtx_lockout_timeout_ms / 2)))
			return false;
		else
			hurry(database, unfinished);
		list_free(unfinished);
		wait_ms(REST_PAUSE_MS);
	}
}

/*
 * Hold commits up at a moment when nothing is half done on the nodes, and if
 * so asked, when the status table has nothing that is done: on recovered
 * nodes, which have another timeline, nobody could prove that it was.  The
 * caller ends it with let_go(), within the deadline that runs then.
 */
static void
hold_up(DtxDatabase *database, List *serverids, bool forgotten)
{
	MemoryContext caller = CurrentMemoryContext;
	DtxTime		give_up_at = dtx_later(dtx_now(), dtx_prepare_timeout_ms);
	Oid			where = InvalidOid;

	for (;;)
	{
		volatile bool rests = false;

		dtx_deadline_start(dtx_lockout_timeout_ms);
		PG_TRY();
		{
			dtx_quiet_begin();
			rests = come_to_rest(database, serverids, forgotten, &where);
		}
		PG_CATCH();
		{
			dtx_quiet_end();
			too_late(caller, "commits of global transactions did not come to rest",
					 "A node may be slow to answer, or the scanner: see dtx.nodes.");
		}
		PG_END_TRY();
		if (rests)
			break;
		dtx_quiet_end();
		dtx_deadline_stop();
		if (dtx_now() > give_up_at)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("branches of earlier transactions are not finished on node \"%s\"",
							GetForeignServer(where)->servername),
					 errhint("See dtx.stuck and dtx.nodes.")));
		/* so that those who commit are held up for a small part of the time */
		for (int i = 0; i < LOOK_AGAIN_MS / LOOK_MS; i++)
		{
			wait_ms(LOOK_MS);
			if (list_unfinished(database, serverids, NULL) == NIL)
				break;
		}
	}
}

static void
let_go(void)
{
	dtx_deadline_stop();
	dtx_quiet_end();
}

/* Inside PG_CATCH: commits go on.  Raises the error, the one of a node or ours. */
DTX_NORETURN static void
failed(MemoryContext caller, DtxConnection *at)
{
	ErrorData  *error;
	bool		from_node;

	dtx_quiet_end();
	if (at == NULL || (dtx_deadline_passed() && geterrcode() == ERRCODE_QUERY_CANCELED))
		too_late(caller, "nodes did not answer", "See round_trip_ms in dtx.nodes.");
	dtx_deadline_stop();
	MemoryContextSwitchTo(caller);
	error = dtx_remote_error(at, "restore point", &from_node);
	if (error->hint == NULL)
		error->hint = pstrdup("Other servers may have a restore point of that name now: use another name.");
	ReThrowError(error);
}

/*
 * dtx.snapshot(nodes): open REPEATABLE READ READ ONLY branches on the nodes,
 * whose snapshots lie between the second phases of this coordinator's
 * commits: of each of its transactions they show all or nothing.
 */
Datum
dtx_snapshot(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	MemoryContext caller = CurrentMemoryContext;
	DtxDatabase *database;
	Datum	   *names;
	bool	   *nulls;
	int			count;
	List	   *branches = NIL;
	List	   *serverids = NIL;
	ListCell   *cell;
	DtxCall		call = {.sql = "SELECT 1"};

	dtx_require_preload();
	if (GetCurrentTransactionNestLevel() > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("dtx.snapshot must not be called in a subtransaction")));
	if (IsolationIsSerializable())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("dtx.snapshot cannot be used in a serializable transaction"),
				 errdetail("Its branches are REPEATABLE READ.")));
	deconstruct_array(array, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, &nulls, &count);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"nodes\" must not be empty")));
	for (int i = 0; i < count; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"nodes\" must not contain null")));
	database = dtx_node_database(true);
	for (int i = 0; i < count; i++)
	{
		DtxBranch  *branch = dtx_twophase_enlist_snapshot(NameStr(*DatumGetName(names[i])));

		branches = lappend(branches, branch);
		serverids = lappend_oid(serverids, branch->connection->serverid);
		dtx_branch_prove_alive(branch);
	}

	hold_up(database, serverids, false);
	PG_TRY();
	{
		DTX_FAULT("snapshot_quiet");
		call.rows_context = caller;
		foreach(cell, branches)
			dtx_branch_send(lfirst(cell), &call);
		foreach(cell, branches)
			dtx_branch_settle(lfirst(cell));
	}
	PG_CATCH();
	{
		failed(caller, NULL);
	}
	PG_END_TRY();
	let_go();
	PG_RETURN_VOID();
}

static void
add_point(ReturnSetInfo *rsinfo, const char *node, XLogRecPtr lsn)
{
	Datum		values[2] = {0};
	bool		nulls[2] = {node == NULL, false};

	if (node != NULL)
		values[0] = DirectFunctionCall1(namein, CStringGetDatum(node));
	values[1] = LSNGetDatum(lsn);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* While commits are held up: here first (2), then on all nodes at once. */
static void
create_points(const char *name, List *connections, ReturnSetInfo *rsinfo)
{
	MemoryContext caller = CurrentMemoryContext;
	DtxConnection *volatile at = NULL;
	ListCell   *cell;
	char	   *sql = psprintf("SELECT pg_catalog.pg_create_restore_point(%s)::text",
							   quote_literal_cstr(name));

	PG_TRY();
	{
		DTX_FAULT("restore_point_quiet");
		add_point(rsinfo, NULL, XLogRestorePoint(name));
		DTX_FAULT("restore_point_here");
		foreach(cell, connections)
		{
			at = lfirst(cell);
			if (!dtx_remote_send(at, sql, 1))
				ereport(ERROR,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("lost connection to node \"%s\"", at->node)));
		}
		foreach(cell, connections)
		{
			DtxResult	result;
			char	   *lsn;

			at = lfirst(cell);
			dtx_remote_get(at, NULL, caller, &result);
			lsn = dtx_result_value(&result, 0);
			if (lsn == NULL || !dtx_remote_drain(at))
				ereport(ERROR,
						(errcode(ERRCODE_CONNECTION_FAILURE),
						 errmsg("lost connection to node \"%s\"", at->node)));
			add_point(rsinfo, at->node,
					  DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(lsn))));
		}
	}
	PG_CATCH();
	{
		failed(caller, at);
	}
	PG_END_TRY();
	let_go();
}

/*
 * dtx.create_restore_point(name): a restore point of that name here and on
 * all nodes, at a moment when no transaction is half committed.  Recovered to
 * that name, all of them together have whole transactions only.
 */
Datum
dtx_create_restore_point(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	DtxDatabase *database = dtx_node_database(true);
	List	   *volatile connections = NIL;
	List	   *volatile serverids = NIL;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	if (name[0] == '\0' || strlen(name) >= MAXFNAMELEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of a restore point must have 1 to %d bytes", MAXFNAMELEN - 1)));
	if (!XLogIsNeeded())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("WAL level not sufficient for creating a restore point"),
				 errhint("wal_level must be set to \"replica\" or \"logical\" at server start.")));
	PG_TRY();
	{
		foreach(cell, dtx_store_nodes())
		{
			Oid			serverid = ((DtxNodeRow *) lfirst(cell))->serverid;
			char	   *node = GetForeignServer(serverid)->servername;
			DtxConnection *connection;

			(void) dtx_node_lookup(node, GetUserId());
			connection = dtx_remote_new(serverid, node, GetUserId(), "dtxpoint");
			connections = lappend(connections, connection);
			serverids = lappend_oid(serverids, serverid);
			dtx_remote_connect(connection);
		}
		hold_up(database, serverids, true);
		create_points(name, connections, rsinfo);
		dtx_store_event(GetUserNameFromId(GetSessionUserId(), false), NULL,
						"restore point created", name);
	}
	PG_FINALLY();
	{
		foreach(cell, connections)
			dtx_remote_free(lfirst(cell));
	}
	PG_END_TRY();
	return (Datum) 0;
}
