/* SPDX-License-Identifier: Apache-2.0
 *
 * What counting.c has applied, in the file that HARP_BENCH_COUNTS names: eight numbers in this
 * order, which remote.c and harp/bench/remote_path.py read.
 */
#ifndef HARP_BENCH_COUNTING_H
#define HARP_BENCH_COUNTING_H

#include <stddef.h>
#include <stdint.h>

struct counts {
    uint64_t syncs, launches, copied_bytes, sum, modules, module_bytes, allocations, frees;
};

/* Of a page of 4 KiB its first word, and another that the first one chooses: cheap enough to be
 * timed, and over the copies of a run every word has its turn. Larger copies may go in pieces of
 * whole pages. */
#define COUNTING_PAGE 4096u

static inline uint64_t counting_sum(const uint64_t *data, size_t bytes)
{
    uint64_t sum = 0;
    for (size_t at = 0; at + COUNTING_PAGE <= bytes; at += COUNTING_PAGE) {
        const uint64_t *page = data + at / sizeof *data;
        sum += page[0] + page[page[0] % (COUNTING_PAGE / sizeof *page)];
    }
    return sum;
}

#endif
