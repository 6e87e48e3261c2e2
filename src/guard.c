/*-------------------------------------------------------------------------
 *
 * guard.c
 *		Hooks that keep other commands from getting in the way of dtx, and dtx
 *		from getting in theirs.
 *
 *		DROP DATABASE, ALTER DATABASE ... RENAME or SET TABLESPACE, CREATE
 *		DATABASE ... TEMPLATE: need the database without connections, so its
 *		scanner leaves for as long as they take.
 *		COMMIT PREPARED, ROLLBACK PREPARED: may decide for branches, so that
 *		the scanner has to look.
 *		DROP SERVER, USER MAPPING, ROLE, EXTENSION, DATABASE: refused while
 *		branches there, or flows, depend on it.
 *
 * (1) ALTER SERVER and ALTER USER MAPPING stay allowed: a new address or
 *	   password is what gets unfinished branches going again, and no branch is
 *	   believed to have ended by a server that is not the one which prepared.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "dtx.h"
#include "guc.h"
#include "session.h"
#include "shmem.h"
#include "store.h"
#include "store_flow.h"

static ProcessUtility_hook_type next_utility_hook = NULL;
static object_access_hook_type next_object_access_hook = NULL;
static ExecutorRun_hook_type next_executor_run = NULL;
static ExecutorFinish_hook_type next_executor_finish = NULL;

/* The database that a statement needs to be alone with, or none. */
static Oid
database_needed(Node *statement, bool *drop, bool *force)
{
	const char *name = NULL;
	ListCell   *cell;

	*drop = *force = false;
	if (IsA(statement, DropdbStmt))
	{
		*drop = true;
		name = ((DropdbStmt *) statement)->dbname;
		foreach(cell, ((DropdbStmt *) statement)->options)
			*force = *force || strcmp(((DefElem *) lfirst(cell))->defname, "force") == 0;
	}
	else if (IsA(statement, RenameStmt) &&
			 ((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) statement)->subname;
	else if (IsA(statement, AlterDatabaseStmt))
	{
		foreach(cell, ((AlterDatabaseStmt *) statement)->options)
			if (strcmp(((DefElem *) lfirst(cell))->defname, "tablespace") == 0)
				name = ((AlterDatabaseStmt *) statement)->dbname;
	}
	else if (IsA(statement, CreatedbStmt))
	{
		foreach(cell, ((CreatedbStmt *) statement)->options)
			if (strcmp(((DefElem *) lfirst(cell))->defname, "template") == 0 &&
				((DefElem *) lfirst(cell))->arg != NULL)
				name = defGetString(lfirst(cell));
	}
	return name ? get_database_oid(name, true) : InvalidOid;
}

/* Will the statement get as far as to need the database? */
static bool
may_have_it(Node *statement, Oid database, ProcessUtilityContext context)
{
	bool		owner = superuser() || dtx_owns_database(database, GetUserId());

	if (IsA(statement, RenameStmt) || IsA(statement, AlterDatabaseStmt))
		return owner;
	/* these two are refused in a transaction block */
	if (context != PROCESS_UTILITY_TOPLEVEL || IsTransactionBlock())
		return false;
	if (IsA(statement, DropdbStmt))
		return owner;
	/* a template of somebody else: one has to be allowed to copy it */
	return owner;
}

/* Wait until the workers of a database have left. */
static void
wait_until_away(DtxDatabase *entry)
{
	/* a worker that opens a connection cannot be interrupted on 15 */
	DtxTime deadline = dtx_later(dtx_now(),
													   (dtx_connect_timeout_s + 5) * 1000L);

	ConditionVariablePrepareToSleep(&entry->changed);
	while ((entry->scanner_pid != 0 || entry->worker_count > 0) &&
		   dtx_now() < deadline)
	{
		Latch	   *latch = entry->scanner_latch;

		if (latch != NULL)
			SetLatch(latch);
		dtx_flows_wake(entry, false);
		(void) ConditionVariableTimedSleep(&entry->changed, 50, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

/* Also on FATAL: otherwise nobody would ever let it back. */
static void
let_back(int code, Datum arg)
{
	DtxDatabase *entry = (DtxDatabase *) DatumGetPointer(arg);

	SpinLockAcquire(&entry->mutex);
	entry->stop_count--;
	entry->wanted = true;
	SpinLockRelease(&entry->mutex);
	dtx_launcher_wake();
}

static bool
ends_prepared(TransactionStmt *statement)
{
	return statement->kind == TRANS_STMT_COMMIT_PREPARED ||
		statement->kind == TRANS_STMT_ROLLBACK_PREPARED;
}

/* A prepared transaction was ended here; what hangs on it, if anything, has to follow. */
static void
follow_subtree(void)
{
	DtxDatabase *entry = dtx_database(MyDatabaseId, false);
	uint64		seen;

	if (entry == NULL)
		return;
	if (entry->flows_prepared)
		dtx_flows_wake(entry, false);
	if (!dtx_database_subtrees(entry, &seen))
		return;
	dtx_nodes_uncertain(MyDatabaseId);
	dtx_database_wake(entry);
}

static void
utility_hook(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			 ProcessUtilityContext context, ParamListInfo params,
			 QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	ProcessUtility_hook_type next = next_utility_hook ? next_utility_hook : standard_ProcessUtility;
	bool		drop = false;
	bool		force = false;
	Oid			database = InvalidOid;
	DtxDatabase *entry = NULL;

	switch (nodeTag(pstmt->utilityStmt))
	{
		case T_DropdbStmt:
		case T_RenameStmt:
		case T_AlterDatabaseStmt:
		case T_CreatedbStmt:
			if (dtx_shared != NULL)
				database = database_needed(pstmt->utilityStmt, &drop, &force);
			if (OidIsValid(database))
				entry = dtx_database(database, false);
			break;
		case T_TransactionStmt:
			if (dtx_shared != NULL && ends_prepared((TransactionStmt *) pstmt->utilityStmt))
			{
				next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
				follow_subtree();
				return;
			}
			break;
		default:
			break;
	}
	/* for those who will be refused, nobody has to leave */
	if (entry == NULL || !may_have_it(pstmt->utilityStmt, database, context))
	{
		next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
		return;
	}

	/* a copy that was never adopted has sent nothing */
	if (drop && !force && entry->state != DTX_DATABASE_UNADOPTED &&
		dtx_nodes_unfinished(database, InvalidOid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("database \"%s\" may have unfinished branches on its nodes",
						get_database_name(database)),
				 errdetail("Without it nobody could end them."),
				 errhint("CALL dtx.recover() in it and look at dtx.stuck, or drop it WITH (FORCE).")));
	SpinLockAcquire(&entry->mutex);
	entry->stop_count++;
	SpinLockRelease(&entry->mutex);
	PG_ENSURE_ERROR_CLEANUP(let_back, PointerGetDatum(entry));
	{
		wait_until_away(entry);
		next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
	}
	PG_END_ENSURE_ERROR_CLEANUP(let_back, PointerGetDatum(entry));
	let_back(0, PointerGetDatum(entry));
	if (drop && !OidIsValid(get_database_oid(((DropdbStmt *) pstmt->utilityStmt)->dbname, true)))
		dtx_database_forget(database);
}

/* What the scanner knew of the database ends with the extension. */
static bool extension_dropped = false;

static void
drop_callback(XactEvent event, void *arg)
{
	DtxDatabase *entry;

	if (!extension_dropped || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT))
		return;
	extension_dropped = false;
	if (event == XACT_EVENT_ABORT || (entry = dtx_database(MyDatabaseId, false)) == NULL)
		return;
	/* transactions that carry the old life cannot commit any more */
	pg_atomic_write_u64(&entry->life, 0);
	SpinLockAcquire(&entry->mutex);
	entry->state = DTX_DATABASE_STARTING;
	entry->lineage = 0;
	SpinLockRelease(&entry->mutex);
	dtx_database_wake(entry);
}

static void
refuse_drop(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("cannot drop %s while branches depend on it", what),
			 errhint("CALL dtx.recover() and look at dtx.stuck and dtx.nodes.  "
					 "If the node is gone for good, a superuser may set dtx.allow_drop_in_doubt.")));
}

/* Refuse to drop what a flow that is not over needs, of a server, a role, or both. */
static void
refuse_for_flows(const char *what, Oid serverid, Oid roleid)
{
	if (!dtx_store_flow_uses(serverid, roleid))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("cannot drop %s while sagas or TCC transactions depend on it", what),
			 errhint("See dtx.transactions for those that are not finished, and dtx.stuck.  "
					 "If the node is gone for good, a superuser may set dtx.allow_drop_in_doubt.")));
}

