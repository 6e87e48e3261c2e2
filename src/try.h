/*-------------------------------------------------------------------------
 *
 * try.h
 *		The TCC branches of a local transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_TRY_H
#define DTX_TRY_H

#include "barrier.h"
#include "remote.h"
#include "session.h"

typedef enum DtxTryState
{
	DTX_TRY_UNSENT,
	DTX_TRY_SENT,				/* and not answered: it may come late */
	DTX_TRY_DONE,
	DTX_TRY_REFUSED,			/* surely not done */
	DTX_TRY_ENDED				/* cancelled, and that was answered */
} DtxTryState;

typedef struct DtxTry
{
	int			number;			/* in the local transaction, from 1 */
	DtxTryState state;
	bool		bound;			/* the local transaction decides about it */
	bool		undone;			/* its subtransaction has rolled back */
	int			level;			/* of that */
} DtxTry;

/* How the end of the tries on one node as one role stands. */
typedef enum DtxTriesEnd
{
	DTX_TRIES_OPEN,
	DTX_TRIES_ENDING,			/* sent */
	DTX_TRIES_ENDED,			/* answered: all of it is done */
	DTX_TRIES_LEFT				/* to the workers, and to the scanner */
} DtxTriesEnd;

/* The tries of a local transaction on one node as one role. */
typedef struct DtxTries
{
	DtxConnection *connection;
	const DtxGid *gid;			/* of the local transaction */
	uint64		lineage;
	char		identity[DTX_IDENTITY_SIZE];	/* what its session is called there */
	List	   *tries;			/* of DtxTry */
	DtxTriesEnd end;
	char	   *end_sql;		/* NULL: nothing to send at COMMIT */
	int			confirm_count;	/* in that */
} DtxTries;

/* What a try is sent as. */
typedef struct DtxTryCall
{
	const char *flow;			/* its gid, for dtx.saga_context() */
	const char *try;
	const char *confirm;		/* or NULL */
	const char *cancel;			/* likewise */
	const char *arguments;		/* a text[] as text, or NULL */
} DtxTryCall;

extern void dtx_tries_open(DtxTries *tries);
extern void dtx_tries_cancel_undone(DtxTries *tries);
extern void dtx_try_run(DtxTries *tries, DtxTry *try, const DtxTryCall *call, DtxApplied *answer);
extern void dtx_tries_subcommit(DtxTries *tries, int level);
extern void dtx_tries_subabort(DtxTries *tries, int level);
extern void dtx_tries_plan(DtxTries *tries, MemoryContext context);
extern bool dtx_tries_send_end(DtxTries *tries);
extern bool dtx_tries_have_ended(DtxTries *tries);
extern bool dtx_tries_abort(DtxTries *tries);
extern void dtx_tries_orphans(DtxTries *tries, DtxDatabase *database, bool all);
extern int	dtx_tries_bound(DtxTries *tries);
extern bool dtx_tries_any(DtxTries *tries);
extern char *dtx_end_string(uint64 lineage, const DtxGid *gid, const char *steps,
							const char *operations);

#endif							/* DTX_TRY_H */
