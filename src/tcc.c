/*-------------------------------------------------------------------------
 *
 * tcc.c
 *		Try-Confirm-Cancel.
 *
 *		running		-> committing	dtx_tcc_confirm, or the local COMMIT
 *		running		-> aborting		dtx_tcc_cancel, the timeout, or the local ROLLBACK
 *		committing	-> committed	every branch is confirmed: tcc_plan, or the
 *									session itself at COMMIT (twophase.c)
 *		aborting	-> aborted		every branch is cancelled: tcc_plan
 *
 *		A TCC transaction is bound to a local one, which decides by its commit
 *		record; then it has a row from "committing" on, and none if it is
 *		cancelled.  Or it has a row of its own from dtx_tcc_begin on.
 *
 * (1) Who registers a try, and who decides, lock the flow's row and change
 *	   it: a try is in the decision, or is refused.
 * (2) A try is registered by the commit of the transaction that made it.  If
 *	   that does not commit it is cancelled, whatever becomes of the flow.
 * (3) A deadline that has passed is a decision, also if no worker has written
 *	   it down yet.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "lane.h"
#include "node.h"
#include "saga.h"
#include "statement.h"
#include "twophase.h"

PG_FUNCTION_INFO_V1(dtx_tcc_begin);
PG_FUNCTION_INFO_V1(dtx_tcc_try);
PG_FUNCTION_INFO_V1(dtx_tcc_confirm);
PG_FUNCTION_INFO_V1(dtx_tcc_cancel);

/* --------------------------------------------------------------- planning */

static void
tcc_prepare(DtxFlow *flow)
{
	ListCell   *cell;

	flow->step_count = 0;
	foreach(cell, flow->row->steps)
		flow->step_count = Max(flow->step_count, ((DtxStepRow *) lfirst(cell))->step);
}

static void
tcc_plan(DtxFlow *flow, TimestampTz now)
{
	DtxFlowRow *row = flow->row;
	bool		all = true;

	flow->wake_at = 0;
	if (row->paused)
		return;
	if (row->state == DTX_FLOW_RUNNING)
	{
		if (row->deadline_at == 0 || row->deadline_at > now)
		{
			dtx_flow_wake_at(flow, row->deadline_at);
			return;
		}
		dtx_flow_move(flow, DTX_FLOW_ABORTING, now);
		row->backward = true;
		strlcpy(row->sqlstate, "57014", sizeof(row->sqlstate));
		row->reason = MemoryContextStrdup(flow->context, "its timeout has passed");
		dtx_flow_note(flow, 0, "turned back", row->reason, false);
	}
	if (row->state != DTX_FLOW_COMMITTING && row->state != DTX_FLOW_ABORTING)
		return;
	for (int i = 0; i < flow->step_count; i++)
	{
		DtxStepRow *step = row->backward ? flow->backward[i] : flow->forward[i];
		DtxWork    *work;

		if (flow->tries[i] == NULL ||
			(step != NULL && (step->state == DTX_STEP_DONE || step->state == DTX_STEP_SKIPPED)))
			continue;
		all = false;
		if (flow->out[i] != NULL)
			continue;
		if (step != NULL && step->next_at > now)
		{
			dtx_flow_wake_at(flow, step->next_at);
			continue;
		}
		work = dtx_flow_work(flow, i, row->backward ? DTX_OPERATION_CANCEL : DTX_OPERATION_CONFIRM,
							 flow->tries[i]->node, flow->tries[i]->role);
		if (flow->tries[i]->registrar_step != 0)
		{
			work->key = flow->tries[i]->registrar;
			work->step = flow->tries[i]->registrar_step;
		}
		work->name = MemoryContextStrdup(flow->context, psprintf("%d", i + 1));
		work->timeout_ms = dtx_step_timeout_ms;
	}
	if (all)
		dtx_flow_move(flow, row->backward ? DTX_FLOW_ABORTED : DTX_FLOW_COMMITTED, now);
}

static void
tcc_answered(DtxFlow *flow, DtxWork *work, TimestampTz now)
{
}

const DtxPatternRoutine dtx_tcc_routine = {
	.prepare = tcc_prepare,
	.plan = tcc_plan,
	.answered = tcc_answered
};

