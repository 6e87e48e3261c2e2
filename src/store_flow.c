/*-------------------------------------------------------------------------
 *
 * store_flow.c
 *		The only reader and writer of the tables of flows.
 *
 *		dtx.transaction	one row per flow: the local transaction status table
 *		dtx.step		one row per operation that was answered
 *		dtx.saga		definitions by name
 *		dtx.error_rule	what an SQLSTATE says of an operation
 *
 * (1) A row of dtx.step says what a participant has answered, which stays
 *	   true whatever becomes of the flow: it is written without a look at the
 *	   flow's row.
 * (2) A flow's state is written only over the row that was read: whoever
 *	   changes it raises change_count, and who comes second has lost.
 * (3) What runs for every flow is planned once per session, and takes many
 *	   rows at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "store.h"
#include "store_flow.h"
#include "store_private.h"

/* So many finished flows are forgotten at a time. */
#define FORGET_BATCH 1000

/* Columns of dtx.transaction and dtx.step, as sql/30_flow.sql has them. */
enum
{
	FLOW_XID, FLOW_NONCE, FLOW_LIFE, FLOW_NAME, FLOW_PATTERN, FLOW_STATE, FLOW_DIRECTION,
	FLOW_INSIST, FLOW_PAUSED, FLOW_OWNER, FLOW_SAGA, FLOW_DEFINITION, FLOW_INPUT, FLOW_NODES,
	FLOW_CHANGE_COUNT, FLOW_CREATED_AT, FLOW_DEADLINE_AT, FLOW_DUE_AT, FLOW_FINISHED_AT,
	FLOW_SQLSTATE, FLOW_REASON, FLOW_COLUMN_COUNT
};

enum
{
	STEP_XID, STEP_NONCE, STEP_STEP, STEP_OPERATION, STEP_STATE, STEP_ATTEMPT_COUNT, STEP_SENT_AT,
	STEP_ANSWERED_AT, STEP_NEXT_AT, STEP_SQLSTATE, STEP_ERROR, STEP_RESULT, STEP_NODE, STEP_ROLE,
	STEP_REGISTRAR_XID, STEP_REGISTRAR_NONCE, STEP_REGISTRAR_STEP, STEP_COLUMN_COUNT
};

/* Columns of a flow's row, in the order of read_flow(). */
#define FLOW_COLUMNS \
	"t.xid, t.nonce, t.life, t.name, t.pattern = 'tcc', t.state, t.direction = 'backward'," \
	" t.insist, t.paused, t.owner, COALESCE(t.saga, 0), t.definition, t.input, t.nodes," \
	" t.change_count::bigint, t.created_at, t.deadline_at, t.due_at, t.finished_at," \
	" t.sqlstate, t.reason"

/* The gid of a flow, as transaction_gid_idx and the views have it. */
#define FLOW_GID(t) "COALESCE(" t ".name, dtx.gid_text(" t ".life, " t ".xid, " t ".nonce))"

#define STEP_COLUMNS \
	"s.xid, s.nonce, s.step::bigint, s.operation, s.state, s.attempt_count::bigint," \
	" s.sent_at, s.answered_at, s.next_at, s.sqlstate, s.error, s.result, s.node, s.role," \
	" s.registrar_xid, s.registrar_nonce, COALESCE(s.registrar_step, 0)::bigint"

void
dtx_flow_gid(const DtxFlowRow *row, char *buffer)
{
	DtxGid		gid = {.life = row->life,.xid = row->key.xid,.nonce = row->key.nonce};

	if (row->name != NULL)
		strlcpy(buffer, row->name, DTX_FLOW_NAME_MAX + 1);
	else
		dtx_gid_format(&gid, buffer);
}

/* Is there a plan that will be used as it is? */
static bool
is_planned(SPIPlanPtr plan)
{
	return plan != NULL && SPI_plan_is_valid(plan);
}

/*
 * Until dtx_store_leave(): few rows by their keys, or in the order of an index,
 * whatever the planner thinks of arrays and of how many are due.
 */
