/* SPDX-License-Identifier: Apache-2.0
 *
 * Nodes of graphs: a kernel's parameters are packed as a launch's are, a host function goes as a
 * ticket.
 */
#include <stdlib.h>

#include "src/shim/remote/calls.h"
#include "src/shim/remote/forget.h"
#include "src/shim/remote/host.h"
#include "src/shim/remote/prepared.h"

/* Of a node, from any version of its struct: the first members are the same. */
struct node {
    struct harp_launch launch;
    CUDA_KERNEL_NODE_PARAMS params;
};

static CUresult prepare(struct node *n, CUcontext ctx)
{
    const CUDA_KERNEL_NODE_PARAMS *p = &n->params;
    const struct harp_lane *lane = harp_lane();
    const struct harp_thing *given = harp_thing_of(HARP_HANDLE_CUcontext, (uintptr_t)ctx);
    struct harp_launch *l = &n->launch;
    l->f = p->func != NULL ? p->func : (CUfunction)p->kern;
    l->grid[0] = p->gridDimX, l->grid[1] = p->gridDimY, l->grid[2] = p->gridDimZ;
    l->block[0] = p->blockDimX, l->block[1] = p->blockDimY, l->block[2] = p->blockDimZ;
    l->shared = p->sharedMemBytes;
    l->ctx = given != NULL ? given->id : lane != NULL ? harp_lane_current(lane) : 0;
    l->params = p->kernelParams;
    l->extra = p->extra;
    CUresult r = harp_remote_prepare(l);
    n->params.kernelParams = (void **)&l->packed;
    n->params.extra = NULL;
    return r;
}

static CUresult accepted(const struct node *n, CUresult r)
{
    if (r == CUDA_SUCCESS)
        harp_remote_accepted(&n->launch);
    return r;
}

static CUresult from_v1(struct node *n, const CUDA_KERNEL_NODE_PARAMS_v1 *given)
{
    if (given == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    memset(&n->params, 0, sizeof n->params);
    memcpy(&n->params, given, sizeof *given);
    return prepare(n, NULL);
}

static CUresult from_v2(struct node *n, const CUDA_KERNEL_NODE_PARAMS *given)
{
    if (given == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    n->params = *given;
    return prepare(n, given->ctx);
}

CUresult harp_remote_cuGraphAddKernelNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                          const CUgraphNode *dependencies, size_t numDependencies,
                                          const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    struct node n;
    CUresult r = from_v1(&n, nodeParams);
    if (r != CUDA_SUCCESS)
        return r;
    r = harp_sent_cuGraphAddKernelNode(phGraphNode, hGraph, dependencies, numDependencies,
                                       (const CUDA_KERNEL_NODE_PARAMS_v1 *)&n.params);
    return accepted(&n, r);
}

CUresult harp_remote_cuGraphAddKernelNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                                             const CUgraphNode *dependencies,
                                             size_t numDependencies,
                                             const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct node n;
    CUresult r = from_v2(&n, nodeParams);
    if (r != CUDA_SUCCESS)
        return r;
    r = harp_sent_cuGraphAddKernelNode_v2(phGraphNode, hGraph, dependencies, numDependencies,
                                          &n.params);
    return accepted(&n, r);
}

CUresult harp_remote_cuGraphKernelNodeSetParams(CUgraphNode hNode,
                                                const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    struct node n;
    CUresult r = from_v1(&n, nodeParams);
    if (r != CUDA_SUCCESS)
        return r;
    return accepted(&n, harp_sent_cuGraphKernelNodeSetParams(
                            hNode, (const CUDA_KERNEL_NODE_PARAMS_v1 *)&n.params));
}

CUresult harp_remote_cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                                                   const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct node n;
    CUresult r = from_v2(&n, nodeParams);
    if (r != CUDA_SUCCESS)
        return r;
    return accepted(&n, harp_sent_cuGraphKernelNodeSetParams_v2(hNode, &n.params));
}

/* `before`: as harp_remote_updated() said. */
static CUresult updated(const struct node *n, CUgraphExec exec, CUgraphNode node, bool before,
                        CUresult r)
{
    if (r == CUDA_SUCCESS && !before)
        harp_remote_note_update(exec, node, n->launch.f, n->launch.grid);
    return accepted(n, r);
}

