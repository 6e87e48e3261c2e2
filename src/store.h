/*-------------------------------------------------------------------------
 *
 * store.h
 *		The only reader and writer of dtx tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_STORE_H
#define DTX_STORE_H

#include "nodes/pg_list.h"

#include "dtx.h"
#include "shmem.h"

/* The place a server runs in, as far as a copy of it can be told from it. */
typedef struct DtxPlace
{
	uint64		system_identifier;
	uint32		timeline;
	Oid			database;
	int64		inode;
	int64		born_at;
} DtxPlace;

typedef struct DtxLife
{
	uint64		life;
	uint64		parent;			/* 0: none */
	const char *cause;
	bool		trusted;		/* nothing was lost on the way into it */
	bool		adopted;		/* an operator said: this is the coordinator now */
	bool		presumed_abort; /* ... said: no commit of that life is missing */
	uint64		first_xid;		/* none from here on is of the life before it */
	DtxPlace	place;
} DtxLife;

/* A server, and the roles that used it. */
typedef struct DtxNodeRow
{
	Oid			serverid;
	List	   *roles;			/* of Oid */
	List	   *try_roles;		/* of these, those of TCC branches */
} DtxNodeRow;

/* One branch of a decision that is not proven committed yet. */
typedef struct DtxOpenBranch
{
	DtxGid		gid;
	DtxBranchRecord record;
	bool		held;			/* shown to a person already */
	bool		resolved;		/* a person has accepted it as it is */
	int			attempt_count;	/* looks that were written down */
} DtxOpenBranch;

/* What an operator, or an earlier pass, said of a branch without decision. */
typedef struct DtxBranchRow
{
	DtxGid		gid;
	bool		held;
	bool		skipped;		/* a try that an operator has left as it is */
	DtxOutcome	outcome;		/* asked for by an operator, or unknown */
	bool		listed;			/* the resolver's: a try that is open there */
} DtxBranchRow;

/* Numbers of tries in dtx.branch, where branches of atomic commit come first. */
#define DTX_TRY_BRANCH 100000

/* So many new alerts are told one by one in a round. */
#define DTX_ALERTS_TOLD 10

/* Where a decision has its branch. */
typedef enum DtxBranchPlace
{
	DTX_BRANCH_IS_HERE,			/* on the server that was asked about */
	DTX_BRANCH_IS_ELSEWHERE,
	DTX_BRANCH_IS_FORGOTTEN		/* with its decision, or there was none */
} DtxBranchPlace;

/* A local transaction that is prepared and has branches. */
typedef struct DtxSubtree
{
	uint64		xid;
	char	   *gid;			/* as whoever ends it knows it */
} DtxSubtree;

extern bool dtx_store_version(char **version);
extern uint64 dtx_store_lineage(void);

extern List *dtx_store_lives(void);
extern void dtx_store_add_life(const DtxLife *life);
extern bool dtx_store_adopt(uint64 life, bool present, const char *note);

extern bool dtx_store_node_known(Oid serverid, Oid roleid);
extern bool dtx_store_node_tries(Oid serverid, Oid roleid);
extern bool dtx_store_server_known(Oid serverid);
extern void dtx_store_add_nodes(const DtxRequest *requests, int count);
extern List *dtx_store_nodes(void);
extern bool dtx_store_server_in_use(Oid serverid, Oid roleid);

extern void dtx_store_decide(const DtxGid *gid, Oid owner, bool asked,
							 const DtxBranchRecord *records, int count);
extern bool dtx_store_decided(const DtxGid *gid, bool *other);
extern DtxBranchPlace dtx_store_branch_place(const DtxGid *gid, const DtxIdentity *identity);
extern List *dtx_store_subtrees(void);
extern char ***dtx_store_rows(const char *sql, int columns, int *count);
extern void dtx_store_lock(void);
extern void dtx_store_lock_subtree(void);
extern List *dtx_store_unfinished(uint64 life, const uint64 *finished, int count,
								  List *serverids);
extern List *dtx_store_open_branches(Oid serverid);
extern List *dtx_store_branch_rows(Oid serverid);
extern void dtx_store_branch(const DtxGid *gid, Oid serverid, const char *state,
							 const char *reason, const char *error);
extern void dtx_store_branch_waits(const DtxGid *gid, Oid serverid, const char *reason,
								   double seconds);
extern void dtx_store_branch_outcome(const DtxGid *gid, Oid serverid, DtxOutcome outcome);
extern bool dtx_store_try_skip(const DtxGid *gid, const char *reason);
extern void dtx_store_branch_gone(const DtxGid *gid);
extern void dtx_store_forget_finished(uint64 life, const uint64 *xids, int count);
extern int64 dtx_store_forget_done(void);
extern void dtx_store_forget_old(int retention_min);
extern bool dtx_store_branch_find(const DtxGid *gid, Oid *serverid);
extern DtxOutcome dtx_store_resolved(const DtxGid *gid);
extern int	dtx_store_alerts(List **raised, TimestampTz *flows_next);
extern void dtx_store_event(const char *actor, const DtxGid *gid, const char *event,
							const char *detail);

#endif							/* DTX_STORE_H */
