/*-------------------------------------------------------------------------
 *
 * barrier.c
 *		The participant's side of flows: each operation is applied once.
 *
 *		A coordinator sends an operation until it has an answer, so that it may
 *		come twice, late, or after the one that undoes it.  Each step has a row
 *		in dtx.barrier, which commits together with what the operation did.
 *
 *		-			-> done			action
 *		-			-> tried		dtx_apply_try
 *		-			-> void			compensation or cancel of what never came
 *		done		-> compensated	compensation
 *		tried		-> confirmed	confirm
 *		tried		-> cancelled	cancel
 *
 *		Anything else changes nothing and runs nothing: it is answered from the
 *		row.  This is the only file that touches dtx.barrier, and it touches no
 *		other table of dtx.  Nothing here needs dtx to be preloaded.
 *
 * (1) The row is written, and locked, before the statement runs: who sends the
 *	   same step at the same time waits for the outcome of the first.
 * (2) Row and effect are in one subtransaction: both commit or none does.
 * (3) The row is written as the owner of the schema, the statement runs as the
 *	   role that calls.  A row serves the role that made it and nobody else.
 * (4) Steps of one batch do not feel each other: settings end with the step, and
 *	   what it deferred is checked in it.  A step that says SET CONSTRAINTS is
 *	   sent back when it is not alone.  Nothing of a step runs at COMMIT.
 * (5) Deferred triggers are fired in a subtransaction, which PostgreSQL by
 *	   itself never does: those fired are forgotten at once, and an abort must
 *	   not bring them back.  So none may be pending, or fired and not yet
 *	   forgotten, when a step begins (see check_nothing_deferred() and (4)).
 * (6) A row in state "tried" is forgotten only after it was confirmed or
 *	   cancelled, whatever the watermark.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "storage/sinval.h"
#include "tcop/pquery.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/xid8.h"

#include "barrier.h"
#include "deadline.h"
#include "fault.h"

/* So many rows are forgotten at once. */
#define FORGET_MAX "1000"
/* So many statements are kept ready in a session. */
#define STATEMENTS_MAX 256
/* A row that comes and goes this often is somebody else's mistake. */
#define ROUNDS_MAX 100

#define ERRCODE_REFUSED_MOVE ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE

/* Who calls, for whom, and whose rows they are. */
typedef struct Caller
{
	Oid			userid;
	int			save_sec_context;	/* of the caller */
	int			sec_context;	/* of statements */
	Oid			ownerid;		/* of the schema */
	uint64		lineage;
	MemoryContext answers;
} Caller;

/* A row of dtx.barrier; strings are in the memory context of the step. */
typedef struct Row
{
	char	   *state;
	Oid			ownerid;
	char	   *result;
	char	   *confirm;
	char	   *cancel;
	char	   *gid;
	Datum		arguments;		/* a text[], or 0 */
} Row;

/* What dtx.apply_try has beyond dtx.apply. */
typedef struct Try
{
	Datum		values[8];		/* life ... arguments, as in PLAN_INSERT_TRY */
	char		nulls[8];
} Try;

/* For dtx.saga_context(): the operation that is being run. */
static const DtxApply *running = NULL;

/* ---------------------------------------------------------------- the row */

enum
{
	PLAN_INSERT,
	PLAN_INSERT_TRY,
	PLAN_READ,
	PLAN_LOCK,
	PLAN_MOVE,
	PLAN_RESULT,
	PLAN_FORGET,
	PLAN_COUNT
};

#define THE_ROW \
	" WHERE lineage OPERATOR(pg_catalog.=) $1 AND xid OPERATOR(pg_catalog.=) $2" \
	" AND nonce OPERATOR(pg_catalog.=) $3 AND step OPERATOR(pg_catalog.=) $4"
#define ITS_COLUMNS \
	"SELECT state, owner, result::pg_catalog.text, confirm, cancel, arguments, gid FROM dtx.barrier"

/*
 * Names and operators are qualified, so that no search path matters: setting
 * one would have the plans made again each time.
 */
static struct
{
	const char *sql;
	int			count;
	Oid			types[14];
}			plan_texts[PLAN_COUNT] = {
	[PLAN_INSERT] = {
		"INSERT INTO dtx.barrier (lineage, xid, nonce, step, state, owner)"
		" VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
		6, {INT8OID, XID8OID, INT8OID, INT4OID, TEXTOID, OIDOID}
	},
	[PLAN_INSERT_TRY] = {
		"INSERT INTO dtx.barrier (lineage, xid, nonce, step, state, owner,"
		" life, registrar_life, registrar_xid, registrar_nonce, gid, confirm, cancel, arguments)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING",
		14, {INT8OID, XID8OID, INT8OID, INT4OID, TEXTOID, OIDOID, INT8OID, INT8OID, XID8OID,
		INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID}
	},
	[PLAN_READ] = {
		ITS_COLUMNS THE_ROW,
		4, {INT8OID, XID8OID, INT8OID, INT4OID}
	},
	[PLAN_LOCK] = {
		ITS_COLUMNS THE_ROW " FOR UPDATE",
		4, {INT8OID, XID8OID, INT8OID, INT4OID}
	},
	[PLAN_MOVE] = {
		"UPDATE dtx.barrier SET state = $5" THE_ROW,
		5, {INT8OID, XID8OID, INT8OID, INT4OID, TEXTOID}
	},
	[PLAN_RESULT] = {
		"UPDATE dtx.barrier SET result = $5::pg_catalog.jsonb" THE_ROW,
		5, {INT8OID, XID8OID, INT8OID, INT4OID, TEXTOID}
	},
	[PLAN_FORGET] = {
		"DELETE FROM dtx.barrier WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY("
		"SELECT ctid FROM dtx.barrier WHERE lineage OPERATOR(pg_catalog.=) $1"
		" AND xid OPERATOR(pg_catalog.<) $2 AND owner OPERATOR(pg_catalog.=) $3"
		" AND state OPERATOR(pg_catalog.<>) 'tried'"
		/* what never came may still come: no row of its own speaks of it any more */
		" AND (state OPERATOR(pg_catalog.<>) 'void' OR applied_at OPERATOR(pg_catalog.<)"
		" (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 day'::pg_catalog.interval))"
		" LIMIT " FORGET_MAX " FOR UPDATE SKIP LOCKED))",
		3, {INT8OID, XID8OID, OIDOID}
	},
};

