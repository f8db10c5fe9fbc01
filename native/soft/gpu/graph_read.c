/* SPDX-License-Identifier: Apache-2.0
 *
 * What a node does: read.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/graph.h"
#include "soft/gpu/memop.h"

/* The node of `handle` if it is of `type`; with soft_graph_lock held on success only. */
static CUresult enter(CUgraphNode handle, CUgraphNodeType type, const void *out,
                      struct soft_node **node)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    pthread_mutex_lock(&soft_graph_lock);
    *node = soft_node_of(handle);
    if (*node != NULL && out != NULL && (*node)->type == type)
        return CUDA_SUCCESS;
    pthread_mutex_unlock(&soft_graph_lock);
    return CUDA_ERROR_INVALID_VALUE;
}

/* (1) What is given out stays good until the node changes: it points into the template. */
static CUresult kernel_params(struct soft_node *node, CUDA_KERNEL_NODE_PARAMS *params)
{
    struct soft_launch *launch = (struct soft_launch *)node->cmd;
    const struct ptx_entry *entry = launch->function->kernel->entry;
    if (node->pointers == NULL) {
        node->pointers = calloc(entry->param_count + 1, sizeof *node->pointers);
        if (node->pointers == NULL)
            return CUDA_ERROR_OUT_OF_MEMORY;
        for (uint32_t i = 0; i < entry->param_count; i++)
            node->pointers[i] = launch->params + entry->params[i].offset;
    }
    *params = (CUDA_KERNEL_NODE_PARAMS){
        .func = (CUfunction)launch->function,
        .gridDimX = launch->shape.grid[0],
        .gridDimY = launch->shape.grid[1],
        .gridDimZ = launch->shape.grid[2],
        .blockDimX = launch->shape.block[0],
        .blockDimY = launch->shape.block[1],
        .blockDimZ = launch->shape.block[2],
        .sharedMemBytes = launch->shape.dynamic_bytes,
        .kernelParams = node->pointers,
        .ctx = soft_ctx_handle(node->ctx),
    };
    return CUDA_SUCCESS;
}

CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_KERNEL, nodeParams, &node);
    if (result != CUDA_SUCCESS)
        return result;
    result = kernel_params(node, nodeParams);
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    CUDA_KERNEL_NODE_PARAMS params;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = cuGraphKernelNodeGetParams_v2(hNode, &params);
    if (result == CUDA_SUCCESS)
        memcpy(nodeParams, &params, sizeof *nodeParams);
    return result;
}

CUresult cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_MEMCPY, nodeParams, &node);
    if (result != CUDA_SUCCESS)
        return result;
    if (node->has_params)
        *nodeParams = node->u.copy;
    else
        soft_copy_params(node->cmd, nodeParams); /* captured */
    pthread_mutex_unlock(&soft_graph_lock);
    return CUDA_SUCCESS;
}

CUresult cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_MEMSET, nodeParams, &node);
    if (result != CUDA_SUCCESS)
        return result;
    soft_memset_params(node->cmd, nodeParams);
    pthread_mutex_unlock(&soft_graph_lock);
    return CUDA_SUCCESS;
}

CUresult cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *nodeParams)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_HOST, nodeParams, &node);
    if (result != CUDA_SUCCESS)
        return result;
    (void)soft_hostfn_params(node->cmd, nodeParams);
    pthread_mutex_unlock(&soft_graph_lock);
    return CUDA_SUCCESS;
}

static CUresult event_of(CUgraphNode handle, CUgraphNodeType type, CUevent *out)
{
    struct soft_node *node;
    CUresult result = enter(handle, type, out, &node);
    if (result != CUDA_SUCCESS)
        return result;
    *out = node->u.event;
    pthread_mutex_unlock(&soft_graph_lock);
    return CUDA_SUCCESS;
}

CUresult cuGraphEventRecordNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    return event_of(hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event_out);
}

CUresult cuGraphEventWaitNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    return event_of(hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event_out);
}

CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_GRAPH, phGraph, &node);
    if (result != CUDA_SUCCESS)
        return result;
    *phGraph = (CUgraph)node->u.child;
    pthread_mutex_unlock(&soft_graph_lock);
    return CUDA_SUCCESS;
}

/* (1) holds here too. */
CUresult cuGraphBatchMemOpNodeGetParams(CUgraphNode hNode,
                                        CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams_out)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, nodeParams_out, &node);
    if (result != CUDA_SUCCESS)
        return result;
    struct soft_memop *batch = (struct soft_memop *)node->cmd;
    *nodeParams_out = (CUDA_BATCH_MEM_OP_NODE_PARAMS){
        .ctx = soft_ctx_handle(node->ctx), .count = batch->count, .paramArray = batch->ops};
    pthread_mutex_unlock(&soft_graph_lock);
    return CUDA_SUCCESS;
}