CUresult harp_remote_cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                    const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    struct node n;
    CUresult r = from_v1(&n, nodeParams);
    if (r != CUDA_SUCCESS)
        return r;
    bool before = harp_remote_updated(hGraphExec, hNode, n.launch.f, n.launch.grid);
    if (!before)
        harp_remote_doubt();
    r = harp_sent_cuGraphExecKernelNodeSetParams(hGraphExec, hNode,
                                                 (const CUDA_KERNEL_NODE_PARAMS_v1 *)&n.params);
    return updated(&n, hGraphExec, hNode, before, r);
}

CUresult harp_remote_cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                       const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    struct node n;
    CUresult r = from_v2(&n, nodeParams);
    if (r != CUDA_SUCCESS)
        return r;
    bool before = harp_remote_updated(hGraphExec, hNode, n.launch.f, n.launch.grid);
    if (!before)
        harp_remote_doubt();
    r = harp_sent_cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, &n.params);
    return updated(&n, hGraphExec, hNode, before, r);
}

/* What a program reads of a node: pointers to each parameter, in memory that is lent to it. */
static CUresult readable(CUresult r, CUfunction f, void ***kernelParams)
{
    if (r == CUDA_SUCCESS && *kernelParams != NULL)
        *kernelParams = harp_remote_unpack(f, (const struct harp_wire_packed *)*kernelParams);
    return r;
}

CUresult harp_remote_cuGraphKernelNodeGetParams(CUgraphNode hNode,
                                                CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
    CUresult r = harp_sent_cuGraphKernelNodeGetParams(hNode, nodeParams);
    return r != CUDA_SUCCESS ? r : readable(r, nodeParams->func, &nodeParams->kernelParams);
}

CUresult harp_remote_cuGraphKernelNodeGetParams_v2(CUgraphNode hNode,
                                                   CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
    CUresult r = harp_sent_cuGraphKernelNodeGetParams_v2(hNode, nodeParams);
    if (r != CUDA_SUCCESS)
        return r;
    CUfunction f = nodeParams->func != NULL ? nodeParams->func : (CUfunction)nodeParams->kern;
    return readable(r, f, &nodeParams->kernelParams);
}

static bool memory; /* atomic */

bool harp_remote_graph_memory(bool has)
{
    if (has)
        __atomic_store_n(&memory, true, __ATOMIC_RELAXED);
    return __atomic_load_n(&memory, __ATOMIC_RELAXED);
}

void harp_remote_forget_graphs(void)
{
    __atomic_store_n(&memory, false, __ATOMIC_RELAXED);
}

CUresult harp_remote_cuGraphAddMemAllocNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                            const CUgraphNode *dependencies, size_t numDependencies,
                                            CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams)
{
    harp_remote_graph_memory(true);
    return harp_sent_cuGraphAddMemAllocNode(phGraphNode, hGraph, dependencies, numDependencies,
                                            nodeParams);
}

/* A ticket is the node's, if there is one. */
static CUresult ticketed(CUresult r, CUhostFn ticket)
{
    if (r != CUDA_SUCCESS)
        harp_remote_ticket_end((uintptr_t)ticket);
    return r;
}

/* --- nodes of any type ------------------------------------------------------------------------ */