static void
plan_by_index(void)
{
	static const char *const settings[] = {
		"enable_hashjoin", "enable_mergejoin", "enable_seqscan", "enable_bitmapscan", "enable_sort"
	};

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* ----------------------------------------------------------------- reading */

static char *
column_text(uint64 row, int number)
{
	bool		isnull;
	Datum		value = column(row, number, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static TimestampTz
column_time(uint64 row, int number)
{
	bool		isnull;
	Datum		value = column(row, number, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

static Jsonb *
column_jsonb(uint64 row, int number)
{
	bool		isnull;
	Datum		value = column(row, number, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(value);
}

static void
column_sqlstate(uint64 row, int number, char *sqlstate)
{
	char	   *value = column_text(row, number);

	strlcpy(sqlstate, value ? value : "", 6);
}

/* Allocated in the current context. */
static DtxFlowRow *
read_flow(uint64 row)
{
	DtxFlowRow *flow = palloc0(sizeof(DtxFlowRow));
	Datum	   *nodes;
	bool		isnull;

	flow->key.xid = column_u64(row, 1);
	flow->key.nonce = column_u64(row, 2);
	flow->life = column_u64(row, 3);
	flow->name = column_text(row, 4);
	flow->pattern = column_bool(row, 5) ? DTX_PATTERN_TCC : DTX_PATTERN_SAGA;
	flow->state = dtx_flow_state_parse(column_text(row, 6));
	flow->backward = column_bool(row, 7);
	flow->insist = column_bool(row, 8);
	flow->paused = column_bool(row, 9);
	flow->owner = column_oid(row, 10);
	flow->saga = (int64) column_u64(row, 11);
	flow->definition = column_jsonb(row, 12);
	flow->input = column_jsonb(row, 13);
	deconstruct_array(DatumGetArrayTypeP(column(row, 14, &isnull)), OIDOID, sizeof(Oid), true,
					  TYPALIGN_INT, &nodes, NULL, &flow->node_count);
	flow->nodes = palloc(sizeof(Oid) * Max(flow->node_count, 1));
	for (int i = 0; i < flow->node_count; i++)
		flow->nodes[i] = DatumGetObjectId(nodes[i]);
	flow->change_count = (int) column_u64(row, 15);
	flow->created_at = column_time(row, 16);
	flow->deadline_at = column_time(row, 17);
	flow->due_at = column_time(row, 18);
	flow->finished_at = column_time(row, 19);
	column_sqlstate(row, 20, flow->sqlstate);
	flow->reason = column_text(row, 21);
	return flow;
}

static DtxStepRow *
read_step(uint64 row)
{
	DtxStepRow *step = palloc0(sizeof(DtxStepRow));

	step->step = (int) column_u64(row, 3);
	if (!dtx_operation_parse(column_text(row, 4), &step->operation))
		elog(ERROR, "invalid operation in dtx.step");
	step->state = dtx_step_state_parse(column_text(row, 5));
	step->attempt_count = (int) column_u64(row, 6);
	step->sent_at = column_time(row, 7);
	step->answered_at = column_time(row, 8);
	step->next_at = column_time(row, 9);
	column_sqlstate(row, 10, step->sqlstate);
	step->error = column_text(row, 11);
	step->result = column_jsonb(row, 12);
	step->node = column_oid(row, 13);
	step->role = column_oid(row, 14);
	step->registrar.xid = column_u64(row, 15);
	step->registrar.nonce = column_u64(row, 16);
	step->registrar_step = (int) column_u64(row, 17);
	return step;
}

static Datum
u64_array(const uint64 *values, int count, Oid type)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(count, 1));

	for (int i = 0; i < count; i++)
		elements[i] = u64_datum(values[i]);
	return PointerGetDatum(construct_array(elements, count, type, 8, true, TYPALIGN_DOUBLE));
}

static int
compare_flows(const void *a, const void *b)
{
	const DtxFlowRow *left = *(DtxFlowRow *const *) a;
	const DtxFlowRow *right = *(DtxFlowRow *const *) b;

	if (left->key.nonce != right->key.nonce)
		return left->key.nonce < right->key.nonce ? -1 : 1;
	return left->key.xid < right->key.xid ? -1 : left->key.xid > right->key.xid;
}

/* Read the steps of flows, in the caller's context; inside dtx_store_enter. */
static void
read_steps(List *flows, MemoryContext caller)
{
	static SPIPlanPtr plan = NULL;
	int			count = list_length(flows);
	DtxFlowRow **sorted;
	uint64	   *xids;
	uint64	   *nonces;
	uint64		rows;
	Oid			types[] = {get_array_type(XID8OID), INT8ARRAYOID};
	Datum		values[2];

	if (count == 0)
		return;
	sorted = palloc(sizeof(DtxFlowRow *) * count);
	xids = palloc(sizeof(uint64) * count);
	nonces = palloc(sizeof(uint64) * count);
	for (int i = 0; i < count; i++)
	{
		sorted[i] = list_nth(flows, i);
		xids[i] = sorted[i]->key.xid;
		nonces[i] = sorted[i]->key.nonce;
	}
	qsort(sorted, count, sizeof(DtxFlowRow *), compare_flows);
	values[0] = u64_array(xids, count, XID8OID);
	values[1] = u64_array(nonces, count, INT8OID);
	rows = dtx_store_run_kept(&plan,
							  "SELECT " STEP_COLUMNS " FROM unnest($1, $2) u(xid, nonce)"
							  " CROSS JOIN LATERAL (SELECT * FROM dtx.step x WHERE x.xid = u.xid"
							  " AND x.nonce = u.nonce OFFSET 0) s",
							  true, 2, types, values, NULL);
	for (uint64 row = 0; row < rows; row++)
	{
		DtxFlowRow	key;
		DtxFlowRow *wanted = &key;
		DtxFlowRow **found;
		MemoryContext spi;

		key.key.xid = column_u64(row, 1);
		key.key.nonce = column_u64(row, 2);
		found = bsearch(&wanted, sorted, count, sizeof(DtxFlowRow *), compare_flows);
		spi = MemoryContextSwitchTo(caller);
		if (found != NULL)
			(*found)->steps = lappend((*found)->steps, read_step(row));
		MemoryContextSwitchTo(spi);
	}
}

/*
 * Flows that are due, for one of so many workers, apart from "except" (a list
 * of DtxFlowKey); allocated in the current context.
 */
List *
dtx_store_flows_due(TimestampTz until, int worker, int workers, int limit, List *except)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	List	   *flows = NIL;
	Oid			types[] = {TIMESTAMPTZOID, INT8OID, INT8OID, INT8OID, INT8ARRAYOID};
	Datum		values[5];
	uint64	   *nonces = palloc(sizeof(uint64) * Max(list_length(except), 1));
	uint64		count;
	ListCell   *cell;

	foreach(cell, except)
		nonces[foreach_current_index(cell)] = ((DtxFlowKey *) lfirst(cell))->nonce;
	dtx_store_enter(&context);
	values[0] = TimestampTzGetDatum(until);
	values[1] = Int64GetDatum(workers);
	values[2] = Int64GetDatum(worker);
	values[3] = Int64GetDatum(limit);
	values[4] = u64_array(nonces, list_length(except), INT8OID);
	if (!is_planned(plan))
		plan_by_index();
	count = dtx_store_run_kept(&plan,
							   "SELECT " FLOW_COLUMNS " FROM dtx.transaction t WHERE t.due_at <= $1 AND t.finished_at IS NULL"
							   " AND ((t.nonce % $2) + $2) % $2 = $3 AND t.nonce <> ALL ($5)"
							   " ORDER BY t.due_at LIMIT $4",
							   true, 5, types, values, NULL);
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		flows = lappend(flows, read_flow(row));
		MemoryContextSwitchTo(spi);
	}
	read_steps(flows, caller);
	dtx_store_leave(&context);
	return flows;
}

/* Those of the flows that were changed, or are gone, since they were read. */
List *
dtx_store_flows_changed(List *flows)
{
	static SPIPlanPtr plan = NULL;
	StoreContext context;
	MemoryContext caller = CurrentMemoryContext;
	int			count = list_length(flows);
	uint64	   *xids = palloc(sizeof(uint64) * Max(count, 1));
	uint64	   *nonces = palloc(sizeof(uint64) * Max(count, 1));
	uint64	   *changes = palloc(sizeof(uint64) * Max(count, 1));
	Oid			types[] = {get_array_type(XID8OID), INT8ARRAYOID, INT8ARRAYOID};
	Datum		values[3];
	List	   *changed = NIL;
	uint64		rows;

	for (int i = 0; i < count; i++)
	{
		DtxFlowRow *row = list_nth(flows, i);

		xids[i] = row->key.xid;
		nonces[i] = row->key.nonce;
		changes[i] = row->change_count;
	}
	dtx_store_enter(&context);
	values[0] = u64_array(xids, count, XID8OID);
	values[1] = u64_array(nonces, count, INT8OID);
	values[2] = u64_array(changes, count, INT8OID);
	rows = dtx_store_run_kept(&plan, "SELECT u.number FROM unnest($1, $2, $3) WITH ORDINALITY u(xid, nonce, change_count, number)"
							  " WHERE NOT EXISTS (SELECT FROM dtx.transaction t WHERE t.xid = u.xid"
							  " AND t.nonce = u.nonce AND t.change_count = u.change_count OFFSET 0)",
							  true, 3, types, values, NULL);
	for (uint64 i = 0; i < rows; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		changed = lappend(changed, list_nth(flows, (int) column_u64(i, 1) - 1));
		MemoryContextSwitchTo(spi);
	}
	dtx_store_leave(&context);
	return changed;
}

/* When is the next flow due, of those that are so later than "after"?  0: none. */
TimestampTz
dtx_store_flows_next(int worker, int workers, TimestampTz after)
{
	static SPIPlanPtr plan = NULL;
	StoreContext context;
	Oid			types[] = {TIMESTAMPTZOID, INT8OID, INT8OID};
	Datum		values[] = {TimestampTzGetDatum(after), Int64GetDatum(workers), Int64GetDatum(worker)};
	TimestampTz next = 0;

	dtx_store_enter(&context);
	if (!is_planned(plan))
		plan_by_index();
	if (dtx_store_run_kept(&plan, "SELECT t.due_at FROM dtx.transaction t WHERE t.due_at > $1 AND t.finished_at IS NULL"
						   " AND ((t.nonce % $2) + $2) % $2 = $3 ORDER BY t.due_at LIMIT 1",
						   true, 3, types, values, NULL) > 0)
		next = column_time(0, 1);
	dtx_store_leave(&context);
	return next;
}

/* Is there any flow that has something to do some time? */
bool
dtx_store_flows_unfinished(void)
{
	static SPIPlanPtr plan = NULL;
	StoreContext context;
	bool		found;

	dtx_store_enter(&context);
	found = dtx_store_run_kept(&plan, "SELECT FROM dtx.transaction WHERE finished_at IS NULL AND due_at IS NOT NULL LIMIT 1",
							   true, 0, NULL, NULL, NULL) > 0;
	dtx_store_leave(&context);
	return found;
}

/* One flow by its key, NULL if there is none. */
DtxFlowRow *
dtx_store_flow_load(const DtxFlowKey *key)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	Oid			types[] = {XID8OID, INT8OID};
	Datum		values[] = {u64_datum(key->xid), u64_datum(key->nonce)};
	DtxFlowRow *flow = NULL;

	dtx_store_enter(&context);
	if (dtx_store_run_kept(&plan, "SELECT " FLOW_COLUMNS " FROM dtx.transaction t"
						   " WHERE t.xid = $1 AND t.nonce = $2",
						   true, 2, types, values, NULL) > 0)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		flow = read_flow(0);
		MemoryContextSwitchTo(spi);
		spi = MemoryContextSwitchTo(caller);
		values[0] = PointerGetDatum(list_make1(flow));
		MemoryContextSwitchTo(spi);
		read_steps((List *) DatumGetPointer(values[0]), caller);
	}
	dtx_store_leave(&context);
	return flow;
}

