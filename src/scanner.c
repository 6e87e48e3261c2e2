/*-------------------------------------------------------------------------
 *
 * scanner.c
 *		The worker of one database: writes down what sessions ask for,
 *		forgets what is finished, and has the resolver look at nodes.
 *
 *		starting	-> ready, unadopted, no extension, template, mismatch
 *		ready		-> gone after dtx.scanner_idle_timeout, back when needed
 *
 * (1) There is one per database: it holds a lock whose tag SQL cannot take.
 * (2) It holds no transaction while it sleeps or waits for a node.
 * (3) While its life is not adopted it sends nothing at all.
 * (4) With nothing to do it falls asleep until the next sweep: whoever opens a
 *	   branch, or leaves something behind, wakes it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/vacuum.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_node.h"
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
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "deadlock.h"
#include "fault.h"
#include "guc.h"
#include "launcher.h"
#include "life.h"
#include "node.h"
#include "quiet.h"
#include "resolver.h"
#include "session.h"
#include "store.h"
#include "store_flow.h"

/* The status table is vacuumed after so many rows were forgotten. */
#define VACUUM_AFTER 8192
/* Advisory locks of SQL have 1 or 2 in this place. */
#define LOCK_SCANNER 0xD7
#define LOCK_PASS 0xD8
/* How long a worker waits for a lock on a row or table. */
#define LOCK_TIMEOUT "1s"
/* Its connections to nodes are kept for so long after somebody waited. */
#define DEADLOCK_LINGER_MS 10000
/* Between two looks at what is stuck. */
#define ALERT_PAUSE_MS 1000
/* After a round that failed. */
#define ERROR_PAUSE_MS 1000

static DtxDatabase *database = NULL;
static int64 forgotten = 0;

static bool
worker_lock(uint16 kind, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, kind);
	return LockAcquire(&tag, ExclusiveLock, true, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

static void
worker_unlock(uint16 kind)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, kind);
	LockRelease(&tag, ExclusiveLock, true);
}

/* A round that failed may have left the pass locked. */
static void
worker_unlock_all(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, LOCK_PASS);
	while (DTX_LOCK_HELD(&tag, ExclusiveLock))
		LockRelease(&tag, ExclusiveLock, true);
	dtx_quiet_leave_all();
}

static void
set_state(DtxDatabaseState state)
{
	SpinLockAcquire(&database->mutex);
	database->state = state;
	SpinLockRelease(&database->mutex);
	ConditionVariableBroadcast(&database->changed);
}

static void
scanner_exit(int code, Datum arg)
{
	SpinLockAcquire(&database->mutex);
	database->scanner_pid = 0;
	database->scanner_latch = NULL;
	database->asleep = false;
	database->left_at = dtx_now();
	if (code != 0)
		database->wanted = true;	/* not of its own will */
	SpinLockRelease(&database->mutex);
	ConditionVariableBroadcast(&database->changed);
	dtx_launcher_wake();
}

static void
begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
}

/* Is this a template?  Then nobody may be connected for long. */
static bool
is_template(void)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	bool		result = !HeapTupleIsValid(tuple) ||
		((Form_pg_database) GETSTRUCT(tuple))->datistemplate;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/* Find out what this database is to dtx, and begin its life if it has one. */
static DtxDatabaseState
identify(void)
{
	DtxDatabaseState state;
	DtxLifeStart started = {0};
	char	   *version = NULL;

	begin();
	if (is_template())
		state = DTX_DATABASE_TEMPLATE;
	else if (!dtx_store_version(&version))
		state = DTX_DATABASE_NO_EXTENSION;
	else if (strcmp(version, DTX_VERSION) != 0)
	{
		ereport(LOG,
				(errmsg("dtx: SQL objects of database %u have version %s, the library has %s",
						MyDatabaseId, version, DTX_VERSION),
				 errhint("ALTER EXTENSION dtx UPDATE.")));
		state = DTX_DATABASE_MISMATCH;
	}
	else
	{
		if (database == NULL)
			database = dtx_database(MyDatabaseId, true);
		if (database == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("dtx: too many databases use dtx"),
					 errhint("Raise dtx.max_databases and restart the server.")));
		state = dtx_life_start(database, &started);
		ForceSyncCommit();
	}
	CommitTransactionCommand();
	if (started.life != 0)
	{
		database->lineage = started.lineage;
		pg_atomic_write_u64(&database->life, started.life);
	}
	return state;
}

