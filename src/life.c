/*-------------------------------------------------------------------------
 *
 * life.c
 *		Lives of a coordinator: which branches are its own.
 *
 *		created			first life after CREATE EXTENSION
 *		restart			same place as the life before it: nothing is missing
 *		promotion		another timeline: this run of the server began as a standby
 *		restore			another timeline, otherwise: a backup recovered to some point
 *		copy			same identifiers, another data directory
 *		other database	copied by CREATE DATABASE ... TEMPLATE
 *		other system	another cluster (pg_upgrade, or files carried over)
 *
 * (1) A life's row is committed and flushed before the first PREPARE that
 *	   carries it, so that no branch is ever prepared whose life its
 *	   coordinator does not know.
 * (2) A life that did not follow by a restart sends nothing to any node
 *	   until an operator adopts it.
 * (3) An xid is asked about in its own life only: after a crash, xids that
 *	   were not flushed are handed out again, and after a restore all that
 *	   came later.
 * (4) Only a promotion may be trusted by a setting.  What is not known for sure
 *	   to be one, as after a crash between it and the life's row, is a restore.
 * (5) A copy that keeps device contents bit by bit (a storage snapshot) has
 *	   the same place and cannot be told from the original.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "compat.h"
#include "guc.h"
#include "life.h"

/* Where are we?  Not the device number: it changes between boots. */
void
dtx_place_read(DtxPlace *place)
{
	struct statx status;

	memset(place, 0, sizeof(DtxPlace));
	place->system_identifier = GetSystemIdentifier();
	place->timeline = GetWALInsertionTimeLine();
	place->database = MyDatabaseId;
	if (statx(AT_FDCWD, "PG_VERSION", 0, STATX_INO | STATX_BTIME, &status) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", "PG_VERSION")));
	place->inode = (int64) status.stx_ino;
	if (status.stx_mask & STATX_BTIME)
		place->born_at = (int64) status.stx_btime.tv_sec * 1000000 +
			status.stx_btime.tv_nsec / 1000;
}

/*
 * In the launcher, once for each run of the server: which xids are of this
 * run?  After a crash recovery ends with a checkpoint, so that the first one
 * is in the control file.  A promotion goes without; then the file has an
 * earlier one, and the next one now is sure not to be of before.
 */
void
dtx_life_boot(void)
{
	bool		crc_ok;
	ControlFileData *control;

	if (dtx_shared->boot_xid != 0)
		return;
	dtx_shared->launch_xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	LWLockAcquire(ControlFileLock, LW_SHARED);
	control = get_controlfile(DataDir, &crc_ok);
	LWLockRelease(ControlFileLock);
	if (!crc_ok)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("control file has a wrong checksum")));
	dtx_shared->boot_xid = U64FromFullTransactionId(control->checkPointCopy.nextXid);
	pfree(control);
}

static bool began_as_standby = false;

/*
 * In the postmaster, before recovery begins: afterwards a promoted standby and
 * a restored backup look alike.
 */
void
dtx_life_init(void)
{
	began_as_standby = access("standby.signal", F_OK) == 0;
}

/* Was this server to recover everything there was, and then be promoted? */
static bool
is_promotion(void)
{
	static const char *const targets[] = {
		"recovery_target", "recovery_target_lsn", "recovery_target_name",
		"recovery_target_time", "recovery_target_xid"
	};

	for (int i = 0; i < lengthof(targets); i++)
	{
		const char *value = GetConfigOption(targets[i], true, false);

		if (value != NULL && value[0] != '\0')
			return false;
	}
	return began_as_standby;
}

static const char *
step_cause(const DtxPlace *before, const DtxPlace *now)
{
	if (before->system_identifier != now->system_identifier)
		return "other system";
	if (before->database != now->database)
		return "other database";
	if (before->timeline != now->timeline)
		return is_promotion() ? "promotion" : "restore";
	if (before->inode != now->inode || before->born_at != now->born_at)
		return "copy";
	return "restart";
}

/*
 * Begin, or go on with, the life of this database in this run of the server.
 * Called by the scanner in a transaction of its own, which it commits before
 * it publishes what is returned; started->life is 0 if nothing new began.
 */
DtxDatabaseState
dtx_life_start(DtxDatabase *database, DtxLifeStart *started)
{
	uint64		lineage = dtx_store_lineage();
	List	   *lives = dtx_store_lives();
	const DtxLife *parent = lives == NIL ? NULL : llast(lives);
	uint64		present = pg_atomic_read_u64(&database->life);
	DtxLife		life = {0};

	started->life = 0;

	/* The scanner came back, and the run is the same. */
	if (present != 0 && database->lineage == lineage)
	{
		const DtxLife *known = dtx_life_find(lives, present);

		if (known != NULL && known->place.database == MyDatabaseId)
			return known->trusted || known->adopted ?
				DTX_DATABASE_READY : DTX_DATABASE_UNADOPTED;
	}

	dtx_place_read(&life.place);
	life.life = dtx_random64();
	if (parent == NULL)
		life.cause = "created";
	else
	{
		life.parent = parent->life;
		life.cause = step_cause(&parent->place, &life.place);
	}
	life.first_xid = strcmp(life.cause, "restart") == 0 ?
		dtx_shared->boot_xid : dtx_shared->launch_xid;
	life.trusted = parent == NULL || strcmp(life.cause, "restart") == 0;

	/*
	 * A restart of a copy that was not adopted is not adopted either.
	 */
	if (parent != NULL && life.trusted && !parent->trusted && !parent->adopted)
	{
		life.trusted = false;
		life.cause = parent->cause;
	}
	if (strcmp(life.cause, "promotion") == 0 && dtx_synchronous_failover &&
		(parent->trusted || parent->adopted))
		life.trusted = true;
	dtx_store_add_life(&life);

	started->life = life.life;
	started->lineage = lineage;
	ereport(LOG,
			(errmsg("dtx: life %016llx of database %u begins (%s)%s",
					(unsigned long long) life.life, MyDatabaseId, life.cause,
					life.trusted ? "" : ", nothing is sent to nodes until it is adopted")));
	return life.trusted ? DTX_DATABASE_READY : DTX_DATABASE_UNADOPTED;
}

