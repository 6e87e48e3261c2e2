/*-------------------------------------------------------------------------
 *
 * saga.c
 *		Sagas: steps with compensations, forward and backward recovery.
 *
 *		running		-> committed	every action is done or skipped: plan_forward
 *		running		-> aborting		an action is refused, or the timeout passes:
 *									turn_back
 *		aborting	-> aborted		everything that may have been done is undone:
 *									plan_backward
 *		running, aborting -> held	no rule says how to go on: dtx_flow_hold
 *		held		-> ...			an operator: flow.c
 *
 * (1) A step is sent when all that it comes after are done or skipped, and
 *	   that is committed.  So a step that is not ready cannot have been sent.
 * (2) On the way back every step is undone that may have been sent, unless it
 *	   was refused the only time that it was sent: a refusal has done nothing.
 *	   What was never done over there is marked so that it never will be.
 * (3) Compensations run in the reverse order of the graph.
 * (4) Nothing turns a saga back whose open steps all have forward recovery.
 * (5) A compensation that is refused waits for a person.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "fault.h"
#include "guc.h"
#include "lane.h"
#include "node.h"
#include "saga.h"
#include "session.h"
#include "store.h"

/* So many definitions a process keeps in memory. */
#define DEFINITIONS_MAX 128

PG_FUNCTION_INFO_V1(dtx_saga_submit);
PG_FUNCTION_INFO_V1(dtx_saga_define);
PG_FUNCTION_INFO_V1(dtx_saga_start);

/* ------------------------------------------------- definitions in memory */

typedef struct DefinitionKey
{
	int64		saga;			/* of a named one, else 0 */
	uint64		hash;			/* of the JSON otherwise */
} DefinitionKey;

typedef struct DefinitionEntry
{
	DefinitionKey key;
	Jsonb	   *json;			/* what was hashed, or NULL */
	DtxSagaDefinition *definition;
} DefinitionEntry;

static HTAB *definitions = NULL;
static MemoryContext definitions_context = NULL;

static DefinitionEntry *
definition_entry(const DefinitionKey *key, bool *found)
{
	if (definitions != NULL && hash_get_num_entries(definitions) >= DEFINITIONS_MAX &&
		hash_search(definitions, key, HASH_FIND, NULL) == NULL)
	{
		hash_destroy(definitions);
		MemoryContextReset(definitions_context);
		definitions = NULL;
	}
	if (definitions == NULL)
	{
		HASHCTL		info = {0};

		if (definitions_context == NULL)
			definitions_context = AllocSetContextCreate(TopMemoryContext, "dtx definitions",
														ALLOCSET_DEFAULT_SIZES);
		info.keysize = sizeof(DefinitionKey);
		info.entrysize = sizeof(DefinitionEntry);
		definitions = hash_create("dtx definitions", DEFINITIONS_MAX, &info, HASH_ELEM | HASH_BLOBS);
	}
	return hash_search(definitions, key, HASH_ENTER, found);
}

/*
 * The definition that some JSON says, for planning; "checked" says that it
 * was validated before.  A caller that plans keeps nothing of it beyond the
 * present round, since others may drive it out: it gets a copy of its own.
 */
static DtxSagaDefinition *
read_definition(Jsonb *json, bool checked)
{
	return checked ? dtx_definition_load(json) : dtx_definition_parse(json);
}

