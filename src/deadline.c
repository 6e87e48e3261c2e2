/*-------------------------------------------------------------------------
 *
 * deadline.c
 *		A time limit of dtx's own for waits that PostgreSQL does not limit.
 *
 *		statement_timeout is off while a transaction commits, and in workers
 *		altogether.  When the deadline passes, whatever waits is cancelled as
 *		a user would cancel it; the caller catches that and asks
 *		dtx_deadline_passed() who it was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timeout.h"

#include "deadline.h"

static TimeoutId deadline_id;
static bool registered = false;
static volatile sig_atomic_t passed = false;

static void
deadline_handler(void)
{
	passed = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

void
dtx_deadline_start(int timeout_ms)
{
	if (!registered)
	{
		deadline_id = RegisterTimeout(USER_TIMEOUT, deadline_handler);
		registered = true;
	}
	passed = false;
	enable_timeout_after(deadline_id, timeout_ms);
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
	if (!registered)
		return;
	disable_timeout(deadline_id, false);
	if (passed)
		QueryCancelPending = false;
	passed = false;
}
