/*-------------------------------------------------------------------------
 *
 * resolver.c
 *		Atomic commit: the background's half.
 *
 *		A pass goes over nodes side by side.  Each is a job:
 *
 *		connect		-> list			job_connect
 *		list		-> listed		job_list: which of our gids are prepared there,
 *									and what became of those that should be
 *		listed		-> tries		job_listed: decides about each of them
 *		tries		-> tried, replicated	job_tries: asks as each role for open TCC
 *									branches of this coordinator
 *		tried		-> tries		job_tried: decides about each of them
 *		replicated	-> finish		job_step, when standbys have it as well
 *		finish		-> finish, over	job_finish, job_finished: COMMIT PREPARED or
 *									ROLLBACK PREPARED, one after the other
 *		any			-> failed		job_failed: another time
 *
 *		What is done about a gid, in this order (section 5 of the design):
 *
 *		life not known here						not ours, left alone
 *		a session is in its phase two			left
 *		its transaction is prepared here		left to who ends that
 *		its transaction is in progress			left
 *		its status row is visible now			committed
 *		the commit log says that it committed	committed: the row is forgotten, and
 *												the node has lost its commit
 *		this life, or one that ended by restart	rolled back
 *		any other								held, or as an operator says
 *
 *		A TCC branch that is open on the node is known by the transaction that has
 *		made it, for which the same questions are asked in the same order. Its row
 *		is in dtx.step: a try that has one is left to its flow, any other one is
 *		cancelled, or held.
 *
 * (1) "In progress" is asked before the row is looked for, and the row with a
 *	   snapshot taken then: the other order rolls back committed work.
 * (2) A decision is forgotten only on the tag COMMIT PREPARED, or when the
 *	   server that prepared says that the branch's xid committed.
 * (3) Age decides nothing, and "not found" decides nothing.
 * (4) Passes are repeated: a late PREPARE may still arrive.
 * (5) No local transaction is open while a node is waited for.
 * (6) COMMIT PREPARED is sent, and its answer taken in, while no quiet moment
 *	   is wanted (quiet.c).
 * (7) The resolver works in the same way for the scanner, for a worker that
 *	   tries a failing node, and for dtx.recover().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/tuptable.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "deadline.h"
#include "fault.h"
#include "guc.h"
#include "life.h"
#include "quiet.h"
#include "remote.h"
#include "resolver.h"
#include "store.h"
#include "store_flow.h"
#include "try.h"

/* A node that does not answer a question within this is given up for now. */
#define ANSWER_TIMEOUT_MS (dtx_connect_timeout_s * 1000)
/* Unreachable, with branches waiting: tried this often at least. */
#define PENDING_RETRY_MS 500
/* For so long after something was left on a node it is watched closely. */
#define WATCH_CLOSELY_MS 10000
/* A list that takes longer than this comes from a node that had stopped. */
#define SLOW_LIST_MS 1000
/* For so long a pass takes on more nodes while it waits for one. */
#define PASS_OPEN_MS 10000
/* A worker of its own is given up after this. */
#define TRYING_MAX_MS (2 * ANSWER_TIMEOUT_MS + 60000)

typedef enum JobState
{
	JOB_CONNECT,
	JOB_LIST,
	JOB_LISTED,					/* waits for the list */
	JOB_TRIES,					/* asks as the next role */
	JOB_TRIED,					/* waits for that list */
	JOB_REPLICATED,				/* waits for the synchronous standbys */
	JOB_FINISH,
	JOB_FINISHED,				/* waits for one branch */
	JOB_OVER
} JobState;

/* A branch that is to be ended. */
typedef struct Action
{
	DtxGid		gid;
	bool		commit;
	bool		decided;		/* there is a status row */
	bool		held;			/* it was held before */
	bool		again;			/* it had committed: its decision is forgotten */
	bool		is_try;			/* commit: confirm, else cancel */
	bool		has_row;		/* in dtx.branch */
	char		owner[NAMEDATALEN];
	Oid			roleid;			/* of the status row, or none */
	int			role_tried;		/* how many of the roles that come into question */
} Action;

typedef struct Job
{
	JobState	state;
	Oid			serverid;
	char	   *name;
	List	   *roles;
	List	   *try_roles;		/* of these, those that have tried something */
	int			try_role;		/* the next one of them */
	bool		tries_hidden;	/* could not be listed as one of them */
	List	   *lives;			/* of DtxLife */
	TimestampTz tries_from;		/* when they were asked for */
	DtxNode    *node;
	DtxConnection *connection;	/* the one that is in use */
	uint64		uncertain;		/* before the list was taken */
	List	   *open;			/* of DtxOpenBranch */
	List	   *rows;			/* of DtxBranchRow */
	List	   *subtrees;		/* of DtxSubtree */
	List	   *actions;
	int			next;
	XLogRecPtr	flushed;		/* how far WAL was when it was decided */
	DtxTime listed_from;	/* when the list was asked for */
	DtxTime deadline;
	int			left;
	int			waiting;		/* of these: for the end of a local transaction */
	int			held;
	bool		refused;		/* the node refused to end a branch */
	bool		holds_off;		/* no quiet moment can begin */
} Job;

/* Connections of the background, kept from pass to pass. */
static List *kept = NIL;

static MemoryContext pass_context = NULL;

/* ------------------------------------------------ transactions of a pass */

static ResourceOwner outer_owner;
static bool transaction_open = false;

static void
transaction_begin(DtxPass *pass)
{
	if (pass->in_transaction)
	{
		outer_owner = CurrentResourceOwner;
		BeginInternalSubTransaction(NULL);
	}
	else
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
	}
	transaction_open = true;
	MemoryContextSwitchTo(pass_context);
}

static void
transaction_commit(DtxPass *pass)
{
	transaction_open = false;
	if (pass->in_transaction)
	{
		ReleaseCurrentSubTransaction();
		CurrentResourceOwner = outer_owner;
	}
	else
		CommitTransactionCommand();
	MemoryContextSwitchTo(pass_context);
}

static void
transaction_abort(DtxPass *pass)
{
	if (!transaction_open)
		return;
	transaction_open = false;
	if (pass->in_transaction)
	{
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = outer_owner;
	}
	else
		AbortCurrentTransaction();
	MemoryContextSwitchTo(pass_context);
}

/* ----------------------------------------------------------- connections */

