/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		What sessions, launcher and scanners share in memory.
 *
 *		Per database: its life, its scanner, and what the scanner is asked
 *		for.  Per node: what is known of it.  Per backend: the transaction
 *		whose phase two it is running.
 *
 * (1) Nothing here is needed to decide an outcome: all of it can be lost
 *	   with the server, and is found again in the tables and on the nodes.
 * (2) What COMMIT and ABORT callbacks call here takes spinlocks only and
 *	   cannot throw.
 * (3) Entries of databases and nodes do not move while the server runs, so
 *	   that a session may keep a pointer to them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "fault.h"
#include "guc.h"
#include "session.h"
#include "shmem.h"

DtxShared  *dtx_shared = NULL;

static HTAB *dtx_nodes = NULL;
static shmem_request_hook_type next_shmem_request_hook = NULL;
static shmem_startup_hook_type next_shmem_startup_hook = NULL;

/* For qsort and bsearch. */
int
dtx_compare_u64(const void *a, const void *b)
{
	uint64		left = *(const uint64 *) a;
	uint64		right = *(const uint64 *) b;

	return left < right ? -1 : left > right;
}

/* Backends, auxiliary processes and workers all have a number below this. */
static int
phase_two_slots(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}

static Size
shared_size(void)
{
	Size		size = MAXALIGN(sizeof(DtxShared));

	size = add_size(size, MAXALIGN(mul_size(dtx_max_databases, sizeof(DtxDatabase))));
	size = add_size(size, MAXALIGN(mul_size(phase_two_slots(), sizeof(pg_atomic_uint64))));
	return size;
}

static void
shmem_request(void)
{
	if (next_shmem_request_hook)
		next_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
	RequestAddinShmemSpace(hash_estimate_size(dtx_max_nodes, sizeof(DtxNode)));
	RequestAddinShmemSpace(dtx_fault_shmem_size());
	RequestAddinShmemSpace(dtx_session_shmem_size());
	RequestNamedLWLockTranche("dtx", 1);
}

