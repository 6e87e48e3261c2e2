/*-------------------------------------------------------------------------
 *
 * flow.c
 *		What people and workers do with flows: the worker that drives them,
 *		sessions that drive one themselves or wait, and operators.
 *
 *		held				-> running, aborting, committing	dtx_retry_now
 *		running, aborting	-> paused, and back					dtx_flow_pause, dtx_flow_resume
 *		running				-> aborting							dtx_saga_compensate
 *		held				-> running							dtx_saga_forward
 *		any that is not over -> committed, aborted				dtx_force_end
 *
 * (1) A verb locks the flow's row, is refused where it makes no sense, and is
 *	   written to dtx.event with who and why.
 * (2) Owners may act on what is theirs, members of dtx_operator on all.
 * (3) A session that drives a flow claims it before it is visible, so that the
 *	   workers leave it alone, and lets go of it whatever happens.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "deadline.h"
#include "executor.h"
#include "fault.h"
#include "guc.h"
#include "launcher.h"
#include "life.h"
#include "node.h"
#include "saga.h"
#include "session.h"
#include "store.h"

/* Advisory locks of SQL have 1 or 2 in this place; a worker's number follows. */
#define LOCK_FLOW_WORKER 0xDB
#define LOCK_TIMEOUT "1s"
/* A worker that waits for a time looks again after this. */
#define LOOK_AGAIN_MS 10000
#define ERROR_PAUSE_MS 200

PG_FUNCTION_INFO_V1(dtx_outcome);
PG_FUNCTION_INFO_V1(dtx_wait);
PG_FUNCTION_INFO_V1(dtx_saga_run);
PG_FUNCTION_INFO_V1(dtx_scan_once);
PG_FUNCTION_INFO_V1(dtx_retry_now);
PG_FUNCTION_INFO_V1(dtx_pause);
PG_FUNCTION_INFO_V1(dtx_resume);
PG_FUNCTION_INFO_V1(dtx_skip_step);
PG_FUNCTION_INFO_V1(dtx_saga_compensate);
PG_FUNCTION_INFO_V1(dtx_saga_forward);
PG_FUNCTION_INFO_V1(dtx_force_end);

/* ----------------------------------------------------------------- worker */

static DtxDatabase *database = NULL;
static int	worker_number = 0;
static int	worker_count = 0;	/* of workers, when it began */
static bool come_again = false;
static DtxExecutor *worker_executor = NULL;
static uint64 submitted_seen = 0;

static void
flow_worker_exit(int code, Datum arg)
{
	bool		again;

	if (code != 0)
		dtx_flows_lose(database);
	SpinLockAcquire(&database->mutex);
	database->flow_pids[worker_number] = 0;
	database->flow_latches[worker_number] = NULL;
	database->worker_count--;
	/* not of its own will, or somebody came while it was about to leave */
	again = code != 0 || come_again || database->flows_submitted != submitted_seen;
	if (again)
		database->flows_wanted = true;
	SpinLockRelease(&database->mutex);
	ConditionVariableBroadcast(&database->changed);
	if (again)
		dtx_launcher_wake();
}

/* Look for work once.  Returns how long there is nothing to do; 0: go on. */
static long
worker_round(void)
{
	static DtxTime last_work = 0;
	TimestampTz next;
	TimestampTz now;

	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (database->stop_count > 0 || database->state != DTX_DATABASE_READY)
		proc_exit(0);
	/* with another number of workers each has other flows */
	if (dtx_workers != worker_count)
	{
		come_again = dtx_workers > 0;
		proc_exit(0);
	}
	submitted_seen = dtx_flows_submitted(database);
	pgstat_report_activity(STATE_RUNNING, "dtx: drives flows");
	if (dtx_executor_round(worker_executor))
	{
		last_work = dtx_now();
		return 0;
	}
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, "dtx: waits for flows");
	if (dtx_executor_busy(worker_executor))
	{
		last_work = dtx_now();
		return LOOK_AGAIN_MS;
	}
	next = dtx_executor_next(worker_executor);
	now = dtx_flow_now();
	if (next != 0 && next <= now)
		return 0;
	if (next == 0)
	{
		if (last_work == 0)
			last_work = dtx_now();
		if (dtx_exceeds(last_work, dtx_now(), (int64) dtx_scanner_idle_timeout_s * 1000))
			proc_exit(0);
		return Min(LOOK_AGAIN_MS, (long) dtx_scanner_idle_timeout_s * 1000);
	}
	last_work = dtx_now();
	return Min(LOOK_AGAIN_MS, (long) ((next - now) / 1000) + 1);
}

