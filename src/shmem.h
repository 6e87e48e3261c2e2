/*-------------------------------------------------------------------------
 *
 * shmem.h
 *		What sessions, launcher and scanners share in memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_SHMEM_H
#define DTX_SHMEM_H

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
} DtxRequest;

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
	int			worker_count;	/* workers that try a failing node, or look for deadlocks */
	DtxTime left_at;		/* when the last scanner left */
	uint64		subtrees;		/* raised by who prepared a local transaction */
	uint64		subtrees_over;	/* value of subtrees when none was left */
	int			request_count;
	DtxRequest	requests[DTX_REQUESTS_MAX];
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
	uint64		boot_xid;		/* first xid8 that this run handed out */
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
extern bool dtx_database_add_finished(DtxDatabase *database, uint64 xid);
extern bool dtx_database_is_finished(DtxDatabase *database, uint64 xid);
extern int	dtx_database_finished(DtxDatabase *database, uint64 **xids);
extern void dtx_database_add_subtree(DtxDatabase *database);
extern bool dtx_database_subtrees(DtxDatabase *database, uint64 *seen);
extern void dtx_database_subtrees_over(DtxDatabase *database, uint64 seen);
extern void dtx_launcher_wake(void);

extern DtxNode *dtx_node_state(Oid database, Oid serverid, bool create);
extern void dtx_node_uncertain(DtxNode *node);
extern void dtx_node_reached(DtxNode *node);
extern void dtx_node_failed(DtxNode *node, const char *error, int backoff_max_ms);
extern void dtx_node_watch(DtxNode *node);
extern void dtx_node_new(DtxNode *node);
extern void dtx_nodes_uncertain(Oid database);
extern bool dtx_nodes_open(Oid database);
extern bool dtx_nodes_unfinished(Oid database, Oid serverid);
extern void dtx_nodes_settle(Oid database, bool (*in_use) (Oid serverid));
extern void dtx_database_forget(Oid database);

extern void dtx_phase_two_set(uint64 xid);
extern void dtx_phase_two_clear(void);
extern bool dtx_phase_two_running(uint64 xid);
extern void dtx_count(DtxCounter counter, int64 by);

#endif							/* DTX_SHMEM_H */
