/* SPDX-License-Identifier: Apache-2.0
 *
 * What a gate must survive: `hazard MODE ROUNDS`. Prints "ok N" when all that was computed is
 * right; waits for a line before it begins. Any error of the driver ends it with 1, its code on
 * stderr. Modes:
 *  - spin: a kernel waits for a flag that a later kernel on another stream sets
 *  - barrier: kernels on two devices wait for each other
 *  - capture: captures in global mode beside launches, replays the graphs, and counts
 *  - late: the same, with time for our service thread to be at work on the stream
 *  - asked: captures on a stream with frees in its order, which are settled at another thread's
 * waits
 *  - held: its last launches wait at the gate in threads while main() returns 7
 *  - until: launches and waits until the driver refuses; prints the code
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "driver_calls.h"

static const char ptx[] =
    ".version 7.8\n.target sm_80\n.address_size 64\n"
    /* *mine = n, then wait for *other >= n (other 0: for nobody) */
    ".visible .entry meet(.param .u64 mine, .param .u64 other, .param .u32 n)\n{\n"
    ".reg .pred %p;\n.reg .b32 %r<3>;\n.reg .b64 %d<3>;\n"
    "ld.param.u64 %d1, [mine];\nld.param.u64 %d2, [other];\nld.param.u32 %r1, [n];\n"
    "setp.eq.u64 %p, %d1, 0;\n@%p bra WAIT;\n"
    "st.volatile.global.u32 [%d1], %r1;\n"
    "WAIT:\nsetp.eq.u64 %p, %d2, 0;\n@%p bra END;\n"
    "AGAIN:\nld.volatile.global.u32 %r2, [%d2];\n"
    "setp.lt.u32 %p, %r2, %r1;\n@%p bra AGAIN;\n"
    "END:\nret;\n}\n"
    /* *at += 1 */
    ".visible .entry count(.param .u64 at)\n{\n"
    ".reg .b32 %r;\n.reg .b64 %d;\n"
    "ld.param.u64 %d, [at];\nld.global.u32 %r, [%d];\nadd.u32 %r, %r, 1;\n"
    "st.global.u32 [%d], %r;\nret;\n}\n";

struct device {
    CUcontext ctx;
    CUmodule module;
    CUfunction meet, count;
    CUstream stream[2];
};

static struct device dev[2];
static int rounds;

static void ready(int devices)
{
    lib = dlopen("libcuda.so.1", RTLD_NOW);
    if (lib == NULL)
        _exit(3);
    DO(cuInit, 0);
    for (int i = 0; i < devices; i++) {
        struct device *d = &dev[i];
        DO(cuCtxCreate_v2, &d->ctx, 0, i);
        DO(cuModuleLoadData, &d->module, ptx);
        DO(cuModuleGetFunction, &d->meet, d->module, "meet");
        DO(cuModuleGetFunction, &d->count, d->module, "count");
        for (int s = 0; s < 2; s++)
            DO(cuStreamCreate, &d->stream[s], CU_STREAM_NON_BLOCKING);
    }
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    if (getchar() == EOF)
        _exit(2);
}

static void meet(struct device *d, int stream, CUdeviceptr mine, CUdeviceptr other, unsigned n)
{
    void *params[] = {&mine, &other, &n};
    DO(cuCtxSetCurrent, d->ctx);
    DO(cuLaunchKernel, d->meet, 1, 1, 1, 1, 1, 1, 0, d->stream[stream], params, NULL);
}

static void pause_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static int spin(void)
{
    CUdeviceptr flag;
    ready(1);
    DO(cuMemAlloc_v2, &flag, 4);
    DO(cuMemsetD32_v2, flag, 0, 1);
    DO(cuCtxSynchronize);
    for (unsigned i = 1; i <= (unsigned)rounds; i++) {
        meet(&dev[0], 0, 0, flag, i);
        pause_ms(i % 4 * 7); /* its turn is over by then, or not */
        meet(&dev[0], 1, flag, 0, i);
        DO(cuCtxSynchronize);
    }
    printf("ok %d\n", rounds);
    return 0;
}