/* The background's connection to a node as a role, which may be closed. */
DtxConnection *
dtx_resolver_connection(Oid serverid, const char *node, Oid roleid)
{
	ListCell   *cell;
	DtxConnection *connection;
	MemoryContext old;

	foreach(cell, kept)
	{
		connection = lfirst(cell);
		if (connection->serverid == serverid && connection->roleid == roleid)
		{
			strlcpy(connection->node, node, NAMEDATALEN);
			return connection;
		}
	}
	connection = dtx_remote_new(serverid, node, roleid, "dtxscan");
	old = MemoryContextSwitchTo(TopMemoryContext);
	kept = lappend(kept, connection);
	MemoryContextSwitchTo(old);
	return connection;
}

static void
ensure_open(DtxConnection *connection)
{
	if (!connection->open || connection->stale || connection->waiting)
		dtx_remote_connect(connection);
}

/* Close all connections, at the end of a user's or worker's pass. */
void
dtx_resolver_close(void)
{
	ListCell   *cell;

	foreach(cell, kept)
		dtx_remote_free(lfirst(cell));
	list_free(kept);
	kept = NIL;
}

/* The user that a role's mapping connects as, if it says so. */
static const char *
mapped_user(Oid serverid, Oid roleid)
{
	ListCell   *cell;

	if (!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(roleid),
							   ObjectIdGetDatum(serverid)) &&
		!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
							   ObjectIdGetDatum(serverid)))
		return NULL;
	foreach(cell, GetUserMapping(roleid, serverid)->options)
	{
		DefElem    *option = lfirst(cell);

		if (strcmp(option->defname, "user") == 0)
			return defGetString(option);
	}
	return "";
}

/* ------------------------------------------------------------------ jobs */

/* May this job send the end of its next branch now? */
static bool
may_finish(Job *job)
{
	if (job->holds_off || job->next >= list_length(job->actions) ||
		!((Action *) list_nth(job->actions, job->next))->commit ||
		((Action *) list_nth(job->actions, job->next))->is_try)
		return true;
	return job->holds_off = dtx_quiet_enter();
}

static void
finish_over(Job *job)
{
	if (job->holds_off)
		dtx_quiet_leave();
	job->holds_off = false;
}

static void
job_failed(DtxPass *pass, Job *job, ErrorData *error)
{
	bool		uncertain;
	int			backoff_ms = dtx_max_backoff_s * 1000;
	char		text[DTX_ERROR_SIZE];

	finish_over(job);
	if (job->connection != NULL)
		dtx_remote_close(job->connection);
	if (job->open == NIL)
	{
		transaction_begin(pass);
		job->open = dtx_store_open_branches(job->serverid);
		transaction_commit(pass);
	}
	snprintf(text, sizeof(text), "%s%s%s", error->message,
			 error->detail ? ": " : "", error->detail ? error->detail : "");
	text[strcspn(text, "\n")] = '\0';
	SpinLockAcquire(&job->node->mutex);
	uncertain = job->node->uncertain != job->node->clean;
	SpinLockRelease(&job->node->mutex);

	/* a server that is away is asked often: nobody's log fills by that */
	if (uncertain && dtx_sqlstate_is_lost(error->sqlerrcode) &&
		!dtx_remote_was_turned_down(error))
		backoff_ms = Min(backoff_ms, PENDING_RETRY_MS);
	if (job->node->failures == 0)
		ereport(LOG,
				(errmsg("dtx: node \"%s\" cannot be scanned: %s", job->name, text)));
	dtx_node_failed(job->node, text, backoff_ms);
	job->left = Max(list_length(job->actions) - job->next, list_length(job->open));
	SpinLockAcquire(&job->node->mutex);
	job->node->pending = job->left;
	SpinLockRelease(&job->node->mutex);
	pass->left += job->left;
	job->state = JOB_OVER;
}

/*
 * Open a connection as a role.  Returns the error if the node turned the role
 * down, since another one may fare better; raises any other.
 */
static ErrorData *
job_open(DtxPass *pass, Job *job, Oid roleid)
{
	ErrorData  *volatile error = NULL;

	transaction_begin(pass);
	job->connection = dtx_resolver_connection(job->serverid, job->name, roleid);
	PG_TRY();
	{
		ensure_open(job->connection);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(pass_context);
		error = CopyErrorData();
		if (dtx_sqlstate_is_lost(error->sqlerrcode) && !dtx_remote_was_turned_down(error))
			PG_RE_THROW();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	if (error != NULL)
		transaction_abort(pass);
	else
		transaction_commit(pass);
	return error;
}

/* Any role that used the node will do for the list. */
static void
job_connect(DtxPass *pass, Job *job)
{
	ErrorData  *first = NULL;
	ListCell   *cell;

	foreach(cell, job->roles)
	{
		ErrorData  *error;

		transaction_begin(pass);
		if (mapped_user(job->serverid, lfirst_oid(cell)) == NULL)
		{
			transaction_commit(pass);
			continue;
		}
		transaction_commit(pass);
		error = job_open(pass, job, lfirst_oid(cell));
		if (error == NULL)
		{
			job->state = JOB_LIST;
			return;
		}
		first = first ? first : error;
	}
	if (first != NULL)
		ReThrowError(first);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("no role that used node \"%s\" has a user mapping for it any more", job->name)));
}

static void
job_list(DtxPass *pass, Job *job)
{
	StringInfoData sql;
	ListCell   *cell;

	SpinLockAcquire(&job->node->mutex);
	job->uncertain = job->node->uncertain;
	SpinLockRelease(&job->node->mutex);

	transaction_begin(pass);
	job->open = dtx_store_open_branches(job->serverid);
	job->rows = dtx_store_branch_rows(job->serverid);
	transaction_commit(pass);

	initStringInfo(&sql);
	appendStringInfoString(&sql,
						   "SELECT 'gid', gid::text, owner::text,"
						   " EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) prepared)::text FROM pg_catalog.pg_prepared_xacts"
						   " WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database()"
						   " AND pg_catalog.starts_with(gid, 'dtx_')"
						   " UNION ALL SELECT 'room', pg_catalog.count(*)::text,"
						   " pg_catalog.current_setting('max_prepared_transactions'), NULL"
						   " FROM pg_catalog.pg_prepared_xacts");
	if (job->open != NIL)
	{
		appendStringInfoString(&sql,
							   " UNION ALL SELECT 'xid', x::text, CASE WHEN x OPERATOR(pg_catalog.<)"
							   " pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())"
							   " THEN COALESCE(pg_catalog.pg_xact_status(x), 'too old') ELSE 'future' END, NULL"
							   " FROM pg_catalog.unnest('{");
		foreach(cell, job->open)
			appendStringInfo(&sql, "%s%llu", foreach_current_index(cell) > 0 ? "," : "",
							 (unsigned long long) ((DtxOpenBranch *) lfirst(cell))->record.xid);
		appendStringInfoString(&sql, "}'::pg_catalog.xid8[]) x");
	}
	if (!dtx_remote_send(job->connection, sql.data, 1))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to node \"%s\"", job->name)));
	job->listed_from = dtx_now();
	job->deadline = dtx_later(job->listed_from, ANSWER_TIMEOUT_MS);
	job->state = JOB_LISTED;
}

