/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory of graphs. Addresses are a graph's for good; what lies behind them is dealt out at each
 * launch, in blocks of 32 MiB that all graphs of a device share: graphs that never run at the same
 * time get the same blocks. A block is free when no allocation in it outlives its graph and its
 * last launch is over for the launching stream.
 *
 * space.lock guards all of it, inside soft_graph_lock.
 */
#ifndef HARP_SOFT_POOL_GRAPH_H
#define HARP_SOFT_POOL_GRAPH_H

#include "soft/gpu/pool.h"

struct soft_graph_memory;

struct soft_graph_alloc { /* of one allocation node; lives as long as its graph's memory */
    struct soft_graph_alloc *next;
    struct soft_graph_memory *memory;
    struct soft_graph_segment *segment;
    CUdeviceptr start;
    uint64_t bytes, asked, id;
    CUmemPoolProps props;
    CUmemAccessDesc *descs; /* as given, for GetParams; malloc'ed */
    size_t desc_count;
    const void *free_node;    /* in its own graph; NULL: it outlives a launch */
    unsigned freed_elsewhere; /* free nodes of other graphs */
    bool in_exec;             /* its graph was instantiated with it */
    bool living;              /* a launch made it and nothing has freed it */
    bool claimed;             /* its free is being submitted */
};

/* Locked. A graph and what it was instantiated as have one together. */
struct soft_graph_memory *soft_graph_memory_new(void);
void soft_graph_memory_ref(struct soft_graph_memory *memory);
void soft_graph_memory_unref(struct soft_graph_memory *memory);
/* False: there is an executable graph of it already. */
bool soft_graph_memory_instantiate(struct soft_graph_memory *memory);
void soft_graph_memory_uninstantiate(struct soft_graph_memory *memory);

/* Finds addresses: those of an allocation whose free node `is_before` the new node may be used
 * again. `wanted` has props, asked, descs (taken) and desc_count. NULL: no addresses left. */
struct soft_graph_alloc *soft_graph_alloc_new(struct soft_graph_memory *memory,
                                              const struct soft_graph_alloc *wanted, int ordinal,
                                              uint64_t peers,
                                              bool (*is_before)(const void *free_node));
/* The one made last goes again: its node could not be made. */
void soft_graph_alloc_undo(struct soft_graph_memory *memory);
/* A free node of `ptr` in the graph of `memory`. Error 1: not a graph's, or freed already. */
CUresult soft_graph_free_add(struct soft_graph_memory *memory, CUdeviceptr ptr, const void *node);

/* A launch (or an upload) in `stream`: what begins, before its nodes are submitted, and what ends,
 * after that, whatever has happened between. Not locked. */
CUresult soft_graph_launch_begin(struct soft_graph_memory *memory, struct soft_stream *stream,
                                 bool upload, bool auto_free);
CUresult soft_graph_launch_end(struct soft_graph_memory *memory, struct soft_stream *stream,
                               bool upload);

/* Frees by the client of what outlives its graph. Locked. */
bool soft_graph_pool_claim(CUdeviceptr ptr); /* false: no such living allocation begins there */
void soft_graph_pool_unclaim(CUdeviceptr ptr);
void soft_graph_pool_freed(CUdeviceptr ptr, struct soft_stream *stream, uint64_t seq);

/* Blocks that no graph needs go back to the device. Locked. */
void soft_graph_pool_trim(int ordinal);
/* All of a device goes. Locked. */
void soft_graph_pool_wipe(int ordinal);

#endif