/* Validate once per session what is submitted again and again. */
static DtxSagaDefinition *
validated(Jsonb *json)
{
	DefinitionKey key = {0};
	DefinitionEntry *entry;
	DtxSagaDefinition *definition;
	bool		found;

	key.hash = hash_bytes_extended((unsigned char *) json, VARSIZE_ANY(json), 0);
	entry = definition_entry(&key, &found);
	if (found && entry->json != NULL && VARSIZE_ANY(entry->json) == VARSIZE_ANY(json) &&
		memcmp(entry->json, json, VARSIZE_ANY(json)) == 0)
		return entry->definition;
	if (found)
		return read_definition(json, false);
	PG_TRY();
	{
		MemoryContext old = MemoryContextSwitchTo(definitions_context);

		definition = read_definition(json, false);
		entry->json = (Jsonb *) palloc(VARSIZE_ANY(json));
		memcpy(entry->json, json, VARSIZE_ANY(json));
		entry->definition = definition;
		MemoryContextSwitchTo(old);
	}
	PG_CATCH();
	{
		(void) hash_search(definitions, &key, HASH_REMOVE, NULL);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return entry->definition;
}

/* --------------------------------------------------------------- planning */

static void
saga_prepare(DtxFlow *flow)
{
	Jsonb	   *json = flow->row->definition;

	/* those that many sagas share are read once, and never leave */
	if (flow->row->saga != 0)
	{
		static HTAB *named = NULL;
		static uint64 named_lineage = 0;
		uint64		lineage = dtx_database(MyDatabaseId, false)->lineage;
		bool		found;
		struct Named
		{
			int64		saga;
			DtxSagaDefinition *definition;
		}		   *entry;

		/* numbers begin anew with the extension */
		if (named != NULL && named_lineage != lineage)
		{
			hash_destroy(named);
			named = NULL;
		}
		if (named == NULL)
		{
			HASHCTL		info = {0};

			named_lineage = lineage;
			info.keysize = sizeof(int64);
			info.entrysize = sizeof(struct Named);
			named = hash_create("dtx named sagas", 32, &info, HASH_ELEM | HASH_BLOBS);
		}
		entry = hash_search(named, &flow->row->saga, HASH_FIND, &found);
		if (!found)
		{
			Jsonb	   *read = dtx_store_saga(flow->row->saga);
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
			DtxSagaDefinition *definition = read_definition(read, true);

			MemoryContextSwitchTo(old);
			entry = hash_search(named, &flow->row->saga, HASH_ENTER, &found);
			entry->definition = definition;
		}
		flow->definition = entry->definition;
	}
	else
		flow->definition = read_definition(json, true);
	flow->step_count = flow->definition->step_count;
}

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, key);
	value.val.string.len = (int) strlen(key);
	(void) pushJsonbValue(state, WJB_KEY, &value);
}

static void
push_jsonb(JsonbParseState **state, Jsonb *jsonb)
{
	JsonbValue	value;

	if (jsonb == NULL)
		value.type = jbvNull;
	else if (JB_ROOT_IS_SCALAR(jsonb))
		(void) JsonbExtractScalar(&jsonb->root, &value);
	else
		JsonbToJsonbValue(jsonb, &value);
	(void) pushJsonbValue(state, WJB_VALUE, &value);
}

