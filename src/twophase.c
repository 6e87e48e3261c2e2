/*-------------------------------------------------------------------------
 *
 * twophase.c
 *		Atomic commit: the session's half.
 *
 *		running		-> committing	the commit record of the local transaction,
 *									which has the status row in it
 *		running		-> aborting		the local transaction aborts
 *		committing	-> committed	every branch has answered COMMIT PREPARED:
 *									commit_callback, else resolver.c
 *		aborting	-> aborted		likewise ROLLBACK PREPARED
 *
 *		PRE_COMMIT		pre_commit: phase one, the status row
 *		COMMIT			commit_callback: phase two
 *		ABORT			abort_callback
 *		PRE_PREPARE		pre_commit without the shortcut of one phase
 *		PREPARE			prepare_callback: whoever ends the local transaction
 *						decides for the branches, and the scanner follows
 *
 * (1) No PREPARE leaves before the life is written down, no COMMIT PREPARED
 *	   before the commit record is flushed and replicated.
 * (2) Prepared is who answered with that tag; whoever did not answer may be
 *	   prepared, now or later, and is left to the scanner.
 * (3) After the commit record nothing throws, and nothing waits longer than
 *	   dtx.commit_wait.  An abort waits for nothing.
 * (4) What the callbacks need was allocated before.
 * (5) All answers of phase one are taken in before the first error is raised.
 * (6) The tries of TCC that were made in the transaction are confirmed and
 *	   cancelled at its end, side by side with the second phase: bound ones by
 *	   a row of dtx.transaction that is written with the status row.  What the
 *	   session has not seen done, workers (confirms) and the scanner (cancels)
 *	   do.
 * (7) Once PRE_PREPARE is over an error does not mean that the local
 *	   transaction is not prepared: its branches are left to the scanner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/lwlock.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "branch.h"
#include "compat.h"
#include "deadline.h"
#include "fault.h"
#include "guc.h"
#include "life.h"
#include "node.h"
#include "nothrow.h"
#include "quiet.h"
#include "session.h"
#include "store.h"
#include "store_flow.h"
#include "try.h"
#include "twophase.h"

/* What a session has left at COMMIT workers take over after so much more. */
#define TAKE_OVER_MS 1000
/* How long COMMIT waits for one node's answer before it asks all of them. */
#define FIRST_PAUSE_MS 2

/* The global transaction of this session. */
typedef struct DtxTransaction
{
	bool		active;
	bool		asked;			/* its gid was asked for: its row is kept */
	bool		one_phase_sent;
	bool		one_phase_done;
	bool		doubtful;		/* a PREPARE was answered with an error */
	bool		recorded;		/* it is decided in the local commit record */
	bool		has_row;		/* there is a status row */
	bool		durable;		/* flushed and replicated in any case */
	bool		subtree;		/* somebody else ends the local transaction */
	DtxDatabase *database;
	DtxGid		gid;
	DtxTransactionName name;	/* for all to see */
	List	   *branches;		/* of DtxBranch */
	List	   *tries;			/* of DtxTries */
	int			try_count;
	int			bound_count;	/* tries that are to be confirmed */
} DtxTransaction;

static DtxTransaction current;
static MemoryContext current_context = NULL;

static void transaction_callback(XactEvent event, void *arg);

/* ------------------------------------------------------------- branches */

/* Make sure that there is a global transaction. */
static void
begin_global(void)
{
	DtxDatabase *database;

	if (current.active)
		return;
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("dtx cannot be used during a parallel operation")));
	database = dtx_node_database(true);
	if (dtx_max_transactions > 0 &&
		dtx_session_count(GetSessionUserId()) >= dtx_max_transactions)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many global transactions for role \"%s\"",
						GetUserNameFromId(GetSessionUserId(), false)),
				 errdetail("It may have %d open at the same time.", dtx_max_transactions),
				 errhint("Try again when one has ended; a superuser may raise dtx.max_transactions.")));
	dtx_store_lock();
	if (current_context == NULL)
		current_context = AllocSetContextCreate(TopMemoryContext, "dtx transaction",
												ALLOCSET_SMALL_SIZES);
	memset(&current, 0, sizeof(current));
	current.database = database;
	current.gid.life = pg_atomic_read_u64(&database->life);
	current.gid.nonce = dtx_session_nonce();
	current.name.life = current.gid.life;
	current.name.nonce = current.gid.nonce;
	current.name.begun = (uint64) GetCurrentTimestamp();
	current.active = true;
	dtx_session_begin(&current.name);
}

/*
 * Callbacks run in the reverse order of their registration.  postgres_fdw
 * commits its remote transactions in PRE_COMMIT: registered last, ours
 * prepares first, so that a refusal over here stops that as well.
 */
static void
come_first(void)
{
	UnregisterXactCallback(transaction_callback, NULL);
	RegisterXactCallback(transaction_callback, NULL);
}

