/*-------------------------------------------------------------------------
 *
 * state.c
 *		States of flows and their steps, and the moves between them.
 *
 *		The tables below are all there is: code asks them before it writes a
 *		state, documentation and tests print them (dtx.state_transitions).
 *
 * (1) A flow that is committed or aborted stays so.
 * (2) From "held" only a person moves a flow.
 * (3) A step that is done, or skipped, stays so; it is undone by an operation
 *	   of its own, which has a state of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "flow.h"

typedef struct Move
{
	int			from;
	int			to;
	const char *by;
} Move;

static const char *const flow_states[] = {
	[DTX_FLOW_RUNNING] = "running",
	[DTX_FLOW_COMMITTING] = "committing",
	[DTX_FLOW_ABORTING] = "aborting",
	[DTX_FLOW_COMMITTED] = "committed",
	[DTX_FLOW_ABORTED] = "aborted",
	[DTX_FLOW_HELD] = "held",
};

static const char *const step_states[] = {
	[DTX_STEP_PENDING] = "pending",
	[DTX_STEP_DONE] = "done",
	[DTX_STEP_REFUSED] = "refused",
	[DTX_STEP_SKIPPED] = "skipped",
	[DTX_STEP_HELD] = "held",
};

static const char *const operations[] = {
	[DTX_OPERATION_ACTION] = "action",
	[DTX_OPERATION_COMPENSATION] = "compensation",
	[DTX_OPERATION_TRY] = "try",
	[DTX_OPERATION_CONFIRM] = "confirm",
	[DTX_OPERATION_CANCEL] = "cancel",
};

static const char *const verdicts[] = {
	[DTX_VERDICT_DONE] = "done",
	[DTX_VERDICT_VOID] = "void",
	[DTX_VERDICT_BLOCKED] = "blocked",
	[DTX_VERDICT_FAILED] = "failed",
	[DTX_VERDICT_DENIED] = "denied",
	[DTX_VERDICT_SLOW] = "slow",
	[DTX_VERDICT_GIVEN_BACK] = "given back",
	[DTX_VERDICT_UNKNOWN] = "unknown",
};

static const Move saga_moves[] = {
	{DTX_FLOW_RUNNING, DTX_FLOW_COMMITTED, "every action is done or skipped"},
	{DTX_FLOW_RUNNING, DTX_FLOW_ABORTING, "an action is refused, the deadline is over, or a person compensates it"},
	{DTX_FLOW_RUNNING, DTX_FLOW_ABORTED, "a person ends it by force"},
	{DTX_FLOW_RUNNING, DTX_FLOW_HELD, "an action cannot go on without a person"},
	{DTX_FLOW_ABORTING, DTX_FLOW_ABORTED, "every action is compensated"},
	{DTX_FLOW_ABORTING, DTX_FLOW_HELD, "a compensation cannot go on without a person"},
	{DTX_FLOW_HELD, DTX_FLOW_RUNNING, "a person lets it go on, forward"},
	{DTX_FLOW_HELD, DTX_FLOW_ABORTING, "a person lets it go on, backward"},
	{DTX_FLOW_HELD, DTX_FLOW_COMMITTED, "a person ends it by force"},
	{DTX_FLOW_HELD, DTX_FLOW_ABORTED, "a person ends it by force"},
};

static const Move tcc_moves[] = {
	{DTX_FLOW_RUNNING, DTX_FLOW_COMMITTING, "the transaction that confirms it commits"},
	{DTX_FLOW_RUNNING, DTX_FLOW_ABORTING, "the transaction that cancels it commits, or the deadline is over"},
	{DTX_FLOW_COMMITTING, DTX_FLOW_COMMITTED, "every branch is confirmed"},
	{DTX_FLOW_COMMITTING, DTX_FLOW_HELD, "a confirm cannot go on without a person"},
	{DTX_FLOW_ABORTING, DTX_FLOW_ABORTED, "every branch is cancelled"},
	{DTX_FLOW_ABORTING, DTX_FLOW_HELD, "a cancel cannot go on without a person"},
	{DTX_FLOW_HELD, DTX_FLOW_COMMITTING, "a person lets it go on, to confirm"},
	{DTX_FLOW_HELD, DTX_FLOW_ABORTING, "a person lets it go on, to cancel"},
	{DTX_FLOW_HELD, DTX_FLOW_COMMITTED, "a person ends it by force"},
	{DTX_FLOW_HELD, DTX_FLOW_ABORTED, "a person ends it by force"},
};

static const Move step_moves[] = {
	{DTX_STEP_PENDING, DTX_STEP_PENDING, "no answer, or not done yet: it is tried again"},
	{DTX_STEP_PENDING, DTX_STEP_DONE, "the participant has applied it"},
	{DTX_STEP_PENDING, DTX_STEP_REFUSED, "the participant refuses it"},
	{DTX_STEP_PENDING, DTX_STEP_SKIPPED, "its condition is false, or a person skips it"},
	{DTX_STEP_PENDING, DTX_STEP_HELD, "it was tried as often as allowed, or refused where that is not possible"},
	{DTX_STEP_DONE, DTX_STEP_DONE, "the participant answers once more"},
	{DTX_STEP_REFUSED, DTX_STEP_PENDING, "forward recovery, or a person sends the saga forward again"},
	{DTX_STEP_HELD, DTX_STEP_PENDING, "a person has it tried again"},
	{DTX_STEP_HELD, DTX_STEP_DONE, "a person says that it is done, or a late answer does"},
	{DTX_STEP_HELD, DTX_STEP_SKIPPED, "a person skips it"},
};

/* Index of a name in a table of names, or -1. */
static int
find_name(const char *const *names, int count, const char *name)
{
	for (int i = 0; i < count; i++)
	{
		if (strcmp(names[i], name) == 0)
			return i;
	}
	return -1;
}

