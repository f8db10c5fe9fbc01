/* SPDX-License-Identifier: Apache-2.0
 *
 * The work of harp-bench-busy, through the plain driver API of whatever libcuda.so.1 the loader
 * finds. See busy.c.
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/busy.h"

/* Queued work: so much behind one event, and so many events. Enough for a program that is not on a
 * CPU for some ms, and little enough for the software GPU's queue of 1024. */
#define BATCH_US   1000u
#define MOST_BATCH 64u
#define MOST_DEPTH 10
#define LONG_US    10000u /* kernels from here on: three are enough */
#define LONG_DEPTH 3

#define CALIBRATION_US     10000u
#define CALIBRATION_ROUNDS 7
#define LEAST_SLEEP_NS     50000u

static const char ptx[] = BENCH_PTX BENCH_SLEEPER;

static void *driver;
static CUfunction sleeper;
static CUstream stream;
static CUgraphExec exec;
static CUdeviceptr there;
static void *here;
static unsigned loops, each_ns;
static uint64_t iterations, reported_ns, deadline_ns;

#define DO(name, ...) BENCH_DO(driver, name, __VA_ARGS__)

static void launch_kernel(void)
{
    void *parameters[] = {&loops, &each_ns};

    DO(cuLaunchKernel, sleeper, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL);
}

static void make_graph(void)
{
    void *parameters[] = {&loops, &each_ns};
    CUDA_KERNEL_NODE_PARAMS node = {.func = sleeper,
                                    .gridDimX = 1,
                                    .gridDimY = 1,
                                    .gridDimZ = 1,
                                    .blockDimX = 1,
                                    .blockDimY = 1,
                                    .blockDimZ = 1,
                                    .kernelParams = parameters};
    CUgraphNode last = NULL, next;
    CUgraph graph;

    DO(cuGraphCreate, &graph, 0);
    for (int i = 0; i < busy.graph_nodes; i++, last = next)
        DO(cuGraphAddKernelNode_v2, &next, graph, last == NULL ? NULL : &last, last == NULL ? 0 : 1,
           &node);
    DO(cuGraphInstantiateWithFlags, &exec, graph, 0);
}

/* One command, and the iterations in it. */
static unsigned submit(void)
{
    switch (busy.mode) {
    case BUSY_GRAPH:
        DO(cuGraphLaunch, exec, stream);
        return (unsigned)busy.graph_nodes;
    case BUSY_COPY:
        DO(cuMemcpyHtoDAsync_v2, there, here, busy.copy_bytes, stream);
        return 1;
    default:
        launch_kernel();
        return 1;
    }
}

static bool go_on(void)
{
    return deadline_ns == 0 || bench_now_ns() < deadline_ns;
}

/* Whoever started this holds the other end of stdin for as long as it lives. */
static bool is_left_alone(void)
{
    struct pollfd p = {.fd = STDIN_FILENO};

    return busy.go && poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0;
}

static void count(uint64_t ended)
{
    uint64_t now = bench_now_ns();

    iterations += ended;
    if (now - reported_ns < (uint64_t)(unsigned)busy.report_ms * 1000000)
        return;
    reported_ns = now;
    if (is_left_alone())
        _exit(1);
    busy_say("{\"pid\": %d, \"t_ns\": %llu, \"iterations\": %llu}\n", (int)getpid(),
             (unsigned long long)now, (unsigned long long)iterations);
}

static void saturate(void)
{
    unsigned command_us =
        busy.kernel_us * (busy.mode == BUSY_GRAPH ? (unsigned)busy.graph_nodes : 1);
    unsigned batch = busy.mode == BUSY_COPY ? 4 : BATCH_US / command_us;
    int depth = busy.mode != BUSY_COPY && command_us >= LONG_US ? LONG_DEPTH : MOST_DEPTH;
    CUevent event[MOST_DEPTH];
    unsigned behind[MOST_DEPTH];

    batch = batch < 1 ? 1 : batch > MOST_BATCH ? MOST_BATCH : batch;
    for (int i = 0; i < depth; i++)
        DO(cuEventCreate, &event[i], CU_EVENT_DISABLE_TIMING);
    for (uint64_t turn = 0; go_on(); turn++) {
        int at = (int)(turn % (unsigned)depth);

        if (turn >= (unsigned)depth) {
            DO(cuEventSynchronize, event[at]);
            count(behind[at]);
        }
        behind[at] = 0;
        for (unsigned i = 0; i < batch; i++)
            behind[at] += submit();
        DO(cuEventRecord, event[at], stream);
    }
    DO(cuStreamSynchronize, stream);
}

