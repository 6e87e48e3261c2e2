/*-------------------------------------------------------------------------
 *
 * guc.h
 *		Settings of dtx.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_GUC_H
#define DTX_GUC_H

extern int	dtx_prepare_timeout_ms;
extern int	dtx_commit_wait_ms;
extern int	dtx_lockout_timeout_ms;
extern int	dtx_connect_timeout_s;
extern int	dtx_branch_lock_timeout_ms;
extern int	dtx_branch_idle_timeout_ms;
extern bool dtx_one_phase;
extern int	dtx_max_branches;
extern int	dtx_max_transactions;
extern int	dtx_deadlock_interval_ms;
extern int	dtx_max_connections;
extern int	dtx_connection_idle_timeout_ms;
extern int	dtx_scan_interval_ms;
extern int	dtx_sweep_interval_s;
extern int	dtx_scanner_idle_timeout_s;
extern int	dtx_max_backoff_s;
extern int	dtx_stuck_after_s;
extern int	dtx_retention_min;
extern int	dtx_retry_interval_default_ms;
extern int	dtx_retry_max_interval_default_ms;
extern int	dtx_step_timeout_ms;
extern int	dtx_batch_budget_ms;
extern int	dtx_workers;
extern bool dtx_allow_superuser_steps;
extern int	dtx_clock_offset_ms;
extern bool dtx_synchronous_failover;
extern bool dtx_allow_drop_in_doubt;
extern int	dtx_max_databases;
extern int	dtx_max_nodes;
extern bool dtx_loopback;
extern char *dtx_branch_marker;

extern void dtx_guc_init(void);

#endif							/* DTX_GUC_H */