/* Write down where sessions are about to open branches. */
static void
serve_requests(void)
{
	DtxRequest	requests[DTX_REQUESTS_MAX];
	int			count;

	SpinLockAcquire(&database->mutex);
	count = database->request_count;
	memcpy(requests, database->requests, sizeof(DtxRequest) * count);
	SpinLockRelease(&database->mutex);
	if (count == 0)
		return;
	begin();
	dtx_store_add_nodes(requests, count);
	ForceSyncCommit();
	CommitTransactionCommand();

	SpinLockAcquire(&database->mutex);
	database->request_count -= count;
	memmove(database->requests, &database->requests[count],
			sizeof(DtxRequest) * database->request_count);
	SpinLockRelease(&database->mutex);
	ConditionVariableBroadcast(&database->changed);
}

/*
 * Forget the status rows of transactions whose sessions saw every branch
 * commit.  Losing this in a crash does no harm: it is found out again.
 */
static void
forget_finished(void)
{
	static uint64 xids[DTX_FINISHED_MAX];
	int			count;

	SpinLockAcquire(&database->mutex);
	count = database->finished_count;
	memcpy(xids, database->finished, sizeof(uint64) * count);
	SpinLockRelease(&database->mutex);
	if (count == 0)
		return;
	DTX_FAULT("scan_before_forget");
	begin();
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	dtx_store_forget_finished(pg_atomic_read_u64(&database->life), xids, count);
	CommitTransactionCommand();
	forgotten += count;

	SpinLockAcquire(&database->mutex);
	database->finished_count -= count;
	memmove(database->finished, &database->finished[count],
			sizeof(uint64) * database->finished_count);
	SpinLockRelease(&database->mutex);
}

/*
 * Rows come and go at the rate of commits: do not leave it to autovacuum's
 * rounds to make their room reusable.
 */
static void
vacuum_decisions(void)
{
	VacuumStmt *statement;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "dtx vacuum",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;

	begin();
	old = MemoryContextSwitchTo(context);
	PortalContext = context;
	statement = makeNode(VacuumStmt);
	statement->is_vacuumcmd = true;
	statement->options = list_make1(makeDefElem("skip_locked", (Node *) makeInteger(1), -1));
	statement->rels = list_make1(makeVacuumRelation(makeRangeVar(DTX_SCHEMA, "decision", -1),
													InvalidOid, NIL));
	ExecVacuum(make_parsestate(NULL), statement, true);
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	PortalContext = NULL;
	MemoryContextDelete(context);
	forgotten = 0;
}

/*
 * Try a failing node from a process of its own: connecting may block.  Within
 * a pass there is no second one here if that is not to be had.
 */
static void
start_node_workers(bool in_pass)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "dtx nodes",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DtxTime now = dtx_now();
	DtxTime when = DTX_NEVER;
	List	   *nodes;
	ListCell   *cell;

	begin();
	MemoryContextSwitchTo(context);
	nodes = dtx_store_nodes();
	CommitTransactionCommand();
	foreach(cell, nodes)
	{
		DtxNodeRow *row = lfirst(cell);
		DtxNode    *node = dtx_node_state(MyDatabaseId, row->serverid, true);
		BackgroundWorker worker;
		BackgroundWorkerHandle *handle;

		if (node == NULL || !dtx_node_is_suspect(node) || !dtx_node_is_due(node, now, &when))
			continue;
		dtx_worker_describe(&worker, "dtx_node_worker_main", "dtx node worker", MyDatabaseId);
		memcpy(worker.bgw_extra, &row->serverid, sizeof(Oid));
		SpinLockAcquire(&node->mutex);
		node->trying = true;
		node->trying_from = now;
		SpinLockRelease(&node->mutex);
		if (RegisterDynamicBackgroundWorker(&worker, &handle))
			pfree(handle);
		else
		{
			DtxPass		pass = {.database = database, .only_server = row->serverid};

			/* no room: then here, one of them in this round */
			SpinLockAcquire(&node->mutex);
			node->trying = false;
			SpinLockRelease(&node->mutex);
			if (!in_pass)
				dtx_resolver_pass(&pass);
			break;
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* How long may we sleep?  Nodes tell. */
static long
next_due(bool *busy)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "dtx nodes",
												  ALLOCSET_SMALL_SIZES);
	DtxTime now = dtx_now();
	DtxTime when = dtx_later(now, (int64) dtx_sweep_interval_s * 1000);
	List	   *nodes;
	ListCell   *cell;

	*busy = false;
	begin();
	MemoryContextSwitchTo(context);
	nodes = dtx_store_nodes();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	foreach(cell, nodes)
	{
		DtxNode    *node = dtx_node_state(MyDatabaseId,
										  ((DtxNodeRow *) lfirst(cell))->serverid, true);

		if (node == NULL)
			continue;
		if (dtx_node_is_due(node, now, &when))
			when = now;
		*busy = *busy || node->uncertain != node->clean;
	}
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
	return Max((when - now) / 1000, 1);
}

