/*-------------------------------------------------------------------------
 *
 * pattern.h
 *		What each pattern of flows gives the executor.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_PATTERN_H
#define DTX_PATTERN_H

#include "barrier.h"
#include "definition.h"
#include "store_flow.h"

typedef struct DtxFlow DtxFlow;
typedef struct DtxWork DtxWork;

/* Decide what is to be done next, and take note of what was answered. */
typedef struct DtxPatternRoutine
{
	void		(*prepare) (DtxFlow *flow);
	void		(*plan) (DtxFlow *flow, TimestampTz now);
	void		(*answered) (DtxFlow *flow, DtxWork *work, TimestampTz now);
} DtxPatternRoutine;

/* A flow that is being driven. */
struct DtxFlow
{
	DtxFlowRow *row;
	MemoryContext context;		/* of it, or of many that were read together */
	const DtxPatternRoutine *routine;
	DtxSagaDefinition *definition;	/* sagas */
	int			step_count;
	DtxStepRow **forward;		/* by step: action, or confirm; NULL: not answered */
	DtxStepRow **backward;		/* compensation, or cancel */
	DtxStepRow **tries;			/* TCC */
	DtxWork   **out;			/* by step: what is queued or out */
	int			out_count;
	Jsonb	   *document;		/* input and results; NULL: to be made */
	TimestampTz wake_at;		/* 0: nothing to wait for */
	bool		stale;			/* somebody changed its row */
	bool		changed;		/* its row is to be written */
	char		gid[DTX_FLOW_NAME_MAX + 1];
	/* since the last record */
	List	   *steps;			/* of DtxStepRow, to be written */
	List	   *works;			/* of DtxWork, to be sent when that is committed */
	List	   *events;			/* of DtxFlowEvent */
	void	   *generation;		/* the executor's */
};

typedef struct DtxFlowEvent
{
	int			step;			/* 0: the flow */
	const char *event;
	const char *detail;
	bool		alert;
} DtxFlowEvent;

/* One operation to be sent. */
struct DtxWork
{
	DtxFlow    *flow;			/* NULL: forget the answer */
	int			index;			/* of the step, from 0 */
	DtxFlowKey	key;			/* how the participant knows it */
	int			step;
	DtxOperation operation;
	Oid			serverid;		/* 0: this database */
	Oid			roleid;
	const char *name;			/* of the step */
	const char *sql;
	char	   *arguments;		/* a text[] as text, or NULL */
	int			timeout_ms;
	const DtxRetry *retry;
	bool		insist;			/* a refusal is retried */
	TimestampTz sent_at;
	bool		alone;			/* too slow for a batch */
	bool		limited;		/* sent with the time limit of a batch */
	struct DtxLane *lane;		/* the executor's */
};

/* saga.c, tcc.c */
extern const DtxPatternRoutine dtx_saga_routine;
extern const DtxPatternRoutine dtx_tcc_routine;

/* pattern.c */
extern DtxFlow *dtx_flow_make(DtxFlowRow *row, MemoryContext context);
extern DtxStepRow *dtx_flow_step(DtxFlow *flow, int index, DtxOperation operation);
extern void dtx_flow_write_step(DtxFlow *flow, DtxStepRow *step);
extern void dtx_flow_move(DtxFlow *flow, DtxFlowState state, TimestampTz now);
extern void dtx_flow_note(DtxFlow *flow, int step, const char *event, const char *detail,
						  bool alert);
extern void dtx_flow_hold(DtxFlow *flow, DtxStepRow *step);
extern void dtx_flow_wake_at(DtxFlow *flow, TimestampTz at);
extern DtxWork *dtx_flow_work(DtxFlow *flow, int index, DtxOperation operation, Oid serverid,
							  Oid roleid);
extern void dtx_flow_answer(DtxWork *work, DtxApplied *applied, List *rules, TimestampTz now);
extern TimestampTz dtx_flow_now(void);
extern const DtxRetry *dtx_retry_default(void);

#endif							/* DTX_PATTERN_H */