static void
object_access(ObjectAccessType access, Oid classid, Oid objectid, int subid, void *arg)
{
	if (next_object_access_hook)
		next_object_access_hook(access, classid, objectid, subid, arg);
	if (access != OAT_DROP || dtx_shared == NULL || !OidIsValid(MyDatabaseId) ||
		dtx_allow_drop_in_doubt)
		return;
	switch (classid)
	{
		case ForeignServerRelationId:
		case UserMappingRelationId:
		case AuthIdRelationId:
		case RelationRelationId:
			break;
		default:
			return;
	}
	/* an update of the extension makes some of its views anew */
	if (classid == RelationRelationId && (subid != 0 || creating_extension ||
										  get_rel_namespace(objectid) !=
										  get_namespace_oid(DTX_SCHEMA, true)))
		return;
	/* without the extension there is nothing to look at */
	if (!OidIsValid(get_namespace_oid(DTX_SCHEMA, true)) ||
		!OidIsValid(get_extension_oid("dtx", true)))
		return;
	if (classid == ForeignServerRelationId)
	{
		if (dtx_nodes_unfinished(MyDatabaseId, objectid) ||
			dtx_store_server_in_use(objectid, InvalidOid))
			refuse_drop("a server");
		refuse_for_flows("a server", objectid, InvalidOid);
	}
	else if (classid == UserMappingRelationId)
	{
		HeapTuple	tuple = SearchSysCache1(USERMAPPINGOID, ObjectIdGetDatum(objectid));

		if (HeapTupleIsValid(tuple))
		{
			Form_pg_user_mapping form = (Form_pg_user_mapping) GETSTRUCT(tuple);
			Oid			serverid = form->umserver;
			Oid			roleid = form->umuser;

			ReleaseSysCache(tuple);
			if (dtx_store_server_in_use(serverid, roleid) ||
				(dtx_nodes_unfinished(MyDatabaseId, serverid) &&
				 dtx_store_node_known(serverid, roleid)))
				refuse_drop("a user mapping");
			refuse_for_flows("a user mapping", serverid, roleid);
		}
	}
	else if (classid == AuthIdRelationId)
	{
		ListCell   *cell;

		if (dtx_store_server_in_use(InvalidOid, objectid))
			refuse_drop("a role");
		refuse_for_flows("a role", InvalidOid, objectid);
		/* what is not decided yet may have to be rolled back as it */
		foreach(cell, dtx_store_nodes())
		{
			DtxNodeRow *row = lfirst(cell);

			if (list_member_oid(row->roles, objectid) &&
				dtx_nodes_unfinished(MyDatabaseId, row->serverid))
				refuse_drop("a role");
		}
	}
	else
	{
		/*
		 * The extension goes.  It comes last itself; the first of its views
		 * comes when all of its tables are still there.
		 */
		Oid			schema = get_namespace_oid(DTX_SCHEMA, true);

		if (!OidIsValid(get_relname_relid("decision", schema)) ||
			!OidIsValid(get_relname_relid("branch", schema)) ||
			!OidIsValid(get_relname_relid("transaction", schema)) ||
			!OidIsValid(get_relname_relid("step", schema)))
			return;
		if (dtx_twophase_has_branches() ||
			dtx_nodes_unfinished(MyDatabaseId, InvalidOid) ||
			dtx_store_server_in_use(InvalidOid, InvalidOid))
			refuse_drop("extension dtx");
		refuse_for_flows("extension dtx", InvalidOid, InvalidOid);
		extension_dropped = true;
	}
}

