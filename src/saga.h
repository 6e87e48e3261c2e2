/*-------------------------------------------------------------------------
 *
 * saga.h
 *		Sagas.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_SAGA_H
#define DTX_SAGA_H

#include "pattern.h"

/* What is submitted: a definition, or the name of one. */
typedef struct DtxSubmission
{
	Jsonb	   *definition;		/* or NULL */
	char	   *name;			/* of a definition, or NULL */
	char	   *gid;			/* the application's, or NULL */
	Jsonb	   *input;
	bool		wake;			/* let the workers have it at commit */
} DtxSubmission;

/*
 * Submit a saga in the current transaction, as the current user.  Returns its
 * row; *existed tells that the same was submitted before, under that gid.
 */
extern DtxFlowRow *dtx_saga_submission(const DtxSubmission *submission, bool *existed);

extern bool dtx_saga_is_to_undo(DtxFlowRow *row, int step);

/* Refuse what a node of a flow must not be; returns the server. */
extern Oid dtx_flow_check_node(const char *node, Oid roleid);
extern char *dtx_flow_check_name(char *gid);
extern void dtx_flow_check_session(void);
extern void dtx_flow_wake_at_commit(void);
extern DtxFlowRow *dtx_flow_new_row(DtxPattern pattern, char *name);

#endif							/* DTX_SAGA_H */
