/* SPDX-License-Identifier: Apache-2.0
 *
 * Keeps a device busy through the driver API: `shim_busy MODE KERNEL_US SECONDS [DEVICE]`. Prints
 * the work that ended in the measured window, in microseconds, and that window. Over the fake
 * driver a kernel lasts gridDim.x microseconds; over others it is a nanosleep kernel. Modes:
 *  - deep: launches far ahead, waits every 64 launches
 *  - sync: waits after each launch
 *  - graph: launches a graph of eight kernels at a time
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "driver_calls.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static const char ptx[] = ".version 7.8\n.target sm_80\n.address_size 64\n"
                          ".visible .entry sleeper(.param .u32 n)\n{\n"
                          ".reg .pred %p;\n.reg .b32 %r;\n"
                          "ld.param.u32 %r, [n];\n"
                          "AGAIN:\nnanosleep.u32 50000;\nsub.u32 %r, %r, 1;\n"
                          "setp.ne.u32 %p, %r, 0;\n@%p bra AGAIN;\nret;\n}\n";

static CUfunction function;
static unsigned grid, loops;

static void launch(CUstream stream)
{
    void *params[] = {&loops};
    DO(cuLaunchKernel, function, grid, 1, 1, 1, 1, 1, 0, stream, params, NULL);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    unsigned us = (unsigned)atoi(argv[2]);
    double seconds = atof(argv[3]);
    bool graph = strcmp(argv[1], "graph") == 0, sync = strcmp(argv[1], "sync") == 0;
    CUcontext ctx;
    CUstream stream;
    CUgraph g;
    CUgraphExec exec = NULL;
    lib = dlopen("libcuda.so.1", RTLD_NOW);
    if (lib == NULL)
        return 3;
    DO(cuInit, 0);
    DO(cuCtxCreate_v2, &ctx, 0, argc > 4 ? atoi(argv[4]) : 0);
    DO(cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING);
    grid = us;
    if (getenv("FAKE_DRIVER") == NULL) {
        CUmodule module;
        DO(cuModuleLoadData, &module, ptx);
        DO(cuModuleGetFunction, &function, module, "sleeper");
        grid = 1;
        loops = us / 50 > 0 ? us / 50 : 1;
    }
    launch(stream);
    DO(cuCtxSynchronize);
    if (graph) {
        DO(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        for (int i = 0; i < 8; i++)
            launch(stream);
        DO(cuStreamEndCapture, stream, &g);
        DO(cuGraphInstantiateWithFlags, &exec, g, 0);
    }
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    if (getchar() == EOF)
        return 0;
    double start = now(), end = start + seconds;
    unsigned long done = 0;
    while (now() < end) {
        if (graph) {
            for (int i = 0; i < 4; i++)
                DO(cuGraphLaunch, exec, stream);
            done += 32;
        } else if (sync) {
            launch(stream);
            done++;
        } else {
            for (int i = 0; i < 64; i++)
                launch(stream);
            done += 64;
        }
        DO(cuCtxSynchronize);
    }
    printf("%.0f %.0f\n", (double)done * us, (now() - start) * 1e6);
    DO(cuCtxDestroy_v2, ctx);
    return 0;
}
