/*-------------------------------------------------------------------------
 *
 * store_rows.c
 *		Rows that every flow needs, written without SQL.
 *
 *		A statement of twenty columns costs the executor three times what the
 *		row does: it compiles a projection, and checks it, each time.  This
 *		writes rows as core's logical replication does when it applies changes.
 *
 * (1) Tables have no triggers and no CHECK; indexes, NOT NULL and TOAST are
 *	   seen to as ever.
 * (2) What is written is visible to the next command of the transaction.
 * (3) The columns are those of sql/30_flow.sql, in that order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "store_private.h"

struct StoreRows
{
	Relation	relation;
	Oid			indexid;		/* of the primary key */
	EState	   *state;
	ResultRelInfo *info;
	TupleTableSlot *slot;		/* what is written */
	TupleTableSlot *found;		/* what is there */
	Oid			save_user;
	int			save_sec_context;
};

/* Begin to write rows of a table with so many columns, as its owner. */
StoreRows *
store_rows_begin(const char *table, const char *index, int column_count)
{
	StoreRows  *rows = palloc0(sizeof(StoreRows));

	GetUserIdAndSecContext(&rows->save_user, &rows->save_sec_context);
	rows->relation = dtx_store_open_table(table, RowExclusiveLock, index, &rows->indexid);
	if (RelationGetNumberOfAttributes(rows->relation) != column_count)
		elog(ERROR, "table dtx.%s has %d columns instead of %d", table,
			 RelationGetNumberOfAttributes(rows->relation), column_count);
	SetUserIdAndSecContext(rows->relation->rd_rel->relowner,
						   rows->save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
	PushActiveSnapshot(GetLatestSnapshot());
	rows->state = CreateExecutorState();
	rows->state->es_snapshot = GetActiveSnapshot();
	rows->state->es_output_cid = GetCurrentCommandId(true);
	rows->info = makeNode(ResultRelInfo);
	InitResultRelInfo(rows->info, rows->relation, 0, NULL, 0);
	ExecOpenIndices(rows->info, false);
	rows->slot = table_slot_create(rows->relation, &rows->state->es_tupleTable);
	rows->found = table_slot_create(rows->relation, &rows->state->es_tupleTable);
	return rows;
}

void
store_rows_end(StoreRows *rows)
{
	ExecCloseIndices(rows->info);
	ExecResetTupleTable(rows->state->es_tupleTable, false);
	FreeExecutorState(rows->state);
	PopActiveSnapshot();
	table_close(rows->relation, NoLock);
	CommandCounterIncrement();
	SetUserIdAndSecContext(rows->save_user, rows->save_sec_context);
}

static void
set_slot(StoreRows *rows, const Datum *values, const bool *nulls)
{
	int			count = rows->slot->tts_tupleDescriptor->natts;

	ExecClearTuple(rows->slot);
	memcpy(rows->slot->tts_values, values, sizeof(Datum) * count);
	memcpy(rows->slot->tts_isnull, nulls, sizeof(bool) * count);
	ExecStoreVirtualTuple(rows->slot);
}

void
store_rows_insert(StoreRows *rows, const Datum *values, const bool *nulls)
{
	set_slot(rows, values, nulls);
	ExecSimpleRelationInsert(rows->info, rows->state, rows->slot);
	ResetPerTupleExprContext(rows->state);
}

/*
 * Find the row with the key that is in values, as it is after everybody who is
 * writing it has ended, and lock it.  Its columns are in found_values then.
 */
bool
store_rows_find(StoreRows *rows, const Datum *values, const bool *nulls,
				Datum **found_values, bool **found_nulls)
{
	set_slot(rows, values, nulls);
	if (!RelationFindReplTupleByIndex(rows->relation, rows->indexid, LockTupleExclusive,
									  rows->slot, rows->found))
		return false;
	slot_getallattrs(rows->found);
	*found_values = rows->found->tts_values;
	*found_nulls = rows->found->tts_isnull;
	return true;
}

/*
 * The same by (xid, nonce) for a row that was committed before store_rows_begin;
 * false also if anybody has locked it, or has changed it since.
 */
bool
store_rows_find_free(StoreRows *rows, Datum xid, Datum nonce, Datum **found_values,
					 bool **found_nulls)
{
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	ItemPointerData tid;
	TM_FailureData failure;

	ScanKeyInit(&key[0], 1, BTEqualStrategyNumber, F_XID8EQ, xid);
	ScanKeyInit(&key[1], 2, BTEqualStrategyNumber, F_INT8EQ, nonce);
	scan = systable_beginscan(rows->relation, rows->indexid, true, rows->state->es_snapshot, 2, key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tid = tuple->t_self;
	else
		ItemPointerSetInvalid(&tid);
	systable_endscan(scan);
	if (!ItemPointerIsValid(&tid) ||
		table_tuple_lock(rows->relation, &tid, rows->state->es_snapshot, rows->found,
						 rows->state->es_output_cid, LockTupleNoKeyExclusive, LockWaitSkip,
						 0, &failure) != TM_Ok)
		return false;
	slot_getallattrs(rows->found);
	*found_values = rows->found->tts_values;
	*found_nulls = rows->found->tts_isnull;
	return true;
}

/* Write over the row that was found. */
void
store_rows_update(StoreRows *rows, const Datum *values, const bool *nulls)
{
	set_slot(rows, values, nulls);
	/* a row that waits for triggers would need the NULL */
	ExecSimpleRelationUpdate(rows->info, rows->state, NULL, rows->found, rows->slot);
	ResetPerTupleExprContext(rows->state);
}
