/* SPDX-License-Identifier: Apache-2.0
 *
 * Executable graphs: made and unmade. graph_launch.c launches them.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/graph_memory.h"

#define FLAGS_KNOWN                                                                                \
    (CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |        \
     CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY)

static void exec_free(struct soft_exec *exec)
{
    pthread_mutex_lock(&soft_graph_lock);
    if (exec->graph != NULL) {
        if (exec->only)
            soft_graph_memory_leave(exec->graph);
        soft_graph_free(exec->graph);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    if (exec->last != NULL)
        soft_stream_unref(exec->last);
    soft_plan_unref(exec->plan);
    soft_users_drop(&exec->users);
    soft_lanes_unref(exec->lanes);
    pthread_mutex_destroy(&exec->lock);
    free(exec);
}

struct soft_exec *soft_exec_of(CUgraphExec handle)
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
    if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0) {
        soft_log("graph_refused why=\"launches from the device are not supported\"");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
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
    const struct soft_node *cycle = NULL;
    if (result == CUDA_SUCCESS) {
        exec->graph->owned = true; /* not the client's to destroy */
        result = soft_plan_make(exec->graph, &exec->plan, &cycle);
        if (result == CUDA_SUCCESS)
            result = soft_users_gather(exec->graph, &exec->users);
        if (result == CUDA_SUCCESS) {
            result = soft_graph_memory_enter(exec->graph);
            exec->only = result == CUDA_SUCCESS;
        }
        if (cycle != NULL && error != NULL)
            *error = (CUgraphNode)(uintptr_t)cycle->original;
    }
    if (result == CUDA_SUCCESS && soft_handle_add(SOFT_H_GRAPH_EXEC, exec) != 0)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_unlock(&soft_graph_lock);
    if (result != CUDA_SUCCESS)
        exec_free(exec);
    else
        *out = (CUgraphExec)exec;
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
    /* an upload needs to know the stream: cuGraphInstantiateWithParams */
    if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    return instantiate(phGraphExec, hGraph, flags, NULL);
}

CUresult cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (instantiateParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUgraphNode error = NULL;
    struct soft_stream *upload;
    if ((instantiateParams->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0) {
        CUresult known = soft_stream_of(instantiateParams->hUploadStream, &upload);
        if (known != CUDA_SUCCESS) {
            instantiateParams->result_out = CUDA_GRAPH_INSTANTIATE_ERROR;
            return known;
        }
    }
    CUresult result = instantiate(phGraphExec, hGraph, instantiateParams->flags, &error);
    instantiateParams->hErrNode_out = error; /* what is uploaded lies where it runs already */
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
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_exec *exec = soft_exec_of(hGraphExec);
    if (exec == NULL || !soft_handle_remove(SOFT_H_GRAPH_EXEC, exec))
        return CUDA_ERROR_INVALID_VALUE;
    exec_free(exec);
    return CUDA_SUCCESS;
}

CUresult cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t *flags)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_exec *exec = soft_exec_of(hGraphExec);
    if (exec == NULL || flags == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *flags = exec->flags;
    return CUDA_SUCCESS;
}

CUresult cuGraphUpload(CUgraphExec hGraph, CUstream hStream)
{
    struct soft_ctx *ctx;
    struct soft_stream *stream;
    CUresult result = soft_current(&ctx);
    struct soft_exec *exec = soft_exec_of(hGraph);
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
