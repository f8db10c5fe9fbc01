/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program feels of a GPU elsewhere, call by call: libharp by dlopen, as any program has it.
 *
 *   harp-bench-remote rtt N            N times cuCtxSynchronize, which is asked of the worker each
 *                                      time and gives the device nothing to do
 *   harp-bench-remote async N          N times 1000 launches and one cuCtxSynchronize
 *   harp-bench-remote bulk MIB N       N copies to the device from pageable memory
 *   harp-bench-remote module BYTES     load a module of that size
 *   harp-bench-remote hold MIB         allocate, say so, wait to be killed
 *   harp-bench-remote step N           N steps as of a small training (remote_step.c)
 *
 * One line of JSON: how long each round took, what it was (for whoever counts at the other end),
 * and how often a call has waited (`trips`; -1: the GPU is not elsewhere).
 */
#include "bench/remote.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/counting.h"
#include "src/shim/entry/api.h"

/* What an allocation, a first launch, a first wake of every process on the way cost is not of the
 * call. */
#define WARM_UP     200u
#define LAUNCHES    1000u
#define MIB         ((size_t)1 << 20)
#define BENCH_EMPTY ".visible .entry empty(.param .u64 at, .param .u32 n)\n{\nret;\n}\n"

static const struct harp_shim_api *api;
static void *lib;

void *remote_lib(void)
{
    return lib;
}

int64_t remote_trips(void)
{
    return api != NULL && api->remote_trips != NULL ? (int64_t)api->remote_trips() : -1;
}

void remote_open(void)
{
    CUcontext ctx;
    lib = bench_open("libcuda.so.1");
    const struct harp_shim_api *(*get)(void) =
        (const struct harp_shim_api *(*)(void))dlsym(lib, "harp_shim_v1");
    api = get != NULL ? get() : NULL;
    BENCH_DO(lib, cuInit, 0);
    BENCH_DO(lib, cuCtxCreate_v2, &ctx, 0, 0);
}

static uint64_t *times(size_t n)
{
    uint64_t *took = calloc(n, sizeof *took);
    if (took == NULL)
        bench_fail("memory for times", -1);
    return took;
}

void remote_say(const char *mode, const uint64_t *ns, size_t n, const struct remote_done *done)
{
    printf("{\"mode\": \"%s\", \"trips\": %" PRId64 ", \"syncs\": %" PRIu64
           ", \"launches\": %" PRIu64 ", \"copied_bytes\": %" PRIu64 ", \"sum\": %" PRIu64
           ", \"ns\": [",
           mode, done->trips, done->syncs, done->launches, done->copied_bytes, done->sum);
    for (size_t i = 0; i < n; i++)
        printf("%s%" PRIu64, i ? ", " : "", ns[i]);
    puts("]}");
    fflush(stdout);
}

static int rtt(size_t n)
{
    uint64_t *took = times(n);
    CUresult (*synchronize)(void) = BENCH_CALL(lib, cuCtxSynchronize);
    for (size_t i = 0; i < WARM_UP; i++)
        BENCH_DO(lib, cuCtxSynchronize);
    int64_t before = remote_trips();
    for (size_t i = 0; i < n; i++) {
        uint64_t from_ns = bench_now_ns();
        CUresult r = synchronize();
        took[i] = bench_now_ns() - from_ns;
        if (r != CUDA_SUCCESS)
            bench_fail("cuCtxSynchronize", (int)r);
    }
    remote_say("rtt", took, n,
               &(struct remote_done){.trips = remote_trips() - before, .syncs = WARM_UP + n});
    return 0;
}