/* A gid that is prepared on the node, or an xid and what became of it. */
typedef struct Listed
{
	char		kind[8];
	DtxGid		gid;
	uint64		xid;
	double		seconds;		/* for so long */
	char		owner[NAMEDATALEN]; /* or the xid's status */
} Listed;

typedef struct GidEntry
{
	DtxGid		gid;			/* the key; padding is zero */
	DtxOpenBranch *open;
	DtxBranchRow *row;
	bool		listed;
} GidEntry;

static HTAB *
gid_table(const char *name)
{
	HASHCTL		info = {0};

	info.keysize = sizeof(DtxGid);
	info.entrysize = sizeof(GidEntry);
	info.hcxt = pass_context;
	return hash_create(name, 256, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static GidEntry *
gid_entry(HTAB *table, const DtxGid *gid)
{
	DtxGid		key;
	bool		found;
	GidEntry   *entry;

	memset(&key, 0, sizeof(key));
	key.life = gid->life;
	key.xid = gid->xid;
	key.nonce = gid->nonce;
	key.branch = gid->branch;
	entry = hash_search(table, &key, HASH_ENTER, &found);
	if (!found)
	{
		entry->open = NULL;
		entry->row = NULL;
		entry->listed = false;
	}
	return entry;
}

typedef struct XidStatus
{
	uint64		xid;
	char		status[16];
} XidStatus;

static void
hold(DtxPass *pass, Job *job, const DtxGid *gid, bool known, const char *reason)
{
	char		text[DTX_GID_SIZE];

	job->held++;
	dtx_store_branch(gid, job->serverid, "held", reason, NULL);
	if (known)
		return;
	dtx_count(DTX_STAT_HELD, 1);
	dtx_gid_format(gid, text);
	dtx_store_event("dtx", gid, "held", reason);
	ereport(LOG,
			(errmsg("dtx: branch \"%s\" on node \"%s\" is held: %s", text, job->name, reason)));
}

/* Has the xid ever been handed out here? */
static bool
can_have_been(uint64 xid)
{
	return xid >= FirstNormalTransactionId &&
		xid < U64FromFullTransactionId(ReadNextFullTransactionId());
}

static bool
is_in_progress(uint64 xid)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	return xid >= FirstNormalTransactionId && xid < next && next - xid < PG_INT32_MAX &&
		TransactionIdIsInProgress((TransactionId) xid);
}

/* Decide about one gid that is prepared on the node. */
static void
decide(DtxPass *pass, Job *job, List *lives, Listed *listed, GidEntry *entry)
{
	uint64		present = pg_atomic_read_u64(&pass->database->life);
	DtxLifeClaim claim = dtx_life_claim(lives, present, listed->gid.life);
	DtxOutcome	asked = entry->row ? entry->row->outcome : DTX_OUTCOME_UNKNOWN;
	Action	   *action;
	bool		commit;
	bool		decided;
	DtxBranchPlace place;
	ListCell   *cell;

	if (claim == DTX_LIFE_FOREIGN)
		return;
	if (claim == DTX_LIFE_PRESENT && dtx_phase_two_running(listed->gid.xid))
		return;
	foreach(cell, job->subtrees)
	{
		DtxSubtree *subtree = lfirst(cell);

		if (subtree->xid != listed->gid.xid)
			continue;
		if (entry->row == NULL || entry->row->held)
			dtx_store_branch_waits(&listed->gid, job->serverid,
								   psprintf("its transaction is prepared here as \"%s\" and waits for COMMIT or ROLLBACK PREPARED",
											subtree->gid), listed->seconds);
		job->left++;
		job->waiting++;
		return;
	}
	if (claim != DTX_LIFE_UNPROVEN && is_in_progress(listed->gid.xid))
	{
		if (listed->seconds > dtx_stuck_after_s && entry->row == NULL)
			dtx_store_branch_waits(&listed->gid, job->serverid,
								   "its session has not ended the transaction yet", listed->seconds);
		return;
	}
	decided = commit = dtx_store_decided(&listed->gid, NULL);

	/*
	 * Anybody can prepare under a name that he has read in
	 * pg_prepared_xacts: it has to be the branch that the row means.
	 */
	place = dtx_store_branch_place(&listed->gid, &job->connection->identity);
	if (decided && place == DTX_BRANCH_IS_ELSEWHERE)
	{
		char		text[DTX_GID_SIZE];

		dtx_gid_format(&listed->gid, text);
		ereport(LOG,
				(errmsg("dtx: \"%s\" is prepared on node \"%s\" by somebody else, and left alone",
						text, job->name)));
		return;
	}
	if (!commit)
	{
		/* a row that is not there may be forgotten */
		DtxOutcome	known = dtx_life_outcome(lives, present, &listed->gid);

		if (known == DTX_OUTCOME_IN_PROGRESS)
			return;
		if (known == DTX_OUTCOME_UNKNOWN && claim != DTX_LIFE_UNPROVEN &&
			!can_have_been(listed->gid.xid))
			known = DTX_OUTCOME_ABORTED;
		if (known == DTX_OUTCOME_UNKNOWN)
			known = asked;
		if (known == DTX_OUTCOME_UNKNOWN)
		{
			hold(pass, job, &listed->gid, entry->row && entry->row->held,
				 claim == DTX_LIFE_UNPROVEN ?
				 "the coordinator was promoted, restored or copied since: a commit of that life may be missing here" :
				 "nobody knows any more what became of its transaction");
			return;
		}
		commit = known == DTX_OUTCOME_COMMITTED;
	}
	action = palloc0(sizeof(Action));
	action->gid = listed->gid;
	action->commit = commit;
	action->decided = decided;
	action->again = commit && asked == DTX_OUTCOME_UNKNOWN && place != DTX_BRANCH_IS_HERE;
	action->held = entry->row && entry->row->held;
	strlcpy(action->owner, listed->owner, NAMEDATALEN);
	action->roleid = entry->open ? entry->open->record.roleid : InvalidOid;
	job->actions = lappend(job->actions, action);
}

/* What became of a branch that is decided to commit and not prepared there? */
static void
check_open(DtxPass *pass, Job *job, DtxOpenBranch *open, List *statuses)
{
	const DtxIdentity *now = &job->connection->identity;
	const DtxIdentity *then = &open->record.identity;
	const char *status = "unknown";
	ListCell   *cell;

	/* a session sees to it, or has: only the row is still there */
	if (open->gid.life == pg_atomic_read_u64(&pass->database->life) &&
		(dtx_phase_two_running(open->gid.xid) ||
		 (!pass->everything &&
		  dtx_database_is_finished(pass->database, open->gid.xid))))
		return;
	if (open->resolved)
	{
		dtx_store_event("dtx", &open->gid, "closed", "accepted by an operator");
		dtx_store_branch(&open->gid, job->serverid, "done", NULL, NULL);
		pass->finished++;
		return;
	}
	if (now->system_identifier != then->system_identifier ||
		now->database != then->database || now->timeline != then->timeline)
	{
		hold(pass, job, &open->gid, open->held,
			 now->system_identifier == then->system_identifier && now->database == then->database ?
			 "decided to commit, but not prepared on the node, which was promoted or restored since" :
			 "decided to commit, but the node is another server or database now");
		return;
	}
	foreach(cell, statuses)
	{
		XidStatus  *candidate = lfirst(cell);

		if (candidate->xid == open->record.xid)
			status = candidate->status;
	}
	if (strcmp(status, "committed") == 0)
	{
		dtx_store_branch(&open->gid, job->serverid, "done", NULL, NULL);
		pass->finished++;
	}
	else if (strcmp(status, "in progress") == 0)
		job->left++;
	else if (strcmp(status, "future") == 0 && open->attempt_count < 3)
	{
		/* the list was begun before the xid was over: look again */
		dtx_store_branch(&open->gid, job->serverid, "pending", "the node was just at it", NULL);
		job->left++;
	}
	else if (strcmp(status, "aborted") == 0)
		hold(pass, job, &open->gid, open->held,
			 "decided to commit, but rolled back on the node by somebody else");
	else
		hold(pass, job, &open->gid, open->held,
			 "decided to commit, but not prepared on the node, which cannot tell what became of it");
}

static void
job_listed(DtxPass *pass, Job *job)
{
	DtxResult	result;
	TupleDesc	expected = dtx_text_columns(4);
	HTAB	   *table = gid_table("dtx gids");
	List	   *gids = NIL;
	List	   *statuses = NIL;
	List	   *lives;
	ListCell   *cell;
	HASH_SEQ_STATUS scan;
	GidEntry   *entry;
	uint64		seen;

	transaction_begin(pass);
	dtx_remote_get(job->connection, expected, pass_context, &result);
	if (result.rows != NULL)
	{
		TupleTableSlot *slot = MakeSingleTupleTableSlot(expected, &TTSOpsMinimalTuple);

		while (tuplestore_gettupleslot(result.rows, true, false, slot))
		{
			char	   *kind;
			char	   *name;
			char	   *other;

			slot_getallattrs(slot);
			if (slot->tts_isnull[0] || slot->tts_isnull[1])
				continue;
			kind = TextDatumGetCString(slot->tts_values[0]);
			name = TextDatumGetCString(slot->tts_values[1]);
			other = slot->tts_isnull[2] ? pstrdup("") : TextDatumGetCString(slot->tts_values[2]);
			if (strcmp(kind, "xid") == 0)
			{
				XidStatus  *status = palloc0(sizeof(XidStatus));

				status->xid = strtou64(name, NULL, 10);
				strlcpy(status->status, other, sizeof(status->status));
				statuses = lappend(statuses, status);
			}
			else if (strcmp(kind, "room") == 0)
			{
				SpinLockAcquire(&job->node->mutex);
				job->node->prepared_used = atoi(name);
				job->node->prepared_max = atoi(other);
				SpinLockRelease(&job->node->mutex);
			}
			else
			{
				Listed	   *listed = palloc0(sizeof(Listed));

				/* without a number it is a transaction's name, not a branch's */
				if (!dtx_gid_parse(name, &listed->gid) || listed->gid.branch == 0)
					continue;
				strlcpy(listed->owner, other, NAMEDATALEN);
				if (!slot->tts_isnull[3])
					listed->seconds = atof(TextDatumGetCString(slot->tts_values[3]));
				gids = lappend(gids, listed);
			}
		}
		ExecDropSingleTupleTableSlot(slot);
		tuplestore_end(result.rows);
	}
	if (!dtx_remote_drain(job->connection))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to node \"%s\"", job->name)));
	transaction_commit(pass);
	if (job->node->failures > 0 ||
		dtx_exceeds(job->listed_from, dtx_now(), SLOW_LIST_MS))
		dtx_node_watch(job->node);
	DTX_FAULT("scan_listed");

	transaction_begin(pass);
	lives = job->lives = dtx_store_lives();
	if (dtx_database_subtrees(pass->database, &seen))
		job->subtrees = dtx_store_subtrees();
	foreach(cell, job->open)
		gid_entry(table, &((DtxOpenBranch *) lfirst(cell))->gid)->open = lfirst(cell);
	foreach(cell, job->rows)
		gid_entry(table, &((DtxBranchRow *) lfirst(cell))->gid)->row = lfirst(cell);
	foreach(cell, gids)
	{
		Listed	   *listed = lfirst(cell);

		entry = gid_entry(table, &listed->gid);
		entry->listed = true;
		decide(pass, job, lives, listed, entry);
	}
	hash_seq_init(&scan, table);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->listed)
			continue;
		if (entry->open != NULL)
			check_open(pass, job, entry->open, statuses);
		else if (entry->gid.branch > DTX_TRY_BRANCH)
			continue;			/* looked at with the others of its kind */
		else if (entry->row != NULL)
		{
			/* somebody ended what we only held; a session, what only waited */
			if (entry->row->held)
				dtx_store_event("dtx", &entry->row->gid, "gone",
								"no longer prepared on the node; not ended by dtx");
			dtx_store_branch_gone(&entry->row->gid);
		}
	}
	transaction_commit(pass);
	job->state = JOB_TRIES;
}

