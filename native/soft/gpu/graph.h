/* SPDX-License-Identifier: Apache-2.0
 *
 * Graphs: nodes that hold unsubmitted commands, and what it takes to launch copies of them.
 *
 * A node owns a template command (none: empty nodes and child graphs) with all its parameters
 * copied. An executable graph is a clone of its graph, flat, in an order that heeds dependencies; a
 * launch submits clones of its commands. Nodes of a clone remember the node they were made of, so
 * that calls on an executable graph find theirs by the client's handle.
 *
 * Locks: soft_graph_lock guards all graphs and captures; it is never held while a command is
 * submitted or made. An executable graph's own lock keeps two launches of it apart; order: its own
 * lock, then soft_graph_lock.
 */
#ifndef HARP_SOFT_GRAPH_H
#define HARP_SOFT_GRAPH_H

#include <pthread.h>

#include "soft/gpu/launch.h"

struct soft_capture;
struct soft_graph_alloc;
struct soft_graph_memory;

struct soft_node {
    CUgraphNodeType type;
    struct soft_graph *graph;
    const struct soft_node *original; /* a clone's; only compared */
    struct soft_node **deps;          /* nodes that must be complete before it */
    size_t dep_count, dep_room;
    struct soft_cmd *cmd; /* the template; NULL: empty node or child graph */
    struct soft_ctx *ctx; /* of the command; NULL: none */
    uint64_t ctx_id;
    bool has_params; /* the union holds what the client gave (not so for captured copies) */
    bool disabled;
    union {
        CUDA_MEMCPY3D copy;
        CUDA_MEMSET_NODE_PARAMS_v1 set;
        CUDA_HOST_NODE_PARAMS_v1 host;
        CUevent event;
        struct soft_graph *child;
        struct soft_graph_alloc *memory; /* allocation node */
        CUdeviceptr freed;               /* free node */
    } u;
    void **pointers; /* to the kernel's parameters, for GetParams */
    size_t mark;     /* the walker's */
    size_t step;     /* of an executable graph's: at which its plan has it done */
};

struct soft_user; /* graph_user.c */
struct soft_user_ref {
    struct soft_user *user;
    unsigned count;
};
struct soft_users { /* references to user objects that something holds */
    struct soft_user_ref *refs;
    size_t count;
};

struct soft_graph {
    struct soft_node **nodes; /* in order of creation */
    size_t count, room;
    struct soft_capture *capture;     /* being captured into */
    struct soft_graph_memory *memory; /* counted; NULL: no allocation or free node */
    bool owned;                       /* a child graph: destroyed with its node */
    struct soft_users users;
};

/* How an executable graph runs; never changed, by reference. Nodes are spread over lanes, each an
 * inner stream: one that follows another alone shares its lane, others run beside each other. */
struct soft_step {
    struct soft_node *node; /* of the executable graph; NULL: begin or end of a child graph */
    size_t dep_first, dep_count;
    unsigned lane;
};
struct soft_plan {
    _Atomic unsigned refs;
    struct soft_step *steps; /* in an order that heeds dependencies */
    size_t step_count, step_room;
    size_t *deps; /* numbers of steps */
    size_t dep_count, dep_room;
    struct soft_ctx **lane_ctx; /* NULL: that of the stream it is launched in */
    unsigned lane_count;
};
struct soft_lanes; /* graph_launch.c: the streams of an executable graph, by reference */

struct soft_exec {
    pthread_mutex_t lock; /* one launch at a time */
    struct soft_graph *graph;
    struct soft_plan *plan;
    struct soft_lanes *lanes; /* NULL: never needed */
    struct soft_users users;  /* of all graphs it was made of or updated from */
    uint64_t flags;
    bool only;                /* counted as the only one of its graph's memory */
    struct soft_stream *last; /* of the latest launch, by reference; NULL: never launched */
    uint64_t last_seq;        /* its place */
};

extern pthread_mutex_t soft_graph_lock;

/* graph.c; with soft_graph_lock held */
struct soft_graph *soft_graph_of(CUgraph handle); /* NULL: not one */
struct soft_node *soft_node_of(CUgraphNode handle);
CUresult soft_graph_new(struct soft_graph **out);
void soft_graph_free(struct soft_graph *graph);
/* Adds a node that takes `cmd` over; on failure the command is the caller's still. */
CUresult soft_graph_add(struct soft_graph *graph, CUgraphNodeType type, struct soft_cmd *cmd,
                        struct soft_ctx *ctx, const CUgraphNode *deps, size_t dep_count,
                        struct soft_node **out);
