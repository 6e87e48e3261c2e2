/*-------------------------------------------------------------------------
 *
 * executor.c
 *		Drives flows to their end: takes those that are due, has their
 *		patterns say what is to be done, sends it in batches, and writes down
 *		what was answered.
 *
 *		A flow is in the table, or in memory here:
 *
 *		due			-> claimed		fetch: nobody else drives it
 *		claimed		-> planned		plan: what is to be done next
 *		planned		-> queued		enqueue: when that is committed
 *		queued		-> out			send: in a batch for its node
 *		out			-> planned		take_answers
 *		planned		-> let go		nothing is to be done before a later time
 *
 * (1) A round is one local transaction: the answers that have come, what
 *	   follows from them for their flows, and the rows of all that.  What
 *	   follows is sent when it has committed.
 * (2) No transaction is open while a node is waited for.
 * (3) Nodes do not wait for each other.  One that is out of reach is not
 *	   tried here, where connecting could block: the scanner does that.
 * (4) In a batch nothing may take long; what does is given back and goes
 *	   alone, on a connection of its own.
 * (5) A claim is a lock of the session that drives: it ends with that.  What
 *	   is driven was read, or found unchanged, after it was claimed, or was
 *	   submitted by the transaction of the same round.
 * (6) A round that fails drops all that is in memory: it is in the tables.
 * (7) Nothing is sent before what it follows from is flushed, and has reached
 *	   the synchronous standbys, whatever synchronous_commit says here, and
 *	   said where it was submitted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "deadline.h"
#include "executor.h"
#include "fault.h"
#include "guc.h"
#include "lane.h"
#include "saga.h"
#include "store.h"

/* Advisory locks of SQL have 1 or 2 in this place. */
#define LOCK_FLOW 0xDA
/* Flows in memory at a time. */
#define WINDOW 480
/* Fetched at a time. */
#define FETCH_MAX 240
/* Between two looks at synchronous standbys that lag behind. */
#define REPLICATION_PAUSE_MS 5
/* A subtransaction cache has room for so many (64). */
#define BATCH_MAX 60
/* Connections for operations that are too slow for a batch, per node and role. */
#define SLOW_LANES 4
/* A flow that somebody else drives is looked at again after this. */
#define CLAIMED_PAUSE_MS 100
/* What was changed under our hands: an operator may still hold its row. */
#define CHANGED_PAUSE_MS 10
/* What could not be written. */
#define TROUBLE_PAUSE_MS 1000
/* After so many rounds without trouble flows are taken together again. */
#define CALM_ROUNDS 50
/* A flow that makes a round fail whenever it is looked at. */
#define UNREADABLE_PAUSE_MS 60000
/* A connection, likewise. */
#define LANE_IDLE_MS 60000
/* Between two looks at the watermark, and at what else is not urgent. */
#define WATERMARK_PAUSE_MS 10000
/* An answer that is this late will not come. */
#define ANSWER_GRACE_MS 5000

/* Flows that were read together, in one memory context. */
typedef struct Generation
{
	MemoryContext context;
	int			count;
} Generation;

/* A flow that is not to be fetched for a while. */
typedef struct Avoided
{
	DtxFlowKey	key;
	DtxTime		until;
} Avoided;

struct DtxExecutor
{
	DtxExecutorOptions options;
	MemoryContext context;		/* for as long as the executor */
	MemoryContext round_context;
	List	   *flows;			/* of DtxFlow */
	List	   *lanes;			/* of DtxLane */
	List	   *avoided;		/* of Avoided */
	DtxFlowRow *submitted;		/* in this round's transaction, by the caller */
	Generation *last;			/* what was driven for the caller, and its row */
	DtxFlowRow *last_row;
	List	   *rules;			/* of DtxErrorRule; NIL: to be read */
	uint64		rules_seen;		/* their version */
	MemoryContext rules_context;
	bool		fetch_due;
	bool		more_due;		/* there were more than were taken */
	bool		one_at_a_time;	/* a round has failed: find out by which */
	int			calm_rounds;	/* since then */
	uint64		submitted_seen;
	uint64		changed_seen;
	uint64		watermark;
	DtxTime		watermark_at;
	XLogRecPtr	read_until;		/* what was read is in WAL before this */
	int64		answers;
	TimestampTz next_due;		/* in the table; 0: none known */
};

/* ----------------------------------------------------------------- claims */

static void
flow_tag(LOCKTAG *tag, const DtxFlowKey *key)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (key->nonce >> 32), (uint32) key->nonce, LOCK_FLOW);
}

/* Nobody else drives it from now on; false if somebody does. */
bool
dtx_flow_claim(const DtxFlowKey *key)
{
	LOCKTAG		tag;

	flow_tag(&tag, key);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

void
dtx_flow_release(const DtxFlowKey *key)
{
	LOCKTAG		tag;

	flow_tag(&tag, key);
	if (DTX_LOCK_HELD(&tag, ExclusiveLock))
		LockRelease(&tag, ExclusiveLock, true);
}

/* ----------------------------------------------------------- transactions */

static void
begin(DtxExecutor *executor)
{
	if (!executor->options.in_procedure)
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
	}
	MemoryContextSwitchTo(executor->round_context);
}

/*
 * Commit in a procedure, and go on.  The next transaction is ours: it sees what
 * others commit meanwhile, whatever the session begins with.
 */
void
dtx_procedure_commit(void)
{
	SPI_commit();
	XactIsoLevel = XACT_READ_COMMITTED;
}

static void
commit(DtxExecutor *executor)
{
	if (executor->options.in_procedure)
		dtx_procedure_commit();
	else
		CommitTransactionCommand();
	MemoryContextSwitchTo(executor->round_context);
}

/* ------------------------------------------------------------------ lanes */