/*
 * One flow by its gid or the name that its application gave it.  With "lock"
 * its row stays locked until the caller's transaction is over.
 */
DtxFlowRow *
dtx_store_flow_find(const char *gid, bool lock)
{
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	DtxFlowRow *flow = NULL;

	dtx_store_enter(&context);
	values[0] = CStringGetTextDatum(gid);
	if (dtx_store_run(lock ?
					  "SELECT " FLOW_COLUMNS " FROM dtx.transaction t WHERE " FLOW_GID("t") " = $1 FOR UPDATE" :
					  "SELECT " FLOW_COLUMNS " FROM dtx.transaction t WHERE " FLOW_GID("t") " = $1",
					  !lock, 1, types, values, NULL) > 0)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		List	   *one;

		flow = read_flow(0);
		one = list_make1(flow);
		MemoryContextSwitchTo(spi);
		/* whoever had the row locked has written steps, too */
		if (lock)
		{
			PopActiveSnapshot();
			PushActiveSnapshot(GetLatestSnapshot());
		}
		read_steps(one, caller);
	}
	dtx_store_leave(&context);
	return flow;
}

/* Has the present transaction changed the flow's row? */
bool
dtx_store_flow_is_changed_here(const DtxFlowKey *key)
{
	StoreContext context;
	Oid			types[] = {XID8OID, INT8OID};
	Datum		values[] = {u64_datum(key->xid), u64_datum(key->nonce)};
	bool		isnull;
	bool		changed;

	dtx_store_enter(&context);
	changed = dtx_store_run("SELECT t.xmin FROM dtx.transaction t WHERE t.xid = $1 AND t.nonce = $2",
							true, 2, types, values, NULL) > 0 &&
		TransactionIdIsCurrentTransactionId(DatumGetTransactionId(column(0, 1, &isnull)));
	dtx_store_leave(&context);
	return changed;
}

/* ----------------------------------------------------------------- writing */

static Datum
time_or_null(TimestampTz value, char *null)
{
	*null = value == 0 ? 'n' : ' ';
	return TimestampTzGetDatum(value);
}

static Datum
sqlstate_or_null(const char *value, char *null)
{
	return text_or_null(value[0] == '\0' ? NULL : value, null);
}

/* Values of a row that is written without SQL. */
static void
set_text(Datum *values, bool *nulls, int column, const char *value)
{
	nulls[column] = value == NULL || value[0] == '\0';
	values[column] = nulls[column] ? (Datum) 0 : CStringGetTextDatum(value);
}

static void
set_time(Datum *values, bool *nulls, int column, TimestampTz value)
{
	nulls[column] = value == 0;
	values[column] = TimestampTzGetDatum(value);
}

static void
set_jsonb(Datum *values, bool *nulls, int column, Jsonb *value)
{
	nulls[column] = value == NULL;
	values[column] = PointerGetDatum(value);
}

