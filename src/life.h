/*-------------------------------------------------------------------------
 *
 * life.h
 *		Lives of a coordinator: which branches are its own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_LIFE_H
#define DTX_LIFE_H

#include "store.h"

/* What the resolver may conclude about transactions of a life. */
typedef enum DtxLifeClaim
{
	DTX_LIFE_FOREIGN,			/* not ours */
	DTX_LIFE_PRESENT,			/* this run */
	DTX_LIFE_ENDED,				/* all of it is known here, and over */
	DTX_LIFE_UNPROVEN			/* commits of it may be missing here */
} DtxLifeClaim;

/* A life that began, to be published when its row is committed. */
typedef struct DtxLifeStart
{
	uint64		life;
	uint64		lineage;
} DtxLifeStart;

extern void dtx_life_init(void);
extern void dtx_place_read(DtxPlace *place);
extern void dtx_life_boot(void);
extern DtxDatabaseState dtx_life_start(DtxDatabase *database, DtxLifeStart *started);
extern DtxLifeClaim dtx_life_claim(List *lives, uint64 present, uint64 life);
extern const DtxLife *dtx_life_find(List *lives, uint64 life);
extern const DtxLife *dtx_life_child(List *lives, uint64 life);
extern DtxOutcome dtx_life_outcome(List *lives, uint64 present, const DtxGid *gid);

#endif							/* DTX_LIFE_H */
