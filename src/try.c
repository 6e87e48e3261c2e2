/*-------------------------------------------------------------------------
 *
 * try.c
 *		The TCC branches of a local transaction.
 *
 *		unsent	-> sent			dtx_try_run
 *		sent	-> done			its answer has come
 *		sent	-> refused		the node has answered with an error
 *		sent, done -> ended		dtx_tries_cancel_undone
 *
 *		Each try is a transaction of its own on the node, and so are its confirm
 *		and its cancel.  They go over a connection beside that of the branch:
 *		in the branch's they would be part of it.
 *
 * (1) On its node a try is known by the local transaction that has made it,
 *	   and by a number that this gives to no other: so what cancels it for a
 *	   rolled back subtransaction, or transaction, can hit no other one.
 * (2) A try is written down before it is sent, in the subtransaction that
 *	   makes it: the row is visible if and only if that has committed.
 * (3) "No answer" is not "refused": such a try is cancelled, and the cancel
 *	   keeps it from coming later.
 * (4) dtx.apply_end answers without an error if and only if all of it is done.
 * (5) From dtx_tries_send_end on nothing throws.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "branch.h"
#include "compat.h"
#include "fault.h"
#include "guc.h"
#include "lane.h"
#include "nothrow.h"
#include "try.h"

#define TRY_SIGNATURE \
	"dtx.apply_try(bigint,bigint,xid8,bigint,integer,text,bigint,xid8,bigint," \
	"text,text,text,text[],integer,text[])"
#define END_SIGNATURE "dtx.apply_end(bigint,xid8,bigint,integer[],text[],integer)"

/* The node, or the network, has failed. */
DTX_NORETURN static void
raise_lost(DtxConnection *connection, const char *detail, bool sent)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("lost connection to node \"%s\"", connection->node),
			 detail ? errdetail_internal("%s", detail) : 0,
			 sent ? errhint("Nobody knows whether the try was done there; it is cancelled.") : 0));
}

/* Prepare the session over there for this transaction; proves it alive. */
static bool
prepare_session(DtxTries *tries)
{
	DtxConnection *connection = tries->connection;
	DtxResult	result;
	StringInfoData sql;
	char	   *value;

	if (!dtx_remote_drain(connection))
		return false;
	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT CASE WHEN pg_catalog.to_regprocedure('" TRY_SIGNATURE "') IS NULL"
					 " OR pg_catalog.to_regprocedure('" END_SIGNATURE "') IS NULL THEN 'no' ELSE"
					 " pg_catalog.concat(pg_catalog.set_config('lock_timeout', '%d', false),"
					 " pg_catalog.set_config('statement_timeout', '0', false),"
					 " pg_catalog.set_config('idle_in_transaction_session_timeout', '0', false),"
					 " CASE WHEN pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'"
					 " THEN pg_catalog.set_config('synchronous_commit', 'on', false) END,"
					 " pg_catalog.set_config('application_name', '%s', false)",
					 LockTimeout > 0 ? LockTimeout : dtx_branch_lock_timeout_ms, tries->identity);
	if (connection->version >= 140000)
		appendStringInfoString(&sql, ", pg_catalog.set_config('client_connection_check_interval', '1s', false)");
	appendStringInfoString(&sql, ") END");
	dtx_remote_run(connection, sql.data, &result);
	value = dtx_result_value(&result, 0);
	if (result.rows != NULL)
		tuplestore_end(result.rows);
	if (!dtx_remote_drain(connection))
		return false;
	if (value != NULL && strcmp(value, "no") != 0)
		return true;
	dtx_remote_close(connection);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("extension dtx is not installed in the database of node \"%s\", or is too old there",
					connection->node),
			 errdetail("Sagas and TCC need its barrier there, which sees to it that nothing is applied twice."),
			 errhint("In that database: CREATE EXTENSION dtx CASCADE, or ALTER EXTENSION dtx UPDATE.")));
}

/*
 * Open the connection if it is not, and prepare the session over there.  A
 * kept one that has died since is replaced.
 */