static bool
same_gid(const DtxGid *a, const DtxGid *b)
{
	return a->life == b->life && a->xid == b->xid && a->nonce == b->nonce && a->branch == b->branch;
}

static DtxBranchRow *
find_row(Job *job, const DtxGid *gid)
{
	ListCell   *cell;

	foreach(cell, job->rows)
	{
		DtxBranchRow *row = lfirst(cell);

		if (same_gid(&row->gid, gid))
			return row;
	}
	return NULL;
}

/*
 * Decide about one try that is open on the node, or may still come there: that
 * of the transaction gid and of the number in gid->branch.
 */
static void
decide_try(DtxPass *pass, Job *job, const DtxGid *gid, Oid roleid, double seconds)
{
	uint64		present = pg_atomic_read_u64(&pass->database->life);
	DtxLifeClaim claim = dtx_life_claim(job->lives, present, gid->life);
	DtxGid		name = *gid;
	DtxBranchRow *row;
	Action	   *action;
	DtxTryFate	fate;
	bool		commit = false;
	bool		again = false;
	ListCell   *cell;

	if (claim == DTX_LIFE_FOREIGN)
		return;
	if (claim == DTX_LIFE_PRESENT && dtx_phase_two_running(gid->xid))
		return;
	name.branch += DTX_TRY_BRANCH;
	row = find_row(job, &name);
	foreach(cell, job->actions)
	{
		Action	   *other = lfirst(cell);

		if (other->is_try && same_gid(&other->gid, &name))
			return;				/* listed, and not answered to its session */
	}
	foreach(cell, job->subtrees)
	{
		DtxSubtree *subtree = lfirst(cell);

		if (subtree->xid != gid->xid)
			continue;
		if (row == NULL || row->held)
			dtx_store_branch_waits(&name, job->serverid,
								   psprintf("its transaction is prepared here as \"%s\" and waits for COMMIT or ROLLBACK PREPARED",
											subtree->gid), seconds);
		job->left++;
		job->waiting++;
		return;
	}
	if (claim != DTX_LIFE_UNPROVEN && is_in_progress(gid->xid))
		return;
	fate = dtx_store_try_fate(gid, gid->branch, job->tries_from);
	if (row != NULL && row->skipped && fate != DTX_TRY_REGISTERED)
		return;
	switch (fate)
	{
		case DTX_TRY_REGISTERED:
			if (row != NULL)
				dtx_store_branch_gone(&name);
			return;
		case DTX_TRY_CONFIRMED:
			commit = again = true;
			break;
		case DTX_TRY_CANCELLED:
			again = true;
			break;
		case DTX_TRY_UNREGISTERED:
			if (claim != DTX_LIFE_UNPROVEN)
				break;
			if (row == NULL || row->outcome == DTX_OUTCOME_UNKNOWN)
			{
				hold(pass, job, &name, row && row->held,
					 "a try of TCC: the coordinator was promoted, restored or copied since, and a commit of that life may be missing here");
				return;
			}
			commit = row->outcome == DTX_OUTCOME_COMMITTED;
			break;
	}
	action = palloc0(sizeof(Action));
	action->gid = name;
	action->commit = commit;
	action->is_try = true;
	action->again = again;
	action->held = row && row->held;
	action->has_row = row != NULL;
	action->roleid = roleid;
	job->actions = lappend(job->actions, action);
}

