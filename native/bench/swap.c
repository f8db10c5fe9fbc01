/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-bench-swap: a job with much memory that works in bursts, and knows at its end whether every
 * byte is as it must be. For `harp bench oversub`. Says on stdout, one JSON object a line:
 *   {"pid", "ready": true}                          it has a context; nothing is allocated
 *   {"pid", "result", "wrong", "begun_ns", "ended_ns", "made_ns", "longest_ns", "checked_ns"}
 *                   its first failed allocation's CUDA result; words that are not as they must be;
 *                   from the byte on stdin to the last word seen (CLOCK_MONOTONIC); how long it
 *                   took to allocate and fill, the longest burst, to read all back
 * It begins when a byte comes on stdin, and leaves when stdin is closed: without its memory.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"

#define BLOCK_BYTES  (16ull << 20)
#define STRIDE_BYTES 65536u /* a burst changes one word of each so many bytes */
#define SLEEP_NS     50000u
#define KERNEL_NS    1000000u
#define TOGETHER     10u /* kernels that are queued behind each other */
#define MOST_BLOCKS  4096u

static const char usage[] = "usage: harp-bench-swap --bytes N [--rounds N] [--gpu-ms N] [--host-ms "
                            "N] [--seed N] [--spoil 1]\n"
                            "  --bytes N     of memory\n"
                            "  --rounds N    of host time, then a burst (3)\n"
                            "  --gpu-ms N    of each burst (1000)\n"
                            "  --host-ms N   before each burst (1000)\n"
                            "  --seed N      of the data (1)\n"
                            "  --spoil 1     change a word on the sly, which must be found\n";

static const char ptx[] = BENCH_PTX BENCH_SLEEPER
    ".visible .entry bump(.param .u64 at, .param .u32 stride)\n{\n"
    ".reg .b32 %r<4>;\n.reg .b64 %d<3>;\n"
    "ld.param.u64 %d1, [at];\nld.param.u32 %r1, [stride];\nmov.u32 %r2, %tid.x;\n"
    "mul.wide.u32 %d2, %r1, %r2;\nadd.u64 %d1, %d1, %d2;\n"
    "ld.global.u32 %r3, [%d1];\nadd.u32 %r3, %r3, 1;\nst.global.u32 [%d1], %r3;\nret;\n}\n";

static void *driver;
static CUfunction sleeper, bump;
static CUstream stream;
static CUdeviceptr block[MOST_BLOCKS];
static unsigned long long bytes, rounds = 3, gpu_ms = 1000, host_ms = 1000, seed = 1, spoil;

#define NEED(name, ...) BENCH_DO(driver, name, __VA_ARGS__)

static unsigned blocks(void)
{
    return (unsigned)((bytes + BLOCK_BYTES - 1) / BLOCK_BYTES);
}

static size_t size_of(unsigned i)
{
    return (size_t)(i + 1 < blocks() ? BLOCK_BYTES : bytes - i * BLOCK_BYTES);
}

static uint32_t filling(unsigned i)
{
    return (uint32_t)(seed * 2654435761u + i * 40503u);
}

/* The result of the allocation that failed; what was got is given back. */
static CUresult make(void)
{
    for (unsigned i = 0; i < blocks(); i++) {
        CUresult r = BENCH_CALL(driver, cuMemAlloc_v2)(&block[i], size_of(i));

        if (r != CUDA_SUCCESS) {
            while (i-- > 0)
                NEED(cuMemFree_v2, block[i]);
            return r;
        }
        NEED(cuMemsetD32_v2, block[i], filling(i), size_of(i) / 4);
    }
    NEED(cuCtxSynchronize); /* the bursts' stream does not wait for this one */
    return CUDA_SUCCESS;
}

static uint64_t burst(void)
{
    unsigned loops = KERNEL_NS / SLEEP_NS, each_ns = SLEEP_NS, stride = STRIDE_BYTES;
    void *sleeping[] = {&loops, &each_ns};
    uint64_t begun_ns = bench_now_ns();

    for (unsigned i = 0; i < blocks(); i++) {
        void *bumping[] = {&block[i], &stride};

        NEED(cuLaunchKernel, bump, 1, 1, 1, (unsigned)(size_of(i) / stride), 1, 1, 0, stream,
             bumping, NULL);
    }
    for (unsigned long long n = 1; n <= gpu_ms; n++) {
        NEED(cuLaunchKernel, sleeper, 1, 1, 1, 1, 1, 1, 0, stream, sleeping, NULL);
        if (n % TOGETHER == 0)
            NEED(cuStreamSynchronize, stream);
    }
    NEED(cuStreamSynchronize, stream);
    return bench_now_ns() - begun_ns;
}