static SPIPlanPtr plans[PLAN_COUNT];

static Datum
u64_datum(uint64 value)
{
	return Int64GetDatum((int64) value);
}

static Oid
schema_owner(void)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACENAME, CStringGetDatum(DTX_SCHEMA));
	Oid			ownerid;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("extension dtx is not installed in this database"),
				 errhint("CREATE EXTENSION dtx CASCADE;")));
	ownerid = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return ownerid;
}

static void
caller_init(Caller *caller, uint64 lineage)
{
	caller->lineage = lineage;
	caller->answers = CurrentMemoryContext;
	caller->ownerid = schema_owner();
	GetUserIdAndSecContext(&caller->userid, &caller->save_sec_context);
	caller->sec_context = caller->save_sec_context;
	/* what a worker became for this must not be undone by RESET ROLE */
	if (caller->userid != GetOuterUserId())
		caller->sec_context |= SECURITY_LOCAL_USERID_CHANGE;
}

/*
 * Run one of the statements above as the owner of the schema.  Returns how many
 * rows; they are in SPI_tuptable.  After an error, the end of the
 * subtransaction or transaction brings the user back.
 */
static uint64
run_plan(const Caller *caller, int number, Datum *values, const char *nulls)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			save_user;
	int			save_sec_context;
	int			result;

	GetUserIdAndSecContext(&save_user, &save_sec_context);
	SetUserIdAndSecContext(caller->ownerid, save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
	if (plans[number] == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(plan_texts[number].sql, plan_texts[number].count,
									   plan_texts[number].types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare: %s", plan_texts[number].sql);
		plans[number] = plan;
	}
	result = SPI_execute_plan(plans[number], values, nulls, false, 0);
	if (result < 0)
		elog(ERROR, "dtx query failed: %s: %s", SPI_result_code_string(result),
			 plan_texts[number].sql);
	SetUserIdAndSecContext(save_user, save_sec_context);
	MemoryContextSwitchTo(context);
	return SPI_processed;
}

static void
set_key(const Caller *caller, const DtxApply *request, Datum *values)
{
	values[0] = u64_datum(caller->lineage);
	values[1] = u64_datum(request->key.xid);
	values[2] = u64_datum(request->key.nonce);
	values[3] = Int32GetDatum(request->step);
}

/*
 * Insert the row of a step, if there is none.  Waits for whoever is just
 * inserting it.
 */
static bool
insert_row(const Caller *caller, const DtxApply *request, const char *state, const Try *try)
{
	Datum		values[14];
	char		nulls[14];

	memset(nulls, ' ', sizeof(nulls));
	set_key(caller, request, values);
	values[4] = CStringGetTextDatum(state);
	values[5] = ObjectIdGetDatum(caller->userid);
	if (try == NULL)
		return run_plan(caller, PLAN_INSERT, values, nulls) == 1;
	memcpy(&values[6], try->values, sizeof(try->values));
	memcpy(&nulls[6], try->nulls, sizeof(try->nulls));
	return run_plan(caller, PLAN_INSERT_TRY, values, nulls) == 1;
}

static bool
find_row(const Caller *caller, const DtxApply *request, bool lock, Row *row)
{
	Datum		values[4];
	HeapTuple	tuple;
	TupleDesc	desc;
	Datum		arguments;
	bool		isnull;

	set_key(caller, request, values);
	if (run_plan(caller, lock ? PLAN_LOCK : PLAN_READ, values, NULL) == 0)
		return false;
	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	row->state = SPI_getvalue(tuple, desc, 1);
	row->ownerid = DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &isnull));
	row->result = SPI_getvalue(tuple, desc, 3);
	row->confirm = SPI_getvalue(tuple, desc, 4);
	row->cancel = SPI_getvalue(tuple, desc, 5);
	arguments = SPI_getbinval(tuple, desc, 6, &isnull);
	row->arguments = isnull ? (Datum) 0 : PointerGetDatum(DatumGetArrayTypePCopy(arguments));
	row->gid = SPI_getvalue(tuple, desc, 7);
	SPI_freetuptable(SPI_tuptable);
	return true;
}

/* The row is locked, or was inserted by this very step. */
static void
update_row(const Caller *caller, const DtxApply *request, int plan, const char *value)
{
	Datum		values[5];

	set_key(caller, request, values);
	values[4] = CStringGetTextDatum(value);
	if (run_plan(caller, plan, values, NULL) != 1)
		elog(ERROR, "dtx.barrier has lost the row of step %d", request->step);
}

/*
 * Forget the caller's rows below the watermark, some of them: those of other
 * roles are not for it to remove, since whoever removes a row lets its
 * operation be applied once more.
 */
static void
forget(const Caller *caller, uint64 watermark)
{
	static uint64 last_lineage = 0;
	static uint64 last_watermark = 0;
	static Oid	last_user = InvalidOid;
	Datum		values[3] = {u64_datum(caller->lineage), u64_datum(watermark),
	ObjectIdGetDatum(caller->userid)};

	/* in a snapshot of the whole transaction what is gone would be an error */
	if (watermark == 0 || IsolationUsesXactSnapshot())
		return;
	if (watermark == last_watermark && caller->lineage == last_lineage &&
		caller->userid == last_user)
		return;
	if (run_plan(caller, PLAN_FORGET, values, NULL) < (uint64) atoi(FORGET_MAX))
	{
		last_lineage = caller->lineage;
		last_watermark = watermark;
		last_user = caller->userid;
	}
}

/* ----------------------------------------------------- the user's statement */

/*
 * Statements that are kept ready.  The types of parameters depend on the role,
 * its search path, and the catalogs: they are inferred again when one of these
 * has changed.
 */
