/*-------------------------------------------------------------------------
 *
 * barrier.h
 *		The participant's side of flows: each operation is applied once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_BARRIER_H
#define DTX_BARRIER_H

#include "flow.h"

/* One operation to apply. */
typedef struct DtxApply
{
	DtxFlowKey	key;
	int			step;
	DtxOperation operation;		/* not TRY */
	int			attempt;
	const char *gid;			/* for dtx.saga_context() */
	const char *name;			/* of the step, likewise */
	const char *sql;			/* NULL: nothing to run; confirm and cancel: as the try said */
	const char *arguments;		/* a text[] as text, or NULL */
	int			timeout_ms;		/* 0: none */
} DtxApply;

/* What came of it, in the memory context that was current. */
typedef struct DtxApplied
{
	DtxVerdict	verdict;
	char		sqlstate[6];	/* empty without an error */
	char	   *message;		/* or NULL */
	char	   *result;			/* first row as JSON, or NULL */
} DtxApplied;

/*
 * Apply operations in the current transaction, which the caller commits, as
 * the current user.  With more than one of them, none may take longer than
 * budget_ms.  Forgets what is below the watermark.
 */
extern void dtx_barrier_apply(uint64 lineage, uint64 watermark, int budget_ms,
							  const DtxApply *requests, int count, DtxApplied *answers);

#endif							/* DTX_BARRIER_H */
