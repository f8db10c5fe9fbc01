/* SPDX-License-Identifier: Apache-2.0 */
#include "src/shim/gate/footprint.h"

#include <stdlib.h>

static int by_start(const void *a, const void *b)
{
    const struct harp_range *x = a, *y = b;
    return (x->start > y->start) - (x->start < y->start);
}

uint64_t harp_footprint(struct harp_range *ranges, size_t count, uint64_t unit)
{
    uint64_t units = 0, base = 0, next = 0; /* units from `base` on are counted up to `next` */
    if (count != 0)
        qsort(ranges, count, sizeof *ranges, by_start);
    for (size_t i = 0; i < count; i++) {
        uint64_t start = ranges[i].start, last = start + ranges[i].bytes - 1;
        if (ranges[i].bytes == 0)
            continue;
        if (units == 0 || start >= base + next * unit) { /* others begin here */
            base = start;
            next = 0;
        }
        uint64_t first = (start - base) / unit, end = (last - base) / unit + 1;
        if (first < next)
            first = next;
        if (end > first) {
            units += end - first;
            next = end;
        }
    }
    return units * unit;
}
