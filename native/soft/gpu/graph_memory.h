/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocation and free nodes: what graph*.c asks about graphs that have them.
 */
#ifndef HARP_SOFT_GRAPH_MEMORY_H
#define HARP_SOFT_GRAPH_MEMORY_H

#include "soft/gpu/graph.h"
#include "soft/gpu/pool_graph.h"

/* With soft_graph_lock held: */
/* Has it, or a graph in it, such nodes? Then it is not cloned, loses no node and no edge, is no
 * child, and is not updated. */
bool soft_graph_has_memory(const struct soft_graph *graph);
/* A copy shares its original's memory; a freed graph lets go of it. */
void soft_graph_memory_share(struct soft_graph *copy, const struct soft_graph *from);
void soft_graph_memory_drop(struct soft_graph *graph);
/* The graph's one executable graph comes, and goes. 801: it has one. */
CUresult soft_graph_memory_enter(const struct soft_graph *graph);
void soft_graph_memory_leave(const struct soft_graph *graph);

/* cuGraphAddNode of these two types. No lock held. */
CUresult soft_graph_memory_add(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps,
                               size_t dep_count, CUgraphNodeParams *params);

#endif
