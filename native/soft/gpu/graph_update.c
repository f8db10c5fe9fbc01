/* SPDX-License-Identifier: Apache-2.0
 *
 * Changing nodes of an executable graph. They are named by the handles of the graph it was
 * instantiated from.
 */
#include <string.h>

#include "soft/gpu/graph_memory.h"

static struct soft_node *find(const struct soft_graph *graph, CUgraphNode original)
{
    for (size_t i = 0; i < graph->count; i++) {
        struct soft_node *node = graph->nodes[i];
        if ((CUgraphNode)(uintptr_t)node->original == original)
            return node;
        if (node->type == CU_GRAPH_NODE_TYPE_GRAPH) {
            node = find(node->u.child, original);
            if (node != NULL)
                return node;
        }
    }
    return NULL;
}

/* Consumes `work`. Launches already submitted keep what they were given. */
static CUresult replace(CUgraphExec handle, CUgraphNode original, struct soft_work *work)
{
    struct soft_exec *exec = soft_exec_of(handle);
    if (exec == NULL) {
        soft_work_drop(work);
        return CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_lock(&exec->lock);
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_node *node = find(exec->graph, original);
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    if (node != NULL && !soft_node_may_become(node, work))
        node = NULL;
    if (node != NULL)
        result = soft_node_take(node, work);
    else
        soft_work_drop(work);
    pthread_mutex_unlock(&soft_graph_lock);
    pthread_mutex_unlock(&exec->lock);
    return result;
}

CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                           const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_kernel(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS params = {0};
    memcpy(&params, nodeParams, sizeof *nodeParams);
    return cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &params);
}

CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (copyParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_copy(copyParams, ctx, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (memsetParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_set(memsetParams, ctx, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                      const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_host(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            CUevent event)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    CUresult result = soft_work_event(event, true, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    CUresult result = soft_work_event(event, false, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecBatchMemOpNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_memop(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

/* The child graph must be of the shape the executable one was made with. */
CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            CUgraph childGraph)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_exec *exec = soft_exec_of(hGraphExec);
    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    struct soft_difference difference;
    pthread_mutex_lock(&exec->lock);
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_node *node = find(exec->graph, hNode);
    const struct soft_graph *with = soft_graph_of(childGraph);
    if (node != NULL && node->type == CU_GRAPH_NODE_TYPE_GRAPH && with != NULL &&
        soft_graph_same(node->u.child, with, &difference)) {
        result = soft_users_gather(with, &exec->users);
        if (result == CUDA_SUCCESS)
            result = soft_graph_take(node->u.child, with);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    pthread_mutex_unlock(&exec->lock);
    return result;
}

CUresult cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                  CUgraphNodeParams *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (nodeParams->type == CU_GRAPH_NODE_TYPE_GRAPH)
        return cuGraphExecChildGraphNodeSetParams(hGraphExec, hNode, nodeParams->graph.graph);
    CUresult result = soft_work_any(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_exec *exec = soft_exec_of(hGraphExec);
    if (exec == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&exec->lock);
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_node *node = find(exec->graph, hNode);
    /* kernels, copies and fills only, as CUDA has it */
    if (node != NULL && node->type <= CU_GRAPH_NODE_TYPE_MEMSET) {
        node->disabled = isEnabled == 0;
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    pthread_mutex_unlock(&exec->lock);
    return result;
}

CUresult cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int *isEnabled)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_exec *exec = soft_exec_of(hGraphExec);
    if (exec == NULL || isEnabled == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_node *node = find(exec->graph, hNode);
    if (node != NULL && node->type <= CU_GRAPH_NODE_TYPE_MEMSET) {
        *isEnabled = !node->disabled;
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}
