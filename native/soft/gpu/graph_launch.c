/* SPDX-License-Identifier: Apache-2.0
 *
 * Launches of executable graphs.
 *
 * A graph of one lane submits copies of its commands to the stream it is launched in, one behind
 * the other. Others are one command of that stream, which, when its turn comes, submits the copies
 * to the lanes (inner streams, in the contexts of the nodes) and ends with the last of them:
 * branches overlap as far as engines and SMs let them. Instants stay logical: the lanes' commands
 * start when the graph does, and the graph ends when they do.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/event.h"
#include "soft/gpu/graph_memory.h"

struct soft_lanes {
    _Atomic unsigned refs;
    unsigned count;
    struct soft_stream *streams[]; /* by reference; NULL: not made yet */
};

struct promise { /* an event that a node records: pending from the launch on */
    struct soft_event *event;
    uint64_t number;
};

struct graph_run {
    struct soft_cmd cmd;
    struct soft_plan *plan;
    struct soft_lanes *lanes;
    struct soft_users users;
    struct promise *promises;
    size_t promise_count;
    uint64_t *seq;           /* of each step, in its lane */
    struct soft_cmd *cmds[]; /* of each step; NULL once submitted */
};

static void retire(struct soft_stream *stream)
{
    if (stream == NULL)
        return;
    soft_lock();
    if (atomic_load(&stream->ctx->alive) && stream->ctx_id == stream->ctx->id)
        soft_stream_orphan(stream);
    soft_unlock();
    soft_stream_unref(stream);
}

void soft_lanes_unref(struct soft_lanes *lanes)
{
    if (lanes == NULL || --lanes->refs > 0)
        return;
    for (unsigned i = 0; i < lanes->count; i++)
        retire(lanes->streams[i]);
    free(lanes);
}

