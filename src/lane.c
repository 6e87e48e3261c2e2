/*-------------------------------------------------------------------------
 *
 * lane.c
 *		Where batches of operations go: a participant, as a role.
 *
 *		closed	-> ready	dtx_lane_open
 *		ready	-> busy		dtx_lane_send
 *		busy	-> ready	dtx_lane_get
 *		any		-> closed	dtx_lane_close
 *
 *		A lane to a server is a connection with the role's user mapping, on
 *		which batches are calls of dtx.apply.  A lane to this database is a
 *		worker that is connected as the role: queues in shared memory carry
 *		the same batches to the same code.
 *
 * (1) What an owner has submitted runs in a session of that owner, here as
 *	   there: a trigger that is deferred, too.
 * (2) A lane has one batch out.  If its answer does not come, nobody knows
 *	   what became of it: the lane is closed, and asked again later.
 * (3) Nobody but the worker's own batch is hurt when it dies.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "libpq/pqformat.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/shm_mq.h"
#include "storage/shm_toc.h"
#include "tcop/tcopprot.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "compat.h"
#include "fault.h"
#include "guc.h"
#include "lane.h"
#include "launcher.h"
#include "shmem.h"
#include "store.h"

#define QUEUE_SIZE (256 * 1024)
#define QUEUE_MAGIC 0xD7F10E01
/* So often an idle worker looks whether it has to leave. */
#define LOOK_UP_MS 500

/* The bare procedure call that a participant must have. */
#define APPLY_SIGNATURE \
	"dtx.apply(bigint,xid8,integer,xid8[],bigint[],integer[],text[],integer[],text[],text[]," \
	"text[],integer[],text[],integer[],text[])"

struct DtxLocalWorker
{
	BackgroundWorkerHandle *handle;
	dsm_segment *segment;
	shm_mq_handle *requests;
	shm_mq_handle *answers;
	StringInfoData pending;		/* what is being sent */
	bool		sending;
	char	   *answer;
	Size		answer_length;
};

typedef struct WorkerArgument
{
	dsm_handle	segment;
	Oid			roleid;
} WorkerArgument;

/* -------------------------------------------------------------- strings */

/* Add an element to an array as text, "{" having been written. */
void
dtx_append_element(StringInfo array, const char *value)
{
	if (array->len > 1)
		appendStringInfoChar(array, ',');
	if (value == NULL)
	{
		appendStringInfoString(array, "NULL");
		return;
	}
	appendStringInfoChar(array, '"');
	for (const char *c = value; *c != '\0'; c++)
	{
		if (*c == '"' || *c == '\\')
			appendStringInfoChar(array, '\\');
		appendStringInfoChar(array, *c);
	}
	appendStringInfoChar(array, '"');
}

static void
begin_array(StringInfo array)
{
	initStringInfo(array);
	appendStringInfoChar(array, '{');
}

static void
end_array(StringInfo sql, StringInfo array)
{
	appendStringInfoChar(array, '}');
	appendStringInfo(sql, ", %s", quote_literal_cstr(array->data));
	pfree(array->data);
}

static void
append_number(StringInfo array, int64 value)
{
	appendStringInfo(array, "%s" INT64_FORMAT, array->len > 1 ? "," : "", value);
}

