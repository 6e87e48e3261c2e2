/*-------------------------------------------------------------------------
 *
 * node.h
 *		Nodes: foreign servers of dblink_fdw, and this database itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DTX_NODE_H
#define DTX_NODE_H

#include "foreign/foreign.h"

#include "dtx.h"
#include "shmem.h"

extern ForeignServer *dtx_node_lookup(const char *name, Oid roleid);
extern void dtx_node_enter(ForeignServer *server, Oid roleid);
extern void dtx_node_register(ForeignServer *server, Oid roleid);
extern DtxDatabase *dtx_node_database(bool to_send);

#endif							/* DTX_NODE_H */