static void
end_global(void)
{
	ListCell   *cell;

	if (!current.active)
		return;
	foreach(cell, current.branches)
		pg_atomic_fetch_sub_u32(&((DtxBranch *) lfirst(cell))->connection->state->open_branches, 1);
	foreach(cell, current.tries)
		pg_atomic_fetch_sub_u32(&((DtxTries *) lfirst(cell))->connection->state->open_branches, 1);
	dtx_session_end();
	memset(&current, 0, sizeof(current));
	MemoryContextReset(current_context);
}

/*
 * The current user's branch on a node; not yet begun if it is new.  For
 * dtx.snapshot it has to be new.
 */
static DtxBranch *
enlist(const char *node, bool snapshot)
{
	Oid			roleid = GetUserId();
	const DtxKnownNode *known;
	DtxBranch  *branch;
	ListCell   *cell;
	MemoryContext old;

	dtx_require_preload();
	begin_global();
	come_first();
	known = dtx_node_find(node, roleid);
	foreach(cell, current.branches)
	{
		branch = lfirst(cell);
		if (branch->connection->serverid != known->serverid ||
			branch->connection->roleid != roleid)
			continue;
		if (snapshot)
			ereport(ERROR,
					(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
					 errmsg("node \"%s\" has a branch in this transaction already", node),
					 errhint("Call dtx.snapshot once, for all nodes, before anything else is done there.")));
		return branch;
	}

	if (list_length(current.branches) >= dtx_max_branches)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many branches in a global transaction"),
				 errdetail("It has %d.", list_length(current.branches)),
				 errhint("A superuser may raise dtx.max_branches.")));
	dtx_node_enter(known);
	old = MemoryContextSwitchTo(current_context);
	branch = palloc0(sizeof(DtxBranch));
	MemoryContextSwitchTo(old);
	branch->connection = dtx_branch_connection(known->serverid, known->name, roleid,
											   &branch->reused);
	if (branch->connection->entered != current.gid.life)
		dtx_node_register(branch->connection->serverid, roleid, false);
	branch->connection->entered = current.gid.life;
	branch->number = list_length(current.branches) + 1;
	branch->snapshot = snapshot;
	(void) dtx_hex(branch->nonce, current.gid.nonce, 16);
	dtx_identity_format(current.gid.life, DTX_NONCE_SESSION(current.gid.nonce),
						branch->identity);
	old = MemoryContextSwitchTo(current_context);
	current.branches = lappend(current.branches, branch);
	MemoryContextSwitchTo(old);
	pg_atomic_fetch_add_u32(&branch->connection->state->open_branches, 1);
	dtx_database_begun(current.database);
	return branch;
}

/* Something of TCC is done in this transaction: what names it from now on. */
const DtxGid *
dtx_twophase_registrar(void)
{
	dtx_require_preload();
	begin_global();
	come_first();
	dtx_store_lock_subtree();
	current.gid.xid = U64FromFullTransactionId(GetTopFullTransactionId());
	return &current.gid;
}

/* The transaction decides something that must not be lost. */
void
dtx_twophase_durable(void)
{
	(void) dtx_twophase_registrar();
	current.durable = true;
}

/*
 * Where the current user's tries on a node are; its connection is open.  Not to
 * be called twice before a try: what is undone is cancelled first.
 */
DtxTries *
dtx_twophase_tries(const char *node)
{
	Oid			roleid = GetUserId();
	const DtxKnownNode *known;
	DtxTries   *tries = NULL;
	bool		is_new;
	bool		reused;
	ListCell   *cell;
	MemoryContext old;

	(void) dtx_twophase_registrar();
	known = dtx_node_find(node, roleid);
	foreach(cell, current.tries)
	{
		DtxConnection *connection = ((DtxTries *) lfirst(cell))->connection;

		if (connection->serverid == known->serverid && connection->roleid == roleid)
			tries = lfirst(cell);
	}
	if (current.try_count >= dtx_max_branches)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("too many tries in a transaction"),
				 errdetail("It has %d.", current.try_count),
				 errhint("A superuser may raise dtx.max_branches.")));
	is_new = tries == NULL;
	if (is_new)
	{
		DtxConnection *connection;

		dtx_node_enter(known);
		connection = dtx_try_connection(known->serverid, known->name, roleid, &reused);
		old = MemoryContextSwitchTo(current_context);
		tries = palloc0(sizeof(DtxTries));
		tries->connection = connection;
		tries->gid = &current.gid;
		tries->lineage = current.database->lineage;
		dtx_identity_format(current.gid.life, DTX_NONCE_SESSION(current.gid.nonce),
							tries->identity);
		current.tries = lappend(current.tries, tries);
		MemoryContextSwitchTo(old);
		pg_atomic_fetch_add_u32(&connection->state->open_branches, 1);
		dtx_database_begun(current.database);
	}
	if (is_new || !tries->connection->open || tries->connection->stale)
		dtx_tries_open(tries);
	dtx_tries_cancel_undone(tries);
	if (tries->connection->entered != current.gid.life)
		dtx_node_register(tries->connection->serverid, roleid, true);
	tries->connection->entered = current.gid.life;
	return tries;
}