/* The call that has a participant apply a batch. */
char *
dtx_apply_string(uint64 lineage, uint64 watermark, int budget_ms, const DtxApply *requests, int count)
{
	StringInfoData sql;
	StringInfoData array[11];
	int			text_count = 0;
	const char **texts = palloc(sizeof(char *) * Max(count, 1));

	initStringInfo(&sql);
	appendStringInfo(&sql, "CALL dtx.apply(" INT64_FORMAT ", '" UINT64_FORMAT "', %d",
					 (int64) lineage, watermark, budget_ms);
	for (int i = 0; i < lengthof(array); i++)
		begin_array(&array[i]);
	for (int i = 0; i < count; i++)
	{
		const DtxApply *request = &requests[i];
		int			which = 0;

		/* the same statement goes once */
		for (int k = 0; request->sql != NULL && which == 0 && k < text_count; k++)
			if (texts[k] == request->sql || strcmp(texts[k], request->sql) == 0)
				which = k + 1;
		if (request->sql != NULL && which == 0)
		{
			texts[text_count++] = request->sql;
			which = text_count;
			dtx_append_element(&array[7], request->sql);
		}
		append_number(&array[0], (int64) request->key.xid);
		append_number(&array[1], (int64) request->key.nonce);
		append_number(&array[2], request->step);
		dtx_append_element(&array[3], dtx_operation_name(request->operation));
		append_number(&array[4], request->attempt);
		dtx_append_element(&array[5], request->gid);
		dtx_append_element(&array[6], request->name);
		append_number(&array[8], which);
		dtx_append_element(&array[9], request->arguments);
		append_number(&array[10], request->timeout_ms);
	}
	for (int i = 0; i < lengthof(array); i++)
		end_array(&sql, &array[i]);
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

/* Take apart what came back: four texts for each operation. */
void
dtx_applied_parse(const char *from, DtxApplied *answers, int count)
{
	Datum		array = OidInputFunctionCall(F_ARRAY_IN, unconstify(char *, from), TEXTOID, -1);
	Datum	   *values;
	bool	   *nulls;
	int			value_count;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &values, &nulls, &value_count);
	if (value_count != 4 * count)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("dtx.apply gave %d answers to %d operations", value_count / 4, count)));
	for (int i = 0; i < count; i++)
	{
		DtxApplied *answer = &answers[i];
		char	   *value[4];

		for (int k = 0; k < 4; k++)
			value[k] = nulls[4 * i + k] ? NULL : TextDatumGetCString(values[4 * i + k]);
		if (value[0] == NULL || !dtx_verdict_parse(value[0], &answer->verdict))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("dtx.apply answered \"%s\"", value[0] ? value[0] : "null")));
		strlcpy(answer->sqlstate, value[1] ? value[1] : "", sizeof(answer->sqlstate));
		answer->message = value[2];
		answer->result = value[3];
	}
}

/* ---------------------------------------------------------- local workers */

static void
put_text(StringInfo buffer, const char *value)
{
	int			length = value ? (int) strlen(value) : -1;

	appendBinaryStringInfo(buffer, (char *) &length, sizeof(length));
	if (value != NULL)
		appendBinaryStringInfo(buffer, value, length + 1);
}

static const char *
get_text(const char **place)
{
	int			length;
	const char *value = NULL;

	memcpy(&length, *place, sizeof(length));
	*place += sizeof(length);
	if (length >= 0)
	{
		value = *place;
		*place += length + 1;
	}
	return value;
}

/* What precedes a batch. */
typedef struct BatchHeader
{
	uint64		lineage;
	uint64		watermark;
	int			budget_ms;
	int			count;
} BatchHeader;

/* The numbers of one operation. */
typedef struct BatchItem
{
	DtxFlowKey	key;
	int			step;
	int			operation;
	int			attempt;
	int			timeout_ms;
} BatchItem;

/* One answer, or with verdict UNKNOWN and count 0 the batch's error. */
typedef struct AnswerItem
{
	int			verdict;
	char		sqlstate[8];
} AnswerItem;

static void
write_batch(StringInfo buffer, uint64 lineage, uint64 watermark, int budget_ms,
			const DtxApply *requests, int count)
{
	BatchHeader header = {lineage, watermark, budget_ms, count};

	resetStringInfo(buffer);
	appendBinaryStringInfo(buffer, (char *) &header, sizeof(header));
	for (int i = 0; i < count; i++)
	{
		BatchItem	item = {requests[i].key, requests[i].step, requests[i].operation,
		requests[i].attempt, requests[i].timeout_ms};

		appendBinaryStringInfo(buffer, (char *) &item, sizeof(item));
		put_text(buffer, requests[i].gid);
		put_text(buffer, requests[i].name);
		put_text(buffer, requests[i].sql);
		put_text(buffer, requests[i].arguments);
	}
}