static int barrier(void)
{
    unsigned *host = NULL;
    CUdeviceptr flags[2];
    ready(2);
    DO(cuMemHostAlloc, (void **)&host, 4096, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
    memset(host, 0, 4096);
    for (int d = 0; d < 2; d++) {
        DO(cuCtxSetCurrent, dev[d].ctx);
        DO(cuMemHostGetDevicePointer_v2, &flags[d], host, 0);
    }
    for (unsigned i = 1; i <= (unsigned)rounds; i++) {
        for (int k = 0; k < 2; k++) {
            int d = (int)(i + (unsigned)k) % 2;
            meet(&dev[d], 0, flags[d] + (CUdeviceptr)d * 1024,
                 flags[d] + (CUdeviceptr)(1 - d) * 1024, i);
        }
        for (int d = 0; d < 2; d++) {
            DO(cuCtxSetCurrent, dev[d].ctx);
            DO(cuCtxSynchronize);
        }
        if (host[0] != i || host[256] != i)
            _exit(4);
    }
    printf("ok %d\n", rounds);
    return 0;
}

static void count(CUstream stream, CUdeviceptr at)
{
    void *params[] = {&at};
    DO(cuLaunchKernel, dev[0].count, 1, 1, 1, 1, 1, 1, 0, stream, params, NULL);
}

static int capture_with(int before_us, long inside_ms)
{
    CUdeviceptr at;
    unsigned seen = 0, want = 0;
    ready(1);
    DO(cuMemAlloc_v2, &at, 4);
    DO(cuMemsetD32_v2, at, 0, 1);
    DO(cuCtxSynchronize);
    for (int i = 0; i < rounds; i++) {
        CUgraph graph;
        CUgraphExec exec;
        size_t nodes = 0;
        count(dev[0].stream[0], at); /* a bracket is open when the capture begins */
        usleep((useconds_t)before_us);
        DO(cuStreamBeginCapture_v2, dev[0].stream[0], CU_STREAM_CAPTURE_MODE_GLOBAL);
        for (int k = 0; k < 10; k++)
            count(dev[0].stream[0], at);
        pause_ms(inside_ms); /* the service thread would end that bracket now */
        DO(cuStreamEndCapture, dev[0].stream[0], &graph);
        DO(cuGraphGetNodes, graph, NULL, &nodes);
        if (nodes != 10) /* what we did not launch is ours nowhere */
            _exit(5);
        DO(cuGraphInstantiateWithFlags, &exec, graph, 0);
        for (int k = 0; k < 5; k++)
            DO(cuGraphLaunch, exec, dev[0].stream[0]);
        DO(cuStreamSynchronize, dev[0].stream[0]);
        DO(cuGraphExecDestroy, exec);
        DO(cuGraphDestroy, graph);
        want += 1 + 5 * 10;
    }
    DO(cuMemcpyDtoH_v2, &seen, at, 4);
    if (seen != want)
        _exit(4);
    printf("ok %d\n", rounds);
    return 0;
}

static int capture(void)
{
    return capture_with(0, 3);
}

static int late(void)
{
    return capture_with(400, 20);
}

static void *wait_on(void *arg)
{
    CALL(cuCtxSetCurrent, dev[0].ctx);
    for (;;)
        if (CALL(cuStreamSynchronize, dev[0].stream[1]) != CUDA_SUCCESS)
            return arg;
}

static int asked(void)
{
    pthread_t thread;
    CUdeviceptr at, part;
    ready(1);
    DO(cuMemAlloc_v2, &at, 4);
    DO(cuMemsetD32_v2, at, 0, 1);
    pthread_create(&thread, NULL, wait_on, NULL);
    for (int i = 0; i < rounds; i++) {
        CUgraph graph;
        DO(cuMemAllocAsync, &part, 1 << 20, dev[0].stream[0]);
        DO(cuMemFreeAsync, part, dev[0].stream[0]);
        usleep((useconds_t)(i % 8 * 100));
        DO(cuStreamBeginCapture_v2, dev[0].stream[0], CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        count(dev[0].stream[0], at);
        pause_ms(3);
        DO(cuStreamEndCapture, dev[0].stream[0], &graph);
        DO(cuGraphDestroy, graph);
    }
    printf("ok %d\n", rounds);
    fflush(stdout);
    _exit(0);
}

static void *launch_on(void *arg)
{
    CALL(cuCtxSetCurrent, dev[0].ctx);
    for (;;) { /* whatever it answers once the driver has gone */
        unsigned n = 0;
        CUdeviceptr none = 0;
        void *params[] = {&none, &none, &n};
        if (CALL(cuLaunchKernel, dev[0].meet, 1, 1, 1, 1, 1, 1, 0, dev[0].stream[(long)arg], params,
                 NULL) != CUDA_SUCCESS)
            return NULL;
    }
}

static int held(void)
{
    pthread_t thread[8];
    ready(1);
    for (long i = 0; i < 8; i++)
        pthread_create(&thread[i], NULL, launch_on, (void *)(i % 2));
    pause_ms(300);
    puts("ok 0");
    return 7;
}

static int until(void)
{
    CUresult r = CUDA_SUCCESS;
    ready(1);
    while (r == CUDA_SUCCESS) {
        unsigned n = 0;
        CUdeviceptr none = 0;
        void *params[] = {&none, &none, &n};
        for (int i = 0; i < 8 && r == CUDA_SUCCESS; i++)
            r = CALL(cuLaunchKernel, dev[0].meet, 1, 1, 1, 1, 1, 1, 0, dev[0].stream[i % 2], params,
                     NULL);
        if (r == CUDA_SUCCESS)
            r = CALL(cuCtxSynchronize);
    }
    printf("ok %d\n", (int)r);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(void);
    } modes[] = {{"spin", spin},   {"barrier", barrier}, {"capture", capture}, {"late", late},
                 {"asked", asked}, {"held", held},       {"until", until}};
    if (argc < 3)
        return 2;
    rounds = atoi(argv[2]);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(argv[1], modes[i].name) == 0)
            return modes[i].run();
    return 2;
}