/* Does anybody have a branch open? */
static bool
has_open_branches(void)
{
	return dtx_nodes_open(MyDatabaseId);
}

static bool
somebody_waits(void)
{
	return dtx_deadlock_interval_ms > 0 && has_open_branches() &&
		dtx_session_waits_long(MyDatabaseId, dtx_deadlock_interval_ms);
}

/* Somebody waits for long: find out for whom, in a process of its own. */
static void
look_for_deadlocks(void)
{
	static BackgroundWorkerHandle *handle = NULL;
	BackgroundWorker worker;
	pid_t		pid;

	if (!somebody_waits())
		return;
	if (handle != NULL && GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED)
		return;
	if (handle != NULL)
		pfree(handle);
	handle = NULL;
	dtx_worker_describe(&worker, "dtx_deadlock_worker_main", "dtx deadlock worker", MyDatabaseId);
	(void) RegisterDynamicBackgroundWorker(&worker, &handle);
}

/* Is any local transaction with branches prepared still?  Its end wakes us. */
static void
look_for_subtrees(void)
{
	uint64		seen;
	bool		none;

	if (!dtx_database_subtrees(database, &seen))
		return;
	begin();
	none = dtx_store_subtrees() == NIL;
	CommitTransactionCommand();
	if (none)
		dtx_database_subtrees_over(database, seen);
}

static int	alerts_open = 1;	/* an earlier scanner may have left some */

/*
 * Tell operators of what does not come to an end.  True if there is nothing
 * to be told yet, but there will be.
 */
static bool
raise_alerts(void)
{
	static DtxTime last = 0;
	bool		adopted = database->state == DTX_DATABASE_READY;
	MemoryContext caller = CurrentMemoryContext;
	DtxTime now = dtx_now();
	TimestampTz flows_at = dtx_flows_alert(database);
	TimestampTz flows_next;
	List	   *raised;
	ListCell   *cell;

	if (alerts_open == 0 && adopted && !dtx_nodes_unfinished(MyDatabaseId, InvalidOid) &&
		(flows_at == 0 || flows_at > GetCurrentTimestamp()))
		return flows_at != 0;
	if (!dtx_exceeds(last, now, ALERT_PAUSE_MS))
		return alerts_open == 0;
	last = now;
	begin();
	alerts_open = dtx_store_alerts(&raised, &flows_next);
	/* what is told already is not to wake us at each of its attempts */
	dtx_flows_alert_next(database, flows_at, flows_next == 0 && alerts_open > 0 ?
						 GetCurrentTimestamp() + (int64) dtx_stuck_after_s * USECS_PER_SEC : flows_next);
	foreach(cell, raised)
		ereport(LOG,
				(errmsg("dtx: alert: %s", (char *) lfirst(cell)),
				 errhint("See dtx.alert and dtx.stuck.")));
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return flows_next != 0 ||
		(alerts_open == 0 && (!adopted || dtx_nodes_unfinished(MyDatabaseId, InvalidOid)));
}

