/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of harp-bench-memory.
 */
#ifndef HARP_BENCH_MEMORY_H
#define HARP_BENCH_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <unistd.h>

#include "generated/cuda_abi.h"

#define MEMORY_MOST_PROCESSES 1024

double memory_now_ns(void);
/* Says what, and ends this process. */
_Noreturn void memory_fail(const char *what, int code);
void *memory_symbol(void *lib, const char *name);
/* The value that `part` of all do not exceed; sorts them. */
double memory_at(double *values, size_t n, double part);

#define MEMORY_CALL(lib, name) ((__typeof__(&name))memory_symbol(lib, #name))
#define MEMORY_DO(lib, name, ...)                                                                  \
    do {                                                                                           \
        CUresult memory_r = MEMORY_CALL(lib, name)(__VA_ARGS__);                                   \
        if (memory_r != CUDA_SUCCESS)                                                              \
            memory_fail(#name, (int)memory_r);                                                     \
    } while (0)

/* memory_start.c, memory_race.c: exit statuses. */
int memory_start(int processes, int at_once, int devices, bool leave);
int memory_started(int device);
int memory_race(int processes, double seconds, int each_mib);

#endif
