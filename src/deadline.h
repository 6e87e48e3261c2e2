/*-------------------------------------------------------------------------
 *
 * deadline.h
 *		Time limits of dtx's own, by a clock that does not jump.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_DEADLINE_H
#define DTX_DEADLINE_H

/* Microseconds; 0 is long ago. */
typedef int64 DtxTime;

#define DTX_NEVER PG_INT64_MAX

extern DtxTime dtx_now(void);
extern void dtx_deadline_start(int timeout_ms);
extern bool dtx_deadline_passed(void);
extern void dtx_deadline_stop(void);

static inline DtxTime
dtx_later(DtxTime from, int64 ms)
{
	return from + ms * 1000;
}

/* Have so many milliseconds passed between the two? */
static inline bool
dtx_exceeds(DtxTime from, DtxTime to, int64 ms)
{
	return to - from >= ms * 1000;
}

#endif							/* DTX_DEADLINE_H */