static void
set_other(Datum *values, bool *nulls, int column, Datum value)
{
	nulls[column] = false;
	values[column] = value;
}

/* A named flow: false if its name is taken. */
static bool
insert_named(const Datum *values, const bool *nulls)
{
	static SPIPlanPtr plan = NULL;
	StoreContext context;
	Oid			types[] = {XID8OID, INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, BOOLOID,
		BOOLOID, OIDOID, INT8OID, JSONBOID, JSONBOID, OIDARRAYOID, INT4OID, TIMESTAMPTZOID,
	TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TEXTOID};
	Datum		parameters[FLOW_COLUMN_COUNT];
	char		null_marks[FLOW_COLUMN_COUNT + 1];
	bool		inserted;

	StaticAssertStmt(lengthof(types) == FLOW_COLUMN_COUNT, "a type for each column");
	for (int i = 0; i < FLOW_COLUMN_COUNT; i++)
	{
		parameters[i] = values[i];
		null_marks[i] = nulls[i] ? 'n' : ' ';
	}
	null_marks[FLOW_COLUMN_COUNT] = '\0';
	dtx_store_enter(&context);
	inserted = dtx_store_run_kept(&plan,
								  "INSERT INTO dtx.transaction VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9,"
								  " $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)"
								  " ON CONFLICT DO NOTHING",
								  false, lengthof(types), types, parameters, null_marks) > 0;
	dtx_store_leave(&context);
	return inserted;
}

/*
 * Insert a flow, in the caller's transaction.  False if its name is taken,
 * after waiting for whoever is just about to take it.
 */
bool
dtx_store_flow_insert(DtxFlowRow *row)
{
	Datum		values[FLOW_COLUMN_COUNT] = {0};
	bool		nulls[FLOW_COLUMN_COUNT];
	Datum	   *nodes = palloc(sizeof(Datum) * Max(row->node_count, 1));
	StoreRows  *rows;

	for (int i = 0; i < row->node_count; i++)
		nodes[i] = ObjectIdGetDatum(row->nodes[i]);
	memset(nulls, true, sizeof(nulls));
	set_other(values, nulls, FLOW_XID, u64_datum(row->key.xid));
	set_other(values, nulls, FLOW_NONCE, u64_datum(row->key.nonce));
	set_other(values, nulls, FLOW_LIFE, u64_datum(row->life));
	set_text(values, nulls, FLOW_NAME, row->name);
	set_text(values, nulls, FLOW_PATTERN, row->pattern == DTX_PATTERN_TCC ? "tcc" : "saga");
	set_text(values, nulls, FLOW_STATE, dtx_flow_state_name(row->state));
	set_text(values, nulls, FLOW_DIRECTION, row->backward ? "backward" : "forward");
	set_other(values, nulls, FLOW_INSIST, BoolGetDatum(row->insist));
	set_other(values, nulls, FLOW_PAUSED, BoolGetDatum(row->paused));
	set_other(values, nulls, FLOW_OWNER, ObjectIdGetDatum(row->owner));
	if (row->saga != 0)
		set_other(values, nulls, FLOW_SAGA, Int64GetDatum(row->saga));
	else
		set_jsonb(values, nulls, FLOW_DEFINITION, row->definition);
	set_jsonb(values, nulls, FLOW_INPUT, row->input);
	set_other(values, nulls, FLOW_NODES,
			  PointerGetDatum(construct_array(nodes, row->node_count, OIDOID, sizeof(Oid), true,
											  TYPALIGN_INT)));
	set_other(values, nulls, FLOW_CHANGE_COUNT, Int32GetDatum(row->change_count));
	set_time(values, nulls, FLOW_CREATED_AT, row->created_at);
	set_time(values, nulls, FLOW_DEADLINE_AT, row->deadline_at);
	set_time(values, nulls, FLOW_DUE_AT, row->due_at);
	if (row->name != NULL)
		return insert_named(values, nulls);
	rows = store_rows_begin("transaction", "transaction_pkey", FLOW_COLUMN_COUNT);
	store_rows_insert(rows, values, nulls);
	store_rows_end(rows);
	return true;
}

static void
record_steps(List *writes)
{
	StoreRows  *rows = store_rows_begin("step", "step_pkey", STEP_COLUMN_COUNT);
	ListCell   *cell;

	foreach(cell, writes)
	{
		DtxStepWrite *write = lfirst(cell);
		DtxStepRow *row = write->row;
		Datum		values[STEP_COLUMN_COUNT];
		bool		nulls[STEP_COLUMN_COUNT];
		Datum	   *found;
		bool	   *found_nulls;
		bool		exists;

		memset(nulls, true, sizeof(nulls));
		memset(values, 0, sizeof(values));
		set_other(values, nulls, STEP_XID, u64_datum(write->key.xid));
		set_other(values, nulls, STEP_NONCE, u64_datum(write->key.nonce));
		set_other(values, nulls, STEP_STEP, Int32GetDatum(row->step));
		set_text(values, nulls, STEP_OPERATION, dtx_operation_name(row->operation));
		exists = store_rows_find(rows, values, nulls, &found, &found_nulls);
		if (exists)
		{
			DtxStepState state = dtx_step_state_parse(TextDatumGetCString(found[STEP_STATE]));

			/* what an operator has said meanwhile, of a step that he skipped, stays */
			if (state == DTX_STEP_DONE || state == DTX_STEP_SKIPPED)
				continue;
			memcpy(values, found, sizeof(values));
			memcpy(nulls, found_nulls, sizeof(nulls));
		}
		set_text(values, nulls, STEP_STATE, dtx_step_state_name(row->state));
		set_other(values, nulls, STEP_ATTEMPT_COUNT, Int32GetDatum(row->attempt_count));
		set_time(values, nulls, STEP_SENT_AT, row->sent_at);
		set_time(values, nulls, STEP_ANSWERED_AT, row->answered_at);
		set_time(values, nulls, STEP_NEXT_AT, row->state == DTX_STEP_PENDING ? row->next_at : 0);
		set_text(values, nulls, STEP_SQLSTATE, row->sqlstate);
		set_text(values, nulls, STEP_ERROR, row->error);
		set_jsonb(values, nulls, STEP_RESULT, row->result);
		if (exists)
			store_rows_update(rows, values, nulls);
		else
			store_rows_insert(rows, values, nulls);
	}
	store_rows_end(rows);
}

