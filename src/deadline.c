/*-------------------------------------------------------------------------
 *
 * deadline.c
 *		Time limits of dtx's own, by a clock that does not jump.
 *
 *		statement_timeout is off while a transaction commits, and in workers
 *		altogether.  When the deadline passes, whatever waits is cancelled as
 *		a user would cancel it; the caller catches that and asks
 *		dtx_deadline_passed() who it was.
 *
 * (1) PostgreSQL's own timeouts compare times of day: after the clock was set
 *	   back they do not fire.  Nothing of dtx depends on the time of day but
 *	   what is shown to people, and retention.
 * (2) The timer has a signal of its own, which PostgreSQL does not use.  It is
 *	   not stopped, which would cost a system call in every COMMIT: the signal
 *	   means something only while a deadline is set and has come.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <time.h>

#include "miscadmin.h"
#include "storage/latch.h"

#include "deadline.h"

#define DEADLINE_SIGNAL (SIGRTMIN + 3)
/* Added to a clock that may have begun a moment ago. */
#define LONG_AGO INT64CONST(1000000000000)

static timer_t timer;
static pid_t timer_pid = 0;		/* whose it is: forked children have none */
static volatile DtxTime deadline = DTX_NEVER;
static volatile sig_atomic_t passed = false;

DtxTime
dtx_now(void)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return LONG_AGO + (int64) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void
deadline_handler(SIGNAL_ARGS)
{
	int			save_errno = errno;

	if (dtx_now() >= deadline)
	{
		passed = true;
		InterruptPending = true;
		QueryCancelPending = true;
		SetLatch(MyLatch);
	}
	errno = save_errno;
}

static void
make_timer(void)
{
	struct sigevent event = {0};

	event.sigev_notify = SIGEV_SIGNAL;
	event.sigev_signo = DEADLINE_SIGNAL;
	pqsignal(DEADLINE_SIGNAL, deadline_handler);
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not create a timer: %m")));
	timer_pid = MyProcPid;
}

static void
set_timer(int timeout_ms)
{
	struct itimerspec when = {{0}};

	when.it_value.tv_sec = timeout_ms / 1000;
	when.it_value.tv_nsec = (long) (timeout_ms % 1000) * 1000000;
	if (timer_settime(timer, 0, &when, NULL) != 0)
		elog(ERROR, "could not set a timer: %m");
}

/* timeout_ms is at least 1. */
void
dtx_deadline_start(int timeout_ms)
{
	if (timer_pid != MyProcPid)
		make_timer();
	deadline = DTX_NEVER;
	passed = false;
	deadline = dtx_later(dtx_now(), timeout_ms);
	set_timer(timeout_ms);
}

bool
dtx_deadline_passed(void)
{
	return passed;
}

/* Must be called on every way out; once more does no harm. */
void
dtx_deadline_stop(void)
{
	deadline = DTX_NEVER;
	if (passed)
		QueryCancelPending = false;
	passed = false;
}