void
dtx_flow_worker_main(Datum arg)
{
	Oid			databaseid = DatumGetObjectId(arg);
	LOCKTAG		tag;
	DtxExecutorOptions options = {0};

	memcpy(&worker_number, MyBgworkerEntry->bgw_extra, sizeof(int));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	database = dtx_database(databaseid, false);
	if (database == NULL || database->stop_count > 0)
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(databaseid, InvalidOid, 0);
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, worker_number, LOCK_FLOW_WORKER);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		proc_exit(0);
	SpinLockAcquire(&database->mutex);
	database->flow_pids[worker_number] = MyProcPid;
	database->flow_latches[worker_number] = MyLatch;
	database->worker_count++;
	SpinLockRelease(&database->mutex);
	before_shmem_exit(flow_worker_exit, (Datum) 0);
	/* nobody's open transaction is to stop all others */
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_OVERRIDE);
	/* whatever sessions begin with */
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_OVERRIDE);
	options.database = database;
	options.worker = worker_number;
	options.workers = worker_count = Max(dtx_workers, 1);
	worker_executor = dtx_executor_new(&options);
	for (;;)
	{
		long		timeout_ms = ERROR_PAUSE_MS;

		PG_TRY();
		{
			timeout_ms = worker_round();
		}
		PG_CATCH();
		{
			int			sqlerrcode = geterrcode();

			HOLD_INTERRUPTS();
			EmitErrorReport();
			AbortCurrentTransaction();
			MemoryContextSwitchTo(TopMemoryContext);
			FlushErrorState();
			dtx_executor_reset(worker_executor, sqlerrcode);
			RESUME_INTERRUPTS();
		}
		PG_END_TRY();
		if (timeout_ms > 0)
			dtx_executor_wait(worker_executor, timeout_ms);
	}
}

/* ---------------------------------------------------------------- sessions */

static void
require_non_atomic(FunctionCallInfo fcinfo, const char *what)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot be called in a transaction block", what),
				 errhint("It commits what it submits, and drives it then.")));
}

static char *
text_argument(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

static bool
is_member(const char *role)
{
	Oid			roleid = get_role_oid(role, true);

	return superuser() || (OidIsValid(roleid) && has_privs_of_role(GetUserId(), roleid));
}

static bool
may_see(const DtxFlowRow *row)
{
	return has_privs_of_role(GetUserId(), row->owner) || is_member("dtx_operator") ||
		is_member("dtx_monitor") || is_member("pg_monitor");
}

static void
no_such_flow(const char *gid)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("flow \"%s\" does not exist", gid),
			 errdetail("It was never committed here, or ended longer than dtx.retention ago, or is not yours."),
			 errhint("dtx.transactions shows what you may see.")));
}

/* What became of a flow: what was decided, or how it has ended. */
static DtxOutcome
flow_outcome(const DtxFlowRow *row)
{
	/* what this transaction says is not decided yet */
	if (row->state == DTX_FLOW_RUNNING || dtx_store_flow_is_changed_here(&row->key))
		return DTX_OUTCOME_IN_PROGRESS;
	/* whatever an operator has given up since, it was decided like that */
	if (row->pattern == DTX_PATTERN_TCC)
		return row->backward ? DTX_OUTCOME_ABORTED : DTX_OUTCOME_COMMITTED;
	if (!dtx_flow_is_over(row->state))
		return DTX_OUTCOME_IN_PROGRESS;
	return row->state == DTX_FLOW_COMMITTED ? DTX_OUTCOME_COMMITTED : DTX_OUTCOME_ABORTED;
}

/*
 * dtx.outcome(gid): committed, aborted, in progress or unknown, of a flow that
 * has the gid, else of the transaction.  The answer does not change, apart
 * from "in progress" and "unknown".
 */
Datum
dtx_outcome(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	DtxGid		gid;
	bool		is_made = dtx_gid_parse(name, &gid);
	DtxOutcome	outcome = DTX_OUTCOME_UNKNOWN;
	DtxFlowRow *row;

	if (!is_made && (name[0] == '\0' || strlen(name) > DTX_FLOW_NAME_MAX || strncmp(name, "dtx_", 4) == 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the name of a global transaction of dtx", name),
				 errhint("dtx.current_gid() returns it.")));
	dtx_require_preload();
	if (is_made && RecoveryInProgress())
		outcome = dtx_store_decided(&gid, NULL) ? DTX_OUTCOME_COMMITTED : DTX_OUTCOME_UNKNOWN;
	else if (is_made)
		outcome = dtx_life_outcome(dtx_store_lives(),
								   pg_atomic_read_u64(&dtx_node_database(false)->life), &gid);

	/*
	 * After that: a flow has a row if its transaction has committed, until it
	 * is forgotten; then nobody knows any more.
	 */
	row = dtx_store_flow_find(name, false);
	if (row != NULL && (is_made || may_see(row)))
		outcome = flow_outcome(row);
	else if (is_made && (gid.nonce & DTX_NONCE_FLOW) != 0 && outcome == DTX_OUTCOME_COMMITTED)
		outcome = DTX_OUTCOME_UNKNOWN;
	PG_RETURN_TEXT_P(cstring_to_text(outcome == DTX_OUTCOME_COMMITTED ? "committed" :
									 outcome == DTX_OUTCOME_ABORTED ? "aborted" :
									 outcome == DTX_OUTCOME_IN_PROGRESS ? "in progress" :
									 "unknown"));
}

