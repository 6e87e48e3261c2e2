/*-------------------------------------------------------------------------
 *
 * branch.h
 *		One participant's part of a global transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_BRANCH_H
#define DTX_BRANCH_H

#include "nodes/execnodes.h"
#include "utils/array.h"

#include "remote.h"
#include "session.h"

typedef enum DtxBranchState
{
	DTX_BRANCH_CLOSED,			/* its BEGIN has not arrived */
	DTX_BRANCH_OPEN,
	DTX_BRANCH_LOST,			/* its connection is gone: abort-only */
	DTX_BRANCH_PREPARING,		/* PREPARE or one-phase COMMIT sent, no answer */
	DTX_BRANCH_PREPARED,
	DTX_BRANCH_FINISHING,		/* second phase sent */
	DTX_BRANCH_FINISHED
} DtxBranchState;

typedef struct DtxPending DtxPending;

typedef struct DtxBranch
{
	int			number;			/* 1, 2, ... in its global transaction */
	DtxConnection *connection;
	DtxBranchState state;
	char		nonce[17];		/* marks its transaction over there */
	char		settings[DTX_SETTINGS_SIZE];	/* of its session there */
	char		identity[DTX_IDENTITY_SIZE];	/* what its session is called there */
	bool		reused;			/* on a connection that was used before */
	bool		refused;		/* it surely did not prepare or commit */
	bool		counted;		/* its prepared statements are counted at its end */
	bool		ended;			/* PREPARE or COMMIT were tried: no transaction is left */
	bool		snapshot;		/* REPEATABLE READ READ ONLY, by dtx.snapshot */
	bool		wrote;
	bool		asked;			/* its last answer told whether it has an xid */
	uint64		xid;			/* xid8 over there, once known */
	int			levels;			/* savepoints there are s2 .. s<levels> */
	int			levels_wanted;	/* of these, down to here are still ours */
	int			rollback_to;	/* level to undo first, 0: none */
	DtxPending *pending;		/* sent, and not looked after */
	int			failed_level;	/* lost until this one rolls back, 0: none */
	DtxStyles	styles;			/* over there, in the branch */
	char		gid[DTX_GID_SIZE];
	char		finish_sql[DTX_GID_SIZE + 32];	/* COMMIT PREPARED '...' */
	char		undo_sql[DTX_GID_SIZE + 32];
} DtxBranch;

/* What a call wants to have back. */
typedef struct DtxCall
{
	const char *sql;
	ArrayType  *arguments;		/* text[], or NULL */
	bool		counts;			/* so many rows are expected: */
	int64		expect;
	TupleDesc	expected;		/* rows are wanted, and look like this */
	MemoryContext rows_context;
	DtxResult	result;
} DtxCall;

extern DtxConnection *dtx_branch_connection(Oid serverid, const char *node, Oid roleid,
											bool *reused);
extern DtxConnection *dtx_try_connection(Oid serverid, const char *node, Oid roleid,
										 bool *reused);
extern void dtx_branch_prove_alive(DtxBranch *branch);
extern void dtx_branch_run(DtxBranch *branch, DtxCall *call);
extern void dtx_branch_send(DtxBranch *branch, DtxCall *call);
extern void dtx_branch_settle(DtxBranch *branch);
extern void dtx_branch_raise_lost(DtxBranch *branch);
extern void dtx_branch_subcommit(DtxBranch *branch, int level);
extern void dtx_branch_subabort(DtxBranch *branch, int level);
extern void dtx_branch_make_ends(DtxBranch *branch);
extern bool dtx_branch_send_prepare(DtxBranch *branch);
extern void dtx_branch_get_prepared(DtxBranch *branch);
extern bool dtx_branch_send_commit(DtxBranch *branch);
extern void dtx_branch_get_committed(DtxBranch *branch);
extern bool dtx_branch_abort(DtxBranch *branch);
extern void dtx_connections_release(void);

#endif							/* DTX_BRANCH_H */
