/*-------------------------------------------------------------------------
 *
 * lane.h
 *		Where batches of operations go: a participant, as a role.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_LANE_H
#define DTX_LANE_H

#include "barrier.h"
#include "remote.h"
#include "storage/latch.h"

/* A worker for local steps leaves after so long without work. */
#define DTX_LOCAL_IDLE_MS 10000

typedef struct DtxLocalWorker DtxLocalWorker;

typedef struct DtxLane
{
	Oid			serverid;		/* 0: this database */
	Oid			roleid;
	int			number;			/* 0, or 1...: those for slow operations */
	DtxConnection *connection;	/* of a server */
	DtxLocalWorker *worker;		/* of this database */
	DtxNode    *node;			/* NULL: this database */
	bool		ready;			/* opened, and proven to have dtx */
	bool		busy;			/* a batch is out */
	int			count;			/* of its operations */
	DtxTime		used_at;
	/* the executor's */
	List	   *queue;			/* of DtxWork */
	List	   *batch;			/* likewise: what is out */
	DtxTime		deadline;
	DtxAnswer	answer;			/* to what is out, as it was seen last */
	bool		single;			/* batches have failed as a whole */
	bool		away;			/* its node is out of reach */
} DtxLane;

extern DtxLane *dtx_lane_new(Oid serverid, const char *node, Oid roleid, int number);
extern void dtx_lane_open(DtxLane *lane);
extern bool dtx_lane_is_open(DtxLane *lane);
extern bool dtx_lane_send(DtxLane *lane, uint64 lineage, uint64 watermark, int budget_ms,
						  const DtxApply *requests, int count);
extern DtxAnswer dtx_lane_poll(DtxLane *lane);
extern void dtx_lane_get(DtxLane *lane, DtxApplied *answers);
extern void dtx_lane_close(DtxLane *lane);
extern void dtx_lane_free(DtxLane *lane);
extern pgsocket dtx_lane_socket(DtxLane *lane);
extern char *dtx_apply_string(uint64 lineage, uint64 watermark, int budget_ms,
							  const DtxApply *requests, int count);
extern void dtx_applied_parse(const char *from, DtxApplied *answers, int count);
extern void dtx_append_element(StringInfo array, const char *value);

#endif							/* DTX_LANE_H */