/* One more, in the current subtransaction, which is not sent yet. */
DtxTry *
dtx_twophase_add_try(DtxTries *tries, bool bound)
{
	MemoryContext old = MemoryContextSwitchTo(current_context);
	DtxTry	   *try = palloc0(sizeof(DtxTry));

	try->number = ++current.try_count;
	try->bound = bound;
	try->level = GetCurrentTransactionNestLevel();
	tries->tries = lappend(tries->tries, try);
	MemoryContextSwitchTo(old);
	return try;
}

DtxBranch *
dtx_twophase_enlist_snapshot(const char *node)
{
	return enlist(node, true);
}

PG_FUNCTION_INFO_V1(dtx_exec);
PG_FUNCTION_INFO_V1(dtx_query);
PG_FUNCTION_INFO_V1(dtx_send);
PG_FUNCTION_INFO_V1(dtx_current_gid);

static char *
required_text(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
	return strcmp(name, "node") == 0 ? NameStr(*PG_GETARG_NAME(argument)) :
		text_to_cstring(PG_GETARG_TEXT_PP(argument));
}

/* The arguments sql, args and expect of dtx.exec and dtx.send. */
static void
get_call(FunctionCallInfo fcinfo, DtxCall *call)
{
	call->sql = required_text(fcinfo, 1, "sql");
	call->arguments = PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2);
	call->rows_context = CurrentMemoryContext;
	call->counts = !PG_ARGISNULL(3);
	call->expect = call->counts ? PG_GETARG_INT64(3) : 0;
}

/*
 * dtx.exec(node, sql, args, expect): run SQL in the branch on a node.
 * Returns the number of rows affected or returned.  Raises the node's error,
 * 21000 if the count is not the expected one, 08006 if the node is lost.
 */
Datum
dtx_exec(PG_FUNCTION_ARGS)
{
	char	   *node = required_text(fcinfo, 0, "node");
	DtxCall		call = {0};

	get_call(fcinfo, &call);
	dtx_branch_run(enlist(node, false), &call);
	PG_RETURN_INT64(call.result.count);
}

/*
 * dtx.send(node, sql, args, expect): the same without waiting for the answer,
 * so that nodes work side by side.  Errors, those of expect as well, come up
 * at the next use of the node or at COMMIT.
 */
Datum
dtx_send(PG_FUNCTION_ARGS)
{
	char	   *node = required_text(fcinfo, 0, "node");
	DtxCall		call = {0};

	get_call(fcinfo, &call);
	dtx_branch_send(enlist(node, false), &call);
	PG_RETURN_VOID();
}

/*
 * dtx.query(node, sql, args): the rows of a query in the branch on a node.
 * Used with a column definition list.  Errors as dtx.exec.
 */
Datum
dtx_query(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *node = required_text(fcinfo, 0, "node");
	DtxCall		call = {0};

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		(rsinfo->allowedModes & SFRM_Materialize) == 0 || rsinfo->expectedDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("dtx.query must be called in FROM with a column definition list"),
				 errhint("SELECT * FROM dtx.query('node', 'SELECT ...') AS t(id int, name text);")));
	call.sql = required_text(fcinfo, 1, "sql");
	call.arguments = PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2);
	call.expected = rsinfo->expectedDesc;
	call.rows_context = rsinfo->econtext->ecxt_per_query_memory;
	dtx_branch_run(enlist(node, false), &call);
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = call.result.rows;
	rsinfo->setDesc = call.result.rows ? call.result.desc : NULL;
	return (Datum) 0;
}

/*
 * dtx.current_gid(): the name of this global transaction, to be kept by
 * whoever may have to ask for its outcome.  Begins one if there is none.
 */
Datum
dtx_current_gid(PG_FUNCTION_ARGS)
{
	char		text[DTX_GID_SIZE];

	dtx_require_preload();
	begin_global();
	current.gid.xid = U64FromFullTransactionId(GetTopFullTransactionId());
	current.asked = true;
	dtx_gid_format(&current.gid, text);
	PG_RETURN_TEXT_P(cstring_to_text(text));
}

/* ------------------------------------------------------------ phase one */

/*
 * Take in the answer of one branch.  Returns its error, or NULL.  The branch
 * stays "preparing" unless the node itself has refused: then nobody knows
 * what it did.  A cancel by the user is raised at once.
 */
