/*-------------------------------------------------------------------------
 *
 * quiet.h
 *		Moments at which no global transaction is half committed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_QUIET_H
#define DTX_QUIET_H

extern void dtx_quiet_hold_off(void);
extern bool dtx_quiet_enter(void);
extern void dtx_quiet_leave(void);
extern void dtx_quiet_leave_all(void);
extern void dtx_quiet_begin(void);
extern void dtx_quiet_alone(void);
extern void dtx_quiet_admit(void);
extern void dtx_quiet_end(void);

#endif							/* DTX_QUIET_H */
