/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of graph memory: pool_graph.c (addresses), pool_graph_block.c (what lies behind them),
 * pool_graph_launch.c (launches).
 */
#ifndef HARP_SOFT_POOL_GRAPH_STATE_H
#define HARP_SOFT_POOL_GRAPH_STATE_H

#include "soft/gpu/pool_graph.h"

struct soft_graph_block { /* SOFT_POOL_UNIT bytes of a device */
    struct soft_graph_block *next;
    int ordinal;
    uint64_t offset;
    struct soft_dep *until; /* free after all of these; streams counted */
    size_t count, room;
    unsigned living;    /* allocations in it that outlive their graphs */
    unsigned launching; /* launches that are being submitted */
    unsigned bound;     /* segments that have it */
};

struct soft_graph_unit {              /* of a segment */
    struct soft_graph_block *planned; /* by the latest launch */
    struct soft_graph_block *mapped;  /* in order of execution */
    bool taken;                       /* counted as launching in `planned` */
};

struct soft_graph_segment { /* addresses of a graph: whole units */
    struct soft_area area;
    struct soft_graph_segment *next;
    struct soft_graph_memory *memory;
    int ordinal;
    uint64_t peers; /* other devices that may use it, a bit an ordinal */
    size_t units;
    struct soft_graph_unit *unit;
};

struct soft_graph_memory {
    struct soft_graph_memory *next, **link; /* all */
    unsigned refs;
    bool instantiated;
    struct soft_graph_segment *segments;
    struct soft_graph_alloc *allocs;    /* latest first */
    struct soft_graph_alloc **frees;    /* other graphs' that its launch frees */
    size_t free_count, exec_free_count; /* all; known when it was instantiated */
    struct soft_stream *last;           /* the latest launch; counted */
    uint64_t last_seq;
};

struct soft_graph_pool {    /* of a device */
    struct soft_phys *phys; /* growing; NULL until needed */
    struct soft_graph_block *blocks;
    uint64_t used, used_high, reserved, reserved_high;
};

extern struct soft_graph_memory *soft_graph_memories;
struct soft_graph_pool *soft_graph_pool_of(int ordinal);

/* A block that `stream` may use from its next command on, behind the end of `memory`'s latest
 * launch; `had` if that will do. Counted as launching. NULL: the device is full. */
struct soft_graph_block *soft_graph_block_take(struct soft_graph_memory *memory, int ordinal,
                                               struct soft_graph_block *had,
                                               struct soft_stream *stream);
/* It is free only after `seq` of `stream`, too. */
void soft_graph_block_until(struct soft_graph_block *block, struct soft_stream *stream,
                            uint64_t seq);
/* The unit has `block` (or NULL) from now on. */
void soft_graph_unit_plan(struct soft_graph_segment *segment, size_t unit,
                          struct soft_graph_block *block);
/* The same in order of execution: what is there can be reached. 0 or -errno. */
int soft_graph_unit_map(struct soft_graph_segment *segment, size_t unit,
                        struct soft_graph_block *block);
/* +1, -1 for all blocks that it lies in. */
void soft_graph_alloc_live(struct soft_graph_alloc *alloc, bool living);
/* The living allocation that begins at `ptr` (claimed or not); NULL: none. */
struct soft_graph_alloc *soft_graph_alloc_living(CUdeviceptr ptr);

#endif