static ErrorData *
gather_one(DtxBranch *branch, bool one_phase)
{
	MemoryContext caller = CurrentMemoryContext;
	DtxConnection *connection = branch->connection;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		if (dtx_deadline_passed() && dtx_remote_poll(connection) != DTX_ANSWER_THERE)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("deadline passed")));
		if (one_phase)
			dtx_branch_get_committed(branch);
		else
			dtx_branch_get_prepared(branch);
	}
	PG_CATCH();
	{
		bool		from_node;

		MemoryContextSwitchTo(caller);
		error = dtx_remote_error(connection, one_phase ? "commit of the branch" :
								 "prepare of the branch", &from_node);
		if (dtx_sqlstate_is_lost(error->sqlerrcode) || !connection->open)
		{
			error->detail = error->message;
			error->sqlerrcode = ERRCODE_CONNECTION_FAILURE;
			error->message = psprintf("lost connection to node \"%s\"", connection->node);
			error->hint = NULL;
			dtx_remote_close(connection);
		}
		else if (from_node || branch->refused)
		{
			/*
			 * Refused.  Whatever failed at the very end of PREPARE, though,
			 * failed with the transaction prepared: let the scanner look.
			 */
			if (branch->ended && !branch->refused && !one_phase)
			{
				dtx_node_uncertain(connection->state);
				current.doubtful = true;
			}
			if (branch->state == DTX_BRANCH_PREPARING)
				branch->state = branch->ended ? DTX_BRANCH_CLOSED : DTX_BRANCH_OPEN;
			if (!dtx_remote_drain(connection) && branch->state == DTX_BRANCH_OPEN)
				branch->state = DTX_BRANCH_LOST;
			if (error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED && error->hint == NULL)
				error->hint = pstrdup("A branch cannot use temporary tables, NOTIFY together with writes, or cursors WITH HOLD.");
		}
		else
		{
			bool		cancelled = error->sqlerrcode == ERRCODE_QUERY_CANCELED;

			dtx_remote_close(connection);
			if ((cancelled && !dtx_deadline_passed()) ||
				error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED)
				ReThrowError(error);
			if (cancelled)
			{
				QueryCancelPending = false;
				error->sqlerrcode = ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN;
				error->message = psprintf("node \"%s\" did not %s its branch within dtx.prepare_timeout",
										  connection->node, one_phase ? "commit" : "prepare");
				error->detail = NULL;
			}
		}
	}
	PG_END_TRY();
	return error;
}

/*
 * Take in the answers to what was sent and not waited for.  The statements
 * have run side by side; their errors are raised as the nodes'.
 */
static void
settle_all(void)
{
	MemoryContext caller = CurrentMemoryContext;
	const char *volatile node = NULL;
	bool		pending = false;
	ListCell   *cell;

	foreach(cell, current.branches)
		pending = pending || ((DtxBranch *) lfirst(cell))->pending != NULL;
	if (!pending)
		return;
	dtx_deadline_start(dtx_prepare_timeout_ms);
	PG_TRY();
	{
		foreach(cell, current.branches)
		{
			DtxBranch  *branch = lfirst(cell);

			node = branch->connection->node;
			dtx_branch_settle(branch);
		}
	}
	PG_CATCH();
	{
		bool		late = dtx_deadline_passed() && geterrcode() == ERRCODE_QUERY_CANCELED;

		dtx_deadline_stop();
		if (!late)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		QueryCancelPending = false;
		ereport(ERROR,
				(errcode(ERRCODE_T_R_STATEMENT_COMPLETION_UNKNOWN),
				 errmsg("node \"%s\" did not finish what it was sent within dtx.prepare_timeout", node),
				 errhint("Use dtx.exec, which waits as long as it takes, or raise dtx.prepare_timeout.")));
	}
	PG_END_TRY();
	dtx_deadline_stop();
}

static bool
is_writer(DtxBranch *branch)
{
	/*
	 * Without an xid it wrote nothing, but a serializable transaction may
	 * still fail at its end: that has to happen in phase one.
	 */
	return branch->state != DTX_BRANCH_CLOSED && !branch->snapshot &&
		(branch->wrote || !branch->asked || XactIsoLevel == XACT_SERIALIZABLE);
}

/*
 * Commit the only branch that wrote; nothing was written here.  Its answer
 * is the decision.
 */
static void
commit_one_phase(DtxBranch *branch)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *error;

	DTX_FAULT("one_phase_before");
	dtx_deadline_start(dtx_prepare_timeout_ms);
	PG_TRY();
	{
		if (!dtx_branch_send_commit(branch))
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("lost connection to node \"%s\"", branch->connection->node)));
		current.one_phase_sent = true;
		DTX_FAULT("one_phase_sent");
		error = gather_one(branch, true);
	}
	PG_CATCH();
	{
		dtx_deadline_stop();
		if (!current.one_phase_sent)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		dtx_remote_close(branch->connection);
		error = palloc0(sizeof(ErrorData));
		error->sqlerrcode = ERRCODE_CONNECTION_FAILURE;
		error->message = pstrdup("the wait for its answer was cancelled");
	}
	PG_END_TRY();
	dtx_deadline_stop();
	current.one_phase_done = error == NULL;
	DTX_FAULT("one_phase_done");
	if (error == NULL)
		return;
	if (branch->state != DTX_BRANCH_PREPARING)
		ReThrowError(error);
	ereport(ERROR,
			(errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
			 errmsg("node \"%s\" did not answer to COMMIT: the outcome of the transaction is not known",
					branch->connection->node),
			 errdetail("%s", error->message),
			 errhint("Where that matters, call dtx.current_gid() in the transaction, or set dtx.one_phase to off.")));
}