typedef struct StatementKey
{
	uint64		hash;
	Oid			userid;
	uint32		unused;			/* no padding in a key */
} StatementKey;

typedef struct Statement
{
	StatementKey key;
	char	   *sql;
	char	   *search_path;
	uint64		invalidations;
	int			count;			/* of parameters */
	Oid		   *types;
	SPIPlanPtr	plan;
} Statement;

static HTAB *statements = NULL;
static MemoryContext statements_context = NULL;

/* Keeps the first row of the last statement that has returned one, as JSON. */
typedef struct FirstRow
{
	DestReceiver receiver;
	MemoryContext context;
	TupleDesc	desc;			/* of the statement that is running */
	bool		seen;			/* likewise */
	char	   *json;
} FirstRow;

static void
first_row_startup(DestReceiver *self, int operation, TupleDesc desc)
{
	((FirstRow *) self)->desc = desc;
}

static bool
first_row_receive(TupleTableSlot *slot, DestReceiver *self)
{
	FirstRow   *row = (FirstRow *) self;
	/* not the slot's, which may come from below a UNION, without names */
	TupleDesc	desc = row->desc;
	bool		says_something = false;

	if (row->seen)
		return true;
	row->seen = true;
	/* the row of a function that returns void says nothing */
	for (int i = 0; i < desc->natts; i++)
		says_something = says_something || TupleDescAttr(desc, i)->atttypid != VOIDOID;
	if (says_something)
	{
		MemoryContext save = MemoryContextSwitchTo(row->context);
		TupleDesc	named = BlessTupleDesc(CreateTupleDescCopy(desc));
		HeapTuple	tuple;

		slot_getallattrs(slot);
		tuple = heap_form_tuple(named, slot->tts_values, slot->tts_isnull);
		row->json = TextDatumGetCString(DirectFunctionCall1(row_to_json,
															HeapTupleGetDatum(tuple)));
		MemoryContextSwitchTo(save);
	}
	return true;
}

static void
first_row_end(DestReceiver *self)
{
}

/* An error of the grammar is in the operation, not in what carries it. */
static void
place_syntax_error(void *sql)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) sql);
	}
}

/*
 * Types of the parameters of a statement as PostgreSQL infers them; text for
 * those that nothing is known about.
 */
static int
infer_types(RawStmt *tree, const char *sql, Oid **types)
{
	bool		snapshot = analyze_requires_snapshot(tree);
	int			count = 0;

	*types = NULL;
	if (snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	(void) parse_analyze_varparams(tree, sql, types, &count, NULL);
	if (snapshot)
		PopActiveSnapshot();
	for (int i = 0; i < count; i++)
		if (!OidIsValid((*types)[i]) || (*types)[i] == UNKNOWNOID)
			(*types)[i] = TEXTOID;
	return count;
}

static void
make_statements(void)
{
	HASHCTL		control = {0};

	if (statements_context == NULL)
		statements_context = AllocSetContextCreate(TopMemoryContext, "dtx statements",
												   ALLOCSET_DEFAULT_SIZES);
	control.keysize = sizeof(StatementKey);
	control.entrysize = sizeof(Statement);
	control.hcxt = statements_context;
	statements = hash_create("dtx statements", STATEMENTS_MAX, &control,
							 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Nobody is running one: steps do not nest. */
static void
drop_statements(void)
{
	HASH_SEQ_STATUS all;
	Statement  *statement;

	hash_seq_init(&all, statements);
	while ((statement = hash_seq_search(&all)) != NULL)
		SPI_freeplan(statement->plan);
	statements = NULL;
	MemoryContextReset(statements_context);
}

/* Keep a statement that was made ready; frees the one that it replaces. */
static Statement *
keep_statement(const StatementKey *key, const char *sql, int count, Oid *types,
			   uint64 invalidations, SPIPlanPtr plan)
{
	Statement	made = {.key = *key,.count = count,.invalidations = invalidations,.plan = plan};
	Statement  *statement;
	bool		found;

	if (statements != NULL && hash_get_num_entries(statements) >= STATEMENTS_MAX)
		drop_statements();
	if (statements == NULL)
		make_statements();
	made.sql = MemoryContextStrdup(statements_context, sql);
	made.search_path = MemoryContextStrdup(statements_context, namespace_search_path);
	made.types = MemoryContextAlloc(statements_context, sizeof(Oid) * Max(count, 1));
	if (count > 0)
		memcpy(made.types, types, sizeof(Oid) * count);
	statement = hash_search(statements, key, HASH_ENTER, &found);
	if (found)
	{
		SPI_freeplan(statement->plan);
		pfree(statement->sql);
		pfree(statement->search_path);
		pfree(statement->types);
	}
	*statement = made;
	return statement;
}

/*
 * Make the single statement in the string ready.  Returns NULL when the string
 * is not a single statement: *trees are then those that are in it.
 */
static Statement *
prepare_statement(const Caller *caller, const char *sql, List **trees)
{
	StatementKey key = {
		.hash = hash_bytes_extended((const unsigned char *) sql, strlen(sql), 0),
		.userid = caller->userid
	};
	Statement  *statement = NULL;
	uint64		invalidations;
	Oid		   *types;
	int			count;
	SPIPlanPtr	plan;

	*trees = NIL;
	AcceptInvalidationMessages();
	invalidations = SharedInvalidMessageCounter;
	if (statements != NULL)
		statement = hash_search(statements, &key, HASH_FIND, NULL);
	if (statement != NULL && strcmp(statement->sql, sql) != 0)
		statement = NULL;
	if (statement != NULL && statement->invalidations == invalidations &&
		strcmp(statement->search_path, namespace_search_path) == 0)
		return statement;

	*trees = raw_parser(sql, RAW_PARSE_DEFAULT);
	if (list_length(*trees) != 1)
		return NULL;
	count = infer_types(linitial_node(RawStmt, *trees), sql, &types);
	if (statement != NULL && statement->count == count &&
		(count == 0 || memcmp(statement->types, types, sizeof(Oid) * count) == 0))
	{
		char	   *search_path = MemoryContextStrdup(statements_context, namespace_search_path);

		pfree(statement->search_path);
		statement->search_path = search_path;
		statement->invalidations = invalidations;
		return statement;
	}

	plan = SPI_prepare(sql, count, types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	return keep_statement(&key, sql, count, types, invalidations, plan);
}

/*
 * Run what is in a string, with values for the parameters in it.  The first
 * row of the last statement that returns one goes to *row.
 */
static void
run_string(const Caller *caller, const char *sql, int count, char **arguments, FirstRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	SPIExecuteOptions options = {0};
	Statement  *statement;
	List	   *trees;
	ListCell   *cell;
	ParamListInfo values = NULL;
	int			result;
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = place_syntax_error,
		.arg = unconstify(char *, sql)
	};

	error_context_stack = &callback;
	statement = prepare_statement(caller, sql, &trees);
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(context);
	if (statement == NULL)
	{
		foreach(cell, trees)
		{
			RawStmt    *tree = lfirst_node(RawStmt, cell);
			const char *text = sql + Max(tree->stmt_location, 0);

			run_string(caller, tree->stmt_len > 0 ? pnstrdup(text, tree->stmt_len) : text,
					   count, arguments, row);
		}
		return;
	}

	if (statement->count > count)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_PARAMETER),
				 errmsg("there is no argument for parameter $%d", count + 1)));
	if (statement->count > 0)
		values = makeParamList(statement->count);
	for (int i = 0; i < statement->count; i++)
	{
		ParamExternData *value = &values->params[i];
		Oid			input;
		Oid			io_param;

		getTypeInputInfo(statement->types[i], &input, &io_param);
		value->value = OidInputFunctionCall(input, arguments[i], io_param, -1);
		value->isnull = arguments[i] == NULL;
		value->pflags = PARAM_FLAG_CONST;
		value->ptype = statement->types[i];
	}
	row->seen = false;
	options.params = values;
	options.dest = &row->receiver;
	result = SPI_execute_plan_extended(statement->plan, &options);
	MemoryContextSwitchTo(context);
	if (result == SPI_ERROR_TRANSACTION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("transaction control is not allowed in an operation")));
	if (result == SPI_ERROR_COPY)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("COPY with the client is not allowed in an operation")));
	if (result < 0)
		elog(ERROR, "could not run an operation: %s", SPI_result_code_string(result));
}

