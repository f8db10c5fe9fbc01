/* SPDX-License-Identifier: Apache-2.0
 *
 * softmod_fuzz.c: graphs made by hand and by capture.
 */
#include "softmod_fuzz.h"

static void hello(void *data)
{
    CHECK_IS(CUDA_ERROR_NOT_PERMITTED, cuCtxSynchronize());
}

bool make_graph(struct player *p, CUdeviceptr at, CUgraph *graph)
{
    CUgraphNode first, branch[5];
    CUDA_HOST_NODE_PARAMS host = {hello, NULL};
    CUDA_MEMSET_NODE_PARAMS set = {at, 0, 1, 1, 4096, 1};
    void *params[] = {&at};
    CUDA_KERNEL_NODE_PARAMS kernel = {.gridDimX = 2,
                                      .gridDimY = 1,
                                      .gridDimZ = 1,
                                      .blockDimX = 3,
                                      .blockDimY = 1,
                                      .blockDimZ = 1,
                                      .kernelParams = params,
                                      .kern = fuzz.touch,
                                      .ctx = p->now};

    if (!GOOD(cuGraphCreate(graph, 0)))
        return false;
    GOOD(cuGraphAddHostNode(&first, *graph, NULL, 0, &host));
    for (unsigned i = 0; i < 4; i++)
        if (i % 2 == 1)
            GOOD(cuGraphAddMemsetNode(&branch[i], *graph, &first, 1, &set, p->now));
        else if (!GOOD(cuGraphAddKernelNode_v2(&branch[i], *graph, &first, 1, &kernel)))
            branch[i] = first; /* no room for its code in this context */
    GOOD(cuGraphAddEmptyNode(&branch[4], *graph, branch + 1, 3));
    return true;
}

void graph(struct player *p)
{
    struct piece *a = some_piece(p);
    CUgraph graph;
    CUgraphExec exec;

    if (p->now == fuzz.ctx[0] && below(p, 2) == 0)
        GOOD(cuGraphLaunch(fuzz.exec, some_stream(p)));
    if (p->poisoned || (a != NULL && a->kind == PINNED))
        return;
    if (!make_graph(p, a != NULL ? a->ptr : fuzz.managed, &graph))
        return;
    if (GOOD(cuGraphInstantiateWithFlags(&exec, graph, 0))) {
        for (unsigned i = below(p, 4); i > 0; i--)
            GOOD(cuGraphLaunch(exec, some_stream(p)));
        GOOD(cuGraphExecDestroy(exec));
    }
    GOOD(cuGraphDestroy(graph));
}

void capture(struct player *p)
{
    struct piece *a = some_piece(p);
    CUstream s, t;
    CUevent fork;
    CUgraph graph;
    CUgraphExec exec;

    /* while a stream of it captures, nobody may wait for the context */
    if (p->now != p->own || p->poisoned || a == NULL || a->kind == PINNED)
        return;
    if (!GOOD(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING)))
        return;
    GOOD(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
    GOOD(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
    GOOD(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    GOOD(cuMemsetD32Async(a->ptr, 1, 100, s));
    GOOD(cuEventRecord(fork, s));
    GOOD(cuStreamWaitEvent(t, fork, 0));
    GOOD(cuMemsetD32Async(a->ptr + 4096, 1, 100, t));
    GOOD(cuLaunchHostFunc(s, hello, NULL));
    if (below(p, 4) == 0) { /* left in the middle */
        GOOD(cuStreamDestroy_v2(s));
        GOOD(cuStreamDestroy_v2(t));
        GOOD(cuEventDestroy_v2(fork));
        return;
    }
    GOOD(cuEventRecord(fork, t));
    GOOD(cuStreamWaitEvent(s, fork, 0));
    GOOD(cuStreamEndCapture(s, &graph));
    GOOD(cuGraphInstantiateWithFlags(&exec, graph, 0));
    GOOD(cuGraphLaunch(exec, s));
    GOOD(cuGraphExecDestroy(exec));
    GOOD(cuGraphDestroy(graph));
    GOOD(cuStreamDestroy_v2(s));
    GOOD(cuStreamDestroy_v2(t));
    GOOD(cuEventDestroy_v2(fork));
}