/* Prepare all branches at once, take in all answers, raise the first error. */
static void
prepare_all(List *writers)
{
	ErrorData  *first = NULL;
	ListCell   *cell;

	DTX_FAULT("prepare_before");
	dtx_deadline_start(dtx_prepare_timeout_ms);
	PG_TRY();
	{
		foreach(cell, writers)
		{
			DtxBranch  *branch = lfirst(cell);

			if (!dtx_branch_send_prepare(branch) && first == NULL)
			{
				first = palloc0(sizeof(ErrorData));
				first->elevel = ERROR;
				first->sqlerrcode = ERRCODE_CONNECTION_FAILURE;
				first->message = psprintf("lost connection to node \"%s\"",
										  branch->connection->node);
				first->assoc_context = CurrentMemoryContext;
				dtx_remote_close(branch->connection);
			}
		}
		DTX_FAULT("prepare_sent");
		foreach(cell, writers)
		{
			DtxBranch  *branch = lfirst(cell);
			ErrorData  *error;

			if (!branch->connection->open)
				continue;
			error = gather_one(branch, false);
			if (error != NULL && first == NULL)
				first = error;
		}
	}
	PG_CATCH();
	{
		dtx_deadline_stop();
		PG_RE_THROW();
	}
	PG_END_TRY();
	dtx_deadline_stop();
	if (first != NULL)
	{
		dtx_count(DTX_STAT_PREPARE_FAILED, 1);
		first->elevel = ERROR;
		ThrowErrorData(first);
	}
	DTX_FAULT("prepare_gathered");
}

/* A life that has ended meanwhile must not decide anything. */
static void
check_life(void)
{
	if (pg_atomic_read_u64(&current.database->life) != current.gid.life)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension dtx was dropped and created anew during the transaction")));
}