static DtxLane *
find_lane(DtxExecutor *executor, Oid serverid, Oid roleid, bool alone)
{
	DtxLane    *best = NULL;
	int			count = 0;
	ListCell   *cell;
	MemoryContext old;
	char	   *node = NULL;

	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);

		if (lane->serverid != serverid || lane->roleid != roleid || (lane->number > 0) != alone)
			continue;
		count++;
		if (best == NULL || list_length(lane->queue) + lane->busy <
			list_length(best->queue) + best->busy)
			best = lane;
	}
	if (best != NULL && (!alone || (best->queue == NIL && !best->busy) || count >= SLOW_LANES))
		return best;
	if (OidIsValid(serverid))
	{
		ForeignServer *server = GetForeignServerExtended(serverid, FSV_MISSING_OK);

		if (server == NULL)
			return NULL;
		node = server->servername;
	}
	best = dtx_lane_new(serverid, node, roleid, alone ? count + 1 : 0);
	old = MemoryContextSwitchTo(executor->context);
	executor->lanes = lappend(executor->lanes, best);
	MemoryContextSwitchTo(old);
	return best;
}

static void
fill_unknown(DtxApplied *applied, const char *sqlstate, const char *message)
{
	memset(applied, 0, sizeof(DtxApplied));
	applied->verdict = DTX_VERDICT_UNKNOWN;
	strlcpy(applied->sqlstate, sqlstate, sizeof(applied->sqlstate));
	applied->message = message ? pstrdup(message) : NULL;
}

/* Nobody knows what became of these; a worker's round is in a transaction. */
static void
give_up(DtxExecutor *executor, List **works, const char *sqlstate, const char *message)
{
	TimestampTz now = dtx_flow_now();
	DtxApplied	applied;
	ListCell   *cell;

	fill_unknown(&applied, sqlstate, message);
	foreach(cell, *works)
	{
		DtxWork    *work = lfirst(cell);

		if (work->flow != NULL)
			dtx_flow_answer(work, &applied, executor->rules, now);
	}
	list_free(*works);
	*works = NIL;
}

/*
 * A lane's node has failed.  What was out, and what waits for it, is unknown
 * or not tried; the scanner finds out when it is back.
 */
static void
lane_failed(DtxExecutor *executor, DtxLane *lane, ErrorData *error)
{
	char		text[DTX_ERROR_SIZE];

	dtx_lane_close(lane);
	snprintf(text, sizeof(text), "%s%s%s", error->message, error->detail ? ": " : "",
			 error->detail ? error->detail : "");
	text[strcspn(text, "\n")] = '\0';
	/* a role that is turned down is not the trouble of others */
	if (lane->node != NULL && dtx_sqlstate_is_lost(error->sqlerrcode) &&
		!dtx_remote_was_turned_down(error))
	{
		dtx_node_failed(lane->node, text, dtx_max_backoff_s * 1000);
		dtx_node_uncertain(lane->node);
		dtx_database_wake(executor->options.database);
	}
	give_up(executor, &lane->batch, unpack_sql_state(error->sqlerrcode), text);
	give_up(executor, &lane->queue, unpack_sql_state(error->sqlerrcode), text);
}

/* Run something that may fail, and only for this lane. */
static ErrorData *
guarded(DtxExecutor *executor, void (*what) (DtxLane *lane, void *argument), DtxLane *lane, void *argument)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		what(lane, argument);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		/* somebody wants to stop us */
		if (ProcDiePending || (error->sqlerrcode == ERRCODE_QUERY_CANCELED && !dtx_deadline_passed()))
		{
			MemoryContextSwitchTo(caller);
			CurrentResourceOwner = owner;
			dtx_deadline_stop();
			ReThrowError(error);
		}
		dtx_deadline_stop();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return error;
}

static void
open_lane(DtxLane *lane, void *argument)
{
	dtx_lane_open(lane);
}

static void
get_answers(DtxLane *lane, void *argument)
{
	dtx_deadline_start(ANSWER_GRACE_MS);
	dtx_lane_get(lane, argument);
	dtx_deadline_stop();
}

static bool
some_lane_is_closed(DtxExecutor *executor)
{
	ListCell   *cell;

	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);

		if (lane->queue != NIL && !lane->busy && !dtx_lane_is_open(lane))
			return true;
	}
	return false;
}

/* Open what has work; in a transaction. */
static void
open_lanes(DtxExecutor *executor)
{
	ListCell   *cell;

	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);
		ErrorData  *error;

		if (lane->queue == NIL || lane->busy || dtx_lane_is_open(lane))
			continue;
		if (lane->node != NULL && lane->node->failures > 0)
		{
			ErrorData	away = {0};

			away.sqlerrcode = ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;
			away.message = psprintf("node \"%s\" cannot be reached", lane->connection->node);
			away.detail = pstrdup(lane->node->last_error);
			dtx_lane_close(lane);
			give_up(executor, &lane->queue, "08001", psprintf("%s: %s", away.message, away.detail));
			dtx_node_uncertain(lane->node);
			dtx_database_wake(executor->options.database);
			continue;
		}
		error = guarded(executor, open_lane, lane, NULL);
		if (error != NULL)
			lane_failed(executor, lane, error);
		else if (lane->node != NULL)
		{
			lane->node->has_barrier = true;
			if (lane->node->reached_at == 0)
				dtx_node_reached(lane->node);
		}
	}
}

/* May be sent what follows from what was read? (7) */
static bool
is_safe(DtxExecutor *executor)
{
	if (executor->read_until != InvalidXLogRecPtr && dtx_is_replicated(executor->read_until))
		executor->read_until = InvalidXLogRecPtr;
	return executor->read_until == InvalidXLogRecPtr;
}

/* How many connections there are for what is slow there. */
static int
count_slow(DtxExecutor *executor, const DtxLane *like)
{
	int			count = 0;
	ListCell   *cell;

	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);

		if (lane->serverid == like->serverid && lane->roleid == like->roleid && lane->number > 0)
			count++;
	}
	return count;
}

