/* SPDX-License-Identifier: Apache-2.0
 *
 * cuGraphAdd*Node, and what a node does: read and replaced.
 */
#include <stdlib.h>
#include <string.h>

#include "soft/gpu/graph_memory.h"

/* Adds a node for `work`, which is consumed. */
static CUresult add(CUgraphNode *out, CUgraph handle, const CUgraphNode *deps, size_t dep_count,
                    struct soft_work *work)
{
    struct soft_node *node = NULL;
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_graph *graph = soft_graph_of(handle);
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    if (graph != NULL && out != NULL)
        result = soft_graph_add(graph, work->type, NULL, NULL, deps, dep_count, &node);
    if (result == CUDA_SUCCESS)
        result = soft_node_take(node, work);
    else
        soft_work_drop(work);
    pthread_mutex_unlock(&soft_graph_lock);
    if (result == CUDA_SUCCESS)
        *out = (CUgraphNode)node;
    return result;
}

static CUDA_KERNEL_NODE_PARAMS from_v1(const CUDA_KERNEL_NODE_PARAMS_v1 *old)
{
    CUDA_KERNEL_NODE_PARAMS params = {0};
    memcpy(&params, old, sizeof *old);
    return params;
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                                 const CUgraphNode *dependencies, size_t numDependencies,
                                 const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_work work;
    CUresult result = soft_work_kernel(nodeParams, &work);
    if (result != CUDA_SUCCESS)
        return result;
    return add(phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                              const CUgraphNode *dependencies, size_t numDependencies,
                              const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS params = from_v1(nodeParams);
    return cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, &params);
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                              const CUgraphNode *dependencies, size_t numDependencies,
                              const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    if (copyParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_work work;
    CUresult result = soft_work_copy(copyParams, ctx, &work);
    if (result != CUDA_SUCCESS)
        return result;
    return add(phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult cuGraphAddMemsetNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                              const CUgraphNode *dependencies, size_t numDependencies,
                              const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
    if (memsetParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_work work;
    CUresult result = soft_work_set(memsetParams, ctx, &work);
    if (result != CUDA_SUCCESS)
        return result;
    return add(phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult cuGraphAddHostNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                            const CUgraphNode *dependencies, size_t numDependencies,
                            const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_work work;
    CUresult result = soft_work_host(nodeParams, &work);
    if (result != CUDA_SUCCESS)
        return result;
    return add(phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult cuGraphAddEmptyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                             const CUgraphNode *dependencies, size_t numDependencies)
{
    struct soft_work work = {.type = CU_GRAPH_NODE_TYPE_EMPTY};
    return add(phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult cuGraphAddChildGraphNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                  const CUgraphNode *dependencies, size_t numDependencies,
                                  CUgraph childGraph)
{
    CUgraphNodeParams params = {.type = CU_GRAPH_NODE_TYPE_GRAPH};
    params.graph.graph = childGraph;
    struct soft_work work;
    CUresult result = soft_work_any(&params, &work);
    if (result != CUDA_SUCCESS)
        return result;
    return add(phGraphNode, hGraph, dependencies, numDependencies, &work);
}

static CUresult add_event(CUgraphNode *out, CUgraph graph, const CUgraphNode *deps,
                          size_t dep_count, CUevent event, bool record)
{
    struct soft_work work;
    CUresult result = soft_work_event(event, record, &work);
    return result == CUDA_SUCCESS ? add(out, graph, deps, dep_count, &work) : result;
}

CUresult cuGraphAddEventRecordNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                   const CUgraphNode *dependencies, size_t numDependencies,
                                   CUevent event)
{
    return add_event(phGraphNode, hGraph, dependencies, numDependencies, event, true);
}

CUresult cuGraphAddEventWaitNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                 const CUgraphNode *dependencies, size_t numDependencies,
                                 CUevent event)
{
    return add_event(phGraphNode, hGraph, dependencies, numDependencies, event, false);
}

CUresult cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                        size_t numDependencies, CUgraphNodeParams *nodeParams)
{
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
        nodeParams->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
        return soft_graph_memory_add(phGraphNode, hGraph, dependencies, numDependencies,
                                     nodeParams);
    struct soft_work work;
    CUresult result = soft_work_any(nodeParams, &work);
    if (result != CUDA_SUCCESS)
        return result;
    return add(phGraphNode, hGraph, dependencies, numDependencies, &work);
}

/* --------------------------------------------------------------------- reading what it does --- */
/* The node of `handle` if it is of `type`; with soft_graph_lock held on success only. */
static CUresult enter(CUgraphNode handle, CUgraphNodeType type, const void *out,
                      struct soft_node **node)
{
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
    CUDA_KERNEL_NODE_PARAMS params;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = cuGraphKernelNodeGetParams_v2(hNode, &params);
    if (result == CUDA_SUCCESS)
        memcpy(nodeParams, &params, sizeof *nodeParams);
    return result;
}

/* Captured copies and fills keep their command only. */
static CUresult give(struct soft_node *node, void *out, const void *params, size_t bytes)
{
    CUresult result = CUDA_ERROR_NOT_SUPPORTED;
    if (node->has_params) {
        memcpy(out, params, bytes);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_MEMCPY, nodeParams, &node);
    return result == CUDA_SUCCESS ? give(node, nodeParams, &node->u.copy, sizeof *nodeParams)
                                  : result;
}

CUresult cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_MEMSET, nodeParams, &node);
    return result == CUDA_SUCCESS ? give(node, nodeParams, &node->u.set, sizeof *nodeParams)
                                  : result;
}

CUresult cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *nodeParams)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_HOST, nodeParams, &node);
    return result == CUDA_SUCCESS ? give(node, nodeParams, &node->u.host, sizeof *nodeParams)
                                  : result;
}

CUresult cuGraphEventRecordNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event_out, &node);
    return result == CUDA_SUCCESS ? give(node, event_out, &node->u.event, sizeof *event_out)
                                  : result;
}

CUresult cuGraphEventWaitNodeGetEvent(CUgraphNode hNode, CUevent *event_out)
{
    struct soft_node *node;
    CUresult result = enter(hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event_out, &node);
    return result == CUDA_SUCCESS ? give(node, event_out, &node->u.event, sizeof *event_out)
                                  : result;
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

/* ------------------------------------------------------------------- replacing what it does --- */
static CUresult replace(CUgraphNode handle, struct soft_work *work)
{
    pthread_mutex_lock(&soft_graph_lock);
    struct soft_node *node = soft_node_of(handle);
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    if (node != NULL)
        result = soft_node_take(node, work);
    else
        soft_work_drop(work);
    pthread_mutex_unlock(&soft_graph_lock);
    return result;
}

CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_kernel(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphKernelNodeSetParams(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS params = from_v1(nodeParams);
    return cuGraphKernelNodeSetParams_v2(hNode, &params);
}

CUresult cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams)
{
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_copy(nodeParams, NULL, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_set(nodeParams, NULL, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_host(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    struct soft_work work;
    CUresult result = soft_work_event(event, true, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    struct soft_work work;
    CUresult result = soft_work_event(event, false, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_any(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}
