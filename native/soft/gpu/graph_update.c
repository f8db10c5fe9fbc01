/* SPDX-License-Identifier: Apache-2.0
 *
 * Changing an executable graph: one node's parameters, or all at once from a graph of the same
 * shape. Nodes are named by the handles of the graph it was instantiated from.
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

static struct soft_exec *exec_of(CUgraphExec handle)
{
    return soft_handle_is(SOFT_H_GRAPH_EXEC, handle) ? (struct soft_exec *)handle : NULL;
}

/* Consumes `work`. Launches already submitted keep what they were given. */
static CUresult replace(CUgraphExec handle, CUgraphNode original, struct soft_work *work)
{
    struct soft_exec *exec = exec_of(handle);
    if (exec == NULL) {
        soft_cmd_free(work->cmd);
        return CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_lock(&exec->lock);
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_node *node = find(exec->graph, original);
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    if (node != NULL && node->ctx != NULL && work->ctx != node->ctx)
        node = NULL; /* the context of a node is fixed */
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
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_kernel(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS params = {0};
    memcpy(&params, nodeParams, sizeof *nodeParams);
    return cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &params);
}

CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    struct soft_work work;
    if (copyParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_copy(copyParams, ctx, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    struct soft_work work;
    if (memsetParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_set(memsetParams, ctx, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                      const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_host(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            CUevent event)
{
    struct soft_work work;
    CUresult result = soft_work_event(event, true, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event)
{
    struct soft_work work;
    CUresult result = soft_work_event(event, false, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                  CUgraphNodeParams *nodeParams)
{
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (nodeParams->type == CU_GRAPH_NODE_TYPE_GRAPH)
        return CUDA_ERROR_NOT_SUPPORTED; /* the order of an executable graph is fixed */
    CUresult result = soft_work_any(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hGraphExec, hNode, &work) : result;
}

CUresult cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled)
{
    struct soft_exec *exec = exec_of(hGraphExec);
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
    struct soft_exec *exec = exec_of(hGraphExec);
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

/* ----------------------------------------------------------------------------- whole graphs --- */
struct difference {
    CUgraphExecUpdateResult result;
    const struct soft_node *node, *from;
};

/* Nodes are paired in order of creation. `mark` becomes the place, for comparing edges. */
static bool same_shape(const struct soft_graph *graph, const struct soft_graph *with,
                       struct difference *difference)
{
    if (graph->count != with->count) {
        difference->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        return false;
    }
    for (size_t i = 0; i < graph->count; i++)
        graph->nodes[i]->mark = with->nodes[i]->mark = i;
    for (size_t i = 0; i < graph->count; i++) {
        const struct soft_node *node = graph->nodes[i], *other = with->nodes[i];
        *difference = (struct difference){CU_GRAPH_EXEC_UPDATE_SUCCESS, other, NULL};
        if (node->type != other->type)
            difference->result = CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
        else if (node->dep_count != other->dep_count)
            difference->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        else if (node->ctx != other->ctx)
            difference->result = CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
        for (size_t d = 0;
             difference->result == CU_GRAPH_EXEC_UPDATE_SUCCESS && d < node->dep_count; d++)
            if (node->deps[d]->mark != other->deps[d]->mark) {
                difference->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
                difference->from = other->deps[d];
            }
        if (difference->result != CU_GRAPH_EXEC_UPDATE_SUCCESS)
            return false;
    }
    for (size_t i = 0; i < graph->count; i++)
        if (graph->nodes[i]->type == CU_GRAPH_NODE_TYPE_GRAPH &&
            !same_shape(graph->nodes[i]->u.child, with->nodes[i]->u.child, difference))
            return false;
    return true;
}

static CUresult take_over(struct soft_graph *graph, const struct soft_graph *with)
{
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; result == CUDA_SUCCESS && i < graph->count; i++) {
        struct soft_node *node = graph->nodes[i];
        const struct soft_node *other = with->nodes[i];
        if (node->type == CU_GRAPH_NODE_TYPE_GRAPH) {
            result = take_over(node->u.child, other->u.child);
            continue;
        }
        if (other->cmd == NULL)
            continue;
        struct soft_cmd *cmd = other->cmd->ops->clone(other->cmd);
        if (cmd == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        soft_node_set_cmd(node, cmd, other->ctx);
        node->u = other->u;
        node->has_params = other->has_params;
    }
    return result;
}

CUresult cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                              CUgraphExecUpdateResultInfo *resultInfo)
{
    struct soft_exec *exec = exec_of(hGraphExec);
    if (exec == NULL || resultInfo == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct difference difference = {CU_GRAPH_EXEC_UPDATE_SUCCESS, NULL, NULL};
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&exec->lock);
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_graph *graph = soft_graph_of(hGraph);
    if (graph == NULL) {
        difference.result = CU_GRAPH_EXEC_UPDATE_ERROR;
    } else if (soft_graph_has_memory(exec->graph) || soft_graph_has_memory(graph)) {
        difference.result = CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
        result = CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    } else if (!same_shape(exec->graph, graph, &difference)) {
        result = CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    } else {
        difference = (struct difference){CU_GRAPH_EXEC_UPDATE_SUCCESS, NULL, NULL};
        result = take_over(exec->graph, graph);
    }
    pthread_mutex_unlock(&soft_graph_lock);
    pthread_mutex_unlock(&exec->lock);
    *resultInfo = (CUgraphExecUpdateResultInfo){
        .result = difference.result,
        .errorNode = (CUgraphNode)(uintptr_t)difference.node,
        .errorFromNode = (CUgraphNode)(uintptr_t)difference.from,
    };
    return result;
}

CUresult cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out,
                           CUgraphExecUpdateResult *updateResult_out)
{
    CUgraphExecUpdateResultInfo info = {.result = CU_GRAPH_EXEC_UPDATE_ERROR};
    CUresult result = cuGraphExecUpdate_v2(hGraphExec, hGraph, &info);
    if (hErrorNode_out != NULL)
        *hErrorNode_out = info.errorNode;
    if (updateResult_out != NULL)
        *updateResult_out = info.result;
    return result;
}
