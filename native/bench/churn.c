/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-bench-churn: calls the driver without a pause and counts what fails and how long it stood
 * still; or holds memory. For `harp bench crash`, which kills and replaces HARP's own processes
 * meanwhile. Says on stdout, one JSON object a line:
 *   {"pid", "ready": true}                        it has a context, and one kernel has run
 *   {"pid", "calls", "failed", "first_error", "stall_ns", "stalled_ns"}   when stdin is closed:
 *                                                 the longest call, and when that began
 *   {"pid", "asked_ns", "got_ns", "result"}       --hold: its one allocation; CLOCK_MONOTONIC
 * It begins when a byte comes on stdin.
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"

#define BLOCKS        16u
#define LEAST_BYTES   1024u
#define MOST_BYTES    (4u << 20)
#define KERNEL_US     10u
#define SYNC_EVERY    64u
#define LOOK_EVERY_NS 10000000ull

static const char usage[] =
    "usage: harp-bench-churn [--seed N] [--pause-us N] [--hold BYTES]\n"
    "  --seed N       of sizes and order (1)\n"
    "  --pause-us N   between two rounds of an allocation or free and two launches (0)\n"
    "  --hold BYTES   allocate so much once, and keep it until stdin is closed\n";

static const char ptx[] = BENCH_PTX BENCH_SLEEPER;

static void *driver;
static uint64_t begun_ns, calls, failed, stall_ns, stalled_ns;
static int first_error;

static int counted(CUresult result)
{
    uint64_t took_ns = bench_now_ns() - begun_ns;

    calls++;
    if (took_ns > stall_ns) {
        stall_ns = took_ns;
        stalled_ns = begun_ns;
    }
    if (result != CUDA_SUCCESS && failed++ == 0)
        first_error = (int)result;
    return result == CUDA_SUCCESS;
}

/* In this order: arguments of one call have none. */
#define CALL(name, ...) (begun_ns = bench_now_ns(), counted(BENCH_CALL(driver, name)(__VA_ARGS__)))

/* Before the counting begins: what fails here ends the program. */
#define NEED(name, ...) BENCH_DO(driver, name, __VA_ARGS__)

static int is_over(void)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;

    return poll(&p, 1, 0) == 1 && read(STDIN_FILENO, &byte, 1) <= 0;
}

static void churn(CUfunction kernel, CUstream stream, uint64_t random, unsigned pause_us)
{
    CUdeviceptr block[BLOCKS] = {0};
    unsigned loops = 1, each_ns = KERNEL_US * 1000;
    void *parameters[] = {&loops, &each_ns};
    uint64_t looked_ns = bench_now_ns();

    for (uint64_t round = 1;; round++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        CUdeviceptr *at = &block[(random >> 33) % BLOCKS];
        size_t bytes = LEAST_BYTES + (size_t)(random >> 40) % (MOST_BYTES - LEAST_BYTES);

        if (*at == 0) {
            if (!CALL(cuMemAlloc_v2, at, bytes))
                *at = 0;
        } else {
            CALL(cuMemFree_v2, *at);
            *at = 0;
        }
        for (int i = 0; i < 2; i++)
            CALL(cuLaunchKernel, kernel, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL);
        if (round % SYNC_EVERY == 0)
            CALL(cuStreamSynchronize, stream);
        if (pause_us != 0)
            usleep(pause_us);
        if (bench_now_ns() - looked_ns > LOOK_EVERY_NS) {
            if (is_over())
                break;
            looked_ns = bench_now_ns();
        }
    }
    CALL(cuStreamSynchronize, stream);
    for (unsigned i = 0; i < BLOCKS; i++)
        if (block[i] != 0)
            CALL(cuMemFree_v2, block[i]);
}

static void hold(size_t bytes)
{
    CUdeviceptr there = 0;
    uint64_t asked_ns = bench_now_ns();
    CUresult result = BENCH_CALL(driver, cuMemAlloc_v2)(&there, bytes);

    printf("{\"pid\": %d, \"asked_ns\": %llu, \"got_ns\": %llu, \"result\": %d}\n", (int)getpid(),
           (unsigned long long)asked_ns, (unsigned long long)bench_now_ns(), (int)result);
    fflush(stdout);
    while (!is_over())
        poll(&(struct pollfd){.fd = STDIN_FILENO, .events = POLLIN}, 1, -1);
}

static unsigned long long number(const char *text, int last)
{
    char *end;
    unsigned long long n = strtoull(text != NULL ? text : "", &end, 10);

    if (last || *end != 0 || text[0] == 0) {
        fputs(usage, stderr);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv)
{
    unsigned long long seed = 1, hold_bytes = 0, pause_us = 0;
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction kernel;
    CUstream stream;
    unsigned loops = 1, each_ns = KERNEL_US * 1000;
    void *parameters[] = {&loops, &each_ns};
    char byte;

    for (int i = 1; i < argc; i += 2) {
        unsigned long long n = number(argv[i + 1], i + 1 == argc);
        if (strcmp(argv[i], "--seed") == 0)
            seed = n;
        else if (strcmp(argv[i], "--pause-us") == 0)
            pause_us = n;
        else if (strcmp(argv[i], "--hold") == 0)
            hold_bytes = n;
        else
            number("", 1);
    }
    driver = bench_open("libcuda.so.1");
    NEED(cuInit, 0);
    NEED(cuDeviceGet, &device, 0);
    NEED(cuCtxCreate_v2, &context, 0, device);
    NEED(cuModuleLoadData, &module, ptx);
    NEED(cuModuleGetFunction, &kernel, module, "sleeper");
    NEED(cuStreamCreate, &stream, 1);
    NEED(cuLaunchKernel, kernel, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL);
    NEED(cuStreamSynchronize, stream);
    printf("{\"pid\": %d, \"ready\": true}\n", (int)getpid());
    fflush(stdout);
    if (read(STDIN_FILENO, &byte, 1) != 1)
        return 1;
    if (hold_bytes != 0) {
        hold((size_t)hold_bytes);
        return 0;
    }
    churn(kernel, stream, seed, (unsigned)pause_us);
    printf("{\"pid\": %d, \"calls\": %llu, \"failed\": %llu, \"first_error\": %d, \"stall_ns\":"
           " %llu, \"stalled_ns\": %llu}\n",
           (int)getpid(), (unsigned long long)calls, (unsigned long long)failed, first_error,
           (unsigned long long)stall_ns, (unsigned long long)stalled_ns);
    return 0;
}
