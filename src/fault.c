/*-------------------------------------------------------------------------
 *
 * fault.c
 *		Named places at which a test can make dtx fail.
 *
 *		A fault is armed from any session and hits whoever passes the point
 *		next (after "skip" passes), once.  It lives in shared memory, so a
 *		restart disarms everything.  The functions are not part of the
 *		extension: tests declare them.
 *
 *		error		ereport(ERROR)
 *		nomem		what a failed palloc raises
 *		crash		kill -9 of this process: the server restarts
 *		crash_server	kill -9 of the postmaster as well
 *		terminate	what pg_terminate_backend does
 *		sleep:<ms>	sleep, whatever comes
 *		wait		until dtx_fault_reset()
 *		hold		the same, and not once: everybody who passes waits
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fault.h"

#ifdef DTX_FAULTS

#include <signal.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"

#define FAULTS_MAX 32

typedef struct Fault
{
	char		point[NAMEDATALEN];
	char		action[NAMEDATALEN];
	int			skip;
	bool		armed;
	bool		waiting;
	int64		hits;
} Fault;

typedef struct FaultShared
{
	slock_t		mutex;
	bool		any;			/* cheap test before the mutex */
	uint32		generation;		/* raised by a reset, ends all waits */
	Fault		fault[FAULTS_MAX];
} FaultShared;

static FaultShared *faults = NULL;

Size
dtx_fault_shmem_size(void)
{
	return MAXALIGN(sizeof(FaultShared));
}

void
dtx_fault_shmem_init(void)
{
	bool		found;

	faults = ShmemInitStruct("dtx faults", sizeof(FaultShared), &found);
	if (!found)
	{
		memset(faults, 0, sizeof(FaultShared));
		SpinLockInit(&faults->mutex);
	}
}

static Fault *
find_fault(const char *point)
{
	for (int i = 0; i < FAULTS_MAX; i++)
		if (strcmp(faults->fault[i].point, point) == 0)
			return &faults->fault[i];
	return NULL;
}

void
dtx_fault_point(const char *point)
{
	Fault	   *fault;
	bool		fire = false;
	uint32		generation = 0;
	char		action[NAMEDATALEN];

	if (faults == NULL || !faults->any)
		return;
	SpinLockAcquire(&faults->mutex);
	fault = find_fault(point);
	if (fault != NULL)
	{
		fault->hits++;
		if (fault->armed && fault->skip-- <= 0)
		{
			fire = true;
			fault->armed = strcmp(fault->action, "hold") == 0;
			strlcpy(action, fault->action, sizeof(action));
			fault->waiting = strcmp(action, "wait") == 0 || fault->armed;
			generation = faults->generation;
		}
	}
	SpinLockRelease(&faults->mutex);
	if (!fire)
		return;

	if (strcmp(action, "error") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("fault point \"%s\"", point)));
	else if (strcmp(action, "nomem") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Fault point \"%s\".", point)));
	else if (strcmp(action, "crash") == 0)
		kill(getpid(), SIGKILL);
	else if (strcmp(action, "crash_server") == 0)
	{
		kill(PostmasterPid, SIGKILL);
		kill(getpid(), SIGKILL);
	}
	else if (strcmp(action, "terminate") == 0)
		kill(getpid(), SIGTERM);
	else if (strncmp(action, "sleep:", 6) == 0)
	{
		int			left_ms = atoi(action + 6);

		for (; left_ms > 0; left_ms -= 10)
			pg_usleep(10000L);
	}
	else if (strcmp(action, "wait") == 0 || strcmp(action, "hold") == 0)
	{
		/* Interrupts may be held here: a test must always reset. */
		while (*(volatile uint32 *) &faults->generation == generation)
		{
			pg_usleep(2000L);
			if (InterruptHoldoffCount == 0)
				CHECK_FOR_INTERRUPTS();
		}
	}
}

PG_FUNCTION_INFO_V1(dtx_fault);
PG_FUNCTION_INFO_V1(dtx_fault_hits);
PG_FUNCTION_INFO_V1(dtx_fault_waiting);
PG_FUNCTION_INFO_V1(dtx_fault_reset);

/* Arm a point: (point text, action text, skip int). */
Datum
dtx_fault(PG_FUNCTION_ARGS)
{
	char	   *point = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *action = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			skip = PG_GETARG_INT32(2);
	Fault	   *fault;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to arm a fault point")));
	SpinLockAcquire(&faults->mutex);
	fault = find_fault(point);
	if (fault == NULL)
		fault = find_fault("");
	if (fault != NULL)
	{
		memset(fault, 0, sizeof(Fault));
		strlcpy(fault->point, point, NAMEDATALEN);
		strlcpy(fault->action, action, NAMEDATALEN);
		fault->skip = skip;
		fault->armed = true;
		faults->any = true;
	}
	SpinLockRelease(&faults->mutex);
	if (fault == NULL)
		ereport(ERROR, (errmsg("too many fault points")));
	PG_RETURN_VOID();
}

/* How often a point was passed since it was armed. */
Datum
dtx_fault_hits(PG_FUNCTION_ARGS)
{
	char	   *point = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Fault	   *fault;
	int64		hits;

	SpinLockAcquire(&faults->mutex);
	fault = find_fault(point);
	hits = fault ? fault->hits : 0;
	SpinLockRelease(&faults->mutex);
	PG_RETURN_INT64(hits);
}

/* Is somebody waiting there now? */
Datum
dtx_fault_waiting(PG_FUNCTION_ARGS)
{
	char	   *point = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Fault	   *fault;
	bool		waiting;

	SpinLockAcquire(&faults->mutex);
	fault = find_fault(point);
	waiting = fault ? fault->waiting : false;
	SpinLockRelease(&faults->mutex);
	PG_RETURN_BOOL(waiting);
}

/* Disarm everything and let the waiting go on. */
Datum
dtx_fault_reset(PG_FUNCTION_ARGS)
{
	SpinLockAcquire(&faults->mutex);
	memset(faults->fault, 0, sizeof(faults->fault));
	faults->any = false;
	faults->generation++;
	SpinLockRelease(&faults->mutex);
	PG_RETURN_VOID();
}

#else

Size
dtx_fault_shmem_size(void)
{
	return 0;
}

void
dtx_fault_shmem_init(void)
{
}

#endif							/* DTX_FAULTS */