/* Have the commit record flushed and replicated. */
static void
make_durable(void)
{
	ForceSyncCommit();
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		(void) set_config_option("synchronous_commit", "on", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
}

/* Write the row that says: what was tried here is confirmed. */
static void
record_tries(bool will_commit)
{
	DtxFlowRow	row = {0};

	row.key.xid = current.gid.xid;
	row.key.nonce = current.gid.nonce;
	row.life = current.gid.life;
	row.pattern = DTX_PATTERN_TCC;
	row.state = DTX_FLOW_COMMITTING;
	row.owner = GetSessionUserId();
	row.created_at = GetCurrentTimestamp();
	row.due_at = row.created_at;
	/* the session itself confirms at COMMIT */
	if (will_commit)
		row.due_at += (int64) (dtx_commit_wait_ms + TAKE_OVER_MS) * 1000;
	if (!dtx_store_flow_insert(&row))
		elog(ERROR, "two transactions have the same name");
}

/* Write what decides, and have the commit record flushed and replicated. */
static void
record(List *writers, bool will_commit)
{
	int			count = list_length(writers);
	DtxBranchRecord *records = palloc0(sizeof(DtxBranchRecord) * Max(count, 1));
	ListCell   *cell;
	int			i = 0;

	foreach(cell, writers)
	{
		DtxBranch  *branch = lfirst(cell);

		records[i].serverid = branch->connection->serverid;
		records[i].roleid = branch->connection->roleid;
		records[i].identity = branch->connection->identity;
		records[i].xid = branch->xid;
		i++;
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	current.has_row = writers != NIL || current.asked;
	if (current.has_row)
		dtx_store_decide(&current.gid, GetSessionUserId(), current.asked, records, count);
	if (current.bound_count > 0)
		record_tries(will_commit);
	PopActiveSnapshot();
	check_life();				/* now that the table is locked */
	current.recorded = true;
	make_durable();
	DTX_FAULT("record_written");
}

static void
pre_commit(bool will_commit)
{
	List	   *writers = NIL;
	ListCell   *cell;

	settle_all();
	foreach(cell, current.branches)
	{
		DtxBranch  *branch = lfirst(cell);

		if (branch->state == DTX_BRANCH_LOST)
			dtx_branch_raise_lost(branch);
		if (is_writer(branch))
			writers = lappend(writers, branch);
	}
	current.bound_count = 0;
	foreach(cell, current.tries)
	{
		dtx_tries_plan(lfirst(cell), current_context);
		current.bound_count += dtx_tries_bound(lfirst(cell));
		current.durable = current.durable || dtx_tries_any(lfirst(cell));
	}
	if (current.durable || current.bound_count > 0)
	{
		check_life();
		make_durable();
	}
	if (writers == NIL && !current.asked && current.bound_count == 0)
		return;
	check_life();

	if (will_commit && list_length(writers) == 1 && !current.asked && dtx_one_phase &&
		XactIsoLevel != XACT_SERIALIZABLE &&
		!TransactionIdIsValid(GetTopTransactionIdIfAny()))
	{
		commit_one_phase(linitial(writers));
		return;
	}

	current.gid.xid = U64FromFullTransactionId(GetTopFullTransactionId());
	dtx_phase_two_set(current.gid.xid);

	/* numbered as the status row lists them */
	foreach(cell, writers)
	{
		DtxBranch  *branch = lfirst(cell);
		DtxGid		gid = current.gid;

		branch->number = gid.branch = foreach_current_index(cell) + 1;
		dtx_gid_format(&gid, branch->gid);
		dtx_branch_make_ends(branch);
	}
	if (writers != NIL)
		prepare_all(writers);
	record(writers, will_commit);
	if (will_commit && current.has_row)
		dtx_quiet_hold_off();
}

/* ------------------------------------------------------------ phase two */

/*
 * Has a branch whose COMMIT PREPARED was sent answered?  Notes it if so.  Not
 * being able to find out is left to the scanner, like any other answer.
 */
static bool
branch_has_answered(DtxBranch *branch)
{
	switch (dtx_remote_poll(branch->connection))
	{
		case DTX_ANSWER_NONE:
			return false;
		case DTX_ANSWER_THERE:
			if (dtx_remote_answered_ok(branch->connection))
			{
				branch->state = DTX_BRANCH_FINISHED;
				return true;
			}
			break;
		case DTX_ANSWER_UNKNOWN:
			break;
	}
	dtx_remote_close(branch->connection);
	branch->state = DTX_BRANCH_PREPARED;
	return true;
}

/* End a branch that has only read: nothing depends on the answer. */
static void
end_reader(DtxBranch *branch)
{
	branch->connection->ended_by_commit = true;
	if (!dtx_remote_send(branch->connection,
						 "COMMIT; SELECT pg_catalog.pg_advisory_unlock_all()::text", 2))
		dtx_remote_close(branch->connection);
	branch->state = DTX_BRANCH_CLOSED;
}

/* Send COMMIT PREPARED to all, and wait for their answers within the bound. */
static void
finish_forward(void)
{
	instr_time	begun;
	ListCell   *cell;
	bool		all_answered = false;
	DtxConnection *first = NULL;

	DTX_FAULT("commit_begin");
	foreach(cell, current.branches)
	{
		DtxBranch  *branch = lfirst(cell);

		if (branch->state == DTX_BRANCH_PREPARED)
		{
			if (dtx_remote_send(branch->connection, branch->finish_sql, 1))
			{
				branch->state = DTX_BRANCH_FINISHING;
				if (first == NULL && !branch->connection->state->hung)
					first = branch->connection;
			}
			DTX_FAULT("commit_sent");
		}
		else if (branch->state == DTX_BRANCH_OPEN)
			end_reader(branch);
	}
	foreach(cell, current.tries)
	{
		DtxTries   *tries = lfirst(cell);

		if (!dtx_tries_send_end(tries))
			continue;
		if (first == NULL && !tries->connection->state->hung)
			first = tries->connection;
		DTX_FAULT("tcc_confirm_sent");
	}

	INSTR_TIME_SET_CURRENT(begun);
	/* they have hardly answered already: look once one has */
	if (first != NULL && dtx_commit_wait_ms > 0)
		dtx_remote_pause(&first, 1, Min(FIRST_PAUSE_MS, dtx_commit_wait_ms));
	while (!all_answered)
	{
		instr_time	elapsed;
		bool		late;
		DtxConnection *waiting[16];
		int			waiting_count = 0;

		INSTR_TIME_SET_CURRENT(elapsed);
		INSTR_TIME_SUBTRACT(elapsed, begun);
		late = INSTR_TIME_GET_MILLISEC(elapsed) >= dtx_commit_wait_ms;
		DTX_FAULT("commit_wait");
		all_answered = true;
		foreach(cell, current.branches)
		{
			DtxBranch  *branch = lfirst(cell);
			DtxNode    *node = branch->connection->state;

			if (branch->state != DTX_BRANCH_FINISHING || branch_has_answered(branch))
				continue;
			if (!late && !node->hung)
			{
				all_answered = false;
				if (waiting_count < lengthof(waiting))
					waiting[waiting_count++] = branch->connection;
				continue;
			}
			if (dtx_commit_wait_ms > 0)
				node->hung = true;
			branch->state = DTX_BRANCH_PREPARED;
			if (dtx_commit_wait_ms > 0)
				dtx_remote_close(branch->connection);
		}
		foreach(cell, current.tries)
		{
			DtxTries   *tries = lfirst(cell);
			DtxNode    *node = tries->connection->state;

			if (tries->end != DTX_TRIES_ENDING || dtx_tries_have_ended(tries))
				continue;
			if (!late && !node->hung)
			{
				all_answered = false;
				if (waiting_count < lengthof(waiting))
					waiting[waiting_count++] = tries->connection;
				continue;
			}
			tries->end = DTX_TRIES_LEFT;
			if (dtx_commit_wait_ms > 0)
			{
				node->hung = true;
				dtx_remote_close(tries->connection);
			}
		}
		if (!all_answered)
			dtx_remote_pause(waiting, waiting_count,
							 Max(1, dtx_commit_wait_ms - (int) INSTR_TIME_GET_MILLISEC(elapsed)));
	}
	DTX_FAULT("commit_done");
}

/*
 * Would a message to the client go out at once?  Interrupts are held: a
 * client that does not read must not keep us here.
 */
static bool
client_listens(void)
{
	struct pollfd client;

	if (whereToSendOutput != DestRemote || MyProcPort == NULL)
		return true;
	client.fd = DTX_CLIENT_SOCKET;
	client.events = POLLOUT;
	return poll(&client, 1, 0) > 0 && (client.revents & POLLOUT) != 0;
}

/*
 * Hand over what is left of tries.  Returns how many are not known to be
 * confirmed, and a node of such.
 */
static int
leave_tries(const char **node)
{
	ListCell   *cell;
	int			left = 0;
	bool		look = false;

	foreach(cell, current.tries)
	{
		DtxTries   *tries = lfirst(cell);

		dtx_tries_orphans(tries, current.database, false);
		if (tries->end_sql == NULL || tries->end == DTX_TRIES_ENDED)
			continue;
		/* also what was only cancelled, of which the answer was not waited for */
		dtx_node_uncertain(tries->connection->state);
		look = true;
		if (tries->end == DTX_TRIES_ENDING)
			dtx_remote_close(tries->connection);
		if (tries->confirm_count == 0)
			continue;
		left += tries->confirm_count;
		*node = tries->connection->node;
	}
	if (current.bound_count > 0)
		dtx_database_add_tcc_end(current.database, current.gid.xid, current.gid.nonce, left == 0);
	if (look)
		dtx_database_wake(current.database);
	return left;
}

/* Hand over to the scanner what is not finished, and tell the client. */
static void
leave_to_scanner(void)
{
	ListCell   *cell;
	int			left = 0;
	int			left_tries;
	const char *node = NULL;

	/* first: a scanner that looks in between must not leave it to us */
	dtx_phase_two_clear();
	left_tries = leave_tries(&node);
	foreach(cell, current.branches)
	{
		DtxBranch  *branch = lfirst(cell);

		if (branch->state != DTX_BRANCH_PREPARED && branch->state != DTX_BRANCH_FINISHING)
			continue;
		if (branch->state == DTX_BRANCH_FINISHING)
			dtx_remote_close(branch->connection);
		dtx_node_uncertain(branch->connection->state);
		node = branch->connection->node;
		left++;
	}
	if (left == 0 && current.has_row)
	{
		/* all have: the row may go */
		if (!dtx_database_add_finished(current.database, current.gid.xid))
		{
			foreach(cell, current.branches)
				dtx_node_uncertain(((DtxBranch *) lfirst(cell))->connection->state);
			dtx_database_wake(current.database);
		}
	}
	if (left + left_tries == 0)
		return;
	/* the row goes when all are proven, those that have answered as well */
	foreach(cell, current.branches)
	{
		DtxBranch  *branch = lfirst(cell);

		if (left > 0 && branch->state == DTX_BRANCH_FINISHED)
			dtx_node_uncertain(branch->connection->state);
	}
	left += left_tries;
	dtx_count(DTX_STAT_LEFT_PENDING, left);
	dtx_database_wake(current.database);
	if (dtx_commit_wait_ms == 0)
		return;
	DTX_NOTHROW_BEGIN();
	{
		char		text[DTX_GID_SIZE];

		DTX_FAULT("commit_warning");
		dtx_gid_format(&current.gid, text);
		ereport(client_listens() ? WARNING : LOG,
				(errcode(ERRCODE_DTX_PENDING),
				 errmsg("transaction is committed, but %d of its branches %s not confirmed it yet",
						left, left == 1 ? "has" : "have"),
				 errdetail("Global transaction \"%s\"; node \"%s\"%s.", text, node,
						   left > 1 ? " and others" : ""),
				 errhint("The scanner finishes it when the node answers; see dtx.stuck and dtx.nodes.")));
	}
	DTX_NOTHROW_FAILED();
	{
	}
	DTX_NOTHROW_END();
}

/* No connection is kept whose transaction was not ended. */
static void
close_unended(void)
{
	ListCell   *cell;

	foreach(cell, current.branches)
	{
		DtxBranch  *branch = lfirst(cell);

		if (branch->state == DTX_BRANCH_OPEN)
			dtx_remote_close(branch->connection);
	}
}

/* XACT_EVENT_COMMIT.  Interrupts are held, local locks too; nothing throws. */
static void
commit_callback(void)
{
	if (current.recorded)
		dtx_count(DTX_STAT_COMMITTED, 1);
	else if (current.one_phase_done)
		dtx_count(DTX_STAT_ONE_PHASE, 1);

	DTX_NOTHROW_BEGIN();
	{
		if (!current.recorded || (!ProcDiePending && dtx_is_replicated(XactLastCommitEnd)))
			finish_forward();
	}
	DTX_NOTHROW_FAILED();
	{
		/* whatever it was, the scanner can do it as well */
	}
	DTX_NOTHROW_END();
	if (current.recorded)
		leave_to_scanner();
	else
	{
		const char *node;

		(void) leave_tries(&node);
	}
	close_unended();
	dtx_connections_release();
	end_global();
}

/*
 * XACT_EVENT_PREPARE.  The local transaction, with the status row in it, is
 * prepared: its end is the decision, by whomever and whenever.
 */
static void
prepare_callback(void)
{
	ListCell   *cell;

	foreach(cell, current.branches)
	{
		DtxBranch  *branch = lfirst(cell);

		if (branch->state == DTX_BRANCH_PREPARED)
			dtx_node_uncertain(branch->connection->state);
		else if (branch->state == DTX_BRANCH_OPEN)
			end_reader(branch);
	}
	foreach(cell, current.tries)
	{
		DtxTries   *tries = lfirst(cell);

		/* what is undone is so however the rest ends; the scanner cancels it */
		dtx_tries_orphans(tries, current.database, false);
		dtx_node_uncertain(tries->connection->state);
	}
	if (current.recorded || current.tries != NIL)
		dtx_database_add_subtree(current.database);
	dtx_phase_two_clear();
	if (current.recorded || current.tries != NIL)
		dtx_database_wake(current.database);	/* to have it shown */
	dtx_connections_release();
	end_global();
}

/* XACT_EVENT_ABORT.  Waits for nothing; nothing throws. */
static void
abort_callback(void)
{
	ListCell   *cell;
	bool		left = current.doubtful;

	DTX_NOTHROW_BEGIN();
	{
		DTX_FAULT("abort_begin");
	}
	DTX_NOTHROW_FAILED();
	{
	}
	DTX_NOTHROW_END();

	/* first: a scanner that looks in between must not leave it to us */
	dtx_phase_two_clear();
	foreach(cell, current.branches)
	{
		DtxBranch  *branch = lfirst(cell);

		/* the local transaction may be prepared all the same */
		if (current.subtree && branch->state == DTX_BRANCH_PREPARED)
		{
			dtx_node_uncertain(branch->connection->state);
			left = true;
		}
		else if (dtx_branch_abort(branch))
		{
			dtx_node_uncertain(branch->connection->state);
			left = true;
		}
		DTX_NOTHROW_BEGIN();
		{
			DTX_FAULT("abort_sent");
		}
		DTX_NOTHROW_FAILED();
		{
		}
		DTX_NOTHROW_END();
	}
	foreach(cell, current.tries)
	{
		DtxTries   *tries = lfirst(cell);

		if (current.subtree || dtx_tries_abort(tries))
		{
			dtx_tries_orphans(tries, current.database, !current.subtree);
			dtx_node_uncertain(tries->connection->state);
			left = true;
		}
	}
	if (current.subtree && (current.recorded || current.tries != NIL))
		dtx_database_add_subtree(current.database);
	if (left)
		dtx_database_wake(current.database);
	dtx_count(DTX_STAT_ABORTED, 1);
	if (current.one_phase_done)
	{
		DTX_NOTHROW_BEGIN();
		{
			ereport(client_listens() ? WARNING : LOG,
					(errcode(ERRCODE_T_R_INTEGRITY_CONSTRAINT_VIOLATION),
					 errmsg("the transaction failed here after its only branch had committed in one phase"),
					 errhint("Another extension failed in the same COMMIT; set dtx.one_phase to off to avoid this.")));
		}
		DTX_NOTHROW_FAILED();
		{
		}
		DTX_NOTHROW_END();
	}
	dtx_connections_release();
	end_global();
}

static void
transaction_callback(XactEvent event, void *arg)
{
	if (!current.active)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			pre_commit(true);
			break;
		case XACT_EVENT_COMMIT:
			commit_callback();
			break;
		case XACT_EVENT_ABORT:
			abort_callback();
			break;
		case XACT_EVENT_PRE_PREPARE:
			pre_commit(false);
			current.subtree = true;
			break;
		case XACT_EVENT_PREPARE:
			prepare_callback();
			break;
		default:
			break;
	}
}

static void
subtransaction_callback(SubXactEvent event, SubTransactionId subid,
						SubTransactionId parent, void *arg)
{
	int			level;
	ListCell   *cell;

	if (!current.active ||
		(event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB))
		return;
	level = GetCurrentTransactionNestLevel();
	foreach(cell, current.branches)
	{
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			dtx_branch_subcommit(lfirst(cell), level);
		else
			dtx_branch_subabort(lfirst(cell), level);
	}
	foreach(cell, current.tries)
	{
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			dtx_tries_subcommit(lfirst(cell), level);
		else
			dtx_tries_subabort(lfirst(cell), level);
	}
}

/* Does this session's transaction depend on nodes? */
bool
dtx_twophase_has_branches(void)
{
	return current.active && (current.branches != NIL || current.tries != NIL);
}

void
dtx_twophase_init(void)
{
	RegisterXactCallback(transaction_callback, NULL);
	RegisterSubXactCallback(subtransaction_callback, NULL);
}