/*
 * dtx.wait(gid, timeout): wait until a flow is over, or waits for a person, or
 * the time has passed; returns its state then.
 */
Datum
dtx_wait(PG_FUNCTION_ARGS)
{
	char	   *gid;
	int64		timeout_ms = -1;
	DtxTime		begun = dtx_now();
	DtxDatabase *entry;
	DtxFlowRow *row;
	MemoryContext context;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"gid\" must not be null")));
	gid = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (!PG_ARGISNULL(1))
	{
		Interval   *interval = PG_GETARG_INTERVAL_P(1);

		timeout_ms = (interval->time + (interval->day + (int64) interval->month * 30) * USECS_PER_DAY) / 1000;
		if (timeout_ms < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("timeout must not be negative")));
	}
	entry = dtx_node_database(false);
	context = AllocSetContextCreate(CurrentMemoryContext, "dtx wait", ALLOCSET_SMALL_SIZES);
	ConditionVariablePrepareToSleep(&entry->flow_over);
	for (;;)
	{
		MemoryContext old;
		long		pause_ms = 500;

		MemoryContextReset(context);
		old = MemoryContextSwitchTo(context);
		row = dtx_store_flow_find(gid, false);
		MemoryContextSwitchTo(old);
		if (row == NULL || !may_see(row))
		{
			ConditionVariableCancelSleep();
			no_such_flow(gid);
		}
		if (dtx_flow_is_over(row->state) || row->state == DTX_FLOW_HELD)
			break;
		if (TransactionIdIsCurrentTransactionId((TransactionId) row->key.xid) &&
			row->key.xid == U64FromFullTransactionId(GetTopFullTransactionIdIfAny()))
		{
			ConditionVariableCancelSleep();
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("flow \"%s\" was submitted in this transaction", gid),
					 errdetail("Nothing of it is done before that commits."),
					 errhint("COMMIT first.")));
		}
		if (timeout_ms >= 0)
		{
			int64		left_ms = timeout_ms - (dtx_now() - begun) / 1000;

			if (left_ms <= 0)
				break;
			pause_ms = Min(pause_ms, left_ms);
		}
		(void) ConditionVariableTimedSleep(&entry->flow_over, pause_ms, PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
	ConditionVariableCancelSleep();
	PG_RETURN_TEXT_P(cstring_to_text(dtx_flow_state_name(row->state)));
}

/* The session's own executor: its lanes are kept from call to call. */
static DtxExecutor *session_executor = NULL;

/*
 * Drive the claimed flow until it is over, or waits for a person.  "submitted"
 * is its row if this transaction has submitted it: the first round commits it.
 */
static DtxFlowRow *
drive(const DtxFlowKey *key, DtxFlowRow *submitted)
{
	dtx_executor_only(session_executor, key, submitted);
	for (;;)
	{
		DtxFlowRow *row;
		int64		pause_ms;

		CHECK_FOR_INTERRUPTS();
		if (dtx_executor_round(session_executor))
			continue;
		if (dtx_executor_busy(session_executor))
		{
			dtx_executor_wait(session_executor, LOOK_AGAIN_MS);
			continue;
		}
		row = dtx_executor_last(session_executor);
		if (row == NULL)
			row = dtx_store_flow_load(key);
		if (row == NULL || dtx_flow_is_over(row->state) || row->state == DTX_FLOW_HELD || row->paused)
			return row;
		/* it waits for a time */
		pause_ms = row->due_at == 0 ? LOOK_AGAIN_MS : (row->due_at - dtx_flow_now()) / 1000 + 1;
		dtx_executor_only(session_executor, key, NULL);
		if (pause_ms > 0)
			dtx_executor_wait(session_executor, Min(pause_ms, LOOK_AGAIN_MS));
	}
}

/* Is this session driving a flow? */
static bool driving = false;