/* Is there nothing that could change without somebody waking us? */
static bool
nothing_to_do(void)
{
	uint64		seen;

	return database->state == DTX_DATABASE_READY && alerts_open == 0 &&
		!dtx_database_subtrees(database, &seen) &&
		!dtx_nodes_unfinished(MyDatabaseId, InvalidOid) &&
		dtx_database_fall_asleep(database);
}

/* Are there flows that nobody drives? */
static bool
start_flows(void)
{
	bool		unfinished;

	begin();
	unfinished = dtx_store_flows_unfinished();
	CommitTransactionCommand();
	if (unfinished)
		dtx_flows_wake(database, false);
	return true;
}

/*
 * Flows that ended long ago, in batches, until somebody wants something else.
 * False if some may be left.
 */
static bool
forget_old_flows(int retention_min)
{
	int			count;

	do
	{
		CHECK_FOR_INTERRUPTS();
		begin();
		count = dtx_store_flow_forget(retention_min);
		CommitTransactionCommand();
	} while (count > 0 && !database->work && database->stop_count == 0);
	return count == 0;
}

/* Between two looks at nodes that are slow: sessions are waiting as well. */
static void
meanwhile(void)
{
	CHECK_FOR_INTERRUPTS();
	SpinLockAcquire(&database->mutex);
	database->work = false;
	SpinLockRelease(&database->mutex);
	serve_requests();
	forget_finished();
	start_node_workers(true);
}

/*
 * Look at everything once.  Returns how long nothing has to be done; leaves
 * the process when there has been nothing for a while.
 */
static long
scanner_round(void)
{
	static DtxTime last_work = 0;
	static DtxTime last_retention = 0;
	static bool flows_seen = false;
	DtxTime now = dtx_now();
	DtxDatabaseState state;
	bool		busy;
	bool		alert_to_come;
	bool		work;
	int			waiting;
	long		timeout_ms;

	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (database->stop_count > 0)
		proc_exit(0);
	SpinLockAcquire(&database->mutex);
	work = database->work;
	database->work = false;
	database->wanted = false;
	database->asleep = false;
	waiting = database->finished_count;
	SpinLockRelease(&database->mutex);
	if (work || waiting > 0 || last_work == 0)
		last_work = now;

	/* the extension may have been dropped, made anew, or adopted */
	pgstat_report_activity(STATE_RUNNING, "dtx: scans");
	state = identify();
	set_state(state);
	if (state != DTX_DATABASE_READY && state != DTX_DATABASE_UNADOPTED)
		proc_exit(0);
	if (state == DTX_DATABASE_READY)
	{
		DtxPass		pass = {.database = database,.leave_failing = true,.meanwhile = meanwhile};

		serve_requests();
		forget_finished();
		if (worker_lock(LOCK_PASS, false))
		{
			dtx_resolver_pass(&pass);
			worker_unlock(LOCK_PASS);
		}
		/* to come back for the next sweep would cost more than to stay */
		if (pass.nodes > 0 && dtx_sweep_interval_s <= dtx_scanner_idle_timeout_s)
			last_work = dtx_now();
		start_node_workers(false);
		look_for_subtrees();
		look_for_deadlocks();
		if (now - last_retention > USECS_PER_MINUTE)
		{
			begin();
			dtx_store_forget_old(dtx_retention_min);
			CommitTransactionCommand();
			if (forget_old_flows(dtx_retention_min))
				last_retention = now;
			flows_seen = false;
		}
		/* after a start, and if a worker did not come up */
		if (!flows_seen)
			flows_seen = start_flows();
		if (forgotten >= VACUUM_AFTER)
			vacuum_decisions();
	}

	alert_to_come = raise_alerts();
	timeout_ms = next_due(&busy);
	if (has_open_branches())
	{
		busy = true;
		if (dtx_deadlock_interval_ms > 0)
			timeout_ms = Min(timeout_ms, dtx_deadlock_interval_ms);
	}
	if (busy || alert_to_come || !nothing_to_do())
		timeout_ms = Min(timeout_ms, dtx_scan_interval_ms);
	else
		timeout_ms = Min(timeout_ms, (long) dtx_scanner_idle_timeout_s * 1000);
	if (busy || alert_to_come)
		last_work = dtx_now();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, state == DTX_DATABASE_READY ?
						   "dtx: sleeps" : "dtx: waits to be adopted");
	if (dtx_exceeds(last_work, dtx_now(),
								   dtx_scanner_idle_timeout_s * 1000))
		proc_exit(0);
	return timeout_ms;
}

