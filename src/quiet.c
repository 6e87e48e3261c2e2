/*-------------------------------------------------------------------------
 *
 * quiet.c
 *		Moments at which no global transaction is half committed.
 *
 *		A lock of this database that SQL cannot reach: whoever is about to
 *		begin a phase two shares it until that is over, whoever needs a quiet
 *		moment first keeps sessions out, so that the scanner can finish what
 *		they have left, and then the scanner as well.  Queues are fair, so that
 *		neither starves.
 *
 *		sessions	ShareLock				dtx_quiet_hold_off, in PRE_COMMIT;
 *											PostgreSQL releases it after the
 *											COMMIT and ABORT callbacks
 *		scanners	RowShareLock			dtx_quiet_enter and _leave, around
 *											one COMMIT PREPARED
 *		readers		ShareRowExclusiveLock	dtx_quiet_begin: no sessions
 *					ExclusiveLock			dtx_quiet_alone: no scanners either
 *
 * (1) Nobody waits for the lock after the decision.
 * (2) A quiet moment, and the wait for it, last no longer than its caller's
 *	   deadline, dtx.lockout_timeout.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/elog.h"

#include "compat.h"
#include "guc.h"
#include "quiet.h"

/* Advisory locks of SQL have 1 or 2 in this place. */
#define LOCK_QUIET 0xD9

static void
quiet_tag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0, 0, LOCK_QUIET);
}

/* Wait for the lock, whatever lock_timeout says.  Can be cancelled. */
static void
acquire(LOCKMODE mode, bool for_session)
{
	LOCKTAG		tag;
	int			save_timeout = LockTimeout;

	quiet_tag(&tag);
	PG_TRY();
	{
		LockTimeout = 0;
		(void) LockAcquire(&tag, mode, for_session, false);
	}
	PG_FINALLY();
	{
		LockTimeout = save_timeout;
	}
	PG_END_TRY();
}

/* Let no quiet moment begin until this transaction is over. */
void
dtx_quiet_hold_off(void)
{
	acquire(ShareLock, false);
}

/* The same for a worker, if no quiet moment is wanted; else false. */
bool
dtx_quiet_enter(void)
{
	LOCKTAG		tag;

	quiet_tag(&tag);
	return LockAcquire(&tag, RowShareLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

static void
release_all(LOCKMODE mode)
{
	LOCKTAG		tag;

	quiet_tag(&tag);
	while (DTX_LOCK_HELD(&tag, mode))
		LockRelease(&tag, mode, true);
}

void
dtx_quiet_leave(void)
{
	LOCKTAG		tag;

	quiet_tag(&tag);
	LockRelease(&tag, RowShareLock, true);
}

/* After an error nobody knows how many there were. */
void
dtx_quiet_leave_all(void)
{
	release_all(RowShareLock);
}

/* Wait until the phase two of every session is over, and let none begin. */
void
dtx_quiet_begin(void)
{
	acquire(ShareRowExclusiveLock, true);
}

/* The same for scanners, after dtx_quiet_begin(). */
void
dtx_quiet_alone(void)
{
	acquire(ExclusiveLock, true);
}

/* Let scanners go on, but no session. */
void
dtx_quiet_admit(void)
{
	release_all(ExclusiveLock);
}

/* All go on; also after an error in one of the above. */
void
dtx_quiet_end(void)
{
	release_all(ExclusiveLock);
	release_all(ShareRowExclusiveLock);
}