static DtxApply *
read_batch(const char *data, BatchHeader *header)
{
	DtxApply   *requests;

	memcpy(header, data, sizeof(BatchHeader));
	data += sizeof(BatchHeader);
	requests = palloc0(sizeof(DtxApply) * header->count);
	for (int i = 0; i < header->count; i++)
	{
		BatchItem	item;

		memcpy(&item, data, sizeof(item));
		data += sizeof(item);
		requests[i].key = item.key;
		requests[i].step = item.step;
		requests[i].operation = item.operation;
		requests[i].attempt = item.attempt;
		requests[i].timeout_ms = item.timeout_ms;
		requests[i].gid = get_text(&data);
		requests[i].name = get_text(&data);
		requests[i].sql = get_text(&data);
		requests[i].arguments = get_text(&data);
	}
	return requests;
}

static void
write_answer(StringInfo buffer, const DtxApplied *answer)
{
	AnswerItem	item = {0};

	item.verdict = answer->verdict;
	strlcpy(item.sqlstate, answer->sqlstate, sizeof(item.sqlstate));
	appendBinaryStringInfo(buffer, (char *) &item, sizeof(item));
	put_text(buffer, answer->message);
	put_text(buffer, answer->result);
}

static const char *
read_answer(const char *data, DtxApplied *answer)
{
	AnswerItem	item;
	const char *text;

	memcpy(&item, data, sizeof(item));
	data += sizeof(item);
	answer->verdict = item.verdict;
	strlcpy(answer->sqlstate, item.sqlstate, sizeof(answer->sqlstate));
	answer->message = (text = get_text(&data)) ? pstrdup(text) : NULL;
	answer->result = (text = get_text(&data)) ? pstrdup(text) : NULL;
	return data;
}

static void
start_worker(DtxLane *lane)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	DtxLocalWorker *worker = palloc0(sizeof(DtxLocalWorker));
	BackgroundWorker description;
	WorkerArgument argument;
	shm_toc_estimator estimator;
	shm_toc    *toc;
	Size		size;

	initStringInfo(&worker->pending);
	shm_toc_initialize_estimator(&estimator);
	shm_toc_estimate_chunk(&estimator, QUEUE_SIZE);
	shm_toc_estimate_chunk(&estimator, QUEUE_SIZE);
	shm_toc_estimate_keys(&estimator, 2);
	size = shm_toc_estimate(&estimator);
	worker->segment = dsm_create(size, 0);
	dsm_pin_mapping(worker->segment);
	toc = shm_toc_create(QUEUE_MAGIC, dsm_segment_address(worker->segment), size);
	for (int i = 0; i < 2; i++)
	{
		shm_mq	   *queue = shm_mq_create(shm_toc_allocate(toc, QUEUE_SIZE), QUEUE_SIZE);

		shm_toc_insert(toc, i, queue);
		if (i == 0)
			shm_mq_set_sender(queue, MyProc);
		else
			shm_mq_set_receiver(queue, MyProc);
	}

	dtx_worker_describe(&description, "dtx_local_worker_main", "dtx local worker", MyDatabaseId);
	argument.segment = dsm_segment_handle(worker->segment);
	argument.roleid = lane->roleid;
	memcpy(description.bgw_extra, &argument, sizeof(argument));
	if (!RegisterDynamicBackgroundWorker(&description, &worker->handle))
	{
		dsm_detach(worker->segment);
		pfree(worker->pending.data);
		pfree(worker);
		MemoryContextSwitchTo(old);
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("no room for a worker that runs local steps"),
				 errhint("Raise max_worker_processes.")));
	}
	worker->requests = shm_mq_attach(shm_toc_lookup(toc, 0, false), worker->segment, worker->handle);
	worker->answers = shm_mq_attach(shm_toc_lookup(toc, 1, false), worker->segment, worker->handle);
	lane->worker = worker;
	MemoryContextSwitchTo(old);
}

static void
stop_worker(DtxLane *lane)
{
	DtxLocalWorker *worker = lane->worker;

	if (worker == NULL)
		return;
	lane->worker = NULL;
	/* it sees its queue detached, or is told while it works */
	if (lane->busy)
		TerminateBackgroundWorker(worker->handle);
	dsm_detach(worker->segment);
	pfree(worker->handle);
	pfree(worker->pending.data);
	if (worker->answer != NULL)
		pfree(worker->answer);
	pfree(worker);
}

