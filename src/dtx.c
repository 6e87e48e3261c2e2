/*-------------------------------------------------------------------------
 *
 * dtx.c
 *		Loading of the module.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "dtx.h"
#include "guc.h"
#include "life.h"
#include "shmem.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	/*
	 * Loaded later, everything but views and check_setup() refuses to work
	 * (see dtx_require_preload), so nothing else is set up.
	 */
	if (!process_shared_preload_libraries_in_progress)
		return;
	dtx_guc_init();
	dtx_life_init();
	dtx_shmem_init();
	dtx_twophase_init();
	dtx_guard_init();
	dtx_launcher_init();
}
