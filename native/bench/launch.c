/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-bench-launch: what a call costs with and without libharp, batch by batch in turn.
 *
 *     harp-bench-launch DRIVER LIBHARP [--rounds N] [--batch N] [--threads N] [--pause-us N]
 *                       [--call launch|graph|copy] [--kernel]
 *
 * Both libraries are in one process: LIBHARP ends in DRIVER (HARP_CUDA_REAL must name it), the bare
 * side calls DRIVER directly, so both sides meet the same caches, clocks and neighbours. --kernel
 * loads an empty kernel (a driver that executes); without it the calls name nothing (null driver).
 * --pause-us sleeps before each batch: a burst that comes out of idleness, as programs' do.
 * One JSON object on stdout: medians over rounds, in ns per call, the 10th and 90th percentile of
 * the difference, and of the time until the device had done the batch (`*_done_ns`, per call);
 * and the memory libharp shows, by which the caller knows that its limits are in force.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"

#define MOST_THREADS 64
#define MOST_ROUNDS  20001
#define COPY_BYTES   4096

typedef CUresult (*launch_fn)(CUfunction, unsigned int, unsigned int, unsigned int, unsigned int,
                              unsigned int, unsigned int, unsigned int, CUstream, void **, void **);

typedef CUresult (*graph_fn)(CUgraphExec, CUstream);
typedef CUresult (*copy_fn)(CUdeviceptr, const void *, size_t, CUstream);

enum call { CALL_LAUNCH, CALL_GRAPH, CALL_COPY, CALLS };
static const char *const call_names[] = {"launch", "graph", "copy"};
static const char *const call_symbols[] = {"cuLaunchKernel", "cuGraphLaunch",
                                           "cuMemcpyHtoDAsync_v2"};

static struct {
    void *driver, *harp;
    void *bare_call, *harp_call; /* of the type that `call` says */
    enum call call;
    CUgraphExec exec;
    CUdeviceptr there;
    void *here;
    size_t memory_bytes; /* as libharp shows it: the limit, if there is one in force */
    CUresult (*sync)(void);
    CUresult (*set_current)(CUcontext);
    CUcontext ctx;
    CUfunction function;
    int rounds, batch, threads, pause_us;
    bool kernel;
} b = {.rounds = 201, .batch = 1000, .threads = 1};

static pthread_barrier_t barrier;
struct round {
    double call_ns, done_ns;
};

/* [rounds] of each thread */
static struct round *bare_took[MOST_THREADS], *harp_took[MOST_THREADS];

static const char ptx[] = BENCH_PTX ".visible .entry nothing()\n{\nret;\n}\n";

#define DO(name, ...) BENCH_DO(b.harp, name, __VA_ARGS__)