void
dtx_tries_open(DtxTries *tries)
{
	DtxConnection *connection = tries->connection;
	MemoryContext caller = CurrentMemoryContext;
	bool		reused;
	volatile bool ready = false;

	(void) dtx_try_connection(connection->serverid, connection->node, connection->roleid, &reused);
	if (reused)
	{
		PG_TRY();
		{
			ready = prepare_session(tries);
		}
		PG_CATCH();
		{
			ErrorData  *error;
			bool		from_node;

			MemoryContextSwitchTo(caller);
			error = dtx_remote_error(connection, "statement", &from_node);
			dtx_remote_close(connection);
			if (!dtx_sqlstate_is_lost(error->sqlerrcode))
				ReThrowError(error);
			FreeErrorData(error);
		}
		PG_END_TRY();
		if (ready)
			return;
		(void) dtx_try_connection(connection->serverid, connection->node, connection->roleid, &reused);
	}
	if (!prepare_session(tries))
		raise_lost(connection, NULL, false);
	connection->state->has_barrier = true;
}

/* The call that ends tries; steps and operations are the insides of arrays. */
char *
dtx_end_string(uint64 lineage, const DtxGid *gid, const char *steps, const char *operations)
{
	return psprintf("CALL dtx.apply_end(" INT64_FORMAT ", '" UINT64_FORMAT "', " INT64_FORMAT ", '{%s}', '{%s}', %d)",
					(int64) lineage, gid->xid, (int64) gid->nonce, steps, operations, dtx_step_timeout_ms);
}

static bool
is_to_cancel(DtxTry *try, bool aborted)
{
	return (aborted || try->undone) && (try->state == DTX_TRY_SENT || try->state == DTX_TRY_DONE);
}

static bool
is_to_confirm(DtxTry *try)
{
	return try->bound && !try->undone && try->state == DTX_TRY_DONE;
}

/* What ends all tries, the local transaction having aborted or not; or NULL. */
static char *
make_end(DtxTries *tries, bool aborted, bool confirm, int *confirm_count)
{
	StringInfoData steps;
	StringInfoData operations;
	ListCell   *cell;
	int			count = 0;

	*confirm_count = 0;
	initStringInfo(&steps);
	initStringInfo(&operations);
	foreach(cell, tries->tries)
	{
		DtxTry	   *try = lfirst(cell);
		bool		confirms = confirm && !aborted && is_to_confirm(try);

		if (!confirms && !is_to_cancel(try, aborted))
			continue;
		appendStringInfo(&steps, "%s%d", count > 0 ? "," : "", try->number);
		appendStringInfo(&operations, "%s%s", count > 0 ? "," : "", confirms ? "confirm" : "cancel");
		*confirm_count += confirms;
		count++;
	}
	return count > 0 ? dtx_end_string(tries->lineage, tries->gid, steps.data, operations.data) : NULL;
}

/*
 * Cancel what a rolled back subtransaction has tried, since what it holds may
 * be needed now.  What does not succeed is cancelled at the end.
 */
void
dtx_tries_cancel_undone(DtxTries *tries)
{
	DtxConnection *connection = tries->connection;
	MemoryContext caller = CurrentMemoryContext;
	int			confirms;
	char	   *sql = make_end(tries, false, false, &confirms);
	volatile bool done = false;
	ListCell   *cell;

	if (sql == NULL)
		return;
	PG_TRY();
	{
		DtxResult	result;

		dtx_remote_run(connection, sql, &result);
		done = dtx_remote_drain(connection);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		from_node;

		MemoryContextSwitchTo(caller);
		error = dtx_remote_error(connection, "cancel", &from_node);
		if (dtx_sqlstate_is_lost(error->sqlerrcode))
			dtx_remote_close(connection);
		else if (from_node)
			(void) dtx_remote_drain(connection);
		else
		{
			dtx_remote_close(connection);
			ReThrowError(error);
		}
		FreeErrorData(error);
	}
	PG_END_TRY();
	if (!connection->open)
		dtx_tries_open(tries);
	if (!done)
		return;
	foreach(cell, tries->tries)
		if (is_to_cancel(lfirst(cell), false))
			((DtxTry *) lfirst(cell))->state = DTX_TRY_ENDED;
}

/* The time that a try may take over there; 0: any. */
static int
time_limit(void)
{
	if (StatementTimeout > 0 && dtx_step_timeout_ms > 0)
		return Min(StatementTimeout, dtx_step_timeout_ms);
	return Max(StatementTimeout, dtx_step_timeout_ms);
}

