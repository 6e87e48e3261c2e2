/*-------------------------------------------------------------------------
 *
 * pattern.c
 *		What sagas and TCC have in common: flows in memory, and what an answer
 *		means.
 *
 *		An operation's row (state.c has the transitions):
 *
 *		pending	-> done		applied, now or earlier
 *		pending	-> skipped	nothing to undo, or its condition is not met
 *		pending	-> refused	a business error of an action
 *		pending	-> held		a business error where there can be none, too many
 *							attempts, or something that nobody expects
 *		pending	-> pending	everything else: tried again, later each time
 *
 * (1) "Not known" is not an answer: it is asked again, and the participant's
 *	   barrier answers as it did the first time.
 * (2) Rows change in memory first and are written in one transaction with
 *	   whatever follows from them; nothing that follows is sent before that
 *	   has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/elog.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "pattern.h"

/* The clock by which flows are due. */
TimestampTz
dtx_flow_now(void)
{
	return GetCurrentTimestamp() + (int64) dtx_clock_offset_ms * 1000;
}

/* What settings say of retries; a saga may say otherwise. */
const DtxRetry *
dtx_retry_default(void)
{
	static DtxRetry retry;

	retry.interval_ms = dtx_retry_interval_default_ms;
	retry.max_interval_ms = dtx_retry_max_interval_default_ms;
	retry.factor = 2;
	retry.max_attempts = 0;
	return &retry;
}

/* A flow from its row; everything of it is allocated in context. */
DtxFlow *
dtx_flow_make(DtxFlowRow *row, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	DtxFlow    *flow = palloc0(sizeof(DtxFlow));
	ListCell   *cell;

	flow->row = row;
	flow->context = context;
	flow->routine = row->pattern == DTX_PATTERN_TCC ? &dtx_tcc_routine : &dtx_saga_routine;
	dtx_flow_gid(row, flow->gid);
	flow->routine->prepare(flow);
	flow->forward = palloc0(sizeof(DtxStepRow *) * Max(flow->step_count, 1));
	flow->backward = palloc0(sizeof(DtxStepRow *) * Max(flow->step_count, 1));
	flow->tries = palloc0(sizeof(DtxStepRow *) * Max(flow->step_count, 1));
	flow->out = palloc0(sizeof(DtxWork *) * Max(flow->step_count, 1));
	foreach(cell, row->steps)
	{
		DtxStepRow *step = lfirst(cell);

		if (step->step < 1 || step->step > flow->step_count)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("flow \"%s\" has no step %d", flow->gid, step->step)));
		switch (step->operation)
		{
			case DTX_OPERATION_ACTION:
			case DTX_OPERATION_CONFIRM:
				flow->forward[step->step - 1] = step;
				break;
			case DTX_OPERATION_COMPENSATION:
			case DTX_OPERATION_CANCEL:
				flow->backward[step->step - 1] = step;
				break;
			case DTX_OPERATION_TRY:
				flow->tries[step->step - 1] = step;
				break;
		}
	}
	MemoryContextSwitchTo(old);
	return flow;
}

/* The row of an operation, made if there is none yet. */
DtxStepRow *
dtx_flow_step(DtxFlow *flow, int index, DtxOperation operation)
{
	bool		is_backward = operation == DTX_OPERATION_COMPENSATION ||
		operation == DTX_OPERATION_CANCEL;
	DtxStepRow **place = is_backward ? &flow->backward[index] : &flow->forward[index];

	if (*place == NULL)
	{
		*place = MemoryContextAllocZero(flow->context, sizeof(DtxStepRow));
		(*place)->step = index + 1;
		(*place)->operation = operation;
		(*place)->state = DTX_STEP_PENDING;
	}
	return *place;
}

void
dtx_flow_write_step(DtxFlow *flow, DtxStepRow *step)
{
	MemoryContext old = MemoryContextSwitchTo(flow->context);

	flow->steps = list_append_unique_ptr(flow->steps, step);
	flow->document = NULL;
	MemoryContextSwitchTo(old);
}

/* Have an event written down. */
void
dtx_flow_note(DtxFlow *flow, int step, const char *event, const char *detail, bool alert)
{
	MemoryContext old = MemoryContextSwitchTo(flow->context);
	DtxFlowEvent *note = palloc0(sizeof(DtxFlowEvent));

	note->step = step;
	note->event = event;
	note->detail = detail ? pstrdup(detail) : NULL;
	note->alert = alert;
	flow->events = lappend(flow->events, note);
	MemoryContextSwitchTo(old);
}

/* Move a flow, by the rules of its pattern. */
void
dtx_flow_move(DtxFlow *flow, DtxFlowState state, TimestampTz now)
{
	dtx_flow_check_move(flow->row->pattern, flow->row->state, state, flow->gid);
	flow->row->state = state;
	flow->changed = true;
	if (dtx_flow_is_over(state))
	{
		flow->row->finished_at = now;
		flow->row->due_at = 0;
	}
	if (state == DTX_FLOW_HELD)
		flow->row->due_at = 0;
}

/* A step needs a person: the flow waits, visibly. */
void
dtx_flow_hold(DtxFlow *flow, DtxStepRow *step)
{
	if (flow->row->state == DTX_FLOW_HELD)
		return;
	flow->row->reason = MemoryContextStrdup(flow->context,
											psprintf("%s of step %d: %s", dtx_operation_name(step->operation),
													 step->step, step->error ? step->error : "held"));
	strlcpy(flow->row->sqlstate, step->sqlstate, sizeof(flow->row->sqlstate));
	dtx_flow_move(flow, DTX_FLOW_HELD, 0);
	dtx_flow_note(flow, step->step, "held", flow->row->reason, true);
}