/*
 * We were woken: because somebody has begun something, and nothing else?  Then
 * it is not time for a round yet, which would only be in the way.
 */
static bool
only_begun(void)
{
	bool		result;

	SpinLockAcquire(&database->mutex);
	result = database->asleep && !database->work && database->stop_count == 0 &&
		database->request_count == 0 && !ConfigReloadPending;
	database->asleep = false;
	SpinLockRelease(&database->mutex);
	return result;
}

/* Sleep until there is something to do; at most for so long. */
static void
sleep_until(long timeout_ms)
{
	int			events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								   timeout_ms, PG_WAIT_EXTENSION);

	ResetLatch(MyLatch);
	if ((events & WL_LATCH_SET) == 0 || !only_begun())
		return;
	timeout_ms = dtx_scan_interval_ms;
	if (dtx_deadlock_interval_ms > 0)
		timeout_ms = Min(timeout_ms, dtx_deadlock_interval_ms);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout_ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
}

void
dtx_scanner_main(Datum arg)
{
	Oid			databaseid = DatumGetObjectId(arg);
	DtxDatabaseState state;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	database = dtx_database(databaseid, false);
	if (database != NULL && database->stop_count > 0)
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(databaseid, InvalidOid, 0);
	if (!worker_lock(LOCK_SCANNER, false))
		proc_exit(0);
	/* nobody's open transaction is to stop recovery */
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_OVERRIDE);
	pgstat_report_activity(STATE_RUNNING, "dtx: finds out what this database is");
	state = identify();
	if (database == NULL)
		proc_exit(0);			/* nobody has asked, and there is nothing */

	SpinLockAcquire(&database->mutex);
	database->scanner_pid = MyProcPid;
	database->scanner_latch = MyLatch;
	database->wanted = false;
	SpinLockRelease(&database->mutex);
	before_shmem_exit(scanner_exit, (Datum) 0);
	set_state(state);
	if (state != DTX_DATABASE_READY && state != DTX_DATABASE_UNADOPTED)
		proc_exit(0);

	for (;;)
	{
		long		timeout_ms = ERROR_PAUSE_MS;

		/*
		 * One round that fails, by a bad row or somebody's lock, is not the
		 * end: the next one may do better.
		 */
		PG_TRY();
		{
			timeout_ms = scanner_round();
		}
		PG_CATCH();
		{
			HOLD_INTERRUPTS();
			EmitErrorReport();
			AbortCurrentTransaction();
			MemoryContextSwitchTo(TopMemoryContext);
			FlushErrorState();
			RESUME_INTERRUPTS();
		}
		PG_END_TRY();
		worker_unlock_all();
		sleep_until(timeout_ms);
	}
}

static void
node_worker_exit(int code, Datum arg)
{
	DtxNode    *node = (DtxNode *) DatumGetPointer(arg);

	SpinLockAcquire(&node->mutex);
	node->trying = false;
	SpinLockRelease(&node->mutex);
	SpinLockAcquire(&database->mutex);
	database->worker_count--;
	SpinLockRelease(&database->mutex);
	ConditionVariableBroadcast(&database->changed);
	if (database->scanner_latch != NULL)
		SetLatch(database->scanner_latch);
}

/* One pass over one node that failed before. */
void
dtx_node_worker_main(Datum arg)
{
	Oid			databaseid = DatumGetObjectId(arg);
	DtxPass		pass = {0};
	DtxNode    *node;

	memcpy(&pass.only_server, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	database = pass.database = dtx_database(databaseid, false);
	node = dtx_node_state(databaseid, pass.only_server, false);
	if (database == NULL || node == NULL)
		proc_exit(0);
	SpinLockAcquire(&database->mutex);
	database->worker_count++;
	SpinLockRelease(&database->mutex);
	before_shmem_exit(node_worker_exit, PointerGetDatum(node));
	if (database->stop_count > 0 || database->state != DTX_DATABASE_READY)
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(databaseid, InvalidOid, 0);
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_OVERRIDE);
	pgstat_report_activity(STATE_RUNNING, "dtx: tries a node that failed");
	dtx_resolver_pass(&pass);
	dtx_resolver_close();
	proc_exit(0);
}