/* What arguments and conditions refer to: the input, and results so far. */
static Jsonb *
document(DtxFlow *flow)
{
	JsonbParseState *state = NULL;
	MemoryContext old;
	JsonbValue *value;

	if (flow->document != NULL)
		return flow->document;
	old = MemoryContextSwitchTo(flow->context);
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_key(&state, "input");
	push_jsonb(&state, flow->row->input);
	push_key(&state, "steps");
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < flow->step_count; i++)
	{
		DtxStepRow *step = flow->forward[i];

		if (step == NULL || (step->state != DTX_STEP_DONE && step->state != DTX_STEP_SKIPPED))
			continue;
		push_key(&state, flow->definition->steps[i].name);
		(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		push_key(&state, "result");
		push_jsonb(&state, step->result);
		(void) pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	(void) pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	value = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	flow->document = JsonbValueToJsonb(value);
	MemoryContextSwitchTo(old);
	return flow->document;
}

/* The first so many arguments of a step, as an array. */
static char *
arguments(DtxFlow *flow, const DtxSagaStep *step, int count)
{
	StringInfoData array;

	if (count == 0)
		return NULL;
	initStringInfo(&array);
	appendStringInfoChar(&array, '{');
	for (int i = 0; i < count; i++)
	{
		const DtxArgument *argument = &step->arguments[i];

		dtx_append_element(&array, argument->path == NULL ? argument->value :
						   dtx_definition_argument(argument, document(flow)));
	}
	appendStringInfoChar(&array, '}');
	return array.data;
}

static bool
is_settled(const DtxStepRow *step)
{
	return step != NULL && (step->state == DTX_STEP_DONE || step->state == DTX_STEP_SKIPPED);
}

/* Are all steps done or skipped that it comes after? */
static bool
is_ready(DtxFlow *flow, int index)
{
	int			other = -1;

	while ((other = bms_next_member(flow->definition->steps[index].after, other)) >= 0)
		if (!is_settled(flow->forward[other]))
			return false;
	return true;
}

static bool
is_wanted(DtxFlow *flow, int index)
{
	const DtxSagaStep *step = &flow->definition->steps[index];

	return step->when == NULL || dtx_definition_when(step, document(flow));
}

/* May anything still turn it back? (4) */
static bool
can_turn(DtxFlow *flow)
{
	if (flow->row->insist)
		return false;
	for (int i = 0; i < flow->step_count; i++)
		if (!is_settled(flow->forward[i]) && !flow->definition->steps[i].forward)
			return true;
	return false;
}

static void
turn_back(DtxFlow *flow, const char *sqlstate, const char *reason, int step, TimestampTz now)
{
	if (flow->row->backward)
		return;
	dtx_flow_move(flow, DTX_FLOW_ABORTING, now);
	flow->row->backward = true;
	flow->row->reason = MemoryContextStrdup(flow->context, reason);
	strlcpy(flow->row->sqlstate, sqlstate, sizeof(flow->row->sqlstate));
	dtx_flow_note(flow, step, "turned back", reason, false);
}

static void
refused(DtxFlow *flow, int index, TimestampTz now)
{
	DtxStepRow *step = flow->forward[index];

	turn_back(flow, step->sqlstate,
			  psprintf("step \"%s\" was refused: %s", flow->definition->steps[index].name,
					   step->error ? step->error : ""), step->step, now);
}

static void
stage(DtxFlow *flow, int index, DtxOperation operation, const char *sql, int parameters)
{
	const DtxSagaStep *step = &flow->definition->steps[index];
	DtxWork    *work = dtx_flow_work(flow, index, operation, flow->row->nodes[index], flow->row->owner);
	MemoryContext old = MemoryContextSwitchTo(flow->context);

	work->name = step->name;
	work->sql = sql;
	work->arguments = sql ? arguments(flow, step, parameters) : NULL;
	work->timeout_ms = step->timeout_ms;
	work->retry = &step->retry;
	work->insist = step->forward || flow->row->insist;
	MemoryContextSwitchTo(old);
}

/* Settle a step without asking anybody. */
static void
settle(DtxFlow *flow, int index, DtxStepState state, TimestampTz now)
{
	DtxStepRow *step = dtx_flow_step(flow, index, DTX_OPERATION_ACTION);

	dtx_step_check_move(step->state, state);
	step->state = state;
	step->answered_at = now;
	dtx_flow_write_step(flow, step);
}

/*
 * A step that was refused, or held, and written, while what follows from it was
 * not, because somebody else changed the flow at that moment.
 */
static void
catch_up(DtxFlow *flow, TimestampTz now)
{
	for (int i = 0; i < flow->step_count && !flow->row->backward; i++)
	{
		DtxStepRow *step = flow->forward[i];

		if (step != NULL && step->state == DTX_STEP_REFUSED && !flow->row->insist &&
			!flow->definition->steps[i].forward)
			refused(flow, i, now);
	}
	for (int i = 0; i < flow->step_count; i++)
	{
		DtxStepRow *step = flow->row->backward ? flow->backward[i] : flow->forward[i];

		if (step != NULL && step->state == DTX_STEP_HELD)
			dtx_flow_hold(flow, step);
	}
}

static void
plan_forward(DtxFlow *flow, TimestampTz now)
{
	bool		moved = true;
	bool		all = false;

	while (moved)
	{
		moved = false;
		all = true;
		for (int i = 0; i < flow->step_count; i++)
		{
			const DtxSagaStep *step = &flow->definition->steps[i];
			DtxStepRow *row = flow->forward[i];

			if (is_settled(row))
				continue;
			all = false;
			if (flow->out[i] != NULL || !is_ready(flow, i))
				continue;
			if ((row == NULL || row->attempt_count == 0) && !is_wanted(flow, i))
			{
				settle(flow, i, DTX_STEP_SKIPPED, now);
				moved = true;
			}
			else if (step->action == NULL)
			{
				settle(flow, i, DTX_STEP_DONE, now);
				moved = true;
			}
			else if (row != NULL && row->next_at > now)
				dtx_flow_wake_at(flow, row->next_at);
			else
				stage(flow, i, DTX_OPERATION_ACTION, step->action, step->action_parameters);
		}
	}
	if (all)
		dtx_flow_move(flow, DTX_FLOW_COMMITTED, now);
	else if (flow->row->deadline_at != 0 && can_turn(flow))
		dtx_flow_wake_at(flow, flow->row->deadline_at);
}

/* Does a step's action have to be undone, or prevented? (2) */
static bool
is_to_undo(DtxFlow *flow, int index)
{
	const DtxSagaStep *step = &flow->definition->steps[index];
	DtxStepRow *action = flow->forward[index];

	if (step->action == NULL || is_settled(flow->backward[index]))
		return false;
	if (action == NULL)
		return is_ready(flow, index) && is_wanted(flow, index);
	switch (action->state)
	{
		case DTX_STEP_REFUSED:
			/* unless it was sent before, and may still come there */
			return action->attempt_count > 1 ||
				dtx_flow_may_be_lost(dtx_database(MyDatabaseId, false), flow->row->key.xid);
		case DTX_STEP_DONE:
			return step->compensation != NULL;
		case DTX_STEP_SKIPPED:
			/* by its condition, or by an operator, who says so */
			return action->error != NULL;
		default:
			return true;
	}
}

/* The same of a step by its number, for who has only read the row. */
bool
dtx_saga_is_to_undo(DtxFlowRow *row, int step)
{
	return is_to_undo(dtx_flow_make(row, CurrentMemoryContext), step - 1);
}

static void
plan_backward(DtxFlow *flow, TimestampTz now)
{
	bool		all = true;

	for (int i = flow->step_count - 1; i >= 0; i--)
	{
		const DtxSagaStep *step = &flow->definition->steps[i];
		DtxStepRow *undo = flow->backward[i];
		int			later = -1;
		bool		ready = true;

		if (flow->out[i] != NULL)
			all = false;
		if (!is_to_undo(flow, i))
			continue;
		all = false;
		if (flow->out[i] != NULL)
			continue;
		while (ready && (later = bms_next_member(step->before, later)) >= 0)
			ready = flow->out[later] == NULL && !is_to_undo(flow, later);
		if (!ready)
			continue;
		if (undo != NULL && undo->next_at > now)
			dtx_flow_wake_at(flow, undo->next_at);
		else
			stage(flow, i, DTX_OPERATION_COMPENSATION, step->compensation,
				  step->compensation_parameters);
	}
	if (all)
		dtx_flow_move(flow, DTX_FLOW_ABORTED, now);
}

static void
saga_plan(DtxFlow *flow, TimestampTz now)
{
	DtxFlowRow *row = flow->row;

	flow->wake_at = 0;
	if (row->paused || (row->state != DTX_FLOW_RUNNING && row->state != DTX_FLOW_ABORTING))
		return;
	catch_up(flow, now);
	if (row->state == DTX_FLOW_HELD)
		return;
	if (!row->backward && row->deadline_at != 0 && row->deadline_at <= now && can_turn(flow))
		turn_back(flow, "57014", "the timeout of the saga has passed", 0, now);
	if (row->backward)
		plan_backward(flow, now);
	else
		plan_forward(flow, now);
}

static void
saga_answered(DtxFlow *flow, DtxWork *work, TimestampTz now)
{
	DtxStepRow *step = flow->forward[work->index];

	if (work->operation != DTX_OPERATION_ACTION || step->state != DTX_STEP_REFUSED)
		return;
	refused(flow, work->index, now);
}

const DtxPatternRoutine dtx_saga_routine = {
	.prepare = saga_prepare,
	.plan = saga_plan,
	.answered = saga_answered
};

/* -------------------------------------------------------------- submission */

static bool wake_at_commit = false;

static void
wake_callback(XactEvent event, void *arg)
{
	if (!wake_at_commit || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
							event != XACT_EVENT_PREPARE))
		return;
	wake_at_commit = false;
	if (event == XACT_EVENT_COMMIT)
		dtx_flows_wake(dtx_database(MyDatabaseId, false), false);
	else if (event == XACT_EVENT_PREPARE)
		dtx_database(MyDatabaseId, false)->flows_prepared = true;
}

