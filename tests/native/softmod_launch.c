/* SPDX-License-Identifier: Apache-2.0
 *
 * Launches under the sanitizers, with more workers than cores: counts are whole, faults stop all,
 * modules may go while their kernels run.
 */
#include "soft_test.h"

#include <pthread.h>

#include "soft/gpu/function_counters.h"
#include "soft/gpu/launch.h"

static const char ptx[] =
    ".version 8.0\n.target sm_75\n.address_size 64\n"
    ".visible .global .align 4 .u32 counter = 7;\n"
    ".visible .entry bump()\n{\n.reg .b32 %r0;\n.reg .b64 %d0;\nmov.u64 %d0, counter;\n"
    "atom.global.add.u32 %r0, [%d0], 1;\nret;\n}\n"
    ".visible .entry nap()\n{\nnanosleep.u32 1000000;\nret;\n}\n"
    ".visible .entry wild(.param .u64 p)\n{\n.reg .b64 %d0;\nld.param.u64 %d0, [p];\n"
    "st.global.u32 [%d0], 1;\nret;\n}\n";

static CUfunction bump, nap, wild;
static CUmodule module;

static void begin(void)
{
    CUcontext ctx;
    setenv("HARP_SOFT_WORKERS", "6", 1);
    OK(cuInit(0));
    OK(cuCtxCreate_v2(&ctx, 0, 0));
    OK(cuModuleLoadData(&module, ptx));
    OK(cuModuleGetFunction(&bump, module, "bump"));
    OK(cuModuleGetFunction(&nap, module, "nap"));
    OK(cuModuleGetFunction(&wild, module, "wild"));
}

static uint32_t counter(void)
{
    CUdeviceptr ptr;
    size_t bytes;
    uint32_t value;
    OK(cuModuleGetGlobal_v2(&ptr, &bytes, module, "counter"));
    OK(cuMemcpyDtoH_v2(&value, ptr, sizeof value));
    return value;
}

static CUresult start(CUfunction function, unsigned blocks, unsigned threads, void **params)
{
    return cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, NULL, params, NULL);
}

static void every_block_runs_once(void *arg)
{
    begin();
    uint32_t expected = 7;
    static const unsigned blocks[] = {1, 2, 5, 6, 7, 64, 1000};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        OK(start(bump, blocks[i], 33, NULL));
        expected += blocks[i] * 33;
        CHECK_IS(expected, counter());
    }
    struct harp_soft_counter rows[8];
    size_t count = harp_soft_counters(rows, 8);
    for (size_t i = 0; i < count && i < 8; i++)
        if (strcmp(rows[i].name, "bump") == 0)
            CHECK_IS(expected - 7, rows[i].threads);
    CHECK(count >= 3);
}

static void *many(void *arg)
{
    CUstream stream;
    OK(cuCtxSetCurrent(arg));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 60; i++)
        OK(cuLaunchKernel(bump, 7, 1, 1, 3, 1, 1, 0, stream, NULL, NULL));
    OK(cuStreamSynchronize(stream));
    OK(cuStreamDestroy_v2(stream));
    return NULL;
}

static void threads_and_streams_lose_nothing(void *arg)
{
    begin();
    CUcontext ctx;
    pthread_t threads[6];
    OK(cuCtxGetCurrent(&ctx));
    for (int i = 0; i < 6; i++)
        CHECK(pthread_create(&threads[i], NULL, many, ctx) == 0);
    for (int i = 0; i < 6; i++)
        pthread_join(threads[i], NULL);
    CHECK_IS(7 + 6 * 60 * 21, counter());
}

static void one_fault_stops_the_grid_and_the_context(void *arg)
{
    begin();
    uint64_t nowhere = 0x1000;
    void *params[] = {&nowhere};
    OK(start(wild, 100, 4, params));
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
    CHECK_IS(CUDA_ERROR_ILLEGAL_ADDRESS, start(bump, 1, 1, NULL));
}

static void modules_may_go_while_kernels_run(void *arg)
{
    begin();
    for (int round = 0; round < 10; round++) {
        CUmodule other;
        CUfunction function;
        OK(cuModuleLoadData(&other, ptx));
        OK(cuModuleGetFunction(&function, other, round % 2 ? "nap" : "bump"));
        OK(start(nap, 2, 1, NULL));
        OK(start(function, 4, 4, NULL));
        OK(cuModuleUnload(other));
        CHECK_IS(CUDA_ERROR_INVALID_HANDLE, start(function, 1, 1, NULL));
    }
    OK(cuCtxSynchronize());
    OK(start(nap, 2, 1, NULL));
    OK(cuModuleUnload(module));
}

static void contexts_take_their_modules_along(void *arg)
{
    begin();
    for (int round = 0; round < 5; round++) {
        CUcontext ctx;
        CUmodule other;
        CUlibrary library;
        CUkernel kernel;
        OK(cuCtxCreate_v2(&ctx, 0, 0));
        OK(cuModuleLoadData(&other, ptx));
        OK(cuLibraryLoadData(&library, ptx, NULL, NULL, 0, NULL, NULL, 0));
        OK(cuLibraryGetKernel(&kernel, library, "nap"));
        OK(start((CUfunction)kernel, 3, 1, NULL));
        OK(cuCtxDestroy_v2(ctx));
        CHECK_IS(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload(other));
        if (round % 2)
            OK(cuLibraryUnload(library));
    }
    OK(start(bump, 1, 1, NULL));
    CHECK_IS(8, counter());
}

static _Atomic int present, most;

/* Waits until all have come: only possible if they really run at once. */
static void meet(void *arg)
{
    int here = ++present, all = *(int *)arg;
    if (here == all)
        most = all;
    while (most < all)
        sleep_ns(100000);
}

static void crowds_run_together(void *arg)
{
    int all = 40;
    CHECK_IS(0, soft_pool_run_all((unsigned)all, meet, &all));
    CHECK_IS(all, present);
}

int main(void)
{
    test_run("every_block_runs_once", "tiny", "0", every_block_runs_once);
    test_run("threads_and_streams_lose_nothing", "tiny", "0", threads_and_streams_lose_nothing);
    test_run("one_fault_stops_the_grid_and_the_context", "tiny", "0",
             one_fault_stops_the_grid_and_the_context);
    test_run("modules_may_go_while_kernels_run", "tiny", "0", modules_may_go_while_kernels_run);
    test_run("contexts_take_their_modules_along", "tiny", "0", contexts_take_their_modules_along);
    test_run("crowds_run_together", "tiny", "0", crowds_run_together);
    return 0;
}