/* ---------------------------------------------------------------- sessions */

static char *
text_argument(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

static void
require(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

/* The flow of that name, whose row is locked from now on. */
static DtxFlowRow *
find_flow(const char *gid)
{
	DtxFlowRow *row = dtx_store_flow_find(gid, true);

	if (row == NULL || !has_privs_of_role(GetUserId(), row->owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("TCC transaction \"%s\" does not exist", gid),
				 errdetail("It was never committed here, or ended longer than dtx.retention ago, or is not yours."),
				 errhint("dtx.tcc_begin makes one.")));
	if (row->pattern != DTX_PATTERN_TCC)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("flow \"%s\" is not a TCC transaction", gid)));
	return row;
}

static bool
deadline_has_passed(const DtxFlowRow *row)
{
	return row->state == DTX_FLOW_RUNNING && row->deadline_at != 0 &&
		row->deadline_at <= dtx_flow_now();
}

static void
refuse(const char *what, const char *gid, const DtxFlowRow *row)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s TCC transaction \"%s\"", what, gid),
			 deadline_has_passed(row) ? errdetail("Its timeout has passed.") :
			 errdetail("It is in state \"%s\".", dtx_flow_state_name(row->state))));
}

/* dtx.tcc_begin(gid, timeout): begin a TCC transaction; returns its gid. */
Datum
dtx_tcc_begin(PG_FUNCTION_ARGS)
{
	DtxFlowRow *row;
	char		gid[DTX_FLOW_NAME_MAX + 1];

	dtx_flow_check_session();
	row = dtx_flow_new_row(DTX_PATTERN_TCC, dtx_flow_check_name(text_argument(fcinfo, 0)));
	if (!PG_ARGISNULL(1))
	{
		Interval   *interval = PG_GETARG_INTERVAL_P(1);
		int64		timeout = interval->time + (interval->day + (int64) interval->month * 30) * USECS_PER_DAY;

		if (timeout <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("timeout must be greater than zero")));
		row->due_at = row->deadline_at = dtx_flow_now() + timeout;
	}
	if (!dtx_store_flow_insert(row))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("gid \"%s\" is already used", row->name)));
	if (row->due_at != 0)
		dtx_flow_wake_at_commit();
	dtx_flow_gid(row, gid);
	PG_RETURN_TEXT_P(cstring_to_text(gid));
}

/* How many parameters are in a statement; what a branch must not do is refused. */
static int
count_parameters(const char *sql, const char *name)
{
	List	   *statements;
	ListCell   *cell;
	int			highest = 0;

	if (sql == NULL)
		return 0;
	statements = dtx_statements_parse(sql);
	foreach(cell, statements)
		highest = Max(highest, ((DtxStatement *) lfirst(cell))->parameters);
	if (highest > 0 && list_length(statements) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" with parameters must be one statement", name)));
	return highest;
}

/* The elements of a JSON array as a text[]; strings as they are. */
static char *
array_from_json(Jsonb *json, int *count)
{
	JsonbIterator *iterator;
	JsonbValue	value;
	JsonbIteratorToken token;
	StringInfoData array;

	*count = 0;
	if (json == NULL)
		return NULL;
	if (!JB_ROOT_IS_ARRAY(json) || JB_ROOT_IS_SCALAR(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("args must be a JSON array")));
	initStringInfo(&array);
	appendStringInfoChar(&array, '{');
	iterator = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		(*count)++;
		switch (value.type)
		{
			case jbvNull:
				dtx_append_element(&array, NULL);
				break;
			case jbvString:
				dtx_append_element(&array, pnstrdup(value.val.string.val, value.val.string.len));
				break;
			case jbvBool:
				dtx_append_element(&array, value.val.boolean ? "true" : "false");
				break;
			case jbvNumeric:
				dtx_append_element(&array, DatumGetCString(DirectFunctionCall1(numeric_out,
																			   NumericGetDatum(value.val.numeric))));
				break;
			default:
				dtx_append_element(&array, JsonbToCString(NULL, value.val.binary.data, value.val.binary.len));
				break;
		}
	}
	appendStringInfoChar(&array, '}');
	return array.data;
}