static void
shmem_startup(void)
{
	HASHCTL		info;
	bool		found;

	if (next_shmem_startup_hook)
		next_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	dtx_shared = ShmemInitStruct("dtx", shared_size(), &found);
	if (!found)
	{
		char	   *place = (char *) dtx_shared + MAXALIGN(sizeof(DtxShared));

		memset(dtx_shared, 0, shared_size());
		dtx_shared->lock = &(GetNamedLWLockTranche("dtx"))->lock;
		dtx_shared->database_count = dtx_max_databases;
		dtx_shared->databases = (DtxDatabase *) place;
		place += MAXALIGN(sizeof(DtxDatabase) * dtx_max_databases);
		dtx_shared->phase_two_count = phase_two_slots();
		dtx_shared->phase_two = (pg_atomic_uint64 *) place;
		for (int i = 0; i < dtx_shared->phase_two_count; i++)
			pg_atomic_init_u64(&dtx_shared->phase_two[i], 0);
		for (int i = 0; i < DTX_STAT_COUNT; i++)
			pg_atomic_init_u64(&dtx_shared->counters[i], 0);
	}
	info.keysize = sizeof(DtxNodeKey);
	info.entrysize = sizeof(DtxNode);
	dtx_nodes = ShmemInitHash("dtx nodes", dtx_max_nodes, dtx_max_nodes, &info,
							  HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	dtx_fault_shmem_init();
	dtx_session_shmem_init();
	LWLockRelease(AddinShmemInitLock);
}

void
dtx_shmem_init(void)
{
	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* Refuse to work without shared memory. */
void
dtx_require_preload(void)
{
	if (dtx_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dtx must be loaded when the server starts"),
				 errhint("Add dtx to shared_preload_libraries in postgresql.conf and restart the server.")));
}

/*
 * The entry of a database; with create, made if there is none.  NULL if
 * there is none, or no room (which the caller reports).
 */
DtxDatabase *
dtx_database(Oid database, bool create)
{
	DtxDatabase *result = NULL;
	DtxDatabase *unused = NULL;

	LWLockAcquire(dtx_shared->lock, create ? LW_EXCLUSIVE : LW_SHARED);
	for (int i = 0; i < dtx_shared->database_count && result == NULL; i++)
	{
		DtxDatabase *entry = &dtx_shared->databases[i];

		if (entry->database == database)
			result = entry;
		else if (unused == NULL && !OidIsValid(entry->database))
			unused = entry;
	}
	if (result == NULL && create && unused != NULL)
	{
		result = unused;
		memset(result, 0, sizeof(DtxDatabase));
		SpinLockInit(&result->mutex);
		pg_atomic_init_u64(&result->life, 0);
		ConditionVariableInit(&result->changed);
		ConditionVariableInit(&result->flow_over);
		result->subtrees = 1;	/* an earlier run may have left some */
		/* before the first xid of this run is read, nothing is driven */
		if (!RecoveryInProgress())
			result->flows_lost = U64FromFullTransactionId(ReadNextFullTransactionId());
		result->database = database;
	}
	LWLockRelease(dtx_shared->lock);
	return result;
}

void
dtx_launcher_wake(void)
{
	Latch	   *latch = dtx_shared->launcher_latch;

	if (latch != NULL)
		SetLatch(latch);
}

/* Give the scanner something to do.  Never throws. */
void
dtx_database_wake(DtxDatabase *database)
{
	Latch	   *latch;

	SpinLockAcquire(&database->mutex);
	database->work = true;
	database->wanted = true;
	latch = database->scanner_latch;
	SpinLockRelease(&database->mutex);
	if (latch != NULL)
		SetLatch(latch);
	else
		dtx_launcher_wake();
}

/*
 * A local transaction with branches was prepared: from now on somebody may
 * end it.  Never throws.
 */
void
dtx_database_add_subtree(DtxDatabase *database)
{
	SpinLockAcquire(&database->mutex);
	database->subtrees++;
	SpinLockRelease(&database->mutex);
}

/* May there be such transactions?  *seen is for dtx_database_subtrees_over. */
bool
dtx_database_subtrees(DtxDatabase *database, uint64 *seen)
{
	bool		some;

	SpinLockAcquire(&database->mutex);
	*seen = database->subtrees;
	some = database->subtrees != database->subtrees_over;
	SpinLockRelease(&database->mutex);
	return some;
}

/* There were none left, as of that value of *seen. */
void
dtx_database_subtrees_over(DtxDatabase *database, uint64 seen)
{
	SpinLockAcquire(&database->mutex);
	database->subtrees_over = seen;
	SpinLockRelease(&database->mutex);
}

/* Have a scanner started, if there is none. */
void
dtx_database_want(DtxDatabase *database)
{
	bool		running;

	SpinLockAcquire(&database->mutex);
	database->wanted = true;
	running = database->scanner_latch != NULL;
	SpinLockRelease(&database->mutex);
	if (!running)
		dtx_launcher_wake();
}

/*
 * There may be flows that are due; with "changed" somebody has changed the row
 * of one that may be driven right now.  Never throws.
 */
void
dtx_flows_wake(DtxDatabase *database, bool changed)
{
	Latch	   *latches[DTX_FLOW_WORKERS_MAX];
	bool		running = true;

	if (database == NULL)
		return;
	SpinLockAcquire(&database->mutex);
	database->flows_submitted++;
	if (changed)
		database->flows_changed++;
	memcpy(latches, database->flow_latches, sizeof(latches));
	/* each of them has flows of its own */
	for (int i = 0; i < dtx_workers; i++)
		running = running && latches[i] != NULL;
	if (!running)
		database->flows_wanted = true;
	SpinLockRelease(&database->mutex);
	for (int i = 0; i < DTX_FLOW_WORKERS_MAX; i++)
		if (latches[i] != NULL)
			SetLatch(latches[i]);
	if (!running)
		dtx_launcher_wake();
}

/*
 * Somebody who drove flows has ended, and did not wait for answers: operations
 * may be on their way of which nobody knows, of flows that exist by now.  Also
 * for processes that exit.
 */
void
dtx_flows_lose(DtxDatabase *database)
{
	uint64		next;

	if (database == NULL)
		return;
	LWLockReleaseAll();
	next = U64FromFullTransactionId(ReadNextFullTransactionId());
	SpinLockAcquire(&database->mutex);
	database->flows_lost = Max(database->flows_lost, next);
	SpinLockRelease(&database->mutex);
}

/* Has that become of a flow, by the xid of its submission? */
bool
dtx_flow_may_be_lost(DtxDatabase *database, uint64 xid)
{
	bool		lost;

	SpinLockAcquire(&database->mutex);
	lost = xid < database->flows_lost;
	SpinLockRelease(&database->mutex);
	return lost;
}

uint64
dtx_flows_changed(DtxDatabase *database)
{
	uint64		value;

	SpinLockAcquire(&database->mutex);
	value = database->flows_changed;
	SpinLockRelease(&database->mutex);
	return value;
}

uint64
dtx_flows_submitted(DtxDatabase *database)
{
	uint64		value;

	SpinLockAcquire(&database->mutex);
	value = database->flows_submitted;
	SpinLockRelease(&database->mutex);
	return value;
}

/*
 * An operation has no success yet: at that time operators are to be told, if it
 * has none until then.  The scanner sees to it.
 */
void
dtx_flows_alert_at(DtxDatabase *database, TimestampTz at)
{
	bool		first;

	SpinLockAcquire(&database->mutex);
	first = database->flows_alert_at == 0;
	if (first || at < database->flows_alert_at)
		database->flows_alert_at = at;
	SpinLockRelease(&database->mutex);
	/* it may be asleep, or gone */
	if (first)
		dtx_database_wake(database);
}

/* When is that?  0: there is none. */
TimestampTz
dtx_flows_alert(DtxDatabase *database)
{
	TimestampTz at;

	SpinLockAcquire(&database->mutex);
	at = database->flows_alert_at;
	SpinLockRelease(&database->mutex);
	return at;
}

/* The tables say when the next one is, and what was seen before is done with. */
void
dtx_flows_alert_next(DtxDatabase *database, TimestampTz seen, TimestampTz next)
{
	SpinLockAcquire(&database->mutex);
	if (database->flows_alert_at == seen || database->flows_alert_at == 0 ||
		(next != 0 && next < database->flows_alert_at))
		database->flows_alert_at = next;
	SpinLockRelease(&database->mutex);
}

/*
 * A session has a branch open, after it has counted that: somebody has to look
 * after deadlocks, and to forget what will be finished.
 */
void
dtx_database_begun(DtxDatabase *database)
{
	Latch	   *latch = database->scanner_latch;

	/* the count was raised by an atomic operation, which is a barrier */
	if (latch != NULL && !database->asleep)
		return;
	dtx_database_want(database);
	/* not with work: there is none yet */
	if (latch != NULL)
		SetLatch(latch);
}

/*
 * The scanner has nothing to do, and does not want to look again by itself.
 * False if somebody has just begun something.
 */
bool
dtx_database_fall_asleep(DtxDatabase *database)
{
	bool		asleep;

	SpinLockAcquire(&database->mutex);
	database->asleep = true;
	SpinLockRelease(&database->mutex);
	pg_memory_barrier();
	asleep = !dtx_nodes_open(database->database);
	SpinLockAcquire(&database->mutex);
	asleep = asleep && !database->work && database->finished_count == 0 &&
		database->request_count == 0;
	database->asleep = asleep;
	SpinLockRelease(&database->mutex);
	return asleep;
}

/*
 * All branches of xid have committed: its row may be forgotten.  Without
 * room the scanner finds that out by asking the nodes.  Never throws.
 */
bool
dtx_database_add_finished(DtxDatabase *database, uint64 xid)
{
	int			count;
	Latch	   *latch;

	SpinLockAcquire(&database->mutex);
	count = database->finished_count;
	if (count < DTX_FINISHED_MAX)
		database->finished[database->finished_count++] = xid;
	latch = database->scanner_latch;
	database->wanted = true;
	SpinLockRelease(&database->mutex);

	if (latch == NULL && count % DTX_FINISHED_WAKE == 0)
		dtx_launcher_wake();
	else if (latch != NULL && count == DTX_FINISHED_WAKE)
		SetLatch(latch);
	return count < DTX_FINISHED_MAX;
}

/* Is xid known to be finished on all nodes, and only its row not forgotten? */
bool
dtx_database_is_finished(DtxDatabase *database, uint64 xid)
{
	bool		finished = false;

	SpinLockAcquire(&database->mutex);
	for (int i = 0; i < database->finished_count && !finished; i++)
		finished = database->finished[i] == xid;
	SpinLockRelease(&database->mutex);
	return finished;
}

/* All of these, in order, and how many. */
int
dtx_database_finished(DtxDatabase *database, uint64 **xids)
{
	int			count;

	*xids = palloc(sizeof(uint64) * DTX_FINISHED_MAX);
	SpinLockAcquire(&database->mutex);
	count = database->finished_count;
	memcpy(*xids, database->finished, sizeof(uint64) * count);
	SpinLockRelease(&database->mutex);
	qsort(*xids, count, sizeof(uint64), dtx_compare_u64);
	return count;
}

/*
 * A local transaction with tries has committed: have its flow's row written by
 * a worker, which is woken.  Without room it finds that out later.  Never
 * throws.
 */
void
dtx_database_add_tcc_end(DtxDatabase *database, uint64 xid, uint64 nonce, bool confirmed)
{
	SpinLockAcquire(&database->mutex);
	if (database->tcc_end_count < DTX_TCC_ENDS_MAX)
	{
		DtxTccEnd  *end = &database->tcc_ends[database->tcc_end_count++];

		end->xid = xid;
		end->nonce = nonce;
		end->confirmed = confirmed;
	}
	SpinLockRelease(&database->mutex);
	dtx_flows_wake(database, false);
}

/* All of these (there is room for DTX_TCC_ENDS_MAX), and how many. */
int
dtx_database_tcc_ends(DtxDatabase *database, DtxTccEnd *ends)
{
	int			count;

	SpinLockAcquire(&database->mutex);
	count = database->tcc_end_count;
	memcpy(ends, database->tcc_ends, sizeof(DtxTccEnd) * count);
	SpinLockRelease(&database->mutex);
	return count;
}

/* These are written down; another worker may have been at it as well. */
void
dtx_database_drop_tcc_ends(DtxDatabase *database, const DtxTccEnd *ends, int count)
{
	int			kept = 0;

	SpinLockAcquire(&database->mutex);
	for (int i = 0, k = 0; i < database->tcc_end_count; i++)
	{
		/* in the same order, apart from what somebody has dropped */
		int			at = k;

		while (at < count && ends[at].nonce != database->tcc_ends[i].nonce)
			at++;
		if (at < count)
			k = at + 1;
		else
			database->tcc_ends[kept++] = database->tcc_ends[i];
	}
	database->tcc_end_count = kept;
	SpinLockRelease(&database->mutex);
}

/*
 * A try was sent and not answered, and its transaction has not committed it.
 * Without room it is found when it has come.  Never throws.
 */
void
dtx_database_add_orphan(DtxDatabase *database, const DtxOrphan *orphan)
{
	SpinLockAcquire(&database->mutex);
	if (database->orphan_count < DTX_ORPHANS_MAX)
		database->orphans[database->orphan_count++] = *orphan;
	SpinLockRelease(&database->mutex);
}

/* Those of a server (there is room for DTX_ORPHANS_MAX), and how many. */
int
dtx_database_orphans(DtxDatabase *database, Oid serverid, DtxOrphan *orphans)
{
	int			count = 0;

	SpinLockAcquire(&database->mutex);
	for (int i = 0; i < database->orphan_count; i++)
		if (database->orphans[i].serverid == serverid)
			orphans[count++] = database->orphans[i];
	SpinLockRelease(&database->mutex);
	return count;
}

void
dtx_database_drop_orphan(DtxDatabase *database, const DtxGid *gid)
{
	int			kept = 0;

	SpinLockAcquire(&database->mutex);
	for (int i = 0; i < database->orphan_count; i++)
	{
		const DtxGid *other = &database->orphans[i].gid;

		if (other->xid != gid->xid || other->nonce != gid->nonce || other->branch != gid->branch)
			database->orphans[kept++] = database->orphans[i];
	}
	database->orphan_count = kept;
	SpinLockRelease(&database->mutex);
}

/* What is known of a node; NULL if nothing, or if there is no room. */
DtxNode *
dtx_node_state(Oid database, Oid serverid, bool create)
{
	DtxNodeKey	key = {database, serverid};
	DtxNode    *node;
	bool		found = true;

	LWLockAcquire(dtx_shared->lock, create ? LW_EXCLUSIVE : LW_SHARED);
	node = hash_search(dtx_nodes, &key, create ? HASH_ENTER_NULL : HASH_FIND, &found);
	if (node != NULL && !found)
	{
		memset((char *) node + sizeof(DtxNodeKey), 0, sizeof(DtxNode) - sizeof(DtxNodeKey));
		SpinLockInit(&node->mutex);
		pg_atomic_init_u32(&node->open_branches, 0);
		/* Whatever an earlier run of the server left there has to be found. */
		node->uncertain = 1;
		node->watched_from = dtx_now();	/* and what may still arrive there */
	}
	LWLockRelease(dtx_shared->lock);
	return node;
}

/* Something may be left on the node: the scanner has to look.  Never throws. */
void
dtx_node_uncertain(DtxNode *node)
{
	DtxTime now = dtx_now();

	SpinLockAcquire(&node->mutex);
	node->uncertain++;
	node->watched_from = now;
	SpinLockRelease(&node->mutex);
}

/*
 * Somebody waits for what is left on the node: look at it now, unless it
 * fails.  Never throws.
 */
void
dtx_node_hurry(DtxNode *node)
{
	SpinLockAcquire(&node->mutex);
	node->uncertain++;
	if (node->failures == 0)
		node->next_try_at = 0;
	SpinLockRelease(&node->mutex);
}

/* The node has never been used: nothing of an earlier run is there. */
void
dtx_node_new(DtxNode *node)
{
	SpinLockAcquire(&node->mutex);
	if (node->uncertain == 1)
	{
		node->clean = node->uncertain;
		node->watched_from = 0;
	}
	SpinLockRelease(&node->mutex);
}

/* Something that was under way may still arrive there. */
void
dtx_node_watch(DtxNode *node)
{
	DtxTime now = dtx_now();

	SpinLockAcquire(&node->mutex);
	node->watched_from = now;
	SpinLockRelease(&node->mutex);
}

/* Something may be left on a node, of all nodes of a database.  Never throws. */
void
dtx_nodes_uncertain(Oid database)
{
	HASH_SEQ_STATUS scan;
	DtxNode    *node;

	LWLockAcquire(dtx_shared->lock, LW_SHARED);
	hash_seq_init(&scan, dtx_nodes);
	while ((node = hash_seq_search(&scan)) != NULL)
		if (node->key.database == database)
		{
			dtx_node_uncertain(node);
			node->next_try_at = 0;
		}
	LWLockRelease(dtx_shared->lock);
}

/* Does a session have a branch open on a node of this database? */
bool
dtx_nodes_open(Oid database)
{
	HASH_SEQ_STATUS scan;
	DtxNode    *node;
	bool		open = false;

	LWLockAcquire(dtx_shared->lock, LW_SHARED);
	hash_seq_init(&scan, dtx_nodes);
	while ((node = hash_seq_search(&scan)) != NULL)
		if (node->key.database == database &&
			pg_atomic_read_u32(&node->open_branches) > 0)
			open = true;
	LWLockRelease(dtx_shared->lock);
	return open;
}

/* May something be unfinished on a node of this database (or of one of them)? */
bool
dtx_nodes_unfinished(Oid database, Oid serverid)
{
	HASH_SEQ_STATUS scan;
	DtxNode    *node;
	bool		unfinished = false;

	LWLockAcquire(dtx_shared->lock, LW_SHARED);
	hash_seq_init(&scan, dtx_nodes);
	while ((node = hash_seq_search(&scan)) != NULL)
		if (node->key.database == database &&
			(!OidIsValid(serverid) || node->key.serverid == serverid) &&
			(node->uncertain != node->clean || node->pending > 0 || node->held > 0 ||
			 pg_atomic_read_u32(&node->open_branches) > 0))
			unfinished = true;
	LWLockRelease(dtx_shared->lock);
	return unfinished;
}

/* Nothing can be found on servers that were dropped or never used. */
void
dtx_nodes_settle(Oid database, bool (*in_use) (Oid serverid))
{
	HASH_SEQ_STATUS scan;
	DtxNode    *node;
	List	   *entries = NIL;
	ListCell   *cell;

	LWLockAcquire(dtx_shared->lock, LW_SHARED);
	hash_seq_init(&scan, dtx_nodes);
	while ((node = hash_seq_search(&scan)) != NULL)
		if (node->key.database == database)
			entries = lappend(entries, node);
	LWLockRelease(dtx_shared->lock);
	foreach(cell, entries)
	{
		node = lfirst(cell);
		if (in_use(node->key.serverid))
			continue;
		SpinLockAcquire(&node->mutex);
		node->clean = node->uncertain;
		node->pending = node->held = 0;
		SpinLockRelease(&node->mutex);
	}
	list_free(entries);
}

/* A database is gone, with all that was known of its nodes. */
void
dtx_database_forget(Oid database)
{
	DtxDatabase *entry = dtx_database(database, false);
	HASH_SEQ_STATUS scan;
	DtxNode    *node;

	LWLockAcquire(dtx_shared->lock, LW_EXCLUSIVE);
	if (entry != NULL)
		entry->database = InvalidOid;
	hash_seq_init(&scan, dtx_nodes);
	while ((node = hash_seq_search(&scan)) != NULL)
		if (node->key.database == database)
			hash_search(dtx_nodes, &node->key, HASH_REMOVE, NULL);
	LWLockRelease(dtx_shared->lock);
}

void
dtx_node_reached(DtxNode *node)
{
	SpinLockAcquire(&node->mutex);
	node->hung = false;
	node->failures = 0;
	node->failing_since = 0;
	node->next_try_at = 0;
	node->reached_at = GetCurrentTimestamp();
	node->tried_at = dtx_now();
	node->last_error[0] = '\0';
	SpinLockRelease(&node->mutex);
}

/* One more failure; try again after a pause that doubles up to its bound. */
void
dtx_node_failed(DtxNode *node, const char *error, int backoff_max_ms)
{
	DtxTime now = dtx_now();
	int64		pause_ms;
	char		text[DTX_ERROR_SIZE];

	strlcpy(text, error, sizeof(text));
	SpinLockAcquire(&node->mutex);
	if (node->failures++ == 0)
		node->failing_since = GetCurrentTimestamp();
	pause_ms = Min(INT64CONST(200) << Min(node->failures - 1, 20), (int64) backoff_max_ms);
	node->tried_at = now;
	node->next_try_at = dtx_later(now, pause_ms);
	memcpy(node->last_error, text, sizeof(text));
	SpinLockRelease(&node->mutex);
}

/*
 * While a backend runs phase two, its transaction is over for everyone else:
 * this tells scanners to leave its branches alone.  Set before the commit
 * record, cleared at the end of the COMMIT or ABORT callback.
 */
void
dtx_phase_two_set(uint64 xid)
{
	pg_atomic_write_u64(&dtx_shared->phase_two[DTX_MY_PROC_INDEX], xid);
}

void
dtx_phase_two_clear(void)
{
	pg_atomic_write_u64(&dtx_shared->phase_two[DTX_MY_PROC_INDEX], 0);
}

bool
dtx_phase_two_running(uint64 xid)
{
	pg_memory_barrier();
	for (int i = 0; i < dtx_shared->phase_two_count; i++)
		if (pg_atomic_read_u64(&dtx_shared->phase_two[i]) == xid)
			return true;
	return false;
}

void
dtx_count(DtxCounter counter, int64 by)
{
	if (dtx_shared != NULL)
		pg_atomic_fetch_add_u64(&dtx_shared->counters[counter], by);
}

/*
 * May what is committed here up to this be spread?  Only when it has reached
 * the synchronous standbys: a wait for them may have been broken off, and left
 * that to whoever goes on.
 */
bool
dtx_is_replicated(XLogRecPtr lsn)
{
	bool		replicated;

	if (max_wal_senders == 0 || !dtx_sync_standbys_defined())
		return true;
	/* whoever drops the setting wakes the waiters first, under this lock */
	LWLockAcquire(SyncRepLock, LW_SHARED);
	replicated = !dtx_sync_standbys_defined() ||
		WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH] >= lsn;
	LWLockRelease(SyncRepLock);
	return replicated;
}