/* When this transaction commits, the workers look at what it wrote. */
void
dtx_flow_wake_at_commit(void)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(wake_callback, NULL);
	registered = wake_at_commit = true;
}

/* What a session must be to submit flows. */
void
dtx_flow_check_session(void)
{
	dtx_require_preload();
	PreventCommandIfReadOnly("submitting a flow");
	PreventCommandDuringRecovery("submitting a flow");
	PreventCommandIfParallelMode("submitting a flow");
	(void) dtx_node_database(true);
}

char *
dtx_flow_check_name(char *gid)
{
	if (gid == NULL)
		return NULL;
	if (gid[0] == '\0' || strlen(gid) > DTX_FLOW_NAME_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("gid must have 1 to %d bytes", DTX_FLOW_NAME_MAX)));
	if (strncmp(gid, "dtx_", 4) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("gid \"%s\" is reserved", gid),
				 errdetail("Names that begin with \"dtx_\" are made by dtx."),
				 errhint("Leave gid out, and one is made; or use a name of your application.")));
	return gid;
}

/* A row for a flow that the current user submits in this transaction. */
DtxFlowRow *
dtx_flow_new_row(DtxPattern pattern, char *name)
{
	DtxFlowRow *row = palloc0(sizeof(DtxFlowRow));

	row->key.xid = U64FromFullTransactionId(GetTopFullTransactionId());
	row->key.nonce = dtx_random64() | DTX_NONCE_FLOW;
	row->life = pg_atomic_read_u64(&dtx_node_database(true)->life);
	row->name = name;
	row->pattern = pattern;
	row->state = DTX_FLOW_RUNNING;
	row->owner = GetUserId();
	row->created_at = GetCurrentTimestamp();
	return row;
}

