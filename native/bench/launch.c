/* SPDX-License-Identifier: Apache-2.0
 *
 * harp-bench-launch: what a launch costs with and without libharp, batch by batch in turn.
 *
 *     harp-bench-launch DRIVER LIBHARP [--rounds N] [--batch N] [--threads N] [--kernel]
 *
 * Both libraries are in one process: LIBHARP ends in DRIVER (HARP_CUDA_REAL must name it), the bare
 * side calls DRIVER directly, so both sides meet the same caches, clocks and neighbours. --kernel
 * loads an empty kernel (a driver that executes); without it the launch names none (null driver).
 * One JSON object on stdout: medians over rounds, in ns per launch, and the 10th and 90th
 * percentile of the difference.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "generated/cuda_abi.h"

#define MOST_THREADS 64
#define MOST_ROUNDS  10001

typedef CUresult (*launch_fn)(CUfunction, unsigned int, unsigned int, unsigned int, unsigned int,
                              unsigned int, unsigned int, unsigned int, CUstream, void **, void **);

static struct {
    void *driver, *harp;
    launch_fn bare_launch, harp_launch;
    CUresult (*sync)(void);
    CUresult (*set_current)(CUcontext);
    CUcontext ctx;
    CUfunction function;
    int rounds, batch, threads;
    bool kernel;
} b = {.rounds = 201, .batch = 1000, .threads = 1};

static pthread_barrier_t barrier;
static double bare_ns[MOST_THREADS][MOST_ROUNDS], harp_ns[MOST_THREADS][MOST_ROUNDS];

static const char ptx[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                          ".visible .entry nothing()\n{\nret;\n}\n";

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void fail(const char *what, int code)
{
    fprintf(stderr, "harp-bench-launch: %s: %d\n", what, code);
    exit(1);
}

static void *symbol(void *lib, const char *name)
{
    void *f = dlsym(lib, name);
    if (f == NULL)
        fail(name, -1);
    return f;
}

#define DO(name, ...)                                                                              \
    do {                                                                                           \
        CUresult do_r = ((__typeof__(&name))symbol(b.harp, #name))(__VA_ARGS__);                   \
        if (do_r != CUDA_SUCCESS)                                                                  \
            fail(#name, (int)do_r);                                                                \
    } while (0)

static double measure(launch_fn launch)
{
    double start = now_ns();
    for (int i = 0; i < b.batch; i++) {
        CUresult r = launch(b.function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
        if (r != CUDA_SUCCESS)
            fail("cuLaunchKernel", (int)r);
    }
    double end = now_ns();
    if (b.kernel)
        b.sync();
    return (end - start) / b.batch;
}

static void *run(void *arg)
{
    size_t me = (size_t)(uintptr_t)arg;
    b.set_current(b.ctx);
    measure(b.bare_launch);
    measure(b.harp_launch);
    for (int i = 0; i < b.rounds; i++) {
        if (b.threads > 1)
            pthread_barrier_wait(&barrier);
        if (i % 2 == 0)
            bare_ns[me][i] = measure(b.bare_launch);
        if (b.threads > 1)
            pthread_barrier_wait(&barrier);
        harp_ns[me][i] = measure(b.harp_launch);
        if (b.threads > 1)
            pthread_barrier_wait(&barrier);
        if (i % 2 != 0)
            bare_ns[me][i] = measure(b.bare_launch);
    }
    return NULL;
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, c = *(const double *)y;
    return a < c ? -1 : a > c;
}

static double at(double *values, size_t n, double part)
{
    qsort(values, n, sizeof *values, by_value);
    return values[(size_t)((double)(n - 1) * part)];
}

static void report(void)
{
    size_t n = (size_t)b.rounds * (size_t)b.threads, k = 0;
    double *bare = calloc(n, sizeof *bare), *harp = calloc(n, sizeof *harp);
    double *added = calloc(n, sizeof *added);
    if (bare == NULL || harp == NULL || added == NULL)
        fail("memory", -1);
    for (int t = 0; t < b.threads; t++)
        for (int i = 0; i < b.rounds; i++, k++) {
            bare[k] = bare_ns[t][i];
            harp[k] = harp_ns[t][i];
            added[k] = harp[k] - bare[k];
        }
    printf("{\"bare_ns\": %.2f, \"harp_ns\": %.2f, ", at(bare, n, 0.5), at(harp, n, 0.5));
    printf("\"added_ns\": %.2f, \"added_p10_ns\": %.2f, \"added_p90_ns\": %.2f, ",
           at(added, n, 0.5), at(added, n, 0.1), at(added, n, 0.9));
    printf("\"rounds\": %d, \"batch\": %d, \"threads\": %d}\n", b.rounds, b.batch, b.threads);
    free(bare);
    free(harp);
    free(added);
}

static void *open_library(const char *path)
{
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (lib == NULL) {
        fprintf(stderr, "harp-bench-launch: %s\n", dlerror());
        exit(1);
    }
    return lib;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fputs("usage: harp-bench-launch DRIVER LIBHARP [--rounds N] [--batch N] [--threads N]"
              " [--kernel]\n",
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
        else
            fail(argv[i], 2);
    }
    b.driver = open_library(argv[1]);
    b.harp = open_library(argv[2]);
    b.bare_launch = (launch_fn)symbol(b.driver, "cuLaunchKernel");
    b.harp_launch = (launch_fn)symbol(b.harp, "cuLaunchKernel");
    b.sync = (CUresult (*)(void))symbol(b.driver, "cuCtxSynchronize");
    b.set_current = (CUresult (*)(CUcontext))symbol(b.driver, "cuCtxSetCurrent");
    DO(cuInit, 0);
    DO(cuCtxCreate_v2, &b.ctx, 0, 0);
    if (b.kernel) {
        CUmodule module;
        DO(cuModuleLoadData, &module, ptx);
        DO(cuModuleGetFunction, &b.function, module, "nothing");
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