static int async(size_t n)
{
    uint64_t *took = times(n);
    CUmodule module;
    CUfunction f;
    CUdeviceptr at;
    uint32_t count = 1;
    BENCH_DO(lib, cuMemAlloc_v2, &at, MIB);
    BENCH_DO(lib, cuModuleLoadData, &module, BENCH_PTX BENCH_EMPTY);
    BENCH_DO(lib, cuModuleGetFunction, &f, module, "empty");
    void *args[] = {&at, &count};
    __typeof__(&cuLaunchKernel) launch = BENCH_CALL(lib, cuLaunchKernel);
    BENCH_DO(lib, cuLaunchKernel, f, 1, 1, 1, 1, 1, 1, 0, NULL, args, NULL);
    BENCH_DO(lib, cuCtxSynchronize);
    int64_t before = remote_trips();
    for (size_t i = 0; i < n; i++) {
        CUresult r = CUDA_SUCCESS;
        uint64_t from_ns = bench_now_ns();
        for (unsigned j = 0; j < LAUNCHES; j++)
            r |= launch(f, 1, 1, 1, 1, 1, 1, 0, NULL, args, NULL);
        took[i] = bench_now_ns() - from_ns;
        if (r != CUDA_SUCCESS)
            bench_fail("cuLaunchKernel", (int)r);
        BENCH_DO(lib, cuCtxSynchronize);
    }
    remote_say("async", took, n,
               &(struct remote_done){
                   .trips = remote_trips() - before, .syncs = 1 + n, .launches = 1 + LAUNCHES * n});
    return 0;
}

/* Every page begins with the number of its copy, so that each copy is another. */
static void fill(uint64_t *data, size_t bytes, uint64_t copy)
{
    for (size_t at = 0; at < bytes; at += COUNTING_PAGE)
        data[at / sizeof *data] = copy + at;
}

static int bulk(size_t mib, size_t n)
{
    const size_t bytes = mib * MIB;
    uint64_t *took = times(n), *data = malloc(bytes);
    struct remote_done done = {.syncs = 1 + n};
    CUdeviceptr at;
    if (data == NULL || bytes == 0)
        bench_fail("memory to copy", -1);
    for (size_t i = 0; i < bytes / sizeof *data; i++)
        data[i] = i * 0x9e3779b97f4a7c15ull;
    BENCH_DO(lib, cuMemAlloc_v2, &at, bytes);
    for (size_t i = 0; i <= n; i++) { /* the first is not timed */
        fill(data, bytes, i);
        done.sum += counting_sum(data, bytes);
        done.copied_bytes += bytes;
        uint64_t from_ns = bench_now_ns();
        BENCH_DO(lib, cuMemcpyHtoD_v2, at, data, bytes);
        BENCH_DO(lib, cuCtxSynchronize); /* all of it is there */
        if (i > 0)
            took[i - 1] = bench_now_ns() - from_ns;
        if (i == 0)
            done.trips = -remote_trips();
    }
    done.trips += remote_trips();
    remote_say("bulk", took, n, &done);
    return 0;
}

/* PTX with a comment in it that does not compress. */
static int module(size_t bytes)
{
    CUmodule module;
    static const char head[] = BENCH_PTX BENCH_EMPTY "//";
    char *text = malloc(bytes + sizeof head + 1);
    uint64_t state = 88172645463325252ull, took;
    if (text == NULL)
        bench_fail("memory for a module", -1);
    memcpy(text, head, sizeof head - 1);
    size_t at = sizeof head - 1;
    for (; at < bytes; at++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        text[at] = (char)('0' + state % 64);
    }
    text[at] = '\n';
    text[at + 1] = '\0';
    uint64_t from_ns = bench_now_ns();
    BENCH_DO(lib, cuModuleLoadData, &module, text);
    took = bench_now_ns() - from_ns;
    BENCH_DO(lib, cuCtxSynchronize);
    remote_say("module", &took, 1, &(struct remote_done){.trips = remote_trips(), .syncs = 1});
    return 0;
}

static int hold(size_t mib)
{
    CUdeviceptr at;
    BENCH_DO(lib, cuMemAlloc_v2, &at, mib * MIB);
    remote_say("hold", NULL, 0, &(struct remote_done){.trips = remote_trips()});
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    size_t a = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    size_t b = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    if (a == 0 || (strcmp(mode, "bulk") == 0) != (b != 0)) {
        fputs("usage: harp-bench-remote rtt|async|module|hold|step N | bulk MIB N\n", stderr);
        return 2;
    }
    remote_open();
    if (strcmp(mode, "rtt") == 0)
        return rtt(a);
    if (strcmp(mode, "async") == 0)
        return async(a);
    if (strcmp(mode, "bulk") == 0)
        return bulk(a, b);
    if (strcmp(mode, "module") == 0)
        return module(a);
    if (strcmp(mode, "hold") == 0)
        return hold(a);
    if (strcmp(mode, "step") == 0)
        return remote_step(a);
    bench_fail("no such mode", 2);
}