/*
 * dtx.tcc_try(node, try, confirm, cancel, args, gid): try on a node, and take
 * note of it in this subtransaction.  Raises the node's error if it refuses;
 * 08006 if it does not answer, and then the try is cancelled when it comes.
 */
Datum
dtx_tcc_try(PG_FUNCTION_ARGS)
{
	char	   *node;
	char	   *gid = text_argument(fcinfo, 5);
	DtxTryCall	call = {.try = text_argument(fcinfo, 1),.confirm = text_argument(fcinfo, 2),
		.cancel = text_argument(fcinfo, 3)};
	int			wanted;
	int			given;
	DtxFlowRow *row = NULL;
	DtxFlowKey	key;
	DtxStepRow	step = {0};
	DtxTries   *tries;
	DtxTry	   *try;
	DtxApplied	answer = {0};
	char		text[DTX_FLOW_NAME_MAX + 1];

	require(fcinfo, 0, "node");
	require(fcinfo, 1, "try");
	node = NameStr(*PG_GETARG_NAME(0));
	wanted = count_parameters(call.try, "try");
	wanted = Max(wanted, count_parameters(call.confirm, "confirm"));
	wanted = Max(wanted, count_parameters(call.cancel, "cancel"));
	call.arguments = array_from_json(PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4), &given);
	if (wanted != given)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("try, confirm and cancel have %d parameters, but args has %d elements",
						wanted, given)));
	dtx_flow_check_session();
	(void) dtx_twophase_registrar();

	if (gid != NULL)
	{
		row = find_flow(gid);
		if (row->state != DTX_FLOW_RUNNING || deadline_has_passed(row))
			refuse("add a try to", gid, row);
	}
	tries = dtx_twophase_tries(node);
	try = dtx_twophase_add_try(tries, row == NULL);
	step.node = tries->connection->serverid;
	step.role = GetUserId();
	if (row != NULL)
	{
		key = row->key;
		step.step = dtx_store_flow_next_step(&key);
		step.registrar.xid = tries->gid->xid;
		step.registrar.nonce = tries->gid->nonce;
		step.registrar_step = try->number;
		/* whoever has read it before has not seen this try (1) */
		dtx_store_flow_change(row);
		call.flow = gid;
	}
	else
	{
		key.xid = tries->gid->xid;
		key.nonce = tries->gid->nonce;
		step.step = try->number;
		dtx_gid_format(tries->gid, text);
		call.flow = text;
	}
	dtx_store_flow_add_try(&key, &step);
	dtx_try_run(tries, try, &call, &answer);
	if (answer.result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(answer.result)));
}

/* Decide about a flow, by the commit of this transaction. */
static void
decide(FunctionCallInfo fcinfo, bool confirm)
{
	char	   *gid;
	DtxFlowRow *row;

	require(fcinfo, 0, "gid");
	gid = text_argument(fcinfo, 0);
	dtx_flow_check_session();
	dtx_twophase_durable();
	row = find_flow(gid);
	/* said before; held is what goes on in that direction */
	if (row->state != DTX_FLOW_RUNNING && row->backward != confirm &&
		row->state != (confirm ? DTX_FLOW_ABORTED : DTX_FLOW_COMMITTED))
		return;
	if (row->state != DTX_FLOW_RUNNING || (confirm && deadline_has_passed(row)))
		refuse(confirm ? "confirm" : "cancel", gid, row);
	dtx_flow_check_move(row->pattern, row->state, confirm ? DTX_FLOW_COMMITTING : DTX_FLOW_ABORTING, gid);
	row->state = confirm ? DTX_FLOW_COMMITTING : DTX_FLOW_ABORTING;
	row->backward = !confirm;
	row->due_at = row->paused ? 0 : GetCurrentTimestamp();
	dtx_store_flow_change(row);
	dtx_flow_wake_at_commit();
}

/* dtx.tcc_confirm(gid): if this transaction commits, all of it is confirmed. */
Datum
dtx_tcc_confirm(PG_FUNCTION_ARGS)
{
	decide(fcinfo, true);
	PG_RETURN_VOID();
}

/* dtx.tcc_cancel(gid): if this transaction commits, all of it is cancelled. */
Datum
dtx_tcc_cancel(PG_FUNCTION_ARGS)
{
	decide(fcinfo, false);
	PG_RETURN_VOID();
}