static CUresult call_many(void *call)
{
    CUresult r = CUDA_SUCCESS;

    switch (b.call) {
    case CALL_GRAPH:
        for (int i = 0; i < b.batch && r == CUDA_SUCCESS; i++)
            r = ((graph_fn)call)(b.exec, NULL);
        break;
    case CALL_COPY:
        for (int i = 0; i < b.batch && r == CUDA_SUCCESS; i++)
            r = ((copy_fn)call)(b.there, b.here, COPY_BYTES, NULL);
        break;
    default:
        for (int i = 0; i < b.batch && r == CUDA_SUCCESS; i++)
            r = ((launch_fn)call)(b.function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
    }
    return r;
}

static struct round measure(void *call)
{
    struct timespec pause = {b.pause_us / 1000000, (long)(b.pause_us % 1000000) * 1000};
    uint64_t start, end;
    CUresult r;

    if (b.pause_us > 0)
        nanosleep(&pause, NULL);
    start = bench_now_ns();
    r = call_many(call);
    end = bench_now_ns();
    if (r != CUDA_SUCCESS)
        bench_fail(call_symbols[b.call], (int)r);
    if (b.kernel)
        b.sync();
    return (struct round){(double)(end - start) / b.batch,
                          (double)(bench_now_ns() - start) / b.batch};
}

static void together(void)
{
    if (b.threads > 1)
        pthread_barrier_wait(&barrier);
}

static void *run(void *arg)
{
    size_t me = (size_t)(uintptr_t)arg;
    b.set_current(b.ctx);
    measure(b.bare_call);
    measure(b.harp_call);
    for (int i = 0; i < b.rounds; i++) {
        together();
        if (i % 2 == 0)
            bare_took[me][i] = measure(b.bare_call);
        together();
        harp_took[me][i] = measure(b.harp_call);
        together();
        if (i % 2 != 0)
            bare_took[me][i] = measure(b.bare_call);
    }
    return NULL;
}

static void report(void)
{
    size_t n = (size_t)b.rounds * (size_t)b.threads, k = 0;
    double *values = calloc(5 * n, sizeof *values);
    double *bare = values, *harp = bare + n, *added = harp + n, *bare_done = added + n,
           *harp_done = bare_done + n;
    if (values == NULL)
        bench_fail("memory", -1);
    for (int t = 0; t < b.threads; t++)
        for (int i = 0; i < b.rounds; i++, k++) {
            bare[k] = bare_took[t][i].call_ns;
            harp[k] = harp_took[t][i].call_ns;
            added[k] = harp[k] - bare[k];
            bare_done[k] = bare_took[t][i].done_ns;
            harp_done[k] = harp_took[t][i].done_ns;
        }
    printf("{\"bare_ns\": %.2f, \"harp_ns\": %.2f, ", bench_at(bare, n, 0.5),
           bench_at(harp, n, 0.5));
    printf("\"added_ns\": %.2f, \"added_p10_ns\": %.2f, \"added_p90_ns\": %.2f, ",
           bench_at(added, n, 0.5), bench_at(added, n, 0.1), bench_at(added, n, 0.9));
    printf("\"bare_done_ns\": %.2f, \"harp_done_ns\": %.2f, ", bench_at(bare_done, n, 0.5),
           bench_at(harp_done, n, 0.5));
    printf("\"memory_bytes\": %zu, ", b.memory_bytes);
    printf("\"call\": \"%s\", \"rounds\": %d, \"batch\": %d, \"threads\": %d}\n",
           call_names[b.call], b.rounds, b.batch, b.threads);
    free(values);
}

static enum call call_of(const char *name)
{
    for (int i = 0; i < CALLS; i++)
        if (strcmp(name, call_names[i]) == 0)
            return (enum call)i;
    bench_fail(name, 2);
}

/* What the calls are of. Without a device that executes any words will do. */
static void prepare(void)
{
    CUDA_KERNEL_NODE_PARAMS node = {.gridDimX = 1,
                                    .gridDimY = 1,
                                    .gridDimZ = 1,
                                    .blockDimX = 1,
                                    .blockDimY = 1,
                                    .blockDimZ = 1};
    CUgraphNode made;
    CUmodule module;
    CUgraph graph;

    b.here = calloc(1, COPY_BYTES);
    if (b.here == NULL)
        bench_fail("memory", -1);
    if (!b.kernel) {
        b.exec = (CUgraphExec)&b;
        b.function = (CUfunction)&b; /* none at all would be no launch that a program makes */
        return;
    }
    DO(cuModuleLoadData, &module, ptx);
    DO(cuModuleGetFunction, &b.function, module, "nothing");
    node.func = b.function;
    if (b.call == CALL_GRAPH) {
        DO(cuGraphCreate, &graph, 0);
        DO(cuGraphAddKernelNode_v2, &made, graph, NULL, 0, &node);
        DO(cuGraphInstantiateWithFlags, &b.exec, graph, 0);
    }
    if (b.call == CALL_COPY)
        DO(cuMemAlloc_v2, &b.there, COPY_BYTES);
}

int main(int argc, char **argv)
{
    size_t unused;

    if (argc < 3) {
        fputs("usage: harp-bench-launch DRIVER LIBHARP [--rounds N] [--batch N] [--threads N]"
              " [--pause-us N] [--call launch|graph|copy] [--kernel]\n",
              stderr);
        return 2;
    }
    for (int i = 3; i < argc; i++) {
        int value = i + 1 < argc ? atoi(argv[i + 1]) : 0;
        if (strcmp(argv[i], "--kernel") == 0)
            b.kernel = true;
        else if (strcmp(argv[i], "--rounds") == 0 && value > 0 && value <= MOST_ROUNDS && ++i)
            b.rounds = value;
        else if (strcmp(argv[i], "--batch") == 0 && value > 0 && ++i)
            b.batch = value;
        else if (strcmp(argv[i], "--threads") == 0 && value > 0 && value <= MOST_THREADS && ++i)
            b.threads = value;
        else if (strcmp(argv[i], "--pause-us") == 0 && value > 0 && ++i)
            b.pause_us = value;
        else if (strcmp(argv[i], "--call") == 0 && i + 1 < argc)
            b.call = call_of(argv[++i]);
        else
            bench_fail(argv[i], 2);
    }
    b.driver = bench_open(argv[1]);
    b.harp = bench_open(argv[2]);
    b.bare_call = bench_symbol(b.driver, call_symbols[b.call]);
    b.harp_call = bench_symbol(b.harp, call_symbols[b.call]);
    b.sync = (CUresult (*)(void))bench_symbol(b.driver, "cuCtxSynchronize");
    b.set_current = (CUresult (*)(CUcontext))bench_symbol(b.driver, "cuCtxSetCurrent");
    DO(cuInit, 0);
    DO(cuCtxCreate_v2, &b.ctx, 0, 0);
    DO(cuMemGetInfo_v2, &unused, &b.memory_bytes);
    prepare();
    for (int i = 0; i < b.threads; i++) {
        bare_took[i] = calloc((size_t)b.rounds, sizeof *bare_took[i]);
        harp_took[i] = calloc((size_t)b.rounds, sizeof *harp_took[i]);
        if (bare_took[i] == NULL || harp_took[i] == NULL)
            bench_fail("memory", -1);
    }
    pthread_t threads[MOST_THREADS];
    if (b.threads == 1) {
        run(NULL);
    } else {
        pthread_barrier_init(&barrier, NULL, (unsigned)b.threads);
        for (int t = 0; t < b.threads; t++)
            pthread_create(&threads[t], NULL, run, (void *)(uintptr_t)t);
        for (int t = 0; t < b.threads; t++)
            pthread_join(threads[t], NULL);
    }
    report();
    return 0;
}