/* Elements of a text[], NULL for nulls. */
static char **
array_strings(Datum array, int *count)
{
	Datum	   *elements;
	bool	   *nulls;
	char	  **strings;

	*count = 0;
	if (array == (Datum) 0)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, count);
	strings = palloc(sizeof(char *) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
		strings[i] = nulls[i] ? NULL : TextDatumGetCString(elements[i]);
	return strings;
}

/* ------------------------------------------------------------- one operation */

/*
 * Has the step said SET CONSTRAINTS?  That would hold for the steps after it,
 * and there is no function that gives the state back.
 */
static bool constraints_were_set = false;
static ProcessUtility_hook_type next_utility_hook = NULL;

static void
watch_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			  ProcessUtilityContext context, ParamListInfo params,
			  QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	ProcessUtility_hook_type next = next_utility_hook ? next_utility_hook : standard_ProcessUtility;

	if (IsA(pstmt->utilityStmt, ConstraintsSetStmt))
		constraints_were_set = true;
	/* its query would run at COMMIT, by then as whoever applies operations */
	if (running != NULL && IsA(pstmt->utilityStmt, DeclareCursorStmt) &&
		(((DeclareCursorStmt *) pstmt->utilityStmt)->options & CURSOR_OPT_HOLD) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a cursor WITH HOLD is not allowed in an operation")));
	next(pstmt, query, read_only_tree, context, params, environment, dest, completion);
}

/* Also where dtx is not preloaded: sessions that apply nothing do without it. */
static void
start_watching(void)
{
	static bool watching = false;

	if (watching)
		return;
	next_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = watch_utility;
	watching = true;
}

/* See (5).  The memory of deferred triggers is made with the first of them. */
static void
check_nothing_deferred(void)
{
	for (MemoryContext child = TopTransactionContext->firstchild; child != NULL;
		 child = child->nextchild)
		if (strcmp(child->name, "AfterTriggerEvents") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
					 errmsg("operations cannot be applied in a transaction that has deferred triggers")));
}

/*
 * Run the statement of an operation as the role that calls, and all that it
 * defers.  Returns its first row as JSON, or NULL.
 */
static char *
run_operation(const Caller *caller, const DtxApply *request, const char *sql, Datum arguments,
			  bool fire_deferred)
{
	FirstRow	row = {
		.receiver = {
			.receiveSlot = first_row_receive,
			.rStartup = first_row_startup,
			.rShutdown = first_row_end,
			.rDestroy = first_row_end,
			.mydest = DestNone
		},
		.context = CurrentMemoryContext
	};
	int			guc_level;
	int			count;
	char	  **values;
	char	   *result = NULL;

	if (sql == NULL)
		return NULL;
	guc_level = NewGUCNestLevel();
	SetUserIdAndSecContext(caller->userid, caller->sec_context);
	running = request;
	values = array_strings(arguments, &count);
	run_string(caller, sql, count, values, &row);
	if (fire_deferred)
		AfterTriggerFireDeferred();
	if (row.json != NULL)
	{
		Jsonb	   *json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(row.json)));

		result = JsonbToCString(NULL, &json->root, VARSIZE(json));
	}
	running = NULL;
	/* as if it had failed: what it has set for the session goes as well */
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(caller->userid, caller->save_sec_context);
	return result;
}

/* Fill in an answer that is not the operation's own. */
static void
answer_error(const Caller *caller, DtxApplied *answer, DtxVerdict verdict, int code,
			 const char *message)
{
	answer->verdict = verdict;
	strlcpy(answer->sqlstate, unpack_sql_state(code), sizeof(answer->sqlstate));
	answer->message = MemoryContextStrdup(caller->answers, message);
}