static void
append_literal(StringInfo sql, const char *value)
{
	appendStringInfo(sql, ", %s", value ? quote_literal_cstr(value) : "NULL");
}

/*
 * Send a try that is written down, and wait for what comes of it.  Raises the
 * node's error if it refuses, 08006 if it does not answer.
 */
void
dtx_try_run(DtxTries *tries, DtxTry *try, const DtxTryCall *call, DtxApplied *answer)
{
	DtxConnection *connection = tries->connection;
	MemoryContext caller = CurrentMemoryContext;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CALL dtx.apply_try(" INT64_FORMAT ", " INT64_FORMAT ", '" UINT64_FORMAT "', " INT64_FORMAT ", %d",
					 (int64) tries->lineage, (int64) tries->gid->life, tries->gid->xid,
					 (int64) tries->gid->nonce, try->number);
	append_literal(&sql, call->flow);
	appendStringInfo(&sql, ", " INT64_FORMAT ", '" UINT64_FORMAT "', " INT64_FORMAT,
					 (int64) tries->gid->life, tries->gid->xid, (int64) tries->gid->nonce);
	append_literal(&sql, call->try);
	append_literal(&sql, call->confirm);
	append_literal(&sql, call->cancel);
	append_literal(&sql, call->arguments);
	appendStringInfo(&sql, ", %d)", time_limit());

	DTX_FAULT("tcc_try_before");
	PG_TRY();
	{
		DtxResult	result;
		char	   *value;

		try->state = DTX_TRY_SENT;
		if (!dtx_remote_send(connection, sql.data, 1))
			raise_lost(connection, NULL, true);
		DTX_FAULT("tcc_try_sent");
		dtx_remote_get(connection, NULL, caller, &result);
		value = dtx_result_value(&result, 0);
		if (result.rows != NULL)
			tuplestore_end(result.rows);
		if (!dtx_remote_drain(connection) || value == NULL)
			raise_lost(connection, NULL, true);
		dtx_applied_parse(value, answer, 1);
		try->state = answer->verdict == DTX_VERDICT_DONE ? DTX_TRY_DONE : DTX_TRY_REFUSED;
		DTX_FAULT("tcc_try_done");
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		from_node;

		MemoryContextSwitchTo(caller);
		error = dtx_remote_error(connection, "try", &from_node);
		if (from_node && !dtx_sqlstate_is_lost(error->sqlerrcode))
		{
			try->state = DTX_TRY_REFUSED;
			(void) dtx_remote_drain(connection);
			if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE && error->hint == NULL)
				error->hint = pstrdup("A try does not see through locks of dtx.exec, also not of the same transaction: touch a row by one of the two.");
			ReThrowError(error);
		}
		if (try->state == DTX_TRY_SENT)
			dtx_remote_close(connection);
		if (dtx_sqlstate_is_lost(error->sqlerrcode) && error->hint == NULL)
			raise_lost(connection, error->message, true);
		ReThrowError(error);
	}
	PG_END_TRY();
	if (answer->verdict != DTX_VERDICT_DONE)
		ereport(ERROR,
				(errcode(answer->verdict == DTX_VERDICT_DENIED ? ERRCODE_INSUFFICIENT_PRIVILEGE :
						 ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("try on node \"%s\" has done nothing: it is %s there", connection->node,
						answer->verdict == DTX_VERDICT_BLOCKED ? "cancelled already" :
						answer->verdict == DTX_VERDICT_DENIED ? "another role's" : "known in another way")));
}

/* A subtransaction has committed into its parent. */
void
dtx_tries_subcommit(DtxTries *tries, int level)
{
	ListCell   *cell;

	foreach(cell, tries->tries)
	{
		DtxTry	   *try = lfirst(cell);

		if (!try->undone && try->level >= level)
			try->level = level - 1;
	}
}

/* A subtransaction has rolled back.  Nothing is sent, nothing throws. */
void
dtx_tries_subabort(DtxTries *tries, int level)
{
	ListCell   *cell;

	foreach(cell, tries->tries)
	{
		DtxTry	   *try = lfirst(cell);

		if (try->level >= level)
			try->undone = true;
	}
}