/* Tries that were listed as held or failing, and are not open any more. */
static void
tries_over(DtxPass *pass, Job *job)
{
	ListCell   *cell;

	transaction_begin(pass);
	foreach(cell, job->rows)
	{
		DtxBranchRow *row = lfirst(cell);
		ListCell   *action_cell;
		bool		seen = row->gid.branch <= DTX_TRY_BRANCH || row->listed || job->tries_hidden;

		foreach(action_cell, job->actions)
			seen = seen || same_gid(&((Action *) lfirst(action_cell))->gid, &row->gid);
		if (seen)
			continue;
		if (row->held)
			dtx_store_event("dtx", &row->gid, "gone", "not open on the node any more; not ended by dtx");
		dtx_store_branch_gone(&row->gid);
	}
	/* the commit records of all these are flushed; are they replicated? */
	job->flushed = GetFlushRecPtr(NULL);
	job->deadline = dtx_later(dtx_now(), ANSWER_TIMEOUT_MS);
	transaction_commit(pass);
	job->state = JOB_REPLICATED;
}

/* Ask for open tries as the next role; the node shows it only its own. */
static void
job_tries(DtxPass *pass, Job *job)
{
	char		sql[256];
	Oid			roleid;
	ErrorData  *error;
	bool		is_mapped;

	if (job->try_role >= list_length(job->try_roles))
	{
		tries_over(pass, job);
		return;
	}
	roleid = list_nth_oid(job->try_roles, job->try_role);
	transaction_begin(pass);
	is_mapped = mapped_user(job->serverid, roleid) != NULL;
	transaction_commit(pass);
	error = is_mapped ? job_open(pass, job, roleid) : NULL;
	if (!is_mapped || error != NULL)
	{
		if (error != NULL && job->node->failures == 0 && job->node->clean == job->node->uncertain)
			ereport(LOG,
					(errmsg("dtx: node \"%s\" cannot be asked for tries of role %u: %s", job->name,
							roleid, error->message)));
		job->refused = job->refused || is_mapped;
		job->left += is_mapped;
		job->tries_hidden = true;
		job->try_role++;
		return;
	}
	job->tries_from = GetCurrentTimestamp();
	snprintf(sql, sizeof(sql),
			 "SELECT life::text, xid::text, nonce::text, step::text, seconds::text"
			 " FROM dtx.open_tries(" INT64_FORMAT ") WHERE owner OPERATOR(pg_catalog.=) current_user",
			 (int64) pass->database->lineage);
	if (!dtx_remote_send(job->connection, sql, 1))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to node \"%s\"", job->name)));
	job->deadline = dtx_later(dtx_now(), ANSWER_TIMEOUT_MS);
	job->state = JOB_TRIED;
}