static void
answer_done(const Caller *caller, DtxApplied *answer, const char *result)
{
	answer->verdict = DTX_VERDICT_DONE;
	answer->result = result ? MemoryContextStrdup(caller->answers, result) : NULL;
}

/* The operation does not fit to what the row says. */
static void
answer_misfit(const Caller *caller, const DtxApply *request, DtxApplied *answer,
			  const char *state)
{
	answer_error(caller, answer, DTX_VERDICT_FAILED, ERRCODE_REFUSED_MOVE,
				 psprintf("operation \"%s\" does not fit to a step in state \"%s\"",
						  dtx_operation_name(request->operation), state));
}

static bool
row_is_foreign(const Caller *caller, const Row *row, DtxApplied *answer)
{
	if (row->ownerid == caller->userid)
		return false;
	answer_error(caller, answer, DTX_VERDICT_DENIED, ERRCODE_INSUFFICIENT_PRIVILEGE,
				 "step belongs to another role");
	return true;
}

/* A row that cannot be inserted and is not there: gone meanwhile. */
static void
next_round(int *round)
{
	CHECK_FOR_INTERRUPTS();
	if (++*round >= ROUNDS_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("row of the step comes and goes")));
}

/*
 * An action or a try: run it if it never came, and was not undone before it
 * came.
 */
static void
apply_first(const Caller *caller, const DtxApply *request, const Try *try, Datum arguments,
			bool fire_deferred, DtxApplied *answer)
{
	Row			row;
	char	   *result;

	for (int round = 0; !insert_row(caller, request, try ? "tried" : "done", try);
		 next_round(&round))
	{
		if (!find_row(caller, request, false, &row))
			continue;
		if (row_is_foreign(caller, &row, answer))
			return;
		if (strcmp(row.state, "void") == 0 ||
			strcmp(row.state, try ? "cancelled" : "compensated") == 0)
			answer->verdict = DTX_VERDICT_BLOCKED;
		else if (strcmp(row.state, try ? "tried" : "done") == 0 ||
				 (try && strcmp(row.state, "confirmed") == 0))
			answer_done(caller, answer, row.result);
		else
			answer_misfit(caller, request, answer, row.state);
		return;
	}
	result = run_operation(caller, request, request->sql, arguments, fire_deferred);
	if (result != NULL)
		update_row(caller, request, PLAN_RESULT, result);
	answer_done(caller, answer, result);
}

/* What ends a step: see the table in the header of this file. */
static void
apply_second(const Caller *caller, const DtxApply *request, Datum arguments, DtxApplied *answer)
{
	const char *from = request->operation == DTX_OPERATION_COMPENSATION ? "done" : "tried";
	const char *to = request->operation == DTX_OPERATION_COMPENSATION ? "compensated" :
		request->operation == DTX_OPERATION_CONFIRM ? "confirmed" : "cancelled";
	const char *sql = request->sql;
	DtxApply	as_tried = *request;
	Row			row;

	for (int round = 0; !find_row(caller, request, true, &row); next_round(&round))
	{
		if (request->operation == DTX_OPERATION_CONFIRM)
		{
			answer_error(caller, answer, DTX_VERDICT_FAILED, ERRCODE_REFUSED_MOVE,
						 "TCC branch was never tried here");
			return;
		}
		/* it may be on its way, and must not come after this */
		if (insert_row(caller, request, "void", NULL))
		{
			answer->verdict = DTX_VERDICT_VOID;
			return;
		}
	}
	if (row_is_foreign(caller, &row, answer))
		return;
	if (strcmp(row.state, to) == 0)
		answer->verdict = DTX_VERDICT_DONE;
	else if (request->operation == DTX_OPERATION_CONFIRM &&
			 (strcmp(row.state, "cancelled") == 0 || strcmp(row.state, "void") == 0))
		answer_error(caller, answer, DTX_VERDICT_FAILED, ERRCODE_REFUSED_MOVE,
					 "TCC branch was cancelled already");
	else if (request->operation == DTX_OPERATION_CANCEL && strcmp(row.state, "confirmed") == 0)
		answer_error(caller, answer, DTX_VERDICT_FAILED, ERRCODE_REFUSED_MOVE,
					 "TCC branch was confirmed already");
	else if (strcmp(row.state, "void") == 0)
		answer->verdict = DTX_VERDICT_VOID;
	else if (strcmp(row.state, from) != 0)
		answer_misfit(caller, request, answer, row.state);
	else
	{
		update_row(caller, request, PLAN_MOVE, to);
		if (request->operation != DTX_OPERATION_COMPENSATION)
		{
			sql = request->operation == DTX_OPERATION_CONFIRM ? row.confirm : row.cancel;
			arguments = row.arguments;
			/* it finds the same context as the try did */
			as_tried.gid = row.gid;
			as_tried.name = psprintf("%d", request->step);
		}
		answer_done(caller, answer, run_operation(caller, &as_tried, sql, arguments, true));
	}
}

/*
 * A cancel that somebody meant for the whole call, not an error that the
 * operation raised with the same SQLSTATE.
 */
static bool
is_real_cancel(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		(error->funcname == NULL || strcmp(error->funcname, "ProcessInterrupts") == 0);
}

/*
 * Apply one operation in a subtransaction, with a time limit.  Raises only what
 * is meant for the whole call.  The memory context is that of the step.
 */
