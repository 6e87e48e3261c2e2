/*-------------------------------------------------------------------------
 *
 * nothrow.h
 *		Running something where nothing may be thrown.
 *
 *		After the decision an ERROR is a PANIC of the whole server, and while
 *		a transaction aborts a few of them are.  What is caught has reset the
 *		counts of held interrupts, which the commit code still relies on.
 *
 *		DTX_NOTHROW_BEGIN();
 *			work
 *		DTX_NOTHROW_FAILED();
 *			what to do instead; must not throw
 *		DTX_NOTHROW_END();
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_NOTHROW_H
#define DTX_NOTHROW_H

#include "miscadmin.h"

#define DTX_NOTHROW_BEGIN() \
	{ \
		uint32		save_holdoff = InterruptHoldoffCount; \
		uint32		save_cancel_holdoff = QueryCancelHoldoffCount; \
		MemoryContext save_context = CurrentMemoryContext; \
		PG_TRY(); \
		{

#define DTX_NOTHROW_FAILED() \
		} \
		PG_CATCH(); \
		{ \
			MemoryContextSwitchTo(save_context); \
			FlushErrorState(); \
			InterruptHoldoffCount = save_holdoff; \
			QueryCancelHoldoffCount = save_cancel_holdoff;

#define DTX_NOTHROW_END() \
		} \
		PG_END_TRY(); \
	}

#endif							/* DTX_NOTHROW_H */