/* Whatever became of our driving: the workers go on. */
static void
let_workers_drive(const DtxFlowKey *claimed)
{
	if (claimed != NULL)
		dtx_flow_release(claimed);
	driving = false;
	dtx_flows_wake(dtx_database(MyDatabaseId, false), false);
}

/* FATAL passes by every PG_CATCH. */
static void
session_exit(int code, Datum arg)
{
	if (!driving)
		return;
	dtx_flows_lose(dtx_database(MyDatabaseId, false));
	let_workers_drive(NULL);
}

static DtxExecutor *
session_executor_new(void)
{
	static bool registered = false;
	DtxExecutorOptions options = {.database = dtx_node_database(true),.workers = 1,
		.in_procedure = true};

	if (!registered)
		before_shmem_exit(session_exit, (Datum) 0);
	registered = true;
	return dtx_executor_new(&options);
}

/*
 * Somebody drives the flow already: the same was submitted before.  If he
 * leaves it, we drive it ourselves.
 */
static DtxFlowRow *
wait_for_driver(const DtxFlowKey *key, bool *claimed)
{
	DtxDatabase *entry = dtx_node_database(false);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dtx wait", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DtxFlowRow *row;

	ConditionVariablePrepareToSleep(&entry->flow_over);
	for (;;)
	{
		MemoryContextReset(context);
		row = dtx_store_flow_load(key);
		if (row == NULL || dtx_flow_is_over(row->state) || row->state == DTX_FLOW_HELD || row->paused)
			break;
		*claimed = dtx_flow_claim(key);
		if (*claimed)
			break;
		dtx_procedure_commit();
		MemoryContextSwitchTo(context);
		(void) ConditionVariableTimedSleep(&entry->flow_over, 500, PG_WAIT_EXTENSION);
		CHECK_FOR_INTERRUPTS();
	}
	ConditionVariableCancelSleep();
	MemoryContextSwitchTo(old);
	driving = *claimed;
	return *claimed ? drive(key, NULL) : row;
}

/* The business error of a saga that came to nothing, as the step gave it. */
static void
raise_refusal(const DtxFlowRow *row)
{
	char		gid[DTX_FLOW_NAME_MAX + 1];
	const char *sqlstate = row->sqlstate[0] != '\0' ? row->sqlstate : "40000";

	dtx_flow_gid(row, gid);
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3], sqlstate[4])),
			 errmsg("saga was aborted: %s", row->reason ? row->reason : "by an operator"),
			 errdetail("Its gid is \"%s\"; dtx.steps shows what it did, and what of that was undone.", gid)));
}

/*
 * CALL dtx.saga_run(definition, gid, input, name, state): submit a saga,
 * commit, and drive it in this session at once.  Says in which state it
 * ended; raises the error of the step that refused.
 */
