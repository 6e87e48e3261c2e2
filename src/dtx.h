/*-------------------------------------------------------------------------
 *
 * dtx.h
 *		Types that all layers share.
 *
 *		L0	guc gid fault shmem statement quiet state definition	no SQL,
 *									no network
 *		L1	store life				only reader and writer of dtx tables
 *			remote					only caller of dblink
 *		L2	node branch				a server, and one participant's verbs
 *			try						TCC branches of a local transaction
 *			barrier					the participant's side of flows
 *		L3	tcc						TCC: on top of twophase
 *			twophase resolver		atomic commit: the session's and the
 *									background's half
 *			snapshot				what needs it at rest; on top of twophase
 *		L4	launcher scanner guard	workers and hooks
 *
 *		Calls go down only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_H
#define DTX_H

#include "access/transam.h"
#include "datatype/timestamp.h"

#define DTX_VERSION "0.2.0"
#define DTX_SCHEMA "dtx"

/* Success, with branches that the scanner still has to finish. */
#define ERRCODE_DTX_PENDING MAKE_SQLSTATE('0', '1', 'D', 'T', 'X')

/* Gids stay below 64 bytes, and far below PostgreSQL's 200. */
#define DTX_GID_SIZE 64

/* A branch's name; branch 0 names the global transaction itself. */
typedef struct DtxGid
{
	uint64		life;
	uint64		xid;			/* xid8 of the coordinator's transaction */
	uint64		nonce;
	int			branch;
} DtxGid;

/*
 * Who a participant is.  A commit is believed proven only by the server that
 * prepared, so that these come back equal.
 */
typedef struct DtxIdentity
{
	uint64		system_identifier;
	Oid			database;
	uint32		timeline;
} DtxIdentity;

/* What the status row says of one branch. */
typedef struct DtxBranchRecord
{
	Oid			serverid;
	Oid			roleid;
	DtxIdentity identity;
	uint64		xid;			/* xid8 over there */
} DtxBranchRecord;

typedef enum DtxOutcome
{
	DTX_OUTCOME_UNKNOWN,
	DTX_OUTCOME_IN_PROGRESS,
	DTX_OUTCOME_COMMITTED,
	DTX_OUTCOME_ABORTED
} DtxOutcome;

/* gid.c */
extern char *dtx_hex(char *to, uint64 value, int digits);
extern void dtx_gid_format(const DtxGid *gid, char *buffer);
extern bool dtx_gid_parse(const char *text, DtxGid *gid);
extern bool dtx_life_parse(const char *text, uint64 *life);
extern uint64 dtx_random64(void);

/* guard.c, launcher.c, twophase.c: called once from _PG_init */
extern void dtx_guard_init(void);
extern void dtx_launcher_init(void);
extern void dtx_twophase_init(void);
extern bool dtx_twophase_has_branches(void);

#endif							/* DTX_H */
