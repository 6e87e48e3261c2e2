/*-------------------------------------------------------------------------
 *
 * deadline.h
 *		A time limit of dtx's own for waits that PostgreSQL does not limit.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_DEADLINE_H
#define DTX_DEADLINE_H

extern void dtx_deadline_start(int timeout_ms);
extern bool dtx_deadline_passed(void);
extern void dtx_deadline_stop(void);

#endif							/* DTX_DEADLINE_H */
