/*-------------------------------------------------------------------------
 *
 * executor.h
 *		Drives flows to their end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_EXECUTOR_H
#define DTX_EXECUTOR_H

#include "pattern.h"
#include "shmem.h"

typedef struct DtxExecutor DtxExecutor;

/* For whom it works. */
typedef struct DtxExecutorOptions
{
	DtxDatabase *database;
	int			worker;			/* number of this one, of so many */
	int			workers;
	bool		in_procedure;	/* of a session, which commits by SPI */
	const DtxFlowKey *only;		/* this flow, which the caller has claimed */
	int64		horizon_ms;		/* what is due within that is due now */
} DtxExecutorOptions;

extern DtxExecutor *dtx_executor_new(const DtxExecutorOptions *options);
extern bool dtx_executor_round(DtxExecutor *executor);
extern void dtx_executor_wait(DtxExecutor *executor, long timeout_ms);
extern TimestampTz dtx_executor_next(DtxExecutor *executor);
extern bool dtx_executor_busy(DtxExecutor *executor);
extern void dtx_executor_reset(DtxExecutor *executor, int sqlerrcode);
extern void dtx_executor_free(DtxExecutor *executor);
extern void dtx_executor_only(DtxExecutor *executor, const DtxFlowKey *key, DtxFlowRow *submitted);
extern DtxFlowRow *dtx_executor_last(DtxExecutor *executor);
extern int64 dtx_executor_answers(DtxExecutor *executor);

extern void dtx_procedure_commit(void);
extern bool dtx_flow_claim(const DtxFlowKey *key);
extern void dtx_flow_release(const DtxFlowKey *key);

#endif							/* DTX_EXECUTOR_H */
