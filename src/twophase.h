/*-------------------------------------------------------------------------
 *
 * twophase.h
 *		Atomic commit: the session's half.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_TWOPHASE_H
#define DTX_TWOPHASE_H

#include "branch.h"
#include "try.h"

extern DtxBranch *dtx_twophase_enlist_snapshot(const char *node);

/* For TCC: the global transaction of this session, begun if there is none. */
extern const DtxGid *dtx_twophase_registrar(void);
extern DtxTries *dtx_twophase_tries(const char *node);
extern DtxTry *dtx_twophase_add_try(DtxTries *tries, bool bound);
extern void dtx_twophase_durable(void);

#endif							/* DTX_TWOPHASE_H */
