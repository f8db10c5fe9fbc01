/* SPDX-License-Identifier: Apache-2.0
 *
 * What graphs allocate and which large frames their kernels have, read from their nodes when they
 * are instantiated. Programs that have neither pay one load. Not read: bodies of conditional nodes.
 */
#include <stdlib.h>
#include <string.h>

#include "src/shim/entry/entry.h"
#include "src/shim/gate/footprint.h"
#include "src/shim/gate/graph_memory.h"
#include "src/shim/gate/local.h"
#include "src/shim/gate/pool.h"
#include "src/shim/gate/swap.h"

static bool matter; /* a graph may have something that is charged */

void harp_graphs_matter(void)
{
    __atomic_store_n(&matter, true, __ATOMIC_RELAXED);
}

/* --- reading -----------------------------------------------------------------------------------
 */

struct list { /* grows; `lost`: no host memory */
    void *at;
    size_t count, room, each;
    bool lost;
};

static void *more(struct list *l)
{
    if (l->count == l->room) {
        size_t room = l->room == 0 ? 16 : l->room * 2;
        void *at = realloc(l->at, room * l->each);
        if (at == NULL) {
            l->lost = true;
            return NULL;
        }
        l->at = at;
        l->room = room;
    }
    return (char *)l->at + l->count++ * l->each;
}

struct alloc {
    struct harp_range range;
    int dev;
    CUdevice device;
};

struct kernel {
    CUcontext ctx;
    size_t frame;
};

struct reading {
    struct list allocs, frees, kernels;
};

static void read_node(struct reading *out, CUgraphNode node);

/* Child graphs' nodes are part of it. Inside the driver. */
static void read_graph(struct reading *out, CUgraph graph)
{
    size_t count = 0;
    if (HARP_REAL(cuGraphGetNodes)(graph, NULL, &count) != CUDA_SUCCESS || count == 0)
        return;
    CUgraphNode *nodes = calloc(count, sizeof(CUgraphNode));
    if (nodes == NULL) {
        out->allocs.lost = true;
        return;
    }
    if (HARP_REAL(cuGraphGetNodes)(graph, nodes, &count) == CUDA_SUCCESS)
        for (size_t i = 0; i < count; i++)
            read_node(out, nodes[i]);
    free(nodes);
}

/* A kernel with a large frame. Inside the driver. */
static bool large(CUgraphNode node, struct kernel *kernel)
{
    CUDA_KERNEL_NODE_PARAMS params = {0};
    CUresult r = CUDA_ERROR_NOT_SUPPORTED;
    if (HARP_HAS(cuGraphKernelNodeGetParams_v2))
        r = HARP_REAL(cuGraphKernelNodeGetParams_v2)(node, &params);
    else if (HARP_HAS(cuGraphKernelNodeGetParams)) /* its struct is the first part of the other */
        r = HARP_REAL(cuGraphKernelNodeGetParams)(node, (CUDA_KERNEL_NODE_PARAMS_v1 *)&params);
    CUfunction f = params.func != NULL ? params.func : (CUfunction)(void *)params.kern;
    kernel->ctx = params.ctx;
    return r == CUDA_SUCCESS && harp_local_large(f, &kernel->ctx, &kernel->frame);
}

static void read_node(struct reading *out, CUgraphNode node)
{
    CUgraphNodeType type;
    CUDA_MEM_ALLOC_NODE_PARAMS params;
    struct kernel kernel;
    CUdeviceptr ptr;
    CUgraph child;
    if (HARP_REAL(cuGraphNodeGetType)(node, &type) != CUDA_SUCCESS)
        return;
    switch ((int)type) {
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC: {
        struct alloc *a = HARP_REAL(cuGraphMemAllocNodeGetParams)(node, &params) == CUDA_SUCCESS
                              ? more(&out->allocs)
                              : NULL;
        if (a != NULL)
            *a = (struct alloc){.range = {params.dptr, params.bytesize},
                                .device = params.poolProps.location.id};
        break;
    }
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
        if (HARP_REAL(cuGraphMemFreeNodeGetParams)(node, &ptr) == CUDA_SUCCESS) {
            CUdeviceptr *f = more(&out->frees);
            if (f != NULL)
                *f = ptr;
        }
        break;
    case CU_GRAPH_NODE_TYPE_KERNEL:
        if (large(node, &kernel)) {
            struct kernel *k = more(&out->kernels);
            if (k != NULL)
                *k = kernel;
        }
        break;
    case CU_GRAPH_NODE_TYPE_GRAPH:
        if (HARP_HAS(cuGraphChildGraphNodeGetGraph) &&
            HARP_REAL(cuGraphChildGraphNodeGetGraph)(node, &child) == CUDA_SUCCESS)
            read_graph(out, child);
        break;
    default:
        break;
    }
}