/* How many of them does the local transaction decide about? */
int
dtx_tries_bound(DtxTries *tries)
{
	ListCell   *cell;
	int			count = 0;

	foreach(cell, tries->tries)
		count += is_to_confirm(lfirst(cell));
	return count;
}

/* Does anything depend on whether the local transaction commits? */
bool
dtx_tries_any(DtxTries *tries)
{
	ListCell   *cell;

	foreach(cell, tries->tries)
		if (!((DtxTry *) lfirst(cell))->undone && ((DtxTry *) lfirst(cell))->state == DTX_TRY_DONE)
			return true;
	return false;
}

/* Before the decision: prepare, in that context, what is to be sent after it. */
void
dtx_tries_plan(DtxTries *tries, MemoryContext context)
{
	char	   *sql = make_end(tries, false, true, &tries->confirm_count);

	tries->end_sql = NULL;
	if (sql == NULL)
		return;
	tries->end_sql = MemoryContextStrdup(context, sql);
	/* an earlier answer may be on its way */
	if (tries->connection->open)
		(void) dtx_remote_drain(tries->connection);
}

/*
 * The local transaction has committed.  False if nothing is to be waited for:
 * nothing could be sent, or what was sent can only be cancelled once more.
 */
bool
dtx_tries_send_end(DtxTries *tries)
{
	DtxConnection *connection = tries->connection;

	if (tries->end_sql == NULL)
		return false;
	if (!connection->open || connection->waiting || !dtx_remote_send(connection, tries->end_sql, 1))
	{
		dtx_remote_close(connection);
		tries->end = DTX_TRIES_LEFT;
		return false;
	}
	tries->end = tries->confirm_count > 0 ? DTX_TRIES_ENDING : DTX_TRIES_LEFT;
	return tries->end == DTX_TRIES_ENDING;
}

/* Has the node answered?  Notes it if so; everything but OK is left. */
bool
dtx_tries_have_ended(DtxTries *tries)
{
	switch (dtx_remote_poll(tries->connection))
	{
		case DTX_ANSWER_NONE:
			return false;
		case DTX_ANSWER_THERE:
			if (dtx_remote_answered_ok(tries->connection))
			{
				tries->end = DTX_TRIES_ENDED;
				return true;
			}
			break;
		case DTX_ANSWER_UNKNOWN:
			break;
	}
	dtx_remote_close(tries->connection);
	tries->end = DTX_TRIES_LEFT;
	return true;
}

/*
 * The local transaction has aborted: cancel, without waiting for an answer.
 * True if something may be left over there.  Never throws.
 */
bool
dtx_tries_abort(DtxTries *tries)
{
	DtxConnection *connection = tries->connection;
	volatile bool left = false;
	ListCell   *cell;

	foreach(cell, tries->tries)
		left = left || is_to_cancel(lfirst(cell), true);
	if (!left)
	{
		if (connection->waiting)
			dtx_remote_close(connection);
		return false;
	}
	DTX_NOTHROW_BEGIN();
	{
		int			confirms;
		char	   *sql = connection->open && !connection->waiting ?
			make_end(tries, true, false, &confirms) : NULL;

		if (sql == NULL || !dtx_remote_send(connection, sql, 1))
			dtx_remote_close(connection);
		DTX_FAULT("tcc_cancel_sent");
	}
	DTX_NOTHROW_FAILED();
	{
		dtx_remote_close(connection);
	}
	DTX_NOTHROW_END();
	return true;
}

/*
 * What was sent and not answered, and is of no use any more: the background
 * cancels it, so that it does nothing if it comes late.  Never throws.
 */
void
dtx_tries_orphans(DtxTries *tries, DtxDatabase *database, bool all)
{
	ListCell   *cell;

	foreach(cell, tries->tries)
	{
		DtxTry	   *try = lfirst(cell);
		DtxOrphan	orphan;

		if (try->state != DTX_TRY_SENT || !(all || try->undone))
			continue;
		orphan.gid = *tries->gid;
		orphan.gid.branch = try->number;
		orphan.serverid = tries->connection->serverid;
		orphan.roleid = tries->connection->roleid;
		dtx_database_add_orphan(database, &orphan);
	}
}