static void
deadlock_worker_exit(int code, Datum arg)
{
	SpinLockAcquire(&database->mutex);
	database->worker_count--;
	SpinLockRelease(&database->mutex);
	ConditionVariableBroadcast(&database->changed);
}

/* Looks for deadlocks for as long as somebody waits. */
void
dtx_deadlock_worker_main(Datum arg)
{
	Oid			databaseid = DatumGetObjectId(arg);
	DtxTime		waited_at;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	database = dtx_database(databaseid, false);
	if (database == NULL)
		proc_exit(0);
	SpinLockAcquire(&database->mutex);
	database->worker_count++;
	SpinLockRelease(&database->mutex);
	before_shmem_exit(deadlock_worker_exit, (Datum) 0);
	if (database->stop_count > 0 || database->state != DTX_DATABASE_READY)
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(databaseid, InvalidOid, 0);
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_OVERRIDE);
	pgstat_report_activity(STATE_RUNNING, "dtx: looks for deadlocks");
	waited_at = dtx_now();
	while (database->stop_count == 0 && !dtx_exceeds(waited_at, dtx_now(), DEADLOCK_LINGER_MS))
	{
		bool		again = false;

		if (somebody_waits())
		{
			waited_at = dtx_now();
			again = dtx_deadlock_round(database);
		}
		if (!again)
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 Max(dtx_deadlock_interval_ms, 10), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
	dtx_resolver_close();
	proc_exit(0);
}

/* An operator's act takes effect when it has committed: look then. */
static bool look_at_commit = false;

static void
look_callback(XactEvent event, void *arg)
{
	if (!look_at_commit ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT))
		return;
	look_at_commit = false;
	if (event == XACT_EVENT_COMMIT)
	{
		dtx_nodes_uncertain(MyDatabaseId);
		dtx_database_wake(database);
	}
}

static void
look_when_committed(DtxDatabase *entry)
{
	static bool registered = false;

	database = entry;
	if (!registered)
		RegisterXactCallback(look_callback, NULL);
	registered = look_at_commit = true;
}

PG_FUNCTION_INFO_V1(dtx_recover);
PG_FUNCTION_INFO_V1(dtx_resolve);
PG_FUNCTION_INFO_V1(dtx_adopt);

/*
 * CALL dtx.recover(): one full pass over all nodes now, by the code that the
 * scanner runs.  Says how many branches it finished, left for later, and
 * holds.
 */
Datum
dtx_recover(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};
	DtxPass		pass = {.everything = true,.in_transaction = true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("dtx.recover() cannot be called in a transaction block"),
				 errhint("Its rows would stay locked for the scanner until that ends.")));
	PreventCommandIfReadOnly("dtx.recover()");
	PreventCommandDuringRecovery("dtx.recover()");
	pass.database = dtx_node_database(true);
	(void) worker_lock(LOCK_PASS, true);
	PG_TRY();
	{
		dtx_resolver_pass(&pass);
	}
	PG_FINALLY();
	{
		/* connections of other roles are not left to this session */
		dtx_resolver_close();
		dtx_quiet_leave_all();
		worker_unlock(LOCK_PASS);
	}
	PG_END_TRY();
	values[0] = Int64GetDatum(pass.finished);
	values[1] = Int64GetDatum(pass.left);
	values[2] = Int64GetDatum(pass.held);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * dtx.resolve(gid, branch, outcome, note): an operator says how a branch that
 * dtx holds is to end, or that it is settled.  Refused when it contradicts a
 * decision that is known.
 */
