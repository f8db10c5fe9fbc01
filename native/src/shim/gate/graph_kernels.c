/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels that graphs are given, and executable graphs that are given others: a graph's launch
 * takes local memory for the largest frame among them (local.h). Captured ones come by local.c.
 */
#include "src/shim/entry/entry.h"
#include "src/shim/gate/graph_memory.h"
#include "src/shim/gate/swap.h"

/* False: its frame is a small one. */
static bool large(CUfunction func, CUkernel kern, struct harp_graph_frame *out)
{
    CUfunction f = func != NULL ? func : (CUfunction)(void *)kern;
    return !harp_inside() && harp_local_large(f, &out->ctx, &out->frame);
}

void harp_graph_kernel_given(CUfunction func, CUkernel kern, CUcontext ctx)
{
    struct harp_graph_frame one = {.ctx = ctx};
    large(func, kern, &one);
}

static void given(const CUDA_KERNEL_NODE_PARAMS *params)
{
    if (params != NULL)
        harp_graph_kernel_given(params->func, params->kern, params->ctx);
}

static void given_v1(const CUDA_KERNEL_NODE_PARAMS_v1 *params)
{
    if (params != NULL)
        harp_graph_kernel_given(params->func, NULL, NULL);
}

/* --- graphs ---------------------------------------------------------------------------------- */

CUresult harp_hook_cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                        const CUgraphNode *dependencies, size_t numDependencies,
                                        const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    given_v1(nodeParams);
    return HARP_REAL(cuGraphAddKernelNode)(phGraphNode, hGraph, dependencies, numDependencies,
                                           nodeParams);
}

CUresult harp_hook_cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                                           const CUgraphNode *dependencies, size_t numDependencies,
                                           const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    given(nodeParams);
    return HARP_REAL(cuGraphAddKernelNode_v2)(phGraphNode, hGraph, dependencies, numDependencies,
                                              nodeParams);
}

CUresult harp_hook_cuGraphKernelNodeSetParams(CUgraphNode hNode,
                                              const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    given_v1(nodeParams);
    return HARP_REAL(cuGraphKernelNodeSetParams)(hNode, nodeParams);
}

CUresult harp_hook_cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                                                 const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    given(nodeParams);
    return HARP_REAL(cuGraphKernelNodeSetParams_v2)(hNode, nodeParams);
}

/* The driver looks at memory that may have left the device. */
#define TOUCHING(r, call)                                                                          \
    do {                                                                                           \
        struct harp_timegate *held = harp_swap_touch();                                            \
        (r) = (call);                                                                              \
        if (held != NULL)                                                                          \
            harp_touch_end(held);                                                                  \
    } while (0)

CUresult harp_hook_cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    CUresult r;
    if (nodeParams != NULL && nodeParams->type == CU_GRAPH_NODE_TYPE_KERNEL)
        harp_graph_kernel_given(nodeParams->kernel.func, nodeParams->kernel.kern,
                                nodeParams->kernel.ctx);
    TOUCHING(r, HARP_REAL(cuGraphNodeSetParams)(hNode, nodeParams));
    return r;
}

/* --- executable graphs ----------------------------------------------------------------------- */

/* Noted before the driver's call: nobody may launch it in between. */
static void changing(CUgraphExec exec, CUfunction func, CUkernel kern, CUcontext ctx)
{
    struct harp_graph_frame one = {.ctx = ctx};
    if (large(func, kern, &one))
        harp_graph_exec_frame(exec, one.ctx, one.frame);
}

CUresult harp_hook_cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                  const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    if (nodeParams != NULL)
        changing(hGraphExec, nodeParams->func, NULL, NULL);
    return HARP_REAL(cuGraphExecKernelNodeSetParams)(hGraphExec, hNode, nodeParams);
}

CUresult harp_hook_cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                     const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    if (nodeParams != NULL)
        changing(hGraphExec, nodeParams->func, nodeParams->kern, nodeParams->ctx);
    return HARP_REAL(cuGraphExecKernelNodeSetParams_v2)(hGraphExec, hNode, nodeParams);
}

CUresult harp_hook_cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            CUgraphNodeParams *nodeParams)
{
    CUresult r;
    if (nodeParams != NULL && nodeParams->type == CU_GRAPH_NODE_TYPE_KERNEL)
        changing(hGraphExec, nodeParams->kernel.func, nodeParams->kernel.kern,
                 nodeParams->kernel.ctx);
    else if (nodeParams != NULL && nodeParams->type == CU_GRAPH_NODE_TYPE_GRAPH)
        harp_graph_kernels_changed(hGraphExec, nodeParams->graph.graph);
    TOUCHING(r, HARP_REAL(cuGraphExecNodeSetParams)(hGraphExec, hNode, nodeParams));
    return r;
}

CUresult harp_hook_cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                      CUgraph childGraph)
{
    harp_graph_kernels_changed(hGraphExec, childGraph);
    return HARP_REAL(cuGraphExecChildGraphNodeSetParams)(hGraphExec, hNode, childGraph);
}

CUresult harp_hook_cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph,
                                     CUgraphNode *hErrorNode_out,
                                     CUgraphExecUpdateResult *updateResult_out)
{
    CUresult r;
    harp_graph_kernels_changed(hGraphExec, hGraph);
    TOUCHING(r, HARP_REAL(cuGraphExecUpdate)(hGraphExec, hGraph, hErrorNode_out, updateResult_out));
    return r;
}

CUresult harp_hook_cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                                        CUgraphExecUpdateResultInfo *resultInfo)
{
    CUresult r;
    harp_graph_kernels_changed(hGraphExec, hGraph);
    TOUCHING(r, HARP_REAL(cuGraphExecUpdate_v2)(hGraphExec, hGraph, resultInfo));
    return r;
}