/* -------------------------------------------------------------------------- as one command ---- */
static CUresult submit_step(struct graph_run *g, size_t i, uint64_t start_ns)
{
    const struct soft_step *step = &g->plan->steps[i];
    struct soft_cmd *cmd = g->cmds[i];
    g->cmds[i] = NULL;
    if (cmd->submit_ns < start_ns) /* else what it waits for ended later, by the device's clock */
        cmd->submit_ns = start_ns;
    for (size_t d = 0; d < step->dep_count; d++) {
        size_t on = g->plan->deps[step->dep_first + d];
        unsigned lane = g->plan->steps[on].lane;
        if (lane != step->lane && soft_cmd_depend(cmd, g->lanes->streams[lane], g->seq[on]) != 0) {
            soft_cmd_drop(cmd);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    return soft_submit_at(g->lanes->streams[step->lane], cmd, &g->seq[i]);
}

static CUresult graph_run(struct soft_cmd *cmd, struct soft_run *run)
{
    struct graph_run *g = (struct graph_run *)cmd;
    CUresult result = CUDA_SUCCESS;
    soft_stream_let_go(run->stream);
    atomic_fetch_sub(&run->ctx->working, 1); /* the lanes work, not we */
    for (size_t i = 0; result == CUDA_SUCCESS && i < g->plan->step_count; i++)
        result = submit_step(g, i, run->start_ns);
    for (unsigned i = 0; i < g->lanes->count; i++) {
        struct soft_stream *lane = g->lanes->streams[i];
        uint64_t seq = soft_stream_pending(lane);
        if (seq != 0)
            soft_stream_wait_seq(lane, seq);
        pthread_mutex_lock(&lane->lock);
        if (lane->end_ns > run->end_ns)
            run->end_ns = lane->end_ns;
        pthread_mutex_unlock(&lane->lock);
    }
    atomic_fetch_add(&run->ctx->working, 1);
    return result;
}

/* Events now mean this launch, but nodes that wait for one mean what was recorded before it. */
static void graph_submitted(struct soft_cmd *cmd, struct soft_stream *stream)
{
    struct graph_run *g = (struct graph_run *)cmd;
    size_t steps = g->plan->step_count;
    for (size_t i = 0; i < steps; i++)
        if (soft_event_is_wait(g->cmds[i]))
            soft_event_wait_settle(g->cmds[i], g->lanes->streams[g->plan->steps[i].lane]);
    for (size_t i = 0; i < steps; i++)
        if (soft_event_is_record(g->cmds[i])) {
            struct soft_event *event = soft_event_of_cmd(g->cmds[i]);
            uint64_t number = soft_event_note(event, stream, cmd->seq);
            ((struct soft_record *)g->cmds[i])->number = number;
            atomic_fetch_add(&event->refs, 1);
            g->promises[g->promise_count++] = (struct promise){event, number};
        }
}

/* A graph that failed half way keeps its promises still. */
static void graph_ended(struct soft_cmd *cmd, uint64_t end_ns)
{
    struct graph_run *g = (struct graph_run *)cmd;
    for (size_t i = 0; i < g->promise_count; i++)
        soft_event_reached(g->promises[i].event, g->promises[i].number, end_ns);
}

static void graph_destroy(struct soft_cmd *cmd)
{
    struct graph_run *g = (struct graph_run *)cmd;
    for (size_t i = 0; i < g->plan->step_count; i++)
        if (g->cmds[i] != NULL)
            soft_cmd_drop(g->cmds[i]);
    for (size_t i = 0; i < g->promise_count; i++)
        soft_event_unref(g->promises[i].event);
    soft_plan_unref(g->plan);
    soft_lanes_unref(g->lanes);
    soft_users_drop(&g->users);
    free(g->promises);
    free(g->seq);
    free(g);
}

static const struct soft_cmd_ops graph_ops = {.name = "graph",
                                              .engine = SOFT_NO_ENGINE,
                                              .run = graph_run,
                                              .destroy = graph_destroy,
                                              .submitted = graph_submitted,
                                              .ended = graph_ended};
static const struct soft_cmd_ops marker_ops = {.name = "graph_marker", .engine = SOFT_NO_ENGINE};

/* ---------------------------------------------------------------------------------- launching --
 */
/* A copy of a step's command, with the priority it has in this launch; NULL: no memory. */
static struct soft_cmd *copy_of(const struct soft_exec *exec, const struct soft_node *node,
                                const struct soft_stream *stream)
{
    if (node == NULL || node->cmd == NULL || node->disabled)
        return soft_cmd_new(&marker_ops);
    struct soft_cmd *cmd = node->cmd->ops->clone(node->cmd);
    if (cmd == NULL)
        return NULL;
    cmd->own_priority = true;
    cmd->priority = atomic_load(&stream->priority);
    if (node->type == CU_GRAPH_NODE_TYPE_KERNEL &&
        (exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY) != 0)
        cmd->priority = ((struct soft_launch *)cmd)->attributes.priority;
    return cmd;
}

static CUresult make_lanes(struct soft_exec *exec, struct soft_ctx *ctx)
{
    const struct soft_plan *plan = exec->plan;
    if (exec->lanes == NULL) {
        exec->lanes =
            calloc(1, sizeof *exec->lanes + plan->lane_count * sizeof(struct soft_stream *));
        if (exec->lanes == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        exec->lanes->refs = 1;
        exec->lanes->count = plan->lane_count;
    }
    for (unsigned i = 0; i < plan->lane_count; i++) {
        struct soft_ctx *home = plan->lane_ctx[i] != NULL ? plan->lane_ctx[i] : ctx;
        struct soft_stream *lane = exec->lanes->streams[i];
        if (lane != NULL && lane->ctx == home && lane->ctx_id == home->id)
            continue;
        if (exec->lanes->refs > 1) { /* an earlier launch goes on in the ones there are */
            soft_lanes_unref(exec->lanes);
            exec->lanes = NULL;
            return make_lanes(exec, ctx);
        }
        retire(lane);
        lane = exec->lanes->streams[i] = soft_stream_inner(home);
        if (lane == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        soft_stream_ref(lane);
    }
    return CUDA_SUCCESS;
}

static CUresult make_run(struct soft_exec *exec, const struct soft_stream *stream,
                         struct graph_run **out)
{
    size_t steps = exec->plan->step_count, records = 0;
    struct graph_run *g = calloc(1, sizeof *g + steps * sizeof(struct soft_cmd *));
    if (g == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    g->cmd.ops = &graph_ops;
    g->plan = exec->plan;
    exec->plan->refs++;
    g->lanes = exec->lanes;
    exec->lanes->refs++;
    bool good = soft_users_copy(&exec->users, &g->users) == CUDA_SUCCESS;
    g->seq = calloc(steps + 1, sizeof *g->seq);
    for (size_t i = 0; good && i < steps; i++) {
        g->cmds[i] = copy_of(exec, exec->plan->steps[i].node, stream);
        good = g->cmds[i] != NULL;
        records += good && soft_event_is_record(g->cmds[i]);
    }
    g->promises = calloc(records + 1, sizeof *g->promises);
    if (!good || g->seq == NULL || g->promises == NULL) {
        graph_destroy(&g->cmd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = g;
    return CUDA_SUCCESS;
}

static CUresult submit(struct soft_exec *exec, struct soft_stream *stream, struct soft_cmd *cmd)
{
    /* behind the latest launch, which may be in another stream */
    if (exec->last != NULL && exec->last != stream &&
        soft_cmd_depend(cmd, exec->last, exec->last_seq) != 0) {
        soft_cmd_drop(cmd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    uint64_t seq = 0;
    CUresult result = soft_submit_at(stream, cmd, &seq);
    if (result != CUDA_SUCCESS)
        return result;
    soft_stream_ref(stream);
    if (exec->last != NULL)
        soft_stream_unref(exec->last);
    exec->last = stream;
    exec->last_seq = seq;
    return CUDA_SUCCESS;
}

static CUresult submit_line(struct soft_exec *exec, struct soft_stream *stream)
{
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; result == CUDA_SUCCESS && i < exec->plan->step_count; i++) {
        const struct soft_node *node = exec->plan->steps[i].node;
        if (node == NULL || node->cmd == NULL || node->disabled)
            continue;
        struct soft_cmd *cmd = copy_of(exec, node, stream);
        result = cmd == NULL ? CUDA_ERROR_OUT_OF_MEMORY : submit(exec, stream, cmd);
    }
    return result;
}

static CUresult submit_lanes(struct soft_exec *exec, struct soft_stream *stream)
{
    struct graph_run *g = NULL;
    CUresult result = make_lanes(exec, stream->ctx);
    if (result == CUDA_SUCCESS)
        result = make_run(exec, stream, &g);
    return result == CUDA_SUCCESS ? submit(exec, stream, &g->cmd) : result;
}

/* A graph may span contexts; all of them must be alive and well. */
static CUresult check_contexts(const struct soft_exec *exec)
{
    for (size_t i = 0; i < exec->plan->step_count; i++) {
        const struct soft_node *node = exec->plan->steps[i].node;
        if (node == NULL || node->ctx == NULL)
            continue;
        if (!atomic_load(&node->ctx->alive) || node->ctx_id != node->ctx->id)
            return CUDA_ERROR_CONTEXT_IS_DESTROYED;
        CUresult sticky = soft_ctx_sticky(node->ctx);
        if (sticky != CUDA_SUCCESS)
            return sticky;
    }
    return CUDA_SUCCESS;
}

static CUresult launch_captured(struct soft_exec *exec, struct soft_stream *stream)
{
    struct soft_graph *child = NULL;
    pthread_mutex_lock(&soft_graph_lock);
    CUresult result = soft_graph_has_memory(exec->graph) ? CUDA_ERROR_NOT_SUPPORTED
                                                         : soft_graph_copy(exec->graph, &child);
    pthread_mutex_unlock(&soft_graph_lock);
    if (result != CUDA_SUCCESS)
        return result;
    return soft_capture_child(stream, child);
}

static CUresult submit_all(struct soft_exec *exec, struct soft_stream *stream)
{
    const struct soft_plan *plan = exec->plan;
    bool line = plan->lane_count == 1 && exec->users.count == 0 &&
                (plan->lane_ctx[0] == NULL || plan->lane_ctx[0] == stream->ctx);
    return line ? submit_line(exec, stream) : submit_lanes(exec, stream);
}

/* Its memory comes before its first node and is spoken for until after its last: in `stream`, which
 * the lanes start and end with. Within a launch two allocations share bytes only where a free node
 * of the one comes before the node of the other, and lanes heed that. */
static CUresult launch_with_memory(struct soft_exec *exec, struct soft_stream *stream)
{
    struct soft_graph_memory *memory = exec->graph->memory;
    if (memory == NULL)
        return submit_all(exec, stream);
    bool auto_free = (exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0;
    CUresult result = soft_graph_launch_begin(memory, stream, false, auto_free);
    if (result != CUDA_SUCCESS)
        return result;
    result = submit_all(exec, stream);
    CUresult end = soft_graph_launch_end(memory, stream, false);
    return result != CUDA_SUCCESS ? result : end;
}

CUresult cuGraphLaunch(CUgraphExec hGraph, CUstream hStream)
{
    struct soft_ctx *ctx;
    struct soft_stream *stream;
    CUresult result = soft_current(&ctx);
    if (result != CUDA_SUCCESS)
        return result;
    struct soft_exec *exec = soft_exec_of(hGraph);
    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = soft_stream_of(hStream, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    soft_fifo_flush(ctx);
    pthread_mutex_lock(&exec->lock);
    if (soft_stream_capture(stream) != NULL)
        result = launch_captured(exec, stream);
    else if ((result = check_contexts(exec)) == CUDA_SUCCESS)
        result = launch_with_memory(exec, stream);
    pthread_mutex_unlock(&exec->lock);
    return result;
}
