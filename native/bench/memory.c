/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-bench-memory: what memory costs under libharp, and programs that race for a limit.
 *
 *     harp-bench-memory calls DRIVER LIBHARP [--live N] [--rounds N]
 *     harp-bench-memory start N [--at-once N] [--devices N] [--leave]
 *     harp-bench-memory race N [--seconds S] [--each-mib N]
 *
 * calls: both libraries in one process; a pair cuMemAlloc + cuMemFree of 1 MiB through either in
 * turn, each pair timed by itself, beside N blocks that are allocated through libharp and stay.
 * start: N processes, at most --at-once of them on their way at a time, each from the beginning of
 * main() to its first allocation; all stay until the last has it, with --leave none does. The
 * driver is the one that `libcuda.so.1` leads to, as for any program.
 * race: N processes, each with a context; when all have it they allocate and free 1 to 8 MiB at
 * random, up to --each-mib each, and must be told 0 or 2 (out of memory) and nothing else.
 * Each prints one JSON object. `race` prints {"ready": true} before, and begins when a byte comes.
 */
#include "bench/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- calls ----------------------------------------------------------------------------------- */

#define SIZE (1u << 20)

struct side {
    __typeof__(&cuMemAlloc_v2) alloc;
    __typeof__(&cuMemFree_v2) free;
    double *took;
};

static double pair(const struct side *side)
{
    CUdeviceptr p = 0;
    uint64_t start = bench_now_ns();
    CUresult r = side->alloc(&p, SIZE);
    if (r == CUDA_SUCCESS)
        r = side->free(p);
    uint64_t end = bench_now_ns();
    if (r != CUDA_SUCCESS)
        bench_fail("alloc and free", (int)r);
    return (double)(end - start);
}

static int calls(const char *driver, const char *libharp, int live, int rounds)
{
    void *bare = bench_open(driver), *harp = bench_open(libharp);
    struct side side[2] = {{BENCH_CALL(bare, cuMemAlloc_v2), BENCH_CALL(bare, cuMemFree_v2),
                            calloc((size_t)rounds, sizeof(double))},
                           {BENCH_CALL(harp, cuMemAlloc_v2), BENCH_CALL(harp, cuMemFree_v2),
                            calloc((size_t)rounds, sizeof(double))}};
    size_t unused, limit, n = (size_t)rounds;
    CUcontext ctx;
    CUdeviceptr p;

    if (side[0].took == NULL || side[1].took == NULL)
        bench_fail("memory", -1);
    BENCH_DO(harp, cuInit, 0);
    BENCH_DO(harp, cuCtxCreate_v2, &ctx, 0, 0);
    BENCH_DO(harp, cuMemGetInfo_v2, &unused, &limit);
    for (int i = 0; i < live; i++)
        BENCH_DO(harp, cuMemAlloc_v2, &p, SIZE);
    for (int i = 0; i < 100; i++)
        pair(&side[i % 2]);
    for (int i = 0; i < rounds; i++) {
        side[i % 2].took[i] = pair(&side[i % 2]);
        side[1 - i % 2].took[i] = pair(&side[1 - i % 2]);
    }
    double bare_p50 = bench_at(side[0].took, n, 0.5), bare_p99 = bench_at(side[0].took, n, 0.99);
    double harp_p50 = bench_at(side[1].took, n, 0.5), harp_p99 = bench_at(side[1].took, n, 0.99);
    printf("{\"bare_p50_ns\": %.1f, \"bare_p99_ns\": %.1f, \"harp_p50_ns\": %.1f, "
           "\"harp_p99_ns\": %.1f, \"live\": %d, \"rounds\": %d, \"memory_bytes\": %zu}\n",
           bare_p50, bare_p99, harp_p50, harp_p99, live, rounds, limit);
    return 0;
}

/* --- */

static int usage(void)
{
    fputs("usage: harp-bench-memory calls DRIVER LIBHARP [--live N] [--rounds N]\n"
          "       harp-bench-memory start N [--at-once N] [--devices N] [--leave]\n"
          "       harp-bench-memory race N [--seconds S] [--each-mib N]\n",
          stderr);
    return 2;
}

static double option(int argc, char **argv, const char *name, double otherwise)
{
    for (int i = 2; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return atof(argv[i + 1]);
    return otherwise;
}

int main(int argc, char **argv)
{
    int n = argc > 2 ? atoi(argv[2]) : 0;

    if (argc >= 4 && strcmp(argv[1], "calls") == 0)
        return calls(argv[2], argv[3], (int)option(argc, argv, "--live", 0),
                     (int)option(argc, argv, "--rounds", 20000));
    if (n < 1 || n > MEMORY_MOST_PROCESSES)
        return usage();
    if (strcmp(argv[1], "start") == 0)
        return memory_start(n, (int)option(argc, argv, "--at-once", n),
                            (int)option(argc, argv, "--devices", 1),
                            strcmp(argv[argc - 1], "--leave") == 0);
    if (strcmp(argv[1], "started") == 0) /* what `start` starts: the number of its device, + 1 */
        return memory_started(n - 1);
    if (strcmp(argv[1], "race") == 0)
        return memory_race(n, option(argc, argv, "--seconds", 1),
                           (int)option(argc, argv, "--each-mib", 64));
    return usage();
}
