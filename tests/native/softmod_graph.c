/* SPDX-License-Identifier: Apache-2.0
 *
 * Graphs of many shapes: random ones run in an order that heeds every edge, through clones,
 * removals and captures, and leave nothing behind.
 */
#include "soft_test.h"

#include "soft/gpu/graph.h"

#define NODES 24

static uint64_t seed = 7;
static int trace[4 * NODES];
static _Atomic int trace_count; /* nodes of different branches run at the same time */

static uint32_t dice(uint32_t sides)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(seed >> 33) % sides;
}

static void mark(void *data)
{
    trace[atomic_fetch_add(&trace_count, 1)] = (int)(intptr_t)data;
}

static CUgraphNode host_node(CUgraph graph, int number)
{
    CUgraphNode node;
    CUDA_HOST_NODE_PARAMS params = {mark, (void *)(intptr_t)number};
    OK(cuGraphAddHostNode(&node, graph, NULL, 0, &params));
    return node;
}

static int place_of(int number)
{
    for (int i = 0; i < trace_count; i++)
        if (trace[i] == number)
            return i;
    return -1;
}

static void launch_graph(CUgraph graph)
{
    CUgraphExec exec;
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    trace_count = 0;
    OK(cuGraphLaunch(exec, NULL));
    OK(cuGraphExecDestroy(exec)); /* what was launched goes on */
    OK(cuCtxSynchronize());
}

struct shape { /* edge[i][j]: i before j, in a hidden order of the nodes */
    CUgraphNode nodes[NODES];
    bool edge[NODES][NODES];
};

static size_t wire(CUgraph graph, struct shape *shape, uint32_t one_in)
{
    size_t edges = 0;
    int order[NODES];
    for (int i = 0; i < NODES; i++)
        order[i] = i;
    for (int i = NODES - 1; i > 0; i--) {
        int j = (int)dice((uint32_t)i + 1), hold = order[i];
        order[i] = order[j];
        order[j] = hold;
    }
    for (int i = 0; i < NODES; i++)
        for (int j = i + 1; j < NODES; j++) {
            if (dice(one_in) != 0)
                continue;
            OK(cuGraphAddDependencies(graph, &shape->nodes[order[i]], &shape->nodes[order[j]], 1));
            shape->edge[order[i]][order[j]] = true;
            edges++;
        }
    return edges;
}

static void heeded(const struct shape *shape)
{
    for (int i = 0; i < NODES; i++)
        for (int j = 0; j < NODES; j++)
            if (shape->edge[i][j])
                CHECK(place_of(i) < place_of(j));
}

static void begin(void)
{
    CUcontext ctx;
    OK(cuInit(0));
    OK(cuCtxCreate_v2(&ctx, 0, 0));
}

static void random_graphs_heed_every_edge(void *arg)
{
    begin();
    for (int round = 0; round < 40; round++) {
        struct shape shape = {0};
        CUgraph graph, clone;
        OK(cuGraphCreate(&graph, 0));
        for (int i = 0; i < NODES; i++)
            shape.nodes[i] = host_node(graph, i);
        size_t edges = wire(graph, &shape, 2 + dice(8)), told = 0;
        OK(cuGraphGetEdges(graph, NULL, NULL, &told));
        CHECK_IS(edges, told);
        launch_graph(graph);
        CHECK_IS(NODES, trace_count);
        heeded(&shape);
        OK(cuGraphClone(&clone, graph));
        int gone = (int)dice(NODES);
        OK(cuGraphDestroyNode(shape.nodes[gone]));
        launch_graph(graph);
        CHECK_IS(NODES - 1, trace_count);
        CHECK_IS(-1, place_of(gone));
        for (int i = 0; i < NODES; i++)
            shape.edge[i][gone] = shape.edge[gone][i] = false;
        heeded(&shape);
        OK(cuGraphDestroy(graph));
        launch_graph(clone); /* has the node still */
        CHECK_IS(NODES, trace_count);
        OK(cuGraphDestroy(clone));
    }
}

static void every_cycle_is_found(void *arg)
{
    begin();
    for (int round = 0; round < 40; round++) {
        struct shape shape = {0};
        CUgraph graph;
        CUgraphExec exec;
        OK(cuGraphCreate(&graph, 0));
        for (int i = 0; i < NODES; i++)
            shape.nodes[i] = host_node(graph, i);
        wire(graph, &shape, 8);
        /* a ring through a few nodes, laid over it */
        int first = (int)dice(NODES), last = first;
        for (int hops = 1 + (int)dice(5); hops > 0; hops--) {
            int next = (last + 1) % NODES;
            (void)cuGraphAddDependencies(graph, &shape.nodes[last], &shape.nodes[next], 1);
            last = next;
        }
        (void)cuGraphAddDependencies(graph, &shape.nodes[last], &shape.nodes[first], 1);
        CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiateWithFlags(&exec, graph, 0));
        OK(cuGraphDestroy(graph));
    }
}

static void long_chains_are_no_recursion(void *arg)
{
    enum { LONG = 20000 };
    begin();
    CUgraph graph;
    CUgraphNode before = NULL;
    CUgraphExec exec;
    OK(cuGraphCreate(&graph, 0));
    for (int i = 0; i < LONG; i++) {
        CUgraphNode node;
        OK(cuGraphAddEmptyNode(&node, graph, &before, before != NULL));
        before = node;
    }
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuGraphLaunch(exec, NULL));
    OK(cuCtxSynchronize());
    OK(cuGraphExecDestroy(exec));
    OK(cuGraphDestroy(graph));
}

