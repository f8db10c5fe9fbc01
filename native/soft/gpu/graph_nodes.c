/* SPDX-License-Identifier: Apache-2.0
 *
 * cuGraphAdd*Node, and what a node does: replaced. graph_read.c reads it.
 */
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
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
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
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS params = from_v1(nodeParams);
    return cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies, &params);
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                              const CUgraphNode *dependencies, size_t numDependencies,
                              const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
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
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
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
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
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
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work = {.type = CU_GRAPH_NODE_TYPE_EMPTY};
    return add(phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult cuGraphAddChildGraphNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                  const CUgraphNode *dependencies, size_t numDependencies,
                                  CUgraph childGraph)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
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
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
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

CUresult cuGraphAddBatchMemOpNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                  const CUgraphNode *dependencies, size_t numDependencies,
                                  const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    struct soft_work work;
    CUresult result = soft_work_memop(nodeParams, &work);
    if (result != CUDA_SUCCESS)
        return result;
    return add(phGraphNode, hGraph, dependencies, numDependencies, &work);
}

CUresult cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph, const CUgraphNode *dependencies,
                        size_t numDependencies, CUgraphNodeParams *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
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

/* ------------------------------------------------------------------- replacing what it does --- */
/* The context a node works in, which new parameters do not change; NULL: the current one. */
static CUcontext ctx_of(CUgraphNode handle)
{
    pthread_mutex_lock(&soft_graph_lock);
    const struct soft_node *node = soft_node_of(handle);
    CUcontext ctx = node != NULL && node->ctx != NULL ? soft_ctx_handle(node->ctx) : NULL;
    pthread_mutex_unlock(&soft_graph_lock);
    return ctx;
}

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
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_kernel(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphKernelNodeSetParams(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUDA_KERNEL_NODE_PARAMS params = from_v1(nodeParams);
    return cuGraphKernelNodeSetParams_v2(hNode, &params);
}

CUresult cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_copy(nodeParams, ctx_of(hNode), &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphMemsetNodeSetParams(CUgraphNode hNode, const CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_set(nodeParams, ctx_of(hNode), &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_host(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    CUresult result = soft_work_event(event, true, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    CUresult result = soft_work_event(event, false, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_any(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}

CUresult cuGraphBatchMemOpNodeSetParams(CUgraphNode hNode,
                                        const CUDA_BATCH_MEM_OP_NODE_PARAMS *nodeParams)
{
    CUresult ready = soft_ready();
    if (ready != CUDA_SUCCESS)
        return ready;
    struct soft_work work;
    if (nodeParams == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult result = soft_work_memop(nodeParams, &work);
    return result == CUDA_SUCCESS ? replace(hNode, &work) : result;
}
