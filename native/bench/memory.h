/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of harp-bench-memory.
 */
#ifndef HARP_BENCH_MEMORY_H
#define HARP_BENCH_MEMORY_H

#include <stdbool.h>

#include "bench/bench.h"

#define MEMORY_MOST_PROCESSES 1024

/* memory_start.c, memory_race.c: exit statuses. */
int memory_start(int processes, int at_once, int devices, bool leave);
int memory_started(int device);
int memory_race(int processes, double seconds, int each_mib);

#endif
