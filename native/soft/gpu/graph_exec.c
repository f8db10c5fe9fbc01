/* SPDX-License-Identifier: Apache-2.0
 *
 * Executable graphs: instantiated, launched.
 *
 * A launch submits its commands one after the other to one stream: that is an order by
 * dependencies, and hardware promises no concurrency of branches either.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/graph_memory.h"

#define FLAGS_KNOWN                                                                                \
    (CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |        \
     CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY)

struct walk {
    struct soft_node **order;
    size_t count;
    const struct soft_node *cycle; /* a node on one */
};

static size_t leaves(const struct soft_graph *graph)
{
    size_t count = 0;
    for (size_t i = 0; i < graph->count; i++)
        count += graph->nodes[i]->type == CU_GRAPH_NODE_TYPE_GRAPH
                     ? leaves(graph->nodes[i]->u.child)
                     : 1;
    return count;
}

static size_t edges(const struct soft_graph *graph)
{
    size_t count = 0;
    for (size_t i = 0; i < graph->count; i++)
        count += graph->nodes[i]->dep_count;
    return count;
}

static CUresult walk_graph(struct soft_graph *graph, struct walk *walk);

static CUresult emit(struct soft_node *node, struct walk *walk)
{
    if (node->type == CU_GRAPH_NODE_TYPE_GRAPH)
        return walk_graph(node->u.child, walk);
    walk->order[walk->count++] = node;
    return CUDA_SUCCESS;
}

/* Depth first over dependencies, in order of creation: marks are 0 new, 1 on the path, 2 done. */
static CUresult walk_graph(struct soft_graph *graph, struct walk *walk)
{
    struct soft_node **stack = calloc(edges(graph) + graph->count + 1, sizeof *stack);
    if (stack == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; i < graph->count; i++)
        graph->nodes[i]->mark = 0;
    for (size_t i = 0; i < graph->count && result == CUDA_SUCCESS; i++) {
        size_t depth = 0;
        if (graph->nodes[i]->mark == 0)
            stack[depth++] = graph->nodes[i];
        while (depth > 0 && result == CUDA_SUCCESS) {
            struct soft_node *at = stack[depth - 1];
            if (at->mark != 0) {
                depth--;
                if (at->mark == 1) {
                    at->mark = 2;
                    result = emit(at, walk);
                }
                continue;
            }
            at->mark = 1;
            for (size_t d = at->dep_count; d-- > 0;) {
                if (at->deps[d]->mark == 1) {
                    walk->cycle = at;
                    result = CUDA_ERROR_INVALID_VALUE;
                }
                if (at->deps[d]->mark == 0)
                    stack[depth++] = at->deps[d];
            }
        }
    }
    free(stack);
    return result;
}

static void exec_free(struct soft_exec *exec)
{
    if (exec->graph != NULL) {
        if (exec->only)
            soft_graph_memory_leave(exec->graph);
        soft_graph_free(exec->graph);
    }
    if (exec->last != NULL)
        soft_stream_unref(exec->last);
    pthread_mutex_destroy(&exec->lock);
    free(exec->order);
    free(exec);
}

static struct soft_exec *exec_of(CUgraphExec handle)
{
    return soft_handle_is(SOFT_H_GRAPH_EXEC, handle) ? (struct soft_exec *)handle : NULL;
}

