/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The worker that starts scanners.
 *
 *		At the start of the server every database that is no template gets a
 *		scanner once; those without the extension leave again.  Later one is
 *		started where somebody needs it, and after dtx.sweep_interval.
 *
 * (1) It is connected to no database, and so in nobody's way.
 * (2) A scanner that died is started again, after a second at the earliest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "guc.h"
#include "launcher.h"
#include "life.h"

#define RESTART_PAUSE_MS 1000

/* What the launcher knows of the scanner of each entry. */
typedef struct Started
{
	Oid			database;
	BackgroundWorkerHandle *handle;
	DtxTime at;
	BackgroundWorkerHandle *flow_handle[DTX_FLOW_WORKERS_MAX];
	DtxTime		flows_at;
} Started;

static Started *started;

/* What all workers have in common. */
void
dtx_worker_describe(BackgroundWorker *worker, const char *function,
					const char *type, Oid database)
{
	memset(worker, 0, sizeof(BackgroundWorker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker->bgw_library_name, sizeof(worker->bgw_library_name), "dtx");
	snprintf(worker->bgw_function_name, sizeof(worker->bgw_function_name), "%s", function);
	snprintf(worker->bgw_type, BGW_MAXLEN, "%s", type);
	if (OidIsValid(database))
		snprintf(worker->bgw_name, BGW_MAXLEN, "%s for database %u", type, database);
	else
		snprintf(worker->bgw_name, BGW_MAXLEN, "%s", type);
	worker->bgw_main_arg = ObjectIdGetDatum(database);
	worker->bgw_notify_pid = MyProcPid;
}

void
dtx_launcher_init(void)
{
	BackgroundWorker worker;

	if (IsBinaryUpgrade)
		return;
	dtx_worker_describe(&worker, "dtx_launcher_main", "dtx launcher", InvalidOid);
	worker.bgw_restart_time = 1;
	worker.bgw_notify_pid = 0;
	RegisterBackgroundWorker(&worker);
}

static void
launcher_exit(int code, Datum arg)
{
	dtx_shared->launcher_latch = NULL;
	dtx_shared->launcher_pid = 0;
}

/* Databases that can have a scanner. */
static List *
list_databases(void)
{
	List	   *result = NIL;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;
	MemoryContext caller = CurrentMemoryContext;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datallowconn && !form->datistemplate)
		{
			MemoryContext old = MemoryContextSwitchTo(caller);

			result = lappend_oid(result, form->oid);
			MemoryContextSwitchTo(old);
		}
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return result;
}