static void
record_flows(List *writes)
{
	StoreRows  *rows = store_rows_begin("transaction", "transaction_pkey", FLOW_COLUMN_COUNT);
	ListCell   *cell;

	foreach(cell, writes)
	{
		DtxFlowWrite *write = lfirst(cell);
		DtxFlowRow *row = write->row;
		Datum		values[FLOW_COLUMN_COUNT];
		bool		nulls[FLOW_COLUMN_COUNT];
		Datum	   *found;
		bool	   *found_nulls;

		/* who has the row locked is about to change it */
		write->lost = !store_rows_find_free(rows, u64_datum(row->key.xid), u64_datum(row->key.nonce),
											&found, &found_nulls) ||
			DatumGetInt32(found[FLOW_CHANGE_COUNT]) != row->change_count;
		if (write->lost)
			continue;
		memcpy(values, found, sizeof(values));
		memcpy(nulls, found_nulls, sizeof(nulls));
		set_other(values, nulls, FLOW_CHANGE_COUNT, Int32GetDatum(++row->change_count));
		set_text(values, nulls, FLOW_STATE, dtx_flow_state_name(row->state));
		set_text(values, nulls, FLOW_DIRECTION, row->backward ? "backward" : "forward");
		set_time(values, nulls, FLOW_DUE_AT, row->due_at);
		set_time(values, nulls, FLOW_FINISHED_AT, row->finished_at);
		set_text(values, nulls, FLOW_SQLSTATE, row->sqlstate);
		set_text(values, nulls, FLOW_REASON, row->reason);
		store_rows_update(rows, values, nulls);
	}
	store_rows_end(rows);
}

/*
 * Write down what participants have answered (lists of DtxStepWrite and of
 * DtxFlowWrite, which tell which ones were changed by somebody else).
 */
void
dtx_store_flow_record(List *steps, List *flows)
{
	if (steps != NIL)
		record_steps(steps);
	if (flows != NIL)
		record_flows(flows);
}

/* Write a flow's row that the caller has locked. */
void
dtx_store_flow_change(DtxFlowRow *row)
{
	StoreContext context;
	Oid			types[] = {XID8OID, INT8OID, TEXTOID, TEXTOID, BOOLOID, BOOLOID, TIMESTAMPTZOID,
	TIMESTAMPTZOID, TEXTOID, TEXTOID};
	char		nulls[] = "          ";
	Datum		values[lengthof(types)];

	dtx_store_enter(&context);
	values[0] = u64_datum(row->key.xid);
	values[1] = u64_datum(row->key.nonce);
	values[2] = CStringGetTextDatum(dtx_flow_state_name(row->state));
	values[3] = CStringGetTextDatum(row->backward ? "backward" : "forward");
	values[4] = BoolGetDatum(row->insist);
	values[5] = BoolGetDatum(row->paused);
	values[6] = time_or_null(row->due_at, &nulls[6]);
	values[7] = time_or_null(row->finished_at, &nulls[7]);
	values[8] = sqlstate_or_null(row->sqlstate, &nulls[8]);
	values[9] = text_or_null(row->reason, &nulls[9]);
	if (dtx_store_run("UPDATE dtx.transaction SET state = $3, direction = $4, insist = $5, paused = $6,"
					  " due_at = $7, finished_at = $8, sqlstate = $9, reason = $10,"
					  " change_count = change_count + 1 WHERE xid = $1 AND nonce = $2",
					  false, lengthof(types), types, values, nulls) != 1)
		elog(ERROR, "flow has vanished");
	row->change_count++;
	dtx_store_leave(&context);
}

/* The number of the next try of a flow, whose row the caller has locked. */
int
dtx_store_flow_next_step(const DtxFlowKey *key)
{
	static SPIPlanPtr plan = NULL;
	StoreContext context;
	Oid			types[] = {XID8OID, INT8OID};
	Datum		values[] = {u64_datum(key->xid), u64_datum(key->nonce)};
	int			next;

	dtx_store_enter(&context);
	(void) dtx_store_run_kept(&plan,
							  "SELECT (COALESCE(pg_catalog.max(s.step), 0) + 1)::bigint FROM dtx.step s"
							  " WHERE s.xid = $1 AND s.nonce = $2",
							  true, 2, types, values, NULL);
	next = (int) column_u64(0, 1);
	dtx_store_leave(&context);
	return next;
}

/* Write down a try, in the caller's subtransaction. */
void
dtx_store_flow_add_try(const DtxFlowKey *key, const DtxStepRow *step)
{
	static SPIPlanPtr plan = NULL;
	StoreContext context;
	Oid			types[] = {XID8OID, INT8OID, INT4OID, OIDOID, OIDOID, XID8OID, INT8OID, INT4OID};
	char		nulls[] = "        ";
	Datum		values[8];

	dtx_store_enter(&context);
	values[0] = u64_datum(key->xid);
	values[1] = u64_datum(key->nonce);
	values[2] = Int32GetDatum(step->step);
	values[3] = ObjectIdGetDatum(step->node);
	values[4] = ObjectIdGetDatum(step->role);
	values[5] = u64_datum(step->registrar.xid);
	values[6] = u64_datum(step->registrar.nonce);
	values[7] = Int32GetDatum(step->registrar_step);
	if (step->registrar_step == 0)
		nulls[5] = nulls[6] = nulls[7] = 'n';
	(void) dtx_store_run_kept(&plan,
							  "INSERT INTO dtx.step (xid, nonce, step, operation, state, attempt_count,"
							  " sent_at, answered_at, node, role, registrar_xid, registrar_nonce, registrar_step)"
							  " VALUES ($1, $2, $3, 'try', 'done', 1, pg_catalog.clock_timestamp(),"
							  " pg_catalog.clock_timestamp(), $4, $5, $6, $7, $8)",
							  false, lengthof(types), types, values, nulls);
	dtx_store_leave(&context);
}

/*
 * What is said of the try of that number, of a transaction that is not in
 * progress, with a snapshot of this moment.  Ends that were answered later
 * than "before" may have been on their way.
 */