/* --- what it comes to --------------------------------------------------------------------------
 */

/* Takes `ptr` out; false: not there. */
static bool take(struct list *l, CUdeviceptr ptr)
{
    CUdeviceptr *at = l->at;
    for (size_t i = 0; i < l->count; i++)
        if (at[i] == ptr) {
            at[i] = at[--l->count];
            return true;
        }
    return false;
}

static uint64_t bytes_on(const struct reading *in, int dev, struct harp_range *ranges)
{
    const struct alloc *a = in->allocs.at;
    size_t count = 0;
    for (size_t i = 0; i < in->allocs.count; i++)
        if (a[i].dev == dev)
            ranges[count++] = a[i].range;
    return harp_footprint(ranges, count, harp_pool_unit(dev));
}

static struct harp_graph_exec *exec_of(struct reading *in, CUgraphExec exec,
                                       CUdevice device[HARP_MAX_DEVICES])
{
    size_t n = in->allocs.count;
    struct alloc *a = in->allocs.at;
    struct harp_graph_exec *e = calloc(1, sizeof *e);
    struct harp_range *ranges = calloc(n + 1, sizeof *ranges);
    if (e == NULL || ranges == NULL || (e->outlive = calloc(n + 1, sizeof *e->outlive)) == NULL ||
        (e->alive = calloc(n + 1, sizeof *e->alive)) == NULL) {
        free(ranges);
        free(e != NULL ? e->outlive : NULL);
        free(e);
        return NULL;
    }
    e->exec = exec;
    for (size_t i = 0; i < n; i++) {
        a[i].dev = harp_device_of(a[i].device);
        if (a[i].dev >= 0)
            device[a[i].dev] = a[i].device;
        if (!take(&in->frees, a[i].range.start))
            e->outlive[e->outlive_count++] = a[i].range.start;
    }
    for (int dev = 0; dev < (int)HARP_MAX_DEVICES; dev++)
        e->bytes[dev] = bytes_on(in, dev, ranges);
    e->frees = in->frees.at;
    e->free_count = in->frees.count;
    in->frees = (struct list){0};
    free(ranges);
    return e;
}

static struct reading read_all(CUgraph graph)
{
    struct reading in = {.allocs = {.each = sizeof(struct alloc)},
                         .frees = {.each = sizeof(CUdeviceptr)},
                         .kernels = {.each = sizeof(struct kernel)}};
    harp_enter();
    read_graph(&in, graph);
    harp_leave();
    return in;
}

static void read_end(struct reading *in)
{
    free(in->allocs.at);
    free(in->frees.at);
    free(in->kernels.at);
}

static void add_frames(CUgraphExec exec, const struct reading *in)
{
    const struct kernel *k = in->kernels.at;
    for (size_t i = 0; i < in->kernels.count; i++)
        harp_graph_exec_frame(exec, k[i].ctx, k[i].frame);
}

static void note(CUgraph graph, CUgraphExec exec)
{
    CUdevice device[HARP_MAX_DEVICES] = {0};
    struct reading in = read_all(graph);
    struct harp_graph_exec *e =
        in.allocs.count + in.frees.count != 0 ? exec_of(&in, exec, device) : NULL;
    if (e != NULL)
        harp_graph_exec_made(e, device);
    add_frames(exec, &in);
    if (in.allocs.lost || in.frees.lost || in.kernels.lost || (e == NULL && in.allocs.count != 0))
        harp_log("graph_not_charged why=\"no host memory\" effect=\"seen by harpd's reconcile\"");
    read_end(&in);
}

void harp_graph_kernels_changed(CUgraphExec exec, CUgraph graph)
{
    if (harp_inside() || !__atomic_load_n(&matter, __ATOMIC_RELAXED))
        return;
    struct reading in = read_all(graph);
    add_frames(exec, &in);
    read_end(&in);
}

void harp_graph_exec_freed(struct harp_graph_exec *list, CUdeviceptr ptr)
{
    for (struct harp_graph_exec *e = list; e != NULL; e = e->next)
        for (size_t i = 0; i < e->outlive_count && e->living != 0; i++)
            if (e->outlive[i] == ptr && e->alive[i]) {
                e->alive[i] = false;
                e->living--;
                return;
            }
}

void harp_graph_exec_reap(struct harp_graph_exec **list)
{
    while (*list != NULL) {
        struct harp_graph_exec *e = *list;
        if (e->exec != NULL || e->users != 0 || e->living != 0) {
            list = &e->next;
            continue;
        }
        *list = e->next;
        free(e->outlive);
        free(e->alive);
        free(e->frees);
        free(e);
    }
}

/* --- hooks -------------------------------------------------------------------------------------
 */