static void
apply_one(const Caller *caller, const DtxApply *request, bool alone, int budget_ms,
		  DtxApplied *answer)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner resources = CurrentResourceOwner;
	bool		batch_limit = !alone && budget_ms > 0 &&
		(request->timeout_ms == 0 || budget_ms < request->timeout_ms);
	int			limit_ms = batch_limit ? budget_ms : request->timeout_ms;
	Datum		arguments = (Datum) 0;

	constraints_were_set = false;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		bool		keep;

		if (limit_ms > 0)
			dtx_deadline_start(limit_ms);
		if (request->arguments != NULL)
			arguments = OidInputFunctionCall(F_ARRAY_IN, unconstify(char *, request->arguments),
											 TEXTOID, -1);
		if (request->operation == DTX_OPERATION_ACTION)
			apply_first(caller, request, NULL, arguments, true, answer);
		else
			apply_second(caller, request, arguments, answer);
		dtx_deadline_stop();
		keep = alone || !constraints_were_set;
		if (keep)
			ReleaseCurrentSubTransaction();
		else
		{
			RollbackAndReleaseCurrentSubTransaction();
			memset(answer, 0, sizeof(DtxApplied));
			answer->verdict = DTX_VERDICT_SLOW;
		}
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = resources;
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		passed = dtx_deadline_passed();

		dtx_deadline_stop();
		running = NULL;
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = resources;
		/* not from inside: only ROLLBACK would get the client out of there */
		if (ProcDiePending || (is_real_cancel(error) && !passed))
			ReThrowError(error);

		memset(answer, 0, sizeof(DtxApplied));
		if (passed && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		{
			if (batch_limit)
				answer->verdict = DTX_VERDICT_SLOW;
			else
				answer_error(caller, answer, DTX_VERDICT_FAILED, ERRCODE_QUERY_CANCELED,
							 "operation timed out");
		}
		else
			answer_error(caller, answer, DTX_VERDICT_FAILED, error->sqlerrcode,
						 error->detail == NULL ? error->message :
						 psprintf("%s: %s", error->message, error->detail));
	}
	PG_END_TRY();
}

/*
 * Apply operations in the current transaction, which the caller commits, as
 * the current user.  With more than one of them, none may take longer than
 * budget_ms.  Forgets what is below the watermark.
 *
 * Not inside a query or a subtransaction, nor after anything that deferred a
 * trigger: see (5).  No deadline of the caller's may be running.
 */
void
dtx_barrier_apply(uint64 lineage, uint64 watermark, int budget_ms,
				  const DtxApply *requests, int count, DtxApplied *answers)
{
	DtxTime		begun = dtx_now();
	MemoryContext step_context;
	Caller		caller;
	bool		snapshot = !ActiveSnapshotSet();

	Assert(running == NULL);
	Assert(!IsSubTransaction());
	check_nothing_deferred();
	start_watching();
	caller_init(&caller, lineage);
	/* a worker has no portal, and SPI wants the one or the other */
	if (snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	step_context = AllocSetContextCreate(CurrentMemoryContext, "dtx step",
										 ALLOCSET_DEFAULT_SIZES);
	memset(answers, 0, sizeof(DtxApplied) * count);
	for (int i = 0; i < count; i++)
	{
		MemoryContext save;

		CHECK_FOR_INTERRUPTS();
		if (i > 0 && budget_ms > 0 && dtx_exceeds(begun, dtx_now(), budget_ms))
		{
			answers[i].verdict = DTX_VERDICT_GIVEN_BACK;
			continue;
		}
		save = MemoryContextSwitchTo(step_context);
		apply_one(&caller, &requests[i], count == 1, budget_ms, &answers[i]);
		MemoryContextSwitchTo(save);
		MemoryContextReset(step_context);
	}
	forget(&caller, watermark);
	SPI_finish();
	if (snapshot)
		PopActiveSnapshot();
}

/* ------------------------------------------------------------ SQL functions */

static void
refuse_argument(const char *what, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("argument \"%s\" %s", name, what)));
}

/* Is this a CALL by the client, at the top, and not of a function in a query? */
static bool
called_directly(FunctionCallInfo fcinfo)
{
	PlannedStmt *statement;

	if (ActivePortal == NULL || list_length(ActivePortal->stmts) != 1 || IsSubTransaction())
		return false;
	statement = linitial_node(PlannedStmt, ActivePortal->stmts);
	return statement->utilityStmt != NULL && IsA(statement->utilityStmt, CallStmt) &&
		((CallStmt *) statement->utilityStmt)->funcexpr->funcid == fcinfo->flinfo->fn_oid;
}

/*
 * Elements of an array argument.  If *count is not negative, there have to be
 * so many.
 */
static Datum *
array_argument(FunctionCallInfo fcinfo, int number, const char *name, Oid type,
			   int *count, bool **nulls)
{
	Datum	   *elements;
	bool	   *found_nulls;
	int			found;
	int16		length;
	bool		by_value;
	char		alignment;

	if (PG_ARGISNULL(number))
		refuse_argument("must not be null", name);
	get_typlenbyvalalign(type, &length, &by_value, &alignment);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(number), type, length, by_value, alignment,
					  &elements, &found_nulls, &found);
	if (*count >= 0 && found != *count)
		refuse_argument("must have one element for each operation", name);
	*count = found;
	if (nulls != NULL)
		*nulls = found_nulls;
	else
	{
		for (int i = 0; i < found; i++)
			if (found_nulls[i])
				refuse_argument("must not have nulls", name);
	}
	return elements;
}

static char *
string_or_null(Datum value, bool isnull)
{
	return isnull ? NULL : TextDatumGetCString(value);
}

/* The result of a procedure with a text[] as its only output. */
static Datum
answers_row(FunctionCallInfo fcinfo, const DtxApplied *answers, int count)
{
	TupleDesc	desc;
	Datum	   *values = palloc0(sizeof(Datum) * Max(count * 4, 1));
	bool	   *nulls = palloc0(sizeof(bool) * Max(count * 4, 1));
	int			dimension = count * 4;
	int			lower = 1;
	Datum		array;
	bool		array_is_null = false;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < count; i++)
	{
		const char *texts[4] = {
			dtx_verdict_name(answers[i].verdict),
			answers[i].sqlstate[0] != '\0' ? answers[i].sqlstate : NULL,
			answers[i].message,
			answers[i].result
		};

		for (int j = 0; j < 4; j++)
		{
			nulls[i * 4 + j] = texts[j] == NULL;
			if (texts[j] != NULL)
				values[i * 4 + j] = CStringGetTextDatum(texts[j]);
		}
	}
	array = count == 0 ? PointerGetDatum(construct_empty_array(TEXTOID)) :
		PointerGetDatum(construct_md_array(values, nulls, 1, &dimension, &lower,
										   TEXTOID, -1, false, TYPALIGN_INT));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), &array, &array_is_null));
}