static void
wait_for_news(long timeout_ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

static BackgroundWorkerHandle *
start_scanner(Oid database)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	dtx_worker_describe(&worker, "dtx_scanner_main", "dtx scanner", database);
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

static void
report_no_room(void)
{
	ereport(LOG,
			(errmsg("dtx: no room for a scanner: nothing is recovered until there is"),
			 errhint("Raise max_worker_processes.")));
}

/* Is the worker gone, or was there none? */
static bool
is_stopped(BackgroundWorkerHandle *handle)
{
	pid_t		pid;

	return handle == NULL || GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED;
}

/* After the start of the server: each database once, a few at a time. */
static void
first_round(void)
{
	List	   *databases = list_databases();
	ListCell   *cell;

	foreach(cell, databases)
	{
		Oid			database = lfirst_oid(cell);
		BackgroundWorkerHandle *handle;
		bool		settled = false;

		for (bool told = false; (handle = start_scanner(database)) == NULL; told = true)
		{
			if (!told)
				report_no_room();
			wait_for_news(RESTART_PAUSE_MS);
		}
		while (!settled && !is_stopped(handle))
		{
			DtxDatabase *entry = dtx_database(database, false);

			settled = entry != NULL && entry->scanner_pid != 0;
			if (!settled)
				wait_for_news(50);
		}
		pfree(handle);
	}
	list_free(databases);
}

/*
 * Start the workers that drive the flows of a database.  Returns how long
 * nothing will have to be done.
 */
static long
start_flow_workers(DtxDatabase *entry, Started *state, DtxTime now)
{
	bool		wanted;
	bool		failed = false;
	bool		leaving = false;

	SpinLockAcquire(&entry->mutex);
	/* without any they are wanted still when the setting changes */
	wanted = entry->flows_wanted && entry->stop_count == 0 &&
		entry->state == DTX_DATABASE_READY && dtx_workers > 0;
	SpinLockRelease(&entry->mutex);
	if (!wanted)
		return RESTART_PAUSE_MS * 3600L;
	if (!dtx_exceeds(state->flows_at, now, 100))
		return 100;
	state->flows_at = now;
	SpinLockAcquire(&entry->mutex);
	entry->flows_wanted = false;
	SpinLockRelease(&entry->mutex);
	for (int i = 0; i < dtx_workers; i++)
	{
		BackgroundWorker worker;

		if (!is_stopped(state->flow_handle[i]))
		{
			/* on its way in, or out */
			leaving = leaving || entry->flow_pids[i] == 0;
			continue;
		}
		if (state->flow_handle[i] != NULL)
			pfree(state->flow_handle[i]);
		state->flow_handle[i] = NULL;
		dtx_worker_describe(&worker, "dtx_flow_worker_main", "dtx flow worker", entry->database);
		memcpy(worker.bgw_extra, &i, sizeof(int));
		if (!RegisterDynamicBackgroundWorker(&worker, &state->flow_handle[i]))
		{
			state->flow_handle[i] = NULL;
			failed = true;
		}
	}
	if (failed)
	{
		report_no_room();
		SpinLockAcquire(&entry->mutex);
		entry->flows_wanted = true;
		SpinLockRelease(&entry->mutex);
		return RESTART_PAUSE_MS;
	}
	if (leaving)
	{
		SpinLockAcquire(&entry->mutex);
		entry->flows_wanted = true;
		SpinLockRelease(&entry->mutex);
		return 100;
	}
	return RESTART_PAUSE_MS * 3600L;
}

/* Start what is needed; returns how long nothing will have to be done. */
static long
start_needed(void)
{
	long		timeout_ms = (long) dtx_sweep_interval_s * 1000;
	DtxTime now = dtx_now();

	for (int i = 0; i < dtx_shared->database_count; i++)
	{
		DtxDatabase *entry = &dtx_shared->databases[i];
		Oid			database = entry->database;
		bool		needed;
		DtxTime swept_at;

		if (!OidIsValid(database))
			continue;
		if (started[i].database != database)
		{
			memset(&started[i], 0, sizeof(Started));
			started[i].database = database;
		}
		timeout_ms = Min(timeout_ms, start_flow_workers(entry, &started[i], now));
		SpinLockAcquire(&entry->mutex);
		swept_at = dtx_later(entry->left_at, (int64) dtx_sweep_interval_s * 1000);
		needed = entry->scanner_pid == 0 && entry->stop_count == 0 &&
			(entry->wanted || (entry->state == DTX_DATABASE_READY && swept_at <= now));
		SpinLockRelease(&entry->mutex);
		if (!needed || !is_stopped(started[i].handle))
			continue;
		if (!dtx_exceeds(started[i].at, now, RESTART_PAUSE_MS) &&
			!entry->wanted)
		{
			timeout_ms = Min(timeout_ms, RESTART_PAUSE_MS);
			continue;
		}
		if (!dtx_exceeds(started[i].at, now, 100))
		{
			timeout_ms = Min(timeout_ms, 100);
			continue;
		}
		if (started[i].handle != NULL)
			pfree(started[i].handle);
		started[i].handle = start_scanner(database);
		started[i].at = now;
		if (started[i].handle == NULL)
		{
			report_no_room();
			timeout_ms = Min(timeout_ms, RESTART_PAUSE_MS);
		}
	}
	return timeout_ms;
}

void
dtx_launcher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	dtx_life_boot();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	before_shmem_exit(launcher_exit, (Datum) 0);
	dtx_shared->launcher_pid = MyProcPid;
	dtx_shared->launcher_latch = MyLatch;
	started = MemoryContextAllocZero(TopMemoryContext,
									 sizeof(Started) * dtx_shared->database_count);
	pgstat_report_activity(STATE_IDLE, "dtx: starts scanners");

	first_round();
	for (;;)
		wait_for_news(start_needed());
}