Datum
dtx_saga_run(PG_FUNCTION_ARGS)
{
	DtxSubmission submission = {0};
	DtxFlowKey	key;
	DtxFlowRow *row;
	DtxFlowRow	outcome;
	bool		existed;
	bool		claimed;
	Oid			owner = GetUserId();
	TupleDesc	desc;
	Datum		values[1];
	bool		nulls[1] = {false};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext result_context;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	require_non_atomic(fcinfo, "dtx.saga_run()");
	submission.definition = PG_ARGISNULL(0) ? NULL : PG_GETARG_JSONB_P(0);
	submission.gid = text_argument(fcinfo, 1);
	submission.input = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	submission.name = text_argument(fcinfo, 3);
	if ((submission.definition == NULL) == (submission.name == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("either a definition or the name of one must be given")));
	BlessTupleDesc(desc);
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	row = dtx_saga_submission(&submission, &existed);
	key = row->key;
	claimed = dtx_flow_claim(&key);
	PG_TRY();
	{
		if (session_executor == NULL)
			session_executor = session_executor_new();
		driving = claimed;
		if (claimed && !existed)
			row = drive(&key, row);
		else
		{
			dtx_procedure_commit();
			row = claimed ? drive(&key, NULL) : wait_for_driver(&key, &claimed);
		}
	}
	PG_CATCH();
	{
		if (session_executor != NULL)
			dtx_executor_reset(session_executor, 0);
		let_workers_drive(claimed ? &key : NULL);
		PG_RE_THROW();
	}
	PG_END_TRY();
	driving = false;
	if (claimed)
		dtx_flow_release(&key);
	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the saga has vanished")));
	result_context = MemoryContextSwitchTo(caller);
	values[0] = CStringGetTextDatum(dtx_flow_state_name(row->state));
	outcome = *row;
	outcome.name = row->name ? pstrdup(row->name) : NULL;
	outcome.reason = row->reason ? pstrdup(row->reason) : NULL;
	MemoryContextSwitchTo(result_context);
	/* connections of another role are not left to this session */
	if (owner != GetSessionUserId())
	{
		dtx_executor_free(session_executor);
		session_executor = NULL;
	}
	if (outcome.state == DTX_FLOW_ABORTED)
		raise_refusal(&outcome);
	/* what the caller does next is in a transaction as he wants it */
	if (XactIsoLevel != DefaultXactIsoLevel)
		SPI_commit();
	SPI_finish();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/*
 * CALL dtx.scan_once(horizon, answers): drive all flows that are due, or will
 * be within the horizon, in this session by the code of the workers, until
 * nothing is left to do now.  Says how many operations were answered.
 */
Datum
dtx_scan_once(PG_FUNCTION_ARGS)
{
	DtxExecutorOptions options = {.workers = 1,.in_procedure = true};
	DtxExecutor *executor;
	TupleDesc	desc;
	Datum		values[1];
	bool		nulls[1] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	require_non_atomic(fcinfo, "dtx.scan_once()");
	PreventCommandIfReadOnly("dtx.scan_once()");
	options.database = dtx_node_database(true);
	if (!PG_ARGISNULL(0))
	{
		Interval   *interval = PG_GETARG_INTERVAL_P(0);

		options.horizon_ms = (interval->time +
							  (interval->day + (int64) interval->month * 30) * USECS_PER_DAY) / 1000;
	}
	BlessTupleDesc(desc);
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	executor = dtx_executor_new(&options);
	PG_TRY();
	{
		dtx_procedure_commit();
		for (;;)
		{
			CHECK_FOR_INTERRUPTS();
			if (dtx_executor_round(executor))
				continue;
			if (!dtx_executor_busy(executor))
				break;
			dtx_executor_wait(executor, LOOK_AGAIN_MS);
		}
	}
	PG_CATCH();
	{
		dtx_executor_free(executor);
		PG_RE_THROW();
	}
	PG_END_TRY();
	values[0] = Int64GetDatum(dtx_executor_answers(executor));
	dtx_executor_free(executor);
	SPI_commit();
	SPI_finish();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* --------------------------------------------------------------- operators */

typedef struct Verb
{
	const char *name;			/* as in messages */
	const char *gid;
	const char *note;
	DtxFlowRow *row;
} Verb;

static void
require_note(const char *note)
{
	if (note == NULL || note[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a note is required"),
				 errhint("Say why: it is kept in dtx.event.")));
}

/* Lock the flow for an operator's act, if he may (2). */
static Verb
begin_verb(FunctionCallInfo fcinfo, const char *name, int note_argument)
{
	Verb		verb = {.name = name};

	verb.gid = text_argument(fcinfo, 0);
	verb.note = text_argument(fcinfo, note_argument);
	if (verb.gid == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"gid\" must not be null")));
	require_note(verb.note);
	PreventCommandIfReadOnly(name);
	(void) dtx_node_database(false);
	verb.row = dtx_store_flow_find(verb.gid, true);
	if (verb.row == NULL || !may_see(verb.row))
		no_such_flow(verb.gid);
	if (!has_privs_of_role(GetUserId(), verb.row->owner) && !is_member("dtx_operator"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for flow \"%s\"", verb.gid),
				 errhint("Its owner and members of dtx_operator may act on it.")));
	return verb;
}

static void
refuse(const Verb *verb, const char *why, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s flow \"%s\"", verb->name, verb->gid),
			 errdetail("It is in state \"%s\"%s%s.", dtx_flow_state_name(verb->row->state),
					   why ? ": " : "", why ? why : ""),
			 hint ? errhint("%s", hint) : 0));
}

static void
refuse_if_over(const Verb *verb)
{
	if (dtx_flow_is_over(verb->row->state))
		refuse(verb, NULL, NULL);
}

static bool changed_at_commit = false;

static void
changed_callback(XactEvent event, void *arg)
{
	if (!changed_at_commit || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT))
		return;
	changed_at_commit = false;
	if (event == XACT_EVENT_COMMIT)
	{
		DtxDatabase *entry = dtx_database(MyDatabaseId, false);

		dtx_flows_wake(entry, true);
		ConditionVariableBroadcast(&entry->flow_over);
	}
}

static void
end_verb(const Verb *verb, int step, const char *event, const char *detail)
{
	static bool registered = false;
	const char *actor = GetUserNameFromId(GetSessionUserId(), false);

	dtx_store_flow_change(verb->row);
	if (verb->row->state != DTX_FLOW_HELD)
		dtx_store_flow_alerts_over(verb->row);
	dtx_store_flow_event(actor, verb->row, step, event,
						 detail ? psprintf("%s: %s", detail, verb->note) : verb->note);
	ereport(LOG,
			(errmsg("dtx: flow \"%s\": %s by \"%s\": %s", verb->gid, event, actor, verb->note)));
	if (!registered)
		RegisterXactCallback(changed_callback, NULL);
	registered = changed_at_commit = true;
}

