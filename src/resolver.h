/*-------------------------------------------------------------------------
 *
 * resolver.h
 *		Atomic commit: the background's half.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_RESOLVER_H
#define DTX_RESOLVER_H

#include "remote.h"
#include "shmem.h"

typedef struct DtxPass
{
	/* what to do */
	DtxDatabase *database;
	Oid			only_server;	/* or all that are due */
	bool		everything;		/* due or not */
	bool		in_transaction; /* of the caller, who commits */
	bool		leave_failing;	/* to workers of their own */
	void		(*meanwhile) (void);	/* what else is to be done on a wake-up */

	/* what was done */
	int64		finished;
	int64		left;
	int64		held;
	int			nodes;			/* looked at */
} DtxPass;

extern void dtx_resolver_pass(DtxPass *pass);
extern void dtx_resolver_close(void);
extern DtxConnection *dtx_resolver_connection(Oid serverid, const char *node, Oid roleid);
extern bool dtx_node_is_suspect(DtxNode *node);
extern bool dtx_node_is_due(DtxNode *node, DtxTime now, DtxTime *when);

#endif							/* DTX_RESOLVER_H */
