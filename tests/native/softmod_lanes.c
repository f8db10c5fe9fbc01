/* SPDX-License-Identifier: Apache-2.0
 *
 * Graphs of branches under the sanitizers: launched from several threads, changed and destroyed
 * while they run, in contexts that go, with events and user objects that are exact.
 */
#include "soft_test.h"

#include <pthread.h>

#include "soft/gpu/graph.h"

#define WIDE 24

static _Atomic int count, inside, most;

static CUcontext begin(void)
{
    CUcontext ctx;
    OK(cuInit(0));
    OK(cuCtxCreate_v2(&ctx, 0, 0));
    return ctx;
}

static void tick(void *data)
{
    int now = atomic_fetch_add(&inside, 1) + 1, seen = atomic_load(&most);
    while (now > seen && !atomic_compare_exchange_weak(&most, &seen, now)) {
    }
    sleep_ns((uint64_t)(intptr_t)data);
    atomic_fetch_sub(&inside, 1);
    atomic_fetch_add(&count, 1);
}

static CUgraphNode tick_node(CUgraph graph, uint64_t ns, const CUgraphNode *deps, size_t dep_count)
{
    CUgraphNode node;
    CUDA_HOST_NODE_PARAMS params = {tick, (void *)(intptr_t)ns};
    OK(cuGraphAddHostNode(&node, graph, deps, dep_count, &params));
    return node;
}

/* A node, WIDE branches of two, a node. */
static CUgraph fan(uint64_t ns)
{
    CUgraph graph;
    CUgraphNode ends[WIDE];
    OK(cuGraphCreate(&graph, 0));
    CUgraphNode first = tick_node(graph, ns, NULL, 0);
    for (int i = 0; i < WIDE; i++) {
        CUgraphNode middle = tick_node(graph, ns, &first, 1);
        ends[i] = tick_node(graph, ns, &middle, 1);
    }
    tick_node(graph, ns, ends, WIDE);
    return graph;
}
#define FAN_NODES (2 + 2 * WIDE)

static void branches_run_at_once(void *arg)
{
    begin();
    CUgraph graph = fan(5 * MS);
    CUgraphExec exec;
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphLaunch(exec, NULL));
    OK(cuCtxSynchronize());
    CHECK_IS(FAN_NODES, count);
    CHECK_BETWEEN(4, 16, most);
}

struct user {
    CUcontext ctx;
    CUgraphExec exec;
};

static void *launch_often(void *arg)
{
    struct user *user = arg;
    CUstream stream;
    OK(cuCtxSetCurrent(user->ctx));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 20; i++)
        OK(cuGraphLaunch(user->exec, stream));
    OK(cuStreamDestroy_v2(stream));
    return NULL;
}

/* One executable graph never overlaps itself, whoever launches it. */
static void launches_from_many_threads(void *arg)
{
    struct user user = {.ctx = begin()};
    CUgraph graph;
    pthread_t t[4];
    CUgraphNode pair[2];
    OK(cuGraphCreate(&graph, 0));
    for (int i = 0; i < 2; i++)
        pair[i] = tick_node(graph, 10000, NULL, 0);
    tick_node(graph, 10000, pair, 2);
    OK(cuGraphInstantiateWithFlags(&user.exec, graph, 0));
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&t[i], NULL, launch_often, &user) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    OK(cuGraphExecDestroy(user.exec));
    OK(cuGraphDestroy(graph));
    OK(cuCtxSynchronize());
    CHECK_IS(4 * 20 * 3, count);
    CHECK_BETWEEN(1, 2, most);
}

static _Atomic int destroyed;

static void object_gone(void *data)
{
    atomic_fetch_add(&destroyed, 1);
    CHECK_IS(CUDA_ERROR_NOT_PERMITTED, cuCtxSynchronize());
}

