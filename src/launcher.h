/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The workers of dtx.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_LAUNCHER_H
#define DTX_LAUNCHER_H

#include "postmaster/bgworker.h"

#include "shmem.h"

extern void dtx_worker_describe(BackgroundWorker *worker, const char *function,
								const char *type, Oid database);
extern PGDLLEXPORT void dtx_launcher_main(Datum arg);
extern PGDLLEXPORT void dtx_scanner_main(Datum arg);
extern PGDLLEXPORT void dtx_node_worker_main(Datum arg);
extern PGDLLEXPORT void dtx_deadlock_worker_main(Datum arg);
extern PGDLLEXPORT void dtx_local_worker_main(Datum arg);
extern PGDLLEXPORT void dtx_flow_worker_main(Datum arg);

#endif							/* DTX_LAUNCHER_H */