PG_FUNCTION_INFO_V1(dtx_apply);
PG_FUNCTION_INFO_V1(dtx_apply_try);
PG_FUNCTION_INFO_V1(dtx_apply_end);
PG_FUNCTION_INFO_V1(dtx_open_tries);
PG_FUNCTION_INFO_V1(dtx_ongoing);
PG_FUNCTION_INFO_V1(dtx_saga_context);

/* dtx.apply(...): see sql/40_barrier.sql. */
Datum
dtx_apply(PG_FUNCTION_ARGS)
{
	int			count = -1;
	int			text_count = -1;
	Datum	   *xids,
			   *nonces,
			   *steps,
			   *operations,
			   *attempts,
			   *gids,
			   *names,
			   *texts,
			   *which,
			   *arguments,
			   *timeouts;
	bool	   *gid_nulls,
			   *name_nulls,
			   *argument_nulls;
	char	  **strings;
	DtxApply   *requests;
	DtxApplied *answers;

	DTX_FAULT("apply_begin");
	if (!called_directly(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("dtx.apply() can be called neither from a function nor after SAVEPOINT")));
	PreventCommandIfReadOnly("dtx.apply()");
	if (PG_ARGISNULL(0))
		refuse_argument("must not be null", "lineage");
	if (PG_ARGISNULL(1))
		refuse_argument("must not be null", "watermark");
	if (PG_ARGISNULL(2) || PG_GETARG_INT32(2) < 0)
		refuse_argument("must not be null or negative", "budget_ms");
	xids = array_argument(fcinfo, 3, "xids", XID8OID, &count, NULL);
	nonces = array_argument(fcinfo, 4, "nonces", INT8OID, &count, NULL);
	steps = array_argument(fcinfo, 5, "steps", INT4OID, &count, NULL);
	operations = array_argument(fcinfo, 6, "operations", TEXTOID, &count, NULL);
	attempts = array_argument(fcinfo, 7, "attempts", INT4OID, &count, NULL);
	gids = array_argument(fcinfo, 8, "gids", TEXTOID, &count, &gid_nulls);
	names = array_argument(fcinfo, 9, "names", TEXTOID, &count, &name_nulls);
	texts = array_argument(fcinfo, 10, "texts", TEXTOID, &text_count, NULL);
	which = array_argument(fcinfo, 11, "which", INT4OID, &count, NULL);
	arguments = array_argument(fcinfo, 12, "arguments", TEXTOID, &count, &argument_nulls);
	timeouts = array_argument(fcinfo, 13, "timeouts", INT4OID, &count, NULL);

	strings = palloc(sizeof(char *) * Max(text_count, 1));
	for (int i = 0; i < text_count; i++)
		strings[i] = TextDatumGetCString(texts[i]);
	requests = palloc0(sizeof(DtxApply) * Max(count, 1));
	answers = palloc0(sizeof(DtxApplied) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		DtxApply   *request = &requests[i];
		char	   *operation = TextDatumGetCString(operations[i]);
		int			text = DatumGetInt32(which[i]);

		request->key.xid = (uint64) DatumGetInt64(xids[i]);
		request->key.nonce = (uint64) DatumGetInt64(nonces[i]);
		request->step = DatumGetInt32(steps[i]);
		if (!dtx_operation_parse(operation, &request->operation) ||
			request->operation == DTX_OPERATION_TRY)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("operation \"%s\" is not one of dtx.apply()", operation)));
		request->attempt = DatumGetInt32(attempts[i]);
		request->gid = string_or_null(gids[i], gid_nulls[i]);
		request->name = string_or_null(names[i], name_nulls[i]);
		if (text < 0 || text > text_count)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"which\" names statement %d of %d", text, text_count)));
		request->sql = text > 0 ? strings[text - 1] : NULL;
		request->arguments = string_or_null(arguments[i], argument_nulls[i]);
		request->timeout_ms = DatumGetInt32(timeouts[i]);
		if (request->timeout_ms < 0)
			refuse_argument("must not be negative", "timeouts");
	}
	dtx_barrier_apply((uint64) PG_GETARG_INT64(0), (uint64) PG_GETARG_INT64(1),
					  PG_GETARG_INT32(2), requests, count, answers);
	DTX_FAULT("apply_before_commit");
	PG_RETURN_DATUM(answers_row(fcinfo, answers, count));
}

/*
 * dtx.apply_try(...): see sql/40_barrier.sql.  In a transaction of its own: an
 * error of the operation is raised as it is.
 */
Datum
dtx_apply_try(PG_FUNCTION_ARGS)
{
	static const char *const required[] = {"lineage", "life", "xid", "nonce", "step"};
	/* of life, registrar_life, registrar_xid, registrar_nonce, gid, confirm, cancel, arguments */
	static const int stored[] = {1, 6, 7, 8, 5, 10, 11, 12};
	MemoryContext context = CurrentMemoryContext;
	Caller		caller;
	Try			try;
	DtxApply	request = {.operation = DTX_OPERATION_TRY,.attempt = 1};
	DtxApplied	answer = {0};

	if (running != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("dtx.apply_try() cannot be called inside an operation")));
	PreventCommandIfReadOnly("dtx.apply_try()");
	for (int i = 0; i < lengthof(required); i++)
		if (PG_ARGISNULL(i))
			refuse_argument("must not be null", required[i]);
	if (!PG_ARGISNULL(13) && PG_GETARG_INT32(13) < 0)
		refuse_argument("must not be negative", "timeout_ms");
	for (int i = 0; i < lengthof(stored); i++)
	{
		try.nulls[i] = PG_ARGISNULL(stored[i]) ? 'n' : ' ';
		try.values[i] = PG_GETARG_DATUM(stored[i]);
	}
	request.key.xid = (uint64) PG_GETARG_INT64(2);
	request.key.nonce = (uint64) PG_GETARG_INT64(3);
	request.step = PG_GETARG_INT32(4);
	request.gid = string_or_null(PG_GETARG_DATUM(5), PG_ARGISNULL(5));
	request.name = psprintf("%d", request.step);
	request.sql = string_or_null(PG_GETARG_DATUM(9), PG_ARGISNULL(9));
	request.timeout_ms = PG_ARGISNULL(13) ? 0 : PG_GETARG_INT32(13);

	start_watching();
	caller_init(&caller, (uint64) PG_GETARG_INT64(0));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PG_TRY();
	{
		if (request.timeout_ms > 0)
			dtx_deadline_start(request.timeout_ms);
		apply_first(&caller, &request, &try,
					PG_ARGISNULL(12) ? (Datum) 0 : PG_GETARG_DATUM(12),
					called_directly(fcinfo), &answer);
		dtx_deadline_stop();
	}
	PG_CATCH();
	{
		bool		late = dtx_deadline_passed() && geterrcode() == ERRCODE_QUERY_CANCELED;

		dtx_deadline_stop();
		running = NULL;
		if (!late)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("operation timed out")));
	}
	PG_END_TRY();
	SPI_finish();
	PG_RETURN_DATUM(answers_row(fcinfo, &answer, 1));
}