/* Graphs, executable ones and contexts go in every order while launches are under way. */
static void what_was_launched_goes_on(void *arg)
{
    int expected = 0, objects = 0;
    begin();
    for (int round = 0; round < 12; round++) {
        CUcontext ctx;
        CUstream stream;
        CUgraphExec exec;
        CUuserObject object;
        CUgraphExecUpdateResultInfo info;
        OK(cuCtxCreate_v2(&ctx, 0, 0));
        OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
        CUgraph graph = fan(20000);
        OK(cuUserObjectCreate(&object, NULL, object_gone, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
        OK(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
        objects++;
        OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
        for (int i = 0; i < 3; i++) {
            OK(cuGraphLaunch(exec, stream));
            OK(cuGraphExecUpdate_v2(exec, graph, &info));
            expected += FAN_NODES;
        }
        if (round % 2)
            OK(cuStreamDestroy_v2(stream));
        if (round % 3)
            OK(cuGraphDestroy(graph));
        if (round % 4)
            OK(cuGraphExecDestroy(exec));
        OK(cuCtxDestroy_v2(ctx));
        CHECK_IS(expected, count);
        if (round % 4 == 0)
            OK(cuGraphExecDestroy(exec));
        if (round % 3 == 0)
            OK(cuGraphDestroy(graph));
    }
    for (int i = 0; i < 500 && atomic_load(&destroyed) < objects; i++)
        sleep_ns(10 * MS);
    CHECK_IS(objects, destroyed);
}

/* An executable graph outlives the context its lanes were in, and is launched in another. */
static void lanes_are_made_anew(void *arg)
{
    CUcontext one = begin();
    CUgraph graph = fan(1000);
    CUgraphExec exec;
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int i = 0; i < 6; i++) {
        CUcontext ctx;
        CUstream stream;
        OK(cuCtxCreate_v2(&ctx, 0, i % 2));
        OK(cuStreamCreate(&stream, 0));
        OK(cuGraphLaunch(exec, stream));
        if (i % 3 == 0)
            OK(cuGraphLaunch(exec, CU_STREAM_PER_THREAD));
        OK(cuCtxDestroy_v2(ctx));
        OK(cuCtxSetCurrent(one));
        OK(cuGraphLaunch(exec, NULL));
    }
    OK(cuCtxSynchronize());
    CHECK_IS((6 + 6 + 2) * FAN_NODES, count);
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
}

/* Events recorded by branches are pending from the launch until their node, never longer. */
static void events_of_nodes_are_exact(void *arg)
{
    begin();
    CUevent quick, slow;
    CUgraph graph;
    CUgraphNode node, waits;
    CUgraphExec exec;
    CUstream stream;
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&quick, 0));
    OK(cuEventCreate(&slow, 0));
    OK(cuGraphCreate(&graph, 0));
    node = tick_node(graph, 1000, NULL, 0);
    OK(cuGraphAddEventRecordNode(&node, graph, &node, 1, quick));
    /* waits for what was recorded before the launch, not for its own graph's record */
    OK(cuGraphAddEventWaitNode(&waits, graph, NULL, 0, slow));
    node = tick_node(graph, 60 * MS, &waits, 1);
    OK(cuGraphAddEventRecordNode(&node, graph, &node, 1, slow));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int i = 0; i < 5; i++) {
        OK(cuGraphLaunch(exec, stream));
        CHECK_IS(CUDA_ERROR_NOT_READY, cuEventQuery(slow));
        while (cuEventQuery(quick) == CUDA_ERROR_NOT_READY)
            sleep_ns(MS / 10);
        CHECK_IS(CUDA_ERROR_NOT_READY, cuEventQuery(slow));
        OK(cuEventSynchronize(slow));
        CHECK_IS(2 * (i + 1), count);
    }
    OK(cuEventDestroy_v2(quick));
    OK(cuGraphLaunch(exec, stream));
    OK(cuEventDestroy_v2(slow));
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
    OK(cuCtxSynchronize());
}

/* A fence that waits for a graph does not hold up the graph's own branches. */
static void fences_let_branches_pass(void *arg)
{
    CUcontext ctx = begin();
    CUgraph graph = fan(100000);
    CUgraphExec exec;
    CUevent event;
    CUstream stream;
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cuEventCreate(&event, 0));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int i = 0; i < 3; i++) {
        CUDA_HOST_NODE_PARAMS slow = {tick, (void *)(intptr_t)(20 * MS)};
        OK(cuLaunchHostFunc(stream, slow.fn, slow.userData));
        OK(cuGraphLaunch(exec, stream));
        OK(cuEventRecord(event, stream));
        OK(cuCtxWaitEvent(ctx, event));
        OK(cuLaunchHostFunc(NULL, tick, NULL));
        OK(cuCtxSynchronize());
    }
    CHECK_IS(3 * (FAN_NODES + 2), count);
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
}

int main(void)
{
    test_run("fences_let_branches_pass", "tiny", "0", fences_let_branches_pass);
    test_run("branches_run_at_once", "tiny", "0", branches_run_at_once);
    test_run("launches_from_many_threads", "tiny", "0", launches_from_many_threads);
    test_run("what_was_launched_goes_on", "tiny", "0", what_was_launched_goes_on);
    test_run("lanes_are_made_anew", "tiny,tiny", "0", lanes_are_made_anew);
    test_run_noisy("events_of_nodes_are_exact", "tiny", "0", events_of_nodes_are_exact);
    return 0;
}