/* What of `given` has to be prepared; the others go as they are. */
static CUresult from_any(struct node *n, const CUgraphNodeParams *given, CUgraphNodeParams *out)
{
    CUresult r = CUDA_SUCCESS;
    if (given == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *out = *given;
    n->launch.f = NULL;
    if (given->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
        harp_remote_graph_memory(true);
    if (given->type == CU_GRAPH_NODE_TYPE_KERNEL) {
        memcpy(&n->params, &given->kernel, sizeof n->params);
        r = prepare(n, given->kernel.ctx);
        out->kernel.kernelParams = n->params.kernelParams;
        out->kernel.extra = NULL;
    } else if (given->type == CU_GRAPH_NODE_TYPE_HOST) {
        uint64_t ticket = 0;
        r = harp_remote_ticket(given->host.fn, given->host.userData, true, &ticket);
        out->host.fn = (CUhostFn)(uintptr_t)ticket;
        out->host.userData = NULL; /* the ticket knows it */
    }
    return r;
}

/* What the driver answers in it (the address of an allocation) is the program's. */
static CUresult answered(const struct node *n, CUresult r, const CUgraphNodeParams *sent,
                         CUgraphNodeParams *given)
{
    if (given->type == CU_GRAPH_NODE_TYPE_HOST)
        return ticketed(r, sent->host.fn);
    if (r == CUDA_SUCCESS && given->type == CU_GRAPH_NODE_TYPE_KERNEL)
        return accepted(n, r);
    if (r == CUDA_SUCCESS)
        *given = *sent;
    return r;
}

CUresult harp_remote_cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                    const CUgraphNode *dependencies, size_t numDependencies,
                                    CUgraphNodeParams *nodeParams)
{
    struct node n;
    CUgraphNodeParams params;
    CUresult r = from_any(&n, nodeParams, &params);
    if (r != CUDA_SUCCESS)
        return r;
    r = harp_sent_cuGraphAddNode(phGraphNode, hGraph, dependencies, numDependencies, &params);
    return answered(&n, r, &params, nodeParams);
}

CUresult harp_remote_cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                                       const CUgraphNode *dependencies,
                                       const CUgraphEdgeData *dependencyData,
                                       size_t numDependencies, CUgraphNodeParams *nodeParams)
{
    struct node n;
    CUgraphNodeParams params;
    CUresult r = from_any(&n, nodeParams, &params);
    if (r != CUDA_SUCCESS)
        return r;
    r = harp_sent_cuGraphAddNode_v2(phGraphNode, hGraph, dependencies, dependencyData,
                                    numDependencies, &params);
    return answered(&n, r, &params, nodeParams);
}

CUresult harp_remote_cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams *nodeParams)
{
    struct node n;
    CUgraphNodeParams params;
    CUresult r = from_any(&n, nodeParams, &params);
    if (r != CUDA_SUCCESS)
        return r;
    return answered(&n, harp_sent_cuGraphNodeSetParams(hNode, &params), &params, nodeParams);
}

CUresult harp_remote_cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                              CUgraphNodeParams *nodeParams)
{
    struct node n;
    CUgraphNodeParams params;
    CUresult r = from_any(&n, nodeParams, &params);
    if (r != CUDA_SUCCESS)
        return r;
    r = harp_sent_cuGraphExecNodeSetParams(hGraphExec, hNode, &params);
    return answered(&n, r, &params, nodeParams);
}

/* --- host functions --------------------------------------------------------------------------- */

static CUresult from_host(CUDA_HOST_NODE_PARAMS *ours, const CUDA_HOST_NODE_PARAMS *given)
{
    uint64_t ticket = 0;
    CUresult r = given == NULL ? CUDA_ERROR_INVALID_VALUE
                               : harp_remote_ticket(given->fn, given->userData, true, &ticket);
    *ours = (CUDA_HOST_NODE_PARAMS){.fn = (CUhostFn)(uintptr_t)ticket};
    return r;
}

CUresult harp_remote_cuGraphAddHostNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                        const CUgraphNode *dependencies, size_t numDependencies,
                                        const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    CUDA_HOST_NODE_PARAMS ours;
    CUresult r = from_host(&ours, nodeParams);
    if (r != CUDA_SUCCESS)
        return r;
    r = harp_sent_cuGraphAddHostNode(phGraphNode, hGraph, dependencies, numDependencies, &ours);
    return ticketed(r, ours.fn);
}

CUresult harp_remote_cuGraphHostNodeSetParams(CUgraphNode hNode,
                                              const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    CUDA_HOST_NODE_PARAMS ours;
    CUresult r = from_host(&ours, nodeParams);
    if (r != CUDA_SUCCESS)
        return r;
    return ticketed(harp_sent_cuGraphHostNodeSetParams(hNode, &ours), ours.fn);
}

CUresult harp_remote_cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                  const CUDA_HOST_NODE_PARAMS *nodeParams)
{
    CUDA_HOST_NODE_PARAMS ours;
    CUresult r = from_host(&ours, nodeParams);
    if (r != CUDA_SUCCESS)
        return r;
    return ticketed(harp_sent_cuGraphExecHostNodeSetParams(hGraphExec, hNode, &ours), ours.fn);
}

CUresult harp_remote_cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS *nodeParams)
{
    CUresult r = harp_sent_cuGraphHostNodeGetParams(hNode, nodeParams);
    if (r == CUDA_SUCCESS)
        harp_remote_ticket_of((uintptr_t)nodeParams->fn, &nodeParams->fn, &nodeParams->userData);
    return r;
}
