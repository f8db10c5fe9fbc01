/* SPDX-License-Identifier: Apache-2.0
 *
 * What really ran: the software GPU's own export for tests, no CUDA function. It answers "was a
 * kernel skipped?"; the machine's ledger is in state.h.
 */
#ifndef HARP_SOFT_FUNCTION_COUNTERS_H
#define HARP_SOFT_FUNCTION_COUNTERS_H

#include <stddef.h>
#include <stdint.h>

struct harp_soft_counter { /* one kernel name, sums since the process began */
    char name[256];        /* cut when longer */
    uint64_t launches;     /* executed to the end or to a fault */
    uint64_t blocks, threads;
    uint64_t instructions; /* PTX instructions, summed over threads */
    uint64_t load_bytes, store_bytes;
};

/* Copies up to `max` of them (out may be NULL if max is 0), newest name first; returns how many
 * names there are. Counts grow when a launch has ended: synchronise first. */
__attribute__((visibility("default"))) size_t harp_soft_counters(struct harp_soft_counter *out,
                                                                 size_t max);

#endif