/* The state in which a flow goes on that was held. */
static DtxFlowState
going_on(const DtxFlowRow *row)
{
	if (row->backward)
		return DTX_FLOW_ABORTING;
	return row->pattern == DTX_PATTERN_TCC ? DTX_FLOW_COMMITTING : DTX_FLOW_RUNNING;
}

static void
move(const Verb *verb, DtxFlowState state)
{
	DtxFlowRow *row = verb->row;

	if (row->state != state)
		dtx_flow_check_move(row->pattern, row->state, state, verb->gid);
	row->state = state;
	row->due_at = dtx_flow_is_over(state) || row->paused ? 0 : dtx_flow_now();
	if (dtx_flow_is_over(state))
		row->finished_at = GetCurrentTimestamp();
}

/* Write steps that an operator has changed. */
static void
write_steps(DtxFlowRow *row, List *steps)
{
	List	   *writes = NIL;
	ListCell   *cell;

	foreach(cell, steps)
	{
		DtxStepWrite *write = palloc0(sizeof(DtxStepWrite));

		write->key = row->key;
		write->row = lfirst(cell);
		writes = lappend(writes, write);
	}
	if (writes != NIL)
		dtx_store_flow_record(writes, NIL);
}

/* What waits or is held is tried now, its attempts counted anew. */
static void
retry_steps(DtxFlowRow *row)
{
	List	   *steps = NIL;
	ListCell   *cell;

	foreach(cell, row->steps)
	{
		DtxStepRow *step = lfirst(cell);

		if (step->state != DTX_STEP_PENDING && step->state != DTX_STEP_HELD)
			continue;
		if (step->state == DTX_STEP_HELD)
			step->attempt_count = 0;
		step->state = DTX_STEP_PENDING;
		step->next_at = 0;
		steps = lappend(steps, step);
	}
	write_steps(row, steps);
}

/* dtx.retry_now(gid, note): what waits, or is held, is tried again at once. */
Datum
dtx_retry_now(PG_FUNCTION_ARGS)
{
	Verb		verb = begin_verb(fcinfo, "retry", 1);

	refuse_if_over(&verb);
	if (verb.row->paused)
		refuse(&verb, "it is paused", "Call dtx.resume first.");
	if (verb.row->pattern == DTX_PATTERN_TCC && verb.row->state == DTX_FLOW_RUNNING)
		refuse(&verb, "it waits for its application", "dtx.tcc_confirm or dtx.tcc_cancel decides.");
	retry_steps(verb.row);
	if (verb.row->state == DTX_FLOW_HELD)
	{
		move(&verb, going_on(verb.row));
		if (!verb.row->backward)
		{
			verb.row->reason = NULL;
			verb.row->sqlstate[0] = '\0';
		}
	}
	verb.row->due_at = dtx_flow_now();
	end_verb(&verb, 0, "retry now", NULL);
	PG_RETURN_VOID();
}

/* dtx.pause(gid, note): nothing more is sent until dtx.resume. */
Datum
dtx_pause(PG_FUNCTION_ARGS)
{
	Verb		verb = begin_verb(fcinfo, "pause", 1);

	refuse_if_over(&verb);
	if (verb.row->paused)
		refuse(&verb, "it is paused already", NULL);
	if (verb.row->state == DTX_FLOW_HELD)
		refuse(&verb, "nothing is sent of it anyhow", NULL);
	verb.row->paused = true;
	verb.row->due_at = 0;
	end_verb(&verb, 0, "paused", NULL);
	PG_RETURN_VOID();
}

/* dtx.resume(gid, note) */
Datum
dtx_resume(PG_FUNCTION_ARGS)
{
	Verb		verb = begin_verb(fcinfo, "resume", 1);

	refuse_if_over(&verb);
	if (!verb.row->paused)
		refuse(&verb, "it is not paused", verb.row->state == DTX_FLOW_HELD ? "Call dtx.retry_now." : NULL);
	verb.row->paused = false;
	verb.row->due_at = verb.row->state == DTX_FLOW_HELD ? 0 : dtx_flow_now();
	end_verb(&verb, 0, "resumed", NULL);
	PG_RETURN_VOID();
}