static bool
find_move(const Move *moves, int count, int from, int to)
{
	for (int i = 0; i < count; i++)
	{
		if (moves[i].from == from && moves[i].to == to)
			return true;
	}
	return false;
}

const char *
dtx_flow_state_name(DtxFlowState state)
{
	Assert(state < lengthof(flow_states));
	return flow_states[state];
}

/* Reads what the constraint of dtx.transaction allows; else an error. */
DtxFlowState
dtx_flow_state_parse(const char *name)
{
	int			state = find_name(flow_states, lengthof(flow_states), name);

	if (state < 0)
		elog(ERROR, "unrecognized state of a flow: \"%s\"", name);
	return (DtxFlowState) state;
}

const char *
dtx_step_state_name(DtxStepState state)
{
	Assert(state < lengthof(step_states));
	return step_states[state];
}

/* Reads what the constraint of dtx.step allows; else an error. */
DtxStepState
dtx_step_state_parse(const char *name)
{
	int			state = find_name(step_states, lengthof(step_states), name);

	if (state < 0)
		elog(ERROR, "unrecognized state of a step: \"%s\"", name);
	return (DtxStepState) state;
}

const char *
dtx_operation_name(DtxOperation operation)
{
	Assert(operation < lengthof(operations));
	return operations[operation];
}

/* False, and nothing written, when there is no such operation. */
bool
dtx_operation_parse(const char *name, DtxOperation *operation)
{
	int			found = find_name(operations, lengthof(operations), name);

	if (found < 0)
		return false;
	*operation = (DtxOperation) found;
	return true;
}

const char *
dtx_verdict_name(DtxVerdict verdict)
{
	Assert(verdict < lengthof(verdicts));
	return verdicts[verdict];
}

/* False, and nothing written, when there is no such verdict. */
bool
dtx_verdict_parse(const char *name, DtxVerdict *verdict)
{
	int			found = find_name(verdicts, lengthof(verdicts), name);

	if (found < 0)
		return false;
	*verdict = (DtxVerdict) found;
	return true;
}

bool
dtx_flow_may_move(DtxPattern pattern, DtxFlowState from, DtxFlowState to)
{
	if (pattern == DTX_PATTERN_SAGA)
		return find_move(saga_moves, lengthof(saga_moves), from, to);
	return find_move(tcc_moves, lengthof(tcc_moves), from, to);
}

bool
dtx_step_may_move(DtxStepState from, DtxStepState to)
{
	return find_move(step_moves, lengthof(step_moves), from, to);
}

/* Raise 55000 for a move that is not in the table. */
void
dtx_flow_check_move(DtxPattern pattern, DtxFlowState from, DtxFlowState to,
					const char *gid)
{
	if (!dtx_flow_may_move(pattern, from, to))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot move global transaction \"%s\" to state \"%s\"",
						gid, dtx_flow_state_name(to)),
				 errdetail("It is in state \"%s\".", dtx_flow_state_name(from))));
}

/* The same for a step. */
void
dtx_step_check_move(DtxStepState from, DtxStepState to)
{
	if (!dtx_step_may_move(from, to))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot move a step to state \"%s\"", dtx_step_state_name(to)),
				 errdetail("It is in state \"%s\".", dtx_step_state_name(from))));
}

/* Is it in a state that it never leaves? */
bool
dtx_flow_is_over(DtxFlowState state)
{
	return state == DTX_FLOW_COMMITTED || state == DTX_FLOW_ABORTED;
}

static void
put_moves(ReturnSetInfo *rsinfo, const char *object, const char *const *names,
		  const Move *moves, int count)
{
	for (int i = 0; i < count; i++)
	{
		Datum		values[4];
		bool		nulls[4] = {0};

		values[0] = CStringGetTextDatum(object);
		values[1] = CStringGetTextDatum(names[moves[i].from]);
		values[2] = CStringGetTextDatum(names[moves[i].to]);
		values[3] = CStringGetTextDatum(moves[i].by);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

PG_FUNCTION_INFO_V1(dtx_state_transitions);

/* dtx.state_transitions(): the tables above. */
Datum
dtx_state_transitions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	put_moves(rsinfo, "saga", flow_states, saga_moves, lengthof(saga_moves));
	put_moves(rsinfo, "tcc", flow_states, tcc_moves, lengthof(tcc_moves));
	put_moves(rsinfo, "step", step_states, step_moves, lengthof(step_moves));
	return (Datum) 0;
}