/* Look once whether dtx is over there; a node that is away may come back. */
static void
check_participant(const DtxKnownNode *known)
{
	DtxNode    *node = dtx_node_state(MyDatabaseId, known->serverid, true);
	MemoryContext caller = CurrentMemoryContext;
	DtxLane    *lane;

	if (node == NULL || node->has_barrier || node->failures > 0)
		return;
	lane = dtx_lane_new(known->serverid, known->name, known->roleid, 0);
	PG_TRY();
	{
		dtx_lane_open(lane);
		node->has_barrier = true;
		dtx_lane_free(lane);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		dtx_lane_free(lane);
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		if (!dtx_sqlstate_is_lost(error->sqlerrcode) || dtx_remote_was_turned_down(error))
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
}

/*
 * May the role run steps on the node?  Keeps the server from being dropped
 * while this transaction runs; afterwards the flow's row does.
 */
Oid
dtx_flow_check_node(const char *name, Oid roleid)
{
	const DtxKnownNode *known = dtx_node_find(name, roleid);

	dtx_node_enter(known);
	dtx_node_register(known->serverid, roleid, false);
	check_participant(known);
	return known->serverid;
}

/* May the role run steps in this database? */
static void
check_local(Oid roleid)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(roleid));
	bool		can_login = HeapTupleIsValid(tuple) &&
		((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (superuser_arg(roleid) && !dtx_allow_superuser_steps)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("local steps of superusers are not allowed"),
				 errdetail("They run in the background with the rights of who submitted them."),
				 errhint("Submit as an ordinary role; a superuser may set dtx.allow_superuser_steps.")));
	if (!can_login)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("role \"%s\" cannot run local steps", GetUserNameFromId(roleid, false)),
				 errdetail("They run in a session of that role, which is not permitted to log in.")));
}

static bool
same_jsonb(Jsonb *a, Jsonb *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return compareJsonbContainers(&a->root, &b->root) == 0;
}

static void
step_context(void *name)
{
	errcontext("step \"%s\" of the saga", (char *) name);
}

static void
check_nodes(DtxFlowRow *row, DtxSagaDefinition *definition)
{
	row->node_count = definition->step_count;
	row->nodes = palloc0(sizeof(Oid) * definition->step_count);
	for (int i = 0; i < definition->step_count; i++)
	{
		DtxSagaStep *step = &definition->steps[i];
		ErrorContextCallback callback = {
			.previous = error_context_stack,
			.callback = step_context,
			.arg = step->name
		};
		bool		seen = false;

		if (step->action == NULL)
			continue;
		error_context_stack = &callback;
		for (int k = 0; k < i && !seen; k++)
		{
			char	   *other = definition->steps[k].node;

			if (definition->steps[k].action == NULL ||
				(step->node == NULL) != (other == NULL) ||
				(other != NULL && strcmp(other, step->node) != 0))
				continue;
			row->nodes[i] = row->nodes[k];
			seen = true;
		}
		if (!seen && step->node == NULL)
			check_local(row->owner);
		else if (!seen)
			row->nodes[i] = dtx_flow_check_node(step->node, row->owner);
		error_context_stack = callback.previous;
	}
}

