/*-------------------------------------------------------------------------
 *
 * shmem.h
 *		What sessions, launcher and scanners share in memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_SHMEM_H
#define DTX_SHMEM_H

#include "access/xlogdefs.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "deadline.h"
#include "dtx.h"

/* Finished transactions that wait for their status row to be forgotten. */
#define DTX_FINISHED_MAX 4096
/* From here on the scanner is woken to forget them. */
#define DTX_FINISHED_WAKE 1024
/* (server, role) pairs that wait for the scanner to write them down. */
#define DTX_REQUESTS_MAX 32
#define DTX_ERROR_SIZE 256
/* Bound TCC transactions whose sessions have ended, for the workers. */
#define DTX_TCC_ENDS_MAX 1024
/* Tries that nobody has an answer to. */
#define DTX_ORPHANS_MAX 256
/* Workers of one database that drive flows. */
#define DTX_FLOW_WORKERS_MAX 16

typedef enum DtxDatabaseState
{
	DTX_DATABASE_STARTING,		/* the scanner has not got there yet */
	DTX_DATABASE_READY,			/* its life is written down */
	DTX_DATABASE_UNADOPTED,		/* a copy: sends nothing until dtx.adopt() */
	DTX_DATABASE_NO_EXTENSION,
	DTX_DATABASE_TEMPLATE,
	DTX_DATABASE_MISMATCH		/* SQL objects of another version */
} DtxDatabaseState;

typedef struct DtxRequest
{
	Oid			serverid;
	Oid			roleid;
	bool		tries;			/* for TCC branches, too */
} DtxRequest;

/* A TCC transaction that was bound to a local one, which has committed. */
typedef struct DtxTccEnd
{
	uint64		xid;
	uint64		nonce;
	bool		confirmed;		/* all of it; else there is something to do */
} DtxTccEnd;

/* A try that was sent and not answered: it has to be cancelled before it comes. */
typedef struct DtxOrphan
{
	DtxGid		gid;			/* branch: number of the try */
	Oid			serverid;
	Oid			roleid;
} DtxOrphan;

/* One database.  Everything below "mutex" is guarded by it. */
typedef struct DtxDatabase
{
	Oid			database;		/* set under the lock, cleared likewise */
	pg_atomic_uint64 life;
	ConditionVariable changed;	/* broadcast when the scanner moved */
	slock_t		mutex;
	uint64		lineage;
	DtxDatabaseState state;
	pid_t		scanner_pid;	/* 0: none */
	Latch	   *scanner_latch;
	int			stop_count;		/* > 0: the scanner has to stay away */
	bool		starting;		/* the launcher has registered a scanner */
	bool		wanted;			/* somebody needs a scanner */
	bool		work;			/* the scanner has something to do now */
	bool		asleep;			/* it has nothing to do, and does not look by itself */
	int			worker_count;	/* workers that try a failing node, or look for deadlocks */
	DtxTime left_at;		/* when the last scanner left */
	uint64		subtrees;		/* raised by who prepared a local transaction */
	uint64		subtrees_over;	/* value of subtrees when none was left */
	bool		flows_wanted;	/* workers for flows are to be started */
	uint64		flows_changed;	/* raised when somebody changed a flow's row */
	uint64		flows_submitted;	/* raised when there may be something due */
	uint64		flows_lost;		/* see dtx_flows_lose() */
	TimestampTz flows_alert_at; /* then an operation has had no success for long; 0: none */
	bool		flows_prepared; /* PREPARE TRANSACTION has hidden some, for later */
	pid_t		flow_pids[DTX_FLOW_WORKERS_MAX];
	Latch	   *flow_latches[DTX_FLOW_WORKERS_MAX];
	ConditionVariable flow_over;	/* broadcast when flows have ended */
	int			request_count;
	DtxRequest	requests[DTX_REQUESTS_MAX];
	int			tcc_end_count;
	DtxTccEnd	tcc_ends[DTX_TCC_ENDS_MAX];
	int			orphan_count;
	DtxOrphan	orphans[DTX_ORPHANS_MAX];
	int			finished_count;
	uint64		finished[DTX_FINISHED_MAX];
} DtxDatabase;

/* One node of one database. */
typedef struct DtxNodeKey
{
	Oid			database;
	Oid			serverid;
} DtxNodeKey;

typedef struct DtxNode
{
	DtxNodeKey	key;
	slock_t		mutex;
	pg_atomic_uint32 open_branches; /* of sessions, at this moment */
	uint64		uncertain;		/* raised by whoever left something there */
	DtxTime watched_from;	/* since then something may still arrive */
	uint64		clean;			/* value of uncertain at the last clean scan */
	bool		hung;			/* missed a bound: COMMIT does not wait for it */
	bool		has_barrier;	/* dtx is installed over there, seen by somebody */
	bool		trying;			/* a worker of its own is at it */
	DtxTime trying_from;
	int			failures;		/* in a row */
	TimestampTz failing_since;
	DtxTime tried_at;
	DtxTime listed_at;		/* when a scan of it last came to its end */
	TimestampTz reached_at;
	DtxTime next_try_at;
	int			pending;		/* branches left there by the last scan */
	int			held;
	int			version;
	int			prepared_used;
	int			prepared_max;
	int			connections_used;
	int			connections_max;
	int			round_trip_us;
	char		last_error[DTX_ERROR_SIZE];
} DtxNode;