Datum
dtx_resolve(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			branch = PG_GETARG_INT32(1);
	char	   *wanted = text_to_cstring(PG_GETARG_TEXT_PP(2));
	char	   *note = text_to_cstring(PG_GETARG_TEXT_PP(3));
	DtxDatabase *entry = dtx_node_database(true);
	DtxGid		gid;
	DtxOutcome	outcome;
	DtxOutcome	known;
	Oid			serverid;

	if (!dtx_gid_parse(name, &gid))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the name of a global transaction of dtx", name)));
	if (gid.branch != 0 && gid.branch != branch)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" names branch %d, not branch %d", name, gid.branch, branch)));
	gid.branch = branch;
	if (strcmp(wanted, "committed") == 0)
		outcome = DTX_OUTCOME_COMMITTED;
	else if (strcmp(wanted, "aborted") == 0)
		outcome = DTX_OUTCOME_ABORTED;
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid outcome \"%s\"", wanted),
				 errhint("It is \"committed\" or \"aborted\".")));
	if (note[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a note is required"),
				 errhint("Say why: it is kept in dtx.event.")));
	if (!dtx_store_branch_find(&gid, &serverid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("branch %d of global transaction \"%s\" waits for nobody", branch, name),
				 errhint("dtx.stuck shows what waits for an operator.")));
	known = dtx_life_outcome(dtx_store_lives(), pg_atomic_read_u64(&entry->life), &gid);
	if (known != DTX_OUTCOME_UNKNOWN && known != outcome)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot resolve a branch of global transaction \"%s\" as %s", name, wanted),
				 errdetail("The transaction is %s.",
						   known == DTX_OUTCOME_COMMITTED ? "committed" :
						   known == DTX_OUTCOME_ABORTED ? "aborted" : "in progress"),
				 errhint("If the node did otherwise, repair its data by hand first, then resolve the branch as the transaction was decided.")));
	known = known != DTX_OUTCOME_UNKNOWN ? known : dtx_store_resolved(&gid);
	if (known != DTX_OUTCOME_UNKNOWN && known != outcome)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot resolve a branch of global transaction \"%s\" as %s", name, wanted),
				 errdetail("Another of its branches was resolved otherwise; see dtx.event.")));
	dtx_store_branch_outcome(&gid, serverid, outcome);
	/* nobody will ever list a server that was dropped */
	if (!SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(serverid)))
	{
		if (known == DTX_OUTCOME_COMMITTED)
			dtx_store_branch(&gid, serverid, "done", NULL, NULL);
		else
			dtx_store_branch_gone(&gid);
		(void) dtx_store_forget_done();
	}
	dtx_store_event(GetUserNameFromId(GetSessionUserId(), false), &gid,
					psprintf("resolved as %s", wanted), note);
	ereport(LOG,
			(errmsg("dtx: branch %d of \"%s\" is resolved as %s by \"%s\"", branch, name, wanted,
					GetUserNameFromId(GetSessionUserId(), false))));
	look_when_committed(entry);
	PG_RETURN_VOID();
}

/*
 * dtx.adopt(life, note): the present life: "this is the coordinator now, the
 * original is gone".  An earlier one: "no commit of it is missing here", so
 * that its undecided branches are rolled back.
 */
Datum
dtx_adopt(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *note = text_to_cstring(PG_GETARG_TEXT_PP(1));
	DtxDatabase *entry = dtx_node_database(false);
	uint64		present = pg_atomic_read_u64(&entry->life);
	const DtxLife *row;
	uint64		life;
	bool		is_present;

	if (!dtx_life_parse(name, &life))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a life", name),
				 errdetail("It is written as 16 hexadecimal digits.")));
	if (note[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a note is required"),
				 errhint("Say why: it is kept in dtx.event.")));
	row = dtx_life_find(dtx_store_lives(), life);
	if (row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("life \"%s\" does not exist", name),
				 errhint("dtx.life has them all.")));
	is_present = life == present;
	if (is_present && (row->trusted || row->adopted))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("life \"%s\" needs no adoption", name)));
	if (!is_present && entry->state != DTX_DATABASE_READY)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the present life is not adopted yet"),
				 errhint("SELECT dtx.adopt('%016llx', 'why') comes first.",
						 (unsigned long long) present)));
	if (!is_present && dtx_life_claim(dtx_store_lives(), present, life) == DTX_LIFE_ENDED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("life \"%s\" needs no adoption", name)));
	(void) dtx_store_adopt(life, is_present, note);
	dtx_store_event(GetUserNameFromId(GetSessionUserId(), false), NULL,
					psprintf("adopted life %s", name), note);
	look_when_committed(entry);
	PG_RETURN_VOID();
}