static void one_by_one(void)
{
    while (go_on()) {
        launch_kernel();
        DO(cuStreamSynchronize, stream);
        count(1);
    }
}

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators", 2016. */
static double uniform(void)
{
    static uint64_t state;

    if (state == 0)
        state = busy.seed * 0x9e3779b97f4a7c15ull + 1;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return ((double)(state * 0x2545f4914f6cdd1dull >> 11) + 0.5) / 9007199254740992.0;
}

/* Requests come when they come: one that finds the last still at work waits, and its wait counts.
 */
static void requests(void)
{
    double next_ns = (double)bench_now_ns(), mean_ns = 1e9 / busy.rate;

    for (long n = 0; (busy.requests == 0 || n < busy.requests) && go_on(); n++) {
        uint64_t arrived, begun;
        struct timespec t;

        next_ns += busy.poisson ? -log(uniform()) * mean_ns : mean_ns;
        arrived = (uint64_t)next_ns;
        t = (struct timespec){(time_t)(arrived / 1000000000ull), (long)(arrived % 1000000000ull)};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
        }
        begun = bench_now_ns();
        for (int i = 0; i < busy.request_kernels; i++)
            launch_kernel();
        DO(cuStreamSynchronize, stream);
        busy_say("{\"pid\": %d, \"request\": %ld, \"arrived_ns\": %llu, \"begun_ns\": %llu, "
                 "\"ended_ns\": %llu}\n",
                 (int)getpid(), n, (unsigned long long)arrived, (unsigned long long)begun,
                 (unsigned long long)bench_now_ns());
        count((uint64_t)busy.request_kernels);
    }
}

/* The least of some rounds: a host that is busy with other things only ever adds. */
static void calibrate(void)
{
    unsigned command_us =
        busy.kernel_us * (busy.mode == BUSY_GRAPH ? (unsigned)busy.graph_nodes : 1);
    unsigned commands = CALIBRATION_US / command_us, ended = 0;
    CUevent from, to;
    float ms, least_ms = INFINITY;

    commands = commands < 2 ? 2 : commands > 500 ? 500 : commands;
    DO(cuEventCreate, &from, 0);
    DO(cuEventCreate, &to, 0);
    submit(); /* whatever happens at the first launch */
    DO(cuStreamSynchronize, stream);
    for (int round = 0; round < CALIBRATION_ROUNDS; round++) {
        DO(cuEventRecord, from, stream);
        ended = 0;
        for (unsigned i = 0; i < commands; i++)
            ended += submit();
        DO(cuEventRecord, to, stream);
        DO(cuStreamSynchronize, stream);
        DO(cuEventElapsedTime, &ms, from, to);
        least_ms = ms < least_ms ? ms : least_ms;
    }
    busy_say("{\"pid\": %d, \"kernel_ns\": %.1f, \"kernels\": %u}\n", (int)getpid(),
             (double)least_ms * 1e6 / ended, ended);
}

static void start(void)
{
    CUdevice device;
    CUcontext context;
    CUmodule module;

    driver = bench_open("libcuda.so.1");
    loops = busy.kernel_us * 1000 / LEAST_SLEEP_NS;
    loops = loops < 1 ? 1 : loops;
    each_ns = busy.kernel_us * 1000 / loops;
    DO(cuInit, 0);
    DO(cuDeviceGet, &device, 0);
    DO(cuCtxCreate_v2, &context, 0, device);
    DO(cuModuleLoadData, &module, ptx);
    DO(cuModuleGetFunction, &sleeper, module, "sleeper");
    DO(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
    if (busy.mode == BUSY_GRAPH)
        make_graph();
    if (busy.mode == BUSY_COPY) {
        DO(cuMemAlloc_v2, &there, busy.copy_bytes);
        DO(cuMemHostAlloc, &here, busy.copy_bytes, 0);
    }
    submit();
    DO(cuStreamSynchronize, stream);
}

int busy_work(void)
{
    char byte;

    start();
    if (busy.calibrate) {
        calibrate();
        return 0;
    }
    busy_say("{\"pid\": %d, \"ready\": true, \"kernel_us\": %u, \"mode\": \"%s\"}\n", (int)getpid(),
             busy.kernel_us, busy_mode_name());
    if (busy.go && read(STDIN_FILENO, &byte, 1) != 1)
        return 1; /* who started this is gone */
    if (busy.seconds > 0)
        deadline_ns = bench_now_ns() + (uint64_t)(unsigned)busy.seconds * 1000000000;
    if (busy.mode == BUSY_REQUESTS)
        requests();
    else if (busy.mode == BUSY_SYNC)
        one_by_one();
    else
        saturate();
    return 0;
}
