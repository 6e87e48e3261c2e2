/*-------------------------------------------------------------------------
 *
 * store_flow.h
 *		The tables of flows: dtx.transaction, dtx.step, dtx.saga,
 *		dtx.error_rule.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_STORE_FLOW_H
#define DTX_STORE_FLOW_H

#include "utils/timestamp.h"

#include "flow.h"
#include "shmem.h"

/* Longest name that an application may give a flow. */
#define DTX_FLOW_NAME_MAX 128

/* A row of dtx.step. */
typedef struct DtxStepRow
{
	int			step;			/* from 1 */
	DtxOperation operation;
	DtxStepState state;
	int			attempt_count;
	TimestampTz sent_at;		/* 0: never */
	TimestampTz answered_at;
	TimestampTz next_at;		/* pending: not before */
	char		sqlstate[6];
	char	   *error;
	Jsonb	   *result;
	Oid			node;			/* TCC only */
	Oid			role;
	DtxFlowKey	registrar;		/* of a try: how its node knows it, if not by the */
	int			registrar_step; /* flow; 0 */
	bool		is_ongoing;		/* in memory: "not done yet" was its last answer */
} DtxStepRow;

/* A row of dtx.transaction, with its steps. */
typedef struct DtxFlowRow
{
	DtxFlowKey	key;
	uint64		life;
	char	   *name;			/* or NULL */
	DtxPattern	pattern;
	DtxFlowState state;
	bool		backward;
	bool		insist;			/* refusals of actions are retried, by an operator */
	bool		paused;
	Oid			owner;
	int64		saga;			/* 0: has a definition of its own */
	Jsonb	   *definition;
	Jsonb	   *input;
	int			node_count;
	Oid		   *nodes;			/* server of each step, 0: here */
	int			change_count;
	TimestampTz created_at;
	TimestampTz deadline_at;	/* 0: none */
	TimestampTz due_at;			/* 0: nothing is due */
	TimestampTz finished_at;
	char		sqlstate[6];
	char	   *reason;
	List	   *steps;			/* of DtxStepRow */
} DtxFlowRow;

/* What is written of a step. */
typedef struct DtxStepWrite
{
	DtxFlowKey	key;
	DtxStepRow *row;
} DtxStepWrite;

/* What is written of a flow, if it is as it was (change_count). */
typedef struct DtxFlowWrite
{
	DtxFlowRow *row;
	bool		lost;			/* somebody was faster */
} DtxFlowWrite;

/* What the tables say of a try that is open on its node. */
typedef enum DtxTryFate
{
	DTX_TRY_UNREGISTERED,		/* it is of no flow */
	DTX_TRY_REGISTERED,			/* its flow sees to it */
	DTX_TRY_CONFIRMED,			/* its node had confirmed, or cancelled it, */
	DTX_TRY_CANCELLED			/* and that is lost there */
} DtxTryFate;

typedef struct DtxErrorRule
{
	char		sqlstate[6];	/* or a class of two */
	char		result;			/* 'r', 'u', 'o' */
} DtxErrorRule;

extern void dtx_flow_gid(const DtxFlowRow *row, char *buffer);

extern bool dtx_store_flow_insert(DtxFlowRow *row);
extern DtxFlowRow *dtx_store_flow_find(const char *gid, bool lock);
extern bool dtx_store_flow_is_changed_here(const DtxFlowKey *key);
extern DtxFlowRow *dtx_store_flow_load(const DtxFlowKey *key);
extern List *dtx_store_flows_due(TimestampTz until, int worker, int workers, int limit,
								 List *except);
extern List *dtx_store_flows_changed(List *flows);
extern TimestampTz dtx_store_flows_next(int worker, int workers, TimestampTz after);
extern bool dtx_store_flows_unfinished(void);
extern void dtx_store_flow_record(List *steps, List *flows);
extern void dtx_store_flow_change(DtxFlowRow *row);
extern int	dtx_store_flow_next_step(const DtxFlowKey *key);
extern void dtx_store_flow_add_try(const DtxFlowKey *key, const DtxStepRow *step);
extern DtxTryFate dtx_store_try_fate(const DtxGid *gid, int step, TimestampTz before);
extern void dtx_store_tcc_ended(uint64 life, const DtxTccEnd *ends, int count);
extern void dtx_store_flows_hurry(Oid serverid, TimestampTz at);
extern uint64 dtx_store_flow_watermark(void);
extern int	dtx_store_flow_forget(int retention_min);
extern bool dtx_store_flow_uses(Oid serverid, Oid roleid);
extern void dtx_store_flow_event(const char *actor, const DtxFlowRow *row, int step,
								 const char *event, const char *detail);
extern void dtx_store_flow_alert(const DtxFlowRow *row, int step);
extern void dtx_store_flow_alerts_over(const DtxFlowRow *row);
extern List *dtx_store_error_rules(void);
extern uint64 dtx_store_error_rules_version(void);

extern int	dtx_store_saga_define(const char *name, Oid owner, Jsonb *definition);
extern bool dtx_store_saga_newest(const char *name, int64 *saga, Jsonb **definition);
extern Jsonb *dtx_store_saga(int64 saga);

#endif							/* DTX_STORE_FLOW_H */