/*
 * A wait for a local lock is broken off by PostgreSQL itself: if that came of
 * a deadlock over several nodes, the error has to say so.
 */
static void
rename_cancel(MemoryContext caller)
{
	ErrorData  *error;

	if (geterrcode() != ERRCODE_QUERY_CANCELED || !dtx_twophase_has_branches())
		return;
	MemoryContextSwitchTo(caller);
	error = CopyErrorData();
	FlushErrorState();
	dtx_session_rename_cancel(error);
	ReThrowError(error);
}

static void
executor_run(QueryDesc *query, ScanDirection direction, uint64 count DTX_EXECUTE_ONCE_ARGUMENT)
{
	MemoryContext caller = CurrentMemoryContext;

	if (!dtx_twophase_has_branches())
	{
		next_executor_run(query, direction, count DTX_EXECUTE_ONCE);
		return;
	}
	PG_TRY();
	{
		next_executor_run(query, direction, count DTX_EXECUTE_ONCE);
	}
	PG_CATCH();
	{
		rename_cancel(caller);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static void
executor_finish(QueryDesc *query)
{
	MemoryContext caller = CurrentMemoryContext;

	if (!dtx_twophase_has_branches())
	{
		next_executor_finish(query);
		return;
	}
	PG_TRY();
	{
		next_executor_finish(query);
	}
	PG_CATCH();
	{
		rename_cancel(caller);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

void
dtx_guard_init(void)
{
	RegisterXactCallback(drop_callback, NULL);
	next_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = utility_hook;
	next_object_access_hook = object_access_hook;
	object_access_hook = object_access;
	next_executor_run = ExecutorRun_hook ? ExecutorRun_hook : standard_ExecutorRun;
	ExecutorRun_hook = executor_run;
	next_executor_finish = ExecutorFinish_hook ? ExecutorFinish_hook : standard_ExecutorFinish;
	ExecutorFinish_hook = executor_finish;
}
