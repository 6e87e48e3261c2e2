/*-------------------------------------------------------------------------
 *
 * fault.h
 *		Named places at which a test can make dtx fail.
 *
 *		Nothing of it is in a build without DTX_FAULTS.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_FAULT_H
#define DTX_FAULT_H

#ifdef DTX_FAULTS
#define DTX_FAULT(point) dtx_fault_point(point)
#else
#define DTX_FAULT(point) ((void) 0)
#endif

extern Size dtx_fault_shmem_size(void);
extern void dtx_fault_shmem_init(void);
extern void dtx_fault_point(const char *point);

#endif							/* DTX_FAULT_H */