/* Cumulative counters, in the order of dtx.stat. */
typedef enum DtxCounter
{
	DTX_STAT_COMMITTED,			/* two-phase commits */
	DTX_STAT_ONE_PHASE,
	DTX_STAT_ABORTED,			/* global transactions that rolled back */
	DTX_STAT_PREPARE_FAILED,	/* of these, in phase one */
	DTX_STAT_LEFT_PENDING,		/* branches that COMMIT left to the scanner */
	DTX_STAT_FINISHED_COMMIT,	/* by the scanner */
	DTX_STAT_FINISHED_ROLLBACK,
	DTX_STAT_HELD,
	DTX_STAT_PASSES,
	DTX_STAT_CONNECTS,
	DTX_STAT_DEADLOCKS,
	DTX_STAT_COUNT
} DtxCounter;

typedef struct DtxShared
{
	LWLock	   *lock;			/* finding and making databases and nodes */
	pid_t		launcher_pid;
	Latch	   *launcher_latch;
	uint64		boot_xid;		/* first xid8 of this run, or less after a promotion */
	uint64		launch_xid;		/* first one, or a few more */
	pg_atomic_uint64 counters[DTX_STAT_COUNT];
	int			database_count;
	DtxDatabase *databases;
	int			phase_two_count;
	pg_atomic_uint64 *phase_two;	/* per backend: xid8 it is committing */
} DtxShared;

extern DtxShared *dtx_shared;

extern int	dtx_compare_u64(const void *a, const void *b);
extern void dtx_shmem_init(void);
extern void dtx_require_preload(void);

extern DtxDatabase *dtx_database(Oid database, bool create);
extern void dtx_database_wake(DtxDatabase *database);
extern void dtx_database_want(DtxDatabase *database);
extern void dtx_database_begun(DtxDatabase *database);
extern bool dtx_database_fall_asleep(DtxDatabase *database);
extern bool dtx_database_add_finished(DtxDatabase *database, uint64 xid);
extern bool dtx_database_is_finished(DtxDatabase *database, uint64 xid);
extern int	dtx_database_finished(DtxDatabase *database, uint64 **xids);
extern void dtx_database_add_tcc_end(DtxDatabase *database, uint64 xid, uint64 nonce, bool confirmed);
extern int	dtx_database_tcc_ends(DtxDatabase *database, DtxTccEnd *ends);
extern void dtx_database_drop_tcc_ends(DtxDatabase *database, const DtxTccEnd *ends, int count);
extern void dtx_database_add_orphan(DtxDatabase *database, const DtxOrphan *orphan);
extern int	dtx_database_orphans(DtxDatabase *database, Oid serverid, DtxOrphan *orphans);
extern void dtx_database_drop_orphan(DtxDatabase *database, const DtxGid *gid);
extern void dtx_database_add_subtree(DtxDatabase *database);
extern bool dtx_database_subtrees(DtxDatabase *database, uint64 *seen);
extern void dtx_database_subtrees_over(DtxDatabase *database, uint64 seen);
extern void dtx_launcher_wake(void);
extern void dtx_flows_wake(DtxDatabase *database, bool changed);
extern void dtx_flows_lose(DtxDatabase *database);
extern bool dtx_flow_may_be_lost(DtxDatabase *database, uint64 xid);
extern uint64 dtx_flows_changed(DtxDatabase *database);
extern uint64 dtx_flows_submitted(DtxDatabase *database);
extern void dtx_flows_alert_at(DtxDatabase *database, TimestampTz at);
extern TimestampTz dtx_flows_alert(DtxDatabase *database);
extern void dtx_flows_alert_next(DtxDatabase *database, TimestampTz seen, TimestampTz next);

extern DtxNode *dtx_node_state(Oid database, Oid serverid, bool create);
extern void dtx_node_uncertain(DtxNode *node);
extern void dtx_node_hurry(DtxNode *node);
extern void dtx_node_reached(DtxNode *node);
extern void dtx_node_failed(DtxNode *node, const char *error, int backoff_max_ms);
extern void dtx_node_watch(DtxNode *node);
extern void dtx_node_new(DtxNode *node);
extern void dtx_nodes_uncertain(Oid database);
extern bool dtx_nodes_open(Oid database);
extern bool dtx_nodes_unfinished(Oid database, Oid serverid);
extern void dtx_nodes_settle(Oid database, bool (*in_use) (Oid serverid));
extern void dtx_database_forget(Oid database);

extern bool dtx_is_replicated(XLogRecPtr lsn);

extern void dtx_phase_two_set(uint64 xid);
extern void dtx_phase_two_clear(void);
extern bool dtx_phase_two_running(uint64 xid);
extern void dtx_count(DtxCounter counter, int64 by);

#endif							/* DTX_SHMEM_H */