static void children_are_copies_and_run_in_place(void *arg)
{
    begin();
    CUgraph inner, middle, outer;
    CUgraphNode node, last;
    OK(cuGraphCreate(&inner, 0));
    host_node(inner, 2);
    OK(cuGraphCreate(&middle, 0));
    CUgraphNode first = host_node(middle, 1);
    OK(cuGraphAddChildGraphNode(&node, middle, &first, 1, inner));
    OK(cuGraphCreate(&outer, 0));
    OK(cuGraphAddChildGraphNode(&node, outer, NULL, 0, middle));
    CUDA_HOST_NODE_PARAMS params = {mark, (void *)3};
    OK(cuGraphAddHostNode(&last, outer, &node, 1, &params));
    OK(cuGraphDestroy(inner));
    OK(cuGraphDestroy(middle));
    launch_graph(outer);
    CHECK_IS(3, trace_count);
    CHECK(trace[0] == 1 && trace[1] == 2 && trace[2] == 3);
    OK(cuGraphChildGraphNodeGetGraph(node, &inner));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuGraphDestroy(inner)); /* its node owns it */
    OK(cuGraphDestroy(outer));
}

/* Random forks and joins over streams and events; each call's place among the others is known. */
static void random_captures_keep_the_order_of_streams(void *arg)
{
    enum { STREAMS = 4, STEPS = 60 };
    begin();
    CUstream streams[STREAMS];
    CUevent event;
    OK(cuEventCreate(&event, 0));
    for (int i = 0; i < STREAMS; i++)
        OK(cuStreamCreate(&streams[i], CU_STREAM_NON_BLOCKING));
    for (int round = 0; round < 30; round++) {
        bool inside[STREAMS] = {true};
        /* seen[s][n]: what stream s does next comes after step n */
        static bool seen[STREAMS][STEPS], before[STEPS][STEPS];
        memset(seen, 0, sizeof seen);
        memset(before, 0, sizeof before);
        int steps = 0;
        CUgraph graph;
        OK(cuStreamBeginCapture_v2(streams[0], CU_STREAM_CAPTURE_MODE_GLOBAL));
        while (steps < STEPS - 1) {
            int s = (int)dice(STREAMS), to = (int)dice(STREAMS);
            if (!inside[s])
                continue;
            if (dice(2) == 0) {
                OK(cuLaunchHostFunc(streams[s], mark, (void *)(intptr_t)steps));
                memcpy(before[steps], seen[s], sizeof seen[s]);
                seen[s][steps++] = true;
            } else {
                OK(cuEventRecord(event, streams[s]));
                OK(cuStreamWaitEvent(streams[to], event, 0));
                inside[to] = true;
                for (int n = 0; n < STEPS; n++)
                    seen[to][n] |= seen[s][n];
            }
        }
        for (int s = 1; s < STREAMS; s++) {
            if (!inside[s])
                continue;
            OK(cuEventRecord(event, streams[s]));
            OK(cuStreamWaitEvent(streams[0], event, 0));
        }
        OK(cuLaunchHostFunc(streams[0], mark, (void *)(intptr_t)steps++));
        OK(cuStreamEndCapture(streams[0], &graph));
        size_t count = 0;
        OK(cuGraphGetNodes(graph, NULL, &count));
        CHECK_IS(steps, count);
        launch_graph(graph);
        CHECK_IS(steps, trace_count);
        CHECK_IS(steps - 1, trace[trace_count - 1]);
        for (int n = 0; n < steps; n++)
            for (int m = 0; m < steps; m++)
                if (before[n][m])
                    CHECK(place_of(m) < place_of(n));
        OK(cuGraphDestroy(graph));
    }
    for (int i = 0; i < STREAMS; i++)
        OK(cuStreamDestroy_v2(streams[i]));
    OK(cuEventDestroy_v2(event));
}

static void abandoned_captures_leave_nothing(void *arg)
{
    begin();
    for (int round = 0; round < 20; round++) {
        CUstream stream, other;
        CUevent event;
        OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
        OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
        OK(cuEventCreate(&event, 0));
        OK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
        OK(cuLaunchHostFunc(stream, mark, NULL));
        OK(cuEventRecord(event, stream));
        OK(cuStreamWaitEvent(other, event, 0));
        OK(cuStreamDestroy_v2(round % 2 ? stream : other));
        OK(cuStreamDestroy_v2(round % 2 ? other : stream));
        OK(cuEventDestroy_v2(event));
    }
    OK(cuCtxSynchronize());
}

int main(void)
{
    test_run("random_graphs_heed_every_edge", "tiny", "0", random_graphs_heed_every_edge);
    test_run("every_cycle_is_found", "tiny", "0", every_cycle_is_found);
    test_run("long_chains_are_no_recursion", "tiny", "0", long_chains_are_no_recursion);
    test_run("children_are_copies_and_run_in_place", "tiny", "0",
             children_are_copies_and_run_in_place);
    test_run("random_captures_keep_the_order_of_streams", "tiny", "0",
             random_captures_keep_the_order_of_streams);
    test_run("abandoned_captures_leave_nothing", "tiny", "0", abandoned_captures_leave_nothing);
    return 0;
}
