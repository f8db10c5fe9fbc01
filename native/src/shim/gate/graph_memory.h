/* SPDX-License-Identifier: Apache-2.0
 *
 * Executable graphs that take memory: launches (generated/shim_time.c), and what graph_nodes.c
 * reads from a graph for graph_memory.c.
 */
#ifndef HARP_SHIM_GRAPH_MEMORY_H
#define HARP_SHIM_GRAPH_MEMORY_H

#include "harp/lease.h"
#include "src/shim/gate/local.h"
#include "src/shim/gate/memory.h"

#define HARP_GRAPH_CONTEXTS 8 /* of one graph's kernels with large frames */

struct harp_graph_exec {
    struct harp_graph_exec *next;
    CUgraphExec exec; /* NULL: destroyed; allocations of its may live */
    unsigned users;
    uint64_t bytes[HARP_MAX_DEVICES]; /* the most that a launch needs */
    CUdeviceptr *outlive;             /* what it allocates and does not free */
    bool *alive;                      /* of those: a launch made it and nothing has freed it */
    size_t outlive_count, living;
    CUdeviceptr *frees; /* what others allocated and it frees */
    size_t free_count;
    struct harp_graph_frame { /* the largest of its kernels in a context */
        CUcontext ctx;
        size_t frame;
    } frames[HARP_GRAPH_CONTEXTS];
    unsigned frame_count;
};

struct harp_graph_turn {          /* between begin and end of a launch; on the caller's stack */
    struct harp_graph_exec *exec; /* NULL: takes nothing */
    int devices;
    uint64_t leased[HARP_MAX_DEVICES];
    unsigned locals;
    struct harp_local local[HARP_GRAPH_CONTEXTS];
};

/* An executable graph that allocates exists, or one whose kernels have large frames. */
extern bool harp_graphs_allocate;

/* Leases what a launch (or upload) may need. Before the time gate, for it may wait. */
CUresult harp_graph_launch_begin(struct harp_graph_turn *turn, CUgraphExec exec, CUstream on);
void harp_graph_launch_end(struct harp_graph_turn *turn, CUresult r, bool launch);

static inline CUresult harp_graph_turn_begin(struct harp_graph_turn *turn, CUgraphExec exec,
                                             CUstream on)
{
    turn->exec = NULL;
    if (!__atomic_load_n(&harp_graphs_allocate, __ATOMIC_RELAXED))
        return CUDA_SUCCESS;
    return harp_graph_launch_begin(turn, exec, on);
}

static inline CUresult harp_graph_turn_end(struct harp_graph_turn *turn, CUresult r)
{
    if (turn->exec != NULL)
        harp_graph_launch_end(turn, r, true);
    return r;
}

/* `e` is known from now on; `device`: ordinals of the devices that it allocates on. */
void harp_graph_exec_made(struct harp_graph_exec *e, const CUdevice device[HARP_MAX_DEVICES]);

/* One of its kernels has such a frame. */
void harp_graph_exec_frame(CUgraphExec exec, CUcontext ctx, size_t frame);

/* graph_nodes.c: it has that graph's kernels now. */
void harp_graph_kernels_changed(CUgraphExec exec, CUgraph graph);
/* graph_kernels.c: a graph is about to be given a kernel. */
void harp_graph_kernel_given(CUfunction func, CUkernel kern, CUcontext ctx);

/* graph_nodes.c; graph_memory.c's lock held */
void harp_graph_exec_freed(struct harp_graph_exec *list, CUdeviceptr ptr);
/* Destroyed ones of which nothing lives go. */
void harp_graph_exec_reap(struct harp_graph_exec **list);

#endif