DtxTryFate
dtx_store_try_fate(const DtxGid *gid, int step, TimestampTz before)
{
	static SPIPlanPtr plan = NULL;
	StoreContext context;
	Oid			types[] = {XID8OID, INT8OID, INT4OID, TIMESTAMPTZOID};
	Datum		values[] = {u64_datum(gid->xid), u64_datum(gid->nonce), Int32GetDatum(step),
	TimestampTzGetDatum(before)};
	DtxTryFate	fate = DTX_TRY_UNREGISTERED;

	dtx_store_enter(&context);
	if (dtx_store_run_kept(&plan,
						   "SELECT COALESCE(t.state IN ('committed', 'aborted') AND e.answered_at < $4"
						   " AND (e.state = 'done' OR (e.state = 'skipped' AND e.error IS NULL)), false),"
						   " t.state = 'committed'"
						   " FROM (SELECT s.xid, s.nonce, s.step FROM dtx.step s WHERE s.xid = $1 AND s.nonce = $2"
						   " AND s.step = $3 AND s.operation = 'try' AND s.registrar_xid IS NULL UNION ALL"
						   " SELECT s.xid, s.nonce, s.step FROM dtx.step s WHERE s.registrar_xid = $1"
						   " AND s.registrar_nonce = $2 AND s.registrar_step = $3) s"
						   " LEFT JOIN dtx.transaction t ON t.xid = s.xid AND t.nonce = s.nonce"
						   " LEFT JOIN dtx.step e ON e.xid = s.xid AND e.nonce = s.nonce AND e.step = s.step"
						   " AND e.operation = CASE t.state WHEN 'committed' THEN 'confirm' ELSE 'cancel' END",
						   true, lengthof(types), types, values, NULL) > 0)
		fate = !column_bool(0, 1) ? DTX_TRY_REGISTERED :
			column_bool(0, 2) ? DTX_TRY_CONFIRMED : DTX_TRY_CANCELLED;
	dtx_store_leave(&context);
	return fate;
}

/*
 * Sessions have ended these flows, which were bound to transactions of that
 * life: what they have confirmed is written down, the others are due.
 */