/* Go on with sending, then look for an answer. */
static DtxAnswer
poll_worker(DtxLane *lane)
{
	DtxLocalWorker *worker = lane->worker;
	void	   *data;
	shm_mq_result result;

	if (worker == NULL)
		return DTX_ANSWER_UNKNOWN;
	if (worker->answer != NULL)
		return DTX_ANSWER_THERE;
	if (worker->sending)
	{
		result = DTX_SHM_MQ_SEND(worker->requests, worker->pending.len, worker->pending.data);
		if (result == SHM_MQ_DETACHED)
			return DTX_ANSWER_UNKNOWN;
		worker->sending = result == SHM_MQ_WOULD_BLOCK;
	}
	result = shm_mq_receive(worker->answers, &worker->answer_length, &data, true);
	if (result == SHM_MQ_DETACHED)
		return DTX_ANSWER_UNKNOWN;
	if (result == SHM_MQ_WOULD_BLOCK)
		return DTX_ANSWER_NONE;
	worker->answer = MemoryContextAlloc(TopMemoryContext, Max(worker->answer_length, 1));
	memcpy(worker->answer, data, worker->answer_length);
	return DTX_ANSWER_THERE;
}

static void
get_from_worker(DtxLane *lane, DtxApplied *answers)
{
	DtxLocalWorker *worker = lane->worker;
	const char *data = worker->answer;
	int			count;

	memcpy(&count, data, sizeof(count));
	data += sizeof(count);
	if (count == lane->count)
	{
		for (int i = 0; i < count; i++)
			data = read_answer(data, &answers[i]);
		pfree(worker->answer);
		worker->answer = NULL;
	}
	else
	{
		DtxApplied	error;

		(void) read_answer(data, &error);
		pfree(worker->answer);
		worker->answer = NULL;
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE(error.sqlstate[0], error.sqlstate[1], error.sqlstate[2],
									   error.sqlstate[3], error.sqlstate[4])),
				 errmsg_internal("%s", error.message ? error.message : "local worker failed")));
	}
}

/* Apply one batch in a transaction of its own; what came of it into buffer. */
static void
serve_batch(const char *data, StringInfo buffer)
{
	MemoryContext context = CurrentMemoryContext;
	BatchHeader header;
	DtxApply   *requests = read_batch(data, &header);
	DtxApplied *answers = palloc0(sizeof(DtxApplied) * header.count);

	resetStringInfo(buffer);
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		MemoryContextSwitchTo(context);
		debug_query_string = requests[0].sql;
		pgstat_report_activity(STATE_RUNNING, requests[0].sql ? requests[0].sql : "dtx: applies");
		dtx_barrier_apply(header.lineage, header.watermark, header.budget_ms, requests,
						  header.count, answers);
		DTX_FAULT("local_before_commit");
		CommitTransactionCommand();
		DTX_FAULT("local_committed");
		MemoryContextSwitchTo(context);
		appendBinaryStringInfo(buffer, (char *) &header.count, sizeof(int));
		for (int i = 0; i < header.count; i++)
			write_answer(buffer, &answers[i]);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		DtxApplied	answer = {0};
		int			count = -1;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		/* who is told to go goes */
		if (ProcDiePending)
			PG_RE_THROW();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(context);
		resetStringInfo(buffer);
		answer.verdict = DTX_VERDICT_UNKNOWN;
		strlcpy(answer.sqlstate, unpack_sql_state(error->sqlerrcode), sizeof(answer.sqlstate));
		answer.message = error->message;
		appendBinaryStringInfo(buffer, (char *) &count, sizeof(int));
		write_answer(buffer, &answer);
	}
	PG_END_TRY();
	debug_query_string = NULL;
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, "dtx: waits for steps");
}

static DtxDatabase *worker_database = NULL;

static void
local_worker_exit(int code, Datum arg)
{
	SpinLockAcquire(&worker_database->mutex);
	worker_database->worker_count--;
	SpinLockRelease(&worker_database->mutex);
	ConditionVariableBroadcast(&worker_database->changed);
}

/*
 * Wait for a batch.  False if none will come, if none has come for long, or if
 * the database is needed without us.
 */