/* The number of a step by its name in the definition, or by its number. */
static int
find_step(const Verb *verb, const char *name)
{
	DtxFlowRow *row = verb->row;

	if (row->pattern == DTX_PATTERN_SAGA)
	{
		DtxSagaDefinition *definition = dtx_definition_load(row->saga != 0 ? dtx_store_saga(row->saga) :
															row->definition);

		for (int i = 0; i < definition->step_count; i++)
			if (strcmp(definition->steps[i].name, name) == 0)
				return i + 1;
	}
	else
	{
		ListCell   *cell;

		foreach(cell, row->steps)
			if (((DtxStepRow *) lfirst(cell))->operation == DTX_OPERATION_TRY &&
				strcmp(psprintf("%d", ((DtxStepRow *) lfirst(cell))->step), name) == 0)
				return ((DtxStepRow *) lfirst(cell))->step;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("flow \"%s\" has no step \"%s\"", verb->gid, name),
			 errhint("dtx.branches shows its steps.")));
}

/*
 * A try of a transaction that is over, which its node does not let us end, as a
 * rule because its cancel is refused: no flow has it, and the scanner is at it.
 * False if it is not about one.
 */
static bool
skip_try(const char *name, const char *step, const char *note)
{
	DtxGid		gid;
	const char *actor;
	char	   *end;
	long		number;

	if (name == NULL || step == NULL || !dtx_gid_parse(name, &gid) || gid.branch != 0)
		return false;
	number = strtol(step, &end, 10);
	if (*end != '\0' || number < 1 || number > INT_MAX - DTX_TRY_BRANCH || !is_member("dtx_operator"))
		return false;
	require_note(note);
	PreventCommandIfReadOnly("dtx.skip_step()");
	(void) dtx_node_database(false);
	actor = GetUserNameFromId(GetSessionUserId(), false);
	gid.branch = DTX_TRY_BRANCH + (int) number;
	if (!dtx_store_try_skip(&gid, psprintf("skipped by %s: %s", actor, note)))
		return false;
	dtx_store_event(actor, &gid, "step skipped", psprintf("try \"%s\": %s", step, note));
	ereport(LOG,
			(errmsg("dtx: try %s of \"%s\" is skipped by \"%s\": %s", step, name, actor, note)));
	return true;
}

/*
 * dtx.skip_step(gid, step, result, note): the step counts as settled, with
 * that result, whatever became of it over there: the action while the saga
 * goes forward, the compensation on its way back.
 */
Datum
dtx_skip_step(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 1);
	Verb		verb;
	DtxFlowRow *row;
	DtxStepRow *step = NULL;
	DtxOperation operation;
	int			number;
	ListCell   *cell;

	if (skip_try(text_argument(fcinfo, 0), name, text_argument(fcinfo, 3)))
		PG_RETURN_VOID();
	verb = begin_verb(fcinfo, "skip a step of", 3);
	row = verb.row;
	operation = row->pattern == DTX_PATTERN_TCC ?
		(row->backward ? DTX_OPERATION_CANCEL : DTX_OPERATION_CONFIRM) :
		(row->backward ? DTX_OPERATION_COMPENSATION : DTX_OPERATION_ACTION);
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"step\" must not be null")));
	refuse_if_over(&verb);
	if (row->pattern == DTX_PATTERN_TCC && row->state == DTX_FLOW_RUNNING)
		refuse(&verb, "it is not decided yet", NULL);
	number = find_step(&verb, name);
	foreach(cell, row->steps)
		if (((DtxStepRow *) lfirst(cell))->step == number &&
			((DtxStepRow *) lfirst(cell))->operation == operation)
			step = lfirst(cell);
	if (step == NULL)
	{
		/* a refusal has left nothing, and what was not sent neither */
		if (operation == DTX_OPERATION_COMPENSATION && !dtx_saga_is_to_undo(row, number))
			refuse(&verb, psprintf("nothing of step \"%s\" is to be compensated", name),
				   "dtx.steps shows what was done.");
		step = palloc0(sizeof(DtxStepRow));
		step->step = number;
		step->operation = operation;
		step->state = DTX_STEP_PENDING;
		row->steps = lappend(row->steps, step);
	}
	if (step->state != DTX_STEP_PENDING && step->state != DTX_STEP_HELD)
		refuse(&verb, psprintf("%s of step \"%s\" is %s", dtx_operation_name(operation), name,
							   dtx_step_state_name(step->state)), NULL);
	step->state = DTX_STEP_SKIPPED;
	step->answered_at = GetCurrentTimestamp();
	step->next_at = 0;
	/* says that it was no condition that skipped it: on the way back it is undone */
	step->error = psprintf("skipped by %s: %s", GetUserNameFromId(GetSessionUserId(), false), verb.note);
	step->result = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	write_steps(row, list_make1(step));
	if (row->state == DTX_FLOW_HELD)
	{
		/* others may be held as well */
		bool		held = false;

		foreach(cell, row->steps)
			held = held || ((DtxStepRow *) lfirst(cell))->state == DTX_STEP_HELD;
		if (!held)
			move(&verb, going_on(row));
	}
	else if (!row->paused)
		row->due_at = dtx_flow_now();
	end_verb(&verb, number, "step skipped", psprintf("%s \"%s\"", dtx_operation_name(operation), name));
	PG_RETURN_VOID();
}