/* Send to every lane that is free, outside of a transaction. */
static bool
send_batches(DtxExecutor *executor)
{
	bool		sent = false;
	ListCell   *cell;

	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);
		int			max = lane->number > 0 || lane->single ? 1 : BATCH_MAX;
		int			count = 0;
		int			longest_ms = 0;
		bool		unlimited = false;
		DtxApply   *requests;

		if (lane->queue == NIL || lane->busy || !dtx_lane_is_open(lane))
			continue;
		requests = palloc0(sizeof(DtxApply) * max);
		while (lane->queue != NIL && count < max)
		{
			DtxWork    *work = linitial(lane->queue);
			DtxApply   *request = &requests[count];
			MemoryContext old;

			lane->queue = list_delete_first(lane->queue);
			if (work->flow == NULL)
				continue;
			request->key = work->key;
			request->step = work->step;
			request->operation = work->operation;
			request->attempt = 1 + (work->operation == DTX_OPERATION_COMPENSATION || work->operation == DTX_OPERATION_CANCEL ?
									(work->flow->backward[work->index] ? work->flow->backward[work->index]->attempt_count : 0) :
									(work->flow->forward[work->index] ? work->flow->forward[work->index]->attempt_count : 0));
			request->gid = work->flow->gid;
			request->name = work->name;
			request->sql = work->sql;
			request->arguments = work->arguments;
			request->timeout_ms = work->timeout_ms;
			/* nobody could step aside for those behind it */
			work->limited = lane->number == 0 && count_slow(executor, lane) >= SLOW_LANES &&
				(work->timeout_ms == 0 || work->timeout_ms > dtx_batch_budget_ms);
			if (work->limited)
				request->timeout_ms = dtx_batch_budget_ms;
			unlimited = unlimited || work->timeout_ms == 0;
			longest_ms = Max(longest_ms, work->timeout_ms);
			work->sent_at = GetCurrentTimestamp();
			old = MemoryContextSwitchTo(executor->context);
			lane->batch = lappend(lane->batch, work);
			MemoryContextSwitchTo(old);
			count++;
		}
		if (count == 0)
			continue;
		DTX_FAULT("flow_before_send");
		if (count > 1)
		{
			unlimited = false;
			longest_ms = 2 * dtx_batch_budget_ms;
		}
		/* a lock may be waited for, too */
		lane->deadline = unlimited ? DTX_NEVER :
			dtx_later(dtx_now(), (int64) longest_ms + dtx_branch_lock_timeout_ms + ANSWER_GRACE_MS);
		if (!dtx_lane_send(lane, executor->options.database->lineage, executor->watermark,
						   dtx_batch_budget_ms, requests, count))
			lane->deadline = 0;	/* it is lost: the next round sees to it */
		lane->busy = true;
		lane->answer = DTX_ANSWER_NONE;
		sent = true;
		DTX_FAULT("flow_sent");
	}
	return sent;
}

/* Is a single operation on the lane of batches about to hold up others? */
static bool
is_held_up(DtxExecutor *executor, const DtxLane *lane)
{
	return lane->busy && lane->number == 0 && lane->queue != NIL && list_length(lane->batch) == 1 &&
		count_slow(executor, lane) < SLOW_LANES;
}

static void
queue_again(DtxExecutor *executor, DtxWork *work, bool alone)
{
	DtxLane    *lane;
	MemoryContext old;

	work->alone = work->alone || alone;
	lane = find_lane(executor, work->serverid, work->roleid, work->alone);
	if (lane == NULL)
		lane = work->lane;
	old = MemoryContextSwitchTo(executor->context);
	lane->queue = lappend(lane->queue, work);
	MemoryContextSwitchTo(old);
}

/*
 * What was sent without others has no time limit of a batch.  When others come
 * after it, and it takes longer, then its lane becomes one for what is slow,
 * and they get another one (4); in a transaction.
 */
static void
divert(DtxExecutor *executor)
{
	DtxTime		now = dtx_now();
	ListCell   *cell;
	List	   *lanes = list_copy(executor->lanes);

	foreach(cell, lanes)
	{
		DtxLane    *lane = lfirst(cell);
		List	   *queue;
		ListCell   *work_cell;

		if (!is_held_up(executor, lane) || !dtx_exceeds(lane->used_at, now, dtx_batch_budget_ms))
			continue;
		lane->number = count_slow(executor, lane) + 1;
		queue = lane->queue;
		lane->queue = NIL;
		foreach(work_cell, queue)
		{
			DtxWork    *work = lfirst(work_cell);

			if (work->flow != NULL)
				queue_again(executor, work, false);
		}
		list_free(queue);
	}
}

/* Has a batch been answered?  What was seen once is so. */
static DtxAnswer
look_at_lane(DtxLane *lane)
{
	if (lane->deadline == 0)
		return DTX_ANSWER_UNKNOWN;
	if (lane->answer != DTX_ANSWER_THERE)
		lane->answer = dtx_lane_poll(lane);
	return lane->answer;
}

