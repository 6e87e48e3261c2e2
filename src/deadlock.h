/*-------------------------------------------------------------------------
 *
 * deadlock.h
 *		Deadlocks over several nodes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_DEADLOCK_H
#define DTX_DEADLOCK_H

#include "shmem.h"

extern bool dtx_deadlock_round(DtxDatabase *database);

#endif							/* DTX_DEADLOCK_H */