void soft_graph_remove_last(struct soft_graph *graph); /* the node added last */
CUresult soft_node_depend(struct soft_node *node, struct soft_node *on);
void soft_node_set_cmd(struct soft_node *node, struct soft_cmd *cmd, struct soft_ctx *ctx);
/* A copy of all, child graphs too. */
CUresult soft_graph_copy(const struct soft_graph *from, struct soft_graph **out);
/* True if `node` is `from` or comes before it. */
bool soft_node_before(const struct soft_node *node, const struct soft_node *from);
void soft_cmd_free(struct soft_cmd *cmd);

/* graph_params.c: what a node does, made into a command; no lock held */
struct soft_work {
    CUgraphNodeType type;
    bool adopt; /* the child graph is the client's own: no copy was made */
    struct soft_cmd *cmd;
    struct soft_ctx *ctx;
    union {
        CUDA_MEMCPY3D copy;
        CUDA_MEMSET_NODE_PARAMS_v1 set;
        CUDA_HOST_NODE_PARAMS_v1 host;
        CUevent event;
        struct soft_graph *child;
    } u;
};
/* The context meant: `handle`, or the current one if NULL. */
CUresult soft_work_ctx(CUcontext handle, struct soft_ctx **ctx);
CUresult soft_work_kernel(const CUDA_KERNEL_NODE_PARAMS *params, struct soft_work *work);
CUresult soft_work_copy(const CUDA_MEMCPY3D *copy, CUcontext ctx, struct soft_work *work);
CUresult soft_work_set(const CUDA_MEMSET_NODE_PARAMS_v1 *set, CUcontext ctx,
                       struct soft_work *work);
CUresult soft_work_host(const CUDA_HOST_NODE_PARAMS_v1 *host, struct soft_work *work);
CUresult soft_work_event(CUevent event, bool record, struct soft_work *work);
CUresult soft_work_memop(const CUDA_BATCH_MEM_OP_NODE_PARAMS *params, struct soft_work *work);
/* From the parameters of cuGraphAddNode. */
CUresult soft_work_any(const CUgraphNodeParams *params, struct soft_work *work);
/* Gives an existing node other work of its own type; takes the command whatever it returns. */
CUresult soft_node_take(struct soft_node *node, struct soft_work *work);
void soft_work_drop(struct soft_work *work);

/* graph_edges.c: edges with data other than the default are refused. */
CUresult soft_edges_plain(const CUgraphEdgeData *data, size_t count);

/* graph_plan.c; with soft_graph_lock held. A cycle is an error, and `cycle` a node on it. */
CUresult soft_plan_make(struct soft_graph *graph, struct soft_plan **out,
                        const struct soft_node **cycle);
void soft_plan_unref(struct soft_plan *plan);

/* graph_same.c; with soft_graph_lock held */
struct soft_difference {
    CUgraphExecUpdateResult result;
    const struct soft_node *node, *from;
};
/* Pairs the nodes by order of creation; false: another shape, or what may not change. */
bool soft_graph_same(const struct soft_graph *graph, const struct soft_graph *with,
                     struct soft_difference *difference);
/* All commands from a graph that is the same. */
CUresult soft_graph_take(struct soft_graph *graph, const struct soft_graph *with);
bool soft_node_may_become(const struct soft_node *node, const struct soft_work *work);

/* graph_launch.c */
struct soft_exec *soft_exec_of(CUgraphExec handle); /* NULL: not one */
void soft_lanes_unref(struct soft_lanes *lanes);

/* graph_user.c: copies add references, drops give them back; the last one has the destructor
 * called, on a thread of its own. */
CUresult soft_users_copy(const struct soft_users *from, struct soft_users *to);
/* Adds those of the graph and of its child graphs. */
CUresult soft_users_gather(const struct soft_graph *graph, struct soft_users *to);
void soft_users_drop(struct soft_users *users);

/* capture.c: a graph launched into a capturing stream becomes a child of what is captured. Takes
 * `child`. No lock held. */
CUresult soft_capture_child(struct soft_stream *stream, struct soft_graph *child);

#endif