/* Take in what has come; in a transaction.  True if something has. */
static bool
take_answers(DtxExecutor *executor)
{
	bool		moved = false;
	ListCell   *cell;
	List	   *lanes = list_copy(executor->lanes);

	foreach(cell, lanes)
	{
		DtxLane    *lane = lfirst(cell);
		DtxApplied *answers;
		ErrorData  *error;
		TimestampTz now;
		List	   *batch;
		ListCell   *work_cell;

		if (!lane->busy)
			continue;
		switch (look_at_lane(lane))
		{
			case DTX_ANSWER_NONE:
				if (dtx_now() <= lane->deadline)
					continue;
				/* FALLTHROUGH */
			case DTX_ANSWER_UNKNOWN:
				{
					ErrorData	lost = {0};

					lost.sqlerrcode = ERRCODE_CONNECTION_FAILURE;
					lost.message = lane->connection != NULL ?
						psprintf("node \"%s\" did not answer", lane->connection->node) :
						pstrdup("the worker for local steps has ended");
					if (lane->connection == NULL)
						lost.detail = psprintf("It is connected as role \"%s\"; see the server's log",
											   GetUserNameFromId(lane->roleid, true) ?
											   GetUserNameFromId(lane->roleid, true) : "");
					lane_failed(executor, lane, &lost);
					moved = true;
					continue;
				}
			case DTX_ANSWER_THERE:
				break;
		}
		moved = true;
		answers = palloc0(sizeof(DtxApplied) * lane->count);
		error = guarded(executor, get_answers, lane, answers);
		DTX_FAULT("flow_answered");
		now = dtx_flow_now();
		if (error != NULL)
		{
			/* the node's own words about the batch: try them one by one */
			if (!dtx_sqlstate_is_lost(error->sqlerrcode) && !lane->single &&
				list_length(lane->batch) > 1 &&
				(lane->connection == NULL || dtx_remote_drain(lane->connection)))
			{
				MemoryContext old = MemoryContextSwitchTo(executor->context);

				lane->busy = false;
				lane->single = true;
				lane->queue = list_concat(lane->batch, lane->queue);
				lane->batch = NIL;
				MemoryContextSwitchTo(old);
				continue;
			}
			if (!dtx_sqlstate_is_lost(error->sqlerrcode) &&
				(lane->connection == NULL || dtx_remote_drain(lane->connection)))
			{
				lane->busy = false;
				give_up(executor, &lane->batch, unpack_sql_state(error->sqlerrcode), error->message);
				continue;
			}
			lane_failed(executor, lane, error);
			continue;
		}
		if (lane->queue == NIL)
			lane->single = false;
		batch = lane->batch;
		lane->batch = NIL;
		foreach(work_cell, batch)
		{
			DtxWork    *work = lfirst(work_cell);
			DtxApplied *answer = &answers[foreach_current_index(work_cell)];

			executor->answers++;
			if (work->flow == NULL)
				continue;
			if (work->limited && answer->verdict == DTX_VERDICT_FAILED && strcmp(answer->sqlstate, "57014") == 0)
				answer->verdict = DTX_VERDICT_SLOW;
			if (answer->verdict == DTX_VERDICT_SLOW || answer->verdict == DTX_VERDICT_GIVEN_BACK)
				queue_again(executor, work, answer->verdict == DTX_VERDICT_SLOW);
			else
				dtx_flow_answer(work, answer, executor->rules, now);
		}
		list_free(batch);
	}
	return moved;
}

/* ------------------------------------------------------------------ flows */

static void
forget_last(DtxExecutor *executor)
{
	if (executor->last != NULL)
		MemoryContextDelete(executor->last->context);
	executor->last = NULL;
	executor->last_row = NULL;
}

static void
let_go(DtxExecutor *executor, DtxFlow *flow)
{
	Generation *generation = flow->generation;

	Assert(flow->out_count == 0);
	executor->flows = list_delete_ptr(executor->flows, flow);
	generation->count--;
	if (executor->options.only != NULL)
	{
		/* its caller wants to know how it has ended */
		forget_last(executor);
		executor->last = generation;
		executor->last_row = flow->stale ? NULL : flow->row;
		return;
	}
	dtx_flow_release(&flow->row->key);
	if (generation->count == 0)
		MemoryContextDelete(generation->context);
}

static void
avoid(DtxExecutor *executor, const DtxFlowKey *key, int pause_ms)
{
	MemoryContext old = MemoryContextSwitchTo(executor->context);
	Avoided    *avoided = palloc(sizeof(Avoided));

	avoided->key = *key;
	avoided->until = dtx_later(dtx_now(), pause_ms);
	executor->avoided = lappend(executor->avoided, avoided);
	MemoryContextSwitchTo(old);
}

static void
release_from(List *rows, int first)
{
	ListCell   *cell;

	for_each_from(cell, rows, first)
		dtx_flow_release(&((DtxFlowRow *) lfirst(cell))->key);
}

/*
 * Claim what was read; what somebody else drives is left out.  So is what he
 * has driven on and let go between our reading and our claim: to send by an
 * old row would apply what he was refused, in a flow that is over.
 */
static List *
claim_all(DtxExecutor *executor, List *rows)
{
	List	   *claimed = NIL;
	List	   *changed;
	ListCell   *cell;

	foreach(cell, rows)
	{
		DtxFlowRow *row = lfirst(cell);

		if (dtx_flow_claim(&row->key))
			claimed = lappend(claimed, row);
		else
			avoid(executor, &row->key, CLAIMED_PAUSE_MS);
	}
	if (claimed == NIL)
		return NIL;
	PG_TRY();
	{
		DTX_FAULT("flow_claimed");
		changed = dtx_store_flows_changed(claimed);
	}
	PG_CATCH();
	{
		release_from(claimed, 0);
		PG_RE_THROW();
	}
	PG_END_TRY();
	foreach(cell, changed)
	{
		DtxFlowRow *row = lfirst(cell);

		claimed = list_delete_ptr(claimed, row);
		dtx_flow_release(&row->key);
		avoid(executor, &row->key, CHANGED_PAUSE_MS);
	}
	return claimed;
}

/* What is due within the horizon is due now. */
static void
hurry(DtxFlowRow *row, TimestampTz until)
{
	TimestampTz now = dtx_flow_now();
	ListCell   *cell;

	foreach(cell, row->steps)
	{
		DtxStepRow *step = lfirst(cell);

		if (step->next_at <= until)
			step->next_at = 0;
	}
	if (row->deadline_at != 0 && row->deadline_at <= until)
		row->deadline_at = Min(row->deadline_at, now);
}

/*
 * Where the last record ends.  The next one begins behind the header of a page
 * that is not there yet, if that one has filled its page.
 */