void
dtx_store_tcc_ended(uint64 life, const DtxTccEnd *ends, int count)
{
	static SPIPlanPtr confirmed_plan = NULL;
	static SPIPlanPtr due_plan = NULL;
	StoreContext context;
	Oid			types[] = {get_array_type(XID8OID), INT8ARRAYOID, INT8OID};
	uint64	   *xids = palloc(sizeof(uint64) * count);
	uint64	   *nonces = palloc(sizeof(uint64) * count);
	Datum		values[3];

	dtx_store_enter(&context);
	(void) set_config_option("enable_hashjoin", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("enable_mergejoin", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	for (int round = 0; round < 2; round++)
	{
		int			chosen = 0;

		for (int i = 0; i < count; i++)
		{
			if (ends[i].confirmed != (round == 0))
				continue;
			xids[chosen] = ends[i].xid;
			nonces[chosen++] = ends[i].nonce;
		}
		if (chosen == 0)
			continue;
		values[0] = u64_array(xids, chosen, XID8OID);
		values[1] = u64_array(nonces, chosen, INT8OID);
		values[2] = u64_datum(life);
#define THESE_FLOWS \
	"(SELECT l.xid, l.nonce FROM unnest($1, $2) u(xid, nonce) JOIN dtx.transaction l" \
	" ON l.xid = u.xid AND l.nonce = u.nonce WHERE l.life = $3 AND l.pattern = 'tcc'" \
	" AND l.state = 'committing' FOR UPDATE OF l SKIP LOCKED) u WHERE t.xid = u.xid AND t.nonce = u.nonce"
		if (round == 0)
			(void) dtx_store_run_kept(&confirmed_plan,
									  "WITH ended AS (UPDATE dtx.transaction t SET state = 'committed', due_at = NULL,"
									  " finished_at = pg_catalog.clock_timestamp(), change_count = t.change_count + 1"
									  " FROM " THESE_FLOWS " RETURNING t.xid, t.nonce)"
									  " INSERT INTO dtx.step (xid, nonce, step, operation, state, attempt_count, sent_at, answered_at)"
									  " SELECT s.xid, s.nonce, s.step, 'confirm', 'done', 1, pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp()"
									  " FROM ended e JOIN dtx.step s ON s.xid = e.xid AND s.nonce = e.nonce AND s.operation = 'try'"
									  " ON CONFLICT ON CONSTRAINT step_pkey DO UPDATE SET state = 'done', next_at = NULL,"
									  " answered_at = EXCLUDED.answered_at",
									  false, lengthof(types), types, values, NULL);
		else
			(void) dtx_store_run_kept(&due_plan,
									  "UPDATE dtx.transaction t SET due_at = pg_catalog.now() FROM " THESE_FLOWS
									  " AND t.due_at > pg_catalog.now()",
									  false, lengthof(types), types, values, NULL);
	}
	dtx_store_leave(&context);
}

/* A node answers again: what waits for it need not wait any longer. */
void
dtx_store_flows_hurry(Oid serverid, TimestampTz at)
{
	StoreContext context;
	Oid			types[] = {OIDOID, TIMESTAMPTZOID};
	Datum		values[] = {ObjectIdGetDatum(serverid), TimestampTzGetDatum(at)};

	dtx_store_enter(&context);
	(void) dtx_store_run("UPDATE dtx.transaction t SET due_at = $2 FROM (SELECT t.xid, t.nonce FROM dtx.transaction t"
						 " WHERE t.due_at > $2 AND t.finished_at IS NULL AND (t.nodes @> ARRAY[$1] OR (t.pattern = 'tcc' AND EXISTS (SELECT FROM dtx.step s"
						 " WHERE s.xid = t.xid AND s.nonce = t.nonce AND s.node = $1)))"
						 " AND t.state IN ('running', 'committing', 'aborting') FOR UPDATE SKIP LOCKED) o"
						 " WHERE t.xid = o.xid AND t.nonce = o.nonce",
						 false, 2, types, values, NULL);
	(void) dtx_store_run("UPDATE dtx.step s SET next_at = $2 FROM dtx.transaction t"
						 " WHERE t.due_at = $2 AND t.finished_at IS NULL AND t.xid = s.xid AND t.nonce = s.nonce AND s.next_at > $2"
						 " AND s.state = 'pending' AND COALESCE(s.sqlstate, '08006') LIKE '08%' AND $1 IS NOT NULL",
						 false, 2, types, values, NULL);
	dtx_store_leave(&context);
}

/*
 * Everything of this lineage whose xid is below this has ended and is
 * forgotten here, and no transaction that is still open can bring back any of
 * it: participants need not remember it.
 */
uint64
dtx_store_flow_watermark(void)
{
	static SPIPlanPtr plan = NULL;
	StoreContext context;
	uint64		watermark;

	dtx_store_enter(&context);
	(void) dtx_store_run_kept(&plan,
							  "SELECT LEAST(pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()),"
							  " (SELECT t.xid FROM dtx.transaction t ORDER BY t.xid LIMIT 1),"
							  " (SELECT s.registrar_xid FROM dtx.step s WHERE s.registrar_xid IS NOT NULL"
							  " ORDER BY s.registrar_xid LIMIT 1))",
							  true, 0, NULL, NULL, NULL);
	watermark = column_u64(0, 1);
	dtx_store_leave(&context);
	return watermark;
}

/* Forget flows that ended long ago, a batch of them; returns how many. */
int
dtx_store_flow_forget(int retention_min)
{
	StoreContext context;
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(retention_min), Int32GetDatum(FORGET_BATCH)};
	uint64		count;

	dtx_store_enter(&context);
	count = dtx_store_run("WITH gone AS (DELETE FROM dtx.transaction t USING"
						  " (SELECT o.xid, o.nonce FROM dtx.transaction o WHERE o.finished_at <"
						  " pg_catalog.now() - pg_catalog.make_interval(mins => $1)"
						  /* a try that an operator has left as it is must not be taken for one of nobody */
						  " AND (o.pattern <> 'tcc' OR NOT EXISTS (SELECT FROM dtx.step s WHERE s.xid = o.xid"
						  " AND s.nonce = o.nonce AND s.operation = 'try' AND NOT EXISTS (SELECT FROM dtx.step e"
						  " WHERE e.xid = s.xid AND e.nonce = s.nonce AND e.step = s.step AND e.operation <> 'try'"
						  " AND (e.state = 'done' OR (e.state = 'skipped' AND e.error IS NULL)))))"
						  " ORDER BY o.finished_at LIMIT $2 FOR UPDATE SKIP LOCKED) o"
						  " WHERE t.xid = o.xid AND t.nonce = o.nonce"
						  " RETURNING t.xid, t.nonce, t.life, t.name),"
						  " steps AS (DELETE FROM dtx.step s USING gone g"
						  " WHERE s.xid = g.xid AND s.nonce = g.nonce),"
						  " events AS (DELETE FROM dtx.event e USING gone g"
						  " WHERE e.gid = " FLOW_GID("g") ")"
						  " SELECT FROM gone",
						  false, 2, types, values, NULL);
	dtx_store_leave(&context);
	return (int) count;
}

/* Does a flow that is not over need the server (as that role)? */
bool
dtx_store_flow_uses(Oid serverid, Oid roleid)
{
	StoreContext context;
	Oid			types[] = {OIDOID, OIDOID};
	Datum		values[] = {ObjectIdGetDatum(serverid), ObjectIdGetDatum(roleid)};
	bool		found;

	dtx_store_enter(&context);
	found = dtx_store_run("SELECT FROM dtx.transaction t WHERE t.finished_at IS NULL AND"
						  " ((($1 = 0::oid OR t.nodes @> ARRAY[$1]) AND ($2 = 0::oid OR t.owner = $2))"
						  " OR EXISTS (SELECT FROM dtx.step s WHERE s.xid = t.xid AND s.nonce = t.nonce"
						  " AND ($1 = 0::oid OR s.node = $1) AND ($2 = 0::oid OR s.role = $2)"
						  " AND s.node IS NOT NULL)) LIMIT 1",
						  true, 2, types, values, NULL) > 0;
	dtx_store_leave(&context);
	return found;
}

/* Write down what happened to a flow; step 0: to all of it. */
void
dtx_store_flow_event(const char *actor, const DtxFlowRow *row, int step, const char *event,
					 const char *detail)
{
	static SPIPlanPtr plan = NULL;
	StoreContext context;
	char		gid[DTX_FLOW_NAME_MAX + 1];
	Oid			types[] = {TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTOID};
	char		nulls[] = "     ";
	Datum		values[5];

	dtx_flow_gid(row, gid);
	dtx_store_enter(&context);
	values[0] = CStringGetTextDatum(actor);
	values[1] = CStringGetTextDatum(gid);
	values[2] = Int32GetDatum(step);
	nulls[2] = step == 0 ? 'n' : ' ';
	values[3] = CStringGetTextDatum(event);
	values[4] = text_or_null(detail, &nulls[4]);
	(void) dtx_store_run_kept(&plan, "INSERT INTO dtx.event (actor, gid, branch, event, detail)"
							  " VALUES ($1::name, $2, $3, $4, $5)", false, 5, types, values, nulls);
	dtx_store_leave(&context);
}

/*
 * Tell whoever listens that a step is held, which was written before: all of it
 * as dtx.stuck has it.
 */
void
dtx_store_flow_alert(const DtxFlowRow *row, int step)
{
	static SPIPlanPtr plan = NULL;
	StoreContext context;
	char		gid[DTX_FLOW_NAME_MAX + 1];
	Oid			types[] = {TEXTOID, INT4OID};
	Datum		values[2];

	dtx_flow_gid(row, gid);
	dtx_store_enter(&context);
	values[0] = CStringGetTextDatum(gid);
	values[1] = Int32GetDatum(step);
	/* it may have had no success for long before */
	(void) dtx_store_run("UPDATE dtx.alert SET ended_at = pg_catalog.clock_timestamp()"
						 " WHERE gid = $1 AND branch = $2 AND ended_at IS NULL AND state <> 'held'",
						 false, 2, types, values, NULL);
	if (dtx_store_run_kept(&plan,
						   "INSERT INTO dtx.alert (node, gid, branch, state, reason, last_error, call)"
						   " SELECT s.node, s.gid, s.branch, s.state, s.reason, s.last_error, s.call"
						   " FROM dtx.stuck s WHERE s.gid = $1 AND s.branch = $2 AND s.state = 'held'"
						   " AND NOT EXISTS (SELECT FROM dtx.alert a WHERE a.gid = $1 AND a.branch = $2"
						   " AND a.ended_at IS NULL)",
						   false, 2, types, values, NULL) > 0)
		(void) dtx_store_run("SELECT pg_catalog.pg_notify('dtx_alert', '1')", false, 0, NULL, NULL, NULL);
	dtx_store_leave(&context);
}

/*
 * Nothing of a flow is held any more.  What has had no success for long may
 * go on like that: of this the scanner sees the end, unless the flow is over.
 */
void
dtx_store_flow_alerts_over(const DtxFlowRow *row)
{
	StoreContext context;
	char		gid[DTX_FLOW_NAME_MAX + 1];
	Oid			types[] = {TEXTOID, BOOLOID};
	Datum		values[2];

	dtx_flow_gid(row, gid);
	dtx_store_enter(&context);
	values[0] = CStringGetTextDatum(gid);
	values[1] = BoolGetDatum(dtx_flow_is_over(row->state));
	(void) dtx_store_run("UPDATE dtx.alert SET ended_at = pg_catalog.clock_timestamp()"
						 " WHERE gid = $1 AND ended_at IS NULL AND ($2 OR state = 'held')",
						 false, 2, types, values, NULL);
	dtx_store_leave(&context);
}

/* ------------------------------------------------------------- definitions */

static Oid	rules_relid = InvalidOid;
static uint64 rules_version = 0;

static void
rules_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == rules_relid)
		rules_version++;
}