DtxFlowRow *
dtx_saga_submission(const DtxSubmission *submission, bool *existed)
{
	DtxSagaDefinition *definition;
	DtxFlowRow *row;
	int64		saga = 0;
	Jsonb	   *json = submission->definition;

	dtx_flow_check_session();
	*existed = false;
	if (submission->name != NULL && !dtx_store_saga_newest(submission->name, &saga, &json))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("saga \"%s\" does not exist", submission->name),
				 errhint("dtx.saga_define('%s', definition) makes one.", submission->name)));
	definition = validated(json);
	row = dtx_flow_new_row(DTX_PATTERN_SAGA, dtx_flow_check_name(submission->gid));
	row->saga = saga;
	row->definition = json;
	row->input = submission->input;
	row->due_at = row->created_at;
	if (definition->timeout_ms > 0)
		row->deadline_at = dtx_flow_now() + (int64) definition->timeout_ms * 1000;
	check_nodes(row, definition);
	if (!dtx_store_flow_insert(row))
	{
		DtxFlowRow *other = dtx_store_flow_find(row->name, false);
		Jsonb	   *other_json;

		if (other == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("a flow of gid \"%s\" was submitted at the same time", row->name),
					 errhint("Repeat the transaction.")));
		other_json = other->saga != 0 ? dtx_store_saga(other->saga) : other->definition;
		if (other->pattern != DTX_PATTERN_SAGA || other->owner != row->owner ||
			!same_jsonb(other_json, json) || !same_jsonb(other->input, row->input))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("gid \"%s\" is already used", row->name),
					 errdetail("It names another flow, or the same saga with another definition or input."),
					 errhint("Submitting the same again is accepted, and has no effect.")));
		*existed = true;
		return other;
	}
	if (submission->wake)
		dtx_flow_wake_at_commit();
	return row;
}

static char *
text_argument(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

static Jsonb *
jsonb_argument(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : PG_GETARG_JSONB_P(number);
}

static void
require(bool given, const char *name)
{
	if (!given)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

static Datum
submitted(const DtxSubmission *submission)
{
	bool		existed;
	DtxFlowRow *row = dtx_saga_submission(submission, &existed);
	char		gid[DTX_FLOW_NAME_MAX + 1];

	dtx_flow_gid(row, gid);
	return PointerGetDatum(cstring_to_text(gid));
}

/*
 * dtx.saga_submit(definition, gid, input): submit a saga in this transaction.
 * Returns its gid.  The same gid again with the same definition and input has
 * no effect; with another it is an error (42710).
 */
Datum
dtx_saga_submit(PG_FUNCTION_ARGS)
{
	DtxSubmission submission = {.definition = jsonb_argument(fcinfo, 0),
		.gid = text_argument(fcinfo, 1),.input = jsonb_argument(fcinfo, 2),.wake = true};

	require(submission.definition != NULL, "definition");
	PG_RETURN_DATUM(submitted(&submission));
}

/* dtx.saga_start(name, input, gid): the same with the newest definition of a name. */
Datum
dtx_saga_start(PG_FUNCTION_ARGS)
{
	DtxSubmission submission = {.name = text_argument(fcinfo, 0),
		.input = jsonb_argument(fcinfo, 1),.gid = text_argument(fcinfo, 2),.wake = true};

	require(submission.name != NULL, "name");
	PG_RETURN_DATUM(submitted(&submission));
}

/* dtx.saga_define(name, definition): a new version; returns its number. */
Datum
dtx_saga_define(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0);
	Jsonb	   *definition = jsonb_argument(fcinfo, 1);

	require(name != NULL, "name");
	require(definition != NULL, "definition");
	PreventCommandIfReadOnly("dtx.saga_define()");
	if (name[0] == '\0' || strlen(name) > DTX_FLOW_NAME_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name must have 1 to %d bytes", DTX_FLOW_NAME_MAX)));
	(void) dtx_definition_parse(definition);
	PG_RETURN_INT32(dtx_store_saga_define(name, GetUserId(), definition));
}