static bool
wait_for_batch(shm_mq_handle *requests, Size *length, void **data)
{
	DtxTime		begun = dtx_now();

	for (;;)
	{
		shm_mq_result result = shm_mq_receive(requests, length, data, true);

		if (result != SHM_MQ_WOULD_BLOCK)
			return result == SHM_MQ_SUCCESS;
		if (worker_database->stop_count > 0 || dtx_exceeds(begun, dtx_now(), DTX_LOCAL_IDLE_MS))
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_UP_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Applies batches as the role that it is connected as (1). */
void
dtx_local_worker_main(Datum arg)
{
	Oid			databaseid = DatumGetObjectId(arg);
	WorkerArgument argument;
	dsm_segment *segment;
	shm_toc    *toc;
	shm_mq	   *queue;
	shm_mq_handle *requests;
	shm_mq_handle *answers;
	MemoryContext batch_context;
	StringInfoData buffer;

	memcpy(&argument, MyBgworkerEntry->bgw_extra, sizeof(argument));
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	worker_database = dtx_database(databaseid, false);
	if (worker_database == NULL)
		proc_exit(0);
	SpinLockAcquire(&worker_database->mutex);
	worker_database->worker_count++;
	SpinLockRelease(&worker_database->mutex);
	before_shmem_exit(local_worker_exit, (Datum) 0);
	if (worker_database->stop_count > 0)
		proc_exit(0);

	CurrentResourceOwner = ResourceOwnerCreate(NULL, "dtx local worker");
	segment = dsm_attach(argument.segment);
	if (segment == NULL)
		proc_exit(0);
	dsm_pin_mapping(segment);
	toc = shm_toc_attach(QUEUE_MAGIC, dsm_segment_address(segment));
	if (toc == NULL)
		proc_exit(0);
	queue = shm_toc_lookup(toc, 0, false);
	shm_mq_set_receiver(queue, MyProc);
	requests = shm_mq_attach(queue, segment, NULL);
	queue = shm_toc_lookup(toc, 1, false);
	shm_mq_set_sender(queue, MyProc);
	answers = shm_mq_attach(queue, segment, NULL);

	/* the session's user is who submitted */
	BackgroundWorkerInitializeConnectionByOid(databaseid, argument.roleid, 0);
	SetConfigOption("application_name", "dtx local worker", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", psprintf("%d", dtx_branch_lock_timeout_ms),
					PGC_USERSET, PGC_S_OVERRIDE);
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		SetConfigOption("synchronous_commit", "on", PGC_USERSET, PGC_S_OVERRIDE);
	batch_context = AllocSetContextCreate(TopMemoryContext, "dtx batch", ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&buffer);
	for (;;)
	{
		Size		length;
		void	   *data;

		MemoryContextSwitchTo(batch_context);
		MemoryContextReset(batch_context);
		initStringInfo(&buffer);
		if (!wait_for_batch(requests, &length, &data))
			break;
		serve_batch(data, &buffer);
		if (DTX_SHM_MQ_SEND_WAIT(answers, buffer.len, buffer.data) != SHM_MQ_SUCCESS)
			break;
	}
	proc_exit(0);
}

/* ------------------------------------------------------------------ lanes */

DtxLane *
dtx_lane_new(Oid serverid, const char *node, Oid roleid, int number)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	DtxLane    *lane = palloc0(sizeof(DtxLane));

	lane->serverid = serverid;
	lane->roleid = roleid;
	lane->number = number;
	lane->used_at = dtx_now();
	MemoryContextSwitchTo(old);
	if (OidIsValid(serverid))
	{
		lane->connection = dtx_remote_new(serverid, node, roleid, "dtxflow");
		lane->node = lane->connection->state;
	}
	return lane;
}

/*
 * Open a lane, in a transaction of the caller's.  Raises what is wrong with
 * the node, the role's mapping, or dtx over there.
 */
void
dtx_lane_open(DtxLane *lane)
{
	DtxConnection *connection = lane->connection;
	DtxResult	result;
	char	   *value;

	if (connection == NULL)
	{
		stop_worker(lane);
		start_worker(lane);
		lane->ready = true;
		return;
	}
	if (connection->open && !connection->stale && !connection->waiting && lane->ready)
		return;
	lane->ready = false;
	dtx_remote_connect(connection);
	/* a batch must not wait for a lock for ever; a step has its own time limit */
	dtx_remote_run(connection,
				   psprintf("SELECT CASE WHEN pg_catalog.to_regprocedure('" APPLY_SIGNATURE "') IS NULL THEN 'no' ELSE"
							" pg_catalog.concat(pg_catalog.set_config('lock_timeout', '%d', false),"
							" pg_catalog.set_config('statement_timeout', '0', false),"
							" pg_catalog.set_config('default_transaction_read_only', 'off', false),"
							" CASE WHEN pg_catalog.current_setting('synchronous_commit') IN ('off', 'local') THEN"
							" pg_catalog.set_config('synchronous_commit', 'on', false) END,"
							" pg_catalog.set_config('application_name', 'dtx flow', false)) END",
							dtx_branch_lock_timeout_ms), &result);
	value = dtx_result_value(&result, 0);
	if (!dtx_remote_drain(connection))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to node \"%s\"", connection->node)));
	if (value == NULL || strcmp(value, "no") == 0)
	{
		dtx_remote_close(connection);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension dtx is not installed in the database of node \"%s\", or is too old there",
						connection->node),
				 errdetail("Sagas and TCC need its barrier there, which sees to it that nothing is applied twice."),
				 errhint("In that database: CREATE EXTENSION dtx CASCADE, or ALTER EXTENSION dtx UPDATE.")));
	}
	lane->ready = true;
}

