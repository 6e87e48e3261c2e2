/*-------------------------------------------------------------------------
 *
 * flow.h
 *		Types of flows: sagas and TCC, and their steps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_FLOW_H
#define DTX_FLOW_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

#include "dtx.h"

/* "Not done yet", raised by dtx.ongoing(). */
#define ERRCODE_DTX_ONGOING MAKE_SQLSTATE('D', 'T', 'X', '0', '1')

/* How a flow is named, here and on participants. */
typedef struct DtxFlowKey
{
	uint64		xid;			/* xid8 of the transaction that submitted it */
	uint64		nonce;
} DtxFlowKey;

typedef enum DtxPattern
{
	DTX_PATTERN_SAGA,
	DTX_PATTERN_TCC
} DtxPattern;

typedef enum DtxFlowState
{
	DTX_FLOW_RUNNING,
	DTX_FLOW_COMMITTING,
	DTX_FLOW_ABORTING,
	DTX_FLOW_COMMITTED,
	DTX_FLOW_ABORTED,
	DTX_FLOW_HELD
} DtxFlowState;

typedef enum DtxStepState
{
	DTX_STEP_PENDING,
	DTX_STEP_DONE,
	DTX_STEP_REFUSED,
	DTX_STEP_SKIPPED,
	DTX_STEP_HELD
} DtxStepState;

typedef enum DtxOperation
{
	DTX_OPERATION_ACTION,
	DTX_OPERATION_COMPENSATION,
	DTX_OPERATION_TRY,
	DTX_OPERATION_CONFIRM,
	DTX_OPERATION_CANCEL
} DtxOperation;

/* What came of one operation that was sent to a participant. */
typedef enum DtxVerdict
{
	DTX_VERDICT_DONE,			/* applied, now or earlier */
	DTX_VERDICT_VOID,			/* there was nothing to undo, and never will be */
	DTX_VERDICT_BLOCKED,		/* too late: it was undone before it came */
	DTX_VERDICT_FAILED,			/* with an error; undone */
	DTX_VERDICT_DENIED,			/* the branch belongs to another role there */
	DTX_VERDICT_SLOW,			/* longer than a batch may take; undone */
	DTX_VERDICT_GIVEN_BACK,		/* not begun: the batch's time was over */
	DTX_VERDICT_UNKNOWN			/* no answer */
} DtxVerdict;

/* state.c */
extern const char *dtx_flow_state_name(DtxFlowState state);
extern DtxFlowState dtx_flow_state_parse(const char *name);
extern const char *dtx_step_state_name(DtxStepState state);
extern DtxStepState dtx_step_state_parse(const char *name);
extern const char *dtx_operation_name(DtxOperation operation);
extern bool dtx_operation_parse(const char *name, DtxOperation *operation);
extern const char *dtx_verdict_name(DtxVerdict verdict);
extern bool dtx_verdict_parse(const char *name, DtxVerdict *verdict);
extern bool dtx_flow_may_move(DtxPattern pattern, DtxFlowState from, DtxFlowState to);
extern bool dtx_step_may_move(DtxStepState from, DtxStepState to);
extern void dtx_flow_check_move(DtxPattern pattern, DtxFlowState from, DtxFlowState to,
								const char *gid);
extern void dtx_step_check_move(DtxStepState from, DtxStepState to);
extern bool dtx_flow_is_over(DtxFlowState state);

#endif							/* DTX_FLOW_H */
