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

extern DtxBranch *dtx_twophase_enlist_snapshot(const char *node);

#endif							/* DTX_TWOPHASE_H */