static CUresult instantiate(CUgraphExec *out, CUgraph handle, uint64_t flags, CUgraphNode *error)
{
    if (error != NULL)
        *error = NULL;
    CUresult result = soft_ready();
    if (result != CUDA_SUCCESS)
        return result;
    if (out == NULL || (flags & ~(uint64_t)FLAGS_KNOWN) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct soft_exec *exec = calloc(1, sizeof *exec);
    if (exec == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_init(&exec->lock, NULL);
    exec->flags = flags;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *graph = soft_graph_of(handle);
    result = CUDA_ERROR_INVALID_VALUE;
    if (graph != NULL && graph->capture == NULL)
        result = soft_graph_copy(graph, &exec->graph);
    if (result == CUDA_SUCCESS) {
        exec->graph->owned = true; /* not the client's to destroy */
        exec->order = calloc(leaves(exec->graph) + 1, sizeof(struct soft_node *));
        struct walk walk = {exec->order, 0, NULL};
        result = exec->order == NULL ? CUDA_ERROR_OUT_OF_MEMORY : walk_graph(exec->graph, &walk);
        exec->order_count = walk.count;
        if (result == CUDA_SUCCESS) {
            result = soft_graph_memory_enter(exec->graph);
            exec->only = result == CUDA_SUCCESS;
        }
        if (walk.cycle != NULL && error != NULL)
            *error = (CUgraphNode)(uintptr_t)walk.cycle->original;
    }
    if (result == CUDA_SUCCESS && soft_handle_add(SOFT_H_GRAPH_EXEC, exec) != 0)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result != CUDA_SUCCESS)
        exec_free(exec);
    else
        *out = (CUgraphExec)exec;
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                               char *logBuffer, size_t bufferSize)
{
    CUresult result = instantiate(phGraphExec, hGraph, 0, phErrorNode);
    if (logBuffer != NULL && bufferSize > 0) {
        const char *text = result == CUDA_SUCCESS ? "" : "graph has a cycle or is no graph";
        size_t bytes = strlen(text) < bufferSize ? strlen(text) : bufferSize - 1;
        memcpy(logBuffer, text, bytes);
        logBuffer[bytes] = '\0';
    }
    return result;
}

CUresult cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                            char *logBuffer, size_t bufferSize)
{
    return cuGraphInstantiate_v2(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph,
                                     unsigned long long flags)
{
    return instantiate(phGraphExec, hGraph, flags, NULL);
}

CUresult cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
    if (instantiateParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUgraphNode error = NULL;
    CUresult result = instantiate(phGraphExec, hGraph, instantiateParams->flags, &error);
    instantiateParams->hErrNode_out = error;
    if (result == CUDA_SUCCESS)
        instantiateParams->result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS;
    else if (error != NULL)
        instantiateParams->result_out = CUDA_GRAPH_INSTANTIATE_INVALID_STRUCTURE;
    else
        instantiateParams->result_out = CUDA_GRAPH_INSTANTIATE_ERROR;
    return result;
}

CUresult cuGraphExecDestroy(CUgraphExec hGraphExec)
{
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_exec *exec = exec_of(hGraphExec);
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    if (exec != NULL && soft_handle_remove(SOFT_H_GRAPH_EXEC, exec)) {
        exec_free(exec);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t *flags)
{
    struct soft_exec *exec = exec_of(hGraphExec);
    if (exec == NULL || flags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = exec->flags;
    return CUDA_SUCCESS;
}

/* All of it must run where the stream is: commands of another context cannot be submitted there. */
static CUresult check_contexts(const struct soft_exec *exec, const struct soft_ctx *ctx)
{
    for (size_t i = 0; i < exec->order_count; i++) {
        const struct soft_node *node = exec->order[i];
        if (node->ctx == NULL || node->disabled)
            continue;
        if (node->ctx != ctx || node->ctx_id != soft_ctx_id(ctx)) {
            soft_log("graph_refused why=\"a node belongs to another context than the stream\"");
            return CUDA_ERROR_NOT_SUPPORTED;
        }
    }
    return CUDA_SUCCESS;
}

static CUresult wait_for(struct soft_stream *earlier, struct soft_stream *stream)
{
    /* a destroyed stream takes no more commands, but ends those it has */
    if (!soft_stream_is_legacy(earlier) && !soft_handle_is(SOFT_H_STREAM, earlier))
        return soft_stream_wait(earlier);
    CUevent handle = NULL;
    struct soft_event *event = NULL;
    struct soft_cmd *cmd = NULL;
    CUresult result = cuEventCreate(&handle, CU_EVENT_DISABLE_TIMING);
    if (result == CUDA_SUCCESS)
        result = soft_event_of(handle, &event);
    if (result == CUDA_SUCCESS)
        result = soft_event_record_new(event, &cmd);
    if (result == CUDA_SUCCESS)
        result = soft_submit(earlier, cmd);
    if (result == CUDA_SUCCESS)
        result = soft_event_wait_new(event, &cmd);
    if (result == CUDA_SUCCESS)
        result = soft_submit(stream, cmd);
    if (handle != NULL)
        (void)cuEventDestroy_v2(handle);
    return result;
}

/* Orders this launch behind the latest one, which may be in another stream. */
static CUresult follow_latest(struct soft_exec *exec, struct soft_stream *stream)
{
    if (exec->last == stream)
        return CUDA_SUCCESS;
    CUresult result = CUDA_SUCCESS;
    if (exec->last != NULL) {
        result = wait_for(exec->last, stream);
        soft_stream_unref(exec->last);
        exec->last = NULL;
    }
    if (result == CUDA_SUCCESS) {
        soft_stream_ref(stream);
        exec->last = stream;
    }
    return result;
}

static CUresult submit_all(struct soft_exec *exec, struct soft_stream *stream)
{
    CUresult result = follow_latest(exec, stream);
    for (size_t i = 0; result == CUDA_SUCCESS && i < exec->order_count; i++) {
        const struct soft_node *node = exec->order[i];
        if (node->cmd == NULL || node->disabled)
            continue;
        struct soft_cmd *cmd = node->cmd->ops->clone(node->cmd);
        result = cmd == NULL ? CUDA_ERROR_OUT_OF_MEMORY : soft_submit(stream, cmd);
    }
    return result;
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

/* Its memory comes before its first node and is spoken for until after its last. */
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
    struct soft_exec *exec = exec_of(hGraph);
    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    result = soft_stream_of(hStream, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&exec->lock);
    if (soft_stream_capture(stream) != NULL) {
        result = launch_captured(exec, stream);
    } else {
        result = check_contexts(exec, soft_stream_ctx(stream));
        if (result == CUDA_SUCCESS)
            result = launch_with_memory(exec, stream);
    }
    pthread_mutex_unlock(&exec->lock);
    return result;
}

CUresult cuGraphUpload(CUgraphExec hGraph, CUstream hStream)
{
    struct soft_ctx *ctx;
    struct soft_stream *stream;
    CUresult result = soft_current(&ctx);
    struct soft_exec *exec = exec_of(hGraph);
    if (result == CUDA_SUCCESS && exec == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = soft_stream_of(hStream, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&exec->lock);
    if (exec->graph->memory != NULL) { /* templates are where they run; memory is not */
        result = soft_graph_launch_begin(exec->graph->memory, stream, true, false);
        if (result == CUDA_SUCCESS)
            result = soft_graph_launch_end(exec->graph->memory, stream, true);
    }
    pthread_mutex_unlock(&exec->lock);
    return result;
}