/* Decide about what the node has listed, and about what was never answered. */
static void
job_tried(DtxPass *pass, Job *job)
{
	static DtxOrphan orphans[DTX_ORPHANS_MAX];
	Oid			roleid = list_nth_oid(job->try_roles, job->try_role);
	TupleDesc	expected = dtx_text_columns(5);
	DtxResult	result = {0};
	ErrorData  *error = NULL;
	bool		from_node = true;
	int			count;

	transaction_begin(pass);
	PG_TRY();
	{
		dtx_remote_get(job->connection, expected, pass_context, &result);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(pass_context);
		error = dtx_remote_error(job->connection, "list of tries", &from_node);
	}
	PG_END_TRY();
	if (error != NULL)
	{
		transaction_abort(pass);
		transaction_begin(pass);
		if (!from_node || dtx_sqlstate_is_lost(error->sqlerrcode))
			ReThrowError(error);
		/* without dtx over there nothing is left of its tries, either */
		if (error->sqlerrcode != ERRCODE_UNDEFINED_FUNCTION && error->sqlerrcode != ERRCODE_UNDEFINED_SCHEMA)
		{
			job->tries_hidden = job->refused = true;
			job->left++;
		}
	}
	if (!dtx_remote_drain(job->connection))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to node \"%s\"", job->name)));
	DTX_FAULT("scan_tried");
	if (result.rows != NULL)
	{
		TupleTableSlot *slot = MakeSingleTupleTableSlot(expected, &TTSOpsMinimalTuple);

		while (tuplestore_gettupleslot(result.rows, true, false, slot))
		{
			DtxGid		gid;
			DtxGid		name;
			DtxBranchRow *row;

			slot_getallattrs(slot);
			gid.life = (uint64) strtoi64(TextDatumGetCString(slot->tts_values[0]), NULL, 10);
			gid.xid = strtou64(TextDatumGetCString(slot->tts_values[1]), NULL, 10);
			gid.nonce = (uint64) strtoi64(TextDatumGetCString(slot->tts_values[2]), NULL, 10);
			gid.branch = atoi(TextDatumGetCString(slot->tts_values[3]));
			name = gid;
			name.branch += DTX_TRY_BRANCH;
			row = find_row(job, &name);
			if (row != NULL)
				row->listed = true;
			decide_try(pass, job, &gid, roleid, atof(TextDatumGetCString(slot->tts_values[4])));
		}
		ExecDropSingleTupleTableSlot(slot);
		tuplestore_end(result.rows);
	}
	count = dtx_database_orphans(pass->database, job->serverid, orphans);
	for (int i = 0; i < count; i++)
		if (orphans[i].roleid == roleid)
			decide_try(pass, job, &orphans[i].gid, roleid, 0);
	transaction_commit(pass);
	job->try_role++;
	job->state = JOB_TRIES;
}

/*
 * The role to end a branch with: that of the status row, or one whose mapping
 * connects as the branch's owner (or does not say as whom it connects).
 */
static Oid
action_role(Job *job, Action *action)
{
	List	   *candidates = NIL;
	ListCell   *cell;

	if (OidIsValid(action->roleid) && mapped_user(job->serverid, action->roleid) != NULL)
		candidates = lappend_oid(candidates, action->roleid);
	foreach(cell, job->roles)
	{
		const char *user = mapped_user(job->serverid, lfirst_oid(cell));

		if (user != NULL && (strcmp(user, action->owner) == 0 || user[0] == '\0'))
			candidates = list_append_unique_oid(candidates, lfirst_oid(cell));
	}
	if (action->role_tried >= list_length(candidates))
		return InvalidOid;
	return list_nth_oid(candidates, action->role_tried);
}

/* Nothing is left to send: how does the node stand? */
static void
job_over(DtxPass *pass, Job *job)
{
	SpinLockAcquire(&job->node->mutex);
	job->node->pending = job->left;
	job->node->held = job->held;
	job->node->listed_at = dtx_now();
	if (job->left == 0)
		job->node->clean = job->uncertain;
	SpinLockRelease(&job->node->mutex);
	if (job->node->failures > 0)
		ereport(LOG,
				(errmsg("dtx: node \"%s\" answers again", job->name)));
	dtx_node_reached(job->node);
	if (job->left > 0)
	{
		SpinLockAcquire(&job->node->mutex);
		job->node->next_try_at = dtx_later(dtx_now(),
															 job->refused || job->left == job->waiting ?
															 dtx_scan_interval_ms :
															 Min(dtx_scan_interval_ms, PENDING_RETRY_MS));
		SpinLockRelease(&job->node->mutex);
	}
	pass->left += job->left;
	pass->held += job->held;
	job->state = JOB_OVER;
}

/* The call that ends a try over there. */
static char *
end_of_try(DtxPass *pass, Action *action)
{
	char		number[12];

	snprintf(number, sizeof(number), "%d", action->gid.branch - DTX_TRY_BRANCH);
	return dtx_end_string(pass->database->lineage, &action->gid, number,
						  action->commit ? "confirm" : "cancel");
}

static void
job_finish(DtxPass *pass, Job *job)
{
	Action	   *action;
	Oid			roleid;
	ErrorData  *error;
	char		gid[DTX_GID_SIZE];
	char		sql[DTX_GID_SIZE + 32];

	if (job->next >= list_length(job->actions))
	{
		job_over(pass, job);
		return;
	}
	action = list_nth(job->actions, job->next);
	transaction_begin(pass);
	roleid = action->is_try ? action->roleid : action_role(job, action);
	if (!OidIsValid(roleid))
	{
		hold(pass, job, &action->gid, action->held,
			 psprintf("no user mapping connects to the node as its owner there, \"%s\"", action->owner));
		transaction_commit(pass);
		job->next++;
		return;
	}
	transaction_commit(pass);
	error = job_open(pass, job, roleid);
	if (error != NULL)
	{
		/* this role's trouble is not that of others */
		transaction_begin(pass);
		dtx_store_branch(&action->gid, job->serverid, "pending",
						 "its role cannot connect to the node",
						 psprintf("%s%s%s", error->message, error->detail ? ": " : "",
								  error->detail ? error->detail : ""));
		transaction_commit(pass);
		job->refused = true;
		job->left++;
		job->next++;
		return;
	}

	/* somebody else's rights over there, be they enough, are not for this */
	if (!action->is_try && strcmp(job->connection->user, action->owner) != 0)
	{
		action->role_tried++;
		return;
	}

	DTX_FAULT("scan_before_finish");
	dtx_gid_format(&action->gid, gid);
	snprintf(sql, sizeof(sql), "%s PREPARED '%s'", action->commit ? "COMMIT" : "ROLLBACK", gid);
	if (!dtx_remote_send(job->connection, action->is_try ? end_of_try(pass, action) : sql, 1))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to node \"%s\"", job->name)));
	/* the statement of a cancel is the user's, and may take its time */
	job->deadline = dtx_later(dtx_now(), ANSWER_TIMEOUT_MS +
							  (action->is_try ? dtx_step_timeout_ms + dtx_branch_lock_timeout_ms : 0));
	job->state = JOB_FINISHED;
}