static void
refuse_unless_saga(const Verb *verb)
{
	if (verb->row->pattern != DTX_PATTERN_SAGA)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("flow \"%s\" is not a saga", verb->gid)));
}

/* dtx.saga_compensate(gid, note): turn a saga back. */
Datum
dtx_saga_compensate(PG_FUNCTION_ARGS)
{
	Verb		verb = begin_verb(fcinfo, "compensate", 1);
	DtxFlowRow *row = verb.row;

	refuse_unless_saga(&verb);
	refuse_if_over(&verb);
	if (row->backward)
		refuse(&verb, "it is on its way back already",
			   row->state == DTX_FLOW_HELD ? "Call dtx.retry_now, dtx.skip_step or dtx.force_end." : NULL);
	move(&verb, DTX_FLOW_ABORTING);
	row->backward = true;
	row->insist = false;
	strlcpy(row->sqlstate, "57014", sizeof(row->sqlstate));
	row->reason = psprintf("turned back by %s: %s", GetUserNameFromId(GetSessionUserId(), false), verb.note);
	end_verb(&verb, 0, "turned back", NULL);
	PG_RETURN_VOID();
}

/*
 * dtx.saga_forward(gid, note): go forward whatever it takes: refusals are
 * retried, and no timeout turns the saga back.
 */
Datum
dtx_saga_forward(PG_FUNCTION_ARGS)
{
	Verb		verb = begin_verb(fcinfo, "drive forward", 1);
	DtxFlowRow *row = verb.row;
	List	   *steps = NIL;
	ListCell   *cell;

	refuse_unless_saga(&verb);
	refuse_if_over(&verb);
	if (row->insist && !row->backward && row->state != DTX_FLOW_HELD)
		refuse(&verb, "it goes forward already", NULL);
	/* also what is on its way just now, and has no row yet */
	if (row->backward)
		refuse(&verb, "something may be compensated already",
			   "What is undone cannot be done again under the same gid: let it end, and submit it anew.");
	foreach(cell, row->steps)
	{
		DtxStepRow *step = lfirst(cell);

		if (step->state == DTX_STEP_REFUSED || step->state == DTX_STEP_HELD)
		{
			dtx_step_check_move(step->state, DTX_STEP_PENDING);
			if (step->state == DTX_STEP_HELD)
				step->attempt_count = 0;
			step->state = DTX_STEP_PENDING;
			step->next_at = 0;
			steps = lappend(steps, step);
		}
	}
	write_steps(row, steps);
	row->insist = true;
	move(&verb, DTX_FLOW_RUNNING);
	row->reason = NULL;
	row->sqlstate[0] = '\0';
	end_verb(&verb, 0, "driven forward", NULL);
	PG_RETURN_VOID();
}

/*
 * dtx.force_end(gid, state, note): give a flow up, as committed or aborted.
 * What is not done or not undone then stays so.
 */
Datum
dtx_force_end(PG_FUNCTION_ARGS)
{
	Verb		verb = begin_verb(fcinfo, "end", 2);
	char	   *wanted = text_argument(fcinfo, 1);
	DtxFlowState state;

	if (wanted != NULL && strcmp(wanted, "committed") == 0)
		state = DTX_FLOW_COMMITTED;
	else if (wanted != NULL && strcmp(wanted, "aborted") == 0)
		state = DTX_FLOW_ABORTED;
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid state \"%s\"", wanted ? wanted : "null"),
				 errhint("It is \"committed\" or \"aborted\".")));
	refuse_if_over(&verb);
	if (verb.row->pattern == DTX_PATTERN_TCC && verb.row->state == DTX_FLOW_RUNNING)
		refuse(&verb, "it is not decided yet", "Call dtx.tcc_confirm or dtx.tcc_cancel.");
	/* whatever is on its way may still be answered: it changes nothing here */
	if (verb.row->state != DTX_FLOW_HELD)
	{
		verb.row->state = DTX_FLOW_HELD;
	}
	verb.row->paused = false;
	move(&verb, state);
	verb.row->reason = psprintf("ended by %s: %s", GetUserNameFromId(GetSessionUserId(), false), verb.note);
	end_verb(&verb, 0, "forced to end", wanted);
	PG_RETURN_VOID();
}