const DtxLife *
dtx_life_find(List *lives, uint64 life)
{
	ListCell   *cell;

	foreach(cell, lives)
	{
		const DtxLife *candidate = lfirst(cell);

		if (candidate->life == life)
			return candidate;
	}
	return NULL;
}

/* The life that followed. */
const DtxLife *
dtx_life_child(List *lives, uint64 life)
{
	ListCell   *cell;

	foreach(cell, lives)
	{
		const DtxLife *candidate = lfirst(cell);

		if (candidate->parent == life)
			return candidate;
	}
	return NULL;
}

/* What may be concluded about transactions of a life, seen from the present one. */
DtxLifeClaim
dtx_life_claim(List *lives, uint64 present, uint64 life)
{
	const DtxLife *step = dtx_life_find(lives, present);
	const DtxLife *target = dtx_life_find(lives, life);

	if (target == NULL || step == NULL)
		return DTX_LIFE_FOREIGN;
	if (target == step)
		return DTX_LIFE_PRESENT;
	if (target->presumed_abort)
		return DTX_LIFE_ENDED;
	/* walk back from here; one step that may have lost something spoils it */
	while (step != NULL && step != target)
	{
		if (!step->trusted)
			return DTX_LIFE_UNPROVEN;
		step = dtx_life_find(lives, step->parent);
	}
	return step == target ? DTX_LIFE_ENDED : DTX_LIFE_UNPROVEN;
}

/*
 * Did this life begin to hand out xids where what was recovered of the life
 * before it ends?  A copied database shares them with its original, and
 * another cluster may have any.
 */
static bool
goes_on_counting(const DtxLife *life)
{
	static const char *const causes[] = {"restart", "promotion", "restore", "copy"};

	for (int i = 0; i < lengthof(causes); i++)
		if (strcmp(life->cause, causes[i]) == 0)
			return true;
	return false;
}

/* Does somebody else have to end it, whatever life it is of? */
static bool
is_prepared_here(const DtxGid *gid)
{
	DtxDatabase *database = dtx_database(MyDatabaseId, false);
	uint64		seen;
	ListCell   *cell;

	if (database == NULL || !dtx_database_subtrees(database, &seen))
		return false;
	foreach(cell, dtx_store_subtrees())
		if (((DtxSubtree *) lfirst(cell))->xid == gid->xid)
			return true;
	return false;
}

/*
 * The outcome of a transaction, from what this server alone knows.  The order
 * matters: a transaction that commits between the two first questions must
 * not look aborted.
 */
DtxOutcome
dtx_life_outcome(List *lives, uint64 present, const DtxGid *gid)
{
	DtxLifeClaim claim = dtx_life_claim(lives, present, gid->life);
	TransactionId xid = (TransactionId) gid->xid;
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());
	const DtxLife *child;
	bool		known;
	bool		own_xid;
	bool		other;

	if (claim == DTX_LIFE_FOREIGN)
		return DTX_OUTCOME_UNKNOWN;
	if (claim == DTX_LIFE_PRESENT && gid->xid < next &&
		next - gid->xid < PG_INT32_MAX && TransactionIdIsInProgress(xid))
		return DTX_OUTCOME_IN_PROGRESS;
	if (is_prepared_here(gid))
		return DTX_OUTCOME_IN_PROGRESS;
	if (dtx_store_decided(gid, &other))
		return DTX_OUTCOME_COMMITTED;
	if (other || claim == DTX_LIFE_UNPROVEN)
		return DTX_OUTCOME_UNKNOWN;

	/*
	 * No row: aborted, or committed and forgotten.  The commit log tells, as
	 * far as it reaches back and the xid was not handed out again.
	 */
	own_xid = claim == DTX_LIFE_PRESENT;
	if (claim == DTX_LIFE_ENDED)
	{
		child = dtx_life_child(lives, gid->life);
		if (child != NULL && goes_on_counting(child))
		{
			/*
			 * Its xid was never flushed, or not in the part of its life that
			 * was recovered here: no commit of it was.  Whoever has it now is
			 * somebody else.
			 */
			if (gid->xid >= child->first_xid)
				return DTX_OUTCOME_ABORTED;

			/*
			 * Not handed out again, unless there were other runs between the
			 * two lives, as a promotion that crashed before its life began.
			 */
			own_xid = strcmp(child->cause, "restart") == 0;
		}
	}
	known = gid->xid >= FirstNormalTransactionId && gid->xid < next &&
		next - gid->xid < PG_INT32_MAX;
	LWLockAcquire(XactTruncationLock, LW_SHARED);
	known = known && !TransactionIdPrecedes(xid, DTX_OLDEST_CLOG_XID);
	if (known && TransactionIdDidAbort(xid))
	{
		LWLockRelease(XactTruncationLock);
		return DTX_OUTCOME_ABORTED;
	}
	if (known && TransactionIdDidCommit(xid))
	{
		LWLockRelease(XactTruncationLock);
		return own_xid ? DTX_OUTCOME_COMMITTED : DTX_OUTCOME_UNKNOWN;
	}
	LWLockRelease(XactTruncationLock);

	/* Neither: it was running when the server crashed. */
	return known ? DTX_OUTCOME_ABORTED : DTX_OUTCOME_UNKNOWN;
}