/* One branch has been answered. */
static void
job_finished(DtxPass *pass, Job *job)
{
	Action	   *action = list_nth(job->actions, job->next);
	const char *tag = action->commit ? "COMMIT PREPARED" : "ROLLBACK PREPARED";
	ErrorData  *error = NULL;
	bool		from_node = true;
	DtxResult	result;
	char		gid[DTX_GID_SIZE];

	dtx_gid_format(&action->gid, gid);
	transaction_begin(pass);
	PG_TRY();
	{
		dtx_remote_get(job->connection, NULL, pass_context, &result);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(pass_context);
		error = dtx_remote_error(job->connection, "end of the branch", &from_node);
	}
	PG_END_TRY();
	if (error != NULL)
	{
		/* remote errors leave nothing behind here, but be strict about it */
		transaction_abort(pass);
		transaction_begin(pass);
		if (!from_node || dtx_sqlstate_is_lost(error->sqlerrcode) ||
			!dtx_remote_drain(job->connection))
			ReThrowError(error);
	}
	else if (!dtx_remote_drain(job->connection))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("lost connection to node \"%s\"", job->name)));
	DTX_FAULT("scan_after_finish");

	job->state = JOB_FINISH;
	if (error == NULL && action->is_try)
	{
		DtxGid		name = action->gid;

		name.branch -= DTX_TRY_BRANCH;
		dtx_database_drop_orphan(pass->database, &name);
		if (action->has_row)
			dtx_store_branch_gone(&action->gid);
		dtx_count(action->commit ? DTX_STAT_FINISHED_COMMIT : DTX_STAT_FINISHED_ROLLBACK, 1);
		pass->finished++;
		job->next++;
		name.branch = 0;
		dtx_gid_format(&name, gid);
		ereport(LOG,
				(errmsg("dtx: try %d of \"%s\" on node \"%s\" %s", action->gid.branch - DTX_TRY_BRANCH, gid,
						job->name, action->commit ? "confirmed" : "cancelled")));
		if (action->again)
			dtx_store_event("dtx", &action->gid, action->commit ? "confirmed again" : "cancelled again",
							"the node had lost that: it was restored, or promoted without it");
	}
	else if (error == NULL && strcmp(result.tag, tag) == 0)
	{
		if (action->decided)
			dtx_store_branch(&action->gid, job->serverid, "done", NULL, NULL);
		else
			dtx_store_branch_gone(&action->gid);
		dtx_count(action->commit ? DTX_STAT_FINISHED_COMMIT : DTX_STAT_FINISHED_ROLLBACK, 1);
		pass->finished++;
		job->next++;
		ereport(LOG,
				(errmsg("dtx: branch \"%s\" on node \"%s\" %s", gid, job->name,
						action->commit ? "committed" : "rolled back")));
		if (action->again)
		{
			dtx_store_event("dtx", &action->gid, "committed again",
							"the node had lost its commit: it was restored, or promoted without it");
			ereport(LOG,
					(errmsg("dtx: node \"%s\" had lost the commit of this branch", job->name),
					 errhint("It was restored, or promoted without its last commits: others may be missing, too.")));
		}
	}
	else if (error != NULL && error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE && !action->is_try)
		action->role_tried++;	/* not ours to end: try as the next role */
	else
	{
		/*
		 * Gone (42704) proves nothing by itself: the next list tells.  Busy
		 * (55000) and everything else is tried again.
		 */
		if (error != NULL && (action->is_try || (error->sqlerrcode != ERRCODE_UNDEFINED_OBJECT &&
												 error->sqlerrcode != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)))
		{
			dtx_store_branch(&action->gid, job->serverid, "pending",
							 "the node refused to end it", error->message);
			ereport(LOG,
					(errmsg("dtx: branch \"%s\" on node \"%s\" could not be ended: %s",
							gid, job->name, error->message)));
			job->refused = true;
		}
		job->left++;
		job->next++;
	}
	transaction_commit(pass);
}

/* Let a job do what it can do now; false if it waits. */
static bool
job_step(DtxPass *pass, Job *job)
{
	switch (job->state)
	{
		case JOB_CONNECT:
			job_connect(pass, job);
			return true;
		case JOB_LIST:
			job_list(pass, job);
			return true;
		case JOB_TRIES:
			job_tries(pass, job);
			return true;
		case JOB_FINISH:
			if (!may_finish(job))
				return false;
			job_finish(pass, job);
			if (job->state != JOB_FINISHED)
				finish_over(job);
			return true;
		case JOB_REPLICATED:
			if (dtx_is_replicated(job->flushed))
				job->state = JOB_FINISH;
			else if (dtx_now() > job->deadline)
			{
				/* rollbacks could go on, but that is not worth a queue */
				job->left += list_length(job->actions);
				job_over(pass, job);
			}
			else
				return false;
			return true;
		case JOB_LISTED:
		case JOB_TRIED:
		case JOB_FINISHED:
			switch (dtx_remote_poll(job->connection))
			{
				case DTX_ANSWER_NONE:
					if (dtx_now() > job->deadline)
						ereport(ERROR,
								(errcode(ERRCODE_CONNECTION_FAILURE),
								 errmsg("node \"%s\" does not answer", job->name)));
					return false;
				case DTX_ANSWER_UNKNOWN:
					ereport(ERROR,
							(errcode(ERRCODE_CONNECTION_FAILURE),
							 errmsg("lost connection to node \"%s\"", job->name)));
					break;
				case DTX_ANSWER_THERE:
					break;
			}
			/* the beginning of an answer is there; its end has to come, too */
			dtx_deadline_start(ANSWER_TIMEOUT_MS);
			if (job->state == JOB_LISTED)
				job_listed(pass, job);
			else if (job->state == JOB_TRIED)
				job_tried(pass, job);
			else
			{
				job_finished(pass, job);
				finish_over(job);
			}
			dtx_deadline_stop();
			return true;
		case JOB_OVER:
			break;
	}
	return false;
}

