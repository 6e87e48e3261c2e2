/*-------------------------------------------------------------------------
 *
 * guc.c
 *		Settings of dtx.
 *
 * (1) Whatever weakens a guarantee can be set by a superuser only, in the
 *	   configuration file; what a session may set changes only how long it
 *	   waits itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "guc.h"
#include "shmem.h"

int			dtx_prepare_timeout_ms;
int			dtx_commit_wait_ms;
int			dtx_lockout_timeout_ms;
int			dtx_connect_timeout_s;
int			dtx_branch_lock_timeout_ms;
int			dtx_branch_idle_timeout_ms;
bool		dtx_one_phase;
int			dtx_max_branches;
int			dtx_max_transactions;
int			dtx_deadlock_interval_ms;
int			dtx_max_connections;
int			dtx_connection_idle_timeout_ms;
int			dtx_scan_interval_ms;
int			dtx_sweep_interval_s;
int			dtx_scanner_idle_timeout_s;
int			dtx_max_backoff_s;
int			dtx_stuck_after_s;
int			dtx_retention_min;
int			dtx_retry_interval_default_ms = 1000;
int			dtx_retry_max_interval_default_ms = 60000;
int			dtx_step_timeout_ms;
int			dtx_batch_budget_ms;
int			dtx_workers;
bool		dtx_allow_superuser_steps;
int			dtx_clock_offset_ms;
bool		dtx_synchronous_failover;
bool		dtx_allow_drop_in_doubt;
int			dtx_max_databases;
int			dtx_max_nodes;
bool		dtx_loopback;
char	   *dtx_branch_marker;

void
dtx_guc_init(void)
{
	/* Waiting of the session itself. */
	DefineCustomIntVariable("dtx.prepare_timeout",
							"How long COMMIT waits for all branches to prepare.",
							NULL, &dtx_prepare_timeout_ms,
							30000, 1, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.commit_wait",
							"How long COMMIT waits, once decided, for the branches to commit.",
							"0 does not wait at all.", &dtx_commit_wait_ms,
							2000, 0, 60000, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.lockout_timeout",
							"How long dtx.snapshot and dtx.create_restore_point may hold up commits.",
							NULL, &dtx_lockout_timeout_ms,
							1000, 10, 60000, PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.connect_timeout",
							"How long opening a connection to a node may take.",
							NULL, &dtx_connect_timeout_s,
							5, 2, 600, PGC_USERSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.branch_lock_timeout",
							"lock_timeout of a branch when the session has none.",
							"It breaks deadlocks over several nodes, which no detector sees.",
							&dtx_branch_lock_timeout_ms,
							10000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.branch_idle_timeout",
							"After how long a node ends a branch that its coordinator left idle.",
							"0 never does.", &dtx_branch_idle_timeout_ms,
							60000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("dtx.one_phase",
							 "Commit a transaction whose only writes are on one node in one phase.",
							 NULL, &dtx_one_phase,
							 true, PGC_USERSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("dtx.max_branches",
							"How many branches a global transaction may have.",
							NULL, &dtx_max_branches,
							64, 1, 10000, PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("dtx.max_transactions",
							"How many global transactions a role may have open at the same time.",
							"Over all its sessions; 0 is no limit. Meant for ALTER ROLE ... SET.",
							&dtx_max_transactions,
							0, 0, 100000, PGC_SUSET, 0,
							NULL, NULL, NULL);

	/* Connections. */
	DefineCustomIntVariable("dtx.max_connections",
							"How many idle connections to nodes a session keeps.",
							NULL, &dtx_max_connections,
							8, 0, 1000, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.connection_idle_timeout",
							"After how long a node closes an idle connection that a session keeps.",
							"0 never does.", &dtx_connection_idle_timeout_ms,
							600000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	/* Recovery. */
	DefineCustomIntVariable("dtx.scan_interval",
							"How often the scanner looks at nodes that have work for it.",
							NULL, &dtx_scan_interval_ms,
							5000, 10, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.deadlock_interval",
							"How long somebody has to wait before deadlocks over several nodes are looked for.",
							"0 never looks.", &dtx_deadlock_interval_ms,
							1000, 0, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.sweep_interval",
							"How often the scanner looks at all nodes.",
							NULL, &dtx_sweep_interval_s,
							60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.scanner_idle_timeout",
							"After how long without work a scanner leaves.",
							"It is started again when it is needed, or for the next sweep.",
							&dtx_scanner_idle_timeout_s,
							60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.max_backoff",
							"Longest pause before a failing node is tried again.",
							NULL, &dtx_max_backoff_s,
							60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.stuck_after",
							"After how long an unfinished branch is shown in dtx.stuck.",
							NULL, &dtx_stuck_after_s,
							60, 0, 86400, PGC_SUSET, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.retention",
							"How long the outcome of a transaction that asked for its gid is kept.",
							NULL, &dtx_retention_min,
							7 * 24 * 60, 1, INT_MAX / 60, PGC_SIGHUP, GUC_UNIT_MIN,
							NULL, NULL, NULL);

	/* Flows. */
	DefineCustomIntVariable("dtx.workers",
							"How many workers of a database drive sagas and TCC.",
							NULL, &dtx_workers,
							1, 0, DTX_FLOW_WORKERS_MAX, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.retry_interval",
							"How long to wait before an operation without an answer is tried again.",
							"Grows from attempt to attempt, unless the saga says otherwise.",
							&dtx_retry_interval_default_ms,
							1000, 10, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.retry_max_interval",
							"Longest such wait.",
							NULL, &dtx_retry_max_interval_default_ms,
							60000, 10, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.step_timeout",
							"How long one attempt of an operation may take.",
							"Unless the saga says otherwise; 0 is no limit.",
							&dtx_step_timeout_ms,
							30000, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.batch_budget",
							"How long a participant works on a batch of operations.",
							"What does not fit is given back; an operation that takes longer is run alone.",
							&dtx_batch_budget_ms,
							500, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("dtx.allow_superuser_steps",
							 "Allow superusers to submit steps that run in this database.",
							 "They run with a superuser's rights in the background.",
							 &dtx_allow_superuser_steps,
							 false, PGC_SUSET, GUC_SUPERUSER_ONLY,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.clock_offset",
							"Added to the clock by which flows are due; for tests of timeouts.",
							NULL, &dtx_clock_offset_ms,
							0, 0, INT_MAX, PGC_SUSET, GUC_UNIT_MS | GUC_NOT_IN_SAMPLE,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("dtx.synchronous_failover",
							 "Adopt by itself a promotion of this server's standby.",
							 "Right only where every standby that may be promoted was "
							 "synchronous, so that no commit can be missing.",
							 &dtx_synchronous_failover,
							 false, PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("dtx.allow_drop_in_doubt",
							 "Allow to drop servers, mappings, roles and the extension though branches depend on them.",
							 "For nodes that are gone for good.",
							 &dtx_allow_drop_in_doubt,
							 false, PGC_SUSET, 0, NULL, NULL, NULL);

	/* Sizes of shared memory. */
	DefineCustomIntVariable("dtx.max_databases",
							"How many databases of this server may use dtx.",
							NULL, &dtx_max_databases,
							64, 1, 10000, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("dtx.max_nodes",
							"How many nodes all databases of this server together may use.",
							NULL, &dtx_max_nodes,
							512, 1, 100000, PGC_POSTMASTER, 0, NULL, NULL, NULL);

	/* The participant's side: set by a coordinator in its own session. */
	DefineCustomBoolVariable("dtx.loopback",
							 "Allow this session to be a branch of its own database.",
							 "Set in the options of the foreign server.",
							 &dtx_loopback,
							 false, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("dtx.branch",
							   "Marks the transaction of a branch.",
							   "Set by the coordinator; lost when the transaction ends.",
							   &dtx_branch_marker,
							   "", PGC_USERSET, GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);

	MarkGUCPrefixReserved("dtx");
}