/* Something has to be looked at then, at the latest. */
void
dtx_flow_wake_at(DtxFlow *flow, TimestampTz at)
{
	if (at != 0 && (flow->wake_at == 0 || at < flow->wake_at))
		flow->wake_at = at;
}

/* Stage an operation; its caller says with what. */
DtxWork *
dtx_flow_work(DtxFlow *flow, int index, DtxOperation operation, Oid serverid, Oid roleid)
{
	MemoryContext old = MemoryContextSwitchTo(flow->context);
	DtxWork    *work = palloc0(sizeof(DtxWork));

	work->flow = flow;
	work->index = index;
	work->key = flow->row->key;
	work->step = index + 1;
	work->operation = operation;
	work->serverid = serverid;
	work->roleid = roleid;
	work->retry = dtx_retry_default();
	flow->works = lappend(flow->works, work);
	flow->out[index] = work;
	flow->out_count++;
	MemoryContextSwitchTo(old);
	return work;
}

/* What the rules say of an SQLSTATE: 'r'efused, 'o'ngoing, 'u'nknown. */
static char
rule_for(List *rules, const char *sqlstate)
{
	ListCell   *cell;

	foreach(cell, rules)
	{
		DtxErrorRule *rule = lfirst(cell);

		if (strncmp(rule->sqlstate, sqlstate, strlen(rule->sqlstate)) == 0)
			return rule->result;
	}
	return 'u';
}

static void
try_again(DtxWork *work, DtxStepRow *step, TimestampTz now, bool same_interval)
{
	const DtxRetry *retry = work->retry;

	if (!same_interval && retry->max_attempts > 0 && step->attempt_count >= retry->max_attempts)
	{
		step->error = MemoryContextStrdup(work->flow->context,
										  psprintf("gave up after %d attempts: %s", step->attempt_count,
												   step->error ? step->error : "no answer"));
		step->state = DTX_STEP_HELD;
		return;
	}
	step->state = DTX_STEP_PENDING;
	step->is_ongoing = same_interval;
	step->next_at = now + (int64) dtx_retry_interval_ms(retry, same_interval ? 1 :
														Max(step->attempt_count, 1)) * 1000;
}

/*
 * What an answer means for its step, and for the flow.  SLOW and GIVEN_BACK are
 * the executor's business.
 */
void
dtx_flow_answer(DtxWork *work, DtxApplied *applied, List *rules, TimestampTz now)
{
	DtxFlow    *flow = work->flow;
	MemoryContext old = MemoryContextSwitchTo(flow->context);
	DtxStepRow *step = dtx_flow_step(flow, work->index, work->operation);
	bool		can_refuse = work->operation == DTX_OPERATION_ACTION;
	bool		again;
	char		rule;

	flow->out[work->index] = NULL;
	flow->out_count--;
	/* said by somebody else meanwhile */
	if (step->state == DTX_STEP_DONE || step->state == DTX_STEP_SKIPPED)
	{
		MemoryContextSwitchTo(old);
		return;
	}
	again = step->sent_at != 0;
	/* also if its node was known to be away: it waits since then */
	if (!again)
		step->sent_at = work->sent_at != 0 ? work->sent_at : now;
	step->attempt_count++;
	step->answered_at = now;
	step->next_at = 0;
	if (applied->verdict == DTX_VERDICT_FAILED || applied->verdict == DTX_VERDICT_UNKNOWN ||
		applied->verdict == DTX_VERDICT_DENIED)
	{
		strlcpy(step->sqlstate, applied->sqlstate, sizeof(step->sqlstate));
		step->error = applied->message ? pstrdup(applied->message) : NULL;
	}
	switch (applied->verdict)
	{
		case DTX_VERDICT_DONE:
			step->state = DTX_STEP_DONE;
			if (applied->result != NULL)
				step->result = DatumGetJsonbPCopy(DirectFunctionCall1(jsonb_in,
																	  CStringGetDatum(applied->result)));
			break;
		case DTX_VERDICT_VOID:
			step->state = DTX_STEP_SKIPPED;
			break;
		case DTX_VERDICT_BLOCKED:
			step->error = pstrdup("it was undone on the node before it came there");
			step->state = DTX_STEP_HELD;
			break;
		case DTX_VERDICT_DENIED:
			step->state = DTX_STEP_HELD;
			break;
		case DTX_VERDICT_FAILED:
			rule = rule_for(rules, applied->sqlstate);
			if (rule == 'o')
				try_again(work, step, now, true);
			else if (rule == 'r' && can_refuse && !work->insist)
			{
				step->state = DTX_STEP_REFUSED;
				/* also when an operator had them counted anew: see is_to_undo() */
				if (again)
					step->attempt_count = Max(step->attempt_count, 2);
			}
			else if (!can_refuse && (rule == 'r' || strcmp(applied->sqlstate, "55000") == 0))
				step->state = DTX_STEP_HELD;
			else
				try_again(work, step, now, false);
			break;
		default:
			try_again(work, step, now, false);
			break;
	}
	dtx_flow_write_step(flow, step);
	if (step->state == DTX_STEP_HELD)
		dtx_flow_hold(flow, step);
	else
		flow->routine->answered(flow, work, now);
	MemoryContextSwitchTo(old);
}
