/* SPDX-License-Identifier: Apache-2.0
 *
 * Graphs that allocate, many of them in several streams and threads: none sees another's bytes,
 * and the device gets all of it back, whatever is destroyed first.
 */
#include "soft_test.h"

#include "soft/gpu/graph.h"
#include "soft/gpu/pool.h"

#define UNIT    (32 * MIB)
#define GRAPHS  12
#define STREAMS 3

static uint64_t memory(CUgraphMem_attribute which)
{
    cuuint64_t value;

    OK(cuDeviceGetGraphMemAttribute(0, which, &value));
    return value;
}

struct maker { /* a graph: memory, filled, looked at after a while, perhaps freed */
    CUgraph graph;
    CUgraphExec exec;
    CUdeviceptr p[2];
    unsigned words[2], stamp;
    bool frees, auto_free, living;
    atomic_int looks, bad;
};

static void look(void *arg)
{
    struct maker *m = arg;

    sleep_ns(100000); /* so that others would be in the way */
    for (int k = 0; k < 2; k++) {
        const unsigned *at = (const unsigned *)(const void *)soft_space_host(m->p[k]);

        for (unsigned i = 0; i < m->words[k]; i += 1021)
            if (at[i] != m->stamp + (unsigned)k)
                atomic_fetch_add(&m->bad, 1);
    }
    atomic_fetch_add(&m->looks, 1);
}

static void make(struct maker *m, unsigned stamp, bool frees, bool auto_free, unsigned *seed)
{
    CUgraphNode alloc[2], fill[2], host, freed;
    CUDA_HOST_NODE_PARAMS call = {look, m};
    CUcontext ctx;

    *m = (struct maker){.stamp = stamp, .frees = frees, .auto_free = auto_free};
    OK(cuCtxGetCurrent(&ctx));
    OK(cuGraphCreate(&m->graph, 0));
    for (int k = 0; k < 2; k++) {
        CUDA_MEM_ALLOC_NODE_PARAMS params = {
            .poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                          .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}}};
        CUDA_MEMSET_NODE_PARAMS set = {.elementSize = 4, .value = stamp + (unsigned)k, .height = 1};

        m->words[k] = 1 + (unsigned)rand_r(seed) % (k == 0 ? 5000u : 12000000u);
        params.bytesize = m->words[k] * 4ull;
        OK(cuGraphAddMemAllocNode(&alloc[k], m->graph, k == 0 ? NULL : &alloc[0], (size_t)k,
                                  &params));
        m->p[k] = params.dptr;
        set.dst = params.dptr;
        set.width = m->words[k];
        OK(cuGraphAddMemsetNode(&fill[k], m->graph, &alloc[k], 1, &set, ctx));
    }
    OK(cuGraphAddHostNode(&host, m->graph, fill, 2, &call));
    for (int k = 0; k < 2 && frees; k++)
        OK(cuGraphAddMemFreeNode(&freed, m->graph, &host, 1, m->p[k]));
    OK(cuGraphInstantiateWithFlags(
        &m->exec, m->graph, auto_free ? CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH : 0));
}

static void drop(struct maker *m, CUstream s, unsigned dice)
{
    for (int k = 0; k < 2 && m->living; k++)
        OK(dice % 2 == 0 ? cuMemFreeAsync(m->p[k], s)
                         : (cuStreamSynchronize(s), cuMemFree_v2(m->p[k])));
    m->living = false;
}