PG_FUNCTION_INFO_V1(dtx_error_rules_changed);

/*
 * A trigger: PostgreSQL tells everybody at commit that something about the
 * table is not as it was.
 */
Datum
dtx_error_rules_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("dtx.error_rules_changed() was not called by a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	PG_RETURN_POINTER(NULL);
}

/*
 * Grows when the rules that were read are not those of the table any more; in
 * a transaction.
 */
uint64
dtx_store_error_rules_version(void)
{
	/* a session may be in its transaction for long already */
	AcceptInvalidationMessages();
	return rules_version;
}

List *
dtx_store_error_rules(void)
{
	static bool registered = false;
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	List	   *rules = NIL;
	uint64		count;

	if (!registered)
		CacheRegisterRelcacheCallback(rules_callback, (Datum) 0);
	registered = true;
	rules_relid = get_relname_relid("error_rule", get_namespace_oid(DTX_SCHEMA, true));
	dtx_store_enter(&context);
	/* the longest first */
	count = dtx_store_run("SELECT sqlstate, result FROM dtx.error_rule"
						  " ORDER BY pg_catalog.length(sqlstate) DESC, sqlstate",
						  true, 0, NULL, NULL, NULL);
	for (uint64 row = 0; row < count; row++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		DtxErrorRule *rule = palloc0(sizeof(DtxErrorRule));

		column_sqlstate(row, 1, rule->sqlstate);
		rule->result = column_text(row, 2)[0];
		rules = lappend(rules, rule);
		MemoryContextSwitchTo(spi);
	}
	dtx_store_leave(&context);
	return rules;
}

/* A new version of a named saga, unless it is as the newest; returns it. */
int
dtx_store_saga_define(const char *name, Oid owner, Jsonb *definition)
{
	StoreContext context;
	Oid			types[] = {TEXTOID, OIDOID, JSONBOID};
	Datum		values[3];
	int			version = 1;
	bool		same = false;
	bool		foreign = false;

	dtx_store_enter(&context);
	values[0] = CStringGetTextDatum(name);
	values[1] = ObjectIdGetDatum(owner);
	values[2] = JsonbPGetDatum(definition);
	/* whoever defines the same name at the same moment waits */
	(void) dtx_store_run("LOCK TABLE dtx.saga IN SHARE ROW EXCLUSIVE MODE", false, 0, NULL, NULL, NULL);
	if (dtx_store_run("SELECT version::bigint, definition = $3, NOT pg_catalog.pg_has_role($2, owner, 'MEMBER')"
					  " FROM dtx.saga WHERE name = $1 ORDER BY version DESC LIMIT 1",
					  false, 3, types, values, NULL) > 0)
	{
		version = (int) column_u64(0, 1);
		same = column_bool(0, 2);
		foreign = column_bool(0, 3);
		if (!same)
			version++;
	}
	if (!same && !foreign)
	{
		Oid			insert_types[] = {TEXTOID, OIDOID, JSONBOID, INT4OID};
		Datum		insert_values[] = {values[0], values[1], values[2], Int32GetDatum(version)};

		(void) dtx_store_run("INSERT INTO dtx.saga (name, owner, definition, version) VALUES ($1, $2, $3, $4)",
							 false, 4, insert_types, insert_values, NULL);
	}
	dtx_store_leave(&context);
	if (foreign)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("saga \"%s\" was defined by another role", name),
				 errhint("Only its owner can define a new version; use another name.")));
	return version;
}

/* The newest version of a named saga; false if there is none. */
bool
dtx_store_saga_newest(const char *name, int64 *saga, Jsonb **definition)
{
	Oid			indexid;
	Relation	table = dtx_store_open_table("saga", AccessShareLock, "saga_name_version_key", &indexid);
	Relation	index = index_open(indexid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;
	bool		isnull;

	ScanKeyEntryInitialize(&key, 0, 2, BTEqualStrategyNumber, InvalidOid, DEFAULT_COLLATION_OID,
						   F_TEXTEQ, CStringGetTextDatum(name));
	scan = systable_beginscan_ordered(table, index, snapshot, 1, &key);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	found = HeapTupleIsValid(tuple);
	if (found)
	{
		*saga = DatumGetInt64(heap_getattr(tuple, 1, RelationGetDescr(table), &isnull));
		*definition = DatumGetJsonbPCopy(heap_getattr(tuple, 5, RelationGetDescr(table), &isnull));
	}
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return found;
}

/* A version by its number, in the current context. */
Jsonb *
dtx_store_saga(int64 saga)
{
	MemoryContext caller = CurrentMemoryContext;
	StoreContext context;
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(saga)};
	Jsonb	   *definition;
	MemoryContext spi;

	dtx_store_enter(&context);
	if (dtx_store_run("SELECT definition FROM dtx.saga WHERE saga = $1", true, 1, types, values, NULL) != 1)
		elog(ERROR, "saga definition " INT64_FORMAT " has vanished", saga);
	spi = MemoryContextSwitchTo(caller);
	definition = column_jsonb(0, 1);
	MemoryContextSwitchTo(spi);
	dtx_store_leave(&context);
	return definition;
}
