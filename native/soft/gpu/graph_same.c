/* SPDX-License-Identifier: Apache-2.0
 *
 * Updating an executable graph from a graph of the same shape: what must be the same, what is
 * taken over, and what the difference is called.
 */
#include <string.h>

#include "soft/gpu/graph_memory.h"

/* What may change is what a driver can write into a graph that is on the device already: a copy
 * keeps its kinds of memory, a fill is one row or stays as it is. */
static bool copy_may_become(const struct soft_cmd *copy, const struct soft_cmd *other)
{
    CUDA_MEMCPY3D from, to;
    soft_copy_params(copy, &from);
    soft_copy_params(other, &to);
    return from.srcMemoryType == to.srcMemoryType && from.dstMemoryType == to.dstMemoryType;
}

static bool fill_may_become(const struct soft_cmd *fill, const struct soft_cmd *other)
{
    CUDA_MEMSET_NODE_PARAMS from, to;
    soft_memset_params(fill, &from);
    soft_memset_params(other, &to);
    return (from.height == 1 && to.height == 1) || memcmp(&from, &to, sizeof from) == 0;
}

static bool may_become(CUgraphNodeType type, const struct soft_cmd *cmd,
                       const struct soft_cmd *other)
{
    if (type == CU_GRAPH_NODE_TYPE_MEMCPY)
        return copy_may_become(cmd, other);
    return type != CU_GRAPH_NODE_TYPE_MEMSET || fill_may_become(cmd, other);
}

bool soft_node_may_become(const struct soft_node *node, const struct soft_work *work)
{
    if (node->type != work->type)
        return true; /* refused by whoever takes it */
    if (node->ctx != NULL && work->ctx != node->ctx)
        return false; /* the context of a node is fixed */
    return may_become(node->type, node->cmd, work->cmd);
}

static CUgraphExecUpdateResult compare(const struct soft_node *node, const struct soft_node *other)
{
    if (node->type == CU_GRAPH_NODE_TYPE_KERNEL) {
        const struct soft_launch *was = (const struct soft_launch *)node->cmd,
                                 *is = (const struct soft_launch *)other->cmd;
        if (node->ctx != other->ctx)
            return CU_GRAPH_EXEC_UPDATE_ERROR_UNSUPPORTED_FUNCTION_CHANGE;
        if (was->shape.cooperative != is->shape.cooperative)
            return CU_GRAPH_EXEC_UPDATE_ERROR_ATTRIBUTES_CHANGED;
        return CU_GRAPH_EXEC_UPDATE_SUCCESS;
    }
    bool may = node->ctx == other->ctx && may_become(node->type, node->cmd, other->cmd);
    return may ? CU_GRAPH_EXEC_UPDATE_SUCCESS : CU_GRAPH_EXEC_UPDATE_ERROR_PARAMETERS_CHANGED;
}

/* Nodes are paired in order of creation. `mark` becomes the place, for comparing edges. */
bool soft_graph_same(const struct soft_graph *graph, const struct soft_graph *with,
                     struct soft_difference *difference)
{
    if (graph->count != with->count) {
        difference->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        return false;
    }
    for (size_t i = 0; i < graph->count; i++)
        graph->nodes[i]->mark = with->nodes[i]->mark = i;
    for (size_t i = 0; i < graph->count; i++) {
        const struct soft_node *node = graph->nodes[i], *other = with->nodes[i];
        *difference = (struct soft_difference){CU_GRAPH_EXEC_UPDATE_SUCCESS, other, NULL};
        if (node->type != other->type)
            difference->result = CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
        else if (node->dep_count != other->dep_count)
            difference->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        else
            difference->result = compare(node, other);
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
            !soft_graph_same(graph->nodes[i]->u.child, with->nodes[i]->u.child, difference))
            return false;
    return true;
}

CUresult soft_graph_take(struct soft_graph *graph, const struct soft_graph *with)
{
    CUresult result = CUDA_SUCCESS;
    for (size_t i = 0; result == CUDA_SUCCESS && i < graph->count; i++) {
        struct soft_node *node = graph->nodes[i];
        const struct soft_node *other = with->nodes[i];
        if (node->type == CU_GRAPH_NODE_TYPE_GRAPH) {
            result = soft_graph_take(node->u.child, other->u.child);
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
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_exec *exec = soft_exec_of(hGraphExec);
    if (exec == NULL || resultInfo == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_difference difference = {CU_GRAPH_EXEC_UPDATE_SUCCESS, NULL, NULL};
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&exec->lock);
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_graph *graph = soft_graph_of(hGraph);
    if (graph == NULL) {
        difference.result = CU_GRAPH_EXEC_UPDATE_ERROR;
    } else if (soft_graph_has_memory(exec->graph) || soft_graph_has_memory(graph)) {
        difference.result = CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
        result = CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    } else if (!soft_graph_same(exec->graph, graph, &difference)) {
        result = CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
    } else {
        difference = (struct soft_difference){CU_GRAPH_EXEC_UPDATE_SUCCESS, NULL, NULL};
        result = soft_users_gather(graph, &exec->users);
        if (result == CUDA_SUCCESS)
            result = soft_graph_take(exec->graph, graph);
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