/* Send a batch; false if that is impossible.  Does not wait. */
bool
dtx_lane_send(DtxLane *lane, uint64 lineage, uint64 watermark, int budget_ms,
			  const DtxApply *requests, int count)
{
	bool		sent;

	lane->count = count;
	lane->used_at = dtx_now();
	if (lane->connection != NULL)
	{
		char	   *sql = dtx_apply_string(lineage, watermark, budget_ms, requests, count);

		sent = dtx_remote_send(lane->connection, sql, 1);
		pfree(sql);
	}
	else
	{
		write_batch(&lane->worker->pending, lineage, watermark, budget_ms, requests, count);
		lane->worker->sending = true;
		sent = poll_worker(lane) != DTX_ANSWER_UNKNOWN;
	}
	lane->busy = sent;
	return sent;
}

DtxAnswer
dtx_lane_poll(DtxLane *lane)
{
	return lane->connection != NULL ? dtx_remote_poll(lane->connection) : poll_worker(lane);
}

/*
 * Take the answers in, one for each operation that was sent, into the current
 * memory context; in a transaction of the caller's.  Raises the error of the
 * batch as a whole.
 */
void
dtx_lane_get(DtxLane *lane, DtxApplied *answers)
{
	lane->busy = false;
	lane->used_at = dtx_now();
	if (lane->connection != NULL)
	{
		DtxResult	result;
		char	   *value;

		dtx_remote_get(lane->connection, NULL, CurrentMemoryContext, &result);
		value = dtx_result_value(&result, 0);
		if (result.rows != NULL)
			tuplestore_end(result.rows);
		if (!dtx_remote_drain(lane->connection) || value == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("lost connection to node \"%s\"", lane->connection->node)));
		dtx_applied_parse(value, answers, lane->count);
	}
	else
		get_from_worker(lane, answers);
}

/* Does not throw. */
void
dtx_lane_close(DtxLane *lane)
{
	lane->ready = false;
	if (lane->connection != NULL)
		dtx_remote_close(lane->connection);
	else
		stop_worker(lane);
	lane->busy = false;
}

void
dtx_lane_free(DtxLane *lane)
{
	dtx_lane_close(lane);
	if (lane->connection != NULL)
		dtx_remote_free(lane->connection);
	pfree(lane);
}

/* Can a batch be sent?  A worker that had nothing to do has left. */
bool
dtx_lane_is_open(DtxLane *lane)
{
	pid_t		pid;

	if (!lane->ready)
		return false;
	if (lane->connection != NULL)
		return lane->connection->open && !lane->connection->stale;
	return lane->worker != NULL &&
		GetBackgroundWorkerPid(lane->worker->handle, &pid) != BGWH_STOPPED;
}

/* What to wait on for an answer; a worker sets the latch. */
pgsocket
dtx_lane_socket(DtxLane *lane)
{
	return lane->connection != NULL && lane->connection->open ? lane->connection->socket : PGINVALID_SOCKET;
}
