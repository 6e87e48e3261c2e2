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

/* A node that a role may use, by a mapping of its own or of PUBLIC. */
typedef struct DtxKnownNode
{
	char		name[NAMEDATALEN];
	Oid			roleid;
	Oid			serverid;
	Oid			mappingid;
} DtxKnownNode;

extern ForeignServer *dtx_node_lookup(const char *name, Oid roleid);
extern const DtxKnownNode *dtx_node_find(const char *name, Oid roleid);
extern void dtx_node_enter(const DtxKnownNode *node);
extern void dtx_node_register(Oid serverid, Oid roleid, bool tries);
extern DtxDatabase *dtx_node_database(bool to_send);

#endif							/* DTX_NODE_H */