/*
 * dtx.apply_end(...): see sql/40_barrier.sql.  Unlike from dtx.apply, an answer
 * without an error is a proof, which callbacks can take without reading rows.
 */
Datum
dtx_apply_end(PG_FUNCTION_ARGS)
{
	int			count = -1;
	Datum	   *steps;
	Datum	   *operations;
	DtxApply   *requests;
	DtxApplied *answers;

	DTX_FAULT("apply_begin");
	if (!called_directly(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("dtx.apply_end() can be called neither from a function nor after SAVEPOINT")));
	PreventCommandIfReadOnly("dtx.apply_end()");
	for (int i = 0; i < 3; i++)
		if (PG_ARGISNULL(i))
			refuse_argument("must not be null", i == 0 ? "lineage" : i == 1 ? "xid" : "nonce");
	if (PG_ARGISNULL(5) || PG_GETARG_INT32(5) < 0)
		refuse_argument("must not be null or negative", "timeout_ms");
	steps = array_argument(fcinfo, 3, "steps", INT4OID, &count, NULL);
	operations = array_argument(fcinfo, 4, "operations", TEXTOID, &count, NULL);
	requests = palloc0(sizeof(DtxApply) * Max(count, 1));
	answers = palloc0(sizeof(DtxApplied) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		DtxApply   *request = &requests[i];
		char	   *operation = TextDatumGetCString(operations[i]);

		request->key.xid = (uint64) PG_GETARG_INT64(1);
		request->key.nonce = (uint64) PG_GETARG_INT64(2);
		request->step = DatumGetInt32(steps[i]);
		if (!dtx_operation_parse(operation, &request->operation) ||
			(request->operation != DTX_OPERATION_CONFIRM && request->operation != DTX_OPERATION_CANCEL))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("operation \"%s\" is not one of dtx.apply_end()", operation)));
		request->attempt = 1;
		request->timeout_ms = PG_GETARG_INT32(5);
	}
	dtx_barrier_apply((uint64) PG_GETARG_INT64(0), 0, 0, requests, count, answers);
	for (int i = 0; i < count; i++)
	{
		const char *sqlstate = answers[i].sqlstate[0] != '\0' ? answers[i].sqlstate : "55000";

		if (answers[i].verdict != DTX_VERDICT_DONE && answers[i].verdict != DTX_VERDICT_VOID)
			ereport(ERROR,
					(errcode(MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3], sqlstate[4])),
					 errmsg("%s", answers[i].message ? answers[i].message :
							dtx_verdict_name(answers[i].verdict)),
					 errcontext("%s of try %d", dtx_operation_name(requests[i].operation), requests[i].step)));
	}
	DTX_FAULT("apply_before_commit");
	PG_RETURN_VOID();
}

/* dtx.open_tries(lineage): of the roles that the caller can be. */
Datum
dtx_open_tries(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[] = {INT8OID, OIDOID};
	Datum		values[] = {PG_GETARG_DATUM(0), ObjectIdGetDatum(GetUserId())};
	Oid			save_user;
	int			save_sec_context;

	InitMaterializedSRF(fcinfo, 0);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	GetUserIdAndSecContext(&save_user, &save_sec_context);
	SetUserIdAndSecContext(schema_owner(), save_sec_context | SECURITY_LOCAL_USERID_CHANGE);
	if (SPI_execute_with_args("SELECT life, xid, nonce, step, registrar_life, registrar_xid, registrar_nonce,"
							  " pg_catalog.pg_get_userbyid(owner), EXTRACT(epoch FROM"
							  " pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) applied_at)::pg_catalog.float8"
							  " FROM dtx.barrier WHERE lineage OPERATOR(pg_catalog.=) $1"
							  " AND state OPERATOR(pg_catalog.=) 'tried'"
							  " AND pg_catalog.pg_has_role($2, owner, 'USAGE')"
							  " ORDER BY xid, nonce, step",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read dtx.barrier");
	SetUserIdAndSecContext(save_user, save_sec_context);
	for (uint64 i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
	SPI_finish();
	return (Datum) 0;
}

/* dtx.ongoing(message): the operation is to be asked again. */
Datum
dtx_ongoing(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_DTX_ONGOING),
			 errmsg("%s", PG_ARGISNULL(0) ? "operation is not done yet" :
					text_to_cstring(PG_GETARG_TEXT_PP(0)))));
	PG_RETURN_NULL();
}

/* dtx.saga_context(): of the operation that is being run. */
Datum
dtx_saga_context(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[4] = {0};
	bool		nulls[4] = {true, true, true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (running != NULL)
	{
		nulls[0] = running->gid == NULL;
		if (running->gid != NULL)
			values[0] = CStringGetTextDatum(running->gid);
		nulls[1] = running->name == NULL;
		if (running->name != NULL)
			values[1] = CStringGetTextDatum(running->name);
		nulls[2] = nulls[3] = false;
		values[2] = Int32GetDatum(running->attempt);
		values[3] = CStringGetTextDatum(dtx_operation_name(running->operation));
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