static XLogRecPtr
end_of_wal(void)
{
	XLogRecPtr	next = GetXLogInsertRecPtr();

	if (next % XLOG_BLCKSZ == SizeOfXLogShortPHD ||
		XLogSegmentOffset(next, wal_segment_size) == SizeOfXLogLongPHD)
		next -= next % XLOG_BLCKSZ;
	return next;
}

/* The commit of this transaction waits until it is flushed and replicated. */
static void
commit_durably(void)
{
	ForceSyncCommit();
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		(void) set_config_option("synchronous_commit", "on", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
}

/* Take flows that are due into memory; in a transaction. */
static bool
fetch(DtxExecutor *executor)
{
	TimestampTz until = dtx_flow_now() + executor->options.horizon_ms * 1000;
	MemoryContext context;
	MemoryContext old;
	Generation *generation;
	List	   *rows = NIL;
	List	   *except = NIL;
	ListCell   *cell;
	int			limit = Min(FETCH_MAX, WINDOW - list_length(executor->flows));
	bool		is_submitted = false;
	DtxTime		now = dtx_now();

	if (executor->one_at_a_time)
		limit = Min(limit, 1 - list_length(executor->flows));
	if (limit <= 0)
		return false;
	foreach(cell, executor->avoided)
	{
		Avoided    *avoided = lfirst(cell);

		if (avoided->until <= now)
		{
			executor->avoided = foreach_delete_current(executor->avoided, cell);
			pfree(avoided);
		}
		else
			except = lappend(except, &avoided->key);
	}
	foreach(cell, executor->flows)
		except = lappend(except, &((DtxFlow *) lfirst(cell))->row->key);

	context = AllocSetContextCreate(executor->context, "dtx flows", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	if (executor->submitted != NULL)
	{
		rows = list_make1(executor->submitted);
		executor->submitted = NULL;
		is_submitted = true;
	}
	else if (executor->options.only != NULL)
	{
		DtxFlowRow *row = executor->flows == NIL ? dtx_store_flow_load(executor->options.only) : NULL;

		if (row != NULL && row->due_at != 0 && row->due_at <= until)
			rows = list_make1(row);
	}
	else
		rows = dtx_store_flows_due(until, executor->options.worker, executor->options.workers,
								   limit, except);
	if (rows != NIL && executor->options.only == NULL)
		DTX_FAULT("flow_read");
	generation = palloc0(sizeof(Generation));
	generation->context = context;
	executor->more_due = executor->options.only == NULL && list_length(rows) >= limit;
	if (executor->options.only == NULL)
		rows = claim_all(executor, rows);
	foreach(cell, rows)
	{
		DtxFlowRow *row = lfirst(cell);
		DtxFlow    *flow;
		MemoryContext list_context;

		if (executor->options.horizon_ms > 0)
			hurry(row, until);
		PG_TRY();
		{
			flow = dtx_flow_make(row, context);
		}
		PG_CATCH();
		{
			/* one that nobody can read must not stop the others */
			avoid(executor, &row->key, UNREADABLE_PAUSE_MS);
			if (executor->options.only == NULL)
				release_from(rows, foreach_current_index(cell));
			if (generation->count == 0)
				MemoryContextDelete(context);
			PG_RE_THROW();
		}
		PG_END_TRY();
		flow->generation = generation;
		generation->count++;
		list_context = MemoryContextSwitchTo(executor->context);
		executor->flows = lappend(executor->flows, flow);
		MemoryContextSwitchTo(list_context);
	}
	MemoryContextSwitchTo(old);
	if (generation->count == 0)
	{
		MemoryContextDelete(context);
		return false;
	}
	/* who submitted, or drove it before, may not have waited for that (7) */
	if (is_submitted)
		commit_durably();
	else
	{
		executor->read_until = end_of_wal();
		XLogFlush(executor->read_until);
	}
	return true;
}

/*
 * Flows of which nothing is out: what is next?  In a transaction.  Those that
 * are over, or wait for a time, are to be let go after the record.
 */
static void
plan(DtxExecutor *executor, TimestampTz now)
{
	ListCell   *cell;

	foreach(cell, executor->flows)
	{
		DtxFlow    *flow = lfirst(cell);
		DtxFlowRow *row = flow->row;
		MemoryContext old;

		if (flow->stale)
			continue;
		/* nothing has changed for it */
		if (flow->out_count > 0 && flow->steps == NIL && !flow->changed &&
			(row->deadline_at == 0 || row->deadline_at > now || row->backward))
			continue;
		old = MemoryContextSwitchTo(flow->context);
		flow->routine->plan(flow, now);
		MemoryContextSwitchTo(old);
		if (flow->out_count == 0 && !dtx_flow_is_over(row->state) && row->state != DTX_FLOW_HELD &&
			!row->paused && flow->wake_at != row->due_at)
		{
			row->due_at = flow->wake_at;
			flow->changed = true;
		}
	}
}

/* Write down what came of it; in a transaction. */
static void
record(DtxExecutor *executor)
{
	List	   *steps = NIL;
	List	   *flows = NIL;
	ListCell   *cell;

	foreach(cell, executor->flows)
	{
		DtxFlow    *flow = lfirst(cell);
		ListCell   *step_cell;

		foreach(step_cell, flow->steps)
		{
			DtxStepWrite *write = palloc(sizeof(DtxStepWrite));

			write->key = flow->row->key;
			write->row = lfirst(step_cell);
			steps = lappend(steps, write);
		}
		if (flow->changed && !flow->stale)
		{
			DtxFlowWrite *write = palloc0(sizeof(DtxFlowWrite));

			write->row = flow->row;
			flows = lappend(flows, write);
		}
	}
	if (steps != NIL || flows != NIL)
	{
		dtx_store_flow_record(steps, flows);
		/* what follows is sent: it must not be found undecided after a crash (7) */
		commit_durably();
	}
	foreach(cell, flows)
	{
		DtxFlowWrite *write = lfirst(cell);
		ListCell   *flow_cell;

		if (!write->lost)
			continue;
		foreach(flow_cell, executor->flows)
			if (((DtxFlow *) lfirst(flow_cell))->row == write->row)
				((DtxFlow *) lfirst(flow_cell))->stale = true;
	}
	foreach(cell, executor->flows)
	{
		DtxFlow    *flow = lfirst(cell);
		ListCell   *note_cell;

		if (flow->stale)
			continue;
		foreach(note_cell, flow->events)
		{
			DtxFlowEvent *note = lfirst(note_cell);

			dtx_store_flow_event("dtx", flow->row, note->step, note->event, note->detail);
			if (note->alert)
				dtx_store_flow_alert(flow->row, note->step);
		}
	}
}

/* When are operators to be told of what has no success?  0: there is none. */
static TimestampTz
alert_time(DtxFlow *flow)
{
	TimestampTz at = 0;
	ListCell   *cell;

	foreach(cell, flow->steps)
	{
		DtxStepRow *step = lfirst(cell);
		TimestampTz step_at = step->sent_at + (int64) dtx_stuck_after_s * USECS_PER_SEC;

		if (step->state == DTX_STEP_PENDING && !step->is_ongoing && (at == 0 || step_at < at))
			at = step_at;
	}
	return at;
}

/* That is committed: what follows may be sent. */
static bool
enqueue(DtxExecutor *executor)
{
	bool		ended = false;
	TimestampTz alert_at = 0;
	ListCell   *cell;
	List	   *flows = list_copy(executor->flows);

	foreach(cell, flows)
	{
		DtxFlow    *flow = lfirst(cell);
		ListCell   *note_cell;

		foreach(note_cell, flow->events)
		{
			DtxFlowEvent *note = lfirst(note_cell);

			if (!flow->stale && note->alert)
				ereport(LOG,
						(errmsg("dtx: alert: flow \"%s\" is held: %s", flow->gid, note->detail),
						 errhint("See dtx.stuck.")));
		}
		ended = ended || (!flow->stale && flow->changed && (dtx_flow_is_over(flow->row->state) ||
														   flow->row->state == DTX_FLOW_HELD));
		if (flow->steps != NIL)
		{
			TimestampTz at = alert_time(flow);

			if (at != 0 && (alert_at == 0 || at < alert_at))
				alert_at = at;
		}
		flow->steps = flow->events = NIL;
		flow->changed = false;
		if (flow->stale)
		{
			/* what was planned was planned for another row */
			foreach(note_cell, flow->works)
			{
				DtxWork    *work = lfirst(note_cell);

				flow->out[work->index] = NULL;
				flow->out_count--;
			}
			flow->works = NIL;
		}
		foreach(note_cell, flow->works)
		{
			DtxWork    *work = lfirst(note_cell);
			DtxLane    *lane = work->lane;
			MemoryContext old = MemoryContextSwitchTo(executor->context);

			lane->queue = lappend(lane->queue, work);
			MemoryContextSwitchTo(old);
		}
		flow->works = NIL;
		if (flow->out_count == 0)
		{
			TimestampTz due_at = flow->row->due_at;

			if (due_at != 0 && (executor->next_due == 0 || due_at < executor->next_due))
				executor->next_due = due_at;
			if (flow->stale)
				avoid(executor, &flow->row->key, CHANGED_PAUSE_MS);
			else if (executor->options.horizon_ms > 0)
				avoid(executor, &flow->row->key, INT_MAX);	/* it had its turn */
			let_go(executor, flow);
		}
	}
	list_free(flows);
	if (alert_at != 0)
		dtx_flows_alert_at(executor->options.database, alert_at);
	return ended;
}

/* Find a lane for what was planned; in a transaction. */
static void
find_lanes(DtxExecutor *executor)
{
	ListCell   *cell;

	foreach(cell, executor->flows)
	{
		DtxFlow    *flow = lfirst(cell);
		ListCell   *work_cell;

		foreach(work_cell, flow->works)
		{
			DtxWork    *work = lfirst(work_cell);

			work->lane = find_lane(executor, work->serverid, work->roleid, work->alone);
			if (work->lane == NULL)
			{
				DtxApplied	applied;

				flow->works = foreach_delete_current(flow->works, work_cell);
				fill_unknown(&applied, "42704", "the node does not exist any more");
				dtx_flow_answer(work, &applied, executor->rules, dtx_flow_now());
			}
		}
	}
}

/* May a flow be fetched again that was avoided? */
static bool
somebody_is_forgiven(DtxExecutor *executor, DtxTime now)
{
	ListCell   *cell;

	foreach(cell, executor->avoided)
		if (((Avoided *) lfirst(cell))->until <= now)
			return true;
	return false;
}

/* What sessions have confirmed themselves, or left to us; in a transaction. */
static int
take_tcc_ends(DtxExecutor *executor, DtxTccEnd *ends)
{
	int			count = dtx_database_tcc_ends(executor->options.database, ends);

	if (count > 0)
	{
		dtx_store_tcc_ended(pg_atomic_read_u64(&executor->options.database->life), ends, count);
		executor->fetch_due = true;
	}
	return count;
}

/* What errors mean from now on; in a transaction. */
static void
read_rules(DtxExecutor *executor)
{
	MemoryContextReset(executor->rules_context);
	MemoryContextSwitchTo(executor->rules_context);
	executor->rules_seen = dtx_store_error_rules_version();
	executor->rules = dtx_store_error_rules();
	MemoryContextSwitchTo(executor->round_context);
}

static void
look_at_changes(DtxExecutor *executor)
{
	uint64		changed = dtx_flows_changed(executor->options.database);
	uint64		submitted = dtx_flows_submitted(executor->options.database);
	ListCell   *cell;

	if (changed != executor->changed_seen)
	{
		executor->changed_seen = changed;
		foreach(cell, executor->flows)
			((DtxFlow *) lfirst(cell))->stale = true;
	}
	if (submitted != executor->submitted_seen)
	{
		executor->submitted_seen = submitted;
		executor->fetch_due = true;
	}
}

/* Nodes that were away and are back: what waits for them is due now. */
static void
look_at_nodes(DtxExecutor *executor)
{
	ListCell   *cell;

	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);

		if (lane->node == NULL)
			continue;
		if (lane->node->failures > 0)
			lane->away = true;
		else if (lane->away)
		{
			lane->away = false;
			dtx_store_flows_hurry(lane->serverid, dtx_flow_now());
			executor->fetch_due = true;
		}
	}
}