static void random_launches(void *arg)
{
    static struct maker makers[GRAPHS];
    CUstream s[STREAMS], on[GRAPHS] = {0};
    unsigned seed = 99;
    int launches = 0;

    context();
    for (int i = 0; i < STREAMS; i++)
        OK(cuStreamCreate(&s[i], CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < GRAPHS; i++)
        make(&makers[i], (unsigned)i * 1000 + 7, i % 3 != 0, i % 6 == 0, &seed);
    CHECK_IS(0, memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT));
    for (int step = 0; step < 500; step++) {
        int i = rand_r(&seed) % GRAPHS, dice = rand_r(&seed) % 100;
        struct maker *m = &makers[i];
        CUstream to = s[rand_r(&seed) % STREAMS];
        CUresult r;

        if (m->living && !m->auto_free)
            drop(m, on[i], (unsigned)dice);
        r = cuGraphLaunch(m->exec, to);
        if (r == CUDA_ERROR_OUT_OF_MEMORY) { /* all streams at once need more than there is */
            m->living = false;
            OK(cuCtxSynchronize());
            continue;
        }
        OK(r);
        on[i] = to;
        launches++;
        m->living = !m->frees;
        if (m->living)
            CHECK_IS(m->auto_free ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE,
                     m->auto_free ? CUDA_SUCCESS : cuGraphLaunch(m->exec, to));
        if (dice < 5)
            OK(cuDeviceGraphMemTrim(0));
        if (dice >= 95)
            OK(cuStreamSynchronize(to));
        CHECK_IS(memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), device_used());
        CHECK(memory(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT) <=
              memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT));
        if (dice == 50 || dice == 51) { /* destroyed and made again, while it may be running */
            if (dice == 50)
                drop(m, to, 0);
            OK(cuGraphDestroy(m->graph));
            OK(cuGraphExecDestroy(m->exec));
            OK(cuStreamSynchronize(to)); /* it is `m` that its host function looks at */
            CHECK_IS(0, m->bad);
            launches -= m->looks;
            drop(m, to, 1);
            make(m, m->stamp, m->frees, m->auto_free, &seed);
        }
    }
    OK(cuCtxSynchronize());
    for (int i = 0; i < GRAPHS; i++) {
        CHECK_IS(0, makers[i].bad);
        launches -= makers[i].looks;
        drop(&makers[i], on[i], 1);
        OK(cuGraphExecDestroy(makers[i].exec));
        OK(cuGraphDestroy(makers[i].graph));
    }
    CHECK_IS(0, launches);
    CHECK_IS(0, memory(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT));
    OK(cuDeviceGraphMemTrim(0));
    CHECK_IS(0, memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT));
    CHECK_IS(0, device_used());
}

static void *one_thread(void *arg)
{
    struct maker m;
    CUcontext ctx;
    CUstream s;
    CUdeviceptr p;
    unsigned seed = (unsigned)(uintptr_t)arg;

    OK(cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    for (int round = 0; round < 12; round++) {
        make(&m, seed * 100, round % 2 == 0, false, &seed);
        for (int i = 0; i < 3; i++) {
            CUresult r = cuGraphLaunch(m.exec, s);

            if (r == CUDA_ERROR_OUT_OF_MEMORY)
                continue;
            OK(r);
            OK(cuMemAllocAsync(&p, 1000, s));
            OK(cuMemFreeAsync(p, s));
            m.living = !m.frees;
            drop(&m, s, (unsigned)i);
        }
        OK(cuGraphExecDestroy(m.exec));
        OK(cuStreamSynchronize(s));
        OK(cuGraphDestroy(m.graph));
        OK(cuDeviceGraphMemTrim(0));
        CHECK_IS(0, m.bad);
    }
    OK(cuStreamDestroy_v2(s));
    return NULL;
}

static void eight_threads(void *arg)
{
    pthread_t threads[8];
    CUcontext ctx;

    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&ctx, 0));
    OK(cuCtxSetCurrent(ctx));
    for (uintptr_t i = 0; i < 8; i++)
        CHECK(pthread_create(&threads[i], NULL, one_thread, (void *)(i + 1)) == 0);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    OK(cuCtxSynchronize());
    OK(cuDeviceGraphMemTrim(0));
    CHECK_IS(0, memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT));
    CHECK_IS(0, device_used());
}

/* The context goes with graphs running, allocations living, captures under way. */
static void ends(void *arg)
{
    for (int round = 0; round < 6; round++) {
        struct maker m;
        unsigned seed = 5;
        CUcontext ctx = context();
        CUdeviceptr p;
        CUstream s;

        CHECK_IS(0, device_used());
        OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
        make(&m, 5, round % 2 == 0, round == 1, &seed);
        OK(cuGraphLaunch(m.exec, s));
        if (round == 2)
            OK(cuGraphExecDestroy(m.exec));
        if (round == 3)
            OK(cuMemFreeAsync(m.p[0], s));
        if (round >= 4) {
            OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
            OK(cuMemAllocAsync(&p, MIB, s));
            if (round == 5)
                OK(cuStreamDestroy_v2(s));
        }
        OK(cuCtxDestroy_v2(ctx));
        CHECK_IS(0, memory(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT));
        if (round != 2)
            OK(cuGraphExecDestroy(m.exec));
        OK(cuGraphDestroy(m.graph));
    }
}

int main(void)
{
    test_run("random launches", "tiny", "0", random_launches);
    test_run("eight threads", "tiny", "0", eight_threads);
    test_run("ends", "tiny", "0", ends);
    return 0;
}