static unsigned long long wrong(void)
{
    unsigned long long found = 0;
    uint32_t *here;

    NEED(cuMemHostAlloc, (void **)&here, BLOCK_BYTES, 0);
    for (unsigned i = 0; i < blocks(); i++) {
        NEED(cuMemcpyDtoH_v2, here, block[i], size_of(i));
        for (size_t w = 0; w < size_of(i) / 4; w++)
            found += here[w] != filling(i) + (w % (STRIDE_BYTES / 4) == 0 ? (uint32_t)rounds : 0);
    }
    NEED(cuMemFreeHost, here);
    return found;
}

static void work(void)
{
    uint64_t begun_ns = bench_now_ns(), made_ns, longest_ns = 0, check_ns, ended_ns;
    unsigned long long bad = 0;
    CUresult result = make();

    made_ns = bench_now_ns() - begun_ns;

    for (unsigned long long n = 0; result == CUDA_SUCCESS && n < rounds; n++) {
        struct timespec rest = {(time_t)(host_ms / 1000), (long)(host_ms % 1000) * 1000000};
        uint64_t took_ns;

        nanosleep(&rest, NULL);
        took_ns = burst();
        longest_ns = took_ns > longest_ns ? took_ns : longest_ns;
    }
    if (result == CUDA_SUCCESS && spoil)
        NEED(cuMemsetD8_v2, block[blocks() - 1] + 5, 1, 1);
    check_ns = bench_now_ns();
    if (result == CUDA_SUCCESS)
        bad = wrong();
    ended_ns = bench_now_ns();
    printf("{\"pid\": %d, \"result\": %d, \"wrong\": %llu, \"begun_ns\": %llu, \"ended_ns\": %llu,"
           " \"made_ns\": %llu, \"longest_ns\": %llu, \"checked_ns\": %llu}\n",
           (int)getpid(), (int)result, bad, (unsigned long long)begun_ns,
           (unsigned long long)ended_ns, (unsigned long long)made_ns,
           (unsigned long long)longest_ns, (unsigned long long)(ended_ns - check_ns));
    for (unsigned i = 0; result == CUDA_SUCCESS && i < blocks(); i++)
        NEED(cuMemFree_v2, block[i]);
    fflush(stdout);
}

static bool take(const char *name, const char *value)
{
    const struct {
        const char *name;
        unsigned long long *at;
    } known[] = {{"--bytes", &bytes},     {"--rounds", &rounds}, {"--gpu-ms", &gpu_ms},
                 {"--host-ms", &host_ms}, {"--seed", &seed},     {"--spoil", &spoil}};
    char *end;

    for (size_t i = 0; value != NULL && i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i].name) == 0) {
            *known[i].at = strtoull(value, &end, 10);
            return *end == 0 && *value != 0;
        }
    return false;
}

int main(int argc, char **argv)
{
    CUdevice device;
    CUcontext context;
    CUmodule module;
    char byte;

    for (int i = 1; i < argc; i += 2)
        if (!take(argv[i], argv[i + 1])) {
            fputs(usage, stderr);
            return 2;
        }
    bytes -= bytes % STRIDE_BYTES;
    if (bytes == 0 || blocks() > MOST_BLOCKS) {
        fputs(usage, stderr);
        return 2;
    }
    driver = bench_open("libcuda.so.1");
    NEED(cuInit, 0);
    NEED(cuDeviceGet, &device, 0);
    NEED(cuCtxCreate_v2, &context, 0, device);
    NEED(cuModuleLoadData, &module, ptx);
    NEED(cuModuleGetFunction, &sleeper, module, "sleeper");
    NEED(cuModuleGetFunction, &bump, module, "bump");
    NEED(cuStreamCreate, &stream, 1);
    printf("{\"pid\": %d, \"ready\": true}\n", (int)getpid());
    fflush(stdout);
    if (read(STDIN_FILENO, &byte, 1) != 1)
        return 1;
    work();
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    return 0;
}