static void
close_idle_lanes(DtxExecutor *executor)
{
	DtxTime		now = dtx_now();
	ListCell   *cell;

	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);

		if (lane->busy || lane->queue != NIL || lane->away ||
			!dtx_exceeds(lane->used_at, now, lane->connection == NULL || lane->number > 0 ?
						 DTX_LOCAL_IDLE_MS : LANE_IDLE_MS))
			continue;
		executor->lanes = foreach_delete_current(executor->lanes, cell);
		dtx_lane_free(lane);
	}
}

/* Is there anything to do?  Without a look into the tables. */
static bool
has_work(DtxExecutor *executor, DtxTime clock)
{
	TimestampTz now = dtx_flow_now();
	ListCell   *cell;

	if (executor->rules == NIL || executor->watermark_at == 0 ||
		dtx_exceeds(executor->watermark_at, clock, WATERMARK_PAUSE_MS) ||
		executor->fetch_due || executor->more_due || somebody_is_forgiven(executor, clock) ||
		(executor->next_due != 0 && executor->next_due <= now))
		return true;
	foreach(cell, executor->flows)
	{
		DtxFlow    *flow = lfirst(cell);

		if ((flow->stale && flow->out_count == 0) || flow->steps != NIL || flow->changed ||
			(flow->row->deadline_at != 0 && flow->row->deadline_at <= now && !flow->row->backward))
			return true;
	}
	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);

		if (lane->node != NULL && (lane->node->failures > 0) != lane->away)
			return true;
		if (lane->busy ? look_at_lane(lane) != DTX_ANSWER_NONE || clock > lane->deadline :
			lane->queue != NIL)
			return true;
		if (is_held_up(executor, lane) && dtx_exceeds(lane->used_at, clock, dtx_batch_budget_ms))
			return true;
	}
	return false;
}