static CUresult instantiated(CUresult r, CUgraph graph, const CUgraphExec *exec)
{
    if (r == CUDA_SUCCESS && !harp_inside() && __atomic_load_n(&matter, __ATOMIC_RELAXED))
        note(graph, *exec);
    return r;
}

/* Round a call in which the driver looks at memory that may have left the device. */
static CUresult touched(struct harp_timegate *held, CUresult r)
{
    if (held != NULL)
        harp_touch_end(held);
    return r;
}

CUresult harp_hook_cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph,
                                      CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
    struct harp_timegate *held = harp_swap_touch();
    CUresult r =
        HARP_REAL(cuGraphInstantiate)(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
    return touched(held, instantiated(r, hGraph, phGraphExec));
}

CUresult harp_hook_cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph,
                                         CUgraphNode *phErrorNode, char *logBuffer,
                                         size_t bufferSize)
{
    struct harp_timegate *held = harp_swap_touch();
    CUresult r =
        HARP_REAL(cuGraphInstantiate_v2)(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
    return touched(held, instantiated(r, hGraph, phGraphExec));
}

CUresult harp_hook_cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph,
                                               unsigned long long flags)
{
    struct harp_timegate *held = harp_swap_touch();
    CUresult r = HARP_REAL(cuGraphInstantiateWithFlags)(phGraphExec, hGraph, flags);
    return touched(held, instantiated(r, hGraph, phGraphExec));
}

/* One that is to be uploaded at once is uploaded when it is known what that may need. */
static CUresult with_params(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params,
                            harp_fn_cuGraphInstantiateWithParams real, bool per_thread)
{
    struct harp_timegate *held = harp_swap_touch();
    if (params == NULL || exec == NULL || harp_inside() ||
        (params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) == 0 ||
        !__atomic_load_n(&matter, __ATOMIC_RELAXED))
        return touched(held, instantiated(real(exec, graph, params), graph, exec));
    params->flags &= ~(cuuint64_t)CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD;
    CUresult r = touched(held, instantiated(real(exec, graph, params), graph, exec));
    params->flags |= CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD;
    if (r != CUDA_SUCCESS)
        return r;
    r = per_thread ? harp_hook_cuGraphUpload_ptsz(*exec, params->hUploadStream)
                   : harp_hook_cuGraphUpload(*exec, params->hUploadStream);
    if (r != CUDA_SUCCESS) {
        harp_hook_cuGraphExecDestroy(*exec);
        *exec = NULL;
        params->result_out = CUDA_GRAPH_INSTANTIATE_ERROR;
    }
    return r;
}

CUresult harp_hook_cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph,
                                                CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
    return with_params(phGraphExec, hGraph, instantiateParams,
                       HARP_REAL(cuGraphInstantiateWithParams), false);
}

CUresult harp_hook_cuGraphInstantiateWithParams_ptsz(CUgraphExec *phGraphExec, CUgraph hGraph,
                                                     CUDA_GRAPH_INSTANTIATE_PARAMS *how)
{
    return with_params(phGraphExec, hGraph, how, HARP_REAL(cuGraphInstantiateWithParams_ptsz),
                       true);
}

CUresult harp_hook_cuGraphAddMemAllocNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                          const CUgraphNode *dependencies, size_t numDependencies,
                                          CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams)
{
    harp_graphs_matter();
    return HARP_REAL(cuGraphAddMemAllocNode)(phGraphNode, hGraph, dependencies, numDependencies,
                                             nodeParams);
}

static void adding(const CUgraphNodeParams *params)
{
    if (params != NULL && params->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
        harp_graphs_matter();
    else if (params != NULL && params->type == CU_GRAPH_NODE_TYPE_KERNEL)
        harp_graph_kernel_given(params->kernel.func, params->kernel.kern, params->kernel.ctx);
}

CUresult harp_hook_cuGraphAddNode(CUgraphNode *phGraphNode, CUgraph hGraph,
                                  const CUgraphNode *dependencies, size_t numDependencies,
                                  CUgraphNodeParams *nodeParams)
{
    adding(nodeParams);
    struct harp_timegate *held = harp_swap_touch();
    return touched(held, HARP_REAL(cuGraphAddNode)(phGraphNode, hGraph, dependencies,
                                                   numDependencies, nodeParams));
}

CUresult harp_hook_cuGraphAddNode_v2(CUgraphNode *phGraphNode, CUgraph hGraph,
                                     const CUgraphNode *dependencies,
                                     const CUgraphEdgeData *dependencyData, size_t numDependencies,
                                     CUgraphNodeParams *nodeParams)
{
    adding(nodeParams);
    struct harp_timegate *held = harp_swap_touch();
    return touched(held, HARP_REAL(cuGraphAddNode_v2)(phGraphNode, hGraph, dependencies,
                                                      dependencyData, numDependencies, nodeParams));
}
