/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/bench.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

uint64_t bench_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

void bench_fail(const char *what, int code)
{
    fprintf(stderr, "%s: %s: %d\n", program_invocation_short_name, what, code);
    _exit(1);
}

void *bench_open(const char *path)
{
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (lib == NULL)
        bench_fail(dlerror(), -1);
    return lib;
}

void *bench_symbol(void *lib, const char *name)
{
    void *f = dlsym(lib, name);

    if (f == NULL)
        bench_fail(name, -1);
    return f;
}

static int by_value(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;

    return a < b ? -1 : a > b;
}

double bench_at(double *values, size_t n, double part)
{
    qsort(values, n, sizeof *values, by_value);
    return values[(size_t)((double)(n - 1) * part)];
}