static bool
run_round(DtxExecutor *executor)
{
	TimestampTz now;
	DtxTime		clock = dtx_now();
	bool		moved = false;
	bool		ended;
	DtxTccEnd  *tcc_ends;
	int			tcc_end_count = 0;

	MemoryContextReset(executor->round_context);
	MemoryContextSwitchTo(executor->round_context);
	tcc_ends = palloc(sizeof(DtxTccEnd) * DTX_TCC_ENDS_MAX);
	look_at_changes(executor);
	if (!has_work(executor, clock))
		return false;
	begin(executor);
	/* a transaction that submits has the isolation of its caller */
	if (executor->submitted == NULL)
	{
		tcc_end_count = take_tcc_ends(executor, tcc_ends);
		look_at_nodes(executor);
	}
	if (executor->rules == NIL || executor->rules_seen != dtx_store_error_rules_version())
		read_rules(executor);
	if (executor->watermark_at == 0 || dtx_exceeds(executor->watermark_at, clock, WATERMARK_PAUSE_MS))
	{
		executor->watermark = dtx_store_flow_watermark();
		executor->watermark_at = clock;
		close_idle_lanes(executor);
		executor->fetch_due = true;
		if (executor->next_due == 0 && executor->options.only == NULL)
			executor->next_due = dtx_store_flows_next(executor->options.worker, executor->options.workers,
													  dtx_flow_now());
	}
	moved = take_answers(executor);
	divert(executor);
	if (executor->fetch_due || executor->more_due || somebody_is_forgiven(executor, clock) ||
		(executor->next_due != 0 && executor->next_due <= dtx_flow_now()))
	{
		executor->fetch_due = false;
		executor->next_due = 0;
		moved = fetch(executor) || moved;
		DTX_FAULT("flow_fetched");
	}
	now = dtx_flow_now();
	plan(executor, now);
	find_lanes(executor);
	record(executor);
	DTX_FAULT("flow_before_record");
	commit(executor);
	DTX_FAULT("flow_recorded");
	dtx_database_drop_tcc_ends(executor->options.database, tcc_ends, tcc_end_count);
	ended = enqueue(executor) || tcc_end_count > 0;
	if (ended)
		ConditionVariableBroadcast(&executor->options.database->flow_over);
	if (executor->one_at_a_time && ++executor->calm_rounds > CALM_ROUNDS)
		executor->one_at_a_time = false;
	if (some_lane_is_closed(executor))
	{
		begin(executor);
		open_lanes(executor);
		commit(executor);
	}
	return (is_safe(executor) && send_batches(executor)) || moved || ended || executor->more_due;
}

/*
 * One round.  True if something moved, so that another one may find more to
 * do; else the caller waits.  Raises what fails here, after which it calls
 * dtx_executor_reset().
 */
bool
dtx_executor_round(DtxExecutor *executor)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		moved = run_round(executor);

	MemoryContextSwitchTo(caller);
	return moved;
}

/* Is anything in memory? */
bool
dtx_executor_busy(DtxExecutor *executor)
{
	return executor->flows != NIL;
}