/*
 * Is it time to look at a node?  If not, lower *when to the time it will be.
 */
bool
dtx_node_is_due(DtxNode *node, DtxTime now, DtxTime *when)
{
	int64		pause_ms = (int64) dtx_sweep_interval_s * 1000;
	DtxTime at;
	bool		due;

	SpinLockAcquire(&node->mutex);

	/*
	 * A PREPARE that nobody waited for may arrive after the list was taken,
	 * most of all when a node has just come back: look more often then.
	 */
	if (now < dtx_later(node->watched_from, WATCH_CLOSELY_MS))
		pause_ms = Min(pause_ms, PENDING_RETRY_MS);
	else if (now < dtx_later(node->watched_from, pause_ms))
		pause_ms = Min(pause_ms, dtx_scan_interval_ms);
	if (node->uncertain != node->clean)
		at = node->next_try_at;
	else
		at = Max(dtx_later(Max(node->listed_at, node->tried_at), pause_ms),
				 node->next_try_at);
	/* a worker that could not even start cannot say so */
	due = at <= now &&
		(!node->trying ||
		 now > dtx_later(node->trying_from, TRYING_MAX_MS));
	SpinLockRelease(&node->mutex);
	if (!due)
		*when = Min(*when, at <= now ? dtx_later(now, 200) : at);
	return due;
}

/* May connecting to it block?  Then not where others wait. */
bool
dtx_node_is_suspect(DtxNode *node)
{
	return node->failures > 0 || node->reached_at == 0 || node->hung;
}

/* Is somebody at it in this pass? */
static bool
has_job(List *jobs, Oid serverid)
{
	ListCell   *cell;

	foreach(cell, jobs)
	{
		Job		   *job = lfirst(cell);

		if (job->serverid == serverid && job->state != JOB_OVER)
			return true;
	}
	return false;
}

/* Add a job for each node that is due and has none. */
static List *
make_jobs(DtxPass *pass, List *jobs)
{
	List	   *nodes = dtx_store_nodes();
	DtxTime now = dtx_now();
	DtxTime when = DTX_NEVER;
	ListCell   *cell;

	foreach(cell, nodes)
	{
		DtxNodeRow *row = lfirst(cell);
		DtxNode    *node = dtx_node_state(MyDatabaseId, row->serverid, true);
		Job		   *job;

		if (node == NULL || has_job(jobs, row->serverid))
			continue;			/* no room is reported where it is opened */
		if (OidIsValid(pass->only_server) ? row->serverid != pass->only_server :
			!pass->everything && !dtx_node_is_due(node, now, &when))
			continue;
		if (pass->leave_failing && list_length(nodes) > 1 && dtx_node_is_suspect(node))
			continue;
		job = palloc0(sizeof(Job));
		job->state = JOB_CONNECT;
		job->serverid = row->serverid;
		job->name = GetForeignServer(row->serverid)->servername;
		/* a PUBLIC mapping serves whom its users have left behind */
		job->roles = list_append_unique_oid(row->roles, BOOTSTRAP_SUPERUSERID);
		job->try_roles = row->try_roles;
		job->node = node;
		jobs = lappend(jobs, job);
		pass->nodes++;
	}
	return jobs;
}

/* Can there be anything on it: does the server exist, and has it been used? */
static bool
may_have_branches(Oid serverid)
{
	return SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(serverid)) &&
		dtx_store_server_known(serverid);
}

/*
 * One pass over all nodes that are due.  Returns when each of them is done
 * or has failed; no node waits for another, apart from its connect.
 */
void
dtx_resolver_pass(DtxPass *pass)
{
	MemoryContext caller = CurrentMemoryContext;
	DtxTime begun = dtx_now();
	List	   *jobs;
	ListCell   *cell;
	bool		over = false;

	if (pass_context == NULL)
		pass_context = AllocSetContextCreate(TopMemoryContext, "dtx pass", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(pass_context);
	MemoryContextSwitchTo(pass_context);
	transaction_open = false;	/* an error may have ended an earlier pass */
	dtx_quiet_leave_all();
	dtx_count(DTX_STAT_PASSES, 1);
	DTX_FAULT("scan_begin");

	transaction_begin(pass);
	jobs = make_jobs(pass, NIL);
	if (!OidIsValid(pass->only_server))
		dtx_nodes_settle(MyDatabaseId, may_have_branches);
	transaction_commit(pass);

	while (!over)
	{
		bool		moved = false;

		over = true;
		foreach(cell, jobs)
		{
			Job		   *job = lfirst(cell);

			CHECK_FOR_INTERRUPTS();
			if (job->state == JOB_OVER)
				continue;
			over = false;
			PG_TRY();
			{
				moved = job_step(pass, job) || moved;
			}
			PG_CATCH();
			{
				ErrorData  *error;

				MemoryContextSwitchTo(pass_context);
				error = CopyErrorData();
				/* the caller wants to stop, unless it was our deadline */
				if (dtx_deadline_passed())
				{
					error->sqlerrcode = ERRCODE_CONNECTION_FAILURE;
					error->message = psprintf("node \"%s\" does not come to an end", job->name);
				}
				else if (pass->in_transaction && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
					PG_RE_THROW();
				dtx_deadline_stop();
				FlushErrorState();
				transaction_abort(pass);
				job_failed(pass, job, error);
				moved = true;
			}
			PG_END_TRY();
		}
		if (!over && !moved &&
			(WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
					   PG_WAIT_EXTENSION) & WL_LATCH_SET) != 0)
		{
			/* one node lets us wait: others, and sessions, need not */
			ResetLatch(MyLatch);
			if (pass->meanwhile != NULL &&
				!dtx_exceeds(begun, dtx_now(), PASS_OPEN_MS))
			{
				pass->meanwhile();
				transaction_begin(pass);
				jobs = make_jobs(pass, jobs);
				transaction_commit(pass);
			}
		}
	}

	DTX_FAULT("scan_before_forget");
	if (jobs != NIL || pass->everything)
	{
		transaction_begin(pass);
		(void) dtx_store_forget_done();
		transaction_commit(pass);
	}
	MemoryContextSwitchTo(caller);
}