/* When is the next flow due?  0: none is known.  Looks into the table. */
TimestampTz
dtx_executor_next(DtxExecutor *executor)
{
	MemoryContext caller = CurrentMemoryContext;

	if (executor->options.only != NULL)
		return 0;
	begin(executor);
	executor->next_due = dtx_store_flows_next(executor->options.worker, executor->options.workers,
											  dtx_flow_now());
	commit(executor);
	MemoryContextSwitchTo(caller);
	return executor->next_due;
}

/* Wait until something may have moved, or for the time. */
void
dtx_executor_wait(DtxExecutor *executor, long timeout_ms)
{
	WaitEventSet *set;
	WaitEvent	event;
	DtxTime		now = dtx_now();
	ListCell   *cell;

	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);

		if (lane->busy && lane->deadline != DTX_NEVER)
			timeout_ms = Min(timeout_ms, Max(1, (lane->deadline - now) / 1000 + 1));
		if (lane->busy && lane->connection != NULL && lane->connection->socket < 0)
			timeout_ms = Min(timeout_ms, 1);
		if (lane->away)
			timeout_ms = Min(timeout_ms, CLAIMED_PAUSE_MS);
		if (is_held_up(executor, lane))
			timeout_ms = Min(timeout_ms, Max(1, dtx_batch_budget_ms - (now - lane->used_at) / 1000 + 1));
	}
	if (!is_safe(executor))
		timeout_ms = Min(timeout_ms, REPLICATION_PAUSE_MS);
	foreach(cell, executor->flows)
	{
		DtxFlowRow *row = ((DtxFlow *) lfirst(cell))->row;
		int64		left_ms = (row->deadline_at - dtx_flow_now()) / 1000;

		if (row->deadline_at != 0 && !row->backward && left_ms > 0)
			timeout_ms = Min(timeout_ms, left_ms + 1);
	}
	if (executor->next_due != 0)
		timeout_ms = Max(1, Min(timeout_ms, (executor->next_due - dtx_flow_now()) / 1000 + 1));
	foreach(cell, executor->avoided)
	{
		Avoided    *avoided = lfirst(cell);

		timeout_ms = Min(timeout_ms, Max(1, (avoided->until - now) / 1000 + 1));
	}
	set = DTX_CREATE_WAIT_EVENT_SET(executor->round_context, list_length(executor->lanes) + 2);
	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);

		if (lane->busy && lane->deadline != 0 && dtx_lane_socket(lane) != PGINVALID_SOCKET)
			AddWaitEventToSet(set, WL_SOCKET_READABLE, dtx_lane_socket(lane), NULL, NULL);
	}
	(void) WaitEventSetWait(set, timeout_ms, &event, 1, PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

DtxExecutor *
dtx_executor_new(const DtxExecutorOptions *options)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "dtx executor",
												  ALLOCSET_DEFAULT_SIZES);
	DtxExecutor *executor = MemoryContextAllocZero(context, sizeof(DtxExecutor));

	executor->options = *options;
	executor->context = context;
	executor->round_context = AllocSetContextCreate(context, "dtx round", ALLOCSET_DEFAULT_SIZES);
	executor->rules_context = AllocSetContextCreate(context, "dtx rules", ALLOCSET_SMALL_SIZES);
	executor->changed_seen = dtx_flows_changed(options->database);
	executor->submitted_seen = dtx_flows_submitted(options->database);
	executor->fetch_due = true;
	return executor;
}

/*
 * A round has failed with that error, and its transaction is over: drop
 * everything (6).  What was out is not known.
 */
void
dtx_executor_reset(DtxExecutor *executor, int sqlerrcode)
{
	bool		for_long = sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
		sqlerrcode != ERRCODE_QUERY_CANCELED &&
		ERRCODE_TO_CATEGORY(sqlerrcode) != ERRCODE_TRANSACTION_ROLLBACK;

	ListCell   *cell;

	foreach(cell, executor->lanes)
	{
		DtxLane    *lane = lfirst(cell);

		if (lane->busy)
		{
			dtx_flows_lose(executor->options.database);
			dtx_lane_close(lane);
		}
		lane->queue = lane->batch = NIL;
	}
	foreach(cell, executor->flows)
	{
		DtxFlow    *flow = lfirst(cell);

		if (executor->options.only == NULL)
			dtx_flow_release(&flow->row->key);
		if (executor->one_at_a_time)
			avoid(executor, &flow->row->key, for_long ? UNREADABLE_PAUSE_MS : TROUBLE_PAUSE_MS);
	}
	foreach(cell, executor->flows)
	{
		Generation *generation = ((DtxFlow *) lfirst(cell))->generation;

		if (--generation->count == 0)
			MemoryContextDelete(generation->context);
	}
	list_free(executor->flows);
	executor->flows = NIL;
	executor->submitted = NULL;
	forget_last(executor);
	executor->one_at_a_time = true;
	executor->calm_rounds = 0;
	executor->fetch_due = true;
}

/* Without this executor everything goes on. */
void
dtx_executor_free(DtxExecutor *executor)
{
	ListCell   *cell;

	dtx_executor_reset(executor, 0);
	foreach(cell, executor->lanes)
		dtx_lane_free(lfirst(cell));
	MemoryContextDelete(executor->context);
}

/*
 * The row of what was driven for the caller, as it was let go, until something
 * else is driven; NULL if somebody has changed it meanwhile.
 */
DtxFlowRow *
dtx_executor_last(DtxExecutor *executor)
{
	return executor->last_row;
}

int64
dtx_executor_answers(DtxExecutor *executor)
{
	return executor->answers;
}

/*
 * Another flow for the same lanes, which the caller has claimed.  If he has
 * just submitted it, in the transaction that the next round commits, his row
 * need not be read.
 */
void
dtx_executor_only(DtxExecutor *executor, const DtxFlowKey *key, DtxFlowRow *submitted)
{
	forget_last(executor);
	executor->options.only = key;
	executor->submitted = submitted;
	executor->one_at_a_time = false;
	executor->fetch_due = true;
	executor->next_due = 0;
}
